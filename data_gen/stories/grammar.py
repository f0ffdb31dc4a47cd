"""A story grammar: beats, their alternative passages, and the exact probability of every token.

The grammar is compiled once into flat tables: for each beat the passages' expansions form a prefix tree, and a token's
probability given all tokens before it is the share of weight that stays below its node. That this is exact, and not an
approximation, needs rules (what may compete with what at one node), which the compiler checks. Left out: the words
themselves (data_gen.stories.plots), names and sampling (data_gen.stories.generator).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

OPENING = "<story>"  # opens every story
START, END = "arrival", "end"
PRONOUNS = {"he": ("he", "she"), "him": ("him", "her"), "his": ("his", "her"), "himself": ("himself", "herself")}
CHARACTERS = "ABCD"

Code = tuple[str, str]  # ("word", "the"), ("name", "A"), ("he", "A"), ("slot", "toy")
State = tuple[str, bool]  # a beat, and whether a sentence of scenery may come first


@dataclass(frozen=True, eq=False)  # equal only to itself, so that what is compiled from it can be kept
class Grammar:
    """The text of a story generator.

    words    slot -> the words it may take; drawn once a story, uniformly
    objects  object slot -> its adjective slot: {toy} stands for two tokens, adjective and noun
    beats    beat -> passages, each "tokens > next beat" or "tokens >> next beat" (scenery may come between)
    scenery  sentences that may be put between beats

    Raises:
        ValueError: at compilation, naming the beat and the tokens, where a rule of exactness is broken.
    """

    words: Mapping[str, Sequence[str]]
    objects: Mapping[str, str]
    beats: Mapping[str, Sequence[str]]
    scenery: Sequence[str] = ()


@dataclass
class Node:
    """A node of a beat's prefix tree: what has been told of the beat so far."""

    weight: float = 0.0
    children: dict[Code, "Node"] = field(default_factory=dict)
    next: State | None = None  # at a leaf

    @cached_property
    def future(self) -> tuple:
        """All that can follow, with its chances: equal for two nodes when nothing later tells them apart."""
        shares = ((code, round(child.weight / self.weight, 12), child.future) for code, child in self.children.items())
        return (self.next, *sorted(shares, key=repr))


def alternatives(text: str) -> Iterator[list[str]]:
    """All expansions of a passage: "a ( b | c d )" gives a b, and a c d. Brackets may be nested.

    Raises:
        ValueError: for brackets that do not match.
    """
    tokens = text.split()

    def branch(at: int, depth: int) -> tuple[list[list[str]], int]:
        options: list[list[str]] = []
        runs: list[list[str]] = [[]]
        while at < len(tokens):
            token = tokens[at]
            if token == "(":
                inner, at = branch(at + 1, depth + 1)
                runs = [run + more for run, more in product(runs, inner)]
            elif token == ")" and depth:
                return options + runs, at + 1
            elif token == "|" and depth:
                options, runs, at = options + runs, [[]], at + 1
            elif token in ("(", ")", "|"):
                break
            else:
                runs, at = [[*run, token] for run in runs], at + 1
        if depth or at < len(tokens):
            raise ValueError(f"the brackets of {text!r} do not match")
        return runs, at

    yield from branch(0, 0)[0]


def code_of(token: str, grammar: Grammar) -> list[Code]:
    """What a token of a passage stands for: a word, a name, a pronoun, a slot, or an object's two slots."""
    match = re.fullmatch(r"\{(?:([A-D])(?:\.(\w+))?|(\w+))\}", token)
    if not match:
        return [("word", token)]
    character, pronoun, slot = match.groups()
    if character:
        if pronoun and pronoun not in PRONOUNS:
            raise ValueError(f"{token} is no pronoun; use one of {', '.join(PRONOUNS)}")
        return [(pronoun or "name", character)]
    if slot not in grammar.words:
        raise ValueError(f"{token} is no slot; the slots are {', '.join(grammar.words)}")
    return [("slot", grammar.objects[slot]), ("slot", slot)] if slot in grammar.objects else [("slot", slot)]


def trees(grammar: Grammar, scenery: float) -> dict[State, Node]:
    """The prefix tree of every state that a story can be in, from START on."""
    scenes = [code for text in grammar.scenery for code in _expansions(text, grammar)]
    found: dict[State, Node] = {}
    waiting: list[State] = [(START, False)]
    while waiting:
        beat, open_ = state = waiting.pop()
        if beat == END or state in found:
            continue
        if beat not in grammar.beats:
            raise ValueError(f"beat {beat!r} is led to, but not written; the beats are {', '.join(grammar.beats)}")
        root = found[state] = Node()
        share = scenery if open_ and scenes else 0.0
        for codes in scenes if share else ():
            _add(root, codes, (beat, False), share / len(scenes), beat)
        passages = grammar.beats[beat]
        for passage in passages:
            text, arrow, following = passage.rpartition(">")
            if not arrow:
                raise ValueError(f"beat {beat!r}: {passage!r} must end in '> next beat' or '> {END}'")
            next_state = following.strip(), text.endswith(">")
            expansions = list(_expansions(text.rstrip("> "), grammar))
            for codes in expansions if share < 1 else ():
                opening = [("word", OPENING)] if beat == START else []
                _add(root, opening + codes, next_state, (1 - share) / len(passages) / len(expansions), beat)
            waiting.append(next_state)
        if share:
            waiting.append((beat, False))
    _check(found)
    return found


def _expansions(text: str, grammar: Grammar) -> Iterator[list[Code]]:
    for tokens in alternatives(text):
        yield [code for token in tokens for code in code_of(token, grammar)]


def _add(root: Node, codes: list[Code], following: State, weight: float, beat: str) -> None:
    """Adds one expansion to a tree; the same one twice adds up."""
    node = root
    node.weight += weight
    for code in codes:
        if node.next:
            raise ValueError(f"beat {beat!r}: a passage ends where another goes on, before {_show(code)}")
        node = node.children.setdefault(code, Node())
        node.weight += weight
    if node.children or node.next not in (None, following):
        raise ValueError(f"beat {beat!r}: a passage that ends in {_show(codes[-1])} is the beginning of another")
    node.next = following


def _check(found: Mapping[State, Node]) -> None:
    """ValueError unless whatever competes can be told apart by its first token, whatever the slots hold.

    Words can; so can the names of characters that every path has introduced. A slot or a pronoun might equal a word,
    and a name that is new could be any.
    """
    known: dict[State, frozenset[Code]] = {(START, False): frozenset()}
    order = _in_order(found)
    for state in order:
        for node, told, leads in _walk(found[state], known[state]):
            if len(node.children) > 1:
                for code in node.children:
                    if code[0] != "word" and not (code[0] == "name" and code in told):
                        others = ", ".join(_show(other) for other in node.children if other != code)
                        raise ValueError(
                            f"beat {state[0]!r}: {_show(code)} competes with {others}; only words and names of "
                            "characters that every path has introduced may stand where the text branches"
                        )
            if leads and leads[0] != END:
                known[leads] = known.get(leads, told) & told


def _walk(node: Node, told: frozenset[Code]) -> Iterator[tuple[Node, frozenset[Code], State | None]]:
    yield node, told, node.next
    for code, child in node.children.items():
        yield from _walk(child, told | {code})


def _in_order(found: Mapping[State, Node]) -> list[State]:
    """The states, each after all that lead to it; ValueError for a circle."""
    following = {
        state: {leads for _, _, leads in _walk(tree, frozenset()) if leads and leads[0] != END}
        for state, tree in found.items()
    }
    entered = Counter(leads for all_ in following.values() for leads in all_)
    order: list[State] = []
    ready = [] if entered[START, False] else [(START, False)]
    while ready:
        order.append(ready.pop())
        for leads in following[order[-1]]:
            entered[leads] -= 1
            if not entered[leads]:
                ready.append(leads)
    if len(order) < len(found):
        stuck = sorted({beat for beat, _ in found} - {beat for beat, _ in order})
        raise ValueError(f"the beats {', '.join(stuck)} lead in a circle: a story would have no end")
    return order


def _show(code: Code) -> str:
    kind, what = code
    return repr(what) if kind == "word" else f"{{{what}}}" if kind in ("name", "slot") else f"{{{what}.{kind}}}"
