"""Path-star graphs: find the one path from the centre of a star to a given leaf (Bachmann & Nagarajan 2024).

The smallest task on which teacher forcing hides the problem: with the path so far at hand, every step but the first
is looked up in the list of edges; the first is one guess in `degree` unless the model plans. The serialisation is
the one of the paper's code, so results compare. Left out: graphs of other shapes, and models' scores.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data_gen.batch import NO_VALUE, Batch, Documents, fill

Variant = Literal["forward", "reversed", "teacherless"]
SYMBOLS = ("|", "=", "/", "$")  # their tokens follow those of the nodes, in this order
BETWEEN_EDGES, EQUALS, QUERY, DUMMY = range(len(SYMBOLS))


@dataclass(frozen=True)
class StarGraphs:
    """G(degree, length) over N node labels (arXiv 2403.06963, section 4.1): the edges, a question, its answer.

    A document is "u v | u v | ... / start goal = path", every node and symbol one token: edges point away from the
    centre and come in random order, start is the centre, goal the leaf of a random arm, and labels are drawn uniformly
    without replacement. Nothing closes a document: all are equally long.

    Variants, which draw the same graphs from the same generator:
        forward      the path from start to goal
        reversed     the path from goal to start: each node has one edge that leads to it, so no step is a guess
        teacherless  "$" in place of each token of the answer, which has to be said without seeing any of it. The mark
                     `target` tells what to predict at a position instead of the stream's next token: the forward
                     document's next token. It begins at "=" and ends one before the last "$", so with it no "$" is
                     ever a target; horizon i takes it from i - 1 positions on.

    Marks, on the tokens they speak of (in the teacherless variant on the "$" in their place):
        question     everything up to and including "="
        answer       the path, or the dummies in its place
        start, goal  the two nodes of the query, after "/"
        choice       the first step away from the centre, one of `degree` as long as no path is searched for. Nowhere
                     for degree 1, for length 2 (the step is the goal, which the question names), and in the reversed
                     variant
        forced       other tokens of the answer that follow from the token before them and the question, by copying
                     or looking up one edge. Without teacher forcing only the two ends do: copies from the query
        target       teacherless only: float32 token id; -1 where the stream's own next token counts

    Raises:
        ValueError: for a graph that has no path, or more nodes than labels, and for an unknown variant.
    """

    degree: int = 5
    """Arms of the star."""
    length: int = 5
    """Nodes of an arm, the centre counted: the length of the path that is asked for."""
    nodes: int = 50
    """Labels N to draw from, each one token."""
    variant: Variant = "forward"
    """Path from start to goal, from goal to start, or without teacher forcing."""

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise ValueError(f"degree={self.degree} must be at least 1, a star of one arm")
        if self.length < 2:
            raise ValueError(f"length={self.length} must be at least 2, the centre and the goal")
        if self.n_edges + 1 > self.nodes:
            raise ValueError(
                f"nodes={self.nodes} are too few labels for degree={self.degree} and length={self.length}: the graph "
                f"has degree * (length - 1) + 1 = {self.n_edges + 1} nodes; use nodes={self.n_edges + 1} or more"
            )
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant={self.variant!r} must be one of {', '.join(get_args(Variant))}")

    @property
    def vocab_size(self) -> int:
        """Nodes and symbols; the same for all variants."""
        return self.nodes + len(SYMBOLS)

    @property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) what each token stands for."""
        return (*map(str, range(self.nodes)), *SYMBOLS)

    @property
    def n_edges(self) -> int:
        return self.degree * (self.length - 1)

    @property
    def answer_start(self) -> int:
        """Tokens of the question: the position of the answer's first token."""
        return 3 * self.n_edges + 3

    @property
    def seq(self) -> int:
        """Tokens of every document."""
        return self.answer_start + self.length

    def documents(self, n: int, rng: np.random.Generator) -> Documents:
        """n independent graphs with their questions and answers."""
        # Labels are in random order, so any numbering of the graph's nodes will do. Ours: the centre is 0, arms follow
        # one after the other from the centre outwards, the path's arm first; edge e leads to node e + 1.
        labels = _permutations(n, self.nodes, rng)[:, : self.n_edges + 1]  # (n, graph nodes)
        edges = _permutations(n, self.n_edges, rng)  # (n, edges)
        parents = np.arange(self.n_edges)
        parents[:: self.length - 1] = 0  # the first edge of each arm leaves the centre

        tokens = np.empty((n, self.seq), np.int32)  # (n, seq)
        question, answer = tokens[:, : self.answer_start], tokens[:, self.answer_start :]
        question[:, 0:-3:3] = np.take_along_axis(labels, parents[edges], axis=1)
        question[:, 1:-3:3] = np.take_along_axis(labels, edges + 1, axis=1)
        question[:, 2:-3:3] = self.nodes + BETWEEN_EDGES
        question[:, -4] = self.nodes + QUERY  # in place of the last "|"
        question[:, -3], question[:, -2] = labels[:, 0], labels[:, self.length - 1]
        question[:, -1] = self.nodes + EQUALS
        path = labels[:, : self.length]  # (n, length)
        answer[:] = path[:, ::-1] if self.variant == "reversed" else path

        labels = {name: np.tile(label, n) for name, label in self._marks().items()}
        if self.variant == "teacherless":
            target = np.full((n, self.seq), NO_VALUE, np.float32)
            target[:, self.answer_start - 1 : -1] = answer
            answer[:] = self.nodes + DUMMY
            labels["target"] = target.ravel()
        return Documents(tokens.ravel(), np.full(n, self.seq), labels)

    def sample(self, rows: int, seq: int, rng: np.random.Generator) -> Batch:
        """Rows of `seq` tokens, each of as many whole documents as fit, (rows, seq).

        Raises ValueError for rows < 1 and for a row shorter than a document.
        """
        return fill(lambda n: self.documents(n, rng), rows, seq, mean_length=self.seq)

    def edges(self, tokens: np.ndarray) -> np.ndarray:
        """The edges of documents as they are listed: (..., seq) -> (..., edges, 2), parent and child.

        Raises ValueError where the last axis is not one document.
        """
        self._check_document(tokens)
        end = 3 * self.n_edges  # the "/" included, in place of a last "|"
        return np.stack([tokens[..., 0:end:3], tokens[..., 1:end:3]], axis=-1)  # (..., edges, 2)

    def arms(self, tokens: np.ndarray) -> list[list[int]]:
        """The arms of one document's graph, (seq,), each from the centre to its leaf, sorted by leaf.

        Raises ValueError for anything but one document.
        """
        parent = self._parents(tokens)
        return [_path_to(leaf, parent) for leaf in sorted(parent.keys() - parent.values())]

    def solve(self, tokens: np.ndarray) -> list[int]:
        """The answer to one document, (seq,), from its edges and its query alone, in the order of the variant.

        Walks from the goal back to the centre: the reference that answers are held against. Raises ValueError for
        anything but one document.
        """
        path = _path_to(int(tokens[self.answer_start - 2]), self._parents(tokens))
        return path[::-1] if self.variant == "reversed" else path

    def text(self, tokens: np.ndarray) -> str:
        """Tokens, (n,), as one line, such as "8 3 | 8 5 / 8 5 = 8 5"."""
        return " ".join(map(self.token_names.__getitem__, tokens))

    def _marks(self) -> dict[str, np.ndarray]:
        """name -> (seq,) bool: where the marks of any document are."""
        position = np.arange(self.seq)
        first, last = self.answer_start, self.seq - 1
        answer = position >= first
        guess = self.variant != "reversed" and self.degree > 1 and self.length > 2
        choice = (position == first + 1) & guess
        ends = (position == first) | (position == last)
        return {
            "question": ~answer,
            "answer": answer,
            "start": position == first - 3,
            "goal": position == first - 2,
            "choice": choice,
            "forced": ends if self.variant == "teacherless" else answer & ~choice,
        }

    def _parents(self, tokens: np.ndarray) -> dict[int, int]:
        if tokens.ndim != 1:
            raise ValueError(f"tokens must be one document, ({self.seq},), got shape {tokens.shape}; use tokens[0]")
        return {child: parent for parent, child in self.edges(tokens).tolist()}

    def _check_document(self, tokens: np.ndarray) -> None:
        if tokens.shape[-1:] != (self.seq,):
            raise ValueError(
                f"a document of G({self.degree}, {self.length}) has {self.seq} tokens, got shape {tokens.shape}; "
                "select its tokens from the row by Batch.documents"
            )


def _permutations(n: int, items: int, rng: np.random.Generator) -> np.ndarray:
    """(n, items) independent uniform permutations of 0..items-1."""
    return rng.permuted(np.tile(np.arange(items), (n, 1)), axis=1)


def _path_to(node: int, parent: dict[int, int]) -> list[int]:
    """From the centre, which has no parent, to `node`."""
    path = [node]
    while path[-1] in parent:
        path.append(parent[path[-1]])
    return path[::-1]
