"""The exact distribution of the i-th token ahead in stories of known probability, for a reader of all before.

The marks of stories tell what the next token costs such a reader; this module tells it of horizon i, P(x_u | x_<=u-i).
The rules of data_gen.stories.grammar let a reader know at which node of which prefix tree the story is, so the paths from there
are walked i tokens forward. What stands at their end is a word, or something that the story draws once: known if it has
been told, otherwise distributed as it is drawn. It is drawn independently of the path, so the two multiply.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from data_gen.batch import PADDING, Batch
from data_gen.stories.cast_reader import CastReader
from data_gen.stories.generator import GRAMMAR, N_PIECES, Stories, story_writer
from data_gen.stories.grammar import END, PRONOUNS, START, Code, Grammar, Node, trees

NONE = -1
Step = tuple[float, tuple[int, ...], Node]
"""The chance of a way to go on, its one or two symbols, and the node behind it. A symbol: a word, or ~column."""


@dataclass(frozen=True)
class Reading:
    """What a reader knows after some tokens of a story.

    places  where the story may be: chance, node, and the column of a second piece that comes first, or -1. More than
            one only between the pieces of a name, where two names begin alike
    told    column -> token
    """

    places: tuple[tuple[float, Node, int], ...]
    told: Mapping[int, int]

    @cached_property
    def names(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each character's name that have been told."""
        pairs = ((first, first + 1) for first in range(0, N_PIECES, 2))
        return tuple(tuple(self.told[column] for column in pair if column in self.told) for pair in pairs)


@dataclass(frozen=True, eq=False)
class Foresight:
    """What horizons cost the reader, (n, rows, seq) in nats each, nan where nothing was asked.

    The i-th token ahead is asked for only where there is one, so all is given that the story goes on that far: what an
    ideal predictor pays in the loss of that horizon.

    nats         of horizon i for the token that came, aligned at it, as `mtp_lab.model.predictions.token_nll`
    entropy      what it had to expect: H(x_u | x_<=u-i), aligned at x_u too
    information  row j, at x_s: I(x_{s+j}; x_s | x_<s); row 0 is H(x_s | x_<s)
    """

    nll: np.ndarray
    entropy: np.ndarray
    information: np.ndarray


class StoryReader:
    """Reads stories of a grammar token by token. Immutable: `read` returns a new `Reading`.

    Args:
        grammar, scenery, repeat_spans: as the stories are told.
        cast: what is known of names.
    """

    def __init__(self, grammar: Grammar, scenery: float, cast: CastReader, repeat_spans: bool = True):
        self._trees, self._cast, writer = trees(grammar, scenery), cast, story_writer(grammar, scenery)
        columns = writer.compiled_grammar.columns
        self._word = {word: i for i, word in enumerate(writer.compiled_grammar.vocabulary)}
        self._column = {code: i for i, code in reversed([*enumerate(columns)])}  # of a name: its first piece
        # the tokens that columns behind the names can hold, and the columns that tell of the same
        self._values = [*writer.pronouns, *writer.slots]
        self._same = [self._column_of_gender(code) for code in columns]
        adjectives = [self._column["slot", slot] for slot in grammar.objects.values()]
        self._once = frozenset() if repeat_spans else frozenset(adjectives)
        self._first = len(self._word)
        self._second = self._first + cast.first_pieces
        self.vocab_size = self._second + cast.second_pieces
        self._priors: dict[tuple, np.ndarray] = {}
        self._steps: dict[tuple, list[Step]] = {}
        self._walks: dict[tuple, dict[int, float]] = {}

    @classmethod
    def of(cls, world: Stories) -> "StoryReader":
        """The reader of these stories' marks: of their grammar, and of the pool of their split."""
        cast = CastReader(world.names.pool(world.split), world.names.fresh, world.fresh, world.shared_first)
        return cls(GRAMMAR, world.scenery, cast, world.repeat_spans)

    def start(self) -> Reading:
        """Before the first token."""
        return Reading(((1.0, self._trees[START, False], NONE),), {})

    def read(self, reading: Reading, token: int) -> Reading:
        """One token further.

        Raises:
            ValueError: for a token with which no story goes on.
        """
        places, told = [], dict(reading.told)
        for chance, node, second in reading.places:
            steps = self._steps_from(node, self._gone(reading)) if second == NONE else [(1.0, (~second,), node)]
            for share, symbols, child in steps:
                likely = chance * share * self._chance(reading, symbols[0], token)
                if likely:
                    places.append((likely, child, ~symbols[1] if len(symbols) > 1 else NONE))
                    told |= self._tells(reading, symbols[0], token)
        total = sum(likely for likely, _, _ in places)
        if not total:
            raise ValueError(f"token {token} can not follow here: not a story of this grammar and these names")
        return Reading(tuple((likely / total, *place) for likely, *place in places), told)

    def ahead(self, reading: Reading, i: int) -> np.ndarray:
        """(vocab_size,) chances of the i-th token from here; their sum is the chance that the story has one."""
        chances = np.zeros(self.vocab_size)
        for place, node, second in reading.places:
            if second == NONE:
                walk = self._walk(node, i, self._gone(reading))
            else:
                walk = {~second: 1.0} if i == 1 else self._walk(node, i - 1, self._gone(reading))
            for symbol, chance in walk.items():
                if symbol >= 0:
                    chances[symbol] += place * chance
                elif ~symbol in reading.told:
                    chances[reading.told[~symbol]] += place * chance
                else:
                    chances += place * chance * self._prior(reading, ~symbol)
        return chances

    def information(self, reading: Reading, n: int) -> np.ndarray:
        """(n,) nats that the next token x_s tells of itself, and of the n - 1 tokens behind it: I(x_{s+j}; x_s | x_<s).

        Each given that the story goes on that far; 0 where it never does.
        """
        following = self.ahead(reading, 1)
        options = np.flatnonzero(following)
        information = np.zeros(n)
        if len(options) < 2:
            return information
        information[0] = _entropy(following)
        readings = [self.read(reading, token) for token in options]
        for j in range(1, n):
            after = np.array([self.ahead(each, j) for each in readings])  # (options, vocab_size)
            joint = following[options, None] * after
            goes_on = joint.sum(axis=1)  # (options,) chance of the option, and of a token j behind it
            if goes_on.any():
                left = sum(p * _entropy(each) for p, each in zip(goes_on, after, strict=True) if p)
                information[j] = _entropy(joint.sum(axis=0)) - left / goes_on.sum()
        return information

    def foresee(self, batch: Batch, n: int) -> Foresight:
        """What horizons 1..n cost on a batch of whole stories.

        Raises:
            ValueError: for n < 1, and as `read`.
        """
        if n < 1:
            raise ValueError(f"n={n} must be at least 1 future token")
        nll, entropy, information = (np.full((n, *batch.tokens.shape), np.nan) for _ in range(3))
        for row, start, story in _stories(batch):
            readings = [*accumulate(story, self.read, initial=self.start())]  # the s-th has read x_<s
            for s in range(1, len(story)):
                reach = min(n, len(story) - s)
                information[:reach, row, start + s] = self.information(readings[s], reach)
                for j in range(reach):
                    chances, at = self.ahead(readings[s], j + 1), (j, row, start + s + j)
                    nll[at] = np.log(chances.sum() / chances[story[s + j]])
                    entropy[at] = _entropy(chances)
        return Foresight(nll, entropy, information)

    # --- the walk

    def _gone(self, reading: Reading) -> frozenset[int]:
        """Columns that are not said again."""
        return self._once.intersection(reading.told)

    def _symbols(self, code: Code, gone: frozenset[int]) -> tuple[int, ...]:
        """What is said for a code: a word, a column, both pieces of a name, or nothing."""
        if code[0] == "word":
            return (self._word[code[1]],)
        column = self._column[code]
        if code[0] == "name":
            return ~column, ~(column + 1)
        return () if column in gone else (~column,)

    def _steps_from(self, node: Node, gone: frozenset[int]) -> list[Step]:
        """The ways to go on that say something; none at the end of the story."""
        key = (id(node), gone)
        if key not in self._steps:
            goes_on = node.next and node.next[0] != END
            steps = self._steps_from(self._trees[node.next], gone) if goes_on else []
            for code, child in node.children.items():
                symbols = self._symbols(code, gone)
                # what is not said again stands alone: nothing competes with a slot
                ways = [(child.weight / node.weight, symbols, child)] if symbols else self._steps_from(child, gone)
                steps = [*steps, *ways]
            self._steps[key] = steps
        return self._steps[key]

    def _walk(self, node: Node, i: int, gone: frozenset[int]) -> dict[int, float]:
        """Symbol -> its chance to be the i-th that is said from a node on, whatever it stands for."""
        key = (id(node), i, gone)
        if key not in self._walks:
            ends = []
            for share, symbols, child in self._steps_from(node, gone):
                if i <= len(symbols):
                    ends.append((share, {symbols[i - 1]: 1.0}))
                else:
                    ends.append((share, self._walk(child, i - len(symbols), gone | ({~symbols[0]} & self._once))))
            walk = ends[0][1] if len(ends) == 1 else Counter()  # along most of a text one dictionary serves all nodes
            for share, part in ends if len(ends) > 1 else ():
                for symbol, chance in part.items():
                    walk[symbol] += share * chance
            self._walks[key] = walk
        return self._walks[key]

    # --- what symbols stand for

    def _chance(self, reading: Reading, symbol: int, token: int) -> float:
        if symbol >= 0 or ~symbol in reading.told:
            return float(token == (symbol if symbol >= 0 else reading.told[~symbol]))
        return self._prior(reading, ~symbol)[token]

    def _prior(self, reading: Reading, column: int) -> np.ndarray:
        """(vocab_size,) chances of the token that a column holds, which has not been told."""
        names = reading.names if column < N_PIECES else ()
        if (column, names) not in self._priors:
            chances = self._priors[column, names] = np.zeros(self.vocab_size)
            if column < N_PIECES:
                base, (character, second) = (self._first, self._second), divmod(column, 2)
                told = tuple(tuple(token - base[k] for k, token in enumerate(name)) for name in names)
                expected = self._cast.expected(told, character, second)
                chances[base[second] :][: len(expected)] = expected
            else:
                values = self._values[column - N_PIECES]
                np.add.at(chances, values, 1 / len(values))
        return self._priors[column, names]

    def _column_of_gender(self, code: Code) -> tuple[int, ...]:
        """The columns of a character's pronouns, for one of them."""
        return tuple(self._column[kind, code[1]] for kind in PRONOUNS) if code[0] in PRONOUNS else ()

    def _tells(self, reading: Reading, symbol: int, token: int) -> dict[int, int]:
        """Column -> token, of what a token tells for the first time."""
        column = ~symbol
        if symbol >= 0 or column in reading.told:
            return {}
        if not self._same[column]:
            return {column: token}
        gender = self._values[column - N_PIECES].tolist().index(token)
        return {each: int(self._values[each - N_PIECES][gender]) for each in self._same[column]}


def _stories(batch: Batch) -> Iterator[tuple[int, int, list[int]]]:
    """Row, first position and tokens of each document."""
    for row, (tokens, documents) in enumerate(zip(batch.tokens, batch.documents, strict=True)):
        starts = np.flatnonzero(np.diff(documents, prepend=PADDING - 1))
        for start, end in zip(starts, [*starts[1:], batch.seq], strict=True):
            if documents[start] != PADDING:
                yield row, int(start), tokens[start:end].tolist()


def _entropy(chances: np.ndarray) -> float:
    """Nats, of chances that need not sum to 1."""
    some = chances[chances > 0]
    total = some.sum()
    return float(np.log(total) - (some * np.log(some)).sum() / total)
