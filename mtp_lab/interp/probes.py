"""Linear probes: what can be read off the residual stream about the tokens 1 to 4 ahead (Pal et al. 2023, Future Lens).

At every site (the embedding, each layer of the trunk, each head's) a logistic regression on the state at position t
says the token, or any label, at t + k. A number means little without what needs no trained model, so the same table
holds shuffled labels, the states of a freshly initialised model, n-grams and the majority class. What is readable need
not be used: ablation and patching are elsewhere. Numeric marks are left out: a probe answers with a class.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mtp_lab.interp.hook_names import residual_hooks
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer

TEST_SHARE = 0.25  # of the rows
INVERSE_PENALTY = 0.1  # scikit-learn's C: with thousands of examples, more or less changes little
ROWS_AT_ONCE = 32


def probe(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None = None,
    labels: Tensor | None = None,
    classes: int | Sequence[int] = 32,
    offsets: Sequence[int] = (1, 2, 3, 4),
    examples: int = 4000,
    seed: int = 0,
    layers: Collection[str] | None = None,
) -> pd.DataFrame:
    """Accuracy of linear probes at every site, and of the baselines, on rows whose documents no probe was fitted on.

    A head of kind "sequential" reads the tokens up to t + i - 1, so offsets below i are no prediction at its site.
    Three fits a site and offset, each 0.1 to 0.4 s on one core for d_model=64, 4,000 examples and 32 classes; seven
    sites and four offsets took half a minute.

    Args:
        tokens, documents: (rows, seq), as for the model; targets stay inside documents.
        labels: (rows, seq) what to say of each token, int; negative: nothing is asked there. By default the tokens.
        classes: the labels that are asked for, or how many: the most frequent ones of the training rows.
        offsets: how far ahead of the state the target stands, 1 or more.
        examples: training examples of a probe at most, and test examples; drawn at random where there are more.
        seed: of the split, the draws, the shuffling and the untrained model.
        layers: sites to look at, as below; all by default.

    Returns:
        layer: "embed", "blocks.0", ..., "heads.1", ...; "tokens" for what reads tokens and no state.
        offset.
        features: trained; untrained (a new model of the same config); shuffled (trained states, training labels in
            random order); bigram (the most frequent label k after the present token), trigram (after the present and
            the previous one, else bigram), majority.
        accuracy: share of right answers on the test examples, the same ones for all features.
        examples: their number.
        fitted: number of training examples; n-grams and majority count in all there are, which favours them.
        classes: number of classes asked for.

    Raises:
        ValueError: for fewer than two classes, an offset below 1, a layer that the model does not have, shapes that
            differ, rows that all share documents, an offset without two classes in training or without a test target.

    Example:
        >>> second = torch.from_numpy(batch.marks["second_piece"])
        >>> probe(model, tokens, documents, labels=tokens.where(second, -1)).query("features == 'trained'")
    """
    labels = tokens if labels is None else labels
    if labels.shape != tokens.shape:
        raise ValueError(f"labels {tuple(labels.shape)} must have the shape of tokens {tuple(tokens.shape)}")
    if min(offsets, default=0) < 1:
        raise ValueError(f"offsets={tuple(offsets)} must be one or more numbers of at least 1")
    if wrong := set(layers or ()) - set(_sites(model)):
        raise ValueError(f"layers={sorted(wrong)} are none of {', '.join(_sites(model))}")
    owners = torch.arange(len(tokens)).to(tokens)[:, None].expand_as(tokens) if documents is None else documents
    rng = np.random.default_rng(seed)
    test = split_rows(owners, rng)
    chosen = _classes(labels, owners, test, classes)
    asked = labels.where(torch.isin(labels, torch.from_numpy(chosen).to(labels)), IGNORE)
    targets = future_targets(asked, max(offsets), owners).flatten(1).cpu().numpy()  # (offsets, rows * seq)
    in_test = np.repeat(test, tokens.shape[1])  # (rows * seq,)
    drawn = {k: _draw(targets[k - 1], in_test, examples, rng, k) for k in offsets}

    positions = np.unique(np.concatenate([part for pair in drawn.values() for part in pair]))
    trained = _states(model, tokens, documents, positions)
    untrained = _states(_untrained(model, seed), tokens, documents, positions)
    contexts = _contexts(tokens, owners)
    rows = []
    for k, (fit, held_out) in drawn.items():
        wanted, right = targets[k - 1][fit], targets[k - 1][held_out]
        at_fit, at_test = np.searchsorted(positions, fit), np.searchsorted(positions, held_out)
        shuffled = rng.permutation(wanted)
        for layer in trained if layers is None else layers:
            for features, states, said in (
                ("trained", trained, wanted),
                ("untrained", untrained, wanted),
                ("shuffled", trained, shuffled),
            ):
                accuracy = _accuracy(states[layer][at_fit], said, states[layer][at_test], right)
                rows.append((layer, k, features, accuracy, len(right), len(fit)))
        seen = np.flatnonzero((targets[k - 1] != IGNORE) & ~in_test)
        for features, guesses in _ngrams(contexts, targets[k - 1], seen, held_out):
            rows.append(("tokens", k, features, float((guesses == right).mean()), len(right), len(seen)))
    columns = ["layer", "offset", "features", "accuracy", "examples", "fitted"]
    return pd.DataFrame(rows, columns=columns).assign(classes=len(chosen))


def split_rows(documents: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Which rows are for testing: (rows, seq) document ids, -1 for padding -> (rows,) bool, about a quarter.

    Rows that share a document, directly or through others, stay on one side; the largest such group is for training.

    Raises:
        ValueError: if all rows hang together.
    """
    ids = documents.cpu().numpy()
    row, at = np.nonzero(ids >= 0)
    _, document = np.unique(ids[row, at], return_inverse=True)
    nodes = len(ids) + document.max(initial=-1) + 1  # rows, then documents
    links = coo_array((np.ones(len(row), bool), (row, len(ids) + document)), shape=(nodes, nodes))
    group = connected_components(links, directed=False)[1][: len(ids)]  # (rows,)
    names, sizes = np.unique(group, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"all {len(ids)} rows share documents with each other; give rows that lie further apart")
    order = rng.permutation(np.delete(np.arange(len(names)), sizes.argmax()))
    before = np.cumsum(sizes[order]) - sizes[order]
    return np.isin(group, names[order[before < TEST_SHARE * len(ids)]])


def most_frequent(contexts: np.ndarray, labels: np.ndarray) -> pd.Series:
    """The most frequent label of each context, the smallest of equally frequent ones; indexed by context."""
    counted = pd.DataFrame({"context": contexts, "label": labels}).value_counts().reset_index()
    counted = counted.sort_values(["count", "label"], ascending=[False, True])
    return counted.drop_duplicates("context").set_index("context")["label"]


def _classes(labels: Tensor, owners: Tensor, test: np.ndarray, classes: int | Sequence[int]) -> np.ndarray:
    """The labels that are asked for; see `probe`."""
    if isinstance(classes, int):
        train = torch.from_numpy(~test)[:, None].to(labels.device)
        found, counts = np.unique(labels[train & (owners >= 0) & (labels >= 0)].cpu().numpy(), return_counts=True)
        chosen = found[np.argsort(-counts, kind="stable")[:classes]]
    else:
        chosen = np.unique(np.asarray(classes, dtype=np.int64))
    if len(chosen) < 2 or chosen.min() < 0:
        raise ValueError(f"classes={classes!r} gives {chosen.tolist()}; a probe needs two or more, none negative")
    return chosen


def _draw(
    targets: np.ndarray, in_test: np.ndarray, examples: int, rng: np.random.Generator, offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions whose states are read: for fitting, and for testing."""
    sides = [np.flatnonzero((targets != IGNORE) & side) for side in (~in_test, in_test)]
    fit, test = (rng.choice(side, min(examples, len(side)), replace=False) for side in sides)
    if len(np.unique(targets[fit])) < 2 or not len(test):
        raise ValueError(
            f"offset={offset}: {len(fit)} training targets of {len(np.unique(targets[fit]))} classes and {len(test)} "
            "test targets; give more rows, or ask for more frequent classes"
        )
    return fit, test


def _untrained(model: MTPTransformer, seed: int) -> MTPTransformer:
    """A new model of the same config; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MTPTransformer(model.config).to(model.unembed.weight).eval()


def _sites(model: MTPTransformer) -> dict[str, str]:
    """Every site, and the hook point of its residual stream."""
    trunk = [f"blocks.{i}" for i in range(len(model.blocks))]
    return residual_hooks([*trunk, *(f"heads.{i}" for i in model.config.parents)])


@torch.no_grad()
def _states(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None, positions: np.ndarray
) -> dict[str, np.ndarray]:
    """Residual streams by site at sorted flat positions: (positions, d_model) each."""
    sites = _sites(model)
    kept: dict[str, list[np.ndarray]] = {hook: [] for hook in sites.values()}
    seq = tokens.shape[1]
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        first, last = np.searchsorted(positions, (start * seq, (start + ROWS_AT_ONCE) * seq))
        here = torch.from_numpy(positions[first:last] - start * seq).to(tokens.device)

        def keep(x: Tensor, hook, here: Tensor = here) -> None:
            kept[hook.name].append(x.flatten(0, 1)[here].float().cpu().numpy())

        context = model.context(tokens[rows], None if documents is None else documents[rows])
        with model.hooks(fwd_hooks=[(hook, keep) for hook in sites.values()]):
            model.run_heads(model.trunk(tokens[rows], context), tokens[rows], context)
    return {site: np.concatenate(kept[hook]) for site, hook in sites.items()}


def _accuracy(states: np.ndarray, labels: np.ndarray, test_states: np.ndarray, test_labels: np.ndarray) -> float:
    """Of a logistic regression on standardised states."""
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)).fit(states, labels)
    return float(fitted.score(test_states, test_labels))


def _contexts(tokens: Tensor, owners: Tensor) -> dict[str, np.ndarray]:
    """What each n-gram looks at, as one number a flat position, each refining the one before."""
    present, owner = tokens.cpu().numpy().astype(np.int64), owners.cpu().numpy()
    previous = np.full_like(present, -1)  # none before the first of a document
    previous[:, 1:] = np.where(owner[:, 1:] == owner[:, :-1], present[:, :-1], -1)
    pair = (previous + 1) * (present.max() + 1) + present
    return {"majority": np.zeros(present.size, np.int64), "bigram": present.ravel(), "trigram": pair.ravel()}


def _ngrams(
    contexts: dict[str, np.ndarray], targets: np.ndarray, seen: np.ndarray, asked: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Each n-gram's answers at the positions `asked`, counted on `seen`; a new context backs off to the one before."""
    guesses = pd.Series(np.full(len(asked), np.nan))
    for name, context in contexts.items():
        guesses = pd.Series(context[asked]).map(most_frequent(context[seen], targets[seen])).fillna(guesses)
        yield name, guesses.to_numpy()
