"""TransformerLens's tools see a head's path as one stack, and what they patch is what the model computes with."""

import pytest
import torch
from transformer_lens import patching
from transformer_lens.head_detector import detect_head

from mtp_lab.config import ModelConfig
from mtp_lab.interp.adapter import Stack
from mtp_lab.interp.handmade import DUPLICATE, INDUCTION, PREVIOUS, SECOND_PREVIOUS, induction_model
from mtp_lab.model.transformer import MTPTransformer

CLEAN, CORRUPTED = torch.tensor([[0, 5, 7, 3, 5]]), torch.tensor([[0, 6, 7, 3, 5]])  # 5 7 3 5: 7, then 3
STACKS = {
    ("parallel", 3): ("blocks.0", "blocks.1", "heads.3"),
    ("causal", 3): ("blocks.0", "blocks.1", "heads.1", "heads.2", "heads.3"),
    ("anticausal", 1): ("blocks.0", "blocks.1", "heads.3", "heads.2", "heads.1"),
    ("anticausal", 2): ("blocks.0", "blocks.1", "heads.3", "heads.2"),
    ("sequential", 2): ("blocks.0", "blocks.1", "heads.1", "heads.2"),
    ("linear", 2): ("blocks.0", "blocks.1"),
}


def random_model(head_kind: str = "parallel") -> MTPTransformer:
    """Two trunk layers and three heads with MLPs, weights large enough for every part to matter."""
    torch.manual_seed(0)
    model = MTPTransformer(
        ModelConfig(
            vocab_size=11,
            d_model=16,
            n_attention_heads=2,
            trunk_layers=2,
            n_future=3,
            max_seq=16,
            head_kind=head_kind,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.mark.parametrize(("kind", "horizon"), STACKS)
def test_logits_are_those_of_the_horizon(kind, horizon):
    """A stack that left out a head of the chain, or ran them in another order, would predict something else."""
    model = random_model(kind)
    tokens = torch.randint(0, 11, (2, 9))
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2, 3, 3, -1]])
    stack = Stack(model, horizon)
    assert stack.layer_names == STACKS[kind, horizon]
    assert stack.cfg.n_layers == len(stack.layer_names)
    for given in (None, documents):
        assert torch.equal(stack(tokens, given), model.all_logits(tokens, given)[horizon - 1])


@pytest.mark.parametrize(("kind", "horizon"), STACKS)
def test_every_layer_of_the_cache_is_the_layer_of_its_name(kind, horizon):
    """Layers named in another order would be scored and patched under each other's names."""
    model = random_model(kind)
    tokens = torch.randint(0, 11, (2, 9))
    stack = Stack(model, horizon)
    _, cache = stack.run_with_cache(tokens)
    _, own = model.run_with_cache(tokens, all_heads=True)
    for layer, name in enumerate(stack.layer_names):
        assert torch.equal(cache["resid_pre", layer], own[f"{name}.hook_resid_pre"])
        assert torch.equal(cache["pattern", layer, "attn"], own[f"{name}.attn.hook_pattern"])
        assert torch.equal(cache["mlp_out", layer], own[f"{name}.hook_mlp_out"])
    assert torch.equal(cache["resid_post", -1], own[f"{stack.layer_names[-1]}.hook_resid_post"])
    assert f"{stack.layer_names[-1]}.hook_resid_post" in own  # making a stack must not rename the model's hook points


def test_weights_are_shared_and_hooks_are_not():
    """A stack of copied weights would go stale as training goes on; shared hooks would leak into the model's runs."""
    model = random_model()
    stack = Stack(model, 2)
    tokens = torch.randint(0, 11, (1, 9))
    before = model.all_logits(tokens)
    with stack.hooks(fwd_hooks=[("blocks.2.hook_attn_out", lambda x, hook: 0 * x)]):
        assert not torch.allclose(stack(tokens), before[1])
        assert torch.equal(model.all_logits(tokens), before)
    with torch.no_grad():
        model.heads["2"].attn.out.weight.mul_(2)
    assert not torch.allclose(stack(tokens), before[1])
    assert torch.equal(stack(tokens), model.all_logits(tokens)[1])
    model.train()
    assert not any(module.training for module in stack.modules())  # patching refuses a model in training mode


def test_detect_head_finds_the_heads_that_were_written_down():
    """TransformerLens's own scores, on four tokens sixty times over: these three attention heads and no others."""
    model = induction_model(max_seq=256)
    row = torch.cat((torch.tensor([0]), torch.tensor([4, 9, 2, 17]).repeat(60)))
    for horizon, induction in ((1, INDUCTION), (2, None)):
        stack = Stack(model, horizon)
        expected = {"previous_token_head": (0, PREVIOUS), "duplicate_token_head": (0, DUPLICATE)}
        expected["induction_head"] = None if induction is None else (1, induction)
        for name, place in expected.items():
            scores = detect_head(stack, row, name, exclude_bos=True)  # (2 layers, 4 heads)
            if place is not None:
                assert scores[place] > 0.98
                scores[place] = 0
            assert scores.max() < 0.3


def test_detect_head_averages_over_rows_and_takes_text():
    """Rows are a list of tensors; text needs an encoder, and without one the refusal says so."""
    model = induction_model()
    rows = torch.tensor([[0, 4, 9, 2, 4, 9, 2], [0, 3, 8, 5, 3, 8, 5]])
    stack = Stack(model, encode=lambda text: [ord(c) - ord("a") for c in text])
    both = detect_head(stack, list(rows), "duplicate_token_head")
    each = torch.stack([detect_head(stack, row, "duplicate_token_head") for row in rows])
    assert torch.allclose(both, each.mean(0))
    assert stack.to_tokens("ac").tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="ids.*got str; for text give Stack.*encode"):
        Stack(model).to_tokens("ac")
    with pytest.raises(ValueError, match=r"got lengths \[2, 3\]"):
        stack.to_tokens(["ac", "acb"])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2\)"):
        stack.to_tokens(torch.zeros(1, 1, 2))


@pytest.mark.parametrize("horizon", [1, 2])
def test_patching_finds_the_circuit_and_nothing_else(handmade, horizon):
    """The clean row says 5 7 3 5, so 7 and 3 follow; in the corrupted one the first 5 is a 6, and nothing is known.

    What has to be put back is the 5, the mover that tells its neighbour of it, that neighbour, and the induction.
    """
    stack, answer, mover = Stack(handmade, horizon), (7, 3)[horizon - 1], (PREVIOUS, SECOND_PREVIOUS)[horizon - 1]

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1].softmax(-1)[answer]

    with torch.no_grad():
        clean_logits, clean = stack.run_with_cache(CLEAN)
        assert metric(clean_logits) > 0.99
        found = {
            "resid_pre": patching.get_act_patch_resid_pre(stack, CORRUPTED, clean, metric),  # (layers, seq)
            "attn_out": patching.get_act_patch_attn_out(stack, CORRUPTED, clean, metric),  # (layers, seq)
            "z": patching.get_act_patch_attn_head_out_all_pos(stack, CORRUPTED, clean, metric),  # (layers, heads)
            "v": patching.get_act_patch_attn_head_v_all_pos(stack, CORRUPTED, clean, metric),
            "pattern": patching.get_act_patch_attn_head_pattern_all_pos(stack, CORRUPTED, clean, metric),
        }
    neighbour = 1 + horizon
    restores = {
        "resid_pre": {(0, 1), (1, neighbour)},
        "attn_out": {(0, neighbour), (1, 4)},
        "z": {(0, mover), (1, INDUCTION)},
        "v": {(0, mover)},  # the induction head moves the token it attends to, which is the same in both rows
        "pattern": {(1, INDUCTION)},  # what the mover attends to does not depend on tokens
    }
    for name, table in found.items():
        right = {tuple(cell) for cell in (table > 0.99).nonzero().tolist()}
        assert right == restores[name], name
        assert (table < 0.6).sum() + len(right) == table.numel(), name


def test_patching_resid_mid_changes_the_skip_path_as_well():
    """The state between attention and MLP goes into the MLP and past it: both must see what was put there."""
    model = random_model()
    stack, last = Stack(model, 2), model.heads["2"]
    generator = torch.Generator().manual_seed(1)
    clean_tokens, corrupted = torch.randint(0, 11, (2, 2, 9), generator=generator)
    with torch.no_grad():
        clean_logits, clean = stack.run_with_cache(clean_tokens)
        _, other = stack.run_with_cache(corrupted)

        def put(x: torch.Tensor, hook: object) -> torch.Tensor:
            return clean["resid_mid", 2]

        patched = stack.run_with_hooks(corrupted, fwd_hooks=[("blocks.2.hook_resid_mid", put)])
        assert torch.equal(patched, clean_logits)
        mean = patching.get_act_patch_resid_mid(stack, corrupted, clean, lambda logits: logits[:, :, 3].mean())
        for at in range(9):
            mid = other["resid_mid", 2].clone()
            mid[:, at] = clean["resid_mid", 2][:, at]
            logits = model.unembedded(mid + last.mlp(last.norm(mid)))
            assert torch.allclose(mean[2, at], logits[:, :, 3].mean(), atol=1e-6)


def test_refuses_a_horizon_the_model_has_not(handmade):
    with pytest.raises(ValueError, match="horizon=3 must be from 1 to n_future=2"):
        Stack(handmade, 3)
