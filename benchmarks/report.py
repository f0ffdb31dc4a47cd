"""All benchmarks, and one report of them: benchmarks/results/report.html and report.json.

Each benchmark is a script that also runs by itself and writes its own JSON file. This script runs them one after the
other, which takes about a quarter of an hour on two idle cores, and reports their results. With --only, it reports the
last results of the other benchmarks. The report names a benchmark that fails; the others still run, and the exit code
is 1.

Example: python benchmarks/report.py --only loss_memory data_rates
"""

import argparse
import base64
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import RESULTS, existing_file
from jinja2 import Environment, FileSystemLoader
from sections import SECTIONS

from mtp_lab import figures
from mtp_lab.files import write_atomic

SCRIPTS = TEMPLATES = Path(__file__).parent
BENCHMARKS = tuple(dict.fromkeys(section.script for section in SECTIONS.values()))
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",:;]+/)+")  # the folders in a path, which name a machine


def run_benchmark(name: str, *options: str) -> str:
    """Runs a benchmark and passes its stderr on; returns the last line of it if the benchmark fails, otherwise ""."""
    last = ""
    with subprocess.Popen([sys.executable, str(SCRIPTS / f"{name}.py"), *options], stderr=subprocess.PIPE) as process:
        for line in io.TextIOWrapper(process.stderr, "utf-8", "replace", newline=""):  # progress bars end with \r
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    if not process.returncode:
        return ""
    return ABSOLUTE.sub("", last)[:400] or f"it ended with exit code {process.returncode} and without a message"


def gathered(results: Path, failures: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The content of report.json, and a PNG for each section that was measured.

    Args:
        results: folder of the benchmarks' JSON files.
        failures: error messages of the benchmarks that failed, by name; their older results are not reported.
    """
    sections, drawn = {}, {}
    for name, section in SECTIONS.items():
        command, path = f"python benchmarks/{section.script}.py", results / f"{section.script}.json"
        entry = {"state": "missing", "title": section.title, "question": section.question, "command": command}
        error = failures.get(section.script)
        if not error and path.exists():
            try:
                content = json.loads(path.read_text())
                shown = section.show(content)
                entry |= {"state": "measured", "command": f"{command} {shown.options}".strip()}
                entry |= {"date": content.get("date"), "machine": content["machine"]}
                entry |= {"tables": [_as_dict(caption, table) for caption, table in shown.tables.items()]}
                entry |= {"targets": [target.as_dict() for target in shown.targets], "notes": shown.notes}
                drawn[name] = shown.figure
            except (AttributeError, KeyError, ValueError) as problem:  # of another version
                error = f"{path.name} cannot be shown ({type(problem).__name__}: {problem}); measure it again"
        if error:
            entry |= {"state": "failed", "why": error}
        sections[name] = entry
    try:
        return {"sections": sections}, {name: figures.png(figure, scale=1.5) for name, figure in drawn.items()}
    except RuntimeError as problem:  # the tables, which took a quarter of an hour, are still reported
        print(f"the report has no pictures: {problem}", file=sys.stderr)
        return {"sections": sections}, {}


def _as_dict(caption: str, table: pd.DataFrame) -> dict[str, Any]:
    values = table.astype(object)
    rows = values.where(values.notna(), None).to_numpy().tolist()
    return {"caption": caption, "columns": list(map(str, table.columns)), "rows": rows}


def page(report: dict[str, Any], pngs: dict[str, bytes]) -> str:
    """The report as one HTML page that loads nothing.

    Args:
        report: content of report.json.
        pngs: pictures by the names of their sections.
    """
    templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    templates.filters["number"] = number
    pictures = {name: base64.b64encode(png).decode() for name, png in pngs.items()}
    return templates.get_template("report.html.jinja").render(**report, pictures=pictures)


def number(value: Any) -> str:
    """A value in a table: a number with three digits or more, text as it is, "-" for None."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:#.3g}"


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Returns the exit code: 0, or 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}")
    which.add_argument("--from-results", action="store_true", help="measure nothing, report what is in results/")
    parser.add_argument("--nanogpt", type=existing_file, help="path of nanoGPT's model.py; by default it is left out")
    options = parser.parse_args(arguments)
    names = () if options.from_results else options.only or BENCHMARKS
    failures = {}
    for i, name in enumerate(names, start=1):
        print(f"\n--- {name} ({i} of {len(names)})", flush=True)
        started = time.monotonic()
        peers = ("--nanogpt", options.nanogpt) if name == "train_throughput" and options.nanogpt else ()
        if error := run_benchmark(name, *peers):
            failures[name] = error
        print(f"--- {name}: {'FAILED' if error else 'done'} in {time.monotonic() - started:.0f} s", flush=True)
    report, pngs = gathered(results, failures)
    write_atomic(results / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomic(results / "report.html", page(report, pngs))
    print("\nwritten: benchmarks/results/report.html and report.json")
    failed = [section for section in report["sections"].values() if section["state"] == "failed"]
    for section in failed:
        print(f"FAILED: {section['title']}: {section['why']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
