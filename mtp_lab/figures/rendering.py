"""Figures as files and as notebook outputs: a PNG by kaleido, the Plotly JSON, and the table behind them.

kaleido 0.2.1 is the last version with a browser of its own, so a PNG is the same on any machine. Not here: the look.
"""

import json
import os
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from warnings import warn

import pandas as pd
import plotly
import plotly.graph_objects as go

from mtp_lab.figures.theme import WIDTH
from mtp_lab.files import write_atomic

KALEIDO = "0.2.1"


@cache
def _scope(process: int):
    """The renderer of this process: kaleido's own browser, which ends with the process. Imported when first used."""
    from kaleido.scopes.plotly import PlotlyScope  # direct: plotly >= 7 refuses to call kaleido 0.2.1 itself

    return PlotlyScope(plotlyjs=str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js"))


def png(figure: go.Figure, width: int | None = None, height: int | None = None, scale: float = 2) -> bytes:
    """A PNG of scale times (width, height) px, by default the figure's own size.

    Raises:
        RuntimeError: if kaleido 0.2.1 is not installed, if its browser does not run, or if it refuses the figure.
    """
    width, height = width or figure.layout.width or WIDTH, height or figure.layout.height or WIDTH // 2
    try:
        return _scope(os.getpid()).transform(json.loads(figure.to_json()), "png", width, height, scale)
    except (ImportError, OSError, ValueError) as error:
        raise RuntimeError(f"cannot render a PNG: {_problem(error)}") from error


def _problem(error: Exception) -> str:
    """Which step of rendering failed, and why."""
    reason = str(error).strip()
    if isinstance(error, ImportError):
        try:
            return f"kaleido {KALEIDO} is needed, but version {version('kaleido')} is installed ({reason})"
        except PackageNotFoundError:
            return f"kaleido {KALEIDO} is needed, but kaleido is not installed"
    if reason.startswith("Transform failed"):
        return f"kaleido runs, but refuses this figure: {reason}"
    import kaleido

    folder = Path(kaleido.__file__).parent
    advice = f"; its launcher needs a path without spaces, not {str(folder)!r}" if " " in str(folder) else ""
    return f"kaleido's browser does not run: {reason}{advice}"


def save(figure: go.Figure, folder: Path | str, name: str, data: pd.DataFrame | None = None) -> Path:
    """Writes name.json (Plotly), name.png and name.csv (the data behind it); returns the path of the PNG.

    Without data, the CSV of an earlier figure of this name is removed. Nothing is written if the PNG cannot be made.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name={name!r} must be letters, digits, '.', '_' and '-', and begin with a letter or digit")
    files = {"png": png(figure), "json": json.dumps(json.loads(figure.to_json()), sort_keys=True) + "\n"}
    if data is None:
        (Path(folder) / f"{name}.csv").unlink(missing_ok=True)
    else:
        files["csv"] = data.to_csv(index=False, lineterminator="\n")
    for suffix, content in files.items():
        write_atomic(Path(folder) / f"{name}.{suffix}", content)
    return Path(folder) / f"{name}.png"


def show(figure: go.Figure) -> None:
    """One notebook output with two forms: JupyterLab draws it interactive, a code host's viewer shows the picture."""
    from IPython.display import display

    bundle: dict[str, object] = {"application/vnd.plotly.v1+json": {**json.loads(figure.to_json()), "config": {}}}
    try:
        bundle["image/png"] = png(figure)
    except RuntimeError as error:
        warn(f"shown without a picture: {error}", stacklevel=2)
    display(bundle, raw=True)
