# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Star graphs: can a model learn to plan the one step that cannot be looked up?
#
# **Question.** A star of arms, a goal at the end of one of them, "which way?". Once the first step is known, every other node of the path is one look-up in the list of edges. The first step itself is a guess among the arms
# unless the model walks back from the goal in its head. Does training on several future tokens bring models to do that, where next-token prediction does not?
#
# **What is known.** Bachmann & Nagarajan 2024 ([arXiv 2403.06963](https://arxiv.org/abs/2403.06963)): trained with teacher forcing, next-token models learn the look-up (a cheat: it is right for all tokens but one) and guess the first step;
# trained on reversed answers (goal first, every step a look-up), or without teacher forcing (*teacherless*: the answer is not read), the same models can solve graphs. Gloeckle et al. 2024 cite it (section 5.1) for saying that not all tokens of a text matter alike; they run no star graphs.
# The TOP paper (2508.19228), on G(3, 5) and larger models: next-token prediction 33 %, two tokens 59 %, four tokens 100 %. Frydenlund 2024 (2410.13779): next-token models can learn it, given other samples. Huang 2026 (2604.11912): multi-token models solve it backwards, from the goal.
#
# **Why several tokens might help.** Number the nodes of the path from the start, which is node 0. Node 1, the first step, is one step back from the goal in the graphs below, and a walk of several such steps in longer arms. A reversed answer asks for it right behind the goal's own token, where it is one look-up. In the forward answer head 1 is asked behind node 0, two tokens after the goal was read: it must fetch the goal, *then*
# look up, and no part of that is rewarded alone. But head 2 is asked for node 1 behind "=", and head 3 behind the goal itself, which is the reversed answer's question. Heads further ahead are rungs of a ladder that next-token prediction does not have.
#
# ✏️ **Write down first,** for models with the same trunk, of ten seeds each: how many will plan with n = 1, 2, 3 and 4? With heads that do not shape the trunk? When the answer is reversed, and when it may not be read? Where do models that plan look?

# %% tags=["parameters"]
preset: str = "quick"
seeds: int = 0
runs_dir: str = "runs"
figures_dir: str = "results/quick/figures"
workers: int = 1

# %%
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mtp_lab import figures
from mtp_lab.decoding.generation import generate
from mtp_lab.evaluation import statistics
from mtp_lab.experiments.star_graph import analysis
from mtp_lab.experiments.star_graph.analysis import SUCCESS
from mtp_lab.experiments.star_graph.conditions import STARS, star_configs
from mtp_lab.experiments.verdicts import Verdict, record
from mtp_lab.figures import CAST, WRONG, Highlight
from mtp_lab.interp.pairs.star_graphs import GOAL, draw_star_pairs
from mtp_lab.interp.patching import recovery, residual_patching
from mtp_lab.training import runs
from mtp_lab.training.runs import Run

NAME = "07_star_graph"
FOLDER = Path(figures_dir) / NAME
chosen = STARS[preset]
configs = star_configs(preset, seeds)
stream = chosen.graphs
GRAPH = f"G({stream.degree}, {stream.length})"
GUESS = 1 / stream.degree

# %% [markdown]
# ## The task
#
# G(degree, length): arms and nodes of an arm, the centre counted. Labels are drawn at random for every graph, and edges come in random order; a model never sees a graph twice. The loss is about answers alone, as in Bachmann & Nagarajan.

# %%
graph = stream.documents(1, np.random.default_rng(5))
arms, path = stream.arms(graph.tokens), stream.solve(graph.tokens)
figure = figures.star_graph(
    arms,
    path[-1],
    [f" {stream.token_names[token]}" for token in graph.tokens],
    [
        Highlight("start and goal", graph.labels["start"] | graph.labels["goal"], CAST[0]),
        Highlight("copied or looked up", graph.labels["forced"], CAST[1]),
        Highlight("the choice", graph.labels["choice"], WRONG, "frame"),
    ],
    f"{GRAPH}: the first step is a guess among {stream.degree} arms, unless the model walks back from the goal",
    "The graph, and its document as the model reads it: edges, start and goal, path.",
)
figures.save(figure, FOLDER, "task")
figures.show(figure)
for variant in dict.fromkeys(config.task.stream.variant for config in configs):
    of_variant = next(config.task.stream for config in configs if config.task.stream.variant == variant)
    same = of_variant.documents(1, np.random.default_rng(5))
    targets = f"   targets: {' '.join(map(str, path))}" if variant == "teacherless" else ""
    print(f"{variant:12} ... {stream.text(same.tokens[stream.answer_start - 4 :])}{targets}")

# %% [markdown]
# ## Train
#
# Every trunk has the same layers, so the path of the next-token head is equally deep in all cells; more heads mean more parameters, which one next-token model with a deeper trunk makes up for. "Heads stopped": heads 2 to n train, but do not shape the trunk. Seeds of all cells see the same graphs in the same order.
# *Causal* heads stand on one another, *sequential* ones (DeepSeek-V3) also read the token before the one they predict. Positions are relative, so that a previous-token head is easy (notebook 04): what is asked here is planning, not looking up.

# %%
trained = runs.get_runs(configs, runs_dir, workers=workers)
conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
conditions["label"] = [analysis.label(row, conditions.loc[0]) for row in conditions.itertuples()]
labels = list(dict.fromkeys(conditions.label))
REFERENCE = labels[0]


def measure_runs(measure: Callable[..., pd.DataFrame], those: list[Run] = trained, **options: object) -> pd.DataFrame:
    """Measures of trained models in one table, with the columns of their conditions."""
    return analysis.measure_runs(those, measure, workers, **options).merge(conditions, on=[*analysis.CONDITION_COLUMNS, "seed"])


pd.DataFrame(
    [
        {"condition": label, "seeds": len(rows), "trunk": rows.trunk.iloc[0], "graphs seen": chosen.steps * chosen.batch_size}
        | {"parameters": sum(p.numel() for p in trained[rows.index[0]].model().parameters())}
        | {"seconds a training, median": round(float(np.median([trained[i].log()[-1]["seconds"] for i in rows.index])))}
        for label, rows in conditions.groupby("label", sort=False)
    ]
)

# %% [markdown]
# ## Learning
#
# The first step on validation graphs (reversed answers: the whole path, as no step is a guess). Thin lines are seeds. A mean of models that plan and models that guess describes neither.

# %%
curves = measure_runs(analysis.curve)
shown = curves.assign(panel=curves.label, label="n = " + curves.n.astype(str))
reference = shown[shown.panel == REFERENCE]
at_end = reference[reference.step == reference.step.max()].value
figure = figures.formation(
    shown,
    f"{REFERENCE}: accuracy of the first step at the end {at_end.min():.0%} to {at_end.max():.0%} in single seeds; guessing {GUESS:.0%}",
    f"{GRAPH}, validation graphs. Thin: seeds. Thick: their mean.",
)
figures.save(figure, FOLDER, "learning", shown[["panel", "label", "seed", "step", "value", "path", "loss"]])
figures.show(figure)

# %% [markdown]
# ## Who plans?
#
# Test graphs, opened once, for the models at the end of training. A seed *succeeds* if it has 90 % of the first steps right. Bars: exact 95 % interval of the success rate (Clopper & Pearson). Dots: every seed's share of right first steps.

# %%
final = measure_runs(analysis.final, rows=chosen.rows)
planned = final[final.measure == "planned"].reset_index(drop=True)
rates = {label: statistics.success_rate(int((rows.value >= SUCCESS).sum()), len(rows)) for label, rows in planned.groupby("label", sort=False)}
bars = planned.assign(panel=f"success rate (first-step accuracy of {SUCCESS:.0%}); dots: accuracy of each seed")
for field in ("mean", "low", "high"):
    bars[field] = bars.label.map({label: getattr(rate, field) for label, rate in rates.items()})
figure = figures.interval_bars(
    bars,
    "Seeds that plan: " + ", ".join(f"{label} {rates[label].mean:.0%}" for label in labels if ", " not in label),
    f"{GRAPH}, {chosen.rows:,} test graphs. Bars: share of seeds, exact 95 % interval. Accuracy of guessing: {GUESS:.0%}.",
)
figures.save(figure, FOLDER, "success", bars[["panel", "label", "seed", "value", "mean", "low", "high"]])
figures.show(figure)

# %%
nodes = final[final.measure.str.startswith("node") | (final.measure == "path")]
nodes.pivot_table(index="label", columns="measure", values="value", sort=False).round(3)

# %% [markdown]
# **When?** The share of seeds that have not got there yet on validation graphs. A cross: training ended there.

# %%
times = measure_runs(analysis.reached)
figure = figures.survival(
    times.assign(panel=times.label.str.contains(", ").map({False: "n tokens, parallel heads", True: "other heads and answers"})),
    "step",
    "Seeds that do not plan yet",
    f"First-step accuracy below {SUCCESS:.0%} so far (reversed: accuracy of paths), validation graphs. Lines are shifted a little.",
)
figures.save(figure, FOLDER, "when", times)
figures.show(figure)

# %% [markdown]
# ## The ladder: where is the first step known?
#
# Node 1 is asked for behind node 0 by head 1, behind "=" by head 2, behind the goal in the question by head 3. Shares right on test graphs, mean over seeds.

# %%
MAIN = [label for label in labels if conditions[conditions.label == label].variant.iloc[0] == "forward"]
those = [run for run, label in zip(trained, conditions.label, strict=True) if label in MAIN]
ladder = measure_runs(analysis.node_accuracy, those, rows=chosen.rows)
ladder = ladder[ladder.node == 1]
rungs = ladder.groupby(["label", "query"], sort=False, as_index=False).value.mean().assign(panel="accuracy of node 1, by query")
rungs["n"] = rungs.label.str.extract(r"n = (\d)", expand=False).astype(int)
rungs = rungs.sort_values("query", key=lambda c: c.map(["goal", "=", "node 0"].index), kind="stable").sort_values("n", ascending=False, kind="stable")
by_query = rungs[~rungs.label.str.contains(", ")].pivot(index="label", columns="query", values="value")
figure = figures.grid(
    rungs.assign(query=rungs["query"].map({"goal": "goal (head 3)", "=": "= (head 2)", "node 0": "node 0 (head 1)"})),
    "Accuracy of the first step at node 0: " + ", ".join(f"{label} {value:.0%}" for label, value in by_query["node 0"].items()),
    f"Accuracy of node 1 by the token after which it is predicted, test graphs, mean over seeds. Guessing: {GUESS:.0%}.",
    rows="label",
    columns="query",
    limit=1.0,
)
figures.save(figure, FOLDER, "ladder", ladder)
figures.show(figure)

# %% [markdown]
# ## Where does a model that plans look?
#
# Attention from the first node of the answer, where the first step has to be said: to the edges of the path by the node they lead to (→ 1, → 2, ...), to all other edges, to the goal in the question. One seed of each cell: the first that plans, or the first. Of each layer, the attention head that looks there most.

# %%
accuracy = planned.set_index(["label", "seed"]).value
PLAIN = [label for label in MAIN if ", " not in label]
chosen_seed = {label: int(accuracy[label].ge(SUCCESS).idxmax()) for label in PLAIN}
shown_run = {label: run for run, label, seed in zip(trained, conditions.label, conditions.seed, strict=True) if chosen_seed.get(label) == seed}
attention = measure_runs(analysis.attention_from_answer, list(shown_run.values()), rows=min(256, chosen.rows))
attention["panel"] = attention.label + attention.label.map(lambda label: f" ({accuracy[label, chosen_seed[label]]:.0%})")
attention["attends_to"] = attention.attends_to.str.replace("edge to node ", "→ ").str.replace(" edges", "")
strongest = attention.groupby(["panel", "label", "layer", "attends_to"], sort=False, as_index=False).value.max()
LAST_EDGE, PLANNERS = f"→ {stream.length - 1}", [label for label in PLAIN if accuracy[label, chosen_seed[label]] >= SUCCESS] or PLAIN[:1]
of_planner = strongest[strongest.label == PLANNERS[0]]
to_goal, to_edge = (of_planner[of_planner.attends_to == name].nlargest(1, "value").iloc[0] for name in ("goal", LAST_EDGE))
strongest["layer"] = strongest.layer.str.replace("heads.", "head ")
figure = figures.grid(
    strongest,
    f"{PLANNERS[0]}: most attention to the goal in {to_goal.layer.replace('heads.', 'head ')} ({to_goal.value:.0%}), to the edge that leads to it in {to_edge.layer.replace('heads.', 'head ')} ({to_edge.value:.0%})",
    "Mean attention from node 0 of the answer, the strongest attention head of each layer. In brackets: first-step accuracy of the model.",
    columns="attends_to",
    unit="attends to",
    limit=1.0,
)
figures.save(figure, FOLDER, "attention", attention)
figures.show(figure)

# %% [markdown]
# ## Along which tokens does the way back run? Patching
#
# Two graphs that differ in one respect, so that the first step is another one: another goal, or two arms that have exchanged what hangs below their k-th nodes. Run the second, put in the first one's activations at one layer and at one kind of position: how much of the first one's answer comes back?
# In a model that guesses, the first step does not depend on what differs, so nothing can come back; only models that plan are patched.

# %%
COUNT = 8 if preset == "smoke" else 128
CHANGES = {GOAL: "another goal", **{k: f"node {k} exchanged" for k in range(2, stream.length)}}
patched = pd.concat(
    [
        recovery(residual_patching(shown_run[label].model(), draw_star_pairs(stream, COUNT, change)), ["layer", "role"]).assign(
            panel=f"{label}: {name}", label=label, change=name
        )
        for label in PLANNERS[:2]
        for change, name in CHANGES.items()
    ],
    ignore_index=True,
)
clipped = patched.assign(value=patched.recovery.clip(0, 1), layer=patched.layer.str.replace("heads.", "head "))
clipped = clipped[clipped.role != "rest"]
query = clipped[(clipped.label == PLANNERS[0]) & (clipped.role == "query")]
arrival = {name: tuple(rows[rows.value >= min(0.5, rows.value.max())].iloc[0][["layer", "value"]]) for name, rows in query.groupby("change", sort=False)}
figure = figures.grid(
    clipped,
    f"{PLANNERS[0]}, recovery at the query: " + "; ".join(f"{name} {share:.0%} after {layer}" for name, (layer, share) in arrival.items()),
    "Recovery of the clean run's logit difference, head 1, clipped to 0 and 1. Layers from the embedding upwards.",
    columns="role",
    unit="patched positions",
    limit=1.0,
)
figures.save(figure, FOLDER, "patching", patched)
figures.show(figure)

# %% [markdown]
# ## Verdict
#
# Success rates against the next-token model, and Fisher's exact test (two-sided) for the difference.

# %%
from scipy import stats

counts = {label: (int((rows.value >= SUCCESS).sum()), len(rows)) for label, rows in planned.groupby("label", sort=False)}
SETTING = f"{GRAPH}, {stream.nodes} labels, {chosen.steps * chosen.batch_size:,} graphs, {chosen.size['d_model']} wide"


def p_value(label: str) -> float:
    """The p-value of a difference in success rates to the next-token model."""
    (a, n), (b, m) = counts[label], counts[REFERENCE]
    return float(stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue)


def verdict(claim: str, paper: str, those: list[str], holds: bool) -> Verdict:
    """A verdict on how many seeds of some conditions plan."""
    successes = "; ".join(f"{label}: {counts[label][0]} of {counts[label][1]}" for label in those)
    bounds = "; ".join(f"{rates[label].low:.0%} to {rates[label].high:.0%}" for label in those)
    word = "beyond the paper" if not paper else "reproduced" if holds else "not at this scale"
    return Verdict(claim, paper, f"seeds that plan: {successes} ({SETTING})", f"95 %: {bounds}", min(counts[label][1] for label in those), word)


BACHMANN = "next-token models guess the first step (arXiv 2403.06963, other graphs and sizes)"
TOP = "G(3, 5), correct answers: next token 33 %, two tokens 59 %, four 100 % (arXiv 2508.19228)"
verdicts = [verdict("Star graphs: next-token prediction guesses the first step", BACHMANN, [REFERENCE], rates[REFERENCE].high < 0.5)]
for label in PLAIN[1:]:
    p = p_value(label)
    test = f"Fisher's exact test against n = 1: p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    claim = f"Star graphs: models that are trained on {label[4:]} tokens plan the first step (same trunk; {test})"
    verdicts.append(verdict(claim, TOP, [label], rates[label].mean > rates[REFERENCE].mean and p < 0.05))
if controls := [label for label in MAIN if label not in PLAIN]:
    verdicts.append(verdict("Star graphs: other kinds of heads, stop-gradient heads, a trunk with one more layer", "", controls, True))
verdicts.append(verdict("Star graphs: next-token prediction with reversed and with teacherless answers", "", [label for label in labels if label not in MAIN], True))
record(figures_dir, NAME, preset, verdicts, f"mtp-lab study --preset {preset} --only {NAME}" + (f" --seeds {seeds}" if seeds else ""))
pd.DataFrame([vars(verdict) for verdict in verdicts])[["claim", "ours", "interval", "seeds", "verdict"]]

# %% [markdown]
# ## Exercises
#
# ★ **1.** A next-token model guesses the first step wrong. What does it write next: the other arm's leaf, where the edges lead from there, or the goal, which answers end in? Predict, then let it write.

# %%
graphs = configs[0].task.held_out("test", 200)
generated = generate(trained[0].model(), graphs.tokens[:, : stream.answer_start].tolist(), stream.length).tokens.numpy()  # (graphs, length)
correct_step = generated[:, 1] == graphs.tokens[:, stream.answer_start + 1]
ends_in_goal = generated[:, -1] == graphs.tokens[:, stream.answer_start - 2]
follows_edge = [generated[i, -1] in {child for parent, child in stream.edges(tokens).tolist() if parent == generated[i, -2]} for i, tokens in enumerate(graphs.tokens)]
assert len(follows_edge) == len(generated) == 200
wrong = ~correct_step
print(f"{REFERENCE}, seed 0: first step correct {correct_step.mean():.0%}; after a wrong one: ends in the goal {ends_in_goal[wrong].mean():.0%}, follows an edge {np.array(follows_edge)[wrong].mean():.0%}")

# %% [markdown]
# ★★ **2.** Of ten seeds none succeeds. How large can the success rate be, at 95 %? How many failures in a row does it take to exclude 10 %?

# %%
upper = statistics.success_rate(0, 10).high
needed = next(n for n in range(1, 200) if statistics.success_rate(0, n).high < 0.1)
assert abs(upper - (1 - 0.025 ** (1 / 10))) < 1e-9
print(f"up to {upper:.0%}; {needed} seeds (two-sided interval)")

# %% [markdown]
# ★★★ **3.** Longer arms: in G(2, 4) the first step is two look-ups back from the goal. The seed of our pilots had not planned it with n = 1, 2 or 3 after 600 to 1,200 steps. Is it the steps, the depth of the trunk, or the number of heads? (Before the first step comes a rung one can measure: with `analysis.node_accuracy`, node 2 behind "=".)
#
# ```python
# from dataclasses import replace
# from data_gen.star_graph import StarGraphs
# from mtp_lab.tasks import StarGraphTask
# longer = StarGraphs(degree=2, length=4, nodes=8)
# config = replace(configs[0], name="longer", steps=2000, task=StarGraphTask(stream=longer, seq=longer.seq), horizon_weights=(),
#                  model=replace(configs[0].model, n_future=4, trunk_layers=4, n_layers=8, max_seq=longer.seq))
# analysis.node_accuracy(runs.get_run(config, runs_dir), 500)
# ```
#
# **What would change our mind.** Another optimizer or learning rate at which n = 1 plans; larger graphs, where all cells may fail; success of n > 1 with stopped heads, which would say that the trunk need not be shaped.
