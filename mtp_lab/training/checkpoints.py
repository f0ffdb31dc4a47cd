"""The state of a training as one safetensors file, with the hash of its content in its name.

`step-00000100-<first digits of the file's SHA-256>.safetensors` holds weights and optimizer moments. It is written
atomically and read only if the digits agree. So a truncated or altered file is detected and reported, and the one
before it is used instead. Nothing is ever unpickled.
"""

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mtp_lab.files import write_atomic

KEPT = 2  # checkpoints of a training
DIGITS = 16


class DamagedFile(ValueError):
    """A file whose content is not what was written."""


def digest(content: bytes) -> str:
    """The first DIGITS hex digits of the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """Tensors of the safetensors file with digest `expected`.

    Raises:
        DamagedFile: with the path, if the file is truncated, altered or not a safetensors file.
    """
    content = path.read_bytes()
    if digest(content) != expected:
        raise DamagedFile(f"{path} is damaged ({len(content)} bytes, not what was written); delete it to go on without")
    try:
        return load(content)
    except SafetensorError as error:  # the digest is right, but the file has another format, such as a pickle
        raise DamagedFile(f"{path} holds no tensors ({error}); delete it to go on without") from error


def save_checkpoint(folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Writes the state after `step` steps, then removes all checkpoints but the newest KEPT."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for k, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    save_tensors(folder, step, tensors)
    for old in _files(folder)[:-KEPT]:
        old.unlink()


def save_weights(folder: Path, step: int, model: nn.Module) -> None:
    """Writes the weights only; those of other steps are kept."""
    save_tensors(folder, step, model.state_dict())


def save_tensors(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Writes one file, named after the step and its digest. An older file of the same step is removed."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    path = folder / f"step-{step:08d}-{digest(content)}.safetensors"
    write_atomic(path, content)
    for other in folder.glob(f"step-{step:08d}-*.safetensors"):
        if other != path:
            other.unlink()


def files_by_step(folder: Path) -> dict[int, Path]:
    """The files that `save_weights` or `save_checkpoint` wrote, by step, ascending."""
    return {int(path.stem.split("-")[1]): path for path in _files(folder)}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors that `save_weights` or `save_checkpoint` wrote, checked against the digits in the file's name.

    Raises:
        DamagedFile: with the path, if the file is truncated or altered.
    """
    return read_tensors(path, path.stem.split("-")[2])


def load_checkpoint(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, list[str]]:
    """Loads the newest undamaged checkpoint into model and optimizers.

    Returns:
        The number of steps done (0 without a checkpoint), and a message for each damaged file that was skipped.
    """
    damaged = []
    for step, path in reversed(files_by_step(folder).items()):
        try:
            tensors = load_tensors(path)
        except DamagedFile as error:
            damaged.append(str(error))
            continue
        model.load_state_dict(
            {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        )
        for k, optimizer in enumerate(optimizers):
            _load_optimizer(optimizer, {name: t for name, t in tensors.items() if name.startswith(f"optimizer.{k}.")})
        return step, damaged
    return 0, damaged


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        _, _, index, field = name.split(".")
        state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _files(folder: Path) -> list[Path]:
    """The files of `save_tensors`, in the order of their steps."""
    pattern = re.compile(rf"step-\d{{8}}-[0-9a-f]{{{DIGITS}}}\.safetensors")
    return sorted(path for path in folder.glob("step-*.safetensors") if pattern.fullmatch(path.name))
