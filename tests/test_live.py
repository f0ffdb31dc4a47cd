"""Text in a terminal as it is generated."""

import io
import re

import pytest
import torch

from mtp_lab.decode import generate
from mtp_lab.live import Live, summary, tokens_of
from mtp_lab.model import MTPTransformer
from mtp_lab.tasks import BytesTask, ChoiceProcessTask

PROMPT = list(b"ab")


@pytest.fixture
def model(three_heads) -> MTPTransformer:
    return three_heads


def letters(tokens) -> list[str]:
    return [f"<{token}>" for token in tokens]


@pytest.mark.parametrize("coloured", [False, True])
def test_what_is_printed_is_the_text(model, coloured):
    """Without the signs between, what is printed is the prompt and the tokens; a sign for each forward, or each draft.
    Catches: tokens printed twice, a colour that does not end."""
    out = io.StringIO()
    live = Live(letters, PROMPT, coloured, out)
    told = generate(model, [PROMPT], 20, draft=3, stream=live)
    said = out.getvalue()
    assert re.sub(r"\033\[[\d;]*m|\|", "", said) == "".join(letters(PROMPT + told.tokens[0].tolist()))
    drafts = int((told.heads > 1).sum())
    if coloured:
        assert said.count("\033[0m") == said.count("\033[48") and said.count("\033[0m") >= drafts
    else:
        assert said.count("|") == int(told.forwards)
    assert "\033" in live.legend(3) if coloured else live.legend(3) == "each | ends a forward"


def test_the_summary_says_what_was_measured(model):
    """Tokens, forwards and their ratio of both ways of decoding, and whether the text is the same."""
    told, plain = (generate(model, [PROMPT], 20, draft=k) for k in (3, 1))
    lines = summary(told, plain)
    assert lines[1].split()[:4] == ["3", "20", str(int(told.forwards)), f"{told.tokens_per_forward:.2f}"]
    assert lines[2].split()[:4] == ["1", "20", "20", "1.00"]
    assert "times as fast; the same tokens" in lines[3]
    assert f"2: {told.accepted_by_head[1]:.0%}" in lines[4]
    other = generate(model, [PROMPT], 20, draft=1, temperature=2.0, generator=torch.Generator().manual_seed(0))
    assert "other tokens (sampled anew)" in summary(told, other)[3]
    assert len(summary(generate(model, [PROMPT], 1))) == 2  # the prompt's forward was enough: no shares


def test_prompts_become_tokens(corpus):
    """Bytes of a text, words of another task; what is unknown is named with what is known."""
    task = BytesTask(paths=(corpus,))
    assert tokens_of(task, "é") == [0xC3, 0xA9] and tokens_of(task, "") == [256]
    choice = ChoiceProcessTask()
    words = choice.words([0, 1, 2])
    assert tokens_of(choice, f" {words[2]}  {words[0]}") == [2, 0]
    with pytest.raises(ValueError, match="'nonsense' is no token of the task choice_process; it knows"):
        tokens_of(choice, f"{words[0]} nonsense")
    with pytest.raises(ValueError, match="prompt is empty; name tokens of the task choice_process"):
        tokens_of(choice, " ")
