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
# # 4. Induction heads: does predicting two tokens make a small model look names up?
#
# **Question.** A story says "Ri**bo**" once; later it says "Ri", and the model should go on with "bo". It can only do so by
# *induction*: find where "Ri" stood before, and copy what came after. Does training on two future tokens bring induction about
# earlier, or in models that would not find it otherwise, and if so, by building which half of the circuit?
#
# **What the paper claims** (section 4.1). Models of 1M to 1B parameters on children's stories, in whose test set names are replaced by
# random ones of two tokens: accuracy on a name's second token is higher for n = 2 than for n = 1 up to 30M parameters, and equal from
# 100M on. Two seeds; the best value on the test set. *Why*, the paper surmises: a token that decides what follows weighs more
# in the n-token loss, and head 2 has to prepare the second piece before the first is there.
#
# **The circuit** (Olsson et al. 2022). Induction takes two attention heads in two layers: a *previous-token head* writes into each position
# which token stands before it, and an *induction head* looks for positions whose token before is the present one. The first half can be
# given to a model: with **smeared keys** each key is mixed with the one before it; with **relative positions** a learned bias for each
# offset makes "one back" a matter of a single number. A **rotary** model has to learn it.
#
# ✏️ **Write down first,** for a model of 4 layers and width 64, all else equal: (a) of three models, with the previous-token half given,
# easy, or to be learnt, which find induction, and in what order? (b) Does n = 2 find it earlier or later than n = 1, when both have the
# same trunk? (c) Ablating the two strongest induction heads costs how much of the success?

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
import torch

from data_gen.stories import N_CHARACTERS
from mtp_lab import figures, induction, interp_figures, presets, runs, stream_figures
from mtp_lab.evaluate import over_seeds, tensors
from mtp_lab.stream_figures import CAST, INK, Mark
from mtp_lab.verdicts import Verdict, record

NAME = "04_induction_heads"
FOLDER = Path(figures_dir) / NAME
chosen = presets.INDUCTION[preset]
configs = presets.induction_configs(preset, seeds)
SEEDS = len({config.seed for config in configs})
LABEL = {"smeared": "given (smeared keys)", "relative": "easy (relative positions)", "rotary": "to be learnt (rotary)"}

# %% [markdown]
# ## The task
#
# A story of the training stream. Framed: second pieces that the story has shown, the tokens that ask for induction. The pool of names is
# drawn anew for every seed; *validation* and *test* names are pairings that training never shows, of the same pieces.

# %%
task = configs[0].task
validation = task.held_out("validation", 32 if preset != "smoke" else 4)
story = validation.documents[0] == validation.documents[0, 0]
shown = {name: mark[0, story] for name, mark in validation.marks.items()}
people = [Mark(f"character {who + 1}", shown["entity"] == who, CAST[who]) for who in range(N_CHARACTERS)]
asked = shown["induction"] & (shown["entity"] < N_CHARACTERS)
figure = stream_figures.marked_text(
    task.pieces(validation.tokens[0, story]),
    [*(person for person in people if person.where.any()), Mark("asks for induction", asked, INK, "frame")],
    f"A story with names that training never shows asks for induction {asked.sum()} times",
    "Success: the next-token head is right on framed tokens. Copying any second piece of the story is right two times in five or so.",
)
figures.save(figure, FOLDER, "task")
figures.show(figure)

# %% [markdown]
# ## Train
#
# Every cell of the study is a model and a pool of names; its seeds differ in weights, data order and pool. "Same trunk": n = 2 has the
# trunk of n = 1 and one head more. "Same size": one layer leaves the trunk, so that parameters match and the next-token path is a layer shorter.

# %%
trained = runs.get_all(configs, runs_dir, workers=workers)
curves = induction.curves(trained)
curves["setting"] = curves.given.map(LABEL)
curves["model"] = "n = " + curves.n.astype(str) + np.where(
    curves.stopped, ", heads stopped", ", trunk of " + curves.trunk.astype(str)
)
main = curves.query("names == @configs[0].task.stream.names.names")
summary = ["setting", "model", "names"]
curves.groupby(summary).agg(seeds=("seed", "nunique"), steps=("step", "max"), tokens=("tokens", "max"))

# %% [markdown]
# ## When does it form?
#
# Success on validation names during training. Thin lines are seeds, because outcomes are bistable: a mean of a model that finds induction and
# one that does not describes neither.

# %%
shown = main[(main.n < 4) & ~main.stopped & ((main.trunk == 3) | (main.given == "smeared"))] if preset != "smoke" else main
figure = interp_figures.formation(
    shown.rename(columns={"setting": "panel", "model": "label", "induction": "value"}),
    "Success on unseen names against training",
    "Second pieces of names after an earlier mention, validation pairings. Thin: seeds. Thick: mean.",
)
figures.save(figure, FOLDER, "formation", shown)
figures.show(figure)

# %% [markdown]
# ## How long does it take?
#
# The share of seeds that have *not* reached 50 % on validation names, against training. Runs that never get there stay to the end. The test
# for a difference deals the seeds out in all possible ways (exact permutation test of the mean rank, two-sided).

# %%
times = induction.reached(main)
times["setting"] = times.given.map(LABEL)
times["model"] = curves.drop_duplicates(induction.CELL).set_index(induction.CELL).model.loc[
    pd.MultiIndex.from_frame(times[induction.CELL])
].to_numpy()
figure = interp_figures.survival(
    times.rename(columns={"setting": "panel", "model": "label"}),
    "step",
    "Which seeds are still without induction",
    f"Share of {SEEDS} seeds below 50 % on unseen names (validation).",
)
figures.save(figure, FOLDER, "survival", times)
figures.show(figure)


# %%
def cell(given: str, n: int, trunk: int, stopped: bool = False, table: pd.DataFrame = times) -> pd.DataFrame:
    """The rows of one cell of the study."""
    return table[(table.given == given) & (table.n == n) & (table.trunk == trunk) & (table.stopped == stopped)]


def in_words(rows: pd.DataFrame) -> str:
    """How many seeds got there, and when the middle one did."""
    middle = np.where(rows.reached, rows.step.astype(float), np.inf)
    when = np.median(middle)
    return f"{int(rows.reached.sum())} of {len(rows)} seeds, median step {f'{when:.0f}' if np.isfinite(when) else 'never'}"


by_cell = times.groupby(["setting", "model"], sort=False)
pd.DataFrame(
    {
        "reached": by_cell.reached.sum().astype(str) + " of " + by_cell.reached.size().astype(str),
        **{
            f"median {unit}": by_cell.apply(lambda rows, unit=unit: np.median(np.where(rows.reached, rows[unit], np.inf)))
            for unit in ("step", "tokens", "flops", "seconds")
        },
    }
)
