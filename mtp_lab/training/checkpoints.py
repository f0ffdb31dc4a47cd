"""The state of a training as one safetensors file that names its own content.

`step-000100-<first digits of the file's SHA-256>.safetensors` holds weights and optimizer moments. It is written
atomically and read only if the digits agree, so that a truncated or altered file is found out, named, and passed over
for the one before. Nothing is ever unpickled.
"""

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mtp_lab.files import write_atomic

KEPT = 2
DIGITS = 16


class DamagedFile(ValueError):
    """A file whose content is not what was written."""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file with the given digest.

    Raises:
        DamagedFile: naming the file, if it is truncated, altered or of another kind.
    """
    content = path.read_bytes()
    if digest(content) != expected:
        raise DamagedFile(f"{path} is damaged ({len(content)} bytes, not what was written); delete it to go on without")
    try:
        return load(content)
    except SafetensorError as error:  # its digits are right: somebody put a file of another kind there, say a pickle
        raise DamagedFile(f"{path} holds no tensors ({error}); delete it to go on without") from error


def save_checkpoint(folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Writes the state after `step` steps, then removes all but the newest KEPT."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for k, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    save_tensors(folder, step, tensors)
    for old in _checkpoints(folder)[KEPT:]:
        old.unlink()


def save_weights(folder: Path, step: int, model: nn.Module) -> None:
    """Writes the weights alone, to be kept beside those of other steps."""
    save_tensors(folder, step, model.state_dict())


def save_tensors(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Writes one file of `folder`, named after the step and its own digest; what another run of the step left goes."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    path = folder / f"step-{step:08d}-{digest(content)}.safetensors"
    write_atomic(path, content)
    for other in folder.glob(f"step-{step:08d}-*.safetensors"):
        if other != path:
            other.unlink()


def saved_weights(folder: Path) -> dict[int, Path]:
    """Steps, ascending, and the files of what `save_weights` or `save_checkpoint` wrote for them."""
    return {int(path.stem.split("-")[1]): path for path in reversed(_checkpoints(folder))}


def load_weights_of(path: Path) -> dict[str, Tensor]:
    """Tensors that `save_weights` or `save_checkpoint` wrote, checked against the digits in the file's name.

    Raises:
        DamagedFile: naming the file, if it is truncated or altered.
    """
    return read_tensors(path, path.stem.split("-")[2])


def load_checkpoint(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, list[str]]:
    """Puts the newest whole checkpoint into model and optimizers.

    Returns:
        The number of steps done (0 without any checkpoint), and a line for each damaged file passed over.
    """
    damaged = []
    for step, path in reversed(saved_weights(folder).items()):
        try:
            tensors = load_weights_of(path)
        except DamagedFile as error:
            damaged.append(str(error))
            continue
        model.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
        for k, optimizer in enumerate(optimizers):
            _load_optimizer(optimizer, {n: t for n, t in tensors.items() if n.startswith(f"optimizer.{k}.")})
        return step, damaged
    return 0, damaged


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        _, _, index, field = name.split(".")
        state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    pattern = re.compile(r"step-\d{8}-[0-9a-f]{16}\.safetensors")
    return sorted((p for p in folder.glob("step-*.safetensors") if pattern.fullmatch(p.name)), reverse=True)
