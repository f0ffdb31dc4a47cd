"""How many bytes of tensors are alive at the worst moment of a computation, as PyTorch's allocator counts them.

Every allocation counts, inside operations too, so logits are seen wherever they hide. benchmarks/loss_memory.py
measures whole processes besides.
"""

from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


def peak_bytes(computation: Callable[[], object]) -> int:
    """Largest number of bytes alive at once among what `computation` allocates on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        computation()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes), default=0)
