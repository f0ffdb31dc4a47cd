"""`bf16_is_fast` agrees with the instructions that the system lists, not with PyTorch's own list."""

import platform
from pathlib import Path

import pytest
import torch

from mtp_lab.training.hardware import CPU_INSTRUCTIONS, bf16_is_fast

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.exists() or platform.machine() != "x86_64", reason="needs the list of an x86 Linux")
def test_bf16_is_fast_if_the_processor_has_instructions():
    """Fast if and only if the kernel lists AVX512-BF16 or AMX-BF16.
    Catches: names of instructions that PyTorch does not know, which would be False for ever; AVX512 without bf16."""
    flags = set(CPUINFO.read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    assert bf16_is_fast("cpu") == bool(flags & {"avx512_bf16", "amx_bf16"})


def test_the_instructions_are_ones_that_pytorch_reports():
    """Catches: a name that a new PyTorch has changed, after which every machine would train in fp32."""
    needed = {"x86_64": {"avx512_bf16", "amx_bf16"}, "aarch64": {"bf16"}, "arm64": {"bf16"}}
    here = needed.get(platform.machine(), set())
    assert here <= set(CPU_INSTRUCTIONS) and here <= set(torch.cpu.get_capabilities())
