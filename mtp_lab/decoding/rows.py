"""The rows of one generation: their text, how far it is accepted and read, and where they lie in the caches.

A generation starts with one row for each prompt. Rows end at different times, so the batch shrinks: when a row is
finished, the last row moves into its place. All bookkeeping of places and positions is here. What is accepted is
decided in `speculative_sampling`, and keys and values are computed in `fused_layers`.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor


class Rows:
    """Unfinished rows, and the new tokens of finished ones.

    The unfinished rows are in the first places, in any order. Each place has `capacity` slots, one for each position.
    The text of a row is its prompt, the accepted tokens, and then the drafts, which are overwritten if rejected.

    Args:
        prompts: token ids, one sequence for each row.
        max_new_tokens: limit of the new tokens of a row.
        stop: token ids that finish a row.
        draft: number of heads used: a forward pass reads the last accepted token and draft - 1 drafts.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Collection[int],
        draft: int,
        device: torch.device,
    ) -> None:
        self.places, self.max_new_tokens = len(prompts), max_new_tokens
        self.capacity = max(map(len, prompts)) + max_new_tokens + draft
        self.prompt_of = list(range(self.places))  # of each place: the number of the prompt that it continues
        self.prompt_lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)  # (unfinished,)
        # (unfinished,) tokens that are accepted and read. One more is accepted: it is read in the next forward pass
        self.lengths = self.prompt_lengths - 1
        self.new_tokens: list[list[int]] = [[] for _ in prompts]  # of each prompt, once its row is finished
        self.stop, self.steps = torch.tensor(sorted(stop), device=device), torch.arange(draft, device=device)
        self.first_slots = torch.arange(self.places, device=device)[:, None] * self.capacity  # (places, 1)
        self._by_place: list[Tensor] = []
        self.text = torch.zeros(self.places * self.capacity, dtype=torch.long, device=device)
        self.move_along(self.text.view(self.places, self.capacity))
        for place, prompt in enumerate(prompts):
            start = place * self.capacity
            self.text[start : start + len(prompt)] = torch.tensor(prompt)

    def __len__(self) -> int:
        """Number of unfinished rows."""
        return len(self.prompt_of)

    def move_along(self, by_place: Tensor) -> None:
        """Registers a view (places, ...) of a cache: its entries move with their rows."""
        self._by_place.append(by_place)

    def slots(self, positions: Tensor) -> Tensor:
        """Slots of (unfinished, seq) positions, same shape."""
        return self.first_slots[: len(positions)] + positions

    def unread(self) -> Tensor:
        """(unfinished, draft) positions of the last accepted token and the drafts after it."""
        return self.lengths[:, None] + self.steps

    def drafts(self, count: int) -> Tensor:
        """(unfinished, count) the first drafts of each row."""
        return self.text[self.slots(self.unread()[:, 1 : count + 1])]

    def write(self, horizon: int, tokens: Tensor) -> None:
        """Writes (count, unfinished) tokens of horizons horizon, horizon + 1, ... after the last position read."""
        first = self.slots(self.lengths[:, None]).squeeze(1) + horizon - 1  # (unfinished,) slots
        self.text[first + self.steps[: len(tokens), None]] = tokens

    def accept(self, n_accepted: Tensor, token: Tensor) -> None:
        """Accepts the first `n_accepted` drafts of each row and writes `token` after them: (unfinished,) both."""
        self.lengths = self.lengths + n_accepted + 1
        self.write(1, token[None])

    def count_new(self, n_accepted: Tensor) -> tuple[Tensor, Tensor]:
        """New tokens of each row, up to the limit or the first stop token, and whether the row is finished with them.

        Args:
            n_accepted: (unfinished,) drafts accepted last; only these and the token after them can be stop tokens.
        """
        counts = self.lengths + 1 - self.prompt_lengths
        finished = counts >= self.max_new_tokens
        if len(self.stop):
            positions = (self.lengths - n_accepted)[:, None] + self.steps  # (unfinished, draft)
            is_stop = torch.isin(self.text[self.slots(positions)], self.stop) & (positions <= self.lengths[:, None])
            first_stop = torch.where(is_stop, positions, torch.iinfo(torch.long).max).amin(dim=1)
            counts = torch.minimum(counts, first_stop + 1 - self.prompt_lengths)
            finished = finished | is_stop.any(dim=1)
        return counts.clamp(max=self.max_new_tokens), finished

    def new_text(self, place: int, start: int, end: int) -> list[int]:
        """New tokens start..end of a row, counted from the end of its prompt."""
        first = place * self.capacity + int(self.prompt_lengths[place])
        return self.text[first + start : first + end].tolist()

    def remove_finished(self, counts: Tensor, finished: Tensor) -> Tensor:
        """Stores the new tokens of finished rows and fills their places with the last rows.

        Args:
            counts, finished: as `count_new` returns them.

        Returns:
            (unfinished,) the old place of each row that remains, in the new order.
        """
        old_places = list(range(len(self)))
        for place in reversed(finished.nonzero().flatten().tolist()):
            self.new_tokens[self.prompt_of[place]] = self.new_text(place, 0, int(counts[place]))
            last = old_places.pop()
            if place < len(old_places):
                old_places[place] = last
        filled = [place for place, old_place in enumerate(old_places) if place != old_place]
        if filled:
            for by_place in self._by_place:
                by_place[filled] = by_place[[old_places[place] for place in filled]]
        self.prompt_of = [self.prompt_of[place] for place in old_places]
        remaining = torch.tensor(old_places, dtype=torch.long, device=self.lengths.device)
        self.lengths, self.prompt_lengths = self.lengths[remaining], self.prompt_lengths[remaining]
        return remaining
