"""The public API: what is promised is there, loads late, and every example of it runs."""

import doctest
import inspect
import subprocess
import sys

import pytest
import torch

import mtp_lab


def test_every_public_name_loads():
    """A name that moved would fail at the user's first line."""
    assert sorted(mtp_lab.__all__) == mtp_lab.__all__ == sorted(mtp_lab._MODULES)
    for name in mtp_lab.__all__:
        assert getattr(mtp_lab, name).__name__ == name and name in dir(mtp_lab)


def test_an_unknown_name_is_refused_with_the_public_ones():
    with pytest.raises(AttributeError, match="has no attribute 'Modl'; the public names are Batch, "):
        _ = mtp_lab.Modl


def test_importing_the_package_loads_no_torch():
    """`mtp-lab --help` and `import mtp_lab` would take seconds."""
    code = "import sys, mtp_lab; mtp_lab.ModelConfig; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", mtp_lab.__all__)
def test_the_example_of_every_public_name_runs(name, tmp_path, monkeypatch):
    """An example that fails teaches that the documentation is wrong. Models come from the repository's zoo, and what
    is trained goes to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    value = getattr(mtp_lab, name)
    names = {public: getattr(mtp_lab, public) for public in mtp_lab.__all__} | {"torch": torch}
    tests = doctest.DocTestFinder(recurse=False).find(value, name, module=inspect.getmodule(value), globs=names)
    assert sum(len(test.examples) for test in tests) > 0, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.failures == 0
