"""The batch as Snakemake jobs: every test states a property and the bug it would catch.

Snakemake runs in processes of its own, in a temporary repository: workflow/ and the notebooks, without any run.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtp_lab.batch import plan
from mtp_lab.experiments import registry
from mtp_lab.experiments.polynomials.conditions import all_configs
from mtp_lab.experiments.real_bytes.conditions import bytes_configs

pytest.importorskip("snakemake", reason="Snakemake is not installed; pip install -e '.[batch]'")

SHORT = "02_real_bytes"


@pytest.fixture
def repository(tmp_path) -> Path:
    """What Snakemake reads, the library aside."""
    shutil.copytree(plan.HOME / "workflow", tmp_path / "workflow")
    (tmp_path / "notebooks").mkdir()
    for name in plan.NOTEBOOKS:
        shutil.copy(plan.HOME / "notebooks" / f"{name}.py", tmp_path / "notebooks")
    return tmp_path


def snakemake(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Snakemake with preset smoke, in a process group of its own."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    if "--config" not in arguments:
        command += ["--config", "preset=smoke", f"notebooks=[{SHORT}]"]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, start_new_session=True)


def outputs(dry_run: subprocess.CompletedProcess) -> list[str]:
    """What the jobs of a dry run would write, sorted, as often as they would."""
    assert dry_run.returncode == 0, dry_run.stderr
    return sorted(re.findall(r"^    output: (\S+)", dry_run.stdout + dry_run.stderr, re.M))


def stamp(name: str) -> str:
    return f"results/smoke/figures/{name}/stamp.json"


def waiting(repository: Path, notebooks: str) -> set[tuple[str, str]]:
    """Pairs of jobs, by their labels: the second waits for the first. At preset smoke with one seed."""
    graph = snakemake(repository, "--dag", "dot", "--config", "preset=smoke", "seeds=1", notebooks).stdout
    labels = dict(re.findall(r'^\s*(\d+)\[label = "(.*?)"', graph, re.M))
    return {(labels[first], labels[second]) for first, second in re.findall(r"^\s*(\d+) -> (\d+)", graph, re.M)}


def test_the_jobs_are_the_trainings_and_notebooks_of_the_study(repository):
    """For preset smoke: every run of every notebook once, every notebook, the verdicts; nothing is written.
    Catches: a notebook whose trainings the batch forgets, a run that several notebooks share trained by each."""
    runs = {run for name in plan.NOTEBOOKS for run in registry.trainings(name, "smoke", 0)}
    expected = [f"runs/{run}/done.json" for run in runs] + list(map(stamp, plan.NOTEBOOKS))
    dry_run = snakemake(repository, "--dry-run", "--config", "preset=smoke")
    assert outputs(dry_run) == sorted([*expected, "results/smoke/figures/verdicts.json"])
    assert not (repository / "runs").exists() and not (repository / "results").exists()


def test_a_notebook_waits_for_its_trainings_and_the_verdicts_for_the_notebooks(repository):
    """With fewer seeds and two notebooks, one of which trains nothing.
    Catches: notebooks that train by themselves, and settings of seeds or notebooks that are ignored."""
    edges = waiting(repository, f"notebooks=[{SHORT}, 00_token_streams]")
    trains = {f"train\\nrun: {config.folder}" for config in bytes_configs("smoke", 1)}
    notebooks = {name: f"notebook\\nnotebook: {name}" for name in (SHORT, "00_token_streams")}
    assert edges == {(train, notebooks[SHORT]) for train in trains} | {(job, "study") for job in notebooks.values()}


def test_a_training_waits_for_the_one_it_starts_from(repository):
    """Catches: the second stage of a curriculum that is queued at once, and fails because the first is missing."""
    configs = all_configs("smoke", 1)
    edges = waiting(repository, "notebooks=[05_polynomials]")
    edges = {(first, second) for first, second in edges if "train" in second}
    label = "train\\nrun: {}".format
    assert edges == {(label(config.init_from), label(config.folder)) for config in configs if config.init_from}
    assert edges


def test_what_is_trained_is_not_a_job(repository):
    """Catches: a training submitted to a queue only to find itself done."""
    first, *others = bytes_configs("smoke")
    done = repository / "runs" / first.folder / "done.json"
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    trained = [output for output in outputs(snakemake(repository, "--dry-run")) if output.startswith("runs/")]
    assert trained == sorted(f"runs/{config.folder}/done.json" for config in others)


@pytest.mark.parametrize(
    "config, complaint",
    [
        ("prest=smoke", "--config prest is not known; use preset, seeds, runs_dir, out, notebooks"),
        ("notebooks=99_none", "notebook '99_none' is not known; use '00_token_streams'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(repository, config, complaint):
    """Catches: a misspelt setting that trains preset quick instead."""
    refused = snakemake(repository, "--dry-run", "--config", config)
    assert refused.returncode != 0 and complaint in refused.stdout + refused.stderr


def test_the_profile_of_a_cluster_is_read(repository):
    """Every setting of it is an option of Snakemake, and its defaults reach the jobs without settings of their own.
    Catches: an option that a new version renamed, a profile that fails only on a cluster."""
    profile = yaml.safe_load((repository / "workflow/profiles/slurm/config.yaml").read_text())
    assert profile["executor"] == "slurm"
    dry_run = snakemake(repository, "--dry-run", "--profile", "workflow/profiles/slurm")
    assert len(outputs(dry_run)) == len(bytes_configs("smoke")) + 2
    jobs = re.findall(r"^    resources: (.*)$", dry_run.stdout + dry_run.stderr, re.M)
    assert all("slurm_partition=PARTITION" in job and "runtime=720" in job for job in jobs)
    assert sorted(re.search(r"mem_mb=(\d+)", job)[1] for job in jobs) == ["2000"] * (len(jobs) - 1) + ["8000"]


# Python reads this at its start. The training of RUN dies while its second checkpoint takes its place, the first time.
DEADLY_TRAINING = """
import os, signal, sys
places = []
def hook(event, arguments):
    if event == "os.rename" and "checkpoints" in str(arguments[1]):
        places.append(arguments[1])
        if len(places) == 2 and not os.path.exists("died"):
            open("died", "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
if "{run}" in sys.orig_argv:
    sys.addaudithook(hook)
"""
# The kernel dies the first time. The second time all of the batch dies with it: Snakemake, the study, the jobs' shells.
DEADLY_CELL = """
# %%
import os, pathlib, psutil, signal, time
with open("deaths", "a") as deaths:
    deaths.write("x")
    attempt = deaths.tell()
if attempt == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if attempt == 2:
    os.killpg(os.getpgid(psutil.Process(os.getppid()).ppid()), signal.SIGKILL)
    time.sleep(60)
"""


def identity(root: Path) -> dict[str, tuple[int, str]]:
    """Of every finished run: the inode of its done.json, and the log of its training."""
    done = root.glob("runs/*/*/done.json")
    return {str(path): (path.stat().st_ino, path.with_name("metrics.jsonl").read_text()) for path in done}


def test_a_batch_continues_after_a_killed_training_a_killed_kernel_and_its_own_death(repository):
    """The training is tried again and continues from its checkpoint, and the kernel is started again. Then everything
    is killed, and the same command completes the batch, with every run trained once. Then there is nothing to do, and
    a forced run is not trained again. Takes most of a minute: Snakemake, Python and three kernels start for it.
    Catches: checkpoints or a run deleted as the output of a failed or forced job, trainings that start again."""
    config = bytes_configs("smoke")[-1]
    (repository / "sitecustomize.py").write_text(DEADLY_TRAINING.format(run=config.folder))
    notebook = repository / "notebooks" / f"{SHORT}.py"
    before, parameters, after = notebook.read_text().partition('\n# %% tags=["parameters"]')
    cell, *cells = after.split("\n# %%")
    notebook.write_text("\n# %%".join([before + parameters + cell + DEADLY_CELL.rstrip(), *cells]))

    first = snakemake(repository, PYTHONPATH=str(repository))
    assert first.returncode == -signal.SIGKILL and (repository / "deaths").read_text() == "xx", first.stderr
    trained = identity(repository)
    assert len(trained) == len(bytes_configs("smoke"))
    done = json.loads((repository / "runs" / config.folder / "done.json").read_text())
    assert (repository / "died").exists() and done["steps_in_seconds"] == config.steps - config.checkpoint_every

    assert snakemake(repository, "--unlock").returncode == 0
    second = snakemake(repository)
    assert second.returncode == 0, second.stderr
    assert (repository / "deaths").read_text() == "xxx"
    assert json.loads((repository / stamp(SHORT)).read_text())["preset"] == "smoke"
    verdicts = json.loads((repository / "results/smoke/figures/verdicts.json").read_text())
    assert [entry["notebook"] for entry in verdicts] == [SHORT]

    idle = snakemake(repository)
    assert idle.returncode == 0 and "Nothing to be done" in idle.stdout + idle.stderr
    forced = snakemake(repository, "--force", f"runs/{config.folder}/done.json")
    assert forced.returncode == 0 and f"{config.folder}: done" in forced.stdout
    assert identity(repository) == trained
