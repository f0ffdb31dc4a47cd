"""Plotly figures, one function a figure, all with one theme.

Start with `theme` (colours, captions, saving and showing). Figures only draw: means and intervals come computed.
"""

from mtp_lab.figures.answer_figures import against, by_operations, curves, differences
from mtp_lab.figures.choice_figures import terms, weighted_text, weights_by_n
from mtp_lab.figures.decoding_figures import decoding_speed
from mtp_lab.figures.diagrams import architecture, backward_order, line_predictions, targets
from mtp_lab.figures.interp_figures import dose_response, formation, grid, survival
from mtp_lab.figures.speculation_figures import acceptance, forward_passes, speedups, strip
from mtp_lab.figures.stream_figures import (
    CAST,
    THING,
    Highlight,
    expression_tree,
    highlighted_text,
    horizon_entropy,
    interval_bars,
    rings,
    star_graph,
    surprisal_along,
)
from mtp_lab.figures.theme import (
    INK,
    SEEDS,
    WRONG,
    framed,
    horizon_color,
    line,
    loss_by_horizon,
    memory,
    model_color,
    next_token_loss,
    panels,
    png,
    save,
    show,
    training_curves,
)

__all__ = [
    "CAST", "INK", "SEEDS", "THING", "WRONG", "Highlight", "acceptance", "against", "architecture", "backward_order",
    "by_operations", "curves", "decoding_speed", "differences", "dose_response", "expression_tree", "formation",
    "forward_passes", "framed", "grid", "horizon_color", "horizon_entropy", "interval_bars", "line", "line_predictions",
    "loss_by_horizon", "highlighted_text", "memory", "model_color", "next_token_loss", "panels", "png", "rings", "save",
    "show", "speedups", "star_graph", "strip", "surprisal_along", "survival", "targets", "terms", "training_curves",
    "weighted_text", "weights_by_n",
]  # fmt: skip
