"""The report as one HTML page: tables, verdicts on bars, and pictures inside the file, so that nothing is loaded.

Everything it says comes from the report's JSON.
"""

import base64
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.55 Lato, "Helvetica Neue", Arial, sans-serif; color: #222; background: #fff; margin: 0; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 80px; overflow-x: auto; }
h1 { font-size: 30px; margin: 0 0 8px; }
h2 { font-size: 22px; margin: 64px 0 4px; padding-top: 20px; border-top: 1px solid #ddd; }
.question { font-size: 18px; color: #444; margin: 0 0 20px; }
.quiet, caption { color: #666; font-size: 14px; }
table { border-collapse: collapse; margin: 18px 0; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 4px; }
th { font-weight: 600; border-bottom: 1px solid #999; vertical-align: bottom; }
th, td { padding: 4px 18px 4px 0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
td { border-bottom: 1px solid #eee; }
tr.ours td { color: #0072b2; font-weight: 600; }
.met, .unmet { font-weight: 600; white-space: nowrap; }
.met { color: #00704f; }
.unmet { color: #b34700; }
.failed { background: #fdf0e8; border-left: 4px solid #d55e00; padding: 10px 16px; }
img { width: 100%; height: auto; margin: 12px 0; }
code { font: 13px "DejaVu Sans Mono", Menlo, Consolas, monospace; background: #f4f4f4; padding: 2px 6px; }
a { color: #0072b2; }
"""


def page(report: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """The whole page.

    Args:
        report: what report.json holds.
        pictures: PNGs by the names of their sections.
    """
    sections = report["sections"]
    parts = [_section(name, told, pictures.get(name)) for name, told in sections.items()]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_TITLE}</title>'
    body = "\n".join([f"<h1>{_TITLE}</h1>", *_machines(sections), _overview(sections), *parts])
    top = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>'
    return f"{top}\n<body><main>\n{body}\n</main></body></html>\n"


_TITLE = "mtp-lab: benchmarks"


def number(value: Any) -> str:
    """How a cell of a table is written: three digits or more of a number, "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:#.3g}"


def machine_told(machine: dict[str, Any]) -> str:
    """A machine in words."""
    bf16 = {True: "with bf16 instructions", False: "no bf16 instructions"}.get(machine.get("bf16"), "bf16 not noted")
    parts = [f"{machine['cores']} cores ({machine['processor']}, {bf16})", f"{machine['threads']} threads"]
    return ", ".join([*parts, f"torch {machine['torch']}", f"Python {machine['python']}"])


def _machines(sections: dict[str, Any]) -> list[str]:
    """On what and when the sections were measured: one line where all agree."""
    where: dict[str, list[str]] = {}
    for told in sections.values():
        if "machine" in told:
            line = f"Measured on {machine_told(told['machine'])}; {told['date'] or 'date not noted'}"
            where.setdefault(line, []).append(told["title"])
    lines = [f"{line}: {', '.join(titles)}." if len(where) > 1 else f"{line}." for line, titles in where.items()]
    return [f'<p class="quiet">{escape(line)}</p>' for line in lines]


def _overview(sections: dict[str, Any]) -> str:
    rows = []
    for name, told in sections.items():
        bars = told.get("bars", [])
        met = sum(bar["met"] for bar in bars)
        text = "met" if met == len(bars) else "not all met"
        words = (
            f'{met} of {len(bars)} bars <span class="{_class(met == len(bars))}">{text}</span>' if bars else "no bar"
        )
        state = {"failed": '<span class="unmet">FAILED</span>', "missing": "not measured"}.get(told["state"], words)
        rows.append(f'<tr><td><a href="#{name}">{escape(told["title"])}</a></td><td>{state}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _section(name: str, told: dict[str, Any], picture: bytes | None) -> str:
    parts = [f'<h2 id="{name}">{escape(told["title"])}</h2>', f'<p class="question">{escape(told["question"])}</p>']
    if told["state"] == "failed":
        parts.append(f'<p class="failed">This benchmark failed: {escape(told["why"])}</p>')
    elif told["state"] == "missing":
        parts.append("<p>Not measured yet.</p>")
    else:
        parts += [_bars(told["bars"])] if told["bars"] else []
        if picture:
            source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            parts.append(
                f'<img alt="{escape(told["title"])}: the numbers of the tables as bars or lines" src="{source}">'
            )
        parts += [_table(table) for table in told["tables"]]
        parts += [f"<p>{escape(note)}</p>" for note in told["notes"]]
    return "\n".join([*parts, f'<p class="quiet">To repeat it: <code>{escape(told["command"])}</code></p>'])


def _bars(bars: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td>{escape(bar['what'])}</td><td>{number(bar['value'])}</td>"
        f"<td>at {'least' if bar['at_least'] else 'most'} {number(bar['wanted'])}</td>"
        f'<td class="{_class(bar["met"])}">{"met" if bar["met"] else "not met"}</td></tr>'
        for bar in bars
    ]
    head = "<tr><th>bar</th><th>measured</th><th>wanted</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _table(table: dict[str, Any]) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in table["columns"])
    rows = []
    for row in table["rows"]:
        ours = ' class="ours"' if str(row[0]).startswith("mtp-lab") else ""
        rows.append(f"<tr{ours}>{''.join(f'<td>{escape(number(value))}</td>' for value in row)}</tr>")
    return f"<table><caption>{escape(table['caption'])}</caption><tr>{head}</tr>{''.join(rows)}</table>"


def _class(met: bool) -> str:
    return "met" if met else "unmet"
