"""The sections of the report: tables, targets and a picture, made from the JSON that each benchmark wrote.

Whether a target is met is computed here from the numbers in the tables. The scripts define how they are measured, and
report.html.jinja how they look.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import decoding
import loss_memory
import pandas as pd
import plotly.graph_objects as go
import train_throughput

from mtp_lab import figures
from mtp_lab.figures.comparisons import SHADES

Content = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A number, and the value that it should reach."""

    what: str
    value: float
    target: float
    at_least: bool = True
    """If False, the target is an upper limit."""

    def as_dict(self) -> Content:
        met = self.value >= self.target if self.at_least else self.value <= self.target
        return {**asdict(self), "met": bool(met)}


@dataclass(frozen=True)
class Shown:
    """The content of a section."""

    tables: dict[str, pd.DataFrame]
    """By caption."""
    figure: go.Figure
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    options: str = ""
    """The options of the script that differ from their defaults."""


@dataclass(frozen=True)
class Section:
    """One benchmark in the report."""

    title: str
    question: str
    script: str
    """The name of the script is also that of the JSON file it writes."""
    show: Callable[[Content], Shown]


def training(content: Content) -> Shown:
    rows = pd.DataFrame(content["peers"])
    rows["name"] = [train_throughput.label(row) for row in content["peers"]]
    rows["panel"] = [f"{batch} rows of {seq} tokens" for batch, seq in zip(rows.batch, rows.seq, strict=True)]
    rows["ours"] = rows.who == "mtp-lab"
    tables = {}
    for panel, part in rows.groupby("panel", sort=False):
        speed = part.tokens_per_second
        table = {"contestant": part["name"], "tokens/s": speed, "ms a step": 1e3 * part.seconds}
        table |= {"parameters": part.parameters, "mtp-lab, times this": speed[part.ours].iloc[0] / speed}
        tables[f"{panel} a step"] = pd.DataFrame(table)
    ratios = train_throughput.ratios(content["peers"])
    with_nanogpt = (rows.who == "nanoGPT").any()
    no_nanogpt = [] if with_nanogpt else ["nanoGPT was not there: it is not installable; --nanogpt names its model.py."]
    compared = [
        f"Length {ratio['seq']}: {ratio['ratio']:.2f} times {ratio['to']}, which any program could set."
        for ratio in ratios
        if ratio["target"] is None
    ]
    targets = [
        Target(f"length {ratio['seq']}: times {ratio['to']}", ratio["ratio"], ratio["target"])
        for ratio in ratios
        if ratio["target"] is not None
    ]
    figure = bars_in_panels(
        rows.assign(value=rows.tokens_per_second, text=rows.tokens_per_second.map("{:,.0f}".format), axis="tokens/s"),
        "Training: tokens per second",
        "Median step of the fastest round. Thresholds: our allocator settings, which any program could use.",
    )
    options = "--nanogpt PATH/model.py" if with_nanogpt else ""
    return Shown(tables, figure, targets, [f"{content['shape']}.", *no_nanogpt, *compared], options)


def cost_of_n(content: Content) -> Shown:
    rows = pd.DataFrame(content["cost_of_four_heads"])
    milliseconds = 1e3 * pd.DataFrame(rows.seconds.tolist())
    table = pd.DataFrame(
        {
            "vocabulary": rows.vocab,
            "ms a step, n = 1": milliseconds[0],
            "ms a step, n = 4": milliseconds[1],
            "time relative to n = 1": rows.ratio,
            "operations relative to n = 1": rows.operations,
        }
    )
    drawn = rows.rename(columns={"ratio": "measured"}).melt("vocab", ["measured", "operations"], "name")
    drawn = drawn.sort_values("vocab", kind="stable").assign(axis="relative to n = 1", ours=drawn["name"] == "measured")
    drawn = drawn.assign(panel=drawn.vocab.map("vocabulary {:,}".format), text=drawn.value.map("{:.2f}".format))
    caption = "Equal parameters, 32 rows of 128 tokens. Operations: in matrix products; an exact loss needs them."
    figure = bars_in_panels(drawn, "Time of a step with four heads, relative to one head", caption)
    note = "No target: at equal parameters, the unembeddings determine the cost of four heads. See the operations."
    return Shown({"One step": table}, figure, notes=[note])


def memory(content: Content) -> Shown:
    rows = pd.DataFrame(content["rows"])
    tables, targets = {}, []
    for vocab, part in rows.groupby("vocab"):
        peaks = part.pivot(index="method", columns="n", values="megabytes").loc[list(dict.fromkeys(part.method))]
        first, last = peaks.columns.min(), peaks.columns.max()
        growth = (peaks[last] / peaks[first]).rename(f"n = {last} by n = {first}")
        renamed = peaks.rename(columns=lambda n: f"n = {n}, MB")
        tables[f"Peak of a step, vocabulary {vocab:,}"] = renamed.join(growth).reset_index()
        what = f"V = {vocab:,}: peak of “both” at n = {last}, relative to n = {first}"
        targets.append(Target(what, float(growth["both"]), loss_memory.TARGET, at_least=False))
    caption = (
        f"Resident set of fresh processes beyond the model's own, {content['shape']}. “both” is what mtp_loss does."
    )
    drawn = rows.assign(bytes=rows.megabytes * 2**20)
    figure = figures.memory(drawn, "Peak memory of a training step by how Eq. 2 is computed", caption, log=True)
    figure.update_yaxes(dtick="D2")  # ticks at 1, 2, 5, 10, ...: more of them would touch
    note = "MB: 2^20 bytes. The other three methods are the peers: same model, same step."
    return Shown(tables, figure, targets, [note])


def decode(content: Content) -> Shown:
    rows, tables, targets = decoding.speeds(content), {}, []
    for threads, part in rows.groupby("threads"):
        order = list(dict.fromkeys(part.contestant))
        speed = part.pivot(index="contestant", columns="batch", values="tokens_per_second").loc[order]
        single = part[part.batch == 1].set_index("contestant")
        table = speed.rename(columns=lambda batch: f"tokens/s, batch {batch}")
        table["slowest round, batch 1"] = single.slowest
        table["tokens per forward pass"] = single.tokens_per_forward_pass
        tables[decoding.threads_text(threads)] = table.reset_index()
    for ratios in content["ratios"]:
        setting = f"{decoding.threads_text(ratios['threads'])}, batch 1"
        targets += [Target(f"{setting}: {name}", ratios[name], target) for name, target in decoding.TARGETS.items()]
    differences, growth = content["differences"], content["growth"]
    targets.append(Target("rows that differ from Hugging Face's generate", len(differences), 0, at_least=False))
    notes = [
        f"Model {content['run']}, assistant {content['assistant'] or 'none'}; {content['prompts']} prompts.",
        f"A forward pass at k = 1 takes {1e3 * growth['fixed_seconds']:.2f} ms and "
        f"{1e9 * growth['seconds_per_token_of_context']:.0f} ns for each token in its cache "
        f"(up to {max(growth['context']):,.0f}; correlation with a line {growth['correlation']:.2f}).",
    ]
    if differences:
        gap = max(abs(difference["gap"]) for difference in differences)
        notes.append(f"Where rows differ, Hugging Face's logits of the two tokens differ by {gap:.1e} at most.")
    return Shown(tables, decoding.picture(content), targets, notes)


def data(content: Content) -> Shown:
    rates, shares = pd.DataFrame(content["rates"]), pd.DataFrame(content["shares"])
    made = rates.pivot(index=["stream", "unit"], columns="call", values="per_second")
    made = made.loc[list(dict.fromkeys(zip(rates.stream, rates.unit, strict=True))), list(dict.fromkeys(rates.call))]
    made = made.rename(columns=lambda call: f"{call}, a second").reset_index()
    drawn, trained = rates[rates.target > 0], shares[shares.target_tokens > 0]
    made["target, drawn"] = made.stream.map(drawn.set_index("stream").target)
    waits = {"task": shares.task, "waiting for data, %": 100 * shares.share, "ms a step": 1e3 * shares.seconds_per_step}
    waits["real tokens/s"] = shares.tokens_per_second
    targets = [
        *(Target(f"{row.stream}, drawn: {row.unit}/s", row.per_second, row.target) for row in drawn.itertuples()),
        *(
            Target(f"{row.task}: % of a step spent waiting for data", 100 * row.share, 100 * row.target, at_least=False)
            for row in shares.itertuples()
        ),
        *(
            Target(f"{row.task}, trained: real tokens/s", row.tokens_per_second, row.target_tokens)
            for row in trained.itertuples()
        ),
    ]
    speeds = pd.DataFrame({"name": drawn.stream, "value": drawn.per_second / drawn.target, "target": 1.0})
    speeds = speeds.assign(text=drawn.per_second.map("{:,.0f}/s".format), panel="drawn", axis="times the target")
    waiting = pd.DataFrame({"name": shares.task, "value": 100 * shares.share, "target": 100 * shares.target})
    waiting = waiting.assign(text=shares.share.map("{:.1%}".format), panel="waiting for data", axis="% of a step")
    caption = "One core. Dotted: the target, a lower limit on the left and an upper limit on the right."
    figure = bars_in_panels(pd.concat([speeds, waiting]).assign(ours=True), "Token streams", caption)
    notes = [f"Shares: {content['training']}. No library makes these streams, so there are targets instead of peers."]
    return Shown({"Rates": made, "Trainings": pd.DataFrame(waits)}, figure, targets, notes)


def study(content: Content) -> Shown:
    columns = {
        "preset": "preset",
        "notebook": "notebook",
        "seconds": "execution, s",
        "trainings": "trainings",
        "there": "finished trainings",
        "training_seconds": "their total time, s",
    }
    rows = pd.DataFrame(content["rows"], columns=columns)
    tables = {
        f"Preset {preset}": part.drop(columns="preset").rename(columns=columns)
        for preset, part in rows.groupby("preset", sort=False)
    }
    drawn = pd.DataFrame({"panel": "preset " + rows.preset, "name": rows.notebook, "value": rows.seconds})
    drawn = drawn.assign(text=rows.seconds.map("{:,.0f} s".format), axis="seconds", ours=True)
    figure = bars_in_panels(drawn, "Last execution of each notebook", "Without trainings that were already finished.")
    notes = [
        "There are no peers: no other program runs this study.",
        "Collected from stamps, not measured now. The stamps of committed figures may come from another machine.",
        "Each training runs on one thread, and as many run at the same time as there are cores.",
    ]
    return Shown(tables, figure, notes=notes)


def bars_in_panels(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Horizontal bars, with a panel for each value of `panel` and a row for each name.

    Args:
        table: panel, axis (title of the panel's axis), name, value, text (at the end of the bar), ours (bool, decides
            the colour) and, where there are targets, target (the same for a whole panel, drawn as a line).
    """
    table = table.assign(target=table.get("target", 0.0))
    parts = dict(list(table.groupby("panel", sort=False)))
    same_names = len({tuple(part["name"]) for part in parts.values()}) == 1  # then one axis of names is enough
    spacing = dict(shared_yaxes=same_names, horizontal_spacing=0.04 if same_names else 0.27)
    figure, places, _ = figures.panels(list(parts), len(parts), **spacing)
    for part, place in zip(parts.values(), places, strict=True):
        colors, target = [SHADES[bool(ours)][1] for ours in part.ours], part.target.iloc[0]
        labels = dict(text=part.text.tolist(), textposition="outside", cliponaxis=False)
        hover = "%{y}: %{x:.4~g}<extra></extra>"
        bars = go.Bar(x=part.value.tolist(), y=part["name"].tolist(), orientation="h", marker_color=colors, **labels)
        figure.add_trace(bars.update(showlegend=False, hovertemplate=hover), **place)
        if target:
            figure.add_vline(target, line=dict(color=figures.WRONG, width=2, dash="dot"), **place)
        same_axis = table[table.axis == part.axis.iloc[0]]  # panels of one quantity have one scale
        longest = max(same_axis.value.max(), target)
        figure.update_xaxes(range=[0, 1.3 * longest], title_text=part.axis.iloc[0], nticks=6, **place)
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=False)
    figure.update_layout(bargap=0.35)
    return figures.framed(figure, title, caption, 40 + 28 * max(map(len, parts.values())), margin=(150, 35, 60))


SECTIONS = {
    "training": Section(
        "Training throughput",
        "How many tokens per second does a training step process, compared with nanoGPT and Hugging Face's Llama?",
        "train_throughput",
        training,
    ),
    "cost_of_n": Section(
        "The cost of n",
        "How much longer does a step with four heads take, at equal parameters?",
        "train_throughput",
        cost_of_n,
    ),
    "memory": Section(
        "Memory", "Does the peak memory of a step grow with the number of future tokens?", "loss_memory", memory
    ),
    "decoding": Section(
        "Decoding",
        "How many tokens per second does greedy decoding produce, compared with Hugging Face on the same weights?",
        "decoding",
        decode,
    ),
    "data": Section(
        "Data rates", "Are token streams made fast enough that no training waits for them?", "data_rates", data
    ),
    "study": Section("Study time", "How long does the study take?", "study_time", study),
}
