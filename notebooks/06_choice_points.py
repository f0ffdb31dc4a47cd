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
# # 6. Choice points: what does the n-token loss weigh, and is the weighting what helps?
#
# **Question.** A text makes few choices; most of its tokens follow from them. The loss of n future tokens asks for a choice's consequences before the choice is read. So it weighs choices
# more than next-token prediction does. By how much, in theory, exactly, and in trained models? And if weight is the point: does it help a next-token model to simply weigh choices more?
#
# **What the paper claims** (section 5.1, figure 9, appendix L.3). Of n heads' loss terms, n(n + 1)/2 belong to a choice point, and n to a token on which nothing depends: a relative weight of
# (n + 1)/2. The paper surmises that this narrows the gap between training, where each choice is followed by the right text, and generation, where models can wander off. In terms of information (section 5.2, appendix L.2): with X the next token and Y the one after,
# two-token prediction pays H(X) + H(Y) = H(X|Y) + 2 I(X; Y) + H(Y|X). What the two share counts twice. The paper argues with counts and entropies; it trains no model to separate the weighting from the rest.
#
# **Here every number can be known.** The *choice process* is a choice among four, three forced tokens, a choice, and so on; each forced token is the sum, modulo 4, of the choices that are
# relevant to it. Entropies and mutual information are closed forms, and every continuation can be judged.
#
# ✏️ **Write down first:** (a) For eight heads theory says 4.5. In one of the processes below a choice has a part in six of the next seven tokens, but in three of these only as a sum with the next choice. How much is it then?
# (b) Do *trained* heads weigh choices more than ideal ones, or less? (c) A next-token model whose choices count 1.5 times: does it err less after choices, more, or as much? And a model of two tokens whose loss leaves
# out what makes it weigh choices more?

# %% tags=["parameters"]
preset: str = "quick"
seeds: int = 0
runs_dir: str = "runs"
figures_dir: str = "results/quick/figures"
workers: int = 1

# %%
from pathlib import Path

import numpy as np
import pandas as pd

from data_gen.choice_process import ChoiceProcess
from data_gen.stories.generator import N_CHARACTERS
from mtp_lab import figures
from mtp_lab.evaluation.statistics import over_seeds, paired_differences, seed_interval
from mtp_lab.experiments.choice_points import analysis
from mtp_lab.experiments.choice_points.analysis import label, measure_runs
from mtp_lab.experiments.choice_points.conditions import (
    CHOICE,
    CHOICES,
    PROCESS,
    STORY_HEADS,
    ChoiceCondition,
    all_configs,
)
from mtp_lab.experiments.verdicts import Verdict, record
from mtp_lab.model.predictions import token_nll
from mtp_lab.theory import implicit_weights, information
from mtp_lab.training import runs

NAME = "06_choice_points"
FOLDER = Path(figures_dir) / NAME
chosen = CHOICES[preset]
*configs, story = all_configs(preset, seeds)
FEW = (1, 2, 4, 8)  # values of n that figures show

# %% [markdown]
# ## Counting
#
# The paper's idealised text: 1 2 3 4 5, then a choice A that determines B, C, D. A term $x_t \to x_{t+i}$ is a hard one if the choice lies between: it then belongs to A, whatever its target. All
# other terms belong to their target. Horizon i has as many hard terms as there are ways to jump over A: i, so that n horizons have 1 + 2 + ... + n.

# %%
TEXT, HORIZONS = "12345ABCD", 4
cause = np.array([max(0, k - TEXT.index("A")) for k in range(len(TEXT))])
owner = implicit_weights.owners(cause, HORIZONS)
counts = implicit_weights.loss_terms(cause, HORIZONS)[-1]
table = implicit_weights.term_counts(8)
expected = table.set_index("n").loc[HORIZONS]
assert counts[TEXT.index("A")] == expected.choice_point
figure = figures.terms(
    TEXT,
    cause,
    owner,
    f"With n = {HORIZONS}, {expected.choice_point:.0f} terms belong to the choice A, and {expected.inconsequential:.0f} to a token on which nothing depends",
    "A square is a loss term, at its target and horizon. The first tokens have fewer terms, because few tokens come before them.",
)
figures.save(figure, FOLDER, "terms", table)
figures.show(figure)
table.set_index("n")

# %% [markdown]
# ## Exact weights
#
# Counting takes terms for alike. Nats can be counted instead: horizon i pays for everything between what it has read and its target, so the loss falls apart, without a remainder, into what each token is answerable for:
# $$W_n(s) = \sum_{j=0}^{n-1} (n-j)\, I(x_{s+j};\, x_s \mid x_{<s}).$$
# No part is larger than the entropy H of $x_s$. So $W_n \le \tfrac{n(n+1)}2 H$, and (n + 1)/2 is *the most that can be*. It is reached only if each of the next n - 1 tokens **by itself** tells all
# of the choice. That the choice determines them is not enough: a sum with another choice, unseen, tells nothing.

# %%
SEQ = 97
PROCESSES = {
    "copied seven times": ChoiceProcess(n_choices=4, forced=7, relevance=(7,)),
    "sums of the last two": ChoiceProcess(n_choices=4, forced=3, relevance=(7, 7)),
    "every other choice inconsequential": PROCESS,
}
by_phase, by_n = [], []
for name, process in PROCESSES.items():
    nll = implicit_weights.exact_nll(process, 8, SEQ)
    inside = implicit_weights.interior(nll)
    choices_entropy = float(np.log(process.n_choices))
    for n in FEW:
        weights = np.where(inside, implicit_weights.implicit_weights(nll)[n - 1], np.nan)
        values = analysis.by_phase(weights, process) / choices_entropy
        by_phase.append(pd.DataFrame({"panel": name, "n": n, "phase": range(len(values)), "value": values}))
    exact = analysis.exact_weights(process, 8, SEQ)
    by_n.append(exact[exact["class"] != "forced"].assign(panel=name, label=lambda t: t["class"], value=lambda t: t.relative, seed=0))
by_phase, by_n = pd.concat(by_phase, ignore_index=True), pd.concat(by_n, ignore_index=True)
by_phase["text"] = by_phase.value.map("{:.0f}".format)
first_choices = by_phase[(by_phase.n == 8) & (by_phase.phase == 0)].value
figure = figures.grid(
    by_phase,
    f"In the loss of eight tokens, the implicit weight of a choice is {first_choices.min():.0f} to {first_choices.max():.0f} times its entropy",
    "Exact implicit weights in units of a choice's entropy, by position in the process. The weight of forced tokens is 0.",
    rows="n",
    columns="phase",
    unit="tokens after the first choice",
)
figures.save(figure, FOLDER, "exact_by_place", by_phase)
figures.show(figure)

# %%
by_n = by_n.assign(mean=by_n.value, low=by_n.value, high=by_n.value)
at_8 = by_n[by_n.n == 8].set_index(["panel", "label"]).value
figure = figures.weights_by_n(
    by_n[["panel", "label", "n", "seed", "value", "mean", "low", "high"]],
    "Weight of a consequential choice at n = 8, relative to next-token prediction: "
    + ", ".join(f"{name} {at_8[name, 'consequential']:.2f}" for name in PROCESSES),
    "Exact: W_n / (n W_1). Tokens with targets at all horizons, away from the ends of documents.",
)
figures.save(figure, FOLDER, "exact_weights", by_n)
figures.show(figure)

# %% [markdown]
# ## Train
#
# From here on models are asked, too. They learn the third process: each forced token is the sum of the last three choices *that matter*, every other choice does not, and nothing but its place tells which is which.
# All cells have the same trunk, and a next-token path of the same depth; one seed's data are the same in every cell. "Choices ×w": consequential choices count w in the loss,
# all other tokens 1. "Cancelled": heads whose loss leaves out what stands behind a choice that they have not read. (Each horizon's loss is divided by the sum of its weights.) Why, the last part says.

# %%
*trained, storyteller = runs.get_runs([*configs, story], runs_dir, workers=workers)
conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
REFERENCE = conditions.label.iloc[0]
WIDEST = int(conditions.n.max())
widest = [trained[i] for i in conditions.index[conditions.label == f"n = {WIDEST}"]]
task = configs[0].task
pd.DataFrame(
    [
        {"condition": name, "seeds": len(rows), "layers": chosen.trunk + rows.n.iloc[0], "steps": chosen.steps}
        | {"parameters": sum(p.numel() for p in trained[rows.index[0]].model().parameters())}
        for name, rows in conditions.groupby("label", sort=False)
    ]
)

# %%
def by_weight(table: pd.DataFrame) -> pd.DataFrame:
    """A panel for each n and a label for each weighting, because one panel would have too many lines."""
    of_table = conditions.drop_duplicates("label").set_index("label").loc[table.label]
    weightings = [name.partition(", ")[2] or "equal weights" for name in table.label]
    return table.assign(condition=table.label, panel=[f"n = {n}" for n in of_table.n], label=weightings)


curves = pd.concat([trained[i].measures().assign(label=name) for i, name in conditions.label.items()])
shown = curves[curves.measure == "forced"]
last = shown[shown.step == chosen.steps].groupby("label", sort=False).value.mean()
shown = by_weight(shown)
validation = task.held_out("validation", chosen.rows)
one_back, two_back = (np.roll(validation.tokens, k, axis=1) for k in (1, 2))
last_forced = np.where(np.roll(validation.labels["choice"], 1, axis=1), two_back, one_back)
copied = (last_forced == validation.tokens)[validation.labels["forced"]].mean()
figure = figures.formation(
    shown,
    f"After {chosen.steps} steps the accuracy of forced tokens is {last.min():.0%} ({last.idxmin()}) to {last.max():.0%} ({last.idxmax()})",
    f"Validation rows, during training. Repeating the last forced token has an accuracy of {copied:.0%}. Thin: seeds. Thick: their mean.",
)
figures.save(figure, FOLDER, "learning", shown[["panel", "label", "seed", "step", "tokens", "value"]])
figures.show(figure)

# %% [markdown]
# ## Information
#
# The same in the paper's second language. X is a choice, Y a later token, both given the same past; choices here are not equally likely, so that Y can tell *something* about X. Two heads pay
# H(X) + H(Y); next-token prediction pays H(X) + H(Y|X). The difference is I(X; Y), which H(X|Y) + 2 I + H(Y|X) holds twice.

# %%
biased = ChoiceProcess(n_choices=4, probabilities=(0.55, 0.25, 0.15, 0.05), forced=3, relevance=(7,))
past = biased.documents(1, 5, np.random.default_rng(0)).tokens
futures, mass = biased.joint(past, 6)
joints, rows = {}, []
for j, name in ((2, "forced by X"), (5, "the next choice"), (6, "forced by X and the next choice")):
    p = np.zeros((biased.vocab_size, biased.vocab_size))
    np.add.at(p, (futures[:, 0], futures[:, j - 1]), mass)
    joints[name] = p
    parts = information.decompose(p)
    assert abs(parts.shared - biased.mutual_information(6, len(past) + 6)[j - 1, len(past) - 1]) < 1e-12
    rows.append(
        {"Y": name, "H(X)": parts.x, "H(Y)": parts.y, "H(X|Y)": parts.x_given_y, "I(X; Y)": parts.shared, "H(Y|X)": parts.y_given_x}
        | {"H(X) + H(Y)": parts.x + parts.y, "H(X|Y) + 2I + H(Y|X)": parts.x_given_y + 2 * parts.shared + parts.y_given_x}
    )
identity = pd.DataFrame(rows).set_index("Y")
GAP = float((identity["H(X) + H(Y)"] - identity["H(X|Y) + 2I + H(Y|X)"]).abs().max())
print(f"past: {biased.text(past)}; nats; the two sides differ by {GAP:.1e} at most")
identity.round(3)

# %% [markdown]
# **What a model can gain from it** (lemma L.3). With data from p and a model q, $H(p_X, q_X) = H(p_{X|Y}, q_{X|Y}) + I_{p\|q}(X; Y)$, and the *relative* mutual information
# $I_{p\|q} = D(p\,\|\,q_X q_Y) - D(p\,\|\,q)$ is what the dependence that q models saves it on data from p. It is I(X; Y) for a perfect model, negative for one that models a
# wrong dependence, and **0 for $q = q_X q_Y$, which is what parallel heads model**, given the past: each head says its own distribution, and none knows what another drew. (The paper's proof prints $q_{Y|y}$ in its
# penultimate line; a distribution of X is meant, $q_{X|y}$, as `information.decompose` explains.) Below q goes from a dependence to none.

# %%
p = joints["forced by X"]
independent = np.outer(p.sum(axis=1), p.sum(axis=0))
n_choices = biased.n_choices
shifted = p[np.r_[1:n_choices, 0, n_choices : len(p)]]  # each forced token follows another choice
shared = information.decompose(p).shared
rows = []
for name, dependence in (("the dependence of p", p), ("a wrong dependence", shifted)):
    for amount in np.linspace(0.05, 1, 20):
        parts = information.decompose(p, amount * independent + (1 - amount) * dependence)
        assert abs(parts.x - parts.x_given_y - parts.shared) < 1e-9  # lemma L.3
        rows.append({"panel": "relative mutual information, as a share of I(X; Y)", "label": name, "independent": amount, "value": parts.shared / shared})
relative = pd.DataFrame(rows)
end = relative[relative.independent == 1].value.abs().max()
assert end < 1e-9
figure = figures.against(
    relative,
    "independent",
    ("weight of the independent part in q", "I of p against q, share of I(X; Y)"),
    f"For independent heads the relative mutual information is {end:.0%}, although tokens of the data share {shared:.2f} nats",
    "q is a mixture of q_X q_Y and of a dependence: that of p, or one in which each choice leads to the forced token of another.",
)
figures.save(figure, FOLDER, "relative_information", relative)
figures.show(figure)

# %% [markdown]
# **Estimated from trained heads.** What the next n tokens share, $\sum_i H(x_{t+i}|x_{\le t}) - H(x_{t+1..t+n}|x_{\le t})$, is the sum of the heads' losses less that of the chain rule, which the next-token head pays. So a
# model tells it about its data. The estimate is too large by what far heads have not learnt, and too small by what the next-token head has not: it
# pays for that at every step of the chain.

# %%
held_out = task.held_out("test", chosen.rows)
exact = analysis.by_phase(PROCESS.total_correlation(WIDEST, task.seq)[None], PROCESS)
names = [f"{'a' if k < PROCESS.period else 'b'}{k % PROCESS.period or ''}" for k in range(len(exact))]  # a, a1, a2, a3, b, ...
rows = []
for run in widest:
    estimated = analysis.by_phase(information.total_correlation(token_nll(run.model(), held_out)), PROCESS)
    for source, values in (("exact", exact), ("from the heads' losses", estimated)):
        rows += [{"source": source, "place": name, "seed": run.config.seed, "value": v} for name, v in zip(names, values, strict=True)]
correlation = over_seeds(pd.DataFrame(rows), ["source", "place"], "value", ("mean", "low", "high"))
means = correlation.groupby("source", sort=False).value.mean()
figure = figures.grid(
    correlation.drop_duplicates(["source", "place"]).assign(panel="nats", value=lambda t: t["mean"]),
    f"Information that {WIDEST} tokens share, mean over positions: exact {means.iloc[0]:.2f} nats, from the heads' losses {means.iloc[1]:.2f}",
    "By the last token read. a: consequential choice, b: inconsequential choice, a1, b1, ...: forced tokens after it. Mean over seeds.",
    rows="source",
    columns="place",
    unit="token just read",
)
figures.save(figure, FOLDER, "total_correlation", correlation)
figures.show(figure)

# %% [markdown]
# ## What trained models weigh
#
# The same decomposition of a trained model's own losses: what horizon j + 1 pays more than horizon j for a token, the token in between is answerable for. That includes what head j + 1 does
# worse than head j for other reasons, so a model's weights are not bound by (n + 1)/2. And where head 1 has not learnt
# what a choice leads to, it pays for that at once, and longer horizons have less to add: weights can be smaller, too.

# %%
measured = measure_runs(widest, analysis.trained_weights, rows=chosen.rows)
measured = measured[measured["class"] != "forced"].assign(source="trained", value=lambda t: t.relative)
exact = analysis.exact_weights(PROCESS, WIDEST, task.seq)
exact = exact[exact["class"] != "forced"].assign(source="exact", value=lambda t: t.relative)
exact = pd.concat([exact.assign(seed=run.config.seed) for run in widest])
weights_by_n = pd.concat([exact, measured], ignore_index=True).assign(panel=lambda t: t["class"] + " choices", label=lambda t: t.source)
weights_by_n = over_seeds(weights_by_n, ["panel", "label", "n"], "value", ("mean", "low", "high"))
AT_WIDEST = {source: weights_by_n[(weights_by_n["class"] == "consequential") & (weights_by_n.source == source) & (weights_by_n.n == WIDEST)] for source in ("exact", "trained")}
figure = figures.weights_by_n(
    weights_by_n[["panel", "label", "n", "seed", "value", "mean", "low", "high"]],
    f"Relative weight of consequential choices at n = {WIDEST}: {AT_WIDEST['trained'].value.mean():.2f} in trained models, {AT_WIDEST['exact'].value.mean():.2f} exactly",
    f"W_n / (n W_1) of the models of n = {WIDEST}, test rows. {figures.SEEDS}",
)
figures.save(figure, FOLDER, "trained_weights", weights_by_n)
figures.show(figure)

# %% [markdown]
# The loss is one thing, what pulls at the trunk another. The share of the squared gradient at the trunk's output by the class of the *target*, horizon by horizon: at horizon 1 a forced token can be known, at
# longer ones it may hold a choice that has not been read.

# %%
SOME = [run for run in widest if run.config.seed < (1 if preset in ("smoke", "quick") else 3)]  # slow: see target_norms
shares = measure_runs(SOME, analysis.gradient_shares, rows=2 if preset == "smoke" else 8)
shares = shares.groupby(["horizon", "token_class"], sort=False, as_index=False)[["share", "target_share"]].mean()
shown = shares.assign(panel="share of the squared gradient", value=shares.share)
shown = pd.concat([shown, shares.assign(panel="share of the targets", value=shares.target_share)])
shown["text"] = shown.value.map("{:.0%}".format)
of_forced = shares[shares.token_class == "forced"].set_index("horizon").share
figure = figures.grid(
    shown,
    "Share of forced tokens in the squared gradient at the trunk: " + ", ".join(f"{share:.0%} at horizon {i}" for i, share in of_forced.items()),
    f"Models of n = {WIDEST} at the end of training, single targets on test rows, mean over {len(SOME)} seed{'s' * (len(SOME) > 1)}.",
    rows="horizon",
    columns="token_class",
    unit="class of the target",
    limit=1.0,
)
figures.save(figure, FOLDER, "pull", shown)
figures.show(figure)

# %% [markdown]
# ## In a story
#
# Text in which nobody marked the choices. (What a perfect reader's weights are, exactly, is in notebook 0.) A model of eight tokens, trained on stories, tells what each token is answerable for in the losses of 1, 2, 4 and 8 tokens. Shades are multiples of a loss's mean, so that the four
# copies can be compared: where the third is darker than the first, four-token prediction looks at a token more. **Single tokens are noisy** (they hold what came, not what might have come, and all that
# one head does better than the next); read the class means below.

# %%
stories = storyteller.config.task
batch = stories.held_out("validation", 8 if preset == "smoke" else 64)
nll = token_nll(storyteller.model(), batch)  # (8, rows, seq)
weights, inside = implicit_weights.implicit_weights(nll), implicit_weights.interior(nll)
multiples = {f"n = {n}": weights[n - 1] / weights[n - 1][inside].mean() for n in FEW}
named = (batch.labels["entity"] >= 0) & (batch.labels["entity"] < N_CHARACTERS)
LINE = 44
names_in_window = np.convolve((named & inside)[0], np.ones(LINE), mode="valid")  # for each start of a window
names_in_window[~np.lib.stride_tricks.sliding_window_view(inside[0], LINE).all(axis=1)] = -1
start = int(names_in_window.argmax())
window = slice(start, start + LINE)
shades = {name: np.where(inside, values, np.nan)[0, window] for name, values in multiples.items()}
top = int(np.nanargmax(shades[f"n = {STORY_HEADS}"]))
pieces = stories.pieces(batch.tokens[0])[window]
figure = figures.weighted_text(
    [piece.replace("\n", " ") for piece in pieces],
    shades,
    f"\"{stories.words(batch.tokens[0, window])[top]}\" has the largest weight in the loss of {STORY_HEADS} tokens: {shades[f'n = {STORY_HEADS}'][top]:.1f} times the mean, "
    f"and {shades['n = 1'][top]:.1f} times in the loss of one",
    f"Implicit weights in multiples of each loss's mean, n = {STORY_HEADS} model after {storyteller.config.steps} steps, a story of the validation names.",
)
figures.save(figure, FOLDER, "story", pd.DataFrame({"token": pieces} | shades))
figures.show(figure)

# %%
labels = batch.labels
other_choice = labels["n_choices"] > 1
story_classes = {
    "first piece, new name": named & labels["first_piece"] & (labels["mention"] == 1),
    "first piece, known name": named & labels["first_piece"] & (labels["mention"] > 1),
    "second piece, new name": named & labels["second_piece"] & (labels["mention"] == 1),
    "second piece, known name": named & labels["second_piece"] & (labels["mention"] > 1),
    "other consequential choices": ~named & labels["consequential"],
    "inconsequential choices": ~named & other_choice & ~labels["consequential"],
    "forced words": ~named & ~other_choice,
}
story_classes = {name: mask & inside for name, mask in story_classes.items() if (mask & inside).any()}
of_class = implicit_weights.by_class(weights, story_classes)
mean_weight = {n: weights[n - 1][inside].mean() for n in FEW}
shown = of_class[of_class.n.isin(FEW)].assign(panel="weight, multiples of a loss's mean", value=lambda t: t.weight / t.n.map(mean_weight))
tokens_of = shown.drop_duplicates("class").set_index("class").tokens
change = (shown[shown.n == 8].set_index("class").value / shown[shown.n == 1].set_index("class").value).dropna()
figure = figures.grid(
    shown,
    f"From n = 1 to n = 8, the weight grows most for: {change.idxmax()} (×{change.max():.1f})",
    f"Class means over {int(inside.sum()):,} tokens of {batch.rows} validation rows; 1: the mean over all tokens. One model.",
    rows="class",
    columns="n",
    unit="future tokens n in the loss",
)
figures.save(figure, FOLDER, "story_classes", shown)
figures.show(figure)
of_class[of_class.n.isin(FEW)].pivot(index="class", columns="n", values="relative").loc[list(story_classes)].round(2).assign(tokens=tokens_of)

# %% [markdown]
# Rows of the table: weight at n relative to next-token prediction, W_n / (n W_1). Where a class costs next to nothing itself (certain words, and second pieces told before, once they are looked up) it is a quotient of two small numbers.
#
# ## Is the weighting what helps?
#
# Take the weighting alone, and take it away.
#
# **Alone:** a next-token model whose consequential choices count $(n+1)/2$ has the relative weights of the n-token loss, without its heads: ×1.5 for n = 2, ×2.5 for n = 4.
#
# **Away:** a choice is its own target n times, as any token is. The other $\tfrac{n(n-1)}2$ terms that belong to it have as targets the tokens that it decides, predicted from *before* it: one at horizon 2, two at horizon 3, ...
# Leave these out (`TrainConfig.mask_unread_causes`), and for any n the choice is left with nH, the weight of a token on which nothing depends. The heads still predict choices early, and forced tokens from wherever these are certain.

# %%
conditions["emphasis"] = [round(analysis.emphasis(PROCESS, row.n, row.choice_weight, row.masked), 6) for row in conditions.itertuples()]
derived = conditions.choice_weight + np.where(conditions.masked, 0, (conditions.n - 1) / 2)
assert (conditions.emphasis - derived).abs().max() < 1e-6  # from exact losses
unmasked = np.bincount(np.nonzero(owner == np.arange(len(TEXT)))[1], minlength=len(TEXT))  # terms that belong to their own target
assert unmasked[TEXT.index("A")] == unmasked[TEXT.index("A") - 1] == HORIZONS  # counted
conditions.drop_duplicates("label")[["label", "emphasis"]].set_index("label").rename(columns={"emphasis": "weight of consequential choices, relative, exact"})

# %% [markdown]
# **On test rows**, the next-token head: nats above the optimum at choices, accuracy of forced tokens. *Distance* is how long ago the latest choice was made that matters: 1 to 3 after a choice that matters, where the sum is
# new; 5 to 7 after one that does not, where it is as before. **On sampled text:** the models go on by themselves, at temperature 1, and are held to the choices that they made. A continuation has *derailed* once a token does not
# follow. (Where it writes no choice though one is due, that counts as an error, too.)

# %%
AFTER, SAMPLED = "accuracy after a consequential choice", "sampled forced tokens correct"
PANELS = {("accuracy", "forced"): "accuracy of forced tokens", ("accuracy", "1"): AFTER}
scored = measure_runs(trained, analysis.scores, rows=chosen.rows)
scored["panel"] = [PANELS.get(key, "") for key in zip(scored.measure, scored.subset, strict=True)]
sampled = measure_runs(trained, analysis.continuations, prompts=chosen.rows)
END = int(sampled.ahead.max())
derailing = sampled[sampled.forced].groupby(["label", "seed"], sort=False, as_index=False).follows.mean()
derailing = derailing.rename(columns={"follows": "value"}).assign(panel=SAMPLED)
outcomes = pd.concat([scored[scored.panel != ""][["panel", "label", "seed", "value"]], derailing], ignore_index=True)
summary = outcomes.groupby(["label", "panel"], sort=False).value.mean().unstack()
summary[f"sampled: no error in {END} tokens"] = sampled[sampled.ahead == END].groupby("label").unbroken.mean()
summary["sampled: choices at their positions"] = sampled[~sampled.forced].groupby("label").follows.mean()
summary.mul(100).round(1).rename_axis(columns="% (mean over seeds)")

# %%
gains = paired_differences(outcomes, REFERENCE)
intervals = gains[gains.panel == SAMPLED].drop_duplicates("label")
figure = figures.differences(
    gains,
    f"Compared with {REFERENCE}, {(intervals.low > 0).sum()} of {len(intervals)} conditions derail clearly less and {(intervals.high < 0).sum()} clearly more",
    "Forced tokens of test rows, and of continuations sampled at temperature 1. Differences seed by seed; bars: 95 % interval of the mean (paired t).",
)
figures.save(figure, FOLDER, "gains", gains)
figures.show(figure)

# %%
excess = scored[scored.measure == "excess"].assign(panel=lambda t: t.subset + " choices", value=lambda t: -t.value)
reductions = paired_differences(excess[["panel", "label", "seed", "value"]], REFERENCE)
reference_excess = -excess[excess.label == REFERENCE].groupby("panel", sort=False).value.mean()
figure = figures.differences(
    reductions,
    f"Excess loss of {REFERENCE}: " + ", ".join(f"{value:.3f} nats ({panel})" for panel, value in reference_excess.items()),
    f"Excess loss of {REFERENCE} minus that of other conditions, test rows, seed by seed. Dots: seeds. Bars: 95 % interval of the mean (paired t).",
    unit="hundredths of a nat",
)
figures.save(figure, FOLDER, "saved_nats", reductions)
figures.show(figure)

# %% [markdown]
# **How long does a continuation last?** And where are errors made: accuracy by distance to the latest choice that matters.

# %%
unbroken = sampled.groupby(["label", "ahead"], sort=False, as_index=False).unbroken.mean().rename(columns={"unbroken": "value"})
half = pd.Series({name: int((rows.value > 0.5).sum()) for name, rows in unbroken.groupby("label", sort=False)})
unbroken = by_weight(unbroken[unbroken.ahead % PROCESS.period == 0])  # after each block of forced tokens
figure = figures.against(
    unbroken,
    "ahead",
    ("tokens after the prompt", "continuations without an error"),
    f"Half of the continuations have no error for {half.min()} ({half.idxmin()}) to {half.max()} tokens ({half.idxmax()})",
    f"{chosen.rows} continuations of each model, sampled at temperature 1, share without an error so far; mean over seeds.",
)
figures.save(figure, FOLDER, "survival", unbroken)
figures.show(figure)
by_distance = scored[(scored.measure == "accuracy") & scored.subset.str.isdigit()]
by_distance.pivot_table(index="label", columns="subset", values="value", sort=False).mul(100).round(1).rename_axis(columns="accuracy in %, distance")

# %% [markdown]
# **Taken apart.** *Both*: n tokens against one. *Weighting alone*: what theory says n tokens weigh, in next-token training. *Heads alone*: n tokens without it. If the weighting were all, the first two would agree, the third be nothing, and so would the
# heads when they are added to the weighting.

# %%
def separate_effects(panel: str) -> pd.DataFrame:
    """Effects of weighting and heads on an outcome, each without and with the other: a panel for each n, seed by seed."""
    tables = []
    for n in sorted(set(conditions.n) - {1}):
        weight = dict(implicit_weights.theoretical_weights(n, CHOICE))[CHOICE]
        both, heads = label(ChoiceCondition(n=n)), label(ChoiceCondition(n=n, masked=True))
        weighting = label(ChoiceCondition(choice_weight=weight))
        for effect, name, reference in (
            ("both", both, REFERENCE),
            ("weighting alone", weighting, REFERENCE),
            ("heads alone", heads, REFERENCE),
            ("heads, given the weighting", both, weighting),
            ("weighting, given the heads", both, heads),
        ):
            of_pair = outcomes[(outcomes.panel == panel) & outcomes.label.isin([name, reference])]
            tables.append(paired_differences(of_pair, reference).assign(panel=f"n = {n}", label=effect))
    return pd.concat(tables, ignore_index=True)


effects = separate_effects(SAMPLED)
means = effects.groupby(["panel", "label"])["mean"].first()
figure = figures.differences(
    effects,
    "Effect of the weighting alone and of the heads alone: "
    + "; ".join(f"{100 * means[n, 'weighting alone']:+.1f} and {100 * means[n, 'heads alone']:+.1f} points ({n})" for n in dict.fromkeys(effects.panel)),
    "Correct forced tokens of sampled text, differences seed by seed. Dots: seeds. Bars: 95 % interval of the mean (paired t).",
)
figures.save(figure, FOLDER, "apart", effects)
figures.show(figure)

# %% [markdown]
# **Emphasis against outcome.** If the weighting were all, cells of equal emphasis would do equally well, whatever their n: the lines below would be one line. If it were nothing, each line would be level.

# %%
points = outcomes.merge(conditions.drop_duplicates("label")[["label", "n", "emphasis"]], on="label")
points = points[points.panel.isin([AFTER, SAMPLED])]
points = points.groupby(["panel", "n", "emphasis"], as_index=False).value.mean().assign(label=lambda t: "n = " + t.n.astype(str))
spread = points[points.panel == SAMPLED].groupby("emphasis").value.agg(["min", "max", "size"]).query("size > 1")
figure = figures.against(
    points,
    "emphasis",
    ("relative weight of consequential choices", "share"),
    "Conditions of equal emphasis and different n: sampled forced tokens are correct in "
    + "; ".join(f"{row['min']:.0%} to {row['max']:.0%} (emphasis {value:g})" for value, row in spread.iterrows()),
    "Emphasis: exact weight of consequential choices relative to inconsequential ones. Points: conditions, mean over seeds.",
)
figures.save(figure, FOLDER, "emphasis", points)
figures.show(figure)

# %% [markdown]
# ## Verdict

# %%
SIZE = f"{chosen.size['d_model']} wide, trunk of {chosen.trunk}, {chosen.steps} steps"
SEEDS = int(conditions.seed.nunique())
paper_51 = "n(n + 1)/2 terms against n: relative weight (n + 1)/2 (section 5.1, appendix L.3)"
matches = (table.choice_point == table.n * (table.n + 1) / 2).all() and (table.inconsequential == table.n).all()
weights_8 = {name: at_8[name, "consequential"] for name in PROCESSES}
trained_weight = seed_interval(AT_WIDEST["trained"].value.tolist())
bound = (WIDEST + 1) / 2
verdicts = [
    Verdict(
        "A choice point has n(n + 1)/2 loss terms, a token on which nothing depends has n",
        paper_51,
        ", ".join(f"n = {row.n}: {row.choice_point} and {row.inconsequential}" for row in table.itertuples() if row.n in FEW),
        "counted",
        1,
        "reproduced" if matches else "mixed",
    ),
    Verdict(
        "The weight of a choice in nats is proportional to its number of loss terms",
        paper_51,
        "n = 8, theory 4.5: " + ", ".join(f"{name} {value:.2f}" for name, value in weights_8.items()),
        "exact",
        1,
        "reproduced" if min(weights_8.values()) > 4.5 - 1e-9 else "mixed",
    ),
    Verdict(
        "The two-token loss counts mutual information twice",
        "H(X) + H(Y) = H(X|Y) + 2 I(X; Y) + H(Y|X) (section 5.2)",
        f"I = {identity['I(X; Y)'].iloc[0]:.3f} nats for a forced token; the two sides differ by {GAP:.0e}",
        "exact",
        1,
        "reproduced" if GAP < 1e-9 else "mixed",
    ),
    Verdict(
        "The relative weight of consequential choices in trained models is (n + 1)/2",
        paper_51,
        f"n = {WIDEST}, theory {bound:g}: {trained_weight.mean:.2f} (ideal heads {AT_WIDEST['exact'].value.mean():.2f}; {SIZE})",
        f"95 %: {trained_weight.low:.2f} to {trained_weight.high:.2f}",
        SEEDS,
        "not at this scale" if trained_weight.low <= 1 else "reproduced" if trained_weight.low <= bound <= trained_weight.high else "mixed",
    ),
]


def verdict(claim: str, names: tuple[str, ...], panel: str = SAMPLED, paper: str = "") -> None:
    """A verdict on the effects of these names at each n; on a claim of the paper's, whether they are clearly positive."""
    intervals = separate_effects(panel).drop_duplicates(["panel", "label"])
    rows = list(intervals[intervals.label.isin(names)].itertuples())
    reference = outcomes[(outcomes.panel == panel) & (outcomes.label == REFERENCE)].value.mean()
    gains = "; ".join(f"{row.label}, {row.panel}: {100 * row.mean:+.1f} points" for row in rows)
    intervals = "; ".join(f"{100 * row.low:+.1f} to {100 * row.high:+.1f}" for row in rows)
    clear = sum(row.low > 0 for row in rows)
    word = "beyond the paper" if not paper else "reproduced" if clear == len(rows) else "mixed" if clear else "not at this scale"
    verdicts.append(Verdict(claim, paper, f"{panel}: {REFERENCE} {reference:.1%}; {gains} ({SIZE})", f"95 %: {intervals}", SEEDS, word))


HYPOTHESIS = "hypothesis: training and generation differ less; not measured (section 5)"
verdict("Models of n tokens derail less than next-token models (same trunk)", ("both",), paper=HYPOTHESIS)
verdict("The weighting of n tokens changes how often next-token models derail", ("weighting alone",))
verdict("Heads without the weighting change how often models derail", ("heads alone",))
verdict("Accuracy after a consequential choice, on test rows: n tokens, and their weighting alone", ("both", "weighting alone"), AFTER)
record(figures_dir, NAME, preset, verdicts, f"mtp-lab study --preset {preset} --only {NAME}" + (f" --seeds {seeds}" if seeds else ""))
pd.DataFrame([vars(verdict) for verdict in verdicts])[["claim", "ours", "interval", "seeds", "verdict"]]

# %% [markdown]
# **What this is, and is not.** A small process, models that train for minutes, a learning rate that was chosen for next-token prediction (validation rows, another seed) and for no other cell. Weights that are equal in nats at the optimum are not equal in
# gradients, and before the optimum not even in nats: ×1.5 pulls at the prediction of the choice itself, which is soon as good as it can be, while a second head pulls through the choice's *consequences*. That is the
# difference the causal test is about. Leaving targets out takes more away than emphasis, too: there is less to learn from. Several comparisons are made, and none is corrected for the others.
#
# **What would change our mind.** About the weighting: cells of equal emphasis that agree within their intervals, at an emphasis that differs clearly from that of plain next-token prediction, and in which n = 1 differs from
# itself with other weights.
#
# ## Exercises
#
# ★ **1.** A choice among four is relevant to two tokens after it, and seven forced tokens follow. How much does it weigh at n = 4, relative to next-token prediction? Write $W_4$ down as a sum first.

# %%
short = analysis.exact_weights(ChoiceProcess(n_choices=4, forced=7, relevance=(2,)), 4, SEQ)
relative_weight = short[(short["class"] == "consequential") & (short.n == 4)].relative.item()
assert abs(relative_weight - (4 + 3 + 2) / 4) < 1e-9
print(f"(4 + 3 + 2 + 0) H / 4 H = {relative_weight:.2f}; the upper bound is {(4 + 1) / 2}")

# %% [markdown]
# ★★ **2.** The emphasis of two tokens can be cancelled in another way: no target is left out, but choices that matter count w as targets, at both horizons. Which w does it, if the second head counts h (`TrainConfig.horizon_weights=(1, h)`)?
# Derive it, and check it at h = 0.3. Why is there none for four tokens and h = 1?

# %%
h = 0.3
w = 1 / (1 + h)  # w (1 + h) H for the choice itself, h H for the token after it: together (1 + h) H
nll = implicit_weights.exact_nll(PROCESS, 2, SEQ)
labels = PROCESS.sample(1, SEQ, np.random.default_rng(0)).labels
weight_1, weight_2 = implicit_weights.implicit_weights(nll * np.where(labels[CHOICE], w, 1.0))  # in losses of 1 and 2 tokens
total = weight_1 + h * (weight_2 - weight_1)
inside = implicit_weights.interior(nll)
consequential, inconsequential = (total[mask & inside].mean() for mask in (labels[CHOICE], labels["choice"] & ~labels[CHOICE]))
assert abs(consequential - inconsequential) < 1e-9
print(f"w = {w:.3f}: {consequential:.4f} nats at consequential choices, {inconsequential:.4f} at inconsequential ones")
print("n = 4: 4 w H + (1 + 2 + 3) H = 4 H only for w = -1/2, and no loss should reward errors")

# %% [markdown]
# ★★★ **3.** Put the weight on *consequences* instead: forced tokens are where a next-token model errs. Does a next-token model that counts them three times learn them sooner? And in a process without inconsequential choices?
#
# ```python
# from dataclasses import replace
# heavy = replace(configs[0], name="heavy", label_weights=(("forced", 3.0),))
# plain = replace(configs[0], name="plain", task=replace(task, stream=replace(PROCESS, relevance=(7,))))
# for config in (heavy, plain):
#     print(config.name, analysis.scores(runs.get_run(config, runs_dir), 64).query("subset == 'forced'").value.item())
# ```
