"""The training loop: one function that takes a config and a folder, and leaves a run there.

A step is a pure function of weights, optimizer state, seed and step number, so a run that was killed goes on from its
checkpoint and ends in the very weights of an uninterrupted one (same machine, same number of threads). Under torchrun
the rows of a step are shared out among the processes. Which folder, and whether to train at all, is runs.py's business.
"""

import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data_gen import Batch
from mtp_lab.config import RunError, TrainConfig
from mtp_lab.files import append_line, complete_lines, write_atomic
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.predictions import loss_per_horizon, next_token_predictions, target_tokens, tensors
from mtp_lab.model.targets import Targets, make_targets, token_weights
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks.base import CAUSE
from mtp_lab.training.checkpoints import digest, load_checkpoint, read_tensors, save_checkpoint, save_weights
from mtp_lab.training.hardware import bf16_is_fast, keep_memory
from mtp_lab.training.optimizers import horizon_weights, learning_rate, make_optimizers
from mtp_lab.training.self_distillation import GENERATED_ONLY, continue_rows, freeze_next_token


class Diverged(RunError):
    """The loss or its gradient is no longer a number."""


class Objective(nn.Module):
    """Eq. 2 as a module, for DistributedDataParallel, which averages gradients: the factor makes the average a sum."""

    def __init__(self, model: MTPTransformer, processes: int) -> None:
        super().__init__()
        self.model, self.processes = model, processes

    def forward(
        self, tokens: Tensor, documents: Tensor, targets: Targets, weights: list[float]
    ) -> tuple[Tensor, Tensor]:
        loss = mtp_loss(self.model, tokens, documents, weights=weights, targets=targets)
        return loss.total * self.processes, loss.per_horizon


def train(config: TrainConfig, folder: Path, init_from: Path | None = None) -> None:
    """Trains, or goes on training, the run of `config` in `folder`.

    Writes config.json first, metrics.jsonl, checkpoints/ and snapshots/ on the way, weights.safetensors and done.json
    at last.

    Args:
        init_from: folder of the finished run that `config.init_from` names.

    Raises:
        Diverged: if the loss or its gradient turns NaN or infinite, with the step and the checkpoint that is left.
        ValueError: if the weights to start from do not fit.
        OSError: if something cannot be written; the last checkpoint stays.
    """
    keep_memory()
    rank, processes, device = _join_processes()
    lead = rank == 0
    if config.batch_size % (processes * config.accumulate):
        raise ValueError(
            f"batch_size={config.batch_size} must be a multiple of {processes} processes x "
            f"accumulate={config.accumulate}"
        )
    torch.manual_seed(config.seed)
    model = MTPTransformer(config.model).to(device)
    if init_from is not None:
        start_from(model, init_from)
    if config.self_distilled_tokens:
        freeze_next_token(model)
    optimizers = make_optimizers(model, config.optimizer)
    first, damaged = load_checkpoint(folder / "checkpoints", model, optimizers)
    for line in damaged if lead else ():
        tqdm.write(f"passed over: {line}", file=sys.stderr)
    objective = Objective(model, processes)
    wrapped = DistributedDataParallel(objective) if processes > 1 else objective
    log = _Log(folder / "metrics.jsonl", first, lead)
    held_out = config.task.held_out("validation", config.evaluate_rows)
    if lead and config.snapshot_every and first == 0:
        save_weights(folder / "snapshots", 0, model)
    started, where, waited = time.perf_counter(), folder.name, 0.0

    bar = tqdm(
        range(first, config.steps), initial=first, total=config.steps, desc=where, disable=None if lead else True
    )
    for step in bar:
        rate = learning_rate(config.optimizer, step, config.steps)
        weights = horizon_weights(config.horizon_weights, config.curriculum, step, config.steps)
        asked = time.perf_counter()
        batch = config.task.batch(config.batch_size, step, config.seed)
        batch = continue_rows(model, batch, config.self_distilled_tokens) if config.self_distilled_tokens else batch
        waited += time.perf_counter() - asked
        per_horizon = _gradients(wrapped, config, batch, weights, rank, device)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        if not math.isfinite(float(per_horizon.sum() + norm)):
            raise Diverged(
                f"{where}: the loss is {float(per_horizon.sum())}, the norm of its gradient {float(norm)}, at step "
                f"{step} (seed {config.seed}); the last checkpoint in {folder / 'checkpoints'} is kept. Try a lower "
                f"optimizer.learning_rate or more warmup"
            )
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()

        done = step + 1
        due = done == config.steps or done % config.evaluate_every == 0
        if due or done % config.log_every == 0 or done == 1:
            row = {"step": done, "tokens": done * config.batch_size * config.task.seq, "learning_rate": rate}
            row |= {"weights": weights, "gradient_norm": float(norm), "train": per_horizon.tolist()}
            if due and lead:
                row["validation"] = loss_per_horizon(model, held_out).tolist()
                row["measures"] = config.task.measures(held_out, *next_token_predictions(model, held_out))
            log.write(row | {"seconds": time.perf_counter() - started, "seconds_for_data": waited})
            bar.set_postfix(loss=f"{per_horizon[0]:.3f}")
        if lead and config.snapshot_every and (done % config.snapshot_every == 0 or done == config.steps):
            save_weights(folder / "snapshots", done, model)
        if lead and (done % config.checkpoint_every == 0 and done < config.steps):
            save_checkpoint(folder / "checkpoints", done, model, optimizers)

    if lead:
        _finish(folder, model, config, first, time.perf_counter() - started, device)
    if processes > 1:
        dist.barrier()


def start_from(model: MTPTransformer, folder: Path) -> None:
    """Copies trunk, unembedding and the heads that `model` has from a finished run of as many heads or more.

    Raises:
        ValueError: naming the weights that are missing or of another shape; nothing is left at its random start.
    """
    weights = load_weights(folder)
    own = model.state_dict()
    wrong = [name for name, value in own.items() if name not in weights or weights[name].shape != value.shape]
    if wrong:
        raise ValueError(
            f"init_from={folder.name} does not fit: it lacks {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}. "
            f"Give the model the same sizes and trunk_layers, and no more heads than the run has"
        )
    model.load_state_dict({name: weights[name] for name in own})


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the finished run in `folder`, checked against its done.json.

    Raises:
        DamagedFile: if they are not what was written.
    """
    return read_tensors(folder / "weights.safetensors", json.loads((folder / "done.json").read_text())["weights"])


def _gradients(
    objective: nn.Module, config: TrainConfig, batch: Batch, weights: list[float], rank: int, device: str
) -> Tensor:
    """Forward and backward passes on this process's rows; returns the (n_future,) losses of the whole step in nats."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    tokens, documents = tensors(batch, device)
    label_weights = GENERATED_ONLY if config.self_distilled_tokens else config.label_weights
    targets = make_targets(
        target_tokens(batch, device),
        config.model.n_future,
        documents,
        token_weights(batch, label_weights).to(device),
        torch.from_numpy(batch.labels[CAUSE]).to(device) if config.mask_unread_causes else None,
    )
    parts_before, n_rows = rank * config.accumulate, config.batch_size // (processes * config.accumulate)
    per_horizon = torch.zeros(config.model.n_future, device=device)
    for k in range(config.accumulate):
        rows = slice((parts_before + k) * n_rows, (parts_before + k + 1) * n_rows)
        if processes > 1:  # exchange gradients once a step
            objective.require_backward_grad_sync = k == config.accumulate - 1
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=_in_bf16(config, device)):
            total, nll = objective(tokens[rows], documents[rows], targets[rows], weights)
        total.backward()
        per_horizon += nll
    if processes > 1:
        dist.all_reduce(per_horizon)
    return per_horizon


def _in_bf16(config: TrainConfig, device: str) -> bool:
    return bf16_is_fast(device) if config.precision == "auto" else config.precision == "bf16"


def _join_processes() -> tuple[int, int, str]:
    """Rank, number of processes (torchrun's) and device."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    if processes > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device != "cpu" else "gloo")
    return rank, processes, device


class _Log:
    """metrics.jsonl, one row a line; what a killed process wrote after its last checkpoint is dropped on resuming."""

    def __init__(self, path: Path, steps_done: int, lead: bool) -> None:
        self.path, self.lead = path, lead
        if lead:
            rows = [row for row in complete_lines(path) if json.loads(row)["step"] <= steps_done]
            write_atomic(path, "".join(f"{row}\n" for row in rows))

    def write(self, row: dict[str, object]) -> None:
        if self.lead:
            append_line(self.path, json.dumps(row))


def _finish(folder: Path, model: MTPTransformer, config: TrainConfig, first: int, seconds: float, device: str) -> None:
    content = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    write_atomic(folder / "weights.safetensors", content)
    facts = {
        "weights": digest(content),
        "steps": config.steps,
        "seconds": seconds,
        "steps_in_seconds": config.steps - first,
        "precision": "bf16" if _in_bf16(config, device) else "fp32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine() if device == "cpu" else torch.cuda.get_device_name(device),
    }
    write_atomic(folder / "done.json", json.dumps(facts, indent=1))
    for checkpoint in (folder / "checkpoints").glob("*"):
        checkpoint.unlink()
