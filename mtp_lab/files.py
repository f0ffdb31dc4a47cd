"""Files that are either complete or absent: written under a temporary name, flushed to disk, then renamed."""

import os
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` to `path`. After a crash or on a full disk the old content stays, without a temporary file.

    Raises:
        OSError: with the path in its message, if the file cannot be written (disk full, read-only folder).
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
        raise _write_error(path, error) from error
    finally:
        with suppress(OSError):  # it was renamed or never created
            temporary.unlink()


def append_line(path: Path, line: str) -> None:
    """Appends a line to a file. On a full disk a part of the line may be written.

    Raises:
        OSError: as in `write_atomic`.
    """
    try:
        with path.open("a") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise _write_error(path, error) from error


def complete_lines(path: Path) -> list[str]:
    """The lines of a file that end with a line break; an empty list if there is no file."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def remove_temporary_files(folder: Path) -> None:
    """Removes the files that killed processes left in the middle of `write_atomic`, in a folder and below it.

    No other process may be writing to the folder.
    """
    for path in folder.rglob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()


def _write_error(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot write {path}: {error.strerror}; free some space or choose another folder")
