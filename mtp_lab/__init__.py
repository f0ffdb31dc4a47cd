"""mtp_lab: train, decode and open up transformers that predict several future tokens.

Names load on first use, so that `mtp-lab --help` does not wait for torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {"ModelConfig": "config", "MTPTransformer": "model.transformer", "mtp_loss": "model.loss"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mtp_lab' has no attribute {name!r}")
    return getattr(import_module(f"mtp_lab.{_HOMES[name]}"), name)
