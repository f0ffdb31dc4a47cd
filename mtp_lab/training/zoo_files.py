"""A finished run in one small file: weights in 8 bits, some snapshots likewise, and config, log and facts as text.

    <task>/<name>-<hash>-<digits>.safetensors    the digits are the first of the file's SHA-256

A matrix is stored in steps of 1/127 of the largest absolute value of each row (symmetric, rounded to nearest; Dettmers
et al. 2022, LLM.int8(), section 2.1). How that changes the validation loss is measured at packing, and stays with the
run. A `PackedRun` is used like any other run, without unpacking. Which runs the zoo holds is decided in
`mtp_lab.batch.zoo`.
"""

import json
import platform
import re
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtp_lab.config import TrainConfig
from mtp_lab.serialization import from_mapping
from mtp_lab.training.runs import Run

if TYPE_CHECKING:  # torch is imported on first use
    from torch import Tensor

TOLERANCE = 0.01
"""Largest change of the next-token validation loss, in nats, that rounding to 8 bits may cause."""
SNAPSHOTS = 4
"""Snapshots that are kept of a run that has more: evenly spread, the first and the last among them."""
TEXTS = ("config.json", "metrics.jsonl")
FILE = re.compile(r"(?P<run>.+-[0-9a-f]{10})-(?P<digits>[0-9a-f]{16})\.safetensors")


class PackedRun(Run):
    """A finished run that is read from its packed file."""

    @property
    def name(self) -> str:
        return FILE.fullmatch(self.path.name)["run"]

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._texts["metrics.jsonl"].splitlines()]

    def facts(self) -> dict[str, Any]:
        return self._texts["done"]

    def snapshots(self) -> list[int]:
        return self._steps if len(self._steps) > 1 else []

    def weights(self, step: int | None = None) -> "dict[str, Tensor]":
        if step is not None:
            self.check_snapshot(step)
        return states(read(self.path))[self.config.steps if step is None else step]

    @cached_property
    def _texts(self) -> dict[str, Any]:
        return read_texts(self.path)

    @cached_property
    def _steps(self) -> list[int]:
        return sorted(states(read(self.path)))


def open_packed(file: Path) -> PackedRun:
    """The run in a packed file. Raises DamagedFile, naming the file, if it is not what was packed."""
    return PackedRun(file, from_mapping(TrainConfig, json.loads(read_texts(file)["config.json"])))


def packed_files(zoo: str | Path) -> dict[str, Path]:
    """Every packed file of a zoo: the run's folder below a runs directory -> file."""
    paths = ((path, FILE.fullmatch(path.name)) for path in sorted(Path(zoo).glob("*/*")))
    return {f"{path.parent.name}/{match['run']}": path for path, match in paths if match}


# --- The file format -----------------------------------------------------------------------------------------------


def pack_run(run: Run) -> tuple[bytes, float]:
    """The packed file of a finished run, and the change of its next-token validation loss by rounding, in nats.

    Raises:
        ValueError: if the run comes from a packed file itself, lacks its snapshots, or needs more than 8 bits.
        DamagedFile: if its weights are not what was written.
    """
    import torch
    from safetensors.torch import save

    from mtp_lab.model.predictions import loss_per_horizon

    config, facts = run.config, run.facts()
    if "zoo" in facts:
        raise ValueError(f"{run.path} came out of a zoo; rounded weights are not packed again: train it")
    if config.snapshot_every and not run.snapshots():
        raise ValueError(f"{run.path} has lost its snapshots, which a notebook looks at; delete it and train it again")
    model = run.model()
    held_out = config.task.held_out("validation", config.evaluate_rows)
    before = loss_per_horizon(model, held_out)[0]
    tensors = _packed_tensors(run)
    model.load_state_dict(states(tensors)[config.steps])
    change = float(loss_per_horizon(model, held_out)[0] - before)
    if not abs(change) <= TOLERANCE:
        raise ValueError(f"{run.path}: 8 bits change the validation loss by {change:+.4f} nats, more than {TOLERANCE}")
    facts["zoo"] = f"8 bits a weight, out of the zoo; that changed the next-token validation loss by {change:+.5f} nats"
    texts = {"python": platform.python_version(), "done": facts} | {n: (run.path / n).read_text() for n in TEXTS}
    compressed = zlib.compress(json.dumps(texts).encode(), 9)
    return save(tensors | {"text": torch.frombuffer(bytearray(compressed), dtype=torch.uint8)}), change


def _packed_tensors(run: Run) -> "dict[str, Tensor]":
    """Tensors named step/weight: those of the last step, and of some snapshots before it."""
    before = run.snapshots()[:-1]  # the last snapshot is the trained model
    some = {before[i * len(before) // (SNAPSHOTS - 1)] for i in range(SNAPSHOTS - 1)} if before else set()
    weights = {step: run.weights(step) for step in sorted(some)} | {run.config.steps: run.weights()}
    tensors = {}
    for step, state in weights.items():
        for name, value in state.items():
            key = f"{step}/{name}"
            if value.dim() < 2:  # gains and biases: few numbers, each with a large effect
                tensors[key] = value
            else:
                tensors[key], tensors[f"{key}/unit"] = quantize(value)
    return tensors


def quantize(weights: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Rounds each row to units of 1/127 of its largest absolute value.

    Args:
        weights: (rows, columns).

    Returns:
        int8 numbers of units (rows, columns), and the units (rows, 1) in bf16, which has the range of fp32.
    """
    import torch

    unit = (weights.abs().amax(-1, keepdim=True) / 127).bfloat16()  # (rows, 1)
    multiples = torch.where(unit > 0, weights / unit.float(), 0).round()  # a row of zeros has no unit
    return multiples.clamp(-127, 127).to(torch.int8), unit


def dequantize(multiples: "Tensor", unit: "Tensor") -> "Tensor":
    """(rows, columns) weights in fp32 from what `quantize` returned."""
    return multiples.float() * unit.float()


def read(file: Path) -> "dict[str, Tensor]":
    """Tensors of a packed file. Raises DamagedFile, naming it, if it is not what was packed."""
    from mtp_lab.training.checkpoints import read_tensors

    return read_tensors(file, FILE.fullmatch(file.name)["digits"])


def states(tensors: "dict[str, Tensor]") -> "dict[int, dict[str, Tensor]]":
    """Training step -> weights in fp32."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match key.split("/"):
            case [step, name]:
                unit = tensors.get(f"{key}/unit")
                found.setdefault(int(step), {})[name] = value if unit is None else dequantize(value, unit)
    return found


def read_texts(file: Path) -> dict[str, Any]:
    """config.json, metrics.jsonl, "done" (the run's facts) and "python" (the release that packed it) of a packed file.

    Only the text is read, and the digits of the file are not checked.
    """
    from safetensors import SafetensorError, safe_open

    from mtp_lab.training.checkpoints import DamagedFile

    try:
        with safe_open(file, framework="numpy") as tensors:
            return json.loads(zlib.decompress(tensors.get_tensor("text")))
    except (SafetensorError, zlib.error, ValueError) as error:
        raise DamagedFile(f"{file} is damaged ({error}); take it from the repository again") from error
