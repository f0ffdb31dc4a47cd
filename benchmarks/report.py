"""All benchmarks, and one report of them: benchmarks/results/report.html and report.json.

Each benchmark is a script that runs by itself and writes its own JSON; this runs them one after the other, about a
quarter of an hour on two cores that do nothing else, and reports what they wrote. With --only, the others are
reported from their last run. One that fails is named in the report, leaves the others be, and makes the exit code 1.

Example: python benchmarks/report.py --only loss_memory data_rates
"""

import argparse
import codecs
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from common import RESULTS, existing_file
from page import page
from sections import SECTIONS, Section, Shown

from mtp_lab import figures
from mtp_lab.files import write_atomic

SCRIPTS = Path(__file__).parent
BENCHMARKS = tuple(dict.fromkeys(section.script for section in SECTIONS.values()))
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",:;]+/)+")  # the folders of a path that names somebody's machine


def measured(name: str, *options: str) -> str:
    """Runs a benchmark, its words on the terminal as they come; why it failed, in one line, or nothing."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *options]
    decoder, words = codecs.getincrementaldecoder("utf-8")("replace"), ""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while part := process.stderr.read1():
            text = decoder.decode(part)
            sys.stderr.write(text)
            sys.stderr.flush()
            words = (words + text)[-10_000:]
    if not process.returncode:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", words) if line.strip()]
    return ABSOLUTE.sub("", lines[-1])[:400] if lines else f"it ended with {process.returncode}, without a word"


def gathered(results: Path, failures: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What there is to report: the content of report.json, and a PNG for each section that was measured.

    Args:
        results: folder of the benchmarks' JSON files.
        failures: why benchmarks failed, by name; of those nothing older is shown.
    """
    sections, drawn = {}, {}
    for name, section in SECTIONS.items():
        why = failures.get(section.script)
        told: dict[str, Any] = {"title": section.title, "question": section.question, "command": command(section)}
        path = results / f"{section.script}.json"
        if not why and path.exists():
            try:
                content = json.loads(path.read_text())
                shown = section.show(content)
                date = {"date": content.get("date"), "machine": content["machine"]}
            except (KeyError, ValueError) as error:
                why = f"{path.name} cannot be shown ({type(error).__name__}: {error}); measure it again"
            else:
                drawn[name] = shown.figure
                told |= {"state": "measured", "command": command(section, shown.options), **date, **content_of(shown)}
        if why:
            told |= {"state": "failed", "why": why}
        sections[name] = {"state": "missing"} | told
    return {"sections": sections}, pictures(drawn)


def pictures(drawn: dict[str, go.Figure]) -> dict[str, bytes]:
    """The figures as PNG; none where they cannot be made, and a line on stderr that says why."""
    try:
        return {name: figures.png(figure, scale=1.5) for name, figure in drawn.items()}
    except RuntimeError as error:  # no reason to lose the tables of a quarter of an hour
        print(f"the report has no pictures: {error}", file=sys.stderr)
        return {}


def command(section: Section, options: str = "") -> str:
    """What repeats a section."""
    return f"python benchmarks/{section.script}.py {options}".strip()


def content_of(shown: Shown) -> dict[str, Any]:
    """Tables, bars and notes as JSON."""
    tables = [
        {"caption": caption, "columns": list(map(str, table.columns)), "rows": _rows(table)}
        for caption, table in shown.tables.items()
    ]
    return {"tables": tables, "bars": [bar.told() for bar in shown.bars], "notes": shown.notes}


def _rows(table: pd.DataFrame) -> list[list[Any]]:
    """Plain values; None where there is none."""
    values = table.astype(object)
    return values.where(values.notna(), None).to_numpy().tolist()


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Returns the exit code: 0, or 1 when a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    which.add_argument("--from-results", action="store_true", help="measure nothing, report what is in results/")
    parser.add_argument("--nanogpt", type=existing_file, help="path of nanoGPT's model.py; without, it is left out")
    options = parser.parse_args(arguments)
    names = () if options.from_results else options.only or BENCHMARKS
    failures = {}
    for i, name in enumerate(names, start=1):
        print(f"\n--- {name} ({i} of {len(names)})", flush=True)
        started = time.monotonic()
        given = ("--nanogpt", options.nanogpt) if name == "train_throughput" and options.nanogpt else ()
        if why := measured(name, *given):
            failures[name] = why
        print(f"--- {name}: {'FAILED' if why else 'done'} in {time.monotonic() - started:.0f} s", flush=True)
    report, pngs = gathered(results, failures)
    write_atomic(results / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomic(results / "report.html", page(report, pngs))
    print("\nwritten: benchmarks/results/report.html and report.json")
    failed = [told for told in report["sections"].values() if told["state"] == "failed"]
    for told in failed:
        print(f"FAILED: {told['title']}: {told['why']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
