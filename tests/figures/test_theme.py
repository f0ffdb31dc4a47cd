"""Figures and diagrams: what they draw must be the numbers they were given, and a saved figure must be whole."""

import json
import math
import re
import struct
import zlib
from itertools import product
from typing import get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from kaleido.scopes.plotly import PlotlyScope

from mtp_lab import figures
from mtp_lab.config import HeadKind, ModelConfig
from mtp_lab.figures import diagrams, theme
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer

BIT = math.log(2)
SMALL = dict(vocab_size=31, d_model=16, n_attention_heads=2, n_layers=9, max_seq=8)


def metrics(models=(1, 2), seeds=(0, 1)) -> pd.DataFrame:
    """Losses (nats) that name their own n, horizon, seed and step: n + horizon / 10 + seed / 100 + step / 1e5."""
    rows = [
        (n, s, h, step, 100 * step, n + h / 10 + s / 100 + step / 1e5)
        for n in models
        for s in seeds
        for h in range(1, n + 1)
        for step in (10, 20, 30)
    ]
    return pd.DataFrame(rows, columns=["n", "seed", "horizon", "step", "tokens", "loss"])


def ends(models=(1, 2, 4)) -> pd.DataFrame:
    table = metrics(models).query("step == 30").drop(columns=["step", "tokens"])
    mean = table.groupby(["n", "horizon"]).loss.transform("mean")
    return table.assign(mean=mean, low=mean - 0.1, high=mean + 0.2)


def controls() -> pd.DataFrame:
    models = [("n = 1", 1, 6, "compute-matched"), ("n = 4", 4, 3, "compute-matched"), ("n = 1", 1, 3, "depth-matched")]
    table = pd.DataFrame(
        [(*model, seed, k + seed / 10) for k, model in enumerate(models) for seed in range(3)],
        columns=["label", "n", "depth", "matching", "seed", "loss"],
    )
    mean = table.groupby(["label", "depth"]).loss.transform("mean")
    difference = (mean - mean.min()).replace(0, np.nan)
    return table.assign(
        mean=mean,
        low=mean - 0.1,
        high=mean + 0.1,
        difference=difference,
        difference_low=difference - 0.2,
        difference_high=difference + 0.3,
    )


def peaks() -> pd.DataFrame:
    rows = [
        (n, v, m, 2**20 * v // 256 * (n if m == "reference" else 1))
        for n, v, m in product((1, 2, 4), (256, 2**19), ("reference", "sequential"))
    ]
    table = pd.DataFrame(rows, columns=["n", "vocab", "method", "bytes"])
    return table[(table.method == "sequential") | (table.vocab == 256)]  # the reference ran out of memory


def strip(n=3, text="if x < 1:\n\t&\x9f") -> dict:
    rng = np.random.default_rng(0)
    probability, correct = rng.random((n, len(text))), rng.random((n, len(text))) < 0.5
    wrong = [[c if right else "?" for c, right in zip(text, row, strict=True)] for row in correct]
    return dict(text=text, predictions=wrong, probability=probability, correct=correct, title="Which?")


EVERY = {
    "training_curves": lambda: figures.training_curves(metrics(), "A title"),
    "training_curves by horizon": lambda: figures.training_curves(metrics(), "A title", by="horizon", log_tokens=False),
    "loss_by_horizon": lambda: figures.loss_by_horizon(ends(), "A title"),
    "next_token_loss": lambda: figures.next_token_loss(controls(), "A title"),
    "memory": lambda: figures.memory(peaks(), "A title"),
    "memory, log": lambda: figures.memory(peaks(), "A title", log=True),
    "line_predictions": lambda: figures.line_predictions(**strip()),
    "architecture": lambda: figures.architecture(ModelConfig(n_future=3, head_kind="sequential", stop_gradient=(2,))),
    "targets": lambda: figures.targets("ab\ncd", 2, [0, 0, 0, 1, 1]),
    "backward_order": lambda: figures.backward_order(3),
}


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (found,) = [each for each in figure.data if each.name == name]
    return found


def texts(figure: go.Figure) -> list[str]:
    """Annotations without their tags."""
    return [re.sub(r"<[^>]*>", " ", note.text).strip() for note in figure.layout.annotations]


def pixels(picture: bytes) -> tuple[int, int, bytes]:
    """Width, height and the (filtered) scan lines of a PNG."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    at, data = 8, b""
    while at < len(picture):
        (length,), kind = struct.unpack(">I", picture[at : at + 4]), picture[at + 4 : at + 8]
        data += picture[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return *struct.unpack(">II", picture[16:24]), zlib.decompress(data)


@pytest.fixture
def broken_renderer(monkeypatch):
    """A kaleido whose browser is not there, as on a machine it was not built for."""
    monkeypatch.setattr(PlotlyScope, "executable_path", classmethod(lambda cls: "/nowhere/kaleido"))
    monkeypatch.setattr(theme, "_scope", theme._scope.__wrapped__)  # a fresh one each time


# --- colours


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_horizons_go_from_dark_to_light(n):
    """A reader who sees no hue must still see the order of the horizons."""
    light = []
    for i in range(1, n + 1):
        red, green, blue = map(int, re.findall(r"\d+", figures.horizon_color(i, n)))
        light.append(0.299 * red + 0.587 * green + 0.114 * blue)
    assert light == sorted(light) and len(set(light)) == n and max(light) < 190  # still visible on white


def test_models_have_colours_and_symbols_of_their_own():
    assert len({figures.model_color(n) for n in (1, 2, 4, 8, 16)}) == 5
    assert len({symbol for _, symbol in theme.MODELS.values()}) == len(theme.MODELS)
    with pytest.raises(ValueError, match=r"n=5 has no colour; known: 1, 2, 3, 4"):
        figures.model_color(5)


@pytest.mark.parametrize("i", [0, 5])
def test_a_horizon_outside_the_model_is_refused(i):
    with pytest.raises(ValueError, match=f"i={i} must be from 1 to n=4"):
        figures.horizon_color(i, 4)


# --- saving and showing


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_renders_at_its_size_and_is_not_blank(name):
    figure = EVERY[name]()
    width, height, lines = pixels(figures.png(figure, scale=1))
    assert (width, height) == (figure.layout.width or 1000, figure.layout.height)
    assert len(set(lines)) > 100  # a blank picture has a handful of byte values
    assert figure.layout.template.layout.font.family == theme.SANS  # the theme travels with the figure


def test_png_takes_another_size_and_scale():
    width, height, _ = pixels(figures.png(go.Figure(), width=300, height=200, scale=2))
    assert (width, height) == (600, 400)


def test_saved_files_are_whole_and_the_same_every_time(tmp_path):
    """A random id or an unordered set would show as a change in every commit of figures/."""
    data = ends()
    first, second = (figures.save(EVERY["loss_by_horizon"](), tmp_path / str(k), "figure", data) for k in (1, 2))
    assert first == tmp_path / "1" / "figure.png"
    files = sorted(first.parent.iterdir())
    assert [path.name for path in files] == ["figure.csv", "figure.json", "figure.png"]
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in sorted(second.parent.iterdir())]
    pd.testing.assert_frame_equal(pd.read_csv(first.with_suffix(".csv")), data.reset_index(drop=True))


@pytest.mark.parametrize("name", EVERY)
def test_the_saved_json_is_the_figure_in_plain_numbers(tmp_path, monkeypatch, name):
    """Base64 arrays or uids could not be reviewed; a figure that does not come back equal is not the one shown."""
    monkeypatch.setattr(PlotlyScope, "transform", lambda *arguments: b"")  # the picture is tested above
    text = figures.save(EVERY[name](), tmp_path, "figure").with_suffix(".json").read_text()
    assert pio.from_json(text) == EVERY[name]()
    assert "uid" not in text and "bdata" not in text


def test_saving_without_data_leaves_no_data_of_an_earlier_figure(tmp_path):
    figures.save(go.Figure(), tmp_path, "a", ends())
    figures.save(go.Figure(), tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "-f", "a b"])
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="must be letters"):
        figures.save(go.Figure(), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_save_writes_nothing_when_the_picture_cannot_be_made(tmp_path, broken_renderer):
    """JSON of today beside a PNG of yesterday would be two different figures."""
    with pytest.raises(RuntimeError, match=r"cannot render a PNG: .*/nowhere/kaleido.*0\.2\.1"):
        figures.save(go.Figure(), tmp_path, "a", ends())
    assert not list(tmp_path.iterdir())


def shown(figure, monkeypatch) -> dict:
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: calls.append((bundle, raw)))
    figures.show(figure)
    ((bundle, raw),) = calls  # one output
    assert raw
    return bundle


def test_show_is_one_output_with_both_faces(monkeypatch):
    figure = EVERY["loss_by_horizon"]()
    bundle = shown(figure, monkeypatch)
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/png"}
    assert pixels(bundle["image/png"])[:2] == (2000, 2 * figure.layout.height)
    face = bundle["application/vnd.plotly.v1+json"]
    assert go.Figure(data=face["data"], layout=face["layout"]) == figure
    json.dumps(face)  # no numpy left in it


def test_show_without_a_renderer_is_still_interactive(monkeypatch, broken_renderer):
    with pytest.warns(UserWarning, match="shown without a picture"):
        bundle = shown(go.Figure(), monkeypatch)
    assert set(bundle) == {"application/vnd.plotly.v1+json"}


def test_long_titles_and_captions_push_the_panels_down():
    """A wrapped title must not lie on the panels: they keep their height, the figure grows."""
    short, long = (figures.loss_by_horizon(ends(), "word " * k, "word " * k) for k in (5, 60))
    assert long.layout.title.text.count("<br>") > short.layout.title.text.count("<br>")
    inner = [f.layout.height - f.layout.margin.t - f.layout.margin.b for f in (short, long)]
    assert inner[0] == inner[1]


# --- data figures


@pytest.mark.parametrize("unit, per_nat", [("bits per byte", 1 / BIT), ("nats per token", 1.0)])
def test_training_curves_draw_the_mean_in_the_unit_asked_for(unit, per_nat):
    figure = figures.training_curves(metrics((2,)), "t", unit=unit)
    assert trace(figure, "horizon 2").y == pytest.approx([(2.205 + s / 1e5) * per_nat for s in (10, 20, 30)])
    assert trace(figure, "horizon 2, seed 1").y == pytest.approx([(2.21 + s / 1e5) * per_nat for s in (10, 20, 30)])
    assert trace(figure, "horizon 1").x == (1000, 2000, 3000)
    assert figure.layout.yaxis.title.text == f"loss ({unit})"


def test_the_mean_stops_where_a_seed_stops():
    """Else the mean jumps to the surviving seeds there."""
    table = metrics((1,))
    figure = figures.training_curves(table[(table.seed == 0) | (table.step < 30)], "t")
    assert len(trace(figure, "horizon 1").y) == 2 and len(trace(figure, "horizon 1, seed 0").y) == 3


@pytest.mark.parametrize(
    "by, panels, legend",
    [
        ("n", ["n = 1", "n = 2"], ["horizon 1", "horizon 2"]),
        ("horizon", ["horizon 1", "horizon 2"], ["n = 1", "n = 2"]),
    ],
)
def test_a_panel_for_each_and_each_line_once_in_the_legend(by, panels, legend):
    figure = figures.training_curves(metrics(), "t", by=by)
    assert texts(figure) == panels
    assert sorted(each.name for each in figure.data if each.showlegend) == legend
    assert len({(each.xaxis, each.name) for each in figure.data}) == len(figure.data)


def test_loss_by_horizon_draws_means_bands_and_seeds():
    figure = figures.loss_by_horizon(ends(), "t")
    mean, band, seeds = (trace(figure, name) for name in ("n = 4", "interval, n = 4", "seeds, n = 4"))
    expected = np.array([4 + h / 10 + 0.005 + 30 / 1e5 for h in (1, 2, 3, 4)]) / BIT
    assert mean.y == pytest.approx(expected)
    assert band.y == pytest.approx([*(expected - 0.1 / BIT), *(expected + 0.2 / BIT)[::-1]])
    assert len(seeds.y) == 8 and set(seeds.customdata) == {0, 1}
    assert trace(figure, "n = 1").error_y.array == pytest.approx([0.2 / BIT])  # one horizon makes no band
    assert not [each for each in figure.data if each.name == "interval, n = 1"]
    assert texts(figure) == ["n = 1", "n = 2", "n = 4"]


def test_next_token_loss_draws_each_model_its_seeds_and_its_difference():
    figure = figures.next_token_loss(controls(), "t")
    name = "n = 4, compute-matched, depth 3"
    mean, difference = trace(figure, f"mean, {name}"), trace(figure, f"difference, {name}")
    assert mean.x == pytest.approx([1.1 / BIT]) and difference.x == pytest.approx([1 / BIT])
    assert difference.error_x.arrayminus == pytest.approx([0.2 / BIT])
    assert difference.error_x.array == pytest.approx([0.3 / BIT])
    assert trace(figure, f"seeds, {name}").x == pytest.approx([1 / BIT, 1.1 / BIT, 1.2 / BIT])
    assert [each.name for each in figure.data if each.name.startswith("difference")] == [
        "difference, n = 4, compute-matched, depth 3",
        "difference, n = 1, depth-matched, depth 3",
    ]
    assert "reference" in texts(figure)  # the model the others are compared to
    assert trace(figure, "mean, n = 1, depth-matched, depth 3").marker.symbol == "circle-open"
    assert trace(figure, "mean, n = 1, compute-matched, depth 6").marker.symbol == "circle"
    assert [re.sub("<.*", "", tick) for tick in figure.layout.yaxis.ticktext] == ["n = 1", "n = 4", "n = 1"]


def test_memory_has_a_unit_for_each_panel_and_leaves_out_what_was_not_measured():
    figure = figures.memory(peaks(), "t")
    by_panel = {(each.xaxis, each.name): each.y for each in figure.data}
    assert by_panel == {("x", "reference"): (1, 2, 4), ("x", "sequential"): (1, 1, 1), ("x2", "sequential"): (2, 2, 2)}
    assert figure.layout.yaxis.title.text == "peak memory (MiB)"
    assert figure.layout.yaxis2.title.text == "peak memory (GiB)"
    log = figures.memory(peaks(), "t", log=True)
    assert log.layout.yaxis.type == "log" and trace(log, "reference").y == pytest.approx([k / 1024 for k in (1, 2, 4)])
    assert log.layout.annotations[-1].y == pytest.approx(math.log10(2))  # on a log axis annotations live in exponents


@pytest.mark.parametrize(
    "draw, table, message",
    [
        (figures.training_curves, metrics().drop(columns="tokens"), r"missing \['tokens'\]"),
        (figures.loss_by_horizon, ends().drop(columns=["low", "high"]), r"missing \['low', 'high'\]"),
        (figures.next_token_loss, controls()[:0], "has 0 rows"),
        (figures.memory, peaks().drop(columns="vocab"), r"missing \['vocab'\]"),
        (
            lambda table, title: figures.loss_by_horizon(table, title, unit="bans per byte"),
            ends(),
            "unit='bans per byte'",
        ),
        (lambda table, title: figures.training_curves(table, title, by="seed"), metrics(), "by='seed'"),
    ],
)
def test_tables_and_options_that_do_not_fit_are_named(draw, table, message):
    with pytest.raises(ValueError, match=message):
        draw(table, "t")


# --- text in columns


@pytest.mark.parametrize(
    "token, sign",
    [
        (" ", "·"),
        ("\n", "↵"),
        ("\t", "→"),
        ("a", "a"),
        ("é", "é"),
        ("\x9f", "x9f"),
        ("\x00", "x00"),
        (" the", "·the"),
        (97, "a"),
        (10, "↵"),
        (0x9F, "x9f"),
        (0xE9, "xe9"),
        (256, "␞"),
        (np.int32(32), "·"),
        ("", ""),
    ],
)
def test_every_token_has_a_visible_sign(token, sign):
    assert diagrams.printable(token) == sign


def test_line_predictions_draw_the_probabilities_they_were_given():
    """Shifted by a column or a row, the strip would say that a head foresaw what it had just read."""
    given = strip()
    figure = figures.line_predictions(**given)
    z = trace(figure, "probability").z
    for i, t in product(range(1, 4), range(len(given["text"]))):
        assert z[i - 1][t] == (given["probability"][i - 1, t] if t >= i else None)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)


def test_line_predictions_tell_right_from_wrong_and_escape_what_plotly_would_read_as_a_tag():
    given = strip()
    figure = figures.line_predictions(**given)
    right, wrong = trace(figure, "first choice right"), trace(figure, "first choice wrong")
    cells = {(t, i): bool(given["correct"][i - 1, t]) for i, t in product(range(1, 4), range(13)) if t >= i}
    assert set(zip(right.x, right.y, strict=True)) == {cell for cell, correct in cells.items() if correct}
    assert set(zip(wrong.x, wrong.y, strict=True)) == {cell for cell, correct in cells.items() if not correct}
    assert right.textfont.color != wrong.textfont.color and set(wrong.text) == {"<b>?</b>"}
    assert [re.sub("</?b>", "", sign) for sign in trace(figure, "text").text] == [
        "i",
        "f",
        "·",
        "x",
        "·",
        "&lt;",
        "·",
        "1",
        ":",
        "↵",
        "→",
        "&amp;",
        "x9f",
    ]


def test_sixty_columns_stay_legible():
    figure = figures.line_predictions(**strip(4, "x" * 59 + "\x9f"))
    sizes = trace(figure, "text").textfont.size
    assert min(sizes) >= 8 and max(sizes) >= 15 and figure.layout.width == 1200


@pytest.mark.parametrize(
    "change",
    [
        dict(probability=np.zeros((2, 13))),
        dict(correct=np.zeros((3, 12), bool)),
        dict(predictions=[["a"] * 12] * 3),
        dict(predictions=[], probability=np.zeros((0, 13)), correct=np.zeros((0, 13), bool)),
        dict(text=""),
    ],
)
def test_line_predictions_refuse_shapes_that_differ(change):
    with pytest.raises(ValueError, match="must all be"):
        figures.line_predictions(**{**strip(), **change})


@pytest.mark.parametrize("documents", [None, [0, 0, 0, 1, 1, 1, 1, -1, -1]])
def test_the_drawn_targets_are_those_that_train(documents):
    """Two implementations: the picture's own, and the tensors the loss reads."""
    text, n = "ab cd\nefg", 4
    figure = figures.targets(text, n, documents)
    rows = None if documents is None else torch.tensor([documents])
    expected = future_targets(torch.tensor([[ord(c) for c in text]]), n, rows)[:, 0]  # (n, seq)
    signs = trace(figure, "to predict")
    drawn = {(t, i): sign for t, i, sign in zip(signs.x, signs.y, signs.text, strict=True)}
    assert drawn == {
        (t, i + 1): diagrams.printable(chr(expected[i, t]))
        for i, t in product(range(n), range(len(text)))
        if expected[i, t] != IGNORE
    }
    grey = np.array(trace(figure, "targets").z) == 0
    assert (grey == (expected == IGNORE).numpy()).all()
    assert len(figure.layout.shapes) == (0 if documents is None else 2)  # a line at each boundary


def test_targets_need_a_document_for_each_character():
    with pytest.raises(ValueError, match="2 documents must be as many as the 3 characters"):
        figures.targets("abc", 1, [0, 0])
    with pytest.raises(ValueError, match="n=0"):
        figures.targets("abc", 0)


# --- the model


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
