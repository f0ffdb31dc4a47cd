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
# # 5. Polynomials: does predicting several tokens teach a small model to compute?
#
# **Question.** "$(1+X)\;(X+X^2)\;\cdot\;(1)\;+$" is a question in postfix; the answer is a polynomial. Do models that are trained on several
# future tokens answer better than next-token models, on questions as long as those of training and on longer ones?
#
# **What the paper claims** (section 4.2). Expressions over $\mathbb F_7[X]/(X^5)$ with m = 1 to 5 operations in training: multi-token prediction is
# better at every m, also beyond 5, and the gain is larger than that of tripling the model (30M to 100M parameters). With pause tokens before
# the answer the gain is about the same (appendix K). Two seeds. *Why*, the paper surmises: tokens that decide others weigh more in the n-token loss (section 5.1),
# and neighbouring positions share what they compute (appendix K, which finds that its experiment with pauses does not settle this).
#
# **Why a smaller ring.** $\mathbb F_7[X]/(X^5)$ takes models of this size hours to begin with. $\mathbb F_2[X]/(X^4)$ has the same operations, 16 polynomials,
# and reaches within minutes a regime in which models differ. `ring="F7X5"` runs this notebook on the paper's ring.
#
# ✏️ **Write down first:** (a) With the parameters fixed, a model with 4 heads has a trunk of 2 layers where next-token prediction has 5. Who
# wins? (b) Most of a question's tokens are random: nothing predicts them. If the loss counts the answers' tokens alone, does a second head still help?
# (c) Where in the model can the answer be read first: at the last operator, or at "="?

# %% tags=["parameters"]
preset: str = "quick"
seeds: int = 0
ring: str = "F2X4"
runs_dir: str = "runs"
figures_dir: str = "results/quick/figures"
workers: int = 1

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_gen.polynomials.expressions import OPERATIONS
from data_gen.polynomials.partial_results import with_partial_results
from mtp_lab import figures
from mtp_lab.evaluation import answers
from mtp_lab.evaluation.statistics import over_seeds, paired_difference, paired_differences, seed_interval
from mtp_lab.experiments.polynomials import analysis
from mtp_lab.experiments.polynomials.analysis import CONDITION_COLUMNS, label, measure_runs, scores
from mtp_lab.experiments.polynomials.conditions import POLYNOMIALS, RINGS, papers_ring_configs, polynomial_configs
from mtp_lab.experiments.verdicts import Verdict, record
from mtp_lab.figures import CAST, THING, Highlight
from mtp_lab.interp import patching, probes
from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.interp.pairs.polynomials import draw_polynomial_pairs
from mtp_lab.model.predictions import tensors
from mtp_lab.training import runs

NAME = "05_polynomials"
FOLDER = Path(figures_dir) / NAME
chosen = POLYNOMIALS[preset]
configs = polynomial_configs(preset, seeds, ring)
stream = RINGS[ring]
WITHIN = range(stream.min_operations, stream.max_operations + 1)
BEYOND = [m for m in analysis.TEST_OPERATIONS if m > stream.max_operations]
SPAN = {True: f"of training length (m ≤ {WITHIN[-1]})", False: f"longer than in training (m > {WITHIN[-1]})"}

# %% [markdown]
# ## The task
#
# Each coefficient is a token that also names its degree; operators come after their operands. A document is the question, "=", the answer. The
# model must find the tree by itself. Training questions are drawn anew at every step; test questions are fixed, 2,000 for each m, drawn apart from those of
# the validation set, on which everything was chosen.

# %%
question = stream.of(3).documents(1, np.random.default_rng(3))
with_values = with_partial_results(stream, question)
coefficients = np.stack([with_values.labels[f"value_{k}"] for k in range(stream.d)])  # (d, n_tokens)
tree, values = stream.parse(question.tokens), {}


def note_values(node: tuple, last: int) -> int:
    """Stores the value of a subtree, given the position of its last token, and returns the position of its first token."""
    if not isinstance(node[0], str):
        return last - stream.d + 1
    values[node] = tuple(coefficients[:, last].astype(int).tolist())
    first = last
    for branch in reversed(node[1:]):
        first = note_values(branch, first - 1)
    return first


note_values(tree, int(np.flatnonzero(question.labels["operator"])[-1]))
figure = figures.expression_tree(
    tree,
    values,
    [f" {stream.token_names[token]}" for token in question.tokens],
    [
        Highlight("operand", question.labels["operand"], THING),
        Highlight("operation", question.labels["operator"], CAST[0]),
        Highlight("answer", question.labels["answer"], CAST[3]),
    ],
    f"A question of three operations: {len(question.tokens)} tokens, {stream.d} of them the answer",
    f"Coefficients modulo {stream.p}, without X^{stream.d} and higher powers. Below: the document as the model reads it.",
)
figures.save(figure, FOLDER, "task")
figures.show(figure)
SAMPLES = int(0.8 * chosen.steps * chosen.batch_size * chosen.seq / stream.mean_length)  # a fifth of a row is padding
seen = [stream.overlap(stream.held_out("test", m)[:200], SAMPLES) for m in WITHIN]
print(f"about {SAMPLES:,} training questions; expected share of test questions that are also training questions: " + ", ".join(f"m={m} {s:.0%}" for m, s in zip(WITHIN, seen, strict=True)))

# %% [markdown]
# ## Train
#
# A *cell* is a model and a loss; its seeds differ in weights and data, and one seed's data are the same in every cell. The next-token path of a model with
# a trunk of k layers has k + 1, the head's layer included. *Equal parameters*: trunk and heads have six layers together, so more heads leave a shallower
# trunk (the paper's comparison). *Equal depth*: every trunk has the same layers, so more heads mean more parameters.

# %%
trained = runs.get_runs(configs, runs_dir, workers=workers)
conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])

conditions["label"] = [label(row) for row in conditions.itertuples()]
of_run = [*CONDITION_COLUMNS, "seed"]
REFERENCE = conditions.label.iloc[0]
plain = (conditions.loss_on == "all tokens") & ~conditions.stop_gradient & (conditions.pause == 0) & (conditions.horizon_decay == 1)
LAYERS = chosen.main[0].layers
GROUPS = {
    f"equal parameters ({LAYERS} layers)": plain & (conditions.trunk + conditions.n == LAYERS),
    f"equal depth (trunk of {chosen.main[0].trunk})": plain & (conditions.trunk == chosen.main[0].trunk),
    "loss on answers only": conditions.loss_on == "answers",
}
MAIN = [label(condition) for condition in chosen.main]
pd.DataFrame(
    [
        {"condition": name, "seeds": len(rows), "layers": rows.trunk.iloc[0] + rows.n.iloc[0], "steps": chosen.steps}
        | {"parameters": sum(p.numel() for p in trained[rows.index[0]].model().parameters())}
        | {"seconds a step, median": round(float(np.median([trained[i].log()[-1]["seconds"] for i in rows.index])) / chosen.steps, 3)}
        for name, rows in conditions.groupby("label", sort=False)
    ]
)

# %% [markdown]
# ## Learning
#
# Exact match on validation questions during training, at equal tokens. (Seconds a step are in the table above. They hold what else the
# machine did: cells whose models are the same differ there, too, so they do not rank the n.)

# %%
curves = pd.concat([trained[i].measures().assign(label=name) for i, name in conditions.label[conditions.label.isin(MAIN)].items()])
curves["panel"] = "m = " + curves.measure.str.removeprefix("exact_")
shown = curves[curves.measure.isin([f"exact_{m}" for m in (1, 3, 5)])]
figure = figures.formation(
    shown,
    f"After {chosen.steps} steps {shown[(shown.step == chosen.steps) & (shown.measure == 'exact_1')].value.mean():.0%} of the answers to one-operation "
    f"questions are correct, and {shown[(shown.step == chosen.steps) & (shown.measure == 'exact_5')].value.mean():.0%} of those with five operations",
    "Exact match on validation questions, a few for each m. Thin: seeds. Thick: their mean.",
)
figures.save(figure, FOLDER, "learning", shown[["panel", "label", "seed", "step", "tokens", "value"]])
figures.show(figure)

# %% [markdown]
# ## Who answers better?
#
# Test questions, asked once, of the models as they stand at the end of training. Dotted: saying the most frequent answer of each m without reading the question, which is
# right more often the longer the question, because products and compositions lose information. Where a model hardly rises above that line, it need not have read the question.

# %%
is_main = conditions.label.isin(MAIN)
scored = measure_runs(trained, scores, workers, items=chosen.items).merge(conditions, on=of_run)
baseline = analysis.baselines(stream, "test", chosen.items)
exact = scored[scored.group == "all"]
by_m = []
for panel, in_panel in GROUPS.items():
    names = sorted(conditions.label[in_panel].unique(), key=lambda name: name not in MAIN)
    by_m += [exact[exact.label == name].assign(panel=panel) for name in names]
by_m = pd.concat(by_m)
by_m["line"] = by_m["label"]
by_m["label"] = "n = " + by_m.n.astype(str)
by_m = over_seeds(by_m, ["panel", "label", "m"], "value", ("mean", "low", "high"))
spans = exact.assign(span=exact.m.le(WITHIN[-1]).map(SPAN)).groupby(["label", "seed", "span"], sort=False, as_index=False).value.mean()
IN, OUT = SPAN[True], SPAN[False]


def of_condition(name: str, span: str = IN) -> pd.DataFrame:
    """The mean accuracy of one condition over the m of a span, one row a seed."""
    return spans[(spans.label == name) & (spans.span == span)]


gains = {name: paired_difference(of_condition(name), of_condition(REFERENCE)) for name in MAIN[1:]}
figure = figures.by_operations(
    by_m,
    baseline,
    WITHIN[-1],
    f"Equal parameters, mean over m = 1 to 5, difference to {REFERENCE}: " + "; ".join(f"{name} {100 * gain.mean:+.1f} points" for name, gain in gains.items()),
    f"{chosen.items:,} test questions for each m. {figures.SEEDS}",
)
figures.save(figure, FOLDER, "accuracy", by_m[["panel", "line", "n", "m", "seed", "value", "mean", "low", "high"]])
figures.show(figure)

# %%
table = exact[exact.label.isin(MAIN)].groupby(["label", "m"], sort=False).value.agg(["mean", "std"])
shown = table["mean"].unstack().mul(100).round(1).astype(str) + " ± " + table["std"].unstack().mul(100).round(1).astype(str)
pd.concat([shown, baseline.set_index("m").value.mul(100).round(1).astype(str).to_frame("majority baseline").T])

# %% [markdown]
# ## What makes the difference? Controls
#
# Every cell against next-token prediction at equal parameters and all tokens (the first cell), seed by seed. Right of zero is better. Each control takes one
# explanation away: depth (the same trunk for all n; next-token models as shallow as the others' paths), capacity (heads that train but do not
# shape the trunk; *heads ×0.3*: each head weighs that much of the one before), size (a larger next-token model), time to think
# (*pauses*: tokens between question and answer), and what the loss is about.

# %%
against_reference = paired_differences(spans.rename(columns={"span": "panel"}), REFERENCE)
intervals = against_reference.drop_duplicates(["panel", "label"])
better, worse = ((intervals.low > 0) & (intervals.panel == IN)).sum(), ((intervals.high < 0) & (intervals.panel == IN)).sum()
figure = figures.differences(
    against_reference,
    f"Compared with {REFERENCE}, {better} of {intervals.label.nunique()} conditions are clearly better and {worse} clearly worse on questions of training length",
    "Accuracy, difference seed by seed, mean over the m of a panel. Dots: seeds. Bars: 95 % interval of the mean (paired t).",
)
figures.save(figure, FOLDER, "controls", against_reference)
figures.show(figure)

# %% [markdown]
# ## Is it a matter of what the loss is about?
#
# Most of a document is random: its operands cannot be predicted, at any horizon. The share of the *training loss* (in nats, over all horizons) that is about answers says how much
# of the learning signal is; the share of the *squared gradient* at the trunk's output says how much of what reaches the trunk. Is the gain of n heads that of looking at the
# answers more? Next-token models whose answers count more, or alone, move along these axes without any head: with ×1.1 and ×2 answers have about the shares that they have with n = 2 and n = 4.

# %%
SOME = conditions.seed < (1 if preset in ("smoke", "quick") else 3)  # seeds for slow measures
with_shares = conditions.label.isin(MAIN) | (conditions.loss_on != "all tokens")
share_tables = {
    "share of the training loss": measure_runs([trained[i] for i in conditions.index[with_shares & SOME]], analysis.loss_shares, workers),
    "share of the squared gradient at the trunk": measure_runs(
        [trained[i] for i in conditions.index[with_shares & SOME]], analysis.gradient_shares, workers, rows=4 if preset == "smoke" else 12
    ),
}
shares = pd.concat([table.assign(panel=panel) for panel, table in share_tables.items()]).merge(conditions, on=of_run)
points = shares[shares.token == "answer"].groupby(["panel", "label", "seed"], sort=False, as_index=False).share.sum()
points = points.merge(spans[spans.span == IN], on=["label", "seed"]).groupby(["panel", "label"], sort=False, as_index=False)[["share", "value"]].mean()
gradient_share = points[points.panel == "share of the squared gradient at the trunk"].set_index("label").share
figure = figures.against(
    points,
    "share",
    ("share of answers", "accuracy"),
    "Share of answers in the squared gradient at the trunk: " + "; ".join(f"{name}: {gradient_share[name]:.0%}" for name in MAIN),
    f"Shares: end of training, validation questions, weights of training. Accuracy: test questions {IN}. Points: conditions, mean over seeds.",
)
figures.save(figure, FOLDER, "shares", points)
figures.show(figure)

# %%
shares[shares.label.isin(MAIN)].pivot_table(index=["panel", "label", "horizon"], columns="token", values="share", sort=False).round(3)

# %% [markdown]
# ## Which operations, which coefficients?

# %%
subsets = scored[scored.label.isin(MAIN) & scored.group.isin(["root", "degree"]) & scored.m.isin([2, 3, 4, 5])]
subsets = subsets.groupby(["group", "label", "subset"], sort=False, as_index=False).value.mean()
subsets["panel"] = subsets.group.map({"root": "last operation", "degree": "coefficient, given those before it"})
by_operation, by_coefficient = subsets[subsets.group == "root"], subsets[subsets.group == "degree"]
figure = figures.grid(
    by_operation,
    f"Accuracy by the operation that is done last: from {by_operation.value.min():.0%} to {by_operation.value.max():.0%}",
    "Test questions of 2 to 5 operations, mean over seeds. (For p = 2, negation changes nothing.)",
    rows="label",
    columns="subset",
    unit="last operation",
    limit=1.0,
)
figures.save(figure, FOLDER, "operations", subsets)
figures.show(figure)

# %%
by_coefficient.pivot(index="label", columns="subset", values="value").round(3)

# %% [markdown]
# ## Choosing answers by sampling
#
# The paper judges its code models by pass@k: is one of k samples right? Here every model's probability of the right answer is known exactly, from one forward, so pass@k is computed
# without sampling, at any temperature: $1 - (1 - p)^k$, averaged over questions. The temperature of each k is chosen on validation questions.

# %%
KS, TEMPERATURES, LENGTHS = (1, 3, 10, 30, 100), (0.2, 0.4, 0.6, 0.8, 1.0, 1.3), (3, 5, 8)
items = min(chosen.items, 300)
main_runs = [trained[i] for i in conditions.index[is_main]]
options = dict(temperatures=TEMPERATURES, ks=KS, operations=LENGTHS, items=items)
on_validation = measure_runs(main_runs, analysis.samples, workers, split="validation", **options).merge(conditions, on=of_run)
best = on_validation.groupby(["label", "m", "k", "temperature"], sort=False, as_index=False).value.mean()
best = best.loc[best.groupby(["label", "m", "k"], sort=False).value.idxmax(), ["label", "m", "k", "temperature"]]
on_test = measure_runs(main_runs, analysis.samples, workers, **options).merge(conditions, on=of_run)
passed = on_test.merge(best, on=["label", "m", "k", "temperature"])
shown = passed.groupby(["m", "label", "k"], sort=False, as_index=False).value.mean().assign(panel=lambda t: "m = " + t.m.astype(str))
shown = shown.sort_values(["m", "k"], kind="stable")
at_k = shown[shown.m == LENGTHS[0]].groupby("k").value.mean()
figure = figures.against(
    shown,
    "k",
    ("samples k", "pass@k"),
    f"m = {LENGTHS[0]}: pass@1 is {at_k[1]:.0%} and pass@{KS[-1]} {at_k[KS[-1]]:.0%}, with {stream.p**stream.d:,} possible answers",
    f"Expected pass@k, exact, {items} test questions; temperature chosen for each k on validation questions. Mean over seeds.",
    log=True,
    ticks=KS,
)
figures.save(figure, FOLDER, "pass_at_k", passed[["label", "m", "k", "temperature", "seed", "value"]])
figures.show(figure)
best.pivot(index=["label", "m"], columns="k", values="temperature").rename_axis(columns="best temperature for k =")

# %% [markdown]
# Now with the decoder itself, keys and values cached: greedy answers must be those of the one-pass judgement, sampled ones as frequent as their probability, and a *majority vote* needs no judge at all.

# %%
N_QUESTIONS, N_SAMPLES, K = (10, 8, 5) if preset == "smoke" else (100, 64, 10)
voted, agree = [], []
for i in conditions.index[is_main & SOME]:
    model = trained[i].model()
    documents = stream.held_out("test", 3)[:N_QUESTIONS]
    prompts, correct_answers = answers.questions(documents)
    greedy = answers.decode_answers(model, prompts, stream.d)[:, 0]
    sampled = answers.decode_answers(model, prompts, stream.d, samples=N_SAMPLES, temperature=0.8, seed=int(conditions.seed[i]))
    hits = answers.exact_match(sampled, correct_answers)
    forced = answers.teacher_forced(model, documents).exact
    agree.append(answers.exact_match(greedy, correct_answers) == forced)
    voted.append(
        {"label": conditions.label[i], "seed": conditions.seed[i], "greedy": forced.mean(), "one sample": hits.mean()}
        | {"one sample, exact": answers.answer_probability(model, documents, [0.8]).mean()}
        | {f"majority of {N_SAMPLES}": answers.exact_match(answers.majority_answer(sampled), correct_answers).mean()}
        | {f"pass@{K} of {N_SAMPLES}": answers.pass_at_k(hits.sum(1), N_SAMPLES, K).mean()}
    )
assert np.mean(agree) > 0.99, "greedy decoding and teacher forcing differ"
print(f"greedy decoding agrees with teacher forcing on {np.mean(agree):.2%} of {np.size(agree)} answers")
pd.DataFrame(voted).groupby("label", sort=False).mean(numeric_only=True).drop(columns="seed").round(3)

# %% [markdown]
# ## Inside: where can results be read?
#
# Linear probes for the coefficients of *results*: of an inner operation at its operator, of the whole expression at the last operator, and at "=". Accuracy above the untrained model's, so 0 is what
# the input's tokens give away by themselves. Sites from the embedding upwards; the last is head 1. Does n > 1 bring results forward, in depth or position?

# %%
PROBED = 200 if preset == "smoke" else 1000
documents = stream.of(3).documents(PROBED, np.random.default_rng([0x50524F42, 1]))
packed = with_partial_results(stream, documents).pack(configs[0].task.seq)
ids, owners = tensors(packed)
last_operator = np.roll(packed.labels["equals"], -1, axis=1)  # no pauses here
inner = packed.labels["operator"] & ~last_operator
probed = []
for i in conditions.index[is_main & SOME]:
    model = trained[i].model()
    for k in (0,) if preset in ("smoke", "quick") else (0, stream.d - 1):
        value = packed.labels[f"value_{k}"]
        after = np.where(packed.labels["equals"], np.roll(value, 1, axis=1), -1)
        places = {"inner operator": np.where(inner, value, -1), "last operator": np.where(last_operator, value, -1), "=": after}
        for place, targets in places.items():
            labels = torch.from_numpy(targets).long().roll(1, dims=1)  # probes read labels one token ahead
            accuracy = probes.probe(model, ids, owners, labels, classes=range(stream.p), offsets=[1], examples=800)
            probed.append(accuracy.assign(place=place, coefficient=k, label=conditions.label[i], seed=conditions.seed[i]))
probed = pd.concat(probed, ignore_index=True)
on_path = probed[probed.features.isin(["trained", "untrained"]) & ~probed.layer.str.match(r"heads\.[2-9]")]
read = on_path.pivot_table(index=["label", "seed", "coefficient", "place", "layer"], columns="features", values="accuracy", sort=False).reset_index()
read["value"] = read.trained - read.untrained
read = read.groupby(["label", "place", "layer"], sort=False, as_index=False).value.mean().assign(panel=lambda t: t.label)
read["layer"] = read.layer.replace("heads.1", "head 1")
order = ["embed", *sorted(set(read.layer) - {"embed", "head 1"}), "head 1"]
read = read.sort_values("layer", key=lambda c: c.map({name: k for k, name in enumerate(order)}), kind="stable").sort_values(
    "label", key=lambda c: c.map({name: k for k, name in enumerate(MAIN)}), kind="stable"
)
deepest = read.groupby(["label", "place"], sort=False).value.max().unstack()
figure = figures.grid(
    read,
    f"{REFERENCE}: probes are best at \"=\" ({deepest.loc[REFERENCE, '=']:+.0%} above untrained), and worse at the last operator "
    f"({deepest.loc[REFERENCE, 'last operator']:+.0%})"
    if deepest.loc[REFERENCE, "="] > deepest.loc[REFERENCE, "last operator"]
    else f"{REFERENCE}: probes are best at the last operator ({deepest.loc[REFERENCE, 'last operator']:+.0%} above untrained)",
    "Accuracy of linear probes minus the same on an untrained model; questions of 3 operations; mean over seeds and coefficients.",
    columns="place",
    unit="position",
    limit=0.5,
)
figures.save(figure, FOLDER, "probes", probed)
figures.show(figure)

# %% [markdown]
# ## Where does a coefficient travel? Patching
#
# Two questions that differ in one coefficient of one operand, and in the answer. Run the second, put in the first one's activations at one layer and at one kind of position: how much of the first
# one's answer comes back? First by the tokens' *roles*; *operand*: the rest of the changed operand; *first op.*: the operator that takes it; *later op.*: those that take its result; *after it*: what follows
# the question, up to the *query*, the token behind which the answer's first differing coefficient is to be said. The last panel asks head 2, whose query is one token earlier.

# %%
COUNT = 8 if preset == "smoke" else 96
drawn = draw_polynomial_pairs(stream.of(3), COUNT)
LAYER_ORDER = ["embed", *(f"blocks.{k}" for k in range(conditions.trunk.max())), *(f"heads.{k}" for k in (1, 2))]


def patch(those: Pairs, horizons: dict[int, tuple[int, ...]]) -> pd.DataFrame:
    """Recovery by layer and role in models of the main conditions; `horizons`: the prediction heads of each n."""
    tables = []
    for i in conditions.index[is_main & SOME & conditions.n.isin(horizons)]:
        for horizon in horizons[conditions.n[i]]:
            table = patching.recovery(patching.residual_patching(trained[i].model(), those, horizon), ["layer", "role"])
            tables.append(table.assign(panel=f"{conditions.label[i]}, head {horizon}", n=conditions.n[i], horizon=horizon, seed=conditions.seed[i]))
    return pd.concat(tables, ignore_index=True)


def in_order(table: pd.DataFrame, roles: list[str]) -> pd.DataFrame:
    """Mean over seeds, with panels, layers and roles in the order of a grid."""
    mean = table[table.role.isin(roles)].groupby(["n", "horizon", "panel", "layer", "role"], sort=False, as_index=False).recovery.mean()
    places = {name: k for k, name in enumerate([*LAYER_ORDER, *roles])}
    mean = mean.sort_values(["n", "horizon", "layer", "role"], key=lambda c: c if c.name in ("n", "horizon") else c.map(places))
    return mean.assign(value=mean.recovery, layer=mean.layer.str.replace("heads.", "head "))


roles = ["changed", "same operand", "first operator", "later operators", "others", "after the question", "query"]
by_role = patch(drawn, {1: (1,), 2: (1, 2)})
shown = in_order(by_role, roles)
shown["role"] = shown.role.replace({"same operand": "operand", "first operator": "first op.", "later operators": "later op.", "after the question": "after it"})
figure = figures.grid(
    shown,
    "Position of a changed coefficient on its way to the answer, layer by layer",
    "Recovery of the clean run's logit difference. Questions of 3 operations, mean over seeds.",
    columns="role",
    unit="patched positions",
    limit=1.0,
)
figures.save(figure, FOLDER, "patching", by_role)
figures.show(figure)

# %% [markdown]
# **How early is an answer's coefficient ready?** The same patches by distance to the query, always for head 1. A model that computes at the query itself has all of it there; one that was ready a
# token earlier has it at the token before, from where head 1 fetches it. Head n had to say it n - 1 tokens before the query.

# %%
BACK = ["earlier", "3 before", "2 before", "1 before", "query"]
distance = drawn.query_position[:, None] - torch.arange(drawn.clean.shape[1])  # (pairs, seq)
by_distance = replace(
    drawn,
    role_names=(*BACK, "rest"),
    roles=torch.where(drawn.documents < 0, -1, torch.where(distance < 0, len(BACK), (len(BACK) - 1 - distance).clamp(min=0))),
)
ready = patch(by_distance, {n: (1,) for n in conditions.n[is_main].unique()})
shown = in_order(ready, BACK)
end = {n: f"blocks.{conditions[is_main & (conditions.n == n)].trunk.iloc[0] - 1}" for n in conditions.n[is_main].unique()}
at_end = {n: ready[(ready.n == n) & (ready.layer == layer)].groupby("role", sort=False).recovery.mean() for n, layer in end.items()}
figure = figures.grid(
    shown,
    "Recovery at the end of the trunk, at the query: " + ", ".join(f"n = {n}: {at[BACK[-1]]:.0%}" for n, at in at_end.items())
    + "; one token before the query: " + ", ".join(f"n = {n}: {at[BACK[-2]]:.0%}" for n, at in at_end.items()),
    "Recovery of the clean run's logit difference, head 1. Questions of 3 operations, mean over seeds.",
    columns="role",
    unit="patched positions",
    limit=1.0,
)
figures.save(figure, FOLDER, "ready", ready)
figures.show(figure)

# %% [markdown]
# ## The paper's own ring
#
# $\mathbb F_7[X]/(X^5)$ has 16,807 polynomials, and a product's highest coefficient is a sum of five products modulo 7. Models as large as those above, with loss on answers alone: what do they learn in
# minutes? Asked at once with all m, or with one operation first: a curriculum. Or with few terms first ("sparse": each question draws a share of its coefficients that are 0, as Saxena et al. 2024 do
# for sums of many terms), so that most coefficients of a product are a single product before they are sums of five. (`full` trains them. The paper's models have some 100 or 300 times the parameters and see
# 25 billion tokens.) Test questions are dense and the same for all.

# %%
RING, RING_OPERATIONS, PRODUCTS = RINGS["F7X5"], (1, 2, 3), "sparse products"
ring_configs = papers_ring_configs(preset, seeds) if ring != "F7X5" else {}
if ring_configs:
    ring_runs = runs.get_runs(sum(ring_configs.values(), []), runs_dir, workers=workers)
    of_kind = dict(zip(ring_configs, np.array_split(np.array(ring_runs, dtype=object), len(ring_configs)), strict=True))
    ring_scored = pd.concat(
        [measure_runs(list(group), scores, workers, items=chosen.items, operations=RING_OPERATIONS).assign(label=name) for name, group in of_kind.items()]
    )
    general = [name for name, group in ring_configs.items() if group[0].task.stream.operations == OPERATIONS]
    shown = ring_scored[ring_scored.label.isin(general) & ring_scored.group.isin(["all", "root"])]
    shown = shown.assign(panel=lambda t: "m = " + t.m.astype(str), subset=lambda t: t.subset.where(t.group == "root", "all"))
    shown = shown.groupby(["panel", "label", "subset"], sort=False, as_index=False).value.mean()
    ring_baseline = analysis.baselines(RING, "test", chosen.items, RING_OPERATIONS)
    shown = pd.concat([shown, ring_baseline.assign(panel="m = " + ring_baseline.m.astype(str), label="majority baseline", subset="all")])
    best_of_operation = shown[(shown.panel == "m = 1") & (shown.subset != "all")].groupby("subset", sort=False).value.max()
    figure = figures.grid(
        shown,
        "F7[X]/(X^5), one operation, highest accuracy: " + ", ".join(f"{name} {share:.0%}" for name, share in best_of_operation.items()),
        f"Test questions by the operation that is done last; {RING.p**RING.d:,} possible answers. Mean over {len(ring_configs[shown.label.iloc[0]])} seeds.",
        rows="label",
        columns="subset",
        unit="last operation",
        limit=1.0,
    )
    figures.save(figure, FOLDER, "papers_ring", ring_scored)
    figures.show(figure)
    single = ring_scored[(ring_scored.m == 1) & ring_scored.group.isin(["degree of *", "degree of o"])]
    single = single.assign(panel=single.group.map({"degree of *": "products", "degree of o": "compositions"}))
    single = single.groupby(["panel", "label", "subset"], sort=False, as_index=False).value.mean()
    best_of_coefficient = single[single.panel == "products"].groupby("subset", sort=False).value.max()
    figure = figures.grid(
        single,
        "Products, highest accuracy of each coefficient: " + ", ".join(f"{name} {share:.0%}" for name, share in best_of_coefficient.items()),
        "Coefficients of the answer, each given the correct ones before it; m = 1, guessing is correct in 14 % or a little more. Mean over seeds.",
        rows="label",
        columns="subset",
        unit="coefficient",
        limit=1.0,
    )
    figures.save(figure, FOLDER, "papers_ring_coefficients", single)
    figures.show(figure)
else:
    print(f"preset {preset} trains no further models of F7[X]/(X^5)")

# %% [markdown]
# Sums of two products, the coefficient of X, ask for nothing more than a curriculum: with few terms first they are right in every seed and for both n, where all other trainings guess. The sum of three
# is half known to n = 1 (two seeds, far apart) and hardly begun by n = 2. Dense questions of all operations afterwards keep what is known for sure and lose what was half known. Whole products would take hours
# more; this is as far as we went, and every try is in LAB_LOG.md.
#
# ## Verdict

# %%
paper_42 = "n > 1 better than n = 1 at every m, in and out of domain (section 4.2, figure 8; 2 seeds, 30M and 100M)"
verdicts = []


def verdict(claim: str, paper: str, name: str, reference: str = REFERENCE, span: str = IN) -> None:
    """A verdict on the claim that a condition answers better than another; none if one was not trained."""
    if of_condition(name, span).empty or of_condition(reference, span).empty:
        return
    gain = paired_difference(of_condition(name, span), of_condition(reference, span))
    majority = f"; majority baseline {baseline[baseline.m.isin(BEYOND)].value.mean():.1%}" if span != IN else ""
    word = "reproduced" if gain.low > 0 else "not at this scale"
    pair = of_condition(name, span).merge(of_condition(reference, span), on="seed")
    verdicts.append(
        Verdict(
            f"{claim}, questions {span}",
            paper,
            f"{name}: {pair.value_x.mean():.1%} correct, {reference}: {pair.value_y.mean():.1%}{majority} ({ring}, {chosen.size['d_model']} wide)",
            f"difference, 95 %: {100 * gain.low:+.1f} to {100 * gain.high:+.1f} points",
            len(pair),
            word if paper else "beyond the paper",
        )
    )


for span in SPAN.values():
    for name in MAIN[1:]:
        verdict("Multi-token prediction answers better than next-token prediction, equal parameters", paper_42, name, span=span)
TRUNK = chosen.main[0].trunk
for n in (2, 4):
    verdict(f"Accuracy of n = {n} and n = 1 at equal depth (more parameters)", "", f"n = {n}, trunk {TRUNK}")
    verdict(f"Accuracy of n = {n} and n = 1, both with loss on answers only", "", f"n = {n}, trunk {LAYERS - n}, answers only", f"n = 1, trunk {TRUNK}, answers only")
for n, weight in ((2, 1.1), (4, 2)):
    verdict(f"Accuracy of n = {n}, and of n = 1 with the same share of answers in the loss", "", f"n = {n}, trunk {LAYERS - n}", f"n = 1, trunk {TRUNK}, answers ×{weight}")
verdict("A second head gains more than a larger model", "30M to 100M gains less than n > 1 (section 4.2)", MAIN[1], "n = 1, trunk 8")
verdict("Accuracy of n = 2 with stop-gradient heads, and of n = 1", "", f"n = 2, trunk {TRUNK}, stop-gradient heads")
verdict("Accuracy of n = 1 with loss on answers only, and on all tokens", "", f"n = 1, trunk {TRUNK}, answers only")
paper_pauses = "5 and 10 pauses: similar gains of n > 1 (appendix K)"
for pauses, word in ((5, "Five"), (10, "Ten")):
    with_pauses = (f"n = {n}, trunk {LAYERS - n}, {pauses} pauses" for n in (2, 1))
    verdict(f"{word} pause tokens before the answer: n = 2 answers better than n = 1", paper_pauses, *with_pauses)
if ring_configs:
    ring_exact = ring_scored[ring_scored.label.isin(general) & (ring_scored.group == "all") & (ring_scored.m == 1)][["label", "seed", "value"]]
    one_token, two_tokens = (ring_exact[ring_exact.label == f"n = {n}, then all"] for n in (1, 2))
    gain = paired_difference(two_tokens, one_token)
    verdicts.append(
        Verdict(
            "The paper's ring, loss on answers only, one operation first: n = 2 answers better than n = 1, m = 1",
            paper_42,
            "; ".join(f"{name}: {group.value.mean():.1%} correct" for name, group in ring_exact.groupby("label", sort=False)),
            f"difference, 95 %: {100 * gain.low:+.1f} to {100 * gain.high:+.1f} points",
            len(two_tokens),
            "reproduced" if gain.low > 0 else "not at this scale",
        )
    )
    of_products = f"n = 1, {PRODUCTS}"
    whole_products = ring_scored[(ring_scored.label == of_products) & (ring_scored.m == 1) & (ring_scored.group == "root") & (ring_scored.subset == "*")]
    by_coefficient = single[(single.label == of_products) & (single.panel == "products")]
    share = seed_interval(whole_products.value)
    verdicts.append(
        Verdict(
            "The paper's ring: models learn products of two polynomials, few terms first, n = 1",
            "not reported by operation (section 4.2)",
            f"{share.mean:.1%} correct; by coefficient " + ", ".join(f"{row.subset} {row.value:.0%}" for row in by_coefficient.itertuples()),
            f"95 %, whole products: {100 * share.low:.1f} to {100 * share.high:.1f} %",
            len(whole_products),
            "reproduced" if share.low > 0.5 else "not at this scale",
        )
    )
record(figures_dir, NAME, preset, verdicts, f"mtp-lab study --preset {preset} --only {NAME}" + (f" --seeds {seeds}" if seeds else ""))
pd.DataFrame([vars(verdict) for verdict in verdicts])[["claim", "ours", "interval", "seeds", "verdict"]]

# %% [markdown]
# ## Exercises
#
# ★ **1.** Which questions of one operation is a model sure of? (Predict first: a composition "o" or a sum?) Then ask it one of your own.

# %%
model = trained[0].model()
documents = stream.of(1).documents(400, np.random.default_rng(7))
probabilities = answers.answer_probability(model, documents, [1.0])[0]
root = documents.labels["root"][documents.ends - 1].astype(int)
for symbol, number in zip("-+*o", range(4), strict=True):
    of_root = probabilities[root == number]
    print(f"{symbol}  mean probability of the correct answer {of_root.mean():.2f}   e.g. {stream.text(documents[int(np.flatnonzero(root == number)[0]):][:1].tokens)}")

# %% [markdown]
# ★★ **2.** From 20 samples pass@10 could be estimated by plugging the share of right ones in: $1 - (1 - \hat p)^{10}$. Is that too high or too low on average, if 5 % of samples are right? Compare it with
# `answers.pass_at_k`; both expectations can be computed exactly.

# %%
from scipy import stats

p, drawn_samples, k = 0.05, 20, 10
counts = np.arange(drawn_samples + 1)
weights = stats.binom.pmf(counts, drawn_samples, p)
unbiased = float((answers.pass_at_k(counts, drawn_samples, k) * weights).sum())
naive = float((answers.expected_pass_at_k(counts / drawn_samples, k) * weights).sum())
truth = float(answers.expected_pass_at_k(p, k))
assert abs(unbiased - truth) < 1e-12 and abs(naive - truth) > 0.01
print(f"exact {truth:.4f}, estimator of Chen et al. {unbiased:.4f}, plug-in estimate {naive:.4f}")

# %% [markdown]
# ★★★ **3.** Does the gain depend on how questions are written? `Polynomials(notation="infix")`, `tagged=False`, `high_first=True` ask the same questions in other words.
#
# ```python
# infix_stream = replace(stream, notation="infix")
# infix = replace(configs[0], name="infix", task=replace(configs[0].task, stream=infix_stream, seq=96),
#                 model=replace(configs[0].model, max_seq=96, vocab_size=infix_stream.vocab_size))
# scores(runs.get_run(infix, runs_dir), "validation", 500).query("group == 'all'")
# ```
