"""The training loop: one function that trains the run of a config in a folder.

A step is a pure function of weights, optimizer state, seed and step number. So a run that was killed continues from its
checkpoint and ends with the same weights as an uninterrupted run (on the same machine with as many threads). Under
torchrun the processes share the rows of a step. Left out: which folder, and whether to train at all
(mtp_lab.training.runs).
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
    """Trains the run of `config` in `folder`, or continues its training from the newest checkpoint.

    Writes metrics.jsonl, checkpoints/ and snapshots/ during training, and weights.safetensors and done.json at the end.

    Args:
        init_from: folder of the finished run that `config.init_from` names.

    Raises:
        Diverged: if the loss or its gradient becomes NaN or infinite; the last checkpoint is kept.
        ValueError: if the weights of `init_from` do not fit, or the batch cannot be shared among the processes.
        OSError: if a file cannot be written; the last checkpoint is kept.
    """
    # 1. Set up the process, the model and the optimizers; load the newest checkpoint
    keep_memory()
    rank, processes, device = _join_processes()
    lead = rank == 0
    if config.batch_size % (processes * config.accumulate):
        raise ValueError(
            f"batch_size={config.batch_size} must be a multiple of {processes} processes x "
            f"accumulate={config.accumulate}"
        )
    model = _initial_model(config, init_from).to(device)
    optimizers = make_optimizers(model, config.optimizer)
    first_step, damaged = load_checkpoint(folder / "checkpoints", model, optimizers)
    for line in damaged if lead else ():
        tqdm.write(f"passed over: {line}", file=sys.stderr)
    objective = Objective(model, processes)
    wrapped = DistributedDataParallel(objective) if processes > 1 else objective
    log = _Log(folder / "metrics.jsonl", first_step, lead)
    validation = config.task.held_out("validation", config.evaluate_rows)
    if lead and config.snapshot_every and first_step == 0:
        save_weights(folder / "snapshots", 0, model)

    start_time, data_seconds = time.perf_counter(), 0.0
    steps = range(first_step, config.steps)
    bar = tqdm(steps, initial=first_step, total=config.steps, desc=folder.name, disable=None if lead else True)
    for step in bar:
        # 2. The batch of the step; all processes draw the same one
        data_start_time = time.perf_counter()
        batch = config.task.batch(config.batch_size, step, config.seed)
        if config.self_distilled_tokens:
            batch = continue_rows(model, batch, config.self_distilled_tokens)
        data_seconds += time.perf_counter() - data_start_time

        # 3. The gradient, clipped
        weights = horizon_weights(config.horizon_weights, config.curriculum, step, config.steps)
        per_horizon = _gradients(wrapped, config, batch, weights, rank, device)  # (n_future,)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        if not math.isfinite(float(per_horizon.sum() + norm)):
            raise Diverged(
                f"{folder.name}: the loss is {float(per_horizon.sum())}, the norm of its gradient {float(norm)}, at "
                f"step {step} (seed {config.seed}); the last checkpoint in {folder / 'checkpoints'} is kept. Try a "
                f"lower optimizer.learning_rate or more warmup"
            )

        # 4. The update
        lr = learning_rate(config.optimizer, step, config.steps)
        _update(optimizers, lr)

        # 5. Log, evaluation, snapshot and checkpoint
        done, last = step + 1, step + 1 == config.steps
        evaluate = last or done % config.evaluate_every == 0
        if evaluate or done % config.log_every == 0 or done == 1:
            row = {"step": done, "tokens": done * config.batch_size * config.task.seq, "learning_rate": lr}
            row |= {"weights": weights, "gradient_norm": float(norm), "train": per_horizon.tolist()}
            if evaluate and lead:
                row["validation"] = loss_per_horizon(model, validation).tolist()
                row["measures"] = config.task.measures(validation, *next_token_predictions(model, validation))
            log.write(row | {"seconds": time.perf_counter() - start_time, "seconds_for_data": data_seconds})
            bar.set_postfix(loss=f"{per_horizon[0]:.3f}")
        if lead and config.snapshot_every and (last or done % config.snapshot_every == 0):
            save_weights(folder / "snapshots", done, model)
        if lead and not last and done % config.checkpoint_every == 0:
            save_checkpoint(folder / "checkpoints", done, model, optimizers)

    # 6. The result
    if lead:
        _finish(folder, model, config, first_step, time.perf_counter() - start_time, device)
    if processes > 1:
        dist.barrier()


def _initial_model(config: TrainConfig, init_from: Path | None) -> MTPTransformer:
    """The model before its first step: random weights of the config's seed, or those of a finished run."""
    torch.manual_seed(config.seed)
    model = MTPTransformer(config.model)
    if init_from is not None:
        start_from(model, init_from)
    if config.self_distilled_tokens:
        freeze_next_token(model)
    return model


def _update(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """One step of every optimizer at this learning rate; gradients are reset."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()


def start_from(model: MTPTransformer, folder: Path) -> None:
    """Copies all weights of `model` from a finished run, which may have more heads than the model.

    Raises:
        ValueError: with the names of weights that are missing or have another shape; the model is not changed.
    """
    weights = load_weights(folder)
    needed = model.state_dict()
    missing = [name for name, value in needed.items() if name not in weights or weights[name].shape != value.shape]
    if missing:
        names = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        raise ValueError(
            f"init_from={folder.name} does not fit: it lacks {names}. Give the model the same sizes and trunk_layers, "
            "and no more heads than the run has"
        )
    model.load_state_dict({name: weights[name] for name in needed})


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
    """Rank and number of processes under torchrun (else 0 and 1), and the device."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    if processes > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device != "cpu" else "gloo")
    return rank, processes, device


class _Log:
    """metrics.jsonl, one row a line. On resuming, rows after the checkpoint are dropped: they are written again."""

    def __init__(self, path: Path, steps_done: int, lead: bool) -> None:
        self.path, self.lead = path, lead
        if lead:
            rows = [row for row in complete_lines(path) if json.loads(row)["step"] <= steps_done]
            write_atomic(path, "".join(f"{row}\n" for row in rows))

    def write(self, row: dict[str, object]) -> None:
        if self.lead:
            append_line(self.path, json.dumps(row))


def _finish(
    folder: Path, model: MTPTransformer, config: TrainConfig, first_step: int, seconds: float, device: str
) -> None:
    """Writes the weights, then done.json, which makes the run finished; then removes the checkpoints."""
    content = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    write_atomic(folder / "weights.safetensors", content)
    facts = {
        "weights": digest(content),
        "steps": config.steps,
        "seconds": seconds,
        "steps_in_seconds": config.steps - first_step,
        "precision": "bf16" if _in_bf16(config, device) else "fp32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine() if device == "cpu" else torch.cuda.get_device_name(device),
    }
    write_atomic(folder / "done.json", json.dumps(facts, indent=1))
    for checkpoint in (folder / "checkpoints").glob("*"):
        checkpoint.unlink()
