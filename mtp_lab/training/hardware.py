"""Speed on the machine at hand: bf16 only with bf16 instructions, and memory that stays in the process.

bf16 matrix products are two to six times as fast as fp32 ones if the processor has instructions for them. Without, as
on most laptops, they are up to sixty times slower. PyTorch does not choose, so this module does. A training step frees
and allocates the same hundreds of megabytes. By default, glibc returns them to the kernel, which clears them each time.
"""

import ctypes
from functools import cache

import torch

CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
GIBIBYTE = 1 << 30


@cache
def bf16_is_fast(device: str) -> bool:
    """Whether a device ("cpu", "cuda:0", ...) has instructions for matrix products in bf16."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in CPU_INSTRUCTIONS)


@cache
def keep_memory() -> bool:
    """Raises glibc's thresholds for returning memory, once; returns whether there is a glibc that accepted them."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    thresholds = {M_MMAP_THRESHOLD: GIBIBYTE, M_TRIM_THRESHOLD: GIBIBYTE, M_TOP_PAD: GIBIBYTE // 16}
    return all([mallopt(option, value) == 1 for option, value in thresholds.items()])
