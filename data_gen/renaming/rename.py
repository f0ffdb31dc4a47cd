"""Real stories whose characters get new names of exactly two tokens, under any fast Hugging Face tokenizer.

The second token of such a name can be predicted only from an earlier mention. This gives the induction measure of
Gloeckle et al. 2024 (arXiv 2404.19737, section 4.1) on stories that are not made for it. The text between the mentions
does not change, so pronouns and possessives stay correct. Left out: which words are names (data_gen.renaming.mentions),
and stories with known probabilities (data_gen.stories).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.batch import NO_VALUE, Documents
from data_gen.packing import ranks
from data_gen.renaming.mentions import FIRST_NAMES, WORD, Mention, find_mentions, find_names

SEPARATOR = "<|endoftext|>"  # between the stories of a TinyStories file
ATTEMPTS = 32  # draws before an error reports that no name fits the tokenizer


def read_documents(path: str | Path) -> list[str]:
    """The stories of a UTF-8 file, split at <|endoftext|>, or of all .txt files of a folder, sorted by name.

    White space around a story and empty stories are dropped. Files are read into memory completely.

    Raises:
        ValueError: for a file that is not UTF-8, and if there is no story.
        OSError: for a path that is missing or cannot be read.
    """
    path = Path(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    documents = [part.strip() for file in files for part in _read(file).split(SEPARATOR) if part.strip()]
    if not documents:
        raise ValueError(f"no story in {str(path)!r}; give a text file that is not empty, or a folder of .txt files")
    return documents


def sample_tales() -> list[str]:
    """Eight short tales in the style of TinyStories, written for this module and under its licence."""
    return read_documents(Path(__file__).with_name("tales"))


def rename(text: str, names: Mapping[str, str]) -> str:
    """The text with every mention (`find_mentions`) of a name replaced. All other text stays the same, byte for byte.

    names  old -> new, e.g. {"Lily": "Borvik"}; a mention in capitals gets the new name in capitals

    Raises:
        ValueError: if two new names are equal, or one is already in the text, so that two characters become one.
    """
    if len(set(names.values())) < len(names):
        raise ValueError(f"names={dict(names)} must give each character a name of its own")
    present = set(WORD.findall(text))
    for new in names.values():
        if new in present and new not in names:
            raise ValueError(f"the new name {new!r} occurs in the text already; use one that does not")
    return _replaced(text, find_mentions(text, names), names)[0]


class TwoTokenNames:
    """Names that a tokenizer splits into a capitalised and a lower-case token, at every place in a sentence.

    tokenizer  a fast Hugging Face tokenizer, or any object with its get_vocab() and its call that returns offsets
    firsts     pieces such as "Bor", of two to four letters, that are tokens after a space and elsewhere
    seconds    pieces such as "vik", of two to four letters; longer pieces are often whole words

    Tokenizers that drop capitals ("uncased") are supported. Letters are those of English.

    Raises:
        ValueError: for a tokenizer without offsets, and for one without such pieces (characters, bytes).
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
        # the letters of pieces without a prefix, after a space (Ġ or ▁), and inside a word (## of WordPiece)
        bare, spaced, continued = (
            {match[1] for piece in vocabulary if (match := re.fullmatch(prefix + "([A-Za-z][a-z]{1,3})", piece))}
            for prefix in ("", "[Ġ▁]", "##")
        )
        # sorted, because the order of a vocabulary differs between processes
        self.firsts = tuple(sorted({p.capitalize() for p in bare & (spaced or bare) if p[0].isupper() or not cased}))
        self.seconds = tuple(sorted(piece for piece in continued or bare if piece.islower()))
        if not self.firsts or not self.seconds:
            raise ValueError(
                f"no names of two tokens: the tokenizer has {len(self.firsts)} pieces of two to four letters that can "
                f"begin a name and {len(self.seconds)} that can end it (a tokenizer of characters or bytes has none); "
                "use a subword tokenizer: BPE, WordPiece or Unigram"
            )

    def draw(self, n: int, rng: np.random.Generator, exclude: Collection[str] = ()) -> list[tuple[str, str]]:
        """n names as (first piece, second piece); all pairs of pieces that make two tokens are equally likely.

        exclude  lower-case words that no name and no piece of a name may equal; no two names share a piece

        Raises:
            ValueError: if not enough such names are found.
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
            f"only {len(names)} of {n} names found among {len(self.firsts)} x {len(self.seconds)} pieces; the "
            "tokenizer joins or splits the others differently (does it know only whole words?), or they are among the "
            f"{len(exclude)} excluded words; use a tokenizer with more subwords, or shorter documents"
        )

    def tokenize(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text, its tokens (n_tokens,) int32, and where each starts and ends in the text (n_tokens, 2)."""
        encoded = self.tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)
        return [
            (np.array(ids, np.int32), np.array(offsets, np.int64).reshape(-1, 2))
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _fit(self, pairs: list[tuple[str, str]]) -> list[bool]:
        """Whether each name is two tokens at the start of a text, line and quotation, after a space, and before 's."""
        template = 'X saw X.\nX said, "X is X\'s friend."'
        places = [Mention(match.start(), match.end(), "X", False) for match in re.finditer("X", template)]
        texts, spans = zip(
            *(_replaced(template, places, {"X": "".join(p)}, {"X": len(p[0])}) for p in pairs), strict=True
        )
        encoded = zip(texts, self.tokenize(list(texts)), spans, strict=True)
        return [bool((_first_pieces(text, offsets, span) >= 0).all()) for text, (_, offsets), span in encoded]


@dataclass(frozen=True, eq=False)
class RenamedDocuments:
    """Documents with new names: texts, old name -> new name of each, and tokens with labels (`rename_characters`)."""

    texts: tuple[str, ...]
    renamings: tuple[Mapping[str, str], ...]
    documents: Documents


def rename_characters(
    documents: Iterable[str],
    tokenizer: Any,
    rng: np.random.Generator,
    names: Collection[str] | None = None,
    hint: Collection[str] = FIRST_NAMES,
    least: int = 2,
) -> RenamedDocuments:
    """Replaces the names of each document's characters by random names of exactly two tokens, and labels the mentions.

    names  the characters' names, or None to find them in each document (`find_names` with `hint` and `least`)

    Neither the new names nor their pieces occur in the original document. Every mention is verified in the tokens of
    the whole document, and names that fail are drawn again. Mentions in capitals ("LILY!") are renamed, too, but need
    not be two tokens. Tokens are those of the tokenizer without special tokens. Documents without names do not change.

    Labels of each token (float32, -1 outside mentions; or bool):
        entity        the character, 0, 1, ... in the order of first mention in the document
        mention       the number of this mention of the character, 1, 2, ...
        first_piece   the first token of a mention of two tokens
        second_piece  the second token
        induction     a second piece that an earlier mention of the character has shown

    Raises:
        ValueError: with the document's number, if it has no tokens or no names fit; as `TwoTokenNames` and
            `find_mentions`.
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
    return RenamedDocuments(
        tuple(texts), tuple(renamings), Documents(np.concatenate(tokens), np.array([*map(len, tokens)]), flat)
    )


def _rename_document(
    text: str, mentions: list[Mention], maker: TwoTokenNames, rng: np.random.Generator
) -> tuple[str, dict[str, str], np.ndarray, dict[str, np.ndarray]]:
    """The new text, old name -> new name, the tokens, and their labels."""
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
    return changed, renaming, ids, _labels(ids, offsets, spans, first, [entities[m.name] for m in mentions])


def _replaced(
    text: str, mentions: list[Mention], new: Mapping[str, str], cuts: Mapping[str, int] | None = None
) -> tuple[str, np.ndarray]:
    """The text with new names, and for each (n_mentions, 3) its start, the start of its second piece, and its end.

    cuts  name -> letters of the new name's first piece; without cuts the second column is not meaningful
    """
    pieces, spans, last, at = [], [], 0, 0
    for start, end, name, shouted in mentions:
        word = new[name].upper() if shouted else new[name]
        pieces += [text[last:start], word]
        at += start - last
        spans.append((at, at + (cuts[name] if cuts else 0), at + len(word)))
        at, last = at + len(word), end
    return "".join([*pieces, text[last:]]), np.array(spans, np.int64).reshape(-1, 3)


def _first_pieces(text: str, offsets: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """(n_mentions,) the first token of each mention, or -1 if it is not two tokens with the intended cut.

    The first token may start with the white space before the name, but not with other characters.
    """
    (begins, ends), (starts, cuts, stops) = offsets.T, spans.T
    first = np.searchsorted(ends, starts, side="right")  # (n_mentions,) the first token that ends inside
    after = np.searchsorted(begins, stops, side="left")  # the first token that begins after it
    fits = after - first == 2  # (n_mentions,) two tokens
    token = first[fits]
    clean = np.array([not text[i:j].strip() for i, j in zip(begins[token], starts[fits], strict=True)], bool)
    fits[fits] = clean & (ends[token] == cuts[fits]) & (ends[token + 1] == stops[fits])
    return np.where(fits, first, -1)


def _labels(
    ids: np.ndarray, offsets: np.ndarray, spans: np.ndarray, first: np.ndarray, entities: list[int]
) -> dict[str, np.ndarray]:
    """The labels of one document's tokens; first: (n_mentions,) as `_first_pieces`; entities: (n_mentions,)."""
    (begins, ends), (starts, _, stops) = offsets.T, spans.T
    owner = np.searchsorted(stops, begins, side="right")  # (n_tokens,) the mention that a token may be part of
    inside = np.append(starts, np.iinfo(np.int64).max)[owner] < ends
    entity = np.array(entities, np.int64)  # (n_mentions,)
    values = {"entity": entity, "mention": _occurrence(entity)}
    labels = {
        name: np.where(inside, np.append(v, NO_VALUE)[owner], NO_VALUE).astype(np.float32) for name, v in values.items()
    }
    two_tokens = first >= 0
    second = first[two_tokens] + 1
    # counted by character and token, because LILY shows no piece of Lily
    shown = _occurrence(entity[two_tokens] << 32 | ids[second]) > 1
    for name, where in (("first_piece", second - 1), ("second_piece", second), ("induction", second[shown])):
        labels[name] = np.zeros(len(ids), bool)
        labels[name][where] = True
    return labels


def _occurrence(values: np.ndarray) -> np.ndarray:
    """(n,) for each value, the number of times it has occurred so far: 1, 2, ..."""
    return ranks(values) - np.searchsorted(np.sort(values), values) + 1


def _claims(pair: tuple[str, str]) -> set[str]:
    """The lower-case words that no other word or name of a document may equal if this name is in it."""
    return {pair[0].lower(), pair[1], "".join(pair).lower()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
