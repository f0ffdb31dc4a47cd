"""Pairs of runs that end alike and have to be continued differently, and the logit difference between them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from data_gen.batch import NO_VALUE, PADDING


@dataclass(frozen=True, eq=False)
class Pairs:
    """Two runs that end alike and have to be continued differently, for each pair.

    clean, corrupt  (pairs, seq) int64 ids, padded on the right
    documents       (pairs, seq) int64, 0, or -1 for padding
    roles           (pairs, seq) int64 index into names of each position, -1 for padding
    at              (pairs,) int64 position of the query: the token after which right or wrong is to be said
    right, wrong    (pairs,) int64 the token that follows in the clean run, and the one that follows in the corrupt run
    names           what a position can be; "query" and "rest" are among them

    Raises:
        ValueError: at construction, for shapes that do not fit, and names without "query" or "rest".
    """

    clean: Tensor
    corrupt: Tensor
    documents: Tensor
    roles: Tensor
    at: Tensor
    right: Tensor
    wrong: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.clean.ndim != 2 or not len(self.clean):
            raise ValueError(f"clean must be (pairs, seq) with at least one pair, got {tuple(self.clean.shape)}")
        for name in ("corrupt", "documents", "roles", "at", "right", "wrong"):
            needed = self.clean.shape if name in ("corrupt", "documents", "roles") else self.clean.shape[:1]
            if (shape := getattr(self, name).shape) != needed:
                raise ValueError(f"{name} must have shape {tuple(needed)} to fit clean, got {tuple(shape)}")
        if missing := {"query", "rest"} - set(self.names):
            raise ValueError(f"names={self.names} must hold {' and '.join(sorted(missing))}, for the query may move")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice) -> "Pairs":
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on a device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Pairs":
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(part) for name, part in parts.items() if isinstance(part, Tensor)})

    def swapped(self) -> "Pairs":
        """Clean and corrupt exchanged: patching then asks what is enough to break the answer, not to restore it."""
        return replace(self, clean=self.corrupt, corrupt=self.clean, right=self.wrong, wrong=self.right)

    def asked_by(self, horizon: int) -> "Pairs":
        """The same tokens asked for by head `horizon`, whose query comes horizon - 1 tokens earlier.

        In a story it may be open there whose name comes next, so that a head far ahead may say little about `right` and
        `wrong` in either run; the pairs are not chosen for that. A query that falls on a position with a role of its
        own is "query"; what comes after it is "rest".

        Raises:
            ValueError: where a query would come before the first token in which its two runs differ.
        """
        known = self.at - (self.clean != self.corrupt).int().argmax(dim=1)  # (pairs,) tokens back to the difference
        if not 1 <= horizon <= int(known.min()) + 1:
            raise ValueError(
                f"horizon={horizon} must be from 1 to {int(known.min()) + 1}: further ahead, the query of pair "
                f"{int(known.argmin())} comes before its runs differ; ask a nearer head, or leave such pairs out"
            )
        at = self.at - (horizon - 1)
        place = torch.arange(self.clean.shape[1], device=at.device)
        real = self.documents != PADDING
        roles = self.roles.masked_fill(real & (place > at[:, None]), self.names.index("rest"))
        return replace(self, at=at, roles=roles.masked_fill(place == at[:, None], self.names.index("query")))


def logit_difference(logits: Tensor, pairs: Pairs) -> Tensor:
    """logit(right) - logit(wrong) at each query: (pairs,) nats.

    Args:
        logits: (pairs, seq, vocab), of one horizon; `pairs` then `pairs.asked_by(horizon)`. Or (pairs, vocab), of the
            queries alone.
    """
    rows = torch.arange(len(pairs), device=logits.device)
    at_query = logits[rows, pairs.at] if logits.ndim == 3 else logits  # (pairs, vocab)
    return at_query[rows, pairs.right] - at_query[rows, pairs.wrong]


def gather(draw: Callable[[], dict[str, np.ndarray]], count: int, names: tuple[str, ...]) -> Pairs:
    """`count` pairs from as many draws as it takes; rows end with their query.

    Args:
        draw: clean, corrupt and roles, (drawn, width), and at, right and wrong, (drawn,), of some further pairs, as in
            `Pairs`; what stands behind a query does not count.

    Raises:
        ValueError: for fewer than one pair.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1 pair")
    found: list[dict[str, np.ndarray]] = []
    while sum(len(part["at"]) for part in found) < count:
        found.append(draw())
    joined = {name: np.concatenate([part[name] for part in found])[:count] for name in found[0]}
    place = np.arange(joined["at"].max() + 1)
    read = place <= joined["at"][:, None]  # (pairs, seq)
    for name, padding in (("clean", 0), ("corrupt", 0), ("roles", NO_VALUE)):
        joined[name] = np.where(read, joined[name][:, : len(place)], padding)
    joined["documents"] = np.where(read, 0, PADDING)
    return Pairs(**{name: torch.from_numpy(values).long() for name, values in joined.items()}, names=names)
