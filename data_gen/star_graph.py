"""Path-star graphs: find the one path from the centre of a star to a given leaf (Bachmann & Nagarajan 2024).

The smallest task in which teacher forcing hides the problem. Given the path so far, a model finds every step but the
first by looking up one edge. The first step is a guess among `degree` nodes unless the model plans. Documents have the
format of the paper's code, so results are comparable. Left out: graphs of other shapes, and models' scores.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data_gen.batch import NO_VALUE, TARGET, Batch, Documents, fill

Variant = Literal["forward", "reversed", "teacherless"]
SYMBOLS = ("|", "=", "/", "$")  # their tokens follow those of the nodes, in this order
BETWEEN_EDGES, EQUALS, QUERY, DUMMY = range(len(SYMBOLS))


@dataclass(frozen=True)
class StarGraphs:
    """G(degree, length) over N node labels (arXiv 2403.06963, section 4.1): the edges, a question, its answer.

    A document is "u v | u v | ... / start goal = path", and every node and symbol is one token. Edges point away from
    the centre and come in random order. Start is the centre, and goal is the leaf of a random arm. Node labels are
    drawn uniformly without replacement. No token closes a document: all documents are equally long.

    Variants, which draw the same graphs from the same generator:
        forward      the path from start to goal
        reversed     the path from goal to start: exactly one edge leads to each node, so no step is a guess
        teacherless  "$" in place of each token of the answer, so the model predicts the answer without reading any of
                     it. The token label `target` replaces the next token of the stream as the target: it is the next
                     token of the forward document. It is set from "=" to one before the last "$", so no "$" is ever a
                     target. Horizon i reads it i - 1 positions later.

    Token labels (in the teacherless variant, those of the answer are on the "$" in its place):
        question     everything up to and including "="
        answer       the path, or the dummy tokens in its place
        start, goal  the two nodes of the query, after "/"
        choice       the first step away from the centre, a guess among `degree` nodes for a model that does not search.
                     False everywhere for degree 1, for length 2 (the step is the goal, which is in the question), and
                     in the reversed variant
        forced       other tokens of the answer that follow from the token before them and the question, by copying
                     or looking up one edge. Without teacher forcing these are only the two ends, which are copies
        target       only teacherless: float32 token id; -1 where the target is the stream's own next token

    Raises:
        ValueError: for a graph without a path, with more nodes than node labels, and for an unknown variant.
    """

    degree: int = 5
    """Number of arms of the star."""
    length: int = 5
    """Nodes of an arm, including the centre: the length of the answer."""
    nodes: int = 50
    """Number N of node labels, each one token."""
    variant: Variant = "forward"
    """Path from start to goal, from goal to start, or without teacher forcing."""

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise ValueError(f"degree={self.degree} must be at least 1 arm")
        if self.length < 2:
            raise ValueError(f"length={self.length} must be at least 2, the centre and the goal")
        if self.n_edges + 1 > self.nodes:
            raise ValueError(
                f"nodes={self.nodes} are too few node labels for degree={self.degree} and length={self.length}: the "
                f"graph has degree * (length - 1) + 1 = {self.n_edges + 1} nodes; use nodes={self.n_edges + 1} or more"
            )
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant={self.variant!r} must be one of {', '.join(get_args(Variant))}")

    @property
    def vocab_size(self) -> int:
        """Number of nodes and symbols; the same for all variants."""
        return self.nodes + len(SYMBOLS)

    @property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) the text of each token."""
        return (*map(str, range(self.nodes)), *SYMBOLS)

    @property
    def n_edges(self) -> int:
        return self.degree * (self.length - 1)

    @property
    def answer_start(self) -> int:
        """Number of tokens of the question, which is the position of the answer's first token."""
        return 3 * self.n_edges + 3

    @property
    def seq(self) -> int:
        """Number of tokens of every document."""
        return self.answer_start + self.length

    def documents(self, n: int, rng: np.random.Generator) -> Documents:
        """n independent graphs with their questions and answers."""
        # 1. The graph. Node labels are in random order, so any numbering of the graph's nodes is possible. Here the
        #    centre is 0, and the arms follow one after the other from the centre outwards. The arm of the path comes
        #    first. Edge e leads to node e + 1.
        node_labels = _permutations(n, self.nodes, rng)[:, : self.n_edges + 1]  # (n, graph nodes)
        edges = _permutations(n, self.n_edges, rng)  # (n, edges)
        parents = np.arange(self.n_edges)
        parents[:: self.length - 1] = 0  # the first edge of each arm starts at the centre

        # 2. The tokens.
        tokens = np.empty((n, self.seq), np.int32)  # (n, seq)
        question, answer = tokens[:, : self.answer_start], tokens[:, self.answer_start :]
        question[:, 0:-3:3] = np.take_along_axis(node_labels, parents[edges], axis=1)
        question[:, 1:-3:3] = np.take_along_axis(node_labels, edges + 1, axis=1)
        question[:, 2:-3:3] = self.nodes + BETWEEN_EDGES
        question[:, -4] = self.nodes + QUERY  # in place of the last "|"
        question[:, -3], question[:, -2] = node_labels[:, 0], node_labels[:, self.length - 1]
        question[:, -1] = self.nodes + EQUALS
        path = node_labels[:, : self.length]  # (n, length)
        answer[:] = path[:, ::-1] if self.variant == "reversed" else path

        # 3. The token labels.
        labels = {name: np.tile(label, n) for name, label in self._labels().items()}
        if self.variant == "teacherless":
            target = np.full((n, self.seq), NO_VALUE, np.float32)
            target[:, self.answer_start - 1 : -1] = answer
            answer[:] = self.nodes + DUMMY
            labels[TARGET] = target.ravel()
        return Documents(tokens.ravel(), np.full(n, self.seq), labels)

    def sample(self, rows: int, seq: int, rng: np.random.Generator) -> Batch:
        """Rows of `seq` tokens, each of as many whole documents as fit, (rows, seq).

        Raises ValueError for rows < 1 and for a row shorter than a document.
        """
        return fill(lambda n: self.documents(n, rng), rows, seq, mean_length=self.seq)

    def edges(self, tokens: np.ndarray) -> np.ndarray:
        """The edges of documents in their order: (..., seq) -> (..., edges, 2), parent and child.

        Raises ValueError if the last axis is not one document.
        """
        self._check_document(tokens)
        end = 3 * self.n_edges  # includes the "/", which stands in place of the last "|"
        return np.stack([tokens[..., 0:end:3], tokens[..., 1:end:3]], axis=-1)  # (..., edges, 2)

    def arms(self, tokens: np.ndarray) -> list[list[int]]:
        """The arms of one document's graph, (seq,), each from the centre to its leaf, sorted by leaf.

        Raises ValueError for anything but one document.
        """
        parent = self._parents(tokens)
        return [_path_to(leaf, parent) for leaf in sorted(parent.keys() - parent.values())]

    def solve(self, tokens: np.ndarray) -> list[int]:
        """The answer to one document, (seq,), from its edges and its query alone, in the order of the variant.

        The reference for answers: follows the edges from the goal back to the centre. Raises ValueError for anything
        but one document.
        """
        path = _path_to(int(tokens[self.answer_start - 2]), self._parents(tokens))
        return path[::-1] if self.variant == "reversed" else path

    def text(self, tokens: np.ndarray) -> str:
        """Tokens, (n,), as one line, such as "8 3 | 8 5 / 8 5 = 8 5"."""
        return " ".join(map(self.token_names.__getitem__, tokens))

    def _labels(self) -> dict[str, np.ndarray]:
        """name -> (seq,) bool, the labels that are the same for all documents."""
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
    """The path from the centre, which has no parent, to `node`."""
    path = [node]
    while path[-1] in parent:
        path.append(parent[path[-1]])
    return path[::-1]
