"""What a notebook concludes, as data: a claim, the paper's number beside ours, and one of four words.

A notebook's last cell records its verdicts in `figures_dir/<notebook>/verdict.json`. The file is the artefact that
batches resume from and the source of the README's table, so no result is ever typed twice. Nothing here needs torch.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mtp_lab.config import check_choice, check_positive
from mtp_lab.files import write_atomic

Word = Literal["reproduced", "mixed", "not at this scale", "beyond the paper"]

START, END = "<!-- verdicts -->", "<!-- /verdicts -->"


@dataclass(frozen=True)
class Verdict:
    """One claim and what became of it.

    Raises:
        ValueError: at construction, naming the field, its value and what is allowed.
    """

    claim: str
    """What is claimed, in one sentence."""
    paper: str
    """The paper's number, with its section; empty only where the verdict is "beyond the paper"."""
    ours: str
    """Our number, with its unit and the size of the model."""
    interval: str
    """The uncertainty of ours, e.g. "95 %: 2.1 to 4.0"; empty where none applies."""
    seeds: int
    """Training seeds behind ours."""
    verdict: Word
    """reproduced, mixed, not at this scale, or beyond the paper."""

    def __post_init__(self) -> None:
        check_choice("verdict", self.verdict, Word)
        check_positive(seeds=self.seeds)
        may_be_empty = {"interval", "paper"} if self.verdict == "beyond the paper" else {"interval"}
        for name in ("claim", "paper", "ours", "interval"):
            value = getattr(self, name)
            if not isinstance(value, str) or not (value.strip() or name in may_be_empty):
                raise ValueError(f"{name}={value!r} must be text that is not empty")


def record(figures_dir: str | Path, notebook: str, preset: str, verdicts: Sequence[Verdict], command: str) -> None:
    """Writes `figures_dir/<notebook>/verdict.json`, whole or not at all: the last thing a notebook does.

    `command` is what a reader types to get the same numbers.

    Raises:
        ValueError: if there is no verdict, or `notebook` is not a plain name.
    """
    if not re.fullmatch(r"\w[\w.-]*", notebook):
        raise ValueError(f"notebook={notebook!r} must be a notebook's name: no folder, not empty")
    if not verdicts or not all(isinstance(verdict, Verdict) for verdict in verdicts):
        raise ValueError(f"verdicts={verdicts!r} must be one Verdict or more, in a list")
    entry = {
        "notebook": notebook,
        "preset": preset,
        "command": command,
        "verdicts": list(map(asdict, verdicts)),
    }
    write_atomic(Path(figures_dir) / notebook / "verdict.json", _json(entry))


def collect(figures_dir: str | Path) -> list[dict[str, Any]]:
    """Merges every `*/verdict.json` into `figures_dir/verdicts.json`, sorted by notebook, and returns the entries.

    Raises:
        ValueError: naming the file that is not what `record` writes; verdicts.json is then left as it was.
    """
    figures_dir = Path(figures_dir)
    entries = [_read(path) for path in figures_dir.glob("*/verdict.json")]
    entries.sort(key=lambda entry: entry["notebook"])
    write_atomic(figures_dir / "verdicts.json", _json(entries))
    return entries


def table(verdicts_json: str | Path) -> str:
    """Markdown of a verdicts.json: the first verdict of each notebook in one table, and folded behind it all of them.

    Links lead to notebooks/<notebook>.ipynb.
    """
    first, folded = ["| Claim | Ours | Verdict | Notebook |", "|---|---|---|---|"], []
    for entry in json.loads(Path(verdicts_json).read_text(encoding="utf-8")):
        name, verdicts = entry["notebook"], [Verdict(**fields) for fields in entry["verdicts"]]
        link, ours = f"[{name}](notebooks/{name}.ipynb)", list(map(_ours, verdicts))
        first.append(_row(verdicts[0].claim, ours[0], verdicts[0].verdict, link))
        counts = Counter(verdict.verdict for verdict in verdicts)
        told = ", ".join(f"{counts[word]} {word}" for word in get_args(Word) if counts[word])
        folded += ["", f"<details><summary>{name}: {told}</summary>", "", f"`{entry['command']}`", ""]
        folded += ["| Claim | Paper | Ours | Seeds | Verdict |", "|---|---|---|---|---|"]
        folded += [
            _row(verdict.claim, verdict.paper, said, str(verdict.seeds), verdict.verdict)
            for verdict, said in zip(verdicts, ours, strict=True)
        ]
        folded += ["", "</details>"]
    return "\n".join(first + folded) + "\n"


def update_readme(readme: str | Path, figures_dir: str | Path) -> None:
    """Replaces what stands between the two markers in `readme` by the table of `figures_dir/verdicts.json`.

    Raises:
        ValueError: if the markers are not there, each once and in order; the file is then left as it was.
    """
    readme = Path(readme)
    text = readme.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"{readme} must hold {START} and then {END}, each once: the table goes between them")
    before, after = text.split(START)[0], text.split(END)[1]
    new = f"{before}{START}\n{table(Path(figures_dir) / 'verdicts.json')}{END}{after}"
    if new != text:
        write_atomic(readme, new)


def _read(path: Path) -> dict[str, Any]:
    """A verdict.json, with every verdict of it validated again: people edit JSON by hand."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        for fields in entry["verdicts"]:
            Verdict(**fields)
        return {name: entry[name] for name in ("notebook", "preset", "command", "verdicts")}
    except (ValueError, TypeError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not a record of verdicts ({problem}); delete it and run its notebook") from error


def _ours(verdict: Verdict) -> str:
    return f"{verdict.ours} ({verdict.interval})" if verdict.interval.strip() else verdict.ours


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Text that cannot end a table's cell: on one line, and with its bars escaped."""
    return " ".join(text.split()).replace("|", r"\|")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
