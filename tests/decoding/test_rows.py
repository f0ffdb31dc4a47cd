"""Bookkeeping of rows: after rows have moved, each still has its own prompt, text and caches."""

import pytest
import torch

from mtp_lab.decoding.rows import Rows

PROMPTS = [[10], [20, 21], [30, 31, 32], [40], [50, 51]]


@pytest.mark.parametrize("finished", [[], [4], [0], [1, 3], [0, 2, 3], [3, 4], [0, 1, 2, 3, 4]], ids=str)
def test_rows_that_remain_move_with_everything_that_is_theirs(finished):
    """Text, lengths and caches move together, and the finished rows' tokens are stored under their prompts' numbers.
    Catches: the last row moved into two places, a moved row that is itself finished, a cache that does not move."""
    rows = Rows(PROMPTS, 2, (), draft=3, device=torch.device("cpu"))
    cache = torch.arange(5.0).repeat_interleave(rows.capacity)  # a value for each slot: the number of the prompt
    rows.move_along(cache.view(5, rows.capacity))
    rows.accept(torch.zeros(5, dtype=torch.long), torch.arange(5) + 100)
    is_finished = torch.zeros(5, dtype=torch.bool)
    is_finished[finished] = True
    old_places = rows.remove_finished(torch.ones(5, dtype=torch.long), is_finished)
    assert sorted(rows.prompt_of) == [i for i in range(5) if i not in finished] and len(rows) == 5 - len(finished)
    assert old_places.tolist() == rows.prompt_of
    for place, prompt in enumerate(rows.prompt_of):
        assert rows.lengths[place] == rows.prompt_lengths[place] == len(PROMPTS[prompt])
        start = place * rows.capacity
        text = rows.text[start : start + len(PROMPTS[prompt]) + 1].tolist()
        assert text == [*PROMPTS[prompt], 100 + prompt] and rows.new_text(place, 0, 1) == [100 + prompt]
        assert (cache[start : start + rows.capacity] == prompt).all()
    assert rows.new_tokens == [[100 + i] if i in finished else [] for i in range(5)]


def test_a_stop_token_counts_only_among_accepted_tokens():
    """A stop token among rejected drafts does not end a row; tokens after an accepted one do not count.
    Catches: old drafts read as text, a stop token of the prompt that ends the row."""
    rows = Rows([[7], [1], [1]], 9, (7,), draft=3, device=torch.device("cpu"))
    rows.accept(torch.zeros(3, dtype=torch.long), torch.tensor([1, 2, 3]))
    rows.write(2, torch.tensor([[4, 4, 7], [7, 5, 5]]))  # two drafts of each row
    n_accepted = torch.tensor([0, 2, 2])
    rows.accept(n_accepted, torch.tensor([6, 6, 6]))
    counts, finished = rows.count_new(n_accepted)
    assert finished.tolist() == [False, False, True] and counts.tolist() == [2, 4, 2]
    assert [rows.new_text(place, 0, n) for place, n in enumerate(counts.tolist())] == [[1, 6], [2, 4, 5, 6], [3, 7]]
