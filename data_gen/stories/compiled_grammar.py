"""A story grammar as flat arrays: all expansions one after the other, and what an ideal reader predicts at each token.

To sample stories is then to choose expansions and to copy their stretches of the arrays, for many stories at once. Left
out: the rules that make the probabilities exact (data_gen.stories.grammar), and which names and words a story has
(data_gen.stories.generator).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import numpy as np

from data_gen.stories.grammar import CHARACTERS, END, OPENING, PRONOUNS, START, Code, Grammar, Node, State, trees

NONE = -1
NAMES = [("name", character) for character in CHARACTERS]
A_AND_B = NAMES[:2]  # the only names that may share a first piece


@dataclass(frozen=True, eq=False)
class CompiledGrammar:
    """Expansions of all states as flat arrays.

    A story draws some values once: the pieces of its names, its pronouns, the words of its slots. "Columns" number
    these values. A "latent" is the draw that decides a column: one for each character's name, one for each character's
    gender (which decides all of its pronouns), one for each slot.

    vocabulary       all tokens except the pieces of names
    columns          the code of each column: every name twice (A, A, B, B, ...), then pronouns, then slots
    latents          (columns,) the latent of each column

    Per position of the concatenated expansions, (positions,):
    word             the token, or -1 where a column decides it
    column           the column, or -1
    earlier          number of mentions of the column's latent before this one in the same expansion

    Per position, (2, positions): index 0 for stories in which all names have different first pieces, index 1 for those
    in which A and B share one. These describe only the choice of the text, whatever the columns hold:
    probability, entropy (nats), n_choices
    consequential    whether a later token depends on this choice

    Per expansion, (expansions,):
    start, length    its positions
    next_state       the state after it, or -1 at the end of the story
    mentions         (expansions, latents) number of mentions of each latent
    cumulative       the state's number plus the probability of this expansion and those before it in the state

    Per state, (states + 1,):
    bounds           expansions bounds[state] to bounds[state + 1] belong to a state; state 0 opens stories
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
    consequential: np.ndarray
    start: np.ndarray
    length: np.ndarray
    next_state: np.ndarray
    mentions: np.ndarray
    cumulative: np.ndarray
    bounds: np.ndarray

    def draw_expansions(self, stories: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The expansions of all stories, one story after the other (n_expansions,), and their numbers (stories,)."""
        state = np.zeros(stories, np.int64)
        steps = []
        while (unfinished := state >= 0).any():
            point = np.where(unfinished, state, 0) + rng.random(stories)
            expansion = np.searchsorted(self.cumulative, point, side="right")
            # rounding can put the end of a state's last expansion slightly below state + 1
            expansion = np.minimum(expansion, self.bounds[state + 1] - 1)
            steps.append(np.where(unfinished, expansion, NONE))
            state = np.where(unfinished, self.next_state[expansion], NONE)
        expansions = np.stack(steps, axis=1)  # (stories, steps)
        drawn = expansions >= 0
        return expansions[drawn], drawn.sum(axis=1)

    def longest(self) -> int:
        """Tokens of the longest possible story."""
        tokens_left = np.zeros(len(self.bounds), np.int64)  # most tokens from each state on; the last entry is the end
        for _ in tokens_left:  # a story visits every state at most once
            tokens_left[:-1] = np.maximum.reduceat(self.length + tokens_left[self.next_state], self.bounds[:-1])
        return int(tokens_left[0])


class Choice(NamedTuple):
    """The choice that the text makes at one token."""

    probability: float
    entropy: float
    n_choices: int
    consequential: bool


CERTAIN = Choice(1.0, 0.0, 1, False)


class _Position(NamedTuple):
    word: int
    column: int
    earlier: int
    choices: tuple[Choice, Choice]
    """If all first pieces differ, and if A and B share one."""


class _Expansion(NamedTuple):
    start: int
    length: int
    next_state: int
    mentions: np.ndarray
    cumulative: float


def compile_grammar(grammar: Grammar, scenery: float) -> CompiledGrammar:
    """The arrays of a grammar in which scenery comes with probability `scenery` wherever it may.

    Raises:
        ValueError: as `grammar.trees`.
    """
    tree_of = trees(grammar, scenery)

    # 1. Number everything that the arrays refer to.
    vocabulary = _vocabulary(tree_of, grammar)
    token = {word: i for i, word in enumerate(vocabulary)}
    names = [name for name in NAMES for _piece in range(2)]
    pronouns = [(kind, character) for character in CHARACTERS for kind in PRONOUNS]
    columns = [*names, *pronouns, *(("slot", slot) for slot in grammar.words)]
    first_column = {code: i for i, code in reversed([*enumerate(columns)])}
    latents = [_latent(code) for code in columns]
    latent_number = {latent: i for i, latent in enumerate(dict.fromkeys(latents))}
    states = sorted(tree_of, key=lambda state: (state != (START, False), state))  # the first state opens stories
    state_number = {state: i for i, state in enumerate(states)}

    # 2. List the positions of all expansions of all states.
    positions: list[_Position] = []
    expansions: list[_Expansion] = []
    bounds = [0]
    for state in states:
        probability = 0.0  # of the expansions so far
        for steps, leaf in _expansions(tree_of[state]):
            start, mentions = len(positions), np.zeros(len(latent_number), np.int64)
            for node, code in steps:
                if code[0] == "word":
                    positions += [_Position(token[code[1]], NONE, 0, choices) for choices in _choices(node, code)]
                    continue
                latent = latent_number[_latent(code)]
                for piece, choices in enumerate(_choices(node, code)):
                    positions.append(_Position(NONE, first_column[code] + piece, mentions[latent], choices))
                mentions[latent] += 1
            probability += leaf.weight
            next_state = NONE if leaf.next[0] == END else state_number[leaf.next]
            length = len(positions) - start
            expansions.append(_Expansion(start, length, next_state, mentions, state_number[state] + probability))
        bounds.append(len(expansions))

    # 3. Turn the lists into arrays, one for each field.
    def choice_array(name: str, dtype: type) -> np.ndarray:
        """(2, positions)"""
        return np.array([[getattr(choice, name) for choice in p.choices] for p in positions]).T.astype(dtype)

    def array(rows: list[NamedTuple], name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows])

    return CompiledGrammar(
        vocabulary=vocabulary,
        columns=tuple(columns),
        latents=np.array([latent_number[latent] for latent in latents]),
        **{name: array(positions, name) for name in ("word", "column", "earlier")},
        **{name: choice_array(name, np.float32) for name in ("probability", "entropy", "n_choices")},
        consequential=choice_array("consequential", np.bool_),
        **{name: array(expansions, name) for name in _Expansion._fields},
        bounds=np.array(bounds),
    )


def _latent(code: Code) -> Code:
    """The draw that decides a code's token: one gender decides all pronouns of a character."""
    return ("gender", code[1]) if code[0] in PRONOUNS else code


def _vocabulary(tree_of: Mapping[State, Node], grammar: Grammar) -> tuple[str, ...]:
    """OPENING, then all words that can occur, sorted."""
    codes = {code for tree in tree_of.values() for steps, _ in _expansions(tree) for _, code in steps}
    in_text = {what for kind, what in codes if kind == "word"}
    in_slots = {word for words in grammar.words.values() for word in words}
    pronouns = {word for forms in PRONOUNS.values() for word in forms}
    return (OPENING, *sorted((in_text | in_slots | pronouns) - {OPENING}))


def _expansions(node: Node, steps: tuple[tuple[Node, Code], ...] = ()) -> Iterator[tuple[tuple, Node]]:
    """Every expansion below a node: its steps, each a node and the code by which the path leaves it, and its leaf."""
    if node.next:
        yield steps, node
    for code, child in node.children.items():
        yield from _expansions(child, (*steps, (node, code)))


def _choices(node: Node, code: Code) -> Iterator[tuple[Choice, Choice]]:
    """The choice at each token of a code, if all names have different first pieces, and if A and B share one.

    If they share one, A and B are a single choice at their first piece. The second piece then decides between them.
    """
    weights = {sibling: child.weight for sibling, child in node.children.items()}
    futures = {child.future for child in node.children.values()}
    any_name = any(name in weights for name in NAMES)
    different = _choice(code, weights, len(weights) > 1 and (any_name or len(futures) > 1))
    rivals = {name: weights[name] for name in A_AND_B if name in weights}
    if len(rivals) < 2:
        yield different, different
        if code[0] == "name":
            yield CERTAIN, CERTAIN
        return
    name_a, name_b = A_AND_B
    merged = {**weights, name_a: sum(rivals.values())}
    del merged[name_b]
    yield different, _choice(name_a if code == name_b else code, merged, len(merged) > 1)
    if code[0] == "name":
        matters = node.children[name_a].future != node.children[name_b].future
        yield CERTAIN, _choice(code, rivals, matters) if code in rivals else CERTAIN


def _choice(code: Code, weights: Mapping[Code, float], consequential: bool) -> Choice:
    total = sum(weights.values())
    shares = [weight / total for weight in weights.values()]
    entropy = -sum(share * log(share) for share in shares)
    return Choice(weights[code] / total, entropy, len(shares), consequential)
