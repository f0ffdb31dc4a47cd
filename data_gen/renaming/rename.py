"""Real stories whose characters get new names of exactly two tokens, under any fast Hugging Face tokenizer.

The second token of such a name can be predicted only from an earlier mention: the induction measure of Gloeckle et al.
2024 (arXiv 2404.19737), section 4.1, on stories that were not written for it. The text between the mentions stays as
it is, so pronouns and possessives stay right. Left out: which words are names (data_gen.renaming.mentions), and stories with
known probabilities (data_gen.stories.generator).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.batch import NO_VALUE, Documents
from data_gen.renaming.mentions import FIRST_NAMES, WORD, Mention, find_mentions, find_names

SEPARATOR = "<|endoftext|>"  # between the stories of a TinyStories file
ATTEMPTS = 32  # draws before a tokenizer is said to have no name that fits


def read_documents(path: str | Path) -> list[str]:
    """The stories of a UTF-8 file, cut at <|endoftext|> where it has any, or of all .txt files of a folder, by name.

    White space around a story is dropped, and so are empty ones. A file is read whole.

    Raises:
        ValueError: for a file that is no UTF-8, and where there is no story.
        OSError: for a path that is missing or cannot be read.
    """
    path = Path(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    documents = [part.strip() for file in files for part in _read(file).split(SEPARATOR) if part.strip()]
    if not documents:
        raise ValueError(f"no story in {str(path)!r}; give a text file that is not empty, or a folder of .txt files")
    return documents


def sample_tales() -> list[str]:
    """Eight short tales in the manner of TinyStories, written for this module and under its licence."""
    return read_documents(Path(__file__).with_name("tales"))


def rename(text: str, names: Mapping[str, str]) -> str:
    """The text with every mention (`find_mentions`) of a name replaced; all the rest is the same, byte for byte.

    names  old -> new, e.g. {"Lily": "Borvik"}; a mention in capitals gets the new name in capitals

    Raises:
        ValueError: where new names are equal, or one is in the text already: two characters would become one.
    """
    if len(set(names.values())) < len(names):
        raise ValueError(f"names={dict(names)} must give each character a name of its own")
    present = set(WORD.findall(text))
    for new in names.values():
        if new in present and new not in names:
            raise ValueError(f"the new name {new!r} occurs in the text already; use one that does not")
    return _replaced(text, find_mentions(text, names), names)[0]


class TwoTokenNames:
    """Names that a tokenizer cuts in two, a capitalised piece and a small one, wherever in a sentence they stand.

    tokenizer  a fast Hugging Face tokenizer, or anything with its get_vocab() and its call that returns offsets
    firsts     pieces such as "Bor", of two to four letters, that are tokens after a space and elsewhere
    seconds    pieces such as "vik", of two to four letters; longer ones would be words rather than names

    A tokenizer that drops capitals ("uncased") is fine. The letters are those of English.

    Raises:
        ValueError: for a tokenizer without offsets, or without such pieces, as those of characters and bytes.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        try:
            upper, lower = (ids for ids, _ in self.tokenize(["Lily", "lily"]))
        except (NotImplementedError, KeyError) as error:  # transformers 4, and 5
            kind = type(tokenizer).__name__
            raise ValueError(f"{kind} gives no offsets of tokens in the text; use a fast tokenizer") from error
        cased = upper.tolist() != lower.tolist()
        vocabulary = tokenizer.get_vocab()
        bare, spaced, continued = (  # of each mark, the letters after it; Ġ and ▁: a space before, ##: none (WordPiece)
            {match[1] for piece in vocabulary if (match := re.fullmatch(label + "([A-Za-z][a-z]{1,3})", piece))}
            for label in ("", "[Ġ▁]", "##")
        )
        # sorted: the order of a vocabulary differs from process to process
        self.firsts = tuple(sorted({p.capitalize() for p in bare & (spaced or bare) if p[0].isupper() or not cased}))
        self.seconds = tuple(sorted(piece for piece in continued or bare if piece.islower()))
        if not self.firsts or not self.seconds:
            raise ValueError(
                f"no names of two tokens: the tokenizer has {len(self.firsts)} pieces of two to four letters that "
                f"begin a name and {len(self.seconds)} that go on with it (one of characters or bytes has none); use "
                "one of subwords: BPE, WordPiece or Unigram"
            )

    def draw(self, n: int, rng: np.random.Generator, exclude: Collection[str] = ()) -> list[tuple[str, str]]:
        """n names as (first piece, second piece); all pairs of pieces that make two tokens are equally likely.

        exclude  words, written small, that no name and no piece of a name may be; nor do two names share a piece

        Raises:
            ValueError: where no such names turn up.
        """
        names, taken = [], set(exclude)
        for _ in range(ATTEMPTS):
            if len(names) == n:
                return names
            tries = 4 * n + 8
            firsts, seconds = (rng.integers(len(pieces), size=tries) for pieces in (self.firsts, self.seconds))
            pairs = [(self.firsts[i], self.seconds[j]) for i, j in zip(firsts, seconds, strict=True)]
            for pair, fits in zip(pairs, self._fit(pairs), strict=True):
                if fits and len(names) < n and not taken & _claims(pair):
                    names.append(pair)
                    taken |= _claims(pair)
        raise ValueError(
            f"only {len(names)} of {n} names found among {len(self.firsts)} x {len(self.seconds)} pieces; "
            "the tokenizer joins or splits them otherwise (does it know whole words only?), or they are among the "
            f"{len(exclude)} excluded words; use a tokenizer with more subwords, or shorter documents"
        )

    def tokenize(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text the tokens (n_tokens,) int32, and (n_tokens, 2) where each begins and ends in it."""
        encoded = self.tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)
        return [
            (np.array(ids, np.int32), np.array(offsets, np.int64).reshape(-1, 2))
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _fit(self, pairs: list[tuple[str, str]]) -> list[bool]:
        """Whether each is two tokens as a text, a line or a quotation opens, after a space, and before 's."""
        template = 'X saw X.\nX said, "X is X\'s friend."'
        places = [Mention(match.start(), match.end(), "X", False) for match in re.finditer("X", template)]
        texts, spans = zip(
            *(_replaced(template, places, {"X": "".join(p)}, {"X": len(p[0])}) for p in pairs), strict=True
        )
        encoded = zip(texts, self.tokenize(list(texts)), spans, strict=True)
        return [bool((_first_pieces(text, offsets, span) >= 0).all()) for text, (_, offsets), span in encoded]


@dataclass(frozen=True, eq=False)
class Renamed:
    """Documents with new names: their texts, what each name became, and their tokens with marks (`renamed`)."""

    texts: tuple[str, ...]
    renamings: tuple[Mapping[str, str], ...]
    documents: Documents


def renamed(
    documents: Iterable[str],
    tokenizer: Any,
    rng: np.random.Generator,
    names: Collection[str] | None = None,
    hint: Collection[str] = FIRST_NAMES,
    least: int = 2,
) -> Renamed:
    """Replaces the names of each document's characters by random ones of exactly two tokens, and marks the mentions.

    names  the characters' names, or None to find them in each document (`find_names` with `hint` and `least`)

    The new names are new to the document, and so are their pieces. Every mention is verified in the tokens of the
    whole document, and names that fail are drawn anew. Mentions in capitals ("LILY!") are renamed too, but need not
    be two tokens. Tokens are the tokenizer's, without special ones; a document without names is left as it is.

    Marks of each token (float32, -1 outside mentions; or bool):
        entity        the character, 0, 1, ... in the order of first mention in the document
        mention       which mention of that character this is, 1, 2, ...
        first_piece   the first token of a mention of two tokens
        second_piece  the second
        induction     a second piece that an earlier mention of the character has shown

    Raises:
        ValueError: naming the document, where it has no tokens or no names fit; as `TwoTokenNames` and `find_mentions`.
    """
    if isinstance(documents, str):
        raise ValueError("documents must be a list of texts, got a single one; use [text]")
    maker = TwoTokenNames(tokenizer)
    texts, renamings, tokens, labels = [], [], [], []
    for i, text in enumerate(documents):
        mentions = find_mentions(text, find_names(text, hint, least) if names is None else names)
        try:
            new, renaming, ids, label = _rename_document(text, mentions, maker, rng)
        except ValueError as error:
            raise ValueError(f"document {i}: {error}") from error
        texts.append(new)
        renamings.append(renaming)
        tokens.append(ids)
        labels.append(label)
    if not texts:
        raise ValueError("no documents to rename; give at least one text")
    flat = {name: np.concatenate([label[name] for label in labels]) for name in labels[0]}
    return Renamed(
        tuple(texts), tuple(renamings), Documents(np.concatenate(tokens), np.array([*map(len, tokens)]), flat)
    )


def _rename_document(
    text: str, mentions: list[Mention], maker: TwoTokenNames, rng: np.random.Generator
) -> tuple[str, dict[str, str], np.ndarray, dict[str, np.ndarray]]:
    """The new text, what each name became, the tokens, and their marks."""
    words = {word.lower() for word in WORD.findall(text)}
    new: dict[str, tuple[str, str]] = {}
    failed = list(dict.fromkeys(mention.name for mention in mentions))
    for _ in range(ATTEMPTS):
        taken = words.union(*(_claims(pair) for name, pair in new.items() if name not in failed))
        new.update(zip(failed, maker.draw(len(failed), rng, taken), strict=True))
        renaming = {name: "".join(pair) for name, pair in new.items()}
        changed, spans = _replaced(text, mentions, renaming, {name: len(pair[0]) for name, pair in new.items()})
        ids, offsets = maker.tokenize([changed])[0]
        first = _first_pieces(changed, offsets, spans)  # (n_mentions,)
        pairs = zip(mentions, first, strict=True)
        failed = list(dict.fromkeys(mention.name for mention, at in pairs if at < 0 and not mention.shouted))
        if not failed:
            break
    else:
        raise ValueError(f"no new name for {failed[0]!r} was two tokens at every mention, in {ATTEMPTS} draws")
    if not len(ids):
        raise ValueError("it has no tokens; leave it out")
    entities = {name: i for i, name in enumerate(new)}
    return changed, renaming, ids, _marks(ids, offsets, spans, first, [entities[m.name] for m in mentions])


def _replaced(
    text: str, mentions: list[Mention], new: Mapping[str, str], cuts: Mapping[str, int] | None = None
) -> tuple[str, np.ndarray]:
    """The text with new names, and (n_mentions, 3) where each begins, is cut in two (if cuts are given) and ends."""
    pieces, spans, last, at = [], [], 0, 0
    for start, end, name, shouted in mentions:
        word = new[name].upper() if shouted else new[name]
        pieces += [text[last:start], word]
        at += start - last
        spans.append((at, at + (cuts[name] if cuts else 0), at + len(word)))
        at, last = at + len(word), end
    return "".join([*pieces, text[last:]]), np.array(spans, np.int64).reshape(-1, 3)


def _first_pieces(text: str, offsets: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """(n_mentions,) the first token of each mention, or -1 where it is not two tokens, cut where it should be.

    A token may begin with the white space before the name, but with nothing else that is not the name's.
    """
    (begins, ends), (starts, cuts, stops) = offsets.T, spans.T
    first = np.searchsorted(ends, starts, side="right")  # (n_mentions,) the first token that ends inside
    after = np.searchsorted(begins, stops, side="left")  # the first token that begins behind
    two = after - first == 2
    at = first[two]
    clean = np.array([not text[i:j].strip() for i, j in zip(begins[at], starts[two], strict=True)], bool)
    two[two] = clean & (ends[at] == cuts[two]) & (ends[at + 1] == stops[two])
    return np.where(two, first, -1)


def _marks(
    ids: np.ndarray, offsets: np.ndarray, spans: np.ndarray, first: np.ndarray, entities: list[int]
) -> dict[str, np.ndarray]:
    """The marks of one document's tokens; first: (n_mentions,) as `_first_pieces`; entities: (n_mentions,)."""
    (begins, ends), (starts, _, stops) = offsets.T, spans.T
    owner = np.searchsorted(stops, begins, side="right")  # (n_tokens,) the mention that a token may be part of
    inside = np.append(starts, np.iinfo(np.int64).max)[owner] < ends
    entity = np.array(entities, np.int64)  # (n_mentions,)
    values = {"entity": entity, "mention": _occurrence(entity)}
    labels = {
        name: np.where(inside, np.append(v, NO_VALUE)[owner], NO_VALUE).astype(np.float32) for name, v in values.items()
    }
    whole = first >= 0
    second = first[whole] + 1
    shown = _occurrence(entity[whole] << 32 | ids[second]) > 1  # LILY shows no piece of Lily
    for name, where in (("first_piece", second - 1), ("second_piece", second), ("induction", second[shown])):
        labels[name] = np.zeros(len(ids), bool)
        labels[name][where] = True
    return labels


def _occurrence(values: np.ndarray) -> np.ndarray:
    """(n,) of each value, the how manieth of its kind it is: 1, 2, ..."""
    order = np.argsort(values, kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    return rank - np.searchsorted(values[order], values) + 1


def _claims(pair: tuple[str, str]) -> set[str]:
    """What no other word or name of a document may be once this name is in it, written small."""
    return {pair[0].lower(), pair[1], "".join(pair).lower()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
