"""Attention scores are 1 in the handwritten circuit, and equal a loop over single positions elsewhere."""

import numpy as np
import pandas as pd
import pytest
import torch

from data_gen import Batch
from mtp_lab.config import ModelConfig
from mtp_lab.interp import attention
from mtp_lab.interp.attention import attention_scores, copying_scores, name_attention
from mtp_lab.interp.handmade import DUPLICATE, INDUCTION, PREVIOUS, SECOND_PREVIOUS, repeated_tokens
from mtp_lab.interp.hooks import attention_layers
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import StoriesTask

COLUMNS = ["layer", "head", "ahead", "score"]


def value(table: pd.DataFrame, *place: object) -> float:
    """The one value of a layer, head, ahead, score."""
    return float(table.set_index(COLUMNS).value.loc[place])


def high(table: pd.DataFrame, score: str, ahead: int, above: float = 0.9) -> set[tuple[str, int]]:
    found = table[(table.score == score) & (table.ahead == ahead) & (table.value > above)]
    return set(zip(found.layer, found["head"], strict=True))


def random_model(vocab_size: int = 13, max_seq: int = 32, **changes: object) -> MTPTransformer:
    torch.manual_seed(0)
    config = dict(d_model=16, n_attention_heads=2, trunk_layers=1, n_future=2, max_seq=max_seq)
    model = MTPTransformer(ModelConfig(vocab_size=vocab_size, **{**config, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


# --- repeated tokens -------------------------------------------------------------------------------------------


def test_scores_find_the_heads_that_were_written_down(handmade):
    """Each score is near 1 for the attention heads that do it and for no other; head 2's looks two tokens on."""
    tokens = repeated_tokens(handmade, 10, 20, torch.Generator().manual_seed(0))
    table = attention_scores(handmade, tokens)
    assert list(table.columns) == [*COLUMNS, "value"]
    assert len(table) == 3 * 4 * 4  # layers, heads, scores
    assert high(table, "previous_token", 0) == {("blocks.0", PREVIOUS)}
    assert high(table, "duplicate_token", 0) == {("blocks.0", DUPLICATE)}
    assert high(table, "prefix_matching", 1) == {("heads.1", INDUCTION)}
    assert high(table, "prefix_matching", 2) == {("heads.2", INDUCTION)}
    rest = table[table.value < 0.9]
    assert rest.value.max() < 0.2
    assert value(table, "blocks.0", SECOND_PREVIOUS, 0, "previous_token") < 0.1


@pytest.mark.parametrize("packed", [False, True])
def test_scores_are_those_of_a_loop(monkeypatch, packed):
    """Off by one in a shift, another document's copies, padding, and means over chunks of unequal size would differ."""
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", 2)
    model = random_model()
    tokens = torch.randint(0, 13, (5, 20), generator=torch.Generator().manual_seed(0))
    tokens[0, 18] = tokens[0, 19]  # two positions after the copy the row has ended
    documents = torch.tensor([0] * 6 + [1] * 11 + [-1] * 3).expand(5, -1) if packed else None
    _, cache = model.run_with_cache(tokens, documents, all_heads=True)
    patterns = {layer_name: cache[f"{layer_name}.attn.hook_pattern"].numpy() for layer_name in attention_layers(model)}
    owner = (torch.zeros_like(tokens) if documents is None else documents).tolist()
    looks = {
        ("previous_token", 0): lambda row, t, k: k == t - 1,
        ("duplicate_token", 0): lambda row, t, k: row[k] == row[t],
        ("prefix_matching", 1): lambda row, t, k: row[k - 1] == row[t] and k >= 1,
        ("prefix_matching", 2): lambda row, t, k: row[k - 2] == row[t] and k >= 2,
    }
    table = attention_scores(model, tokens, documents)
    for layer_name in patterns:
        for (score, ahead), look in looks.items():
            for head in range(2):
                masses = []
                for r, row in enumerate(tokens.tolist()):
                    for t in range(20):
                        ours = [owner[r][j] == owner[r][t] >= 0 for j in range(20)]
                        keys = [k for k in range(t) if ours[k] and ours[k - ahead] and look(row, t, k)]
                        if keys:
                            masses.append(patterns[layer_name][r, head, t, keys].sum())
                assert value(table, layer_name, head, ahead, score) == pytest.approx(np.mean(masses), abs=1e-6)


def test_rows_without_repeats_have_no_score():
    """0 would read as a head that does not look, where nothing was to be looked at."""
    table = attention_scores(random_model(), torch.arange(12)[None])
    assert table[table.score != "previous_token"].value.isna().all()
    assert table[table.score == "previous_token"].value.notna().all()


def test_linear_heads_have_no_attention():
    model = random_model(head_kind="linear")
    assert list(attention_layers(model)) == ["blocks.0"]
    assert set(attention_scores(model, torch.randint(0, 13, (1, 9))).layer) == {"blocks.0"}


# --- names in stories ------------------------------------------------------------------------------------------


def test_names_in_stories_are_looked_up_where_they_stand(handmade):
    """. Ann a met Bob b , Ann a: at the second Ann head 1 looks at the first a; from the comma nothing leads there."""
    ann, a, met, bob, b, comma = range(1, 7)
    tokens = np.array([[0, ann, a, met, bob, b, comma, ann, a]], np.int32)
    who = np.array([[-1, 0, 0, -1, 1, 1, -1, 0, 0]], np.float32)
    first, second = np.isin(tokens, (ann, bob)), np.isin(tokens, (a, b))
    induction = np.array([[False] * 8 + [True]])
    labels = {"entity": who, "first_piece": first, "second_piece": second, "induction": induction}
    table = name_attention(handmade, Batch(tokens, np.zeros_like(tokens), labels))
    assert high(table, "right", 1) == {("heads.1", INDUCTION)}
    assert high(table, "first_piece", 1) == {("blocks.0", DUPLICATE)}
    assert high(table, "wrong", 1) == {("blocks.0", SECOND_PREVIOUS)}  # b stands two before the second Ann
    assert high(table, "right", 2) == set()
    objects = {**labels, "entity": np.where(who >= 0, who + 4, who)}
    with pytest.raises(ValueError, match="none of the 1 rows mentions a character's name twice"):
        name_attention(handmade, Batch(tokens, np.zeros_like(tokens), objects))


def test_head_two_finds_the_second_piece_where_the_way_to_the_name_repeats(handmade):
    """. then Ann a ... then Ann a: at the second "then", head 2 attends to the token two after the first one: a."""
    then, ann, a = 5, 1, 2
    tokens = np.array([[0, then, ann, a, 9, 8, then, ann, a]], np.int32)
    labels = {
        "entity": np.where(np.isin(tokens, (ann, a)), 0, -1).astype(np.float32),
        "first_piece": tokens == ann,
        "second_piece": tokens == a,
        "induction": np.array([[False] * 8 + [True]]),
    }
    table = name_attention(handmade, Batch(tokens, np.zeros_like(tokens), labels))
    assert high(table, "right", 2) == {("heads.2", INDUCTION)}
    assert high(table, "right", 1) == {("heads.1", INDUCTION)}


def test_name_attention_is_that_of_a_loop(monkeypatch):
    """On real stories: other stories of the row, objects, later mentions and the query itself must not count."""
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", 2)
    task = StoriesTask()
    batch = task.held_out("validation", 3)
    model = random_model(task.vocab_size, task.seq)
    tokens, documents = (torch.from_numpy(x).long() for x in (batch.tokens, batch.documents))
    _, cache = model.run_with_cache(tokens, documents, all_heads=True)
    patterns = np.stack([cache[f"{layer_name}.attn.hook_pattern"] for layer_name in attention_layers(model)])
    labels = {name: batch.labels[name].tolist() for name in attention.NAME_LABELS}
    masses = {(ahead, score): [] for ahead in (1, 2) for score in ("right", "wrong", "first_piece")}
    for r in range(3):
        who, first, second = labels["entity"][r], labels["first_piece"][r], labels["second_piece"][r]
        for t in range(batch.seq):
            if not (labels["induction"][r][t] and 0 <= who[t] < 4):
                continue
            for ahead in (1, 2):
                keys = [k for k in range(t - ahead) if batch.documents[r, k] == batch.documents[r, t]]
                kinds = {
                    "right": [k for k in keys if second[k] and who[k] == who[t]],
                    "wrong": [k for k in keys if second[k] and 0 <= who[k] < 4 and who[k] != who[t]],
                    "first_piece": [k for k in keys if first[k] and who[k] == who[t]],
                }
                for score, chosen in kinds.items():
                    masses[ahead, score].append(patterns[:, r][:, :, t - ahead][..., chosen].sum(-1))  # (layers, heads)
    table = name_attention(model, batch)
    assert len(masses[1, "right"]) > 20
    for (ahead, score), each in masses.items():
        found = table[(table.score == score) & (table.ahead == ahead)].value.to_numpy()
        np.testing.assert_allclose(found, np.mean(each, axis=0).flatten(), atol=1e-6)
        assert found.min() > 0


def test_a_query_in_another_story_does_not_count():
    """Four tokens before a name early in a story is a token of another story, which does not mention it."""
    tokens = np.array([[9, 9, 9, 9, 1, 2, 1, 2]], np.int32)
    documents = np.array([[0, 0, 0, 0, 1, 1, 1, 1]], np.int32)
    labels = {
        "entity": np.where(tokens == 9, -1, 0).astype(np.float32),
        "first_piece": tokens == 1,
        "second_piece": tokens == 2,
        "induction": np.array([[False] * 7 + [True]]),
    }
    table = name_attention(random_model(n_future=4), Batch(tokens, documents, labels))
    assert table[table.ahead == 4].value.isna().all()
    assert table[table.ahead < 4].value.notna().all()


def test_name_attention_needs_the_labels_of_stories(handmade):
    tokens = np.zeros((1, 4), np.int32)
    with pytest.raises(ValueError, match="no token label entity, induction, first_piece, second_piece"):
        name_attention(handmade, Batch(tokens, tokens))


# --- copying ---------------------------------------------------------------------------------------------------


def test_copying_finds_the_heads_that_copy(handmade):
    """Both induction heads write what they attend to into the prediction; the trunk's write nothing to the logits."""
    table = copying_scores(handmade)
    for score in ("copying_top", "copying_eigenvalues"):
        assert high(table, score, 0, above=0.999) == {("heads.1", INDUCTION), ("heads.2", INDUCTION)}
        assert (table[table.value < 0.999].value == 0).all()


def test_copying_is_that_of_the_whole_circuit(monkeypatch):
    """Against the (vocab, vocab) matrix itself: a transposed or misplaced head would have other eigenvalues."""
    monkeypatch.setattr(attention, "TOKENS_AT_ONCE", 5)
    model = random_model()
    table = copying_scores(model)
    for layer_name, layer in attention_layers(model).items():
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            value_weight, output = layer.qkv.weight[32:][part], layer.out.weight[:, part]
            effect = model.unembed.weight @ output @ value_weight @ model.embed.weight.T  # (logits, attended)
            values = torch.linalg.eigvals(effect.detach().double())
            top = np.mean([int(effect[:, token].argmax()) == token for token in range(13)])
            assert value(table, layer_name, head, 0, "copying_top") == pytest.approx(top)
            positive = float(values.real.sum() / values.abs().sum())
            assert value(table, layer_name, head, 0, "copying_eigenvalues") == pytest.approx(positive, abs=1e-4)
            assert not np.isnan(positive)


def test_anti_copying_is_negative():
    """An attention head that lowers the token it attends to must not pass for one that copies."""
    model = random_model(vocab_size=8, d_model=8, n_attention_heads=1)
    with torch.no_grad():
        for weight in (model.embed.weight, model.unembed.weight, model.blocks[0].attn.out.weight):
            weight.copy_(torch.eye(8))
        model.blocks[0].attn.qkv.weight[16:].copy_(-torch.eye(8))
    assert value(copying_scores(model), "blocks.0", 0, 0, "copying_eigenvalues") == pytest.approx(-1)
    assert value(copying_scores(model), "blocks.0", 0, 0, "copying_top") == 0


def test_rows_shorter_than_the_furthest_head_have_scores():
    """Against the same tokens with one more after them. Catches: an index beyond the row."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=9, d_model=16, n_attention_heads=2, trunk_layers=1, n_layers=5, n_future=4)
    table = attention_scores(MTPTransformer(ModelConfig(**sizes)), torch.tensor([[1, 2, 1]]))
    missing = table.query("score == 'prefix_matching' and ahead > 1").value
    assert missing.isna().all() and table.query("ahead < 2").value.notna().all()
