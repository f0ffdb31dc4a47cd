"""Every figure can be rendered, and a saved figure is whole."""

import json
import struct
import sys
import zlib

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from kaleido.scopes.plotly import PlotlyScope

from mtp_lab import figures
from mtp_lab.figures import rendering, theme
from tests.figures.samples import EVERY, ends


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
    monkeypatch.setattr(rendering, "_scope", rendering._scope.__wrapped__)  # a fresh one each time


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_renders_at_its_size_and_is_not_blank(name):
    figure = EVERY[name]()
    width, height, lines = pixels(figures.png(figure, scale=1))
    assert (width, height) == (figure.layout.width or 1000, figure.layout.height)
    assert len(set(lines)) > 100  # a blank picture has a handful of byte values
    assert figure.layout.template.layout.font.family == theme.SANS  # the theme travels with the figure


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_renders_and_comes_back_equal_from_its_json(name, tmp_path):
    """A figure that the renderer refuses would be missed first in a notebook, after all of its work."""
    figure = EVERY[name]()
    picture = figures.save(figure, tmp_path, "figure")
    assert len(picture.read_bytes()) > 10_000, "an empty picture is smaller"
    text = picture.with_suffix(".json").read_text()
    assert pio.from_json(text) == figure
    assert "bdata" not in text and figure.layout.template.layout.font.family == theme.SANS


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
    with pytest.raises(RuntimeError, match="cannot render a PNG: kaleido.s browser does not run: .*/nowhere/kaleido"):
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


def test_a_failed_picture_names_the_cause(monkeypatch):
    """Catches: the advice to install another kaleido where the figure is at fault, or the other way round."""

    def refuse(*arguments):
        raise ValueError("Transform failed with error code 525: plotly.js: no such axis")

    with monkeypatch.context() as patched:
        patched.setattr(PlotlyScope, "transform", refuse)
        with pytest.raises(RuntimeError, match="kaleido runs, but refuses this figure: .*no such axis"):
            figures.png(go.Figure())
    monkeypatch.setattr(rendering, "_scope", rendering._scope.__wrapped__)
    monkeypatch.setitem(sys.modules, "kaleido.scopes.plotly", None)
    with pytest.raises(RuntimeError, match=r"kaleido 0\.2\.1 is needed, but version .* is installed"):
        figures.png(go.Figure())
    monkeypatch.setattr(rendering, "version", lambda name: (_ for _ in ()).throw(rendering.PackageNotFoundError(name)))
    with pytest.raises(RuntimeError, match="kaleido is not installed"):
        figures.png(go.Figure())
