"""Prose as bytes, for models of bytes: what programmers wrote in English, and generated stories.

The docstrings of the standard library are real prose that every machine with Python has; stories are the generator's,
rendered to text, so that their structure is known. Left out: other languages, and texts that would need a download.
"""

import ast
import inspect
from functools import lru_cache

import numpy as np

from data_gen.bytes import Corpus, Document, standard_library
from data_gen.stories.generator import Stories

N_STORIES = 4000
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=1)
def docstrings() -> Corpus:
    """The docstrings of the standard library: a document a file, each up to its first example, without indentation.

    Like the library's source it changes with every release of Python: record the hash.
    """
    library = standard_library()
    texts = {document.name: _prose(document.data) for document in library.documents}
    documents = tuple(Document(name, text.encode()) for name, text in texts.items() if text)
    return Corpus(f"{library.name}/docstrings", documents)


@lru_cache(maxsize=1)
def story_texts() -> Corpus:
    """4,000 generated stories as text, a document each, the same at every call."""
    stories = Stories()
    told = stories.documents(N_STORIES, np.random.default_rng(0))
    texts = (stories.render(tokens) for tokens in np.split(told.tokens, told.ends[:-1]))
    documents = tuple(Document(f"story-{i:04d}", (text + "\n").encode()) for i, text in enumerate(texts))
    return Corpus("stories", documents)


def _prose(source: bytes) -> str:
    """The docstrings of one file in the order of the file, each up to its first example (>>>)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates and files of other versions
        return ""
    nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED) and ast.get_docstring(node)]
    nodes.sort(key=lambda node: node.body[0].lineno)
    texts = (inspect.cleandoc(ast.get_docstring(node)) for node in nodes)
    return "".join(f"{text.split('>>>')[0].rstrip()}\n\n" for text in texts if len(text.split()) >= 8)
