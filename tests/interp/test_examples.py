"""The examples in docstrings run and show what they say. Catches: an example of an old name, or with another result."""

import doctest
import importlib
import pkgutil

import pytest

from mtp_lab import interp

MODULES = [module.name for module in pkgutil.walk_packages(interp.__path__, "mtp_lab.interp.")]
WITH_EXAMPLES = {
    "mtp_lab.evaluation.in_context",
    *(f"mtp_lab.interp.{name}" for name in ("ablation", "adapter", "attention", "gradients", "handmade", "lens")),
    *(f"mtp_lab.interp.{name}" for name in ("myopia", "patching", "path_patching", "probes")),
    *(f"mtp_lab.interp.pairs.{name}" for name in ("polynomials", "star_graphs", "stories")),
}


@pytest.mark.parametrize("name", ["mtp_lab.evaluation.in_context", *MODULES])
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)
