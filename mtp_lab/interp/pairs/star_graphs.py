"""Pairs of path-star graphs in which the same question leads down another arm, and where the parts of a graph stand.

The corrupt graph has another goal, or two arms have exchanged what hangs below one of their nodes: in both cases the
first step of the answer is another one, and all other tokens are the same. Patching then shows which tokens hold how
much of the way back from the goal. Left out: the reversed variant, in which no step is a guess.
"""

from collections.abc import Sequence

import numpy as np

from data_gen.star_graph import StarGraphs
from mtp_lab.interp.pairs.base import Pairs, gather

STAR_ROLES = ("changed", "path", "other arms", "goal", "=", "query", "rest")
"""What a position is: a token that differs, the path's edges, all other edges, the goal in the question, "=", the first
token of the answer (behind which the first step is to be said), and the rest."""
GOAL = 0


def edge_places(stream: StarGraphs, tokens: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Where in its document the edge that leads to a node begins: (n, seq) documents, (n,) nodes -> (n,) positions.

    An edge is two tokens, parent and child, and a symbol. Raises ValueError for a node that no edge leads to.
    """
    leads = stream.edges(tokens)[:, :, 1] == node[:, None]  # (n, edges)
    if not leads.any(axis=1).all():
        raise ValueError(f"no edge leads to node {node[~leads.any(axis=1)][0]}: it is the centre, or of another graph")
    return 3 * leads.argmax(axis=1)


def on_edge(stream: StarGraphs, tokens: np.ndarray, node: np.ndarray) -> np.ndarray:
    """(n, seq) bool: the parent and the child of the edge that leads to each node. Args, Raises: as `edge_places`."""
    after = np.arange(stream.seq) - edge_places(stream, tokens, node)[:, None]  # (n, seq) places since its first token
    return (after >= 0) & (after < 2)


def draw_star_pairs(stream: StarGraphs, count: int, change: int = GOAL, seed: int = 0) -> Pairs:
    """`count` pairs, each from a graph of its own; the same at every call.

    Args:
        change: 0 for another goal, the leaf of a random other arm; k = 2, ..., length - 1 to exchange the k-th nodes
            (the centre is node 0) of the path and of a random other arm, with all that hangs below them. The arms'
            first nodes, k = 1, cannot be exchanged: both hang on the centre.

    Raises:
        ValueError: for fewer than one pair, another change, a stream without a choice, and the reversed variant.

    Example:
        >>> pairs = draw_star_pairs(task.stream, 200, change=2)
        >>> recovered(residual_patching(model, pairs), ["layer", "role"]).pivot(index="layer", columns="role")
    """
    if change not in (GOAL, *range(2, stream.length)):
        raise ValueError(f"change={change} must be 0, the goal, or the number of a node, 2 to {stream.length - 1}")
    if stream.variant == "reversed" or stream.degree < 2 or stream.length < 3:
        raise ValueError(f"{stream} has no first step to guess; use two arms of three nodes or more, not reversed")
    rng = np.random.default_rng([0x53544152, seed])
    return gather(lambda: _drawn(stream, count, change, rng), count, STAR_ROLES)


def _drawn(stream: StarGraphs, n: int, change: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `gather` asks for, of n graphs."""
    clean = stream.documents(n, rng).tokens.reshape(n, stream.seq)
    arms = np.array([_arms(stream, tokens) for tokens in clean])  # (n, degree, length), the path first
    path, other = arms[:, 0], arms[np.arange(n), rng.integers(1, stream.degree, n)]  # (n, length) each
    rows, corrupt, at = np.arange(n), clean.copy(), stream.answer_start
    if change == GOAL:
        corrupt[:, at - 2] = other[:, -1]
    else:
        ours, theirs = (edge_places(stream, clean, arm[:, change]) + 1 for arm in (path, other))
        corrupt[rows, ours], corrupt[rows, theirs] = other[:, change], path[:, change]
    place = np.arange(stream.seq)
    edges = place < 3 * stream.n_edges
    mine = np.logical_or.reduce([on_edge(stream, clean, node) for node in path.T[1:]])
    cases = [clean != corrupt, mine, edges, place == at - 2, place == at - 1, place == at]  # the first that holds
    roles = np.select([np.broadcast_to(case, clean.shape) for case in cases], range(len(cases)), len(cases))
    query = np.full(n, at)
    return {"clean": clean, "corrupt": corrupt, "roles": roles, "at": query, "right": path[:, 1], "wrong": other[:, 1]}


def _arms(stream: StarGraphs, tokens: np.ndarray) -> Sequence[Sequence[int]]:
    """The arms of one document's graph, the one that leads to its goal first."""
    goal = tokens[stream.answer_start - 2]
    return sorted(stream.arms(tokens), key=lambda arm: arm[-1] != goal)
