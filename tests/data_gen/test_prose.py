"""Prose as bytes: what is English stays, what is code goes, and stories are the generator's own."""

import numpy as np
import pytest

from data_gen.bytes import standard_library
from data_gen.prose import N_STORIES, _prose, docstrings, story_texts
from data_gen.stories.generator import Stories

MODULE = '''
"""A module that is written about in eight words.

    Indented as the source has it,
      and more.
"""

import os  # "a string that nobody documents with, of eight words"


class Late:
    """A class whose words stand before those of its method, below.

    >>> Late()
    Late
    """

    def method(self):
        """Short."""

        async def inner():
            """An inner function, with umlauts: \\u00e4, and eight words or so."""


def early():
    """A function that comes last in the file, with enough words, too."""
    "and a string which is no docstring, with more than eight words in it"
'''


def test_docstrings_of_a_file_come_in_its_order_without_code():
    """All that documents something and has eight words, indentation and examples taken out, an empty line between.
    Catches: methods before their class, code and comments among the prose, examples, docstrings of two words."""
    assert _prose(MODULE.encode()) == (
        "A module that is written about in eight words.\n\nIndented as the source has it,\n  and more.\n\n"
        "A class whose words stand before those of its method, below.\n\n"
        "An inner function, with umlauts: ä, and eight words or so.\n\n"
        "A function that comes last in the file, with enough words, too.\n\n"
    )


@pytest.mark.parametrize("source", [b"", b"x = 1\n", b"def broken(:\n", b'"""Two words."""'])
def test_a_file_without_prose_gives_none(source):
    """Catches: a template of the library, which is no Python, that ends the whole corpus."""
    assert _prose(source) == ""


def test_docstrings_are_the_librarys():
    """A document for each file that has prose, under the file's name, so that splits by name agree with the source's;
    a tenth of the bytes or more.
    Catches: documents that move between the splits, files left out, a corpus of code."""
    corpus, library = docstrings(), standard_library()
    sources = {document.name: document.data for document in library.documents}
    assert corpus.name == f"{library.name}/docstrings" and corpus is docstrings()
    assert len(corpus.documents) > 0.6 * len(sources) and 0.05 < corpus.n_bytes / library.n_bytes < 0.5
    for document in corpus.documents[::20]:
        assert b">>>" not in document.data and document.data.endswith(b"\n\n")
        first = document.data.decode().split("\n")[0].strip()
        assert first.encode("unicode_escape") in sources[document.name] or first.encode() in sources[document.name]
    for split in ("train", "validation", "test"):
        names = {document.name for document in corpus.split(split).documents}
        assert names <= {document.name for document in library.split(split).documents}


def test_stories_are_told_as_the_generator_tells_them():
    """4,000 documents of one story each, as text and nothing else; the same bytes on every machine.
    Catches: tokens' names for text, stories that run together, another corpus under the hash of a trained run."""
    corpus = story_texts()
    assert len(corpus.documents) == N_STORIES and corpus.name == "stories"
    stories = Stories()
    documents = stories.documents(N_STORIES, np.random.default_rng(0))
    for i in (0, 1, 3999):
        own = documents[i : i + 1].tokens
        assert corpus.documents[i].data.decode() == stories.render(own) + "\n"
    assert all(d.data.count(b"\n") == 1 and b"<story>" not in d.data and b" ." not in d.data for d in corpus.documents)
    assert corpus.hash == "dc4a741132a78d20f44e3e6fa1e36e4ca1bd4e0b2d8a5aaae752a34b0a70312a"
