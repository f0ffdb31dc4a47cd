"""Peak memory of a computation: the largest number of bytes of tensors alive at once, by PyTorch's allocator.

Every allocation counts, also inside operations, so logits are counted wherever they are created. Left out: the memory
of whole processes (benchmarks/loss_memory.py).
"""

from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


def peak_bytes(computation: Callable[[], object]) -> int:
    """Largest number of bytes alive at once among the tensors that `computation` allocates on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        computation()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes), default=0)
