"""Which precision is fast on this machine.

bf16 matrix products are two to six times as fast as fp32's where the processor has instructions for them, and up to
sixty times slower where it does not: most laptops. PyTorch does not choose, so this does.
"""

from functools import cache

import torch

CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


@cache
def bf16_is_fast(device: str) -> bool:
    """Whether matrix products in bf16 have instructions of their own on a device ("cpu", "cuda:0", ...)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in CPU_INSTRUCTIONS)
