"""The loss under DistributedDataParallel: two processes on one machine, each with half of a batch."""

import faulthandler
import os
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtp_lab.config import ModelConfig
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.targets import Targets, make_targets
from mtp_lab.model.transformer import MTPTransformer

KINDS = ["parallel", "causal", "anticausal", "linear", "sequential"]
PROCESSES, SECONDS = 2, 90
mp.set_forkserver_preload(
    ["mtp_lab.training.loop"]
)  # torch is imported once for all children, those of other tests as well
# The halves have different numbers of targets, and only the second has any at horizon 3.
DOCUMENTS = torch.tensor([[0, 0, 1, 1, -1, -1], [2, 2, 2, 3, 3, 3], [4, 4, 4, 4, 4, 4], [5, 5, 5, 5, 6, 6]])
TOKENS = torch.randint(0, 19, (4, 6), generator=torch.Generator().manual_seed(1))


class Total(nn.Module):
    """DistributedDataParallel averages gradients over processes; parts of one batch must be summed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = ModelConfig(
            vocab_size=19, d_model=16, n_attention_heads=2, n_layers=4, n_future=3, head_kind=kind, max_seq=8
        )
        self.model = MTPTransformer(config)

    def forward(self, tokens: Tensor, documents: Tensor, targets: Targets, processes: int) -> Tensor:
        return mtp_loss(self.model, tokens, documents, weights=(1.0, 0.5, 2.0), targets=targets).total * processes


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): p.grad.clone() for name, p in module.named_parameters()}


def work(rank: int, folder: str) -> None:
    """One process: its half of the batch for every kind of head, twice each; stores the averaged gradients."""
    faulthandler.dump_traceback_later(SECONDS - 10)  # where it hangs, if it does
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    half, found = slice(2 * rank, 2 * rank + 2), {}
    targets = make_targets(TOKENS, 3, DOCUMENTS)
    for kind in KINDS:
        wrapped = DistributedDataParallel(Total(kind))
        for _ in range(2):  # again: a step whose buckets were not finished would hang or fail at the next one
            wrapped.zero_grad()
            wrapped(TOKENS[half], DOCUMENTS[half], targets[half], PROCESSES).backward()
        found[kind] = gradients(wrapped)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


def ended(folder: Path) -> bool:
    """Whether the processes have done their work and ended in time; a failure of theirs is raised."""
    context = mp.start_processes(work, args=(str(folder),), nprocs=PROCESSES, join=False, start_method="forkserver")
    until = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=max(0.0, until - time.monotonic())):  # returns when one has ended
            if time.monotonic() >= until:
                return False
        return True
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """The gradients of each process after the backward pass, for every kind of head."""
    for last in (False, True):  # one run of the suite saw them hang, for a reason not found: it did not come back
        folder = tmp_path_factory.mktemp("ddp")
        if ended(folder):
            return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
        if last:
            pytest.fail(f"the processes did not end within {SECONDS} s, twice; where they hung is on stderr")
        warnings.warn(f"the processes did not end within {SECONDS} s; trying once more", stacklevel=1)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="PyTorch without gloo")
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_gradients_of_one(averaged, kind):
    """The loss computes gradients in its forward pass. Without DDP's hooks, each process would keep those of its half.

    With denominators of their own, halves with different numbers of targets would have the same weight.
    """
    alone = Total(kind)
    targets, half = make_targets(TOKENS, 3, DOCUMENTS), make_targets(TOKENS[:2], 3, DOCUMENTS[:2])
    assert targets.denominators.tolist() != (2 * half.denominators).tolist()
    alone(TOKENS, DOCUMENTS, targets, 1).backward()
    expected = gradients(alone)
    for found in averaged:
        assert found[kind].keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[kind][name], gradient, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3  # that 1e-6 is small
