"""The files that install and run the project agree with each other: pyproject.toml is the one source of
dependencies, constraints.txt holds the exact version of each, environment.yml and the Makefile only point at
the two. What happens to be installed is deliberately not looked at."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mtp_lab.training.zoo_files import packed_files, read_texts

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(r) for r in sum(EXTRAS.values(), PROJECT["dependencies"])]
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!]*)")  # no +local tag, marker, URL or path


def pin_lines():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins():
    matches = [m for m in map(PIN.fullmatch, pin_lines()) if m]
    return {canonicalize_name(m[1]): Version(m[2]) for m in matches}


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


@pytest.fixture
def make(tmp_path):
    """Runs make in a folder that holds only what an install reads; nothing is installed."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    # An outer `make -j test` would pass its own flags and variables on.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON")}
    return lambda *args: subprocess.run(["make", *args], cwd=tmp_path, env=env, capture_output=True, text=True)


def test_environment_has_the_keys_conda_needs(environment):
    """Catches: a misspelt key, which conda drops without a word."""
    assert set(environment) == {"name", "channels", "dependencies"}
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]


def test_environment_has_the_python_of_the_zoo_and_pyproject_allows_it(environment):
    """Catches: a course in whose Python the zoo's models of bytes are not found, or that pip then refuses."""
    specs = [Requirement(d) for d in environment["dependencies"] if isinstance(d, str)]
    assert [s.name for s in specs] == ["python", "pip"]
    (pin,) = specs[0].specifier
    assert pin.operator == "==" and pin.version in SpecifierSet(PROJECT["requires-python"])
    assert {read_texts(file)["python"] for file in packed_files(ROOT / "zoo").values()} == {pin.version}


def test_environment_takes_its_packages_from_pyproject(environment):
    """Catches: a second list of dependencies growing in environment.yml, or an extra that was renamed."""
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    constraint, install = pip
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", install)[1].split(",")
    assert "dev" in extras and set(extras) <= set(EXTRAS)


def test_constraints_are_exact_pins():
    """Catches: what `pip freeze` writes on a machine with local wheels (name @ file:..., torch==x+cpu), which
    installs nowhere else; a range; a hand-edited line."""
    assert [line for line in pin_lines() if not PIN.fullmatch(line)] == []


def test_constraints_name_no_package_twice_and_not_what_they_must_not_hold():
    """Catches: a merge that keeps both versions (pip then finds no solution), the project pinned to itself,
    and an installer held at a version of our machine."""
    names = [canonicalize_name(re.split("[=<>@ ]", line)[0]) for line in pin_lines()]
    assert sorted(set(names)) == sorted(names)
    assert not {"pip", "setuptools", "wheel", canonicalize_name(PROJECT["name"])} & set(names)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_pin_within_its_bounds(requirement):
    """Catches: a dependency added or a bound moved without `make constraints`; pip would take whatever is
    newest today, or refuse."""
    if canonicalize_name(requirement.name) == canonicalize_name(PROJECT["name"]):
        pytest.skip("an extra that names other extras")
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} has no pin"
    assert requirement.specifier.contains(pin, prereleases=True), f"{pin} is outside {requirement}"


def test_plotly_still_accepts_the_pinned_kaleido():
    """Catches: plotly moved to 7 alone. It declares no dependency on kaleido, so pip is content, and the
    first figure written as PNG raises."""
    assert pins()["kaleido"] >= Version("1") or pins()["plotly"] < Version("7")


def test_ci_runs_the_tests_through_make():
    """Catches: a build server with its own recipe, green while `make test` on a fresh clone is broken."""
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert re.match(r"(exec )?make test\b", lines[-1])
    assert os.access(script, os.X_OK)


def test_make_help_lists_every_target(make):
    """Catches: a target without its line of help, or study or test renamed."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    listed = dict(line.split(maxsplit=1) for line in make("help").stdout.splitlines())
    assert {"study", "test"} <= set(phony) == set(listed)


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_only_when_an_input_changed(make, tmp_path, changed):
    """Catches: an install before every test run, and a new dependency that never gets installed."""
    stamp = tmp_path / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    os.utime(stamp, (2000, 2000))
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(tmp_path / name, (1000, 1000))
    assert "pip install" not in make("-n", "test").stdout
    os.utime(tmp_path / changed, (3000, 3000))
    assert "-c constraints.txt -e '.[dev]'" in make("-n", "test").stdout


def test_an_interrupted_install_is_not_taken_for_a_complete_one(make, tmp_path):
    """Catches: a stamp touched before pip succeeded; the next make would run tests in half an environment."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$3" = --version ]\n')  # pip is there, `pip install` fails
    python.chmod(0o755)
    assert make("install").returncode != 0
    assert not (tmp_path / ".venv" / ".installed").exists()
    assert "pip install" in make("-n", "install").stdout


def test_make_refuses_an_old_python_in_one_line(make, tmp_path):
    """Catches: a venv made with an old Python, whose failure is a page of pip's resolver minutes later."""
    result = make("PYTHON=false", "install")
    assert result.returncode != 0
    assert "error: 'false' is not Python 3.11 or newer" in result.stderr
    assert not (tmp_path / ".venv").exists()
