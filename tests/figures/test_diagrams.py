"""The diagrams of the model and of its backward pass agree with the model."""

import re
from itertools import product
from typing import get_args

import plotly.graph_objects as go
import pytest

from mtp_lab import figures
from mtp_lab.config import HeadKind, ModelConfig
from mtp_lab.model.transformer import MTPTransformer
from tests.figures.samples import texts, trace

SMALL = dict(vocab_size=31, d_model=16, n_attention_heads=2, n_layers=9, max_seq=8)


def boxes_apart(figure: go.Figure) -> None:
    """No box lies on another or off the page."""
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    boxes = [(min(b.x), max(b.x), min(b.y), max(b.y)) for b in figure.data if b.fill == "toself"]
    for k, (x0, x1, y0, y1) in enumerate(boxes):
        assert left <= x0 < x1 <= right and bottom <= y0 < y1 <= top
        assert all(x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0 for u0, u1, v0, v1 in boxes[:k])


def test_the_default_model_of_four_is_drawn_with_two_trunk_layers_and_four_heads():
    figure = figures.architecture(ModelConfig(n_layers=6, n_future=4))
    heads = [each.name for each in figure.data if re.fullmatch(r"head \d+", each.name)]
    assert heads == ["head 1", "head 2", "head 3", "head 4"]
    assert any("2 layers" in text for text in texts(figure))
    assert [text.replace(" ", "") for text in texts(figure) if text.startswith("x ")][-4:] == [
        "xt+1",
        "xt+2",
        "xt+3",
        "xt+4",
    ]
    assert "1,270,016 parameters" in figure.layout.title.text


@pytest.mark.parametrize("kind, n", [*product(get_args(HeadKind), (3, 8)), ("parallel", 1)])
def test_architecture_draws_who_reads_whom_and_counts_every_parameter(kind, n):
    config = ModelConfig(**SMALL, n_future=n, head_kind=kind, stop_gradient=(1,))
    figure = figures.architecture(config)
    names = [each.name for each in figure.data]
    for i, parent in config.parents.items():
        path = trace(figure, f"{parent or 'trunk'} to head {i}")
        assert path.line.dash == ("dot" if i == 1 else "solid")
        assert path.y[-1] == min(trace(figure, f"head {i}").y)  # it arrives at the foot of the head
        assert (f"token to head {i}" in names) == (kind == "sequential" and i > 1)
    parameters = sum(weight.numel() for weight in MTPTransformer(config).parameters())
    assert f" {parameters:,} parameters" in figure.layout.title.text
    boxes_apart(figure)


@pytest.mark.parametrize(
    "changes",
    [
        dict(attention_only=True),
        dict(position="relative", smeared_keys=True),
        dict(d_mlp=24),
        dict(trunk_layers=0),
    ],
)
def test_parameters_are_counted_for_every_kind_of_layer(changes):
    config = ModelConfig(**SMALL, n_future=2, **changes)
    parameters = sum(weight.numel() for weight in MTPTransformer(config).parameters())
    assert f" {parameters:,} parameters" in figures.architecture(config).layout.title.text


@pytest.mark.parametrize("n", [1, 2, 5])
def test_head_after_head_never_holds_two_logits(n):
    """All at once, n heads' logits overlap in time; head after head, one at most."""
    figure = figures.backward_order(n)
    for axis, peak in (("x", n), ("x2", 1)):
        held = [(min(b.x), max(b.x)) for b in figure.data if b.xaxis == axis and b.name.startswith("logits")]
        assert len(held) == n
        assert max(sum(start <= t < end for start, end in held) for t, _ in held) == peak
        ends_at = [end for _, end in sorted(held)]
        assert ends_at == sorted(ends_at, reverse=peak > 1)  # autograd frees the last head first
    assert f"peak: {n} × logits" in texts(figure) and "peak: 1 × logits" in texts(figure)
