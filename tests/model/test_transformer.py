"""The model: every test states a property and the bug it would catch. All of it in fp64, on models of width 16."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtp_lab.config import ModelConfig
from mtp_lab.model import layers
from mtp_lab.model.layers import Attention
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.transformer import MTPTransformer

KINDS = ["parallel", "causal", "anticausal", "linear", "sequential"]
VARIANTS = {
    "rotary": {},
    "relative": dict(position="relative", relative_offsets=3),
    "smeared": dict(smeared_keys=True),
    "relative-smeared": dict(position="relative", relative_offsets=3, smeared_keys=True),
    "attention-only": dict(attention_only=True),
}
VOCAB, EXACT = 19, dict(rtol=0, atol=1e-10)

kinds = pytest.mark.parametrize("kind", KINDS)
variants = pytest.mark.parametrize("variant", VARIANTS)


def a_model(kind: str = "parallel", variant: str = "rotary", **changes) -> MTPTransformer:
    """Three horizons on a trunk of two layers, with weights so large that every path matters."""
    sizes = dict(vocab_size=VOCAB, d_model=16, n_attention_heads=2, n_layers=5, n_future=3, trunk_layers=2)
    config = ModelConfig(**{**sizes, "max_seq": 24, "head_kind": kind, **VARIANTS[variant], **changes})
    torch.manual_seed(0)
    model = MTPTransformer(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def some_tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[layers.QUERY_BLOCK, 4], ids=["one-block", "blocks-of-4"])
def query_block(request, monkeypatch) -> int:
    """Attention in one block of queries, and in several."""
    monkeypatch.setattr(layers, "QUERY_BLOCK", request.param)
    return request.param


# --- Causality and documents


@torch.no_grad()
@kinds
@variants
def test_no_logit_depends_on_a_later_token(kind, variant, query_block):
    """A model that attends to the future learns to copy it: the loss is very low, and generation is noise.

    A sequential head i reads token t+i-1 at position t, so it may change that much earlier.
    """
    model, tokens = a_model(kind, variant), some_tokens(1, 10)
    changed = (tokens.expand(10, 10) + torch.eye(10, dtype=torch.long)) % VOCAB  # row t: token t is another
    before = model.all_logits(tokens)
    torch.testing.assert_close(model(tokens), before[0], **EXACT)
    difference = (model.all_logits(changed) - before).abs().amax(dim=-1)  # (n, changed token, position)
    for horizon, t in itertools.product((1, 2, 3), range(10)):
        first = max(0, t - (horizon - 1)) if kind == "sequential" else t
        assert difference[horizon - 1, t, :first].sum() < 1e-12
        assert difference[horizon - 1, t, first] > 1e-6


def packed() -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
    """Two rows of documents and padding; and (row, start, end) of every document."""
    tokens = some_tokens(2, 14, seed=2)
    lengths = [[5, 1, 6], [3, 8, 3]]  # the first row ends in two tokens of padding
    documents, spans = torch.full((2, 14), -1), []
    for row, parts in enumerate(lengths):
        for k, (start, length) in enumerate(zip(itertools.accumulate([0, *parts]), parts, strict=False)):
            documents[row, start : start + length] = 10 * row + k
            spans.append((row, start, start + length))
    return tokens, documents, spans


@torch.no_grad()
@kinds
@variants
def test_a_packed_document_reads_as_if_it_were_alone(kind, variant, query_block):
    """With attention, smeared keys or positions from the document before, packing would change the loss.

    Positions whose horizon's target lies in the document; a sequential head reads tokens of the next one after that.
    """
    model, (tokens, documents, spans) = a_model(kind, variant), packed()
    together = model.all_logits(tokens, documents)
    torch.testing.assert_close(model(tokens, documents), together[0], **EXACT)
    for row, start, end in spans:
        alone = model.all_logits(tokens[row : row + 1, start:end])[:, 0]
        for i in (1, 2, 3):
            valid = end - start - i if kind == "sequential" else end - start
            if valid > 0:
                part = together[i - 1, row, start : start + valid]
                torch.testing.assert_close(part, alone[i - 1, :valid], **EXACT)


@torch.no_grad()
def test_documents_do_change_what_is_read():
    """If earlier tokens had no effect, the test above would pass even with documents ignored."""
    model, (tokens, documents, _) = a_model(), packed()
    assert (model(tokens) - model(tokens, documents)).abs().max() > 1e-3


@kinds
@pytest.mark.parametrize("variant", ["rotary", "relative-smeared"])
@pytest.mark.parametrize("with_documents", [False, True])
def test_blocks_of_queries_change_nothing(kind, variant, with_documents, monkeypatch):
    """Keys after a block are skipped. With an error of one, a query would lose its own key, or a gradient a part."""
    model, (tokens, documents, _) = a_model(kind, variant), packed()
    found = {}
    for block in (1, 3, 14, 128):
        monkeypatch.setattr(layers, "QUERY_BLOCK", block)
        logits = model.all_logits(tokens, documents if with_documents else None)
        found[block] = [logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))]
    for block in (1, 3, 14):
        for one, other in zip(found[block], found[128], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# --- Attention, implemented a second time


def rotated(x: Tensor, base: float) -> Tensor:
    """RoPE as in Su et al.: pairs of dimensions are complex numbers, rotated by position times frequency."""
    half = x.shape[-1] // 2  # x: (batch, heads, seq, d_head); Llama pairs dimension j with j + half
    frequencies = torch.tensor([base ** (-2 * j / x.shape[-1]) for j in range(half)], dtype=torch.float64)
    angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequencies
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((z.real, z.imag), dim=-1)


def slow_attention(attention: Attention, config: ModelConfig, x: Tensor, documents: Tensor) -> Tensor:
    """From the weights, with PyTorch's own attention and everything else position by position."""
    batch, seq, width = x.shape
    heads, d_head = config.n_attention_heads, config.d_head
    split = [x @ part.T for part in attention.qkv.weight.chunk(3)]
    q, k, v = (part.view(batch, seq, heads, d_head).transpose(1, 2).clone() for part in split)
    if config.smeared_keys:
        plain = k.clone()
        for b, h, t in itertools.product(range(batch), range(heads), range(1, seq)):
            if documents[b, t] == documents[b, t - 1]:
                share = 1 / (1 + torch.exp(-attention.smear[h, 0, 0]))
                k[b, h, t] = share * plain[b, h, t] + (1 - share) * plain[b, h, t - 1]
    if config.position == "rotary":
        q, k = rotated(q, config.rope_base), rotated(k, config.rope_base)
    mask = torch.full((batch, heads, seq, seq), float("-inf"), dtype=torch.float64)
    for b, t in itertools.product(range(batch), range(seq)):
        for s in range(t + 1):
            if documents[b, s] == documents[b, t]:
                offset = min(t - s, config.relative_offsets - 1)
                mask[b, :, t, s] = 0 if attention.bias is None else attention.bias[:, offset]
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return z.transpose(1, 2).reshape(batch, seq, width) @ attention.out.weight.T


@torch.no_grad()
@variants
@pytest.mark.parametrize("with_documents", [False, True])
def test_attention_is_attention(variant, with_documents, query_block):
    """A model with a wrong scale, rotation, order of q, k, v or offset of the bias would still train."""
    model, (tokens, documents, _) = a_model(variant=variant, rope_base=50.0), packed()
    documents = documents if with_documents else torch.zeros_like(documents)
    context = model.context(tokens, documents if with_documents else None)
    x = torch.randn(2, 14, 16, dtype=torch.float64)
    for attention in (model.blocks[0].attn, model.heads["2"].attn):
        expected = slow_attention(attention, model.config, x, documents)
        torch.testing.assert_close(attention(x, context), expected, **EXACT)


def test_the_norm_equals_pytorchs():
    """Values and gradients equal PyTorch's and finite differences; a row of zeros does not divide by zero."""
    x = torch.randn(3, 5, 8, dtype=torch.double).index_fill_(1, torch.tensor(2), 0.0).requires_grad_()
    ours, theirs = layers.RMSNorm()(x), F.rms_norm(x, (8,), eps=layers.NORM_EPS)
    torch.testing.assert_close(ours, theirs)
    towards = torch.randn_like(x)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, towards)[0] for y in (ours, theirs)))
    assert torch.autograd.gradcheck(layers.RMSNorm(), torch.randn(2, 8, dtype=torch.double, requires_grad=True))


@torch.no_grad()
@kinds
def test_the_whole_model_is_the_equations(kind):
    """Section 2 and appendix B from the weights. Catches: a wrong parent of a head, a missing skip or norm."""
    model, tokens = a_model(kind, attention_only=False), some_tokens(2, 7)
    context = model.context(tokens)

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()

    def layer(block, x: Tensor) -> Tensor:
        x = x + block.attn(norm(x), context)
        mlp, y = block.mlp, norm(x)
        gate = y @ mlp.gate.weight.T
        return x + (gate * torch.sigmoid(gate) * (y @ mlp.up.weight.T)) @ mlp.out.weight.T

    trunk = model.embed.weight[tokens]
    for block in model.blocks:
        trunk = layer(block, trunk)
    one, two, three = (model.heads[i] for i in "123")
    if kind == "linear":
        latents = [trunk + trunk @ head.out.weight.T for head in (one, two, three)]
    elif kind == "parallel":
        latents = [layer(head, trunk) for head in (one, two, three)]
    elif kind == "causal":
        first = layer(one, trunk)
        latents = [first, layer(two, first), layer(three, layer(two, first))]
    elif kind == "anticausal":
        third = layer(three, trunk)
        latents = [layer(one, layer(two, third)), layer(two, third), third]
    else:
        latents = [layer(one, trunk)]
        for i, head in ((2, two), (3, three)):
            ahead = torch.zeros_like(trunk)
            ahead[:, : 7 - (i - 1)] = model.embed.weight[tokens[:, i - 1 :]]
            joined = torch.cat((norm(latents[-1]), norm(ahead)), dim=-1) @ model.joins[str(i)].out.weight.T
            latents.append(layer(head, joined))
    for i, (latent, found) in enumerate(zip(latents, model.all_logits(tokens), strict=True), start=1):
        valid = 7 - (i - 1) if kind == "sequential" else 7  # after these, there is no token ahead
        expected = norm(latent) @ model.unembed.weight.T
        torch.testing.assert_close(found[:, :valid], expected[:, :valid], **EXACT)


# --- Errors


def test_invalid_input_raises():
    """Without the errors, both would run: a longer sequence than trained for, and documents of other tokens."""
    model = a_model()
    with pytest.raises(ValueError, match="25 tokens are longer than max_seq=24; cut them or raise max_seq"):
        model(some_tokens(1, 25))
    with pytest.raises(ValueError, match=r"documents \(1, 5\) must have the shape of tokens \(2, 5\)"):
        model(some_tokens(2, 5), torch.zeros(1, 5, dtype=torch.long))
    assert model(some_tokens(1, 24)).shape == (1, 24, VOCAB)


# --- Hook points


def caching(model: MTPTransformer, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """all_logits with every activation. run_with_cache without all_heads runs only the next-token head."""
    activations, hooks, _ = model.get_caching_hooks()
    with model.hooks(fwd_hooks=hooks):
        return model.all_logits(tokens), activations


def shapes(kind: str, variant: str) -> dict[str, tuple[int, ...]]:
    """Every documented hook point of a model that reads (2, 9) tokens, with its shape."""
    stream, per_head, square = (2, 9, 16), (2, 9, 2, 8), (2, 2, 9, 9)
    block = {f"hook_{name}": stream for name in ("resid_pre", "attn_out", "resid_post")}
    block |= {f"attn.hook_{name}": per_head for name in ("q", "k", "v", "z")}
    block |= {f"attn.hook_{name}": square for name in ("attn_scores", "pattern")}
    if variant != "attention-only":
        block |= {"hook_resid_mid": stream, "hook_mlp_out": stream, "mlp.hook_post": (2, 9, 64)}
    head = {"hook_resid_pre": stream, "hook_resid_post": stream} if kind == "linear" else block
    trunk = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    return {"hook_embed": stream, **trunk} | {f"heads.{i}.{n}": s for i in (1, 2, 3) for n, s in head.items()}


@torch.no_grad()
@kinds
@variants
def test_every_hook_point_is_seen(kind, variant):
    """With a hook point that is not called, an experiment would ablate nothing, without an error."""
    model, tokens = a_model(kind, variant), some_tokens(2, 9)
    logits, activations = caching(model, tokens)
    assert {name: tuple(x.shape) for name, x in activations.items()} == shapes(kind, variant)
    torch.testing.assert_close(logits, model.all_logits(tokens), **EXACT)
    patterns = [x for name, x in activations.items() if name.endswith("hook_pattern")]
    for pattern in patterns:
        torch.testing.assert_close(pattern.sum(dim=-1), torch.ones(2, 2, 9, dtype=torch.float64), **EXACT)
        assert (pattern.triu(1) == 0).all()
    assert len(patterns) == (2 if kind == "linear" else 5)


@torch.no_grad()
@kinds
def test_run_with_cache_is_the_forward_pass(kind, query_block):
    """Attention with hooks uses other code; it must compute the same logits."""
    model, tokens = a_model(kind), some_tokens(2, 9)
    logits, activations = model.run_with_cache(tokens)
    torch.testing.assert_close(logits, model(tokens), **EXACT)
    assert activations["blocks.0.attn.hook_pattern"].shape == (2, 2, 9, 9)
    ran = {name.split(".")[1] for name in activations if name.startswith("heads.")}
    assert ran == ({"1", "2", "3"} if kind == "anticausal" else {"1"})  # head 1 and the heads it reads
    torch.testing.assert_close(model.unembedded(activations["heads.1.hook_resid_post"]), logits, **EXACT)


def test_gradients_at_a_pattern_come_whole(query_block):
    """As activations do. Catches: a hook that is called once for each block of queries, with a part of the pattern."""
    model, tokens, received = a_model(), some_tokens(2, 9), []
    with model.hooks(bwd_hooks=[("blocks.0.attn.hook_pattern", lambda gradient, hook: received.append(gradient))]):
        model(tokens).square().sum().backward()
    assert [tuple(gradient.shape) for gradient in received] == [(2, 2, 9, 9)]


@torch.no_grad()
@pytest.mark.parametrize("kind, reached", [("parallel", {2}), ("causal", {2, 3}), ("anticausal", {1, 2})])
def test_an_ablation_reaches_the_heads_above_and_no_other(kind, reached):
    """The hook of head 2 must act on head 2: numbered from 0 or shared, it would ablate another horizon."""
    model, tokens = a_model(kind), some_tokens(2, 9)
    before = model.all_logits(tokens)
    with model.hooks(fwd_hooks=[("heads.2.hook_attn_out", lambda x, hook: torch.zeros_like(x))]):
        after = model.all_logits(tokens)
    assert {i for i in (1, 2, 3) if (after[i - 1] - before[i - 1]).abs().max() > 1e-6} == reached


@torch.no_grad()
@pytest.mark.parametrize("variant", ["rotary", "relative-smeared"])
@pytest.mark.parametrize(
    "name",
    ["hook_embed"]
    + [f"blocks.1.{name}" for name in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")]
    + [f"blocks.1.{name}" for name in ("hook_attn_out", "hook_mlp_out", "mlp.hook_post")]
    + [f"blocks.1.attn.hook_{name}" for name in ("q", "k", "v", "attn_scores", "pattern", "z")],
)
def test_an_edit_at_any_hook_point_changes_the_logits(name, variant):
    """If edits at a hook point had no effect on the logits, every patching experiment would find no effect."""
    model, tokens = a_model(variant=variant), some_tokens(2, 9)
    bump = torch.randn(caching(model, tokens)[1][name].shape, dtype=torch.float64)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook: x + bump)])
    assert (edited - model(tokens)).abs().max() > 1e-3


@torch.no_grad()
def test_an_edited_residual_stream_goes_on_through_the_skip_path():
    """TransformerBridge ignores edits at hook_resid_mid. Here they must reach the MLP and the residual stream."""
    model, tokens = a_model(), some_tokens(2, 9)
    clean = caching(model, tokens)[1]
    bump, activations = torch.randn(2, 9, 16, dtype=torch.float64), {}
    keep = [
        (f"blocks.1.hook_{at}", lambda x, hook: activations.update({hook.name: x})) for at in ("mlp_out", "resid_post")
    ]
    model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_mid", lambda x, hook: x + bump), *keep])
    mlp_out, after = (activations[f"blocks.1.hook_{at}"] for at in ("mlp_out", "resid_post"))
    torch.testing.assert_close(after, clean["blocks.1.hook_resid_mid"] + bump + mlp_out, **EXACT)
    assert (mlp_out - clean["blocks.1.hook_mlp_out"]).abs().max() > 1e-3


@torch.no_grad()
@kinds
def test_after_hooks_the_model_is_bitwise_what_it_was(kind):
    """A hook that is not removed would ablate in every later run of the notebook."""
    model, tokens = a_model(kind), some_tokens(2, 9)
    before = model.all_logits(tokens)
    model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_attn_out", lambda x, hook: 0 * x)])
    caching(model, tokens)
    model.add_hook("blocks.1.attn.hook_pattern", lambda x, hook: 0 * x)
    assert not torch.equal(model.all_logits(tokens), before)
    model.reset_hooks()
    assert torch.equal(model.all_logits(tokens), before)


# --- Stopped gradients


def gradients(model: MTPTransformer, weights: list[float]) -> dict[str, Tensor]:
    """Of the loss with these horizon weights, by name; zeros where there is none."""
    model.zero_grad()
    mtp_loss(model, some_tokens(2, 9), weights=weights, method="reference").total.backward()
    return {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in model.named_parameters()}


@pytest.mark.parametrize(
    "kind, stopped, weights",
    [
        ("parallel", 2, [1.0, 0.0, 1.0]),
        ("linear", 2, [1.0, 0.0, 1.0]),
        ("causal", 2, [1.0, 0.0, 0.0]),  # head 3 reads head 2, so its gradient stops there, too
        ("sequential", 3, [1.0, 1.0, 0.0]),
        ("anticausal", 1, [0.0, 1.0, 1.0]),
    ],
)
def test_a_stopped_horizon_does_not_shape_the_trunk(kind, stopped, weights):
    """In the control condition, extra heads train but have no effect on the trunk's gradients.

    A sequential head also reads the embedding, which belongs to the trunk. Its gradient must not arrive there either.
    """
    free, control = a_model(kind), a_model(kind, stop_gradient=(stopped,))
    control.load_state_dict(free.state_dict())
    expected, found = gradients(free, weights), gradients(control, [1.0, 1.0, 1.0])
    shaped = gradients(free, [1.0, 1.0, 1.0])
    for name in (name for name in found if name.startswith(("embed", "blocks"))):
        torch.testing.assert_close(found[name], expected[name], **EXACT)
        assert (shaped[name] - found[name]).abs().max() > 1e-6  # without the stop, it would have
    own = [name for name in found if name.startswith((f"heads.{stopped}.", f"joins.{stopped}."))]
    assert own and all(found[name].abs().max() > 1e-6 for name in own)


# --- Initial weights


def test_initial_weights():
    """GPT-2's: matrices that write to the residual stream shrink with depth; bias and smear start at 0."""
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(d_model=64, n_layers=8, n_future=2, position="relative", smeared_keys=True))
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "smear")):
            assert (parameter == 0).all()
        else:
            small = name.endswith(("attn.out.weight", "mlp.out.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / 4 if small else 0.02, rel=0.1), name


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_myopic_models_predict_the_same_without_gradients_to_earlier_positions(position):
    """Values are those of the plain model; the loss at a position has gradients at this position only (Wu et al. 2024).
    Catches: the diagonal detached too, values detached but not keys, packed documents ignored."""
    plain = ModelConfig(d_model=16, n_attention_heads=2, n_layers=3, n_future=2, max_seq=16, position=position)
    torch.manual_seed(0)
    one = MTPTransformer(plain).double()
    two = MTPTransformer(replace(plain, myopic=True)).double()
    for parameter in one.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    two.load_state_dict(one.state_dict())
    tokens = torch.randint(0, 257, (2, 12))
    documents = (torch.arange(12) >= 5).long().expand(2, 12)
    torch.testing.assert_close(one.all_logits(tokens, documents), two.all_logits(tokens, documents), rtol=0, atol=1e-12)

    for model, expected in ((one, {5, 6, 7, 8}), (two, {8})):
        kept = []

        def keep(x: torch.Tensor, hook, kept=kept) -> torch.Tensor:
            x = x.detach().requires_grad_(True)
            kept.append(x)
            return x

        logits = model.run_with_hooks(tokens, documents, all_heads=True, fwd_hooks=[("hook_embed", keep)])
        (gradient,) = torch.autograd.grad(logits[:, 0, 8].square().sum(), kept)
        assert set(gradient[0].abs().sum(-1).nonzero().flatten().tolist()) == expected


def test_with_one_position_myopic_gradients_are_the_plain_ones():
    """Where there is no earlier position, myopic gradients are the plain ones, keys and queries included."""
    plain = ModelConfig(d_model=16, n_attention_heads=2, n_layers=2, max_seq=4)
    torch.manual_seed(0)
    models = [MTPTransformer(config).double() for config in (plain, replace(plain, myopic=True))]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        model(torch.tensor([[3]])).square().sum().backward()
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
