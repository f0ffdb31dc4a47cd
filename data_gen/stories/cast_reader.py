"""What a reader who knows the pools of names expects of names that are yet to come, however far off.

`names.draw_cast` prices each piece of a name given all pieces drawn before it. Here any may be unread: names of
characters in between, and a first piece on the way to its second. They are summed out, exactly.
"""

import numpy as np

from data_gen.stories.names import Pool

Told = tuple[tuple[int, ...], ...]
"""What has been told of each character's name: (), its first piece, or both. Later characters may be left out."""


class CastReader:
    """Chances of pieces of names, given any that have been told.

    Args:
        pool, fresh, fresh_share, shared_first: as `names.draw_cast` takes them.
    """

    def __init__(self, pool: Pool, fresh: Pool, fresh_share: float = 0.0, shared_first: float = 0.0):
        self.first_pieces, self.second_pieces = pool.members.shape
        self._shared = shared_first
        sources = ((pool, 1 - fresh_share), (fresh, fresh_share))
        self._sources = [(source, share) for source, share in sources if share > 0]

    def expected(self, told: Told, character: int, second: bool) -> np.ndarray:
        """Chances of a piece that has not been told: a character's first, or its second.

        Returns:
            (first_pieces,) or (second_pieces,), which sum to 1.

        Raises:
            ValueError: for a piece that has been told, and for names that no story has.
        """
        last = max([character, *(i for i, name in enumerate(told) if name)])  # those after it tell nothing
        told = (*told, *((),) * (last + 1 - len(told)))[: last + 1]
        if len(told[character]) > second:
            raise ValueError(f"character {character}'s piece {int(second)} is told: {told[character]}; ask for another")
        chances = sum(share * self._joint(source, told, character, second) for source, share in self._sources)
        if not chances.sum():
            raise ValueError(f"no story has the names {told}; use the pools that they were drawn from")
        return chances / chances.sum()

    def _joint(self, source: Pool, told: Told, character: int, second: bool) -> np.ndarray:
        """Chances of all that has been told and of each value of a piece, if names come from this source."""
        chance, left = 1.0, source.members.copy()  # (first, second) names that no character is told to have
        for name in told:
            if len(name) == 2:  # a first piece, whose chance comes below, leaves the second even chances
                chance *= left[name] / max(left[name[0]].sum(), 1)
                left[name] = False
        firsts = chance * self._firsts(source, [name[0] if name else None for name in told], character)
        return firsts @ (left / np.maximum(left.sum(axis=1, keepdims=True), 1)) if second else firsts

    def _firsts(self, source: Pool, told: list[int | None], character: int) -> np.ndarray:
        """(first_pieces,) chances of the first pieces that have been told, and of each value of a character's."""
        every = np.arange(self.first_pieces)
        same = np.eye(self.first_pieces, dtype=bool)
        joint = np.ones(())  # an axis for each character whose first piece is unread
        free = np.ones(self.first_pieces, bool)  # (..., first_pieces) not begun with yet
        at = None  # the character's axis
        for i, first in enumerate(told):
            weight = free * source.counts
            chance = weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1)
            if i == 1:
                chance = (1 - self._shared) * chance + self._shared * (same if told[0] is None else same[told[0]])
            if i == character:
                at = joint.ndim
            if first is None:
                joint = joint[..., None] * chance  # (..., first_pieces)
                free = free[..., None, :] & ~same  # (..., first_pieces, first_pieces)
            else:
                joint, free = joint * chance[..., first], free & (every != first)
        if told[character] is not None:
            return joint.sum() * same[told[character]]
        return joint.sum(axis=tuple(axis for axis in range(joint.ndim) if axis != at))
