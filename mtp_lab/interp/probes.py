"""Linear probes: what the residual stream tells about the tokens 1 to 4 ahead (Pal et al. 2023, Future Lens).

Concept: a logistic regression predicts the token at t + k, or any label of it, from the state at position t. There is
one for the embedding, for the state after each layer of the trunk, and for that after each prediction head. The same
table holds baselines: shuffled labels, the states of a freshly initialised model, n-grams and the majority class.

Intuition: an accuracy has a meaning only beside its baselines. With 0.8 on the trained states after layer 1, 0.3 on
untrained ones and 0.25 for the trigram, layer 1 holds information about the token that no short context gives. An
accuracy equal to that of the untrained model comes from the input tokens themselves.

Left out: whether the model uses what can be read (`ablation`, `patching`), and numeric labels: probes predict classes.
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

from mtp_lab.interp.hooks import layer_names, residual_hooks
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
    """Accuracy of linear probes after every layer, and of the baselines, on rows whose documents no probe has seen.

    A head of kind "sequential" reads the tokens up to t + i - 1, so after it offsets below i are no prediction. A layer
    and offset take three fits, each 0.1 to 0.4 s on one core for d_model=64, 4,000 examples and 32 classes. Seven
    layers and four offsets take half a minute.

    Args:
        tokens, documents: (rows, seq), as for the model; targets stay inside documents.
        labels: (rows, seq) int, the class of each token; negative where it is not a target. By default the tokens.
        classes: the labels that count as targets, or their number: the most frequent ones of the training rows.
        offsets: distances from the state to the target, 1 or more.
        examples: largest number of training examples of a probe, and of test examples; a random choice of all.
        seed: of the split, the draws, the shuffling and the untrained model.
        layers: the layers to probe, as below; all by default.

    Returns:
        layer: "embed", "blocks.0", ..., "heads.1", ...; "tokens" for baselines that read tokens instead of states.
        offset.
        features: trained; untrained (a new model of the same config); shuffled (trained states, training labels in
            random order); bigram (the most frequent label k after the present token), trigram (after the present and
            the previous one, else bigram), majority.
        accuracy: share of correct predictions on the test examples, which are the same for all features.
        examples: number of test examples.
        fitted: number of training examples. N-grams and majority use all there are, which favours them.
        classes: number of classes.

    Raises:
        ValueError: for fewer than two classes, an offset below 1, a layer that the model does not have, shapes that
            differ, rows that all share documents, an offset without two classes in training or without a test target.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, repeated_tokens
        >>> model = induction_model()
        >>> tokens = repeated_tokens(model, rows=120, half=12, generator=torch.Generator().manual_seed(0))
        >>> repeats = tokens.where(torch.arange(25) >= 14, -1)  # only here can the next token be known
        >>> table = probe(model, tokens, labels=repeats, classes=range(1, 24), offsets=[1], layers=["heads.1"])
        >>> float(table.query("features == 'trained'").accuracy.iloc[0]) > 0.95
        True
    """
    labels = tokens if labels is None else labels
    if labels.shape != tokens.shape:
        raise ValueError(f"labels {tuple(labels.shape)} must have the shape of tokens {tuple(tokens.shape)}")
    if min(offsets, default=0) < 1:
        raise ValueError(f"offsets={tuple(offsets)} must be one or more numbers of at least 1")
    hooks = residual_hooks(layer_names(model))
    if unknown := set(layers or ()) - set(hooks):
        raise ValueError(f"layers={sorted(unknown)} are none of {', '.join(hooks)}")
    owners = torch.arange(len(tokens)).to(tokens)[:, None].expand_as(tokens) if documents is None else documents
    rng = np.random.default_rng(seed)
    test = split_rows(owners, rng)
    kept_classes = _classes(labels, owners, test, classes)
    labels = labels.where(torch.isin(labels, torch.from_numpy(kept_classes).to(labels)), IGNORE)
    targets = future_targets(labels, max(offsets), owners).flatten(1).cpu().numpy()  # (offsets, rows * seq)
    in_test = np.repeat(test, tokens.shape[1])  # (rows * seq,)
    drawn = {k: _draw(targets[k - 1], in_test, examples, rng, k) for k in offsets}

    positions = np.unique(np.concatenate([half for halves in drawn.values() for half in halves]))
    trained = _states(model, tokens, documents, positions)
    untrained = _states(_untrained(model, seed), tokens, documents, positions)
    contexts = _contexts(tokens, owners)
    rows = []
    for k, (fit, held_out) in drawn.items():
        fit_labels, test_labels = targets[k - 1][fit], targets[k - 1][held_out]
        at_fit, at_test = np.searchsorted(positions, fit), np.searchsorted(positions, held_out)
        shuffled = rng.permutation(fit_labels)
        for layer in trained if layers is None else layers:
            for features, states, train_labels in (
                ("trained", trained, fit_labels),
                ("untrained", untrained, fit_labels),
                ("shuffled", trained, shuffled),
            ):
                accuracy = _accuracy(states[layer][at_fit], train_labels, states[layer][at_test], test_labels)
                rows.append((layer, k, features, accuracy, len(test_labels), len(fit)))
        counted = np.flatnonzero((targets[k - 1] != IGNORE) & ~in_test)
        for features, predictions in _ngrams(contexts, targets[k - 1], counted, held_out):
            accuracy = float((predictions == test_labels).mean())
            rows.append(("tokens", k, features, accuracy, len(test_labels), len(counted)))
    columns = ["layer", "offset", "features", "accuracy", "examples", "fitted"]
    return pd.DataFrame(rows, columns=columns).assign(classes=len(kept_classes))


def split_rows(documents: Tensor, rng: np.random.Generator) -> np.ndarray:
    """The test rows, about a quarter: (rows, seq) document ids, -1 for padding -> (rows,) bool.

    Rows that share a document, directly or through other rows, stay on one side. The largest such group is for
    training.

    Raises:
        ValueError: if all rows share documents.
    """
    ids = documents.cpu().numpy()
    row, position = np.nonzero(ids >= 0)
    _, document = np.unique(ids[row, position], return_inverse=True)
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
    """The most frequent label of each context, the smallest one in a tie; indexed by context."""
    counted = pd.DataFrame({"context": contexts, "label": labels}).value_counts().reset_index()
    counted = counted.sort_values(["count", "label"], ascending=[False, True])
    return counted.drop_duplicates("context").set_index("context")["label"]


def _classes(labels: Tensor, owners: Tensor, test: np.ndarray, classes: int | Sequence[int]) -> np.ndarray:
    """The labels that count as targets; see `probe`."""
    if isinstance(classes, int):
        train = torch.from_numpy(~test)[:, None].to(labels.device)
        present, counts = np.unique(labels[train & (owners >= 0) & (labels >= 0)].cpu().numpy(), return_counts=True)
        chosen = present[np.argsort(-counts, kind="stable")[:classes]]
    else:
        chosen = np.unique(np.asarray(classes, dtype=np.int64))
    if len(chosen) < 2 or chosen.min() < 0:
        raise ValueError(f"classes={classes!r} gives {chosen.tolist()}; a probe needs two or more, none negative")
    return chosen


def _draw(
    targets: np.ndarray, in_test: np.ndarray, examples: int, rng: np.random.Generator, offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions of the states for fitting, and of those for testing."""
    sides = [np.flatnonzero((targets != IGNORE) & side) for side in (~in_test, in_test)]
    fit, test = (rng.choice(side, min(examples, len(side)), replace=False) for side in sides)
    if len(np.unique(targets[fit])) < 2 or not len(test):
        raise ValueError(
            f"offset={offset}: {len(fit)} training targets of {len(np.unique(targets[fit]))} classes and {len(test)} "
            "test targets; give more rows or more frequent classes"
        )
    return fit, test


def _untrained(model: MTPTransformer, seed: int) -> MTPTransformer:
    """A new model of the same config; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MTPTransformer(model.config).to(model.unembed.weight).eval()


@torch.no_grad()
def _states(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None, positions: np.ndarray
) -> dict[str, np.ndarray]:
    """The residual stream after every layer at sorted flat positions: (positions, d_model) each."""
    hooks = residual_hooks(layer_names(model))
    kept: dict[str, list[np.ndarray]] = {hook: [] for hook in hooks.values()}
    seq = tokens.shape[1]
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        first, last = np.searchsorted(positions, (start * seq, (start + ROWS_AT_ONCE) * seq))
        in_rows = torch.from_numpy(positions[first:last] - start * seq).to(tokens.device)

        def keep(x: Tensor, hook, in_rows: Tensor = in_rows) -> None:
            kept[hook.name].append(x.flatten(0, 1)[in_rows].float().cpu().numpy())

        context = model.context(tokens[rows], None if documents is None else documents[rows])
        with model.hooks(fwd_hooks=[(hook, keep) for hook in hooks.values()]):
            model.run_heads(model.trunk(tokens[rows], context), tokens[rows], context)
    return {layer: np.concatenate(kept[hook]) for layer, hook in hooks.items()}


def _accuracy(states: np.ndarray, labels: np.ndarray, test_states: np.ndarray, test_labels: np.ndarray) -> float:
    """The test accuracy of a logistic regression on standardised states."""
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)).fit(states, labels)
    return float(fitted.score(test_states, test_labels))


def _contexts(tokens: Tensor, owners: Tensor) -> dict[str, np.ndarray]:
    """The context of each n-gram as one number at each flat position; each refines the one before."""
    present, owner = tokens.cpu().numpy().astype(np.int64), owners.cpu().numpy()
    previous = np.full_like(present, -1)  # the first token of a document has no previous one
    previous[:, 1:] = np.where(owner[:, 1:] == owner[:, :-1], present[:, :-1], -1)
    pair = (previous + 1) * (present.max() + 1) + present
    return {"majority": np.zeros(present.size, np.int64), "bigram": present.ravel(), "trigram": pair.ravel()}


def _ngrams(
    contexts: dict[str, np.ndarray], targets: np.ndarray, counted: np.ndarray, queries: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Predictions of each n-gram at the positions `queries`, from counts at the positions `counted`.

    A context that was not counted backs off to the n-gram before.
    """
    predictions = pd.Series(np.full(len(queries), np.nan))
    for name, context in contexts.items():
        most_likely = most_frequent(context[counted], targets[counted])
        predictions = pd.Series(context[queries]).map(most_likely).fillna(predictions)
        yield name, predictions.to_numpy()
