"""What the report says of each benchmark: tables, bars and a picture, made from the JSON that the benchmark wrote.

Whether a bar is met is computed here from the numbers beside it. How they were measured is the scripts' business, how
they look on the page that of page.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import decoding
import loss_memory
import pandas as pd
import plotly.graph_objects as go
import train_throughput
from pictures import bars_in_panels

from mtp_lab import figures

Content = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """What was wanted of a number, and whether it was reached."""

    what: str
    value: float
    wanted: float
    at_least: bool = True
    """Otherwise: at most."""

    def told(self) -> Content:
        met = self.value >= self.wanted if self.at_least else self.value <= self.wanted
        return {**vars(self), "met": bool(met)}


@dataclass(frozen=True)
class Shown:
    """A section's content."""

    tables: dict[str, pd.DataFrame]
    """By caption."""
    figure: go.Figure
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    options: str = ""
    """What the script was given beyond its defaults."""


@dataclass(frozen=True)
class Section:
    """One benchmark in the report."""

    title: str
    question: str
    script: str
    """Its name is also that of the JSON it writes."""
    show: Callable[[Content], Shown]


def training(content: Content) -> Shown:
    rows = pd.DataFrame(content["peers"]).assign(label=[train_throughput.label(row) for row in content["peers"]])
    ours, tables, drawn = rows.who == "mtp-lab", {}, []
    for (batch, seq), part in rows.groupby(["batch", "seq"], sort=False):
        speed = part.tokens_per_second
        table = {"contestant": part.label, "tokens/s": speed, "ms a step": 1e3 * part.seconds}
        table |= {"parameters": part.parameters, "mtp-lab, times this": speed[ours].iloc[0] / speed}
        tables[f"{batch} rows of {seq} tokens a step"] = pd.DataFrame(table)
        texts = [f"{value:,.0f}" for value in speed]
        panel = {"panel": f"{batch} rows of {seq} tokens", "name": part.label, "value": speed}
        drawn.append(pd.DataFrame(panel | {"ours": part.who == "mtp-lab", "text": texts}))
    ratios = train_throughput.ratios(content["peers"])
    notes = [f"{content['shape']}."]
    with_nanogpt = (rows.who == "nanoGPT").any()
    if not with_nanogpt:
        notes.append("nanoGPT was not there: it is not installable; --nanogpt names its model.py.")
    notes += [
        f"Length {one['seq']}: {one['ratio']:.2f} times {one['to']}, which anyone could set."
        for one in ratios
        if one["bar"] is None
    ]
    table = pd.concat(drawn)
    axes = dict.fromkeys(table.panel, "tokens/s")
    caption = "The median step of the fastest round. Thresholds: our allocator's settings, which anyone could use."
    return Shown(
        tables,
        bars_in_panels(table, axes, "Training: tokens a second, side by side", caption),
        [Bar(f"length {r['seq']}: times {r['to']}", r["ratio"], r["bar"]) for r in ratios if r["bar"] is not None],
        notes,
        "--nanogpt PATH/model.py" if with_nanogpt else "",
    )


def cost_of_n(content: Content) -> Shown:
    rows = content["cost_of_four_heads"]
    table = pd.DataFrame(
        {
            "vocabulary": [row["vocab"] for row in rows],
            "ms a step, n = 1": [1e3 * row["seconds"][0] for row in rows],
            "ms a step, n = 4": [1e3 * row["seconds"][1] for row in rows],
            "time, n = 4 by n = 1": [row["ratio"] for row in rows],
            "operations, n = 4 by n = 1": [row["operations"] for row in rows],
        }
    )
    kinds = (("measured", "ratio", True), ("operations", "operations", False))
    drawn = [
        {"panel": f"vocabulary {row['vocab']:,}", "name": name, "value": row[key], "ours": ours}
        for row in rows
        for name, key, ours in kinds
    ]
    picture = pd.DataFrame(drawn).assign(text=[f"{one['value']:.2f}" for one in drawn])
    caption = (
        "Equal parameters, 32 rows of 128 tokens. Operations: floating-point, in matrices; an exact loss needs them."
    )
    axes = dict.fromkeys(picture.panel, "n = 4 by n = 1")
    figure = bars_in_panels(picture, axes, "A step with four heads, in steps with one", caption)
    note = (
        "No bar: what four heads cost at equal parameters is set by their unembeddings, so operations stand beside it."
    )
    return Shown({"One step": table}, figure, notes=[note])


def memory(content: Content) -> Shown:
    rows = pd.DataFrame(content["rows"])
    tables, bars = {}, []
    for vocab, part in rows.groupby("vocab"):
        wide = part.pivot(index="method", columns="n", values="megabytes").loc[list(dict.fromkeys(part.method))]
        first, last = wide.columns.min(), wide.columns.max()
        growth = (wide[last] / wide[first]).rename(f"n = {last} by n = {first}")
        named = wide.rename(columns=lambda n: f"n = {n}, MB")
        tables[f"Peak of a step, vocabulary {vocab:,}"] = named.join(growth).reset_index()
        what = f"V = {vocab:,}: peak of “both” at n = {last}, in peaks at n = {first}"
        bars.append(Bar(what, float(growth["both"]), loss_memory.BAR, at_least=False))
    drawn = rows.assign(bytes=rows.megabytes * 2**20)
    caption = (
        f"Resident set of fresh processes beyond the model's own, {content['shape']}. “both” is what mtp_loss does."
    )
    figure = figures.memory(drawn, "Peak memory of a training step by how Eq. 2 is computed", caption, log=True)
    figure.update_yaxes(dtick="D2")  # 1, 2, 5, 10, ...: others would touch
    return Shown(tables, figure, bars, ["MB: 2^20 bytes. The other three ways are the peers: same model, same step."])


def decode(content: Content) -> Shown:
    rows, tables, bars = decoding.speeds(content), {}, []
    for threads, part in rows.groupby("threads"):
        order = list(dict.fromkeys(part.contestant))
        speed = part.pivot(index="contestant", columns="batch", values="tokens_per_second").loc[order]
        single = part[part.batch == 1].set_index("contestant")
        speed = speed.rename(columns=lambda batch: f"tokens/s, batch {batch}")
        speed["slowest round, batch 1"], speed["tokens a forward"] = single.slowest, single.tokens_per_forward_pass
        tables[_threads(threads)] = speed.reset_index()
    for found in content["ratios"]:
        bars += [
            Bar(f"{_threads(found['threads'])}, batch 1: {name}", found[name], wanted)
            for name, wanted in decoding.BARS.items()
        ]
    differing = content["differences"]
    bars.append(Bar("rows that differ from Hugging Face's generate", len(differing), 0, at_least=False))
    grown = content["growth"]
    notes = [
        f"Model {content['run']}, assistant {content['assistant'] or 'none'}; {content['prompts']} prompts.",
        f"A forward at k = 1 takes {1e3 * grown['fixed_seconds']:.2f} ms and "
        f"{1e9 * grown['seconds_per_token_of_context']:.0f} ns for each token in its cache "
        f"(up to {max(grown['context']):,.0f}; correlation with a line {grown['correlation']:.2f}).",
    ]
    if differing:
        apart = max(abs(one["gap"]) for one in differing)
        notes.append(f"Where rows differ, Hugging Face's logits of the two tokens are {apart:.1e} apart at most.")
    return Shown(tables, decoding.picture(content), bars, notes)


def data(content: Content) -> Shown:
    rates, shares = pd.DataFrame(content["rates"]), pd.DataFrame(content["shares"])
    wide = rates.pivot(index=["stream", "unit"], columns="call", values="per_second")
    wide = wide.loc[list(dict.fromkeys(zip(rates.stream, rates.unit, strict=True))), list(dict.fromkeys(rates.call))]
    wanted = rates[rates.wanted > 0]
    made = wide.rename(columns=lambda call: f"{call}, a second").reset_index()
    made["wanted, drawn"] = made.stream.map(wanted.set_index("stream").wanted)
    waits = {"task": shares.task, "waiting for data, %": 100 * shares.share, "ms a step": 1e3 * shares.seconds_per_step}
    waits["real tokens/s"] = shares.tokens_per_second
    bars = [Bar(f"{row.stream}, drawn: {row.unit}/s", row.per_second, row.wanted) for row in wanted.itertuples()]
    bars += [
        Bar(f"{row.task}: % of a step spent waiting for data", 100 * row.share, 100 * row.wanted, at_least=False)
        for row in shares.itertuples()
    ]
    bars += [
        Bar(f"{row.task}, trained: real tokens/s", row.tokens_per_second, row.wanted_tokens)
        for row in shares[shares.wanted_tokens > 0].itertuples()
    ]
    drawn = [
        {
            "panel": "drawn",
            "name": row.stream,
            "value": row.per_second / row.wanted,
            "text": f"{row.per_second:,.0f}/s",
        }
        for row in wanted.itertuples()
    ]
    drawn += [
        {"panel": "waiting for data", "name": row.task, "value": 100 * row.share, "text": f"{row.share:.1%}"}
        for row in shares.itertuples()
    ]
    axes = {"drawn": "times what is wanted", "waiting for data": "% of a training step"}
    lines = {"drawn": 1.0, "waiting for data": 100 * shares.wanted.iloc[0]}
    caption = "One core. Dotted: the bar, to be passed on the left and not to be reached on the right."
    figure = bars_in_panels(pd.DataFrame(drawn).assign(ours=True), axes, "Token streams", caption, lines)
    notes = [f"Shares: {content['training']}. No library makes these streams, so bars take the place of peers."]
    return Shown({"Rates": made, "Trainings": pd.DataFrame(waits)}, figure, bars, notes)


def study(content: Content) -> Shown:
    rows = pd.DataFrame(content["rows"], columns=STUDY)
    tables = {
        f"Preset {preset}": part.drop(columns="preset").rename(columns=STUDY)
        for preset, part in rows.groupby("preset", sort=False)
    }
    texts = [f"{value:,.0f} s" for value in rows.seconds]
    drawn = rows.rename(columns={"notebook": "name", "seconds": "value"}).assign(ours=True, text=texts)
    drawn["panel"] = "preset " + drawn.preset
    axes = dict.fromkeys(drawn.panel, "seconds")
    figure = bars_in_panels(drawn, axes, "Last execution of each notebook", "Trainings that were there are not in it.")
    notes = [
        "There are no peers: nobody else runs this study.",
        "Collected from stamps, not measured now; those of committed figures may come from another machine.",
        "Trainings run on one thread each, as many at a time as there are cores.",
    ]
    return Shown(tables, figure, notes=notes)


STUDY = {
    "preset": "preset",
    "notebook": "notebook",
    "seconds": "execution, s",
    "trainings": "trainings",
    "there": "of them there",
    "training_seconds": "theirs, s added up",
}


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


SECTIONS = {
    "training": Section(
        "Training throughput",
        "How many tokens a second does a training step take in, beside nanoGPT and Hugging Face's Llama?",
        "train_throughput",
        training,
    ),
    "cost_of_n": Section(
        "The cost of n",
        "How much longer is a step with four heads, at equal parameters?",
        "train_throughput",
        cost_of_n,
    ),
    "memory": Section(
        "Memory", "Does the peak memory of a step grow with the number of future tokens?", "loss_memory", memory
    ),
    "decoding": Section(
        "Decoding",
        "How many tokens a second are written greedily, beside Hugging Face on the same weights?",
        "decoding",
        decode,
    ),
    "data": Section(
        "Data rates", "Are token streams made fast enough that no training waits for them?", "data_rates", data
    ),
    "study": Section("Study time", "How long does the study take?", "study_time", study),
}
