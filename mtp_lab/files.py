"""Files that are either whole or absent: written beside their place, flushed to disk, then renamed."""

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` to `path`; a crash or a full disk leaves what was there before, and no fragment.

    Raises:
        OSError: naming the path, if it cannot be written (disk full, read-only folder).
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
