"""How long the study takes: the last execution of each notebook, and the trainings that it uses.

Nothing is run. The seconds of executions come from stamps (figures/, results/<preset>/figures/), those of trainings
from runs/. The two are separate because an execution that reuses finished trainings only measures and draws. No other
program runs this study, so there are no peers.

Example: python benchmarks/study_time.py
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import save

from mtp_lab.batch import plan
from mtp_lab.batch.plan import NOTEBOOKS, PRESETS
from mtp_lab.experiments import registry

ROOT = Path(__file__).parents[1]


def gathered(root: Path) -> list[dict[str, Any]]:
    """A row for every preset and notebook with a stamp; a stamp in results/ replaces one in figures/."""
    stamps: dict[tuple[str, str], dict[str, Any]] = {}
    for path in [*root.glob("figures/*/stamp.json"), *root.glob("results/*/figures/*/stamp.json")]:
        stamp = plan.read_stamp(path)
        if {"preset", "seconds"} <= set(stamp):
            stamps[stamp["preset"], path.parent.name] = stamp
    return [
        {"preset": preset, "notebook": notebook, "seconds": stamp["seconds"]}
        | trainings(notebook, preset, stamp.get("seeds", 0), root / "runs")
        for preset in PRESETS
        for notebook in NOTEBOOKS
        if (stamp := stamps.get((preset, notebook)))
    ]


def trainings(notebook: str, preset: str, seeds: int, runs: Path) -> dict[str, Any]:
    """The number of trainings of a notebook, how many of them are in runs/, and their total seconds (or None)."""
    if notebook not in registry.TRAININGS or not runs.is_dir():
        return {}
    folders = registry.trainings(notebook, preset, seeds)
    facts = [json.loads(done.read_text()) for folder in folders if (done := runs / folder / "done.json").exists()]
    timed = [fact for fact in facts if fact["steps_in_seconds"]]  # a resumed training times only its last part
    seconds = sum(fact["seconds"] * fact["steps"] / fact["steps_in_seconds"] for fact in timed)
    return {"trainings": len(folders), "there": len(facts), "training_seconds": seconds if facts else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = gathered(ROOT)
    for row in rows:
        line = f"{row['preset']:6s} {row['notebook']:24s} {row['seconds']:7.0f} s"
        if row.get("there"):
            line += f"; {row['there']} of {row['trainings']} trainings, {row['training_seconds']:.0f} s in total"
        print(line)
    save("study_time", {"rows": rows})


if __name__ == "__main__":
    main()
