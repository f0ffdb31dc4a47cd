"""Files are whole or absent, whatever happens while they are written; the allocator keeps what it is given."""

import os
import platform
import resource

import pytest

from mtp_lab.files import write_atomic
from mtp_lab.training.hardware import keep_memory


def test_write_atomic_writes_bytes_and_text(tmp_path):
    """Content of either type, into folders that need not exist, over what was there; nothing else is left.
    Catches: another encoding on another machine, temporary files that pile up."""
    path = tmp_path / "a" / "b" / "file.json"
    write_atomic(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_atomic(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_in_the_middle_keeps_what_was_there(tmp_path):
    """A file that may not grow to its full size, as on a full disk: an OSError with the path and a way out; the old
    content stays, or the file stays absent, and no fragment is left.
    Catches: writing in place, and temporary files that fill the disk further."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # Python ignores SIGXFSZ, so that the write gives EFBIG
    try:
        for target in (path, tmp_path / "new"):
            with pytest.raises(OSError, match=f"cannot write {target}: File too large; free some space"):
                write_atomic(target, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_taken_is_named(tmp_path):
    """A folder in the file's place, or a file in its folder's: an OSError with the path, all untouched, no fragment.
    Catches: an error that names the temporary file only, or that of the cleaning up in place of the first."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("here first")
    for taken in (tmp_path / "folder", tmp_path / "file" / "below", tmp_path / "file" / "further" / "below"):
        with pytest.raises(OSError, match=f"cannot write {taken}: "):
            write_atomic(taken, "content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "here first"


def test_content_that_is_no_content_leaves_no_fragment(tmp_path):
    """A mistake of the caller's is raised as it is, and leaves nothing behind either.
    Catches: fragments left by errors other than the disk's."""
    with pytest.raises((TypeError, AttributeError)):
        write_atomic(tmp_path / "file", 3.5)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_a_file(tmp_path):
    """The new content comes as a new file in the old one's place: who has the old one open reads it to its end.
    Catches: truncating and writing in place."""
    path = tmp_path / "metrics"
    path.write_bytes(b"old content")
    with path.open("rb") as reader:
        write_atomic(path, b"new")
        assert reader.read() == b"old content"
    assert path.read_bytes() == b"new"


def test_the_umask_decides_who_may_read(tmp_path):
    """Files that are written atomically have the permissions of ordinary ones.
    Catches: results that nobody but their owner can read, as temporary files are made."""
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert oct((tmp_path / "file").stat().st_mode & 0o777) == oct(0o640)


def test_keep_memory_is_idempotent():
    """True where glibc took the thresholds, False elsewhere, the same at every call.
    Catches: a crash without glibc, thresholds that are reported but not taken."""
    kept = keep_memory()
    assert kept is keep_memory() and isinstance(kept, bool)
    if platform.libc_ver()[0] == "glibc":
        assert kept
