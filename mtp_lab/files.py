"""Files that are either whole or absent: written beside their place, flushed to disk, then renamed."""

import os
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

FRAGMENT = re.compile(r"\..+\.[0-9a-f]{8}")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` to `path`; a crash or a full disk leaves what was there before, and no fragment.

    Raises:
        OSError: naming the path, if it cannot be written (disk full, read-only folder).
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):  # gone, or never made
            temporary.unlink()


def append_line(path: Path, line: str) -> None:
    """Writes a line at the end of a file; on a full disk a part of it may stay there.

    Raises:
        OSError: as write_atomic.
    """
    try:
        with path.open("a") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise _unwritten(path, error) from error


def whole_lines(path: Path) -> list[str]:
    """The lines that `append_line` has written to their end; none if there is no file."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def remove_fragments(folder: Path) -> None:
    """Removes what processes that were killed in the middle of `write_atomic` have left in a folder and below it; for
    folders to which nobody else writes."""
    for path in folder.rglob(".*"):
        if FRAGMENT.fullmatch(path.name):
            path.unlink()


def _unwritten(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot write {path}: {error.strerror}; free some space or choose another folder")
