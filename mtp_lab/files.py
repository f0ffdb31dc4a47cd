"""Files that are either whole or absent: written beside their place, flushed to disk, then renamed."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


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
        why = f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        raise OSError(error.errno, why) from error
    finally:
        with suppress(OSError):  # gone, or never made
            temporary.unlink()
