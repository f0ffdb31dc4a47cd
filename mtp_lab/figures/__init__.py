"""Plotly figures, one function a figure, all with one look.

By form: curves, comparisons (rows of points, bars, tables), text, structures and diagrams; theme holds the look, and
rendering saves and shows. Figures only draw: intervals come computed.
"""

from mtp_lab.figures.comparisons import (
    decoding_speed,
    differences,
    grid,
    horizon_entropy,
    interval_bars,
    next_token_loss,
    seed_rows,
)
from mtp_lab.figures.curves import (
    acceptance,
    against,
    by_operations,
    dose_response,
    formation,
    loss_by_horizon,
    memory,
    rings,
    seed_curves,
    speedups,
    survival,
    training_curves,
    weights_by_n,
)
from mtp_lab.figures.diagrams import architecture, backward_order
from mtp_lab.figures.rendering import png, save, show
from mtp_lab.figures.structures import expression_tree, star_graph, terms
from mtp_lab.figures.text import (
    Highlight,
    forward_passes,
    highlighted_text,
    line_predictions,
    strip,
    surprisal_along,
    targets,
    weighted_text,
)
from mtp_lab.figures.theme import CAST, INK, SEEDS, THING, WRONG, framed, horizon_color, line, model_color, panels

__all__ = [
    "CAST", "INK", "SEEDS", "THING", "WRONG", "Highlight", "acceptance", "against", "architecture", "backward_order",
    "by_operations", "decoding_speed", "differences", "dose_response", "expression_tree", "formation", "forward_passes",
    "framed", "grid", "highlighted_text", "horizon_color", "horizon_entropy", "interval_bars", "line",
    "line_predictions", "loss_by_horizon", "memory", "model_color", "next_token_loss", "panels", "png", "rings", "save",
    "seed_curves", "seed_rows", "show", "speedups", "star_graph", "strip", "surprisal_along", "survival", "targets",
    "terms", "training_curves", "weighted_text", "weights_by_n",
]  # fmt: skip
