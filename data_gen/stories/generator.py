"""Children's stories with renamed characters, in which the exact probability of every token is known.

The place to look for induction (Gloeckle et al. 2024, arXiv 2404.19737, section 4.1): a name's second piece follows
from an earlier mention, and from nothing else where the pairing was never seen in training. A story is a path through
the beats of a grammar; its names, genders and words are drawn once and told when the text first needs them.
Left out: the text (data_gen.stories.plots), the pools of names (data_gen.stories.names), real stories (data_gen.renaming.rename).
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
    """Stories of two to four characters, told in words and two-piece names; one token a word, a piece, a sign.

    Every token's probability and entropy are those of a reader who knows the grammar and the pools, and has read the
    story so far: no predictor can have a smaller expected loss. (Where D comes before C, in some 6 % of stories, names
    are priced in the order of their letters: their product is exact, single pieces are off by up to .034 nats;
    `data_gen.stories.reader` has them right.) Marks, -1 or False where they do not apply:

        entity        float32: 0 to 3 a character by name, from 4 on an object ("red ball": adjective and noun)
        mention       float32: which mention of it this is, 1, 2, ...
        first_piece, second_piece   of a name, or of an object's two words
        induction     a second piece that an earlier mention has shown
        n_choices     float32: tokens that were possible here
        probability   float32: of this token, given everything before
        entropy       float32, nats: of the distribution it was drawn from, given everything before
        consequential a choice (n_choices > 1) on which a later token of the story depends: what is told is told again,
                      or the text goes on differently

    Raises:
        ValueError: for shares outside 0 to 1, fresh names in a held-out split, and pools too small (`NamePools`).
    """

    names: NamePools = field(default_factory=NamePools)
    split: Split = "train"
    """The pool that names come from."""
    fresh: float = 0.0
    """Share of stories whose names are any that are not held out, in the pool or not."""
    shared_first: float = 0.0
    """Share of stories whose first two characters' names begin alike, so that the second piece has to be chosen."""
    scenery: float = 0.5
    """Chance of a sentence of scenery at each place for one: it moves mentions further apart."""
    repeat_spans: bool = True
    """Objects keep their adjective at every mention ("red ball"), not only at the first."""

    def __post_init__(self) -> None:
        for name in ("fresh", "shared_first", "scenery"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share from 0 to 1")
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 equals 0.0, and so must their JSON
        if self.split not in get_args(Split):
            raise ValueError(f"split={self.split!r} must be one of {', '.join(get_args(Split))}")
        if self.fresh and self.split != "train":
            raise ValueError(f"fresh={self.fresh} is for training; use fresh=0 with split={self.split!r}")
        self.documents(1, np.random.default_rng(0))  # a pool too small for a cast raises here, not at the first batch

    def of(self, split: Split) -> "Stories":
        """The same stories with the names of a split; outside training none are fresh."""
        return replace(self, split=split, fresh=self.fresh if split == "train" else 0.0)

    @property
    def vocab_size(self) -> int:
        return len(self.token_names)

    @cached_property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) words, then names' first pieces (capitalised), then their second pieces."""
        return (*compiled(GRAMMAR, self.scenery).compiled.vocabulary, *self.names.first_names, *self.names.second_names)

    @cached_property
    def mean_length(self) -> float:
        """Tokens of an average story, from 1,000 of them."""
        return float(self.documents(1000, np.random.default_rng(0)).lengths.mean())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest story there can be."""
        return compiled(GRAMMAR, self.scenery).compiled.longest()

    def documents(self, n: int, rng: np.random.Generator) -> Documents:
        """n independent stories. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"n={n} must be at least 1 story")
        teller = compiled(GRAMMAR, self.scenery)
        pool, fresh = self.names.pool(self.split), self.names.fresh
        cast = draw_cast(pool, fresh, n, N_CHARACTERS, rng, self.fresh, self.shared_first)
        pieces = cast.pieces + len(teller.compiled.vocabulary) + np.array([0, self.names.first_pieces])
        return teller.tell(replace(cast, pieces=pieces), rng, self.repeat_spans)

    def sample(self, rows: int, seq: int, rng: np.random.Generator) -> Batch:
        """Rows of whole stories, packed, (rows, seq). Raises ValueError where the longest does not fit a row."""
        if seq < self.longest:
            raise ValueError(f"seq={seq} must be at least {self.longest}, the longest story's tokens")
        return fill(lambda n: self.documents(n, rng), rows, seq, self.mean_length)

    def render(self, tokens: Iterable[int]) -> str:
        """The text of tokens: names joined, sentences capitalised, quotation marks where they belong."""
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """What each token adds to the text, with the space or the empty line before it."""
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
            # after a quotation a sentence opens only if its last one ended in a full stop: "Who?" she asked
            opens = before == "." if closes else word in ".!?" or (word == '"')
            quoted ^= word == '"'
            before = word
        return pieces


def of_characters(batch: Batch, label: str) -> np.ndarray:
    """(rows, seq) a mark of stories ("induction", "first_piece", ...) where it is about a character's name."""
    entity = batch.labels["entity"]
    return batch.labels[label] & (entity >= 0) & (entity < N_CHARACTERS)


class Teller:
    """Tells stories of a compiled grammar: which tokens, and what a reader could know of each."""

    def __init__(self, grammar: Grammar, scenery: float):
        self.compiled = compiled = compile_grammar(grammar, scenery)
        token = {word: i for i, word in enumerate(compiled.vocabulary)}
        kinds = [code[0] for code in compiled.columns]
        self.pronouns = np.array([[token[form] for form in PRONOUNS[kind]] for kind in kinds if kind in PRONOUNS])
        self.slots = [np.array([token[word] for word in words]) for words in grammar.words.values()]
        # per column: the number of equally likely values that a first mention tells of (names: told by the cast)
        sizes = [2] * len(self.pronouns) + [len(words) for words in self.slots]
        self.sizes = np.array([1] * N_PIECES + sizes, np.float32)  # (columns,)
        self.entity, self.piece = self._spans(grammar)

    def _spans(self, grammar: Grammar) -> tuple[np.ndarray, np.ndarray]:
        """(columns,) the entity that each names, and which of its two pieces it is (1 or 2); -1 and 0 for none."""
        entity = np.full(len(self.sizes), NO_VALUE, np.float32)
        piece = np.zeros(len(self.sizes), np.int8)
        entity[:N_PIECES], piece[:N_PIECES] = np.repeat(np.arange(N_CHARACTERS), 2), np.tile([1, 2], N_CHARACTERS)
        for i, (noun, adjective) in enumerate(grammar.objects.items()):
            pair = [self.compiled.columns.index(("slot", slot)) for slot in (adjective, noun)]
            entity[pair], piece[pair] = N_CHARACTERS + i, (1, 2)
        return entity, piece

    def values(self, cast: Cast, rng: np.random.Generator) -> np.ndarray:
        """(stories, columns) the token that each column holds in each story."""
        n = len(cast.pieces)
        gender = rng.integers(0, 2, (n, N_CHARACTERS)).repeat(len(PRONOUNS), axis=1)  # (stories, pronouns)
        spoken = self.pronouns[np.arange(len(self.pronouns)), gender]
        words = [slot[rng.integers(0, len(slot), n)] for slot in self.slots]
        return np.column_stack([cast.pieces.reshape(n, N_PIECES), spoken, *words]).astype(np.int32)

    def tell(self, cast: Cast, rng: np.random.Generator, repeat_spans: bool) -> Documents:
        """One story for each row of a cast, whose pieces are tokens."""
        compiled, values = self.compiled, self.values(cast, rng)
        chosen, n_chosen = compiled.paths(len(values), rng)  # (n_expansions,), (stories,)
        story = np.repeat(np.arange(len(values), dtype=np.int32), n_chosen)  # (n_expansions,)
        length = compiled.length[chosen]
        at = np.arange(length.sum()) + np.repeat(
            compiled.start[chosen] - (np.cumsum(length) - length), length
        )  # (n_tokens,)

        tokens = compiled.word[at].astype(np.int32)  # (n_tokens,)
        held = np.flatnonzero(tokens < 0)  # tokens that a column holds
        column, owner = compiled.column[at[held]], np.repeat(story, length)[held]
        tokens[held] = values[owner, column]

        # how often the story, before this expansion and in all, mentions what decides the column
        mentions = compiled.mentions[chosen].cumsum(axis=0, dtype=np.int32)  # (n_expansions, latents)
        ends = np.cumsum(n_chosen)
        until = np.concatenate([np.zeros((1, mentions.shape[1]), np.int32), mentions])
        latent = compiled.latents[column]
        started = until[ends - n_chosen][owner, latent]
        told = until[np.repeat(np.arange(len(chosen)), length)[held], latent] - started + compiled.earlier[at[held]]
        again = mentions[ends - 1][owner, latent] - started > told + 1
        first = told == 0

        alike = (cast.pieces[:, 0, 0] == cast.pieces[:, 1, 0]).astype(np.int8)  # (stories,)
        version = np.repeat(alike[story], length)  # (n_tokens,)
        probability, entropy, n_choices = (
            part[version, at] for part in (compiled.probability, compiled.entropy, compiled.n_choices)
        )
        consequential = compiled.matters[version, at]
        new, size = held[first], self.sizes[column[first]]
        probability[new] /= size
        entropy[new] += np.log(size)
        n_choices[new] *= size
        named = first & (column < N_PIECES)
        new, who, which = held[named], owner[named], np.divmod(column[named], 2)
        probability[new] *= cast.probability[who, *which]
        entropy[new] += cast.entropy[who, *which]
        n_choices[new] *= cast.n_choices[who, *which]
        consequential[held] |= first & (again | (column < N_PIECES) & (column % 2 == 0))

        piece = self.piece[column]
        labels = {"entity": self.entity[column], "mention": np.where(piece > 0, told + 1, NO_VALUE).astype(np.float32)}
        flags = {"first_piece": piece == 1, "second_piece": piece == 2, "induction": (piece == 2) & ~first}
        spread = {
            **{name: _spread(label, held, len(tokens), NO_VALUE) for name, label in labels.items()},
            **{name: _spread(flag, held, len(tokens), False) for name, flag in flags.items()},
            "n_choices": n_choices,
            "probability": probability,
            "entropy": entropy,
            "consequential": consequential & (n_choices > 1),
        }
        lengths = np.add.reduceat(length, ends - n_chosen)
        if repeat_spans:
            return Documents(tokens, lengths, spread)
        keep = np.ones(len(tokens), bool)
        keep[held] = (column < N_PIECES) | (piece != 1) | first
        lost = np.bincount(owner[~keep[held]], minlength=len(values))
        return Documents(tokens[keep], lengths - lost, {name: label[keep] for name, label in spread.items()})


def _spread(values: np.ndarray, held: np.ndarray, n: int, fill: float | bool) -> np.ndarray:
    """(n,) the values at the positions `held`, and `fill` everywhere else."""
    label = np.full(n, fill, values.dtype)
    label[held] = values
    return label


@lru_cache(maxsize=4)
def compiled(grammar: Grammar, scenery: float) -> Teller:
    """The teller of a grammar, compiled once."""
    return Teller(grammar, scenery)
