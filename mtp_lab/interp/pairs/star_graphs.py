"""Pairs of path-star graphs in which the same question leads down another arm, and the parts of a graph.

The corrupted graph has another goal, or two arms have exchanged everything from one of their nodes outwards. In both
cases the first step of the answer is another one, and all other tokens are the same. Patching then shows which tokens
hold how much of the way back from the goal. Left out: the reversed variant, in which no step is a guess.
"""

import numpy as np

from data_gen.star_graph import StarGraphs
from mtp_lab.interp.pairs.base import Pairs, assign_roles, collect_pairs

STAR_ROLES = ("changed", "path", "other arms", "goal", "=", "query", "rest")
"""The role of a position: a token that differs, the edges of the path, all other edges, the goal in the question, "=",
the query, and the rest. The query is the first token of the answer, the centre; the first step follows it."""
GOAL = 0


def edge_places(stream: StarGraphs, tokens: np.ndarray, node: np.ndarray) -> np.ndarray:
    """The position at which the edge to a node begins: (n, seq) documents, (n,) nodes -> (n,) positions.

    An edge is three tokens: parent, child, and a symbol.

    Raises:
        ValueError: for a node that no edge leads to.
    """
    leads_to_node = stream.edges(tokens)[:, :, 1] == node[:, None]  # (n, edges)
    if (missing := ~leads_to_node.any(axis=1)).any():
        raise ValueError(f"no edge leads to node {node[missing][0]}: it is the centre, or of another graph")
    return 3 * leads_to_node.argmax(axis=1)


def on_edge(stream: StarGraphs, tokens: np.ndarray, node: np.ndarray) -> np.ndarray:
    """(n, seq) bool: the parent and the child of the edge to each node. Args, Raises: as `edge_places`."""
    offset = np.arange(stream.seq) - edge_places(stream, tokens, node)[:, None]  # (n, seq) from the edge's parent
    return (offset >= 0) & (offset < 2)


def draw_star_pairs(stream: StarGraphs, count: int, change: int = GOAL, seed: int = 0) -> Pairs:
    """`count` pairs, each from its own graph. The same arguments give the same pairs.

    Args:
        change: 0 for another goal, the leaf of a random other arm. k = 2, ..., length - 1 exchanges the k-th nodes (the
            centre is node 0) of the path and of a random other arm, with all nodes beyond them. The first nodes of the
            arms, k = 1, cannot be exchanged, because both are neighbours of the centre.

    Raises:
        ValueError: for fewer than one pair, another change, a stream without a choice, and the reversed variant.

    Example:
        >>> pairs = draw_star_pairs(StarGraphs(degree=2, length=4, nodes=12), 200, change=2)
        >>> (pairs.clean != pairs.corrupted).sum(dim=1).unique()
        tensor([2])
    """
    if change not in (GOAL, *range(2, stream.length)):
        raise ValueError(f"change={change} must be 0, the goal, or the number of a node, 2 to {stream.length - 1}")
    if stream.variant == "reversed" or stream.degree < 2 or stream.length < 3:
        raise ValueError(f"{stream} has no first step to guess; use two arms of three nodes or more, not reversed")
    rng = np.random.default_rng([0x53544152, seed])
    return collect_pairs(lambda: _pairs_from(stream, count, change, rng), count, STAR_ROLES)


def _pairs_from(stream: StarGraphs, n: int, change: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The fields for `collect_pairs`, of n graphs."""
    clean = stream.documents(n, rng).tokens.reshape(n, stream.seq)
    row, query = np.arange(n), stream.answer_start  # every document has its query at the same position
    goal, equals = query - 2, query - 1
    arms = np.array([_arms_from_path(stream, tokens) for tokens in clean])  # (n, degree, length), the path first
    path, other = arms[:, 0], arms[row, rng.integers(1, stream.degree, n)]  # (n, length) each

    corrupted = clean.copy()
    if change == GOAL:
        corrupted[:, goal] = other[:, -1]
    else:
        child_of_path, child_of_other = (edge_places(stream, clean, arm[:, change]) + 1 for arm in (path, other))
        corrupted[row, child_of_path], corrupted[row, child_of_other] = other[:, change], path[:, change]

    position = np.broadcast_to(np.arange(stream.seq), clean.shape)  # (n, seq)
    cases = {
        "changed": clean != corrupted,
        "path": np.logical_or.reduce([on_edge(stream, clean, node) for node in path.T[1:]]),
        "other arms": position < 3 * stream.n_edges,
        "goal": position == goal,
        "=": position == equals,
        "query": position == query,
    }
    return {
        "clean": clean,
        "corrupted": corrupted,
        "roles": assign_roles(cases, STAR_ROLES),
        "query_position": np.full(n, query),
        "answer_token": path[:, 1],
        "wrong_token": other[:, 1],
    }


def _arms_from_path(stream: StarGraphs, tokens: np.ndarray) -> list[list[int]]:
    """The arms of one document's graph, the path to its goal first."""
    goal = tokens[stream.answer_start - 2]
    return sorted(stream.arms(tokens), key=lambda arm: arm[-1] != goal)
