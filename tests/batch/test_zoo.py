"""The zoo: what was trained, packed in few bytes and unpacked elsewhere, is found as if it had been trained there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp_lab.batch import zoo
from mtp_lab.batch.zoo import pack, unpack
from mtp_lab.cli import main
from mtp_lab.cli.runs import run_lines
from mtp_lab.experiments.registry import TRAININGS, trainings
from mtp_lab.training import loop, zoo_files
from mtp_lab.training.checkpoints import DamagedFile
from mtp_lab.training.runs import get_run, get_runs
from mtp_lab.training.zoo_files import FILE, SNAPSHOTS, dequantize, packed_files, quantize

NOTEBOOK = "04_induction_heads"
STUDY = dict(preset="smoke", seeds=1, only=(NOTEBOOK,))
CONFIGS = trainings(NOTEBOOK, "smoke", 1)
"""Two models of stories, with snapshots at steps 0, 1, 2, 3 and 4."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("trained")
    for config in CONFIGS.values():
        get_run(config, folder)
    return str(folder)


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("zoo"))
    pack(**STUDY, runs_dir=trained, zoo=folder)
    return folder


@pytest.fixture
def copied(packed, tmp_path) -> Path:
    """A zoo that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "zoo"))


@pytest.fixture
def forbidden(monkeypatch) -> None:
    """Whoever trains a model in this process fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(loop, "train", refuse)


def content(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder, locks left out."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_nothing_is_trained_on_what_was_unpacked(trained, packed, tmp_path, forbidden):
    """Log and config are those of the training; model and snapshots are there, whole, and close to it: no weight is
    off by more than 1/160 of its row's largest, in the end or in a snapshot.
    Catches: a run under another hash, rows and columns exchanged, the weights of another step."""
    unpack(**STUDY, runs_dir=str(tmp_path), zoo=packed)
    runs, originals = get_runs(list(CONFIGS.values()), tmp_path), get_runs(list(CONFIGS.values()), trained)
    for run, original in zip(runs, originals, strict=True):
        assert run.path == tmp_path / original.path.relative_to(trained)
        for name in ("config.json", "metrics.jsonl"):
            assert (run.path / name).read_bytes() == (original.path / name).read_bytes()
        assert original.snapshots() == [0, 1, 2, 3, 4] and run.snapshots() == [0, 1, 2, 4]
        assert len(run.snapshots()) == SNAPSHOTS
        for step in (None, *run.snapshots()):
            weights, exact = run.model(step).state_dict(), original.model(step).state_dict()
            assert weights.keys() == exact.keys()
            for name, value in exact.items():
                bound = value.abs().amax(-1, keepdim=True) / 160 if value.dim() > 1 else 0
                assert ((weights[name] - value).abs() <= bound).all(), (step, name)


def test_the_loss_stays_what_it_was(trained, packed, tmp_path):
    """Rounding changes the validation loss by as much as the run says, and by less than a hundredth of a nat.
    Catches: a change measured on other rows, with the wrong sign, or not at all."""
    unpack(**STUDY, runs_dir=str(tmp_path), zoo=packed)
    for folder, config in CONFIGS.items():
        losses = [
            get_run(config, where).final_losses("validation", config.evaluate_rows).loss
            for where in (trained, tmp_path)
        ]
        change = losses[1][0] - losses[0][0]
        assert 0 < abs(change) < zoo_files.TOLERANCE
        assert run_lines(tmp_path / folder)[1].endswith(f"validation loss by {change:+.5f} nats")
        assert not run_lines(Path(trained) / folder)[1].startswith("weights")


def test_quantization_is_to_the_nearest_unit():
    """Against numpy, row by row; a row of zeros stays one, and an entry of 10^30 or 10^-30 keeps its size.
    Catches: one unit for all rows, units that leave the range of their type, 0 / 0."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(6, 50)).astype(np.float32) * np.array([[1, 1e-3, 1e30, 1e-30, 0, 7]], np.float32).T
    whole, unit = quantize(torch.from_numpy(weights))
    assert whole.dtype == torch.int8 and unit.dtype == torch.bfloat16 and unit.shape == (6, 1)
    for row, units, k in zip(weights, unit.float().numpy()[:, 0], whole.numpy(), strict=True):
        assert units == pytest.approx(np.abs(row).max() / 127, rel=2**-8)
        nearest = np.abs(row[:, None] - np.arange(-127, 128) * units.astype(np.float64)).argmin(1) - 127
        assert (k == nearest).all() or not row.any() and not k.any()
    assert torch.equal(dequantize(whole, unit)[4], torch.zeros(50))


def test_packing_again_gives_the_same_zoo(trained, packed, copied):
    """Byte for byte, and what the zoo held before is gone; files of other kinds are left alone.
    Catches: times or orders in the files, a second file of a run that was trained anew."""
    old = next(copied.glob("*/*"))
    old.rename(old.with_name(FILE.fullmatch(old.name)["run"] + "-0123456789abcdef.safetensors"))
    (copied / "README").write_text("about")
    pack(**STUDY, runs_dir=trained, zoo=str(copied))
    assert content(copied) == content(packed) | {"README": b"about"}


def test_runs_that_are_there_stay_as_they_are(packed, tmp_path, capsys):
    """A trained run is better than the zoo's, and a begun training is somebody's.
    Catches: a run that is overwritten, a checkpoint that is deleted."""
    first, second = (tmp_path / folder for folder in CONFIGS)
    for path in (first / "done.json", second / "checkpoints" / "step"):
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    before = content(tmp_path)
    unpack(**STUDY, runs_dir=str(tmp_path), zoo=packed)
    assert content(tmp_path) == before
    out = capsys.readouterr().out
    assert (
        f"{NOTEBOOK}: 1 already there, 1 started by a training and left to it" in out and "left to train: 1 runs" in out
    )


@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["first byte", "middle", "last byte"])
def test_a_flipped_bit_is_found(copied, tmp_path, share):
    """One bit, anywhere, in any file: an error with the file's name, and not that run.
    Catches: weights that nobody wrote, taken for a model."""
    for i, file in enumerate(sorted(copied.glob("*/*"))):
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[round(share * (len(whole) - 1))] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=file.name):
            unpack(**STUDY, runs_dir=str(tmp_path / f"{i}"), zoo=str(copied))
        assert not (tmp_path / f"{i}" / file.parent.name / FILE.fullmatch(file.name)["run"]).exists()
        file.write_bytes(whole)


def test_an_interrupted_unpacking_leaves_nothing_half_done(packed, tmp_path, monkeypatch):
    """It ends in the middle of the second run: the first is whole, nothing is left of the second, and unpacking goes
    on. A process that was killed could not clean up; the next one does.
    Catches: a run without its log that is taken for a finished one, snapshots of a zoo beside those of a training."""
    written = []

    def write(path: Path, content: bytes | str) -> None:
        written.append(path.name)
        if written.count("metrics.jsonl") == 2:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    with monkeypatch.context() as patched:
        patched.setattr(zoo, "write_atomic", write)
        with pytest.raises(KeyboardInterrupt):
            unpack(**STUDY, runs_dir=str(tmp_path), zoo=packed)
    first, second = CONFIGS
    assert {path.rpartition("/snapshots")[0] or path.rpartition("/")[0] for path in content(tmp_path)} == {first}

    killed = tmp_path / f".zoo-{Path(second).name}"
    killed.mkdir()
    (killed / "stray").write_text("half")
    unpack(**STUDY, runs_dir=str(tmp_path), zoo=packed)
    unpack(**STUDY, runs_dir=str(tmp_path / "elsewhere"), zoo=packed)
    elsewhere = {f"elsewhere/{name}": value for name, value in content(tmp_path / "elsewhere").items()}
    assert content(tmp_path) == content(tmp_path / "elsewhere") | elsewhere


def test_what_is_missing_is_named_with_what_trains_it(trained, tmp_path, capsys):
    """One run of two: nothing is packed.
    Catches: a zoo that lacks a model, which a course finds out."""
    first, second = CONFIGS
    shutil.copytree(Path(trained) / first, tmp_path / first)
    where = ["--preset", "smoke", "--seeds", "1", "--runs-dir", str(tmp_path)]
    assert main(["zoo", "pack", *where, "--zoo", str(tmp_path / "zoo"), "--only", NOTEBOOK]) == 2
    error = capsys.readouterr().err
    assert second in error and first not in error
    assert f"train them: mtp-lab study {' '.join(where)} --only {NOTEBOOK}" in error
    assert not (tmp_path / "zoo").exists()


def test_a_zoo_has_its_bound(trained, copied, monkeypatch):
    """A zoo that is too large is refused with its size, and the old one stays.
    Catches: a repository that grows by what nobody looked at."""
    before, size = content(copied), sum(map(len, content(copied).values())) / 1e6
    monkeypatch.setattr(zoo, "LIMIT_MB", size - 1e-6)
    with pytest.raises(ValueError, match=f"{size:.1f} MB are more than a zoo may have"):
        pack(**STUDY, runs_dir=trained, zoo=str(copied))
    assert content(copied) == before
    monkeypatch.setattr(zoo, "LIMIT_MB", size)
    pack(**STUDY, runs_dir=trained, zoo=str(copied))


def test_rounded_weights_are_not_packed_again(packed, tmp_path):
    """Catches: a zoo of a zoo, whose runs say that they are as close to the training as the first."""
    unpack(**STUDY, runs_dir=str(tmp_path), zoo=packed)
    with pytest.raises(ValueError, match="came out of a zoo"):
        pack(**STUDY, runs_dir=str(tmp_path), zoo=str(tmp_path / "zoo"))


def test_a_run_without_its_snapshots_is_refused(trained, tmp_path):
    """Catches: a zoo made after `runs prune --snapshots`, on which a notebook fails."""
    runs = Path(shutil.copytree(trained, tmp_path / "runs"))
    shutil.rmtree(runs / next(iter(CONFIGS)) / "snapshots")
    with pytest.raises(ValueError, match="has lost its snapshots"):
        pack(**STUDY, runs_dir=str(runs), zoo=str(tmp_path / "zoo"))


def test_weights_that_8_bits_do_not_hold_are_refused(trained, tmp_path, monkeypatch):
    """Catches: a model in the zoo that is another than the one that was trained."""
    monkeypatch.setattr(zoo_files, "TOLERANCE", 1e-9)
    with pytest.raises(ValueError, match="8 bits change the validation loss by"):
        pack(**STUDY, runs_dir=trained, zoo=str(tmp_path))


def test_models_that_the_zoo_lacks_are_told(copied, tmp_path, capsys):
    """A run of another config, say of another Python's library, is not there: the notebook will train it.
    Catches: "nothing is left to train" where an hour is."""
    next(copied.glob("*/*")).unlink()
    unpack(**STUDY, runs_dir=str(tmp_path), zoo=str(copied))
    out = capsys.readouterr().out
    assert "1 unpacked" in out and "1 not in the zoo and left to train" in out and "left to train: 1 runs" in out
    with pytest.raises(ValueError, match="no model in"):
        unpack(**STUDY, runs_dir=str(tmp_path), zoo=str(tmp_path / "nowhere"))


def test_another_python_is_said_where_models_of_bytes_lack(packed, tmp_path, capsys, monkeypatch):
    """Catches: a course that wonders why two notebooks train."""
    monkeypatch.setattr(zoo.platform, "python_version", lambda: "3.99.1")
    unpack("smoke", 1, str(tmp_path), packed, only=("02_real_bytes", NOTEBOOK))
    bytes_line, reason, other, *_ = capsys.readouterr().out.splitlines()
    assert bytes_line == "02_real_bytes: 3 not in the zoo and left to train"
    assert "of Python 3." in reason and "this is Python 3.99.1" in reason
    assert other == f"{NOTEBOOK}: 2 unpacked"


def test_an_unknown_notebook_is_named(packed, tmp_path):
    """Catches: a misspelt name that unpacks nothing."""
    with pytest.raises(ValueError, match="00_token_streams: no notebook that trains models; use 02_real_bytes"):
        unpack("smoke", 1, str(tmp_path), packed, only=("00_token_streams",))


def test_the_committed_zoo_is_what_the_notebooks_ask_for():
    """Of every notebook; names of runs on bytes depend on the library of the Python that runs this, the others do not.
    Catches: a preset that changed after the zoo was packed, so that a course trains after all."""
    packed = packed_files(Path(__file__).parents[2] / "zoo")
    for notebook in TRAININGS:
        for folder, config in trainings(notebook, "quick", 0).items():
            assert config.task.name == "bytes" or folder in packed, f"{notebook}: {folder}"
    assert sum(file.stat().st_size for file in packed.values()) < 30e6
