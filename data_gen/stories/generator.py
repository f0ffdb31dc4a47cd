"""Children's stories with renamed characters, in which the exact probability of every token is known.

They measure induction (Gloeckle et al. 2024, arXiv 2404.19737, section 4.1): where a pairing of name pieces is never
seen in training, a name's second piece follows from an earlier mention and from nothing else. A story is a path through
the beats of a grammar. Its names, genders and words are drawn once and appear where the text first needs them.
Left out: the text (data_gen.stories.plots), the pools of names (data_gen.stories.names), real stories
(data_gen.renaming).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import get_args

import numpy as np

from data_gen.batch import NO_VALUE, Batch, Documents, fill
from data_gen.stories.compiled_grammar import compile_grammar
from data_gen.stories.grammar import CHARACTERS, OPENING, PRONOUNS, Grammar
from data_gen.stories.names import Cast, NamePools, Split, draw_cast
from data_gen.stories.plots import BEATS, OBJECTS, SCENERY, WORDS

N_CHARACTERS, N_PIECES = len(CHARACTERS), 2 * len(CHARACTERS)
GRAMMAR = Grammar(WORDS, OBJECTS, BEATS, SCENERY)


@dataclass(frozen=True)
class Stories:
    """Stories of two to four characters with names of two pieces. Each word, piece and punctuation mark is one token.

    The probability and the entropy of a token are those of an ideal predictor. It knows the grammar and the pools, and
    has read the story so far: no predictor has a smaller expected loss. In about 6 % of stories, D is mentioned before
    C. The labels then take C's name as known before D's: the product over both names is exact, but single pieces are
    off by up to 0.034 nats (`data_gen.stories.exact_probabilities` is exact for them, too).

    Labels, -1 or False where they do not apply:
        entity        float32: 0 to 3 for a character's name, from 4 on for an object ("red ball": adjective and noun)
        mention       float32: number of this mention of the entity, 1, 2, ...
        first_piece, second_piece   of a name, or of an object's two words
        induction     a second piece that an earlier mention has shown
        n_choices     float32: number of possible tokens, given everything before
        probability   float32: probability of this token, given everything before
        entropy       float32, nats: entropy of the token's distribution, given everything before
        consequential a choice (n_choices > 1) on which a later token of the story depends: the drawn value is mentioned
                      again, or the text continues differently

    Raises:
        ValueError: for shares outside 0 to 1, fresh names in a held-out split, and pools too small (`NamePools`).
    """

    names: NamePools = field(default_factory=NamePools)
    split: Split = "train"
    """The pool of the names."""
    fresh: float = 0.0
    """Share of stories with names from all pairings that are not held out, in the training pool or not."""
    shared_first: float = 0.0
    """Share of stories in which the first two characters share a first piece: only second pieces distinguish them."""
    scenery: float = 0.5
    """Probability of a sentence of scenery at each place for one. Scenery moves mentions further apart."""
    repeat_spans: bool = True
    """Objects have their adjective at every mention ("red ball"), not only at the first."""

    def __post_init__(self) -> None:
        for name in ("fresh", "shared_first", "scenery"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share from 0 to 1")
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 == 0.0, so their JSON must be equal, too
        if self.split not in get_args(Split):
            raise ValueError(f"split={self.split!r} must be one of {', '.join(get_args(Split))}")
        if self.fresh and self.split != "train":
            raise ValueError(f"fresh={self.fresh} is for training; use fresh=0 with split={self.split!r}")
        self.documents(
            1, np.random.default_rng(0)
        )  # raises here if a pool is too small for a cast, not at the first batch

    def of(self, split: Split) -> "Stories":
        """The same stories with names of another split. Only training stories have fresh names."""
        return replace(self, split=split, fresh=self.fresh if split == "train" else 0.0)

    @property
    def vocab_size(self) -> int:
        return len(self.token_names)

    @property
    def _writer(self) -> "StoryWriter":
        return story_writer(GRAMMAR, self.scenery)

    @cached_property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) words, then names' first pieces (capitalised), then their second pieces."""
        return (*self._writer.compiled_grammar.vocabulary, *self.names.first_names, *self.names.second_names)

    @cached_property
    def mean_length(self) -> float:
        """Mean tokens of a story, estimated from 1,000 stories."""
        return float(self.documents(1000, np.random.default_rng(0)).lengths.mean())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest possible story."""
        return self._writer.compiled_grammar.longest()

    def documents(self, n: int, rng: np.random.Generator) -> Documents:
        """n independent stories. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"n={n} must be at least 1 story")
        writer = self._writer
        pool, fresh = self.names.pool(self.split), self.names.fresh
        cast = draw_cast(pool, fresh, n, N_CHARACTERS, rng, self.fresh, self.shared_first)
        pieces = cast.pieces + len(writer.compiled_grammar.vocabulary) + np.array([0, self.names.first_pieces])
        return writer.write(replace(cast, pieces=pieces), rng, self.repeat_spans)

    def sample(self, rows: int, seq: int, rng: np.random.Generator) -> Batch:
        """Rows of packed whole stories, (rows, seq). Raises ValueError if the longest story does not fit in a row."""
        if seq < self.longest:
            raise ValueError(f"seq={seq} must be at least {self.longest}, the longest story's tokens")
        return fill(lambda n: self.documents(n, rng), rows, seq, self.mean_length)

    def render(self, tokens: Iterable[int]) -> str:
        """The tokens as text, with joined names, capitals at the start of sentences, and spaces around quotations."""
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token, with the space or the empty line before it."""
        seconds = self.vocab_size - self.names.second_pieces
        pieces: list[str] = []
        before, quoted, opens = "", False, True
        for token in tokens:
            word = self.token_names[token]
            if word == OPENING:
                pieces.append("\n\n" * any(pieces))
                before, quoted, opens = "", False, True
                continue
            closes = quoted and word == '"'
            inner = not before or (quoted and before == '"')
            glued = token >= seconds or closes or word[0] in ".,!?'" or word == "n't" or inner
            shown = word[0].upper() + word[1:] if opens or word == "i" else word
            pieces.append(shown if glued else " " + shown)
            # after a quotation a new sentence starts only if the quotation ends in a full stop: "Who?" she asked
            opens = before == "." if closes else word in ".!?" or (word == '"')
            quoted ^= word == '"'
            before = word
        return pieces


def of_characters(batch: Batch, label: str) -> np.ndarray:
    """(rows, seq) bool, a label of stories ("induction", "first_piece", ...) restricted to characters' names."""
    entity = batch.labels["entity"]
    return batch.labels[label] & (entity >= 0) & (entity < N_CHARACTERS)


class StoryWriter:
    """Turns casts into stories of a compiled grammar: the tokens, and the labels of each."""

    def __init__(self, grammar: Grammar, scenery: float):
        self.compiled_grammar = compile_grammar(grammar, scenery)
        token = {word: i for i, word in enumerate(self.compiled_grammar.vocabulary)}
        kinds = [code[0] for code in self.compiled_grammar.columns]
        self.pronouns = np.array([[token[form] for form in PRONOUNS[kind]] for kind in kinds if kind in PRONOUNS])
        self.slots = [np.array([token[word] for word in words]) for words in grammar.words.values()]
        # (columns,) number of equally likely values, between which a first mention decides; for names see `Cast`
        n_values = [1] * N_PIECES + [2] * len(self.pronouns) + [len(words) for words in self.slots]
        self.n_values = np.array(n_values, np.float32)
        self.entity, self.piece = self._entities(grammar)

    def _entities(self, grammar: Grammar) -> tuple[np.ndarray, np.ndarray]:
        """(columns,) the entity of each column or -1, and 1 for its first piece, 2 for its second, 0 for none."""
        entity = np.full(len(self.n_values), NO_VALUE, np.float32)
        piece = np.zeros(len(self.n_values), np.int8)
        entity[:N_PIECES], piece[:N_PIECES] = np.repeat(np.arange(N_CHARACTERS), 2), np.tile([1, 2], N_CHARACTERS)
        for i, (noun, adjective) in enumerate(grammar.objects.items()):
            columns = [self.compiled_grammar.columns.index(("slot", slot)) for slot in (adjective, noun)]
            entity[columns], piece[columns] = N_CHARACTERS + i, (1, 2)
        return entity, piece

    def write(self, cast: Cast, rng: np.random.Generator, repeat_spans: bool) -> Documents:
        """One story for each row of a cast, whose pieces are tokens."""
        grammar, n = self.compiled_grammar, len(cast.pieces)

        # 1. Draw the values that a story mentions, and its expansions.
        values = self._values(cast, rng)  # (stories, columns) tokens
        expansions, n_expansions = grammar.draw_expansions(n, rng)  # (n_expansions,), (stories,)

        # 2. Copy the expansions' positions, one after the other.
        length = grammar.length[expansions]
        before = np.cumsum(length) - length  # tokens of all stories before each expansion
        position = np.arange(length.sum()) + np.repeat(grammar.start[expansions] - before, length)  # (n_tokens,)
        expansion = np.repeat(np.arange(len(expansions)), length)  # (n_tokens,) as an index into `expansions`
        story = np.repeat(np.arange(n, dtype=np.int32), n_expansions)[expansion]  # (n_tokens,)
        lengths = np.bincount(story, minlength=n)  # (stories,)

        # 3. Fill in the tokens that columns decide.
        tokens = grammar.word[position].astype(np.int32)  # (n_tokens,)
        filled = np.flatnonzero(tokens < 0)  # (n_filled,) where columns decide
        column = grammar.column[position[filled]]
        tokens[filled] = values[story[filled], column]

        # 4. Count mentions in the story: those before each filled token, and all.
        mentions = grammar.mentions[expansions].cumsum(axis=0, dtype=np.int32)
        mentions = np.concatenate([np.zeros((1, mentions.shape[1]), np.int32), mentions])  # before each expansion
        ends = np.cumsum(n_expansions)  # (stories,)
        latent = grammar.latents[column]
        before_story = mentions[ends - n_expansions][story[filled], latent]
        earlier = mentions[expansion[filled], latent] - before_story + grammar.earlier[position[filled]]
        total = mentions[ends][story[filled], latent] - before_story
        first = earlier == 0  # (n_filled,)

        # 5. The ideal predictor's view: the text's choice, times the choice between values at a first mention.
        shared = (cast.pieces[:, 0, 0] == cast.pieces[:, 1, 0]).astype(np.int8)  # (stories,) of A and B
        version = shared[story]
        probability, entropy, n_choices, consequential = (
            array[version, position]
            for array in (grammar.probability, grammar.entropy, grammar.n_choices, grammar.consequential)
        )
        new, n_values = filled[first], self.n_values[column[first]]
        probability[new] /= n_values
        entropy[new] += np.log(n_values)
        n_choices[new] *= n_values
        of_name = column < N_PIECES
        new, new_column = filled[first & of_name], column[first & of_name]
        piece_in_cast = (story[new], *np.divmod(new_column, 2))  # story, character, first or second piece
        probability[new] *= cast.probability[piece_in_cast]
        entropy[new] += cast.entropy[piece_in_cast]
        n_choices[new] *= cast.n_choices[piece_in_cast]
        # a first piece always matters: the second piece depends on it
        consequential[filled] |= first & ((total > earlier + 1) | of_name & (column % 2 == 0))

        # 6. Labels of all tokens.
        def label(values: np.ndarray, elsewhere: float | bool) -> np.ndarray:
            """(n_tokens,) the values (n_filled,) at filled tokens, and `elsewhere` at all others."""
            array = np.full(len(tokens), elsewhere, values.dtype)
            array[filled] = values
            return array

        piece = self.piece[column]
        labels = {
            "entity": label(self.entity[column], NO_VALUE),
            "mention": label(np.where(piece > 0, earlier + 1, NO_VALUE).astype(np.float32), NO_VALUE),
            "first_piece": label(piece == 1, False),
            "second_piece": label(piece == 2, False),
            "induction": label((piece == 2) & ~first, False),
            "n_choices": n_choices,
            "probability": probability,
            "entropy": entropy,
            "consequential": consequential & (n_choices > 1),
        }
        if repeat_spans:
            return Documents(tokens, lengths, labels)

        # 7. Drop the adjective of an object that was mentioned before.
        keep = np.ones(len(tokens), bool)
        keep[filled] = of_name | (piece != 1) | first
        lengths = np.bincount(story[keep], minlength=n)
        return Documents(tokens[keep], lengths, {name: values[keep] for name, values in labels.items()})

    def _values(self, cast: Cast, rng: np.random.Generator) -> np.ndarray:
        """(stories, columns) int32, the token that each column holds in each story."""
        n = len(cast.pieces)
        gender = rng.integers(0, 2, (n, N_CHARACTERS)).repeat(len(PRONOUNS), axis=1)  # (stories, pronouns)
        pronouns = self.pronouns[np.arange(len(self.pronouns)), gender]
        words = [slot[rng.integers(0, len(slot), n)] for slot in self.slots]
        return np.column_stack([cast.pieces.reshape(n, N_PIECES), pronouns, *words]).astype(np.int32)


@lru_cache(maxsize=4)
def story_writer(grammar: Grammar, scenery: float) -> StoryWriter:
    """The writer of a grammar's stories, compiled once."""
    return StoryWriter(grammar, scenery)
