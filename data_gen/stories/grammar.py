"""A story grammar: beats, their alternative passages, and the exact probability of every token.

The expansions of a beat's passages form a prefix tree. A token's probability, given all tokens before it, is its child
node's share of the node's weight. This is exact, not an approximation, if the text keeps rules about what may compete
at one node; `trees` checks them. Left out: the flat arrays made from the trees (data_gen.stories.compiled_grammar), the
text (data_gen.stories.plots), names and sampling (data_gen.stories.generator).
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


@dataclass(frozen=True, eq=False)  # hashable by identity, so that compiled grammars can be cached
class Grammar:
    """The text of a story generator.

    words    slot -> the words it may take; drawn once a story, uniformly
    objects  object slot -> its adjective slot; {toy} stands for two tokens, adjective and noun
    beats    beat -> passages, each "tokens > next beat" or "tokens >> next beat" (scenery may come between)
    scenery  sentences that may be put between beats

    Raises:
        ValueError: at compilation, with the beat and the tokens, if a rule of exactness is broken.
    """

    words: Mapping[str, Sequence[str]]
    objects: Mapping[str, str]
    beats: Mapping[str, Sequence[str]]
    scenery: Sequence[str] = ()


@dataclass
class Node:
    """A node of a beat's prefix tree: all expansions that begin with the codes on the path to it."""

    weight: float = 0.0  # probability of this node, given the state
    children: dict[Code, "Node"] = field(default_factory=dict)
    next: State | None = None  # at a leaf

    @cached_property
    def future(self) -> tuple:
        """All continuations with their probabilities; equal for two nodes if no later token distinguishes them."""
        shares = ((code, round(child.weight / self.weight, 12), child.future) for code, child in self.children.items())
        return (self.next, *sorted(shares, key=repr))


def alternatives(text: str) -> Iterator[list[str]]:
    """All expansions of a passage: "a ( b | c d )" gives "a b" and "a c d". Brackets may be nested.

    Raises:
        ValueError: for brackets that do not match.
    """
    tokens = text.split()

    def branch(at: int, depth: int) -> tuple[list[list[str]], int]:
        """The expansions from a token up to its closing bracket (or the end), and the position after it."""
        finished: list[list[str]] = []  # expansions of the alternatives before the last "|"
        runs: list[list[str]] = [[]]  # those of the current alternative, so far
        while at < len(tokens):
            token = tokens[at]
            if token == "(":
                inner, at = branch(at + 1, depth + 1)
                runs = [run + more for run, more in product(runs, inner)]
            elif token == ")" and depth:
                return finished + runs, at + 1
            elif token == "|" and depth:
                finished, runs, at = finished + runs, [[]], at + 1
            elif token in ("(", ")", "|"):
                break
            else:
                runs, at = [[*run, token] for run in runs], at + 1
        if depth or at < len(tokens):
            raise ValueError(f"the brackets of {text!r} do not match")
        return runs, at

    yield from branch(0, 0)[0]


def code_of(token: str, grammar: Grammar) -> list[Code]:
    """The codes of a token of a passage: a word, a name, a pronoun, a slot, or an object's two slots."""
    match = re.fullmatch(r"\{(?:([A-D])(?:\.(\w+))?|(\w+))\}", token)
    if not match:
        return [("word", token)]
    character, pronoun, slot = match.groups()
    if character:
        if pronoun and pronoun not in PRONOUNS:
            raise ValueError(f"{token} is not a pronoun; use one of {', '.join(PRONOUNS)}")
        return [(pronoun or "name", character)]
    if slot not in grammar.words:
        raise ValueError(f"{token} is not a slot; the slots are {', '.join(grammar.words)}")
    return [("slot", grammar.objects[slot]), ("slot", slot)] if slot in grammar.objects else [("slot", slot)]


def trees(grammar: Grammar, scenery: float) -> dict[State, Node]:
    """The prefix tree of every state that a story can be in, from START on."""
    scenes = [codes for text in grammar.scenery for codes in _expansions(text, grammar)]
    tree_of: dict[State, Node] = {}
    waiting: list[State] = [(START, False)]
    while waiting:
        beat, scenery_allowed = state = waiting.pop()
        if beat == END or state in tree_of:
            continue
        if beat not in grammar.beats:
            raise ValueError(
                f"beat {beat!r} follows a passage, but has no text; the beats are {', '.join(grammar.beats)}"
            )
        root = tree_of[state] = Node()
        # 1. The state's sentences of scenery, each followed by the same beat without scenery.
        share = scenery if scenery_allowed and scenes else 0.0
        for codes in scenes if share else ():
            _add(root, codes, (beat, False), share / len(scenes), beat)
        if share:
            waiting.append((beat, False))
        # 2. The beat's passages, equally likely, and each passage's expansions, equally likely.
        passages = grammar.beats[beat]
        for passage in passages:
            text, arrow, next_beat = passage.rpartition(">")
            if not arrow:
                raise ValueError(f"beat {beat!r}: {passage!r} must end in '> next beat' or '> {END}'")
            next_state = next_beat.strip(), text.endswith(">")
            expansions = list(_expansions(text.rstrip("> "), grammar))
            for codes in expansions if share < 1 else ():
                opening = [("word", OPENING)] if beat == START else []
                _add(root, opening + codes, next_state, (1 - share) / len(passages) / len(expansions), beat)
            waiting.append(next_state)
    _check(tree_of)
    return tree_of


def _expansions(text: str, grammar: Grammar) -> Iterator[list[Code]]:
    for tokens in alternatives(text):
        yield [code for token in tokens for code in code_of(token, grammar)]


def _add(root: Node, codes: list[Code], next_state: State, weight: float, beat: str) -> None:
    """Adds one expansion to a tree. The weights of equal expansions add up."""
    node = root
    node.weight += weight
    for code in codes:
        if node.next:
            raise ValueError(f"beat {beat!r}: a passage ends where another one continues, before {_show(code)}")
        node = node.children.setdefault(code, Node())
        node.weight += weight
    if node.children or node.next not in (None, next_state):
        raise ValueError(f"beat {beat!r}: a passage that ends in {_show(codes[-1])} is the beginning of another")
    node.next = next_state


def _check(tree_of: Mapping[State, Node]) -> None:
    """ValueError unless alternatives always differ in their first token, whatever the slots hold.

    Words do, and so do the names of characters that every path has introduced. A slot or a pronoun might equal a word,
    and a name that is not yet introduced might be any name.
    """
    introduced: dict[State, frozenset[Code]] = {(START, False): frozenset()}  # codes that every path has mentioned
    for state in _in_order(tree_of):
        for node, mentioned, next_state in _walk(tree_of[state], introduced[state]):
            for code in node.children if len(node.children) > 1 else ():
                if code[0] != "word" and not (code[0] == "name" and code in mentioned):
                    rivals = ", ".join(_show(rival) for rival in node.children if rival != code)
                    raise ValueError(
                        f"beat {state[0]!r}: {_show(code)} competes with {rivals}; alternatives must begin with words "
                        "or with names of characters that every path has introduced"
                    )
            if next_state and next_state[0] != END:
                introduced[next_state] = introduced.get(next_state, mentioned) & mentioned


def _walk(node: Node, mentioned: frozenset[Code]) -> Iterator[tuple[Node, frozenset[Code], State | None]]:
    """Every node below a node, with the codes mentioned up to it and, at a leaf, the next state."""
    yield node, mentioned, node.next
    for code, child in node.children.items():
        yield from _walk(child, mentioned | {code})


def _in_order(tree_of: Mapping[State, Node]) -> list[State]:
    """The states, each after all states that lead to it. ValueError for a circle."""
    next_states = {
        state: {following for _, _, following in _walk(tree, frozenset()) if following and following[0] != END}
        for state, tree in tree_of.items()
    }
    n_missing = Counter(following for states in next_states.values() for following in states)  # earlier states
    order: list[State] = []
    ready = [] if n_missing[START, False] else [(START, False)]
    while ready:
        order.append(ready.pop())
        for following in next_states[order[-1]]:
            n_missing[following] -= 1
            if not n_missing[following]:
                ready.append(following)
    if len(order) < len(tree_of):
        stuck = sorted({beat for beat, _ in tree_of} - {beat for beat, _ in order})
        raise ValueError(f"the beats {', '.join(stuck)} lead in a circle: a story would have no end")
    return order


def _show(code: Code) -> str:
    kind, what = code
    return repr(what) if kind == "word" else f"{{{what}}}" if kind in ("name", "slot") else f"{{{what}.{kind}}}"
