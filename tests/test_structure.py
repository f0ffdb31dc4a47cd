"""The structure that newcomers rely on: imports run one way, packages are small, private words stay out of the code."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted(path for package in ("data_gen", "mtp_lab") for path in (ROOT / package).rglob("*.py"))
CODE = [*LIBRARY, *sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "notebooks").glob("*.py"))]

LAYERS = (
    ("data_gen",),
    ("serialization", "files"),
    ("tasks",),
    ("config",),
    ("model",),
    ("decoding",),
    ("training",),
    ("evaluation", "theory"),
    ("interp",),
    ("experiments",),
    ("figures",),
    ("batch",),
    ("cli",),
)
"""From left to right: a module imports from its own layer and from those before it. `figures` draws what comes computed
and imports none of its neighbours; `mtp_lab/__init__.py` offers names of every layer, on first use."""

BANNED = {
    "told", "said", "asked", "wanted", "paid", "cell_of", "of_all", "causes_read", "nats", "marks", "tape", "modal",
    "one_pass", "agreement",
}  # fmt: skip
"""Identifiers of the former private vocabulary; see docs/glossary.md for the terms in their place."""
PRIVATE_MODULES = {"live.py", "show.py", "tape.py", "mapping.py", "written.py", "utils.py"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> set[str]:
    """Every module of the library that a file imports, wherever in the file; those only for type checkers left out."""
    names = {module_name(other) for other in LIBRARY}
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in names else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & names


def layer(module: str) -> int:
    parts = module.split(".")
    part = parts[0] if parts[0] == "data_gen" else parts[1]
    return next(i for i, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("path", [path for path in LIBRARY if module_name(path) != "mtp_lab"], ids=module_name)
def test_imports_run_one_way(path):
    """An import from a later layer is the beginning of a cycle."""
    own = module_name(path)
    for other in imported_modules(path) - {"mtp_lab"}:
        assert layer(other) <= layer(own), f"{own} imports {other}"


def test_there_is_no_import_cycle():
    """Modules that import one another cannot be read one after the other."""
    graph = {module_name(path): imported_modules(path) for path in LIBRARY}
    packages = {module_name(path) for path in LIBRARY if path.name == "__init__.py"}
    state: dict[str, int] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert state.get(module) != 1, " -> ".join((*trail, module))
        if module in state:
            return
        state[module] = 1
        for other in sorted(graph[module] - {module}):
            visit(other, (*trail, module))
        state[module] = 2

    for module in sorted(set(graph) - {"mtp_lab"}):
        visit(module, ())
    assert packages <= set(state) | {"mtp_lab"}


def test_no_package_directory_is_crowded():
    """A directory of more than 12 files is not read as a whole."""
    for folder in {path.parent for path in LIBRARY}:
        assert len(list(folder.glob("*.py"))) <= 12, folder


def test_every_package_says_what_is_in_it():
    for path in LIBRARY:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_words_stay_out_of_the_code(path):
    """A name that only its author understands costs every reader a search."""
    text = path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    assert not names & BANNED and path.name not in PRIVATE_MODULES
