"""Exact distributions of the i-th token ahead in stories, for an ideal predictor that has read all tokens before.

The labels of stories describe horizon 1. This module computes every horizon, P(x_u | x_<=u-i). The rules of
data_gen.stories.grammar ensure that a reader knows at which node of which prefix tree the story is, so the paths from
this node are followed for i tokens. Their ends are words or values that a story draws once: names, pronouns and slots.
Such a value is known after its first mention. Before, it is drawn independently of the path, so the probabilities of
path and value multiply.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from data_gen.batch import PADDING, Batch
from data_gen.stories.generator import GRAMMAR, N_PIECES, Stories, story_writer
from data_gen.stories.grammar import END, PRONOUNS, START, Code, Grammar, Node, trees
from data_gen.stories.name_probabilities import CastReader

NONE = -1
Symbol = int
"""What a path produces at one token: a word (its token), or ~column where the story's own value is the token."""


class Step(NamedTuple):
    """One way to continue from a node."""

    probability: float
    symbols: tuple[Symbol, ...]
    """One symbol, or two for a name."""
    node: Node
    """The node after them."""


class Place(NamedTuple):
    """A place in the grammar where the story may be."""

    probability: float
    node: Node
    second: int
    """Between the two pieces of a name, the column of the second piece. It comes before the node. -1 elsewhere."""


@dataclass(frozen=True)
class Reading:
    """The state of a `StoryReader` after some tokens of a story: where it may be, and which values are known.

    places  one place, except between the pieces of a name if two characters share the first piece
    known   column -> token, for all columns whose token follows from what is read
    """

    places: tuple[Place, ...]
    known: Mapping[int, int]

    @cached_property
    def names(self) -> tuple[tuple[int, ...], ...]:
        """The known tokens of each character's name."""
        pairs = ((first, first + 1) for first in range(0, N_PIECES, 2))
        return tuple(tuple(self.known[column] for column in pair if column in self.known) for pair in pairs)


@dataclass(frozen=True, eq=False)
class Foresight:
    """Loss, entropy and information of the ideal predictor at each horizon, (n, rows, seq) in nats.

    Everything is conditional on the story having a token at that distance. NaN where a document has none.

    nll          row i - 1: loss of horizon i at its target x_u, as `mtp_lab.model.predictions.token_nll`; its mean is a
                 lower bound for every model
    entropy      row i - 1: H(x_u | x_<=u-i), its expectation, also at x_u
    information  row j: I(x_{s+j}; x_s | x_<s) at x_s; row 0 is H(x_s | x_<s)
    """

    nll: np.ndarray
    entropy: np.ndarray
    information: np.ndarray


class StoryReader:
    """The ideal predictor of a grammar's stories, which reads them token by token.

    Immutable: `read` returns a new `Reading`.

    Args:
        grammar, scenery, repeat_spans: those of the stories.
        cast: the probabilities of names.
    """

    def __init__(self, grammar: Grammar, scenery: float, cast: CastReader, repeat_spans: bool = True):
        self._trees, self._cast, writer = trees(grammar, scenery), cast, story_writer(grammar, scenery)
        columns = writer.compiled_grammar.columns
        self._word = {word: i for i, word in enumerate(writer.compiled_grammar.vocabulary)}
        self._column = {code: i for i, code in reversed([*enumerate(columns)])}  # of a name: its first piece
        self._values = [*writer.pronouns, *writer.slots]  # possible tokens of each column after the names
        self._pronoun_columns = [self._columns_of_gender(code) for code in columns]
        adjectives = [self._column["slot", slot] for slot in grammar.objects.values()]
        self._only_once = frozenset() if repeat_spans else frozenset(adjectives)  # columns without a second mention
        self._first = len(self._word)  # the first token of first pieces
        self._second = self._first + cast.first_pieces  # the first token of second pieces
        self.vocab_size = self._second + cast.second_pieces
        self._priors: dict[tuple, np.ndarray] = {}
        self._steps: dict[tuple, list[Step]] = {}
        self._walks: dict[tuple, dict[Symbol, float]] = {}

    @classmethod
    def of(cls, stories: Stories) -> "StoryReader":
        """The ideal predictor of these stories, which knows their grammar and the pool of their split."""
        pool, fresh = stories.names.pool(stories.split), stories.names.fresh
        cast = CastReader(pool, fresh, stories.fresh, stories.shared_first)
        return cls(GRAMMAR, stories.scenery, cast, stories.repeat_spans)

    def start(self) -> Reading:
        """Before the first token."""
        return Reading((Place(1.0, self._trees[START, False], NONE),), {})

    def read(self, reading: Reading, token: int) -> Reading:
        """The reading after one more token.

        Raises:
            ValueError: for a token that cannot follow.
        """
        places, known = [], dict(reading.known)
        for place in reading.places:
            if place.second == NONE:
                steps = self._steps_from(place.node, self._gone(reading))
            else:
                steps = [Step(1.0, (~place.second,), place.node)]
            for step in steps:
                symbol = step.symbols[0]
                probability = place.probability * step.probability * self._probability(reading, symbol, token)
                if probability:
                    second = ~step.symbols[1] if len(step.symbols) > 1 else NONE
                    places.append(Place(probability, step.node, second))
                    known |= self._learned(reading, symbol, token)
        total = sum(place.probability for place in places)
        if not total:
            raise ValueError(f"token {token} cannot follow here: not a story of this grammar and these names")
        return Reading(tuple(place._replace(probability=place.probability / total) for place in places), known)

    def ahead(self, reading: Reading, i: int) -> np.ndarray:
        """(vocab_size,) probabilities of the i-th token ahead. Their sum is the probability that the story has one."""
        probabilities = np.zeros(self.vocab_size)
        for place in reading.places:
            if place.second == NONE:
                walk = self._walk(place.node, i, self._gone(reading))
            else:
                walk = {~place.second: 1.0} if i == 1 else self._walk(place.node, i - 1, self._gone(reading))
            for symbol, probability in walk.items():
                if symbol >= 0:
                    probabilities[symbol] += place.probability * probability
                elif ~symbol in reading.known:
                    probabilities[reading.known[~symbol]] += place.probability * probability
                else:
                    probabilities += place.probability * probability * self._prior(reading, ~symbol)
        return probabilities

    def information(self, reading: Reading, n: int) -> np.ndarray:
        """(n,) nats, I(x_{s+j}; x_s | x_<s) for j = 0..n-1: what the next token x_s reveals about a token j after it.

        Row 0 is the entropy of x_s. Each row is conditional on the story having a token x_{s+j}, and 0 if it never has.
        """
        following = self.ahead(reading, 1)
        tokens = np.flatnonzero(following)  # (n_choices,)
        information = np.zeros(n)
        if len(tokens) < 2:
            return information
        information[0] = _entropy(following)
        readings = [self.read(reading, token) for token in tokens]
        for j in range(1, n):
            after = np.array([self.ahead(next_reading, j) for next_reading in readings])  # (n_choices, vocab_size)
            joint = following[tokens, None] * after
            both = joint.sum(axis=1)  # (n_choices,) probability of the token, and of any token j after it
            if both.any():
                conditional = sum(p * _entropy(each) for p, each in zip(both, after, strict=True) if p)
                information[j] = _entropy(joint.sum(axis=0)) - conditional / both.sum()
        return information

    def foresee(self, batch: Batch, n: int) -> Foresight:
        """The ideal predictor's loss, entropy and information at horizons 1..n, for a batch of whole stories.

        Raises:
            ValueError: for n < 1, and as `read`.
        """
        if n < 1:
            raise ValueError(f"n={n} must be at least 1 future token")
        nll, entropy, information = (np.full((n, *batch.tokens.shape), np.nan) for _ in range(3))
        for row, start, story in _stories(batch):
            readings = [*accumulate(story, self.read, initial=self.start())]  # readings[s] has read x_<s
            for s in range(1, len(story)):
                reach = min(n, len(story) - s)  # horizons that end inside the story
                information[:reach, row, start + s] = self.information(readings[s], reach)
                for j in range(reach):
                    probabilities, at = self.ahead(readings[s], j + 1), (j, row, start + s + j)
                    nll[at] = np.log(probabilities.sum() / probabilities[story[s + j]])
                    entropy[at] = _entropy(probabilities)
        return Foresight(nll, entropy, information)

    # --- paths through the grammar

    def _gone(self, reading: Reading) -> frozenset[int]:
        """Columns without a further mention."""
        return self._only_once.intersection(reading.known)

    def _symbols(self, code: Code, gone: frozenset[int]) -> tuple[Symbol, ...]:
        """The symbols of a code: a word, a column, both pieces of a name, or nothing."""
        if code[0] == "word":
            return (self._word[code[1]],)
        column = self._column[code]
        if code[0] == "name":
            return ~column, ~(column + 1)
        return () if column in gone else (~column,)

    def _steps_from(self, node: Node, gone: frozenset[int]) -> list[Step]:
        """The ways to continue from a node, each with at least one symbol. Empty at the end of the story."""
        key = (id(node), gone)
        if key not in self._steps:
            continues = node.next and node.next[0] != END
            steps = [*self._steps_from(self._trees[node.next], gone)] if continues else []
            for code, child in node.children.items():
                symbols = self._symbols(code, gone)
                if symbols:
                    steps.append(Step(child.weight / node.weight, symbols, child))
                else:  # a slot without symbols is the only child of its node: nothing competes with a slot
                    steps += self._steps_from(child, gone)
            self._steps[key] = steps
        return self._steps[key]

    def _walk(self, node: Node, i: int, gone: frozenset[int]) -> dict[Symbol, float]:
        """Symbol -> probability that it is the i-th symbol after a node, whatever token it stands for."""
        key = (id(node), i, gone)
        if key not in self._walks:
            ends = []  # for each step, its probability and the distribution of the i-th symbol after it
            for step in self._steps_from(node, gone):
                if i <= len(step.symbols):
                    ends.append((step.probability, {step.symbols[i - 1]: 1.0}))
                else:
                    now_gone = gone | ({~step.symbols[0]} & self._only_once)
                    ends.append((step.probability, self._walk(step.node, i - len(step.symbols), now_gone)))
            # most nodes have a single step: they share one dictionary
            walk = ends[0][1] if len(ends) == 1 else Counter()
            for probability, distribution in ends if len(ends) > 1 else ():
                for symbol, conditional in distribution.items():
                    walk[symbol] += probability * conditional
            self._walks[key] = walk
        return self._walks[key]

    # --- from symbols to tokens

    def _probability(self, reading: Reading, symbol: Symbol, token: int) -> float:
        """The probability that a symbol stands for a token."""
        if symbol >= 0 or ~symbol in reading.known:
            return float(token == (symbol if symbol >= 0 else reading.known[~symbol]))
        return self._prior(reading, ~symbol)[token]

    def _prior(self, reading: Reading, column: int) -> np.ndarray:
        """(vocab_size,) probabilities of the token of a column that is not known."""
        names = reading.names if column < N_PIECES else ()
        if (column, names) not in self._priors:
            prior = self._priors[column, names] = np.zeros(self.vocab_size)
            if column < N_PIECES:
                base, (character, second) = (self._first, self._second), divmod(column, 2)
                known = tuple(tuple(token - base[k] for k, token in enumerate(name)) for name in names)
                expected = self._cast.expected(known, character, second)
                prior[base[second] :][: len(expected)] = expected
            else:
                values = self._values[column - N_PIECES]
                np.add.at(prior, values, 1 / len(values))
        return self._priors[column, names]

    def _columns_of_gender(self, code: Code) -> tuple[int, ...]:
        """For a pronoun, the columns of all pronouns of its character."""
        return tuple(self._column[kind, code[1]] for kind in PRONOUNS) if code[0] in PRONOUNS else ()

    def _learned(self, reading: Reading, symbol: Symbol, token: int) -> dict[int, int]:
        """Column -> token, for columns that were unknown before this token."""
        column = ~symbol
        if symbol >= 0 or column in reading.known:
            return {}
        if not self._pronoun_columns[column]:
            return {column: token}
        gender = self._values[column - N_PIECES].tolist().index(token)
        return {pronoun: int(self._values[pronoun - N_PIECES][gender]) for pronoun in self._pronoun_columns[column]}


def _stories(batch: Batch) -> Iterator[tuple[int, int, list[int]]]:
    """Row, first position and tokens of each document."""
    for row, (tokens, documents) in enumerate(zip(batch.tokens, batch.documents, strict=True)):
        starts = np.flatnonzero(np.diff(documents, prepend=PADDING - 1))
        for start, end in zip(starts, [*starts[1:], batch.seq], strict=True):
            if documents[start] != PADDING:
                yield row, int(start), tokens[start:end].tolist()


def _entropy(weights: np.ndarray) -> float:
    """Nats, of the distribution proportional to the weights."""
    positive = weights[weights > 0]
    total = positive.sum()
    return float(np.log(total) - (positive * np.log(positive)).sum() / total)
