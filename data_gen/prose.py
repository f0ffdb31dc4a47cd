"""English prose as bytes: the docstrings of the standard library, and generated stories.

The docstrings are real prose that every machine with Python has. The stories are rendered from data_gen.stories, so
their structure is known. Left out: other languages, and texts that need a download.
"""

import ast
import inspect
from functools import lru_cache

import numpy as np

from data_gen.bytes import Corpus, Document, standard_library
from data_gen.stories import Stories

N_STORIES = 4000
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=1)
def docstrings() -> Corpus:
    """The docstrings of the standard library, one document per file, each docstring up to its first example.

    Like the library's code, they change with every release of Python, so record the hash.
    """
    library = standard_library()
    texts = {document.name: _prose(document.data) for document in library.documents}
    documents = tuple(Document(name, text.encode()) for name, text in texts.items() if text)
    return Corpus(f"{library.name}/docstrings", documents)


@lru_cache(maxsize=1)
def story_texts() -> Corpus:
    """4,000 generated stories as text, one document each, the same at every call."""
    stories = Stories()
    generated = stories.documents(N_STORIES, np.random.default_rng(0))
    texts = (stories.render(tokens) for tokens in np.split(generated.tokens, generated.ends[:-1]))
    documents = tuple(Document(f"story-{i:04d}", (text + "\n").encode()) for i, text in enumerate(texts))
    return Corpus("stories", documents)


def _prose(source: bytes) -> str:
    """The docstrings of one file in the order of the file, each up to its first example (>>>)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates, and files for other versions of Python
        return ""
    nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED) and ast.get_docstring(node)]
    nodes.sort(key=lambda node: node.body[0].lineno)
    texts = (inspect.cleandoc(ast.get_docstring(node)) for node in nodes)
    return "".join(f"{text.split('>>>')[0].rstrip()}\n\n" for text in texts if len(text.split()) >= 8)
