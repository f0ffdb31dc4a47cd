"""A compiled story grammar: all expansions one after the other on a tape, and what a reader could expect where.

Sampling a story is then choosing expansions and copying stretches of the tape, for many stories at once. Left out: the
rules that make the probabilities exact (data_gen.stories.grammar), and what slots and names hold (data_gen.stories.generator).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log

import numpy as np

from data_gen.stories.grammar import CHARACTERS, END, OPENING, PRONOUNS, START, Code, Grammar, Node, State, trees

NONE = -1
NAMES = [("name", character) for character in CHARACTERS]
RIVALS = NAMES[:2]  # the names that may begin alike


@dataclass(frozen=True, eq=False)
class CompiledGrammar:
    """Expansions as flat arrays. "Columns" are what a story holds for its slots: its names' pieces, pronouns, words.

    vocabulary   all tokens but the pieces of names
    columns      column -> its code: names twice, first and second piece (A, A, B, B, ...), pronouns, slots
    latents      column -> what decides it: one for a character's name, one for its gender, one a slot

    Per position of the tape, (positions,):
        word       the token, or -1 where a column decides
        column     the column, or -1
        earlier    mentions of the column's latent before this one in the same expansion
    and (2, positions), [0] for stories whose names all begin differently, [1] where those of A and B begin alike:
        probability, entropy, options, matters    of the choice that the text makes here, whatever the slots hold;
                                                  `matters`: a later token depends on it

    Per expansion, (expansions,): start, length, leads (the state it leads to, or -1), mentions (expansions, latents).
    Per state: its expansions are bounds[state] to bounds[state + 1]; `chances` (expansions,) rises to state + 1 within.
    """

    vocabulary: tuple[str, ...]
    columns: tuple[Code, ...]
    latents: np.ndarray
    word: np.ndarray
    column: np.ndarray
    earlier: np.ndarray
    probability: np.ndarray
    entropy: np.ndarray
    n_choices: np.ndarray
    matters: np.ndarray
    start: np.ndarray
    length: np.ndarray
    leads: np.ndarray
    mentions: np.ndarray
    chances: np.ndarray
    bounds: np.ndarray

    def paths(self, stories: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The expansions of many stories, story after story (n_expansions,), and how many each has (stories,)."""
        state = np.zeros(stories, np.int64)
        rows = []
        while (alive := state >= 0).any():
            draw = np.searchsorted(self.chances, np.where(alive, state, 0) + rng.random(stories), side="right")
            # rounding may place the last expansion's end a hair below 1
            draw = np.minimum(draw, self.bounds[state + 1] - 1)
            rows.append(np.where(alive, draw, NONE))
            state = np.where(alive, self.leads[draw], NONE)
        chosen = np.stack(rows, axis=1)  # (stories, steps)
        made = chosen >= 0
        return chosen[made], made.sum(axis=1)

    def longest(self) -> int:
        """Tokens of the longest story there can be."""
        beyond = np.zeros(len(self.bounds), np.int64)  # of each state, the longest way to the end; last: the end itself
        for _ in beyond:  # a way passes every state once at most
            beyond[:-1] = np.maximum.reduceat(self.length + beyond[self.leads], self.bounds[:-1])
        return int(beyond[0])


def compile_grammar(grammar: Grammar, scenery: float) -> CompiledGrammar:
    """The tape of a grammar in which scenery comes with probability `scenery` wherever it may.

    Raises:
        ValueError: as `grammar.trees`.
    """
    found = trees(grammar, scenery)
    slots = [("slot", slot) for slot in grammar.words]
    pronouns = [(kind, character) for character in CHARACTERS for kind in PRONOUNS]
    columns = [name for name in NAMES for _ in range(2)] + pronouns + slots
    decided = [_latent(code) for code in columns]
    latents = {latent: i for i, latent in enumerate(dict.fromkeys(decided))}
    place = {code: i for i, code in reversed([*enumerate(columns)])}  # the first of a code's columns
    vocabulary = _vocabulary(found, grammar)
    token = {word: i for i, word in enumerate(vocabulary)}

    states = sorted(found, key=lambda state: (state != (START, False), state))
    number = {state: i for i, state in enumerate(states)}
    compiled: list[tuple] = []
    expansions: list[tuple] = []
    bounds, chances = [0], []
    for state in states:
        total = 0.0
        for steps, leaf in _leaves(found[state], []):
            counts = np.zeros(len(latents), np.int64)
            start = len(compiled)
            for node, code in steps:
                for piece, (plain, alike) in enumerate(_choices(node, code)):
                    if code[0] == "word":
                        compiled.append((token[code[1]], NONE, 0, *zip(plain, alike, strict=True)))
                    else:
                        seen = counts[latents[_latent(code)]]
                        compiled.append((NONE, place[code] + piece, seen, *zip(plain, alike, strict=True)))
                if code[0] != "word":
                    counts[latents[_latent(code)]] += 1
            total += leaf.weight
            chances.append(number[state] + total)
            leads = NONE if leaf.next[0] == END else number[leaf.next]
            expansions.append((start, len(compiled) - start, leads, counts))
        bounds.append(len(expansions))
    word, column, earlier, *choices = zip(*compiled, strict=True)
    start, length, leads, mentions = zip(*expansions, strict=True)
    probability, entropy, n_choices, matters = (np.array(choice).T for choice in choices)  # (2, positions)
    return CompiledGrammar(
        vocabulary,
        tuple(columns),
        np.array([latents[latent] for latent in decided]),
        *(np.array(part) for part in (word, column, earlier)),
        probability.astype(np.float32),
        entropy.astype(np.float32),
        n_choices.astype(np.float32),
        matters,
        *(np.array(part) for part in (start, length, leads, mentions, chances, bounds)),
    )


def _latent(code: Code) -> Code:
    """What decides a code's token: the same gender decides all of a character's pronouns."""
    return ("gender", code[1]) if code[0] in PRONOUNS else code


def _vocabulary(found: Mapping[State, Node], grammar: Grammar) -> tuple[str, ...]:
    """OPENING, then all words that can occur, sorted."""
    written = {
        code[1] for tree in found.values() for steps, _ in _leaves(tree, []) for _, code in steps if code[0] == "word"
    }
    held = {word for words in grammar.words.values() for word in words}
    spoken = {word for pair in PRONOUNS.values() for word in pair}
    return (OPENING, *sorted((written | held | spoken) - {OPENING}))


def _leaves(node: Node, steps: list[tuple[Node, Code]]) -> Iterator[tuple[list[tuple[Node, Code]], Node]]:
    """Every expansion of a tree: its steps (the node it leaves, by which code), and the leaf."""
    if node.next:
        yield steps, node
    for code, child in node.children.items():
        yield from _leaves(child, [*steps, (node, code)])


Choice = tuple[float, float, int, bool]  # probability, entropy, options, whether it matters
SURE: Choice = (1.0, 0.0, 1, False)


def _choices(node: Node, code: Code) -> Iterator[tuple[Choice, Choice]]:
    """For each token of a code, what choice the text makes by it: if no names begin alike, and if those of A and B do.

    Names that begin alike are one option at their first piece; the second piece then chooses between them.
    """
    weights = {other: child.weight for other, child in node.children.items()}
    futures = {child.future for child in node.children.values()}
    some_name = any(name in weights for name in NAMES)
    plain = _choice(code, weights, len(weights) > 1 and (some_name or len(futures) > 1))
    rivals = {name: weights[name] for name in RIVALS if name in weights}
    if len(rivals) < 2:
        yield plain, plain
        if code[0] == "name":
            yield SURE, SURE
        return
    one, other = RIVALS
    merged = {**weights, one: sum(rivals.values())}
    del merged[other]
    yield plain, _choice(one if code == other else code, merged, len(merged) > 1)
    if code[0] == "name":
        apart = node.children[one].future != node.children[other].future
        yield SURE, _choice(code, rivals, apart) if code in rivals else SURE


def _choice(code: Code, weights: Mapping[Code, float], matters: bool) -> Choice:
    total = sum(weights.values())
    shares = [weight / total for weight in weights.values()]
    return weights[code] / total, -sum(share * log(share) for share in shares), len(shares), matters
