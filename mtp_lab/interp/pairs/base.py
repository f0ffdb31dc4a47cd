"""Pairs of inputs that end in the same way and continue differently, and the logit difference between them.

Concept: the clean and the corrupted input differ in a few tokens, so that another token follows the query, their last
token. A model that uses these tokens prefers `answer_token` in the clean run and `wrong_token` in the corrupted one.

Intuition: the logit difference is the preference in nats. At +5 the model assigns the answer e^5 = 150 times the
probability of the wrong token. If it is about +5 in clean and -5 in corrupted runs, the model reads the tokens in which
they differ. If it is nearly equal in both, there is no effect to trace.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from data_gen.batch import NO_VALUE, PADDING, Documents


@dataclass(frozen=True, eq=False)
class Pairs:
    """A clean and a corrupted input for each pair.

    clean, corrupted  (pairs, seq) int64 ids, padded on the right
    documents         (pairs, seq) int64, 0, or -1 for padding
    roles             (pairs, seq) int64 index into role_names of each position, -1 for padding
    query_position    (pairs,) int64 position of the query: the token after which the answer or the wrong token follows
    answer_token      (pairs,) int64 the token that follows in the clean run
    wrong_token       (pairs,) int64 the token that follows in the corrupted run
    role_names        the roles that a position can have; "query" and "rest" are among them

    Raises:
        ValueError: at construction, for shapes that do not fit, and role names without "query" or "rest".
    """

    clean: Tensor
    corrupted: Tensor
    documents: Tensor
    roles: Tensor
    query_position: Tensor
    answer_token: Tensor
    wrong_token: Tensor
    role_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.clean.ndim != 2 or not len(self.clean):
            raise ValueError(f"clean must be (pairs, seq) with at least one pair, got {tuple(self.clean.shape)}")
        for name in ("corrupted", "documents", "roles", "query_position", "answer_token", "wrong_token"):
            each_position = name in ("corrupted", "documents", "roles")
            needed = self.clean.shape if each_position else self.clean.shape[:1]
            if (shape := getattr(self, name).shape) != needed:
                raise ValueError(f"{name} must have shape {tuple(needed)} to fit clean, got {tuple(shape)}")
        if missing := {"query", "rest"} - set(self.role_names):
            raise ValueError(
                f"role_names={self.role_names} must hold {' and '.join(sorted(missing))}, for the query may move"
            )

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice | Tensor) -> "Pairs":
        return self._with_tensors(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on a device."""
        return self._with_tensors(lambda tensor: tensor.to(device))

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Pairs":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})

    def swapped(self) -> "Pairs":
        """Clean and corrupted exchanged: patching then shows which activations suffice to break the clean answer."""
        return replace(
            self,
            clean=self.corrupted,
            corrupted=self.clean,
            answer_token=self.wrong_token,
            wrong_token=self.answer_token,
        )

    def for_horizon(self, horizon: int) -> "Pairs":
        """The same answers for prediction head `horizon`, whose query comes horizon - 1 tokens earlier.

        A query takes the role "query" from the position that it falls on, and the positions after it are "rest". In a
        story the name that follows may still be open at the earlier query. A later head may then prefer neither token
        in either run, as pairs are not selected for that.

        Raises:
            ValueError: where a query would come before the first token in which its two runs differ.
        """
        first_change = (self.clean != self.corrupted).int().argmax(dim=1)  # (pairs,)
        distance = self.query_position - first_change  # (pairs,) tokens from the change to the query
        if not 1 <= horizon <= int(distance.min()) + 1:
            raise ValueError(
                f"horizon={horizon} must be from 1 to {int(distance.min()) + 1}: further ahead, the query of pair "
                f"{int(distance.argmin())} comes before its runs differ; use an earlier head, or leave such pairs out"
            )
        query = (self.query_position - (horizon - 1))[:, None]  # (pairs, 1)
        position = torch.arange(self.clean.shape[1], device=query.device)
        after_query = (self.documents != PADDING) & (position > query)  # (pairs, seq)
        roles = self.roles.masked_fill(after_query, self.role_names.index("rest"))
        roles = roles.masked_fill(position == query, self.role_names.index("query"))
        return replace(self, query_position=query[:, 0], roles=roles)


def logit_difference(logits: Tensor, pairs: Pairs) -> Tensor:
    """logit(answer_token) - logit(wrong_token) at each query: (pairs,), in nats.

    Args:
        logits: (pairs, seq, vocab) of one horizon, with the pairs `pairs.for_horizon(horizon)`; or (pairs, vocab) at
            the queries alone.
    """
    rows = torch.arange(len(pairs), device=logits.device)
    at_query = logits[rows, pairs.query_position] if logits.ndim == 3 else logits  # (pairs, vocab)
    return at_query[rows, pairs.answer_token] - at_query[rows, pairs.wrong_token]


def collect_pairs(draw: Callable[[], dict[str, np.ndarray]], count: int, role_names: tuple[str, ...]) -> Pairs:
    """Draws until there are `count` pairs, and cuts each row after its query.

    Args:
        draw: returns the fields of some more pairs: clean, corrupted and roles, (drawn, width), and query_position,
            answer_token and wrong_token, (drawn,). Values after a query are ignored.

    Raises:
        ValueError: for fewer than one pair.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1 pair")
    draws: list[dict[str, np.ndarray]] = []
    while sum(len(drawn["clean"]) for drawn in draws) < count:
        draws.append(draw())
    values = {name: np.concatenate([drawn[name] for drawn in draws])[:count] for name in draws[0]}
    seq = values["query_position"].max() + 1
    read = np.arange(seq) <= values["query_position"][:, None]  # (pairs, seq)
    for name, padding in (("clean", 0), ("corrupted", 0), ("roles", NO_VALUE)):
        values[name] = np.where(read, values[name][:, :seq], padding)
    values["documents"] = np.where(read, 0, PADDING)
    return Pairs(**{name: torch.from_numpy(array).long() for name, array in values.items()}, role_names=role_names)


def one_document_per_row(documents: Documents, values: np.ndarray, width: int, padding: int | bool = 0) -> np.ndarray:
    """Values of flat tokens as rows: (n_tokens,) -> (documents, width), with padding after the end of each document."""
    inside = np.arange(width) < documents.lengths[:, None]  # (documents, width)
    rows = np.full(inside.shape, padding, values.dtype)
    rows[inside] = values
    return rows


def assign_roles(cases: dict[str, np.ndarray], role_names: tuple[str, ...]) -> np.ndarray:
    """The role of each position: the first case whose mask, (pairs, seq) bool, is true there, or "rest"."""
    numbers = [role_names.index(name) for name in cases]
    return np.select(list(cases.values()), numbers, role_names.index("rest"))
