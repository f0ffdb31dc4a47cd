"""Byte corpora, their splits and streams: every test states a property and the bug it would catch."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.bytes import (
    SEPARATOR,
    SEPARATOR_TEXT,
    VOCABULARY,
    ByteStream,
    Corpus,
    Document,
    decode,
    local_files,
    standard_library,
)


def corpus_of(*texts: bytes) -> Corpus:
    return Corpus("test", tuple(Document(f"{i:03}", data) for i, data in enumerate(texts)))


def slow_stream(corpus: Corpus) -> list[tuple[int, int]]:
    """(token, document) of every position, by the definition."""
    stream = []
    for i, document in enumerate(corpus.documents):
        stream += [(SEPARATOR, i)] + [(byte, i) for byte in document.data]
    return stream


# empty files and single bytes included: their separators stand side by side
corpora = st.lists(st.binary(max_size=12), min_size=1, max_size=10).filter(any).map(lambda t: corpus_of(*t))


# --- Corpus


def test_documents_and_hash_do_not_depend_on_the_order_given():
    """Folders list their files in another order on every file system; ids and run hashes must not."""
    a, b, c = Document("a", b"1"), Document("b", b"2"), Document("c", b"3")
    one, other = Corpus("x", (a, b, c)), Corpus("y", (c, a, b))
    assert [document.name for document in other.documents] == ["a", "b", "c"]
    assert one.hash == other.hash


def test_the_hash_is_pinned():
    """A change of the recipe would make every cached run look like one on other data."""
    assert corpus_of(b"ab", b"").hash == "021c94c92ba8d3850bdd3eb5ac5d89c6ddc2a94adfa10b26b7d0079d3c7443e1"


@pytest.mark.parametrize(
    "other",
    [
        corpus_of(b"ab", b"cd", b"ff"),  # a byte flipped
        corpus_of(b"abc", b"d", b"ef"),  # the same bytes, cut elsewhere
        corpus_of(b"ab", b"cd", b"ef", b""),  # one more file, without a byte
        Corpus("test", (Document("000", b"ab"), Document("001", b"cd"), Document("003", b"ef"))),  # renamed
        Corpus("test", (Document("000a", b"b"), Document("001", b"cd"), Document("002", b"ef"))),  # name | bytes
    ],
)
def test_the_hash_sees_every_change(other):
    """Two corpora under one hash would share trained runs."""
    assert other.hash != corpus_of(b"ab", b"cd", b"ef").hash


def test_a_name_that_is_no_utf8_can_be_hashed_and_split():
    """Linux allows any bytes as a file name; Python hands them over as surrogates, which utf-8 refuses."""
    corpus = Corpus("test", (Document(b"caf\xe9".decode("utf-8", "surrogateescape"), b"x"),))
    assert len(corpus.hash) == 64
    assert sum(len(c.documents) for c in splits_of(corpus).values()) == 1


@pytest.mark.parametrize(
    "documents, message",
    [
        ((), "empty corpus 'x': 0 documents, 0 bytes; give at least one file that is not empty"),
        ((Document("a", b""),), "empty corpus 'x': 1 documents, 0 bytes"),
        (
            (Document("a", b"1"), Document("a", b"2")),
            "corpus 'x' has two documents named 'a'; names must be unique",
        ),
    ],
)
def test_a_corpus_that_cannot_be_is_refused(documents, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Corpus("x", documents)


def test_a_document_of_text_is_refused():
    """str would fail much later, inside the stream."""
    with pytest.raises(ValueError, match=r"document 'a' must hold bytes, got str; use text.encode\('utf-8'\)"):
        Document("a", "text")


# --- splits


def splits_of(corpus: Corpus) -> dict[str, Corpus]:
    """The splits that are not empty."""
    splits = {}
    for which in ("train", "validation", "test"):
        try:
            splits[which] = corpus.split(which)
        except ValueError as error:
            assert "is empty" in str(error)
    return splits


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_splits_are_disjoint_and_cover_the_corpus(names):
    """A file in two splits would be trained on and tested with; a file in none would be lost."""
    splits = splits_of(Corpus("x", tuple(Document(name, b"1") for name in names)))
    found = [document.name for split in splits.values() for document in split.documents]
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize(
    "name, which", [("argparse.py", "train"), ("heapq.py", "validation"), ("json/encoder.py", "test")]
)
def test_the_split_of_a_name_is_pinned(name, which):
    """By the name alone, on every machine and in every version: else test files leak into training."""
    alone = Corpus("x", (Document(name, b"1"),))
    among_others = Corpus("y", (Document(name, b"edited"), *(Document(str(i), b"1") for i in range(50))))
    assert list(splits_of(alone)) == [which]
    assert name in {document.name for document in among_others.split(which).documents}


def test_splits_are_about_90_5_5_percent():
    """Limits swapped or taken mod 256 would shift the shares; 4,000 names leave chance far below 1.5 %."""
    corpus = Corpus("x", tuple(Document(f"file {i}", b"1") for i in range(4000)))
    shares = {which: len(split.documents) / 4000 for which, split in splits_of(corpus).items()}
    assert shares == pytest.approx({"train": 0.9, "validation": 0.05, "test": 0.05}, abs=0.015)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'valid'"):
        corpus_of(b"1").split("valid")


def test_an_empty_split_says_how_many_documents_there_are():
    corpus = Corpus("mine", (Document("argparse.py", b"1"), Document("a.py", b"2")))
    with pytest.raises(ValueError, match=r"the test split of corpus 'mine' is empty: .* 2 documents; add more files"):
        corpus.split("test")


# --- the standard library


def test_the_standard_library_is_one_corpus_with_three_splits():
    """Read twice it must be the same, and large enough to train on."""
    corpus = standard_library()
    hash_then = corpus.hash
    standard_library.cache_clear()
    again = standard_library()
    assert again is not corpus and again.hash == hash_then
    assert standard_library() is again  # cached
    assert corpus.n_bytes > 3_000_000
    assert set(splits_of(corpus)) == {"train", "validation", "test"}


def test_the_standard_library_is_code_and_the_same_on_other_machines():
    """A table of code points or the build's own settings would be learned as if they were code."""
    names = {document.name for document in standard_library().documents}
    assert {"argparse.py", "heapq.py", "json/encoder.py"} <= names
    for name in names:
        assert name.endswith(".py") and "\\" not in name and not name.startswith("/")
        assert not {"test", "tests", "site-packages", "__pycache__", "encodings"} & set(name.split("/"))
        assert not name.startswith(("_sysconfigdata", "config-", "pydoc_data/", "tkinter/", "idlelib/"))


# --- local files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "sub/a.txt", "sub/code.py", ".git/config.txt", "sub/__pycache__/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() + b"\r\n\xff")
    return tmp_path


def test_folders_are_read_deep_and_named_from_their_root(folder):
    """Names from the root, not absolute: hash and split must not depend on where the folder lies."""
    corpus = local_files([folder])
    assert [document.name for document in corpus.documents] == ["b.txt", "sub/a.txt", "sub/code.py"]
    assert corpus.documents[0].data == b"b.txt\r\n\xff"  # bytes as they are: no decoding, no line ends
    assert [document.name for document in local_files(str(folder), "*.py").documents] == ["sub/code.py"]


def test_single_files_are_named_by_their_name(folder):
    corpus = local_files([folder / "b.txt", folder / "sub" / "a.txt"], pattern="*.py")  # the pattern is for folders
    assert [document.name for document in corpus.documents] == ["a.txt", "b.txt"]


def test_paths_that_cannot_be_read_are_named(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*missing', seen from .*; check the path"):
        local_files([folder / "missing"])
    with pytest.raises(ValueError, match=r"no file below '.*' matches '\*\.md'; check the folder and the pattern"):
        local_files([folder], "*.md")
    with pytest.raises(ValueError, match="two documents named 'b.txt'"):
        local_files([folder, folder])
    with pytest.raises(ValueError, match="empty corpus"):
        local_files([])

    def refuse(path):  # a mode of 000 would not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match=r"cannot read '.*b.txt': Permission denied; make it readable or leave it out"):
        local_files([folder / "b.txt"])


# --- the stream


@given(corpora, st.integers(2, 20))
@settings(max_examples=150, deadline=None)
def test_windows_one_after_another_are_the_stream(corpus, seq):
    """No token lost or read twice at a window's edge, the tail padded, and every id that of its file."""
    stream, batch = slow_stream(corpus), ByteStream(corpus).windows(seq)
    real = batch.documents.ravel() >= 0
    read = list(zip(batch.tokens.ravel()[real].tolist(), batch.documents.ravel()[real].tolist(), strict=True))
    assert read == stream
    assert len(ByteStream(corpus)) == len(stream)
    assert batch.rows * seq - len(stream) < seq  # no window of padding only
    assert not real[len(stream) :].any() and not batch.tokens.ravel()[len(stream) :].any()


@given(st.integers(1, 200), st.integers(2, 6), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_limited_windows_are_spread_evenly(n_files, seq, limit):
    """Different windows, in order, in equal steps up to one, from end to end: not the first files only."""
    stream = ByteStream(corpus_of(b"x", *[b""] * n_files))  # a file a token, so that ids tell positions
    n = stream.windows(seq).rows
    begins = stream.windows(seq, limit).documents[:, 0]  # (rows,) position - 1, but 0 for position 0
    chosen, rest = np.divmod(np.where(begins > 0, begins + 1, 0), seq)
    assert len(chosen) == min(limit, n) and not rest.any()
    steps = np.diff(chosen)
    assert (steps >= 1).all() and np.ptp(steps if steps.size else [0]) <= 1
    skipped_before, skipped_after = chosen[0], n - 1 - chosen[-1]
    assert abs(skipped_before - skipped_after) <= 1
    assert max(skipped_before, skipped_after) <= n / len(chosen) / 2


def test_few_windows_see_all_files():
    """Ten files and ten windows, a window a file; the first ten windows would see one file."""
    corpus = corpus_of(*[bytes([i]) * 99 for i in range(10)])
    batch = ByteStream(corpus).windows(5, limit=10)
    assert batch.documents[:, 0].tolist() == list(range(10))


@given(corpora, st.integers(0, 2**32), st.data())
@settings(max_examples=100, deadline=None)
def test_samples_are_windows_with_the_documents_of_each_position(corpus, seed, data):
    """Against a reference that looks up one position at a time: ids must change exactly at the separators."""
    slow = slow_stream(corpus)
    seq = data.draw(st.integers(2, len(slow)))
    batch = ByteStream(corpus).sample(7, seq, np.random.default_rng(seed))
    begins = np.random.default_rng(seed).integers(0, len(slow) - seq + 1, size=7)
    for row, begin in enumerate(begins):
        read = list(zip(batch.tokens[row].tolist(), batch.documents[row].tolist(), strict=True))
        assert read == slow[begin : begin + seq]


def test_documents_of_samples_of_the_standard_library():
    """The same on real text, and by another route: the id, searched for each position, names the file."""
    corpus = standard_library().split("test")
    stream = ByteStream(corpus)
    batch = stream.sample(64, 256, np.random.default_rng(0))
    ends = np.cumsum([1 + len(document.data) for document in corpus.documents])
    begins = np.random.default_rng(0).integers(0, len(stream) - 255, size=64)
    for row, begin in enumerate(begins):
        assert batch.documents[row].tolist() == [
            int(np.searchsorted(ends, position, side="right")) for position in range(begin, begin + 256)
        ]
    assert len(np.unique(batch.documents)) > 5


def test_a_sample_is_its_seed():
    """A sampler with a state of its own would make resumed runs differ from those never killed."""
    stream = ByteStream(corpus_of(bytes(range(256)), b"xyz"))
    one, same, other = (stream.sample(4, 16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one.tokens == same.tokens).all() and (one.documents == same.documents).all()
    assert (one.tokens != other.tokens).any()


def test_every_window_can_be_sampled():
    """Off by one in the last start: the end of the last file would never be seen."""
    stream = ByteStream(corpus_of(b"abc"))
    drawn = {tuple(row) for row in stream.sample(200, 2, np.random.default_rng(0)).tokens.tolist()}
    assert drawn == {(SEPARATOR, 97), (97, 98), (98, 99)}
    assert stream.sample(1, 4, np.random.default_rng(0)).tokens.tolist() == [[SEPARATOR, 97, 98, 99]]


def test_the_stream_stays_small_and_cannot_be_written():
    """Two bytes a token; a write into it would change all later batches."""
    stream = ByteStream(corpus_of(b"abc"))
    assert stream.tokens.dtype == np.uint16 and stream.tokens.max() == SEPARATOR == VOCABULARY - 1
    with pytest.raises(ValueError, match="read-only"):
        stream.tokens[0] = 0
    batch = stream.windows(4)
    batch.tokens[:] = 0  # a batch is a copy
    assert stream.tokens[0] == SEPARATOR


def test_windows_and_samples_that_cannot_be_are_named():
    stream, generator = ByteStream(corpus_of(b"abc")), np.random.default_rng(0)
    for call in (lambda: stream.windows(1), lambda: stream.sample(1, 1, generator)):
        with pytest.raises(ValueError, match="seq must be >= 2, a token and its target, got 1"):
            call()
    with pytest.raises(
        ValueError, match="seq 5 is longer than the stream of corpus 'test', 4 tokens; lower seq or add"
    ):
        stream.sample(1, 5, generator)
    with pytest.raises(ValueError, match="rows must be >= 1, got 0"):
        stream.sample(0, 2, generator)
    with pytest.raises(ValueError, match="limit must be >= 1, or None for all windows, got 0"):
        stream.windows(2, limit=0)


# --- decode


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), min_size=1, max_size=5).filter(any))
@settings(max_examples=50, deadline=None)
def test_decode_gives_the_text_back(texts):
    """UTF-8 characters of several bytes survive, and every document opens with the separator's symbol."""
    stream = ByteStream(corpus_of(*(text.encode() for text in texts)))
    assert decode(stream.tokens) == "".join(SEPARATOR_TEXT + text for text in texts)


def test_decode_shows_bytes_that_are_no_text():
    """A window may begin inside a character: that is replaced, and does not eat what follows."""
    assert decode(np.array([0x82, 0xAC, 97])) == "\ufffd\ufffda"
    assert decode(np.array([0xE2, SEPARATOR, 0x82, 98])) == f"\ufffd{SEPARATOR_TEXT}\ufffdb"
    assert decode([]) == ""
    assert decode([97, 98]) == "ab"


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([[97]], "decode takes one row of tokens, (n,), got shape (1, 1); decode row by row"),
        ([97.0], "tokens must be ints, got float64"),
        ([97, 257], "tokens must be 0 to 256, got 97 to 257"),
        ([-1], "tokens must be 0 to 256, got -1 to -1"),
    ],
)
def test_decode_refuses_what_is_no_row_of_bytes(tokens, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(tokens)
