"""The configs that each experiment trains, by the name of its notebook."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtp_lab.config import TrainConfig

TRAININGS = {
    "02_real_bytes": "real_bytes.conditions.bytes_configs",
    "03_self_speculation": "self_speculation.conditions.speculation_configs",
    "04_induction_heads": "induction_heads.conditions.induction_configs",
    "05_polynomials": "polynomials.conditions.all_configs",
    "06_choice_points": "choice_points.conditions.all_configs",
    "07_star_graph": "star_graph.conditions.star_configs",
}
"""Functions of a preset and a number of seeds that return the configs. Other notebooks keep no trained model."""


def trainings(notebook: str, preset: str, seeds: int) -> dict[str, "TrainConfig"]:
    """The runs that a notebook trains, as {folder below the runs directory: config}; empty if it keeps none."""
    if notebook not in TRAININGS:
        return {}
    module, _, function = TRAININGS[notebook].rpartition(".")
    configs = getattr(import_module(f"mtp_lab.experiments.{module}"), function)(preset, seeds)
    return {config.folder: config for config in configs}
