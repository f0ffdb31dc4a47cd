"""The probabilities of pieces of names that a reader has not seen, for a reader who knows the pools.

`names.draw_cast` gives the probability of each piece given all pieces drawn before it. Here, any of these may be
unknown: names of other characters, and the first piece when the second is predicted. They are summed out exactly.
"""

import numpy as np

from data_gen.stories.names import Pool

KnownNames = tuple[tuple[int, ...], ...]
"""The known pieces of each character's name: (), the first piece, or both. Later characters may be left out."""


class CastReader:
    """Probabilities of pieces of names, given any other pieces.

    Args:
        pool, fresh, fresh_share, shared_first: as in `names.draw_cast`.
    """

    def __init__(self, pool: Pool, fresh: Pool, fresh_share: float = 0.0, shared_first: float = 0.0):
        self.first_pieces, self.second_pieces = pool.members.shape
        self._shared = shared_first
        sources = ((pool, 1 - fresh_share), (fresh, fresh_share))
        self._sources = [(source, share) for source, share in sources if share > 0]

    def expected(self, known: KnownNames, character: int, second: bool) -> np.ndarray:
        """Probabilities of an unknown piece: a character's first piece, or its second.

        Returns:
            (first_pieces,) or (second_pieces,), with sum 1.

        Raises:
            ValueError: for a piece that is known, and for names that no story has.
        """
        # characters after the last one that matters are independent of the piece, so they are left out
        last = max([character, *(i for i, name in enumerate(known) if name)])
        known = (*known, *((),) * (last + 1 - len(known)))[: last + 1]
        if len(known[character]) > second:
            raise ValueError(
                f"piece {int(second)} of character {character} is known: {known[character]}; choose an unknown piece"
            )
        joint = sum(share * self._joint(source, known, character, second) for source, share in self._sources)
        if not joint.sum():
            raise ValueError(f"no story has the names {known}; use the pools that they were drawn from")
        return joint / joint.sum()

    def _joint(self, source: Pool, known: KnownNames, character: int, second: bool) -> np.ndarray:
        """Joint probabilities of all known pieces and each value of the unknown one, if names come from this source."""
        probability, left = 1.0, source.members.copy()  # (first, second) names that no character is known to have
        for name in known:
            if len(name) == 2:  # given its first piece (see below), all second pieces that are left are equally likely
                probability *= left[name] / max(left[name[0]].sum(), 1)
                left[name] = False
        firsts = probability * self._firsts(source, [name[0] if name else None for name in known], character)
        return firsts @ (left / np.maximum(left.sum(axis=1, keepdims=True), 1)) if second else firsts

    def _firsts(self, source: Pool, known: list[int | None], character: int) -> np.ndarray:
        """(first_pieces,) joint probabilities of the known first pieces and each value of a character's first piece."""
        pieces = np.arange(self.first_pieces)
        same = np.eye(self.first_pieces, dtype=bool)
        joint = np.ones(())  # one axis for each character so far whose first piece is unknown
        unused = np.ones(self.first_pieces, bool)  # (..., first_pieces) no earlier name has this first piece
        character_axis = None
        for i, first in enumerate(known):
            weight = unused * source.counts
            probability = weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1)
            if i == 1:
                repeated = same if known[0] is None else same[known[0]]
                probability = (1 - self._shared) * probability + self._shared * repeated
            if i == character:
                character_axis = joint.ndim
            if first is None:
                joint = joint[..., None] * probability  # (..., first_pieces)
                unused = unused[..., None, :] & ~same  # (..., first_pieces, first_pieces)
            else:
                joint, unused = joint * probability[..., first], unused & (pieces != first)
        if known[character] is not None:
            return joint.sum() * same[known[character]]
        return joint.sum(axis=tuple(axis for axis in range(joint.ndim) if axis != character_axis))
