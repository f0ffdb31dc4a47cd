"""Patching finds the circuit that was written down by hand, and agrees with slow references on random models."""

import pytest
import torch
import torch.nn.functional as F

from mtp_lab.config import ModelConfig
from mtp_lab.interp.handmade import DUPLICATE, INDUCTION, PREVIOUS, SECOND_PREVIOUS
from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.interp.pairs.stories import STORY_ROLES
from mtp_lab.interp.patching import head_patching, recovery, residual_patching
from mtp_lab.interp.path_patching import path_patching
from mtp_lab.model.layers import NORM_EPS
from mtp_lab.model.transformer import MTPTransformer

CLEAN = "- d A x f e B y g d A"  # x after A; head 2 can tell it from d, one token before
SECONDS = "- d A y f e B x g d A"  # the second pieces exchanged
CONTEXTS = "- e B x f d A y g d A"  # what comes before them exchanged: only the keys of x and y differ
NAMED = {2: "target first", 3: "target second", 6: "other first", 7: "other second", 10: "query"}


def by_hand(corrupted: str, count: int = 12) -> Pairs:
    """Pairs of random tokens in the place of letters, with 0 to 2 more tokens in the middle, padded."""
    generator = torch.Generator().manual_seed(0)
    seq = len(CLEAN.split()) + 2
    parts = {name: torch.full((count, seq), -1) for name in ("documents", "roles")}
    parts |= {name: torch.zeros(count, seq, dtype=torch.long) for name in ("clean", "corrupted")}
    parts |= {name: torch.zeros(count, dtype=torch.long) for name in ("query_position", "answer_token", "wrong_token")}
    for i in range(count):
        drawn = 1 + torch.randperm(23, generator=generator)
        meaning = dict(zip("dAxfeByg12", drawn.tolist(), strict=False)) | {"-": 0}
        more = ["1", "2"][: i % 3]
        roles = [STORY_ROLES.index(NAMED.get(t, "rest")) for t in range(len(CLEAN.split()))]
        roles = roles[:5] + [STORY_ROLES.index("rest")] * len(more) + roles[5:]
        for name, letters in (("clean", CLEAN.split()), ("corrupted", corrupted.split())):
            row = [meaning[letter] for letter in letters[:5] + more + letters[5:]]
            parts[name][i, : len(row)] = torch.tensor(row)
        parts["roles"][i, : len(row)], parts["documents"][i, : len(row)] = torch.tensor(roles), 0
        parts["query_position"][i], parts["answer_token"][i], parts["wrong_token"][i] = (
            len(row) - 1,
            meaning["x"],
            meaning["y"],
        )
    return Pairs(**parts, role_names=STORY_ROLES)


def shares(table, by) -> dict:
    found = recovery(table, by)
    return dict(zip(found[by].itertuples(index=False, name=None), found.recovery, strict=True))


# --- the model written down by hand


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("corrupted", [SECONDS, CONTEXTS])
def test_both_runs_predict_their_own_answer(handmade, horizon, corrupted):
    """What all tests below build on: the clean run is certain of x, the corrupted one as certain of y."""
    table = residual_patching(handmade, by_hand(corrupted), horizon)
    assert table.clean.min() > 10 and (table.clean + table.corrupted).abs().max() < 1e-2


@pytest.mark.parametrize("horizon", [1, 2])
def test_exchanged_second_pieces_are_restored_where_x_stands(handmade, horizon):
    """Induction reads the position of x until the head's layer has moved it to the query.
    Catches: roles shifted by one, a layer patched too late or too early, the other horizon's query."""
    found = shares(residual_patching(handmade, by_hand(SECONDS), horizon), ["layer", "role"])
    expected = dict.fromkeys(found, 0.0)
    expected |= {("embed", "target second"): 1, ("blocks.0", "target second"): 1, (f"heads.{horizon}", "query"): 1}
    assert len(found) == 3 * len(STORY_ROLES)
    assert found == pytest.approx(expected, abs=1e-3)


def test_exchanged_contexts_are_restored_by_halves(handmade):
    """Two keys match after one is restored, none after the other is destroyed: the answer is undecided either way.
    Catches: roles of target and other mixed up with each other's tokens, patches that outlive their run."""
    found = shares(residual_patching(handmade, by_hand(CONTEXTS)), ["layer", "role"])
    expected = dict.fromkeys(found, 0.0) | {("heads.1", "query"): 1}
    expected |= {("blocks.0", "target second"): 0.5, ("blocks.0", "other second"): 0.5}
    expected |= {("embed", "target first"): 0.5, ("embed", "other first"): 0.5}
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("horizon", [1, 2])
def test_induction_heads_carry_second_pieces_to_the_query(handmade, horizon):
    """What the trunk's attention heads move does not differ where it is read.
    Catches: neighbouring attention heads patched together, the layer of another horizon."""
    found = shares(head_patching(handmade, by_hand(SECONDS), horizon), ["layer", "head", "positions"])
    expected = dict.fromkeys(found, 0.0)
    expected |= {(f"heads.{horizon}", INDUCTION, positions): 1 for positions in ("all", "query")}
    assert len(found) == 2 * 4 * 2
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("horizon", "mover"), [(1, PREVIOUS), (2, SECOND_PREVIOUS)])
def test_previous_token_heads_move_contexts_to_the_keys(handmade, horizon, mover):
    """Head 1 needs the token before, head 2 the one two before; at the query neither is of use.
    Catches: "query" that patches all positions, or the reverse."""
    found = shares(head_patching(handmade, by_hand(CONTEXTS), horizon), ["layer", "head", "positions"])
    expected = dict.fromkeys(found, 0.0) | {("blocks.0", mover, "all"): 1}
    expected |= {(f"heads.{horizon}", INDUCTION, positions): 1 for positions in ("all", "query")}
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("horizon", "mover"), [(1, PREVIOUS), (2, SECOND_PREVIOUS)])
def test_the_path_from_previous_tokens_to_the_keys(handmade, horizon, mover, swap):
    """Only the head's own mover reaches its induction head, only through keys, and only where contexts differ.
    Catches: q, k, v mixed up, senders that act on the logits beside the receiver, receivers that are all patched."""

    def share(corrupted: str, sender: int, through: str = "k", receiver: int = INDUCTION) -> float:
        pairs = by_hand(corrupted).swapped() if swap else by_hand(corrupted)
        senders, receivers = [("blocks.0", sender)], [(f"heads.{horizon}", receiver)]
        table = path_patching(handmade, pairs, senders, receivers, through, horizon)
        return recovery(table, ["through"]).recovery.item()

    assert share(CONTEXTS, mover) == pytest.approx(1, abs=1e-3)
    none = [share(CONTEXTS, mover, "q"), share(CONTEXTS, mover, "v"), share(CONTEXTS, mover, receiver=1)]
    none += [share(CONTEXTS, other) for other in {PREVIOUS, SECOND_PREVIOUS, DUPLICATE} - {mover}]
    none += [share(SECONDS, mover, through) for through in "qkv"]
    assert none == pytest.approx([0] * len(none), abs=1e-3)


# --- random models


def random_model(seed: int = 0, **changes) -> MTPTransformer:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=12, d_model=12, n_attention_heads=3, trunk_layers=2, n_future=2, d_mlp=16, max_seq=256)
    model = MTPTransformer(ModelConfig(**{**sizes, "position": "relative", "relative_offsets": 4, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["parallel", "causal", "linear"])
def test_patching_is_what_one_gets_by_hand(kind):
    """Against one pair at a time, without padding, position by position; more pairs than a forward.
    Catches: padding that is attended to, a part's pairs numbered from 0, masks of another part, head 1's path."""
    model = random_model(vocab_size=24, head_kind=kind, position="rotary")
    drawn = by_hand(SECONDS, 34)
    pairs = drawn.for_horizon(2)
    tables = {
        "residual": residual_patching(model, drawn, 2).set_index(["layer", "role", "pair"]),
        "heads": head_patching(model, drawn, 2).set_index(["layer", "head", "positions", "pair"]),
    }
    layers = ["blocks.0", "blocks.1", *([] if kind == "linear" else ["heads.2"])]
    assert list(dict.fromkeys(tables["heads"].index.get_level_values("layer"))) == (
        ["blocks.0", "blocks.1", "heads.1", "heads.2"] if kind == "causal" else layers
    )
    assert len(tables["residual"]) == 34 * 6 * (5 if kind == "causal" else 4)
    for i in (0, 31, 32, 33):
        end, at = int(drawn.query_position[i]) + 1, int(pairs.query_position[i])
        clean, corrupted = drawn.clean[i : i + 1, :end], drawn.corrupted[i : i + 1, :end]

        def difference(logits, at=at, i=i) -> float:
            return float(logits[1, 0, at, pairs.answer_token[i]] - logits[1, 0, at, pairs.wrong_token[i]])

        logits, cache = model.run_with_cache(clean, all_heads=True)
        both = {"clean": difference(logits), "corrupted": difference(model.all_logits(corrupted))}
        for layer, role in (("embed", 1), ("blocks.0", 1), ("blocks.1", 3), ("heads.2", 4), ("blocks.0", 5)):
            name = "hook_embed" if layer == "embed" else f"{layer}.hook_resid_post"

            def put(x, hook, role=role, i=i, end=end, cache=cache):
                x = x.clone()
                for t in range(end):
                    if pairs.roles[i, t] == role:
                        x[0, t] = cache[hook.name][0, t]
                return x

            patched = difference(model.run_with_hooks(corrupted, all_heads=True, fwd_hooks=[(name, put)]))
            row = tables["residual"].loc[(layer, STORY_ROLES[role], i)]
            assert row.to_dict() == pytest.approx(both | {"patched": patched}, abs=1e-10)
        for layer in layers:
            for positions, where in (("all", slice(None)), ("query", slice(at, at + 1))):

                def put_head(z, hook, where=where, cache=cache):
                    z = z.clone()
                    z[0, where, 1] = cache[hook.name][0, where, 1]
                    return z

                hooks = [(f"{layer}.attn.hook_z", put_head)]
                patched = difference(model.run_with_hooks(corrupted, all_heads=True, fwd_hooks=hooks))
                row = tables["heads"].loc[(layer, 1, positions, i)]
                assert row.to_dict() == pytest.approx(both | {"patched": patched}, abs=1e-10)


def norm(x: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + NORM_EPS).sqrt()


def layer_by_layer(model: MTPTransformer, tokens: torch.Tensor, horizon: int, frozen: dict, inputs: dict):
    """Everything computed from the weights, attention head after attention head, for one row of tokens.

    Args:
        frozen: (layer, attention head) -> z, (layer, "mlp") -> what the MLP writes: taken instead of computed.
        inputs: (layer, attention head, "q", "k" or "v") -> the same of the receivers.

    Returns:
        Logits (seq, vocab), and all of these three as they were used.
    """
    config, used = model.config, {}
    width, place = config.d_head, torch.arange(len(tokens))
    back = place[:, None] - place  # (seq, keys) from a query back to a key
    x = model.embed.weight[tokens]
    blocks = [(f"blocks.{i}", block) for i, block in enumerate(model.blocks)]
    blocks += [(f"heads.{i}", model.heads[str(i)]) for i in config.path(horizon)]
    for layer, block in blocks:
        if (joined := layer.removeprefix("heads.")) in model.joins:
            ahead = model.embed.weight[tokens.roll(1 - int(joined))]
            x = torch.cat([norm(x), norm(ahead)], dim=-1) @ model.joins[joined].out.weight.T
        read, wrote = norm(x), 0
        for head in range(config.n_attention_heads):
            for part, letter in enumerate("qkv"):
                first = part * config.d_model + head * width
                own = read @ block.attn.qkv.weight[first : first + width].T  # (seq, d_head)
                used[layer, head, letter] = inputs.get((layer, head, letter), own)
            q, k, v = (used[layer, head, letter] for letter in "qkv")
            scores = q @ k.T / width**0.5 + block.attn.bias[head, back.clamp(0, config.relative_offsets - 1)]
            z = scores.masked_fill(back < 0, -torch.inf).softmax(-1) @ v
            used[layer, head] = frozen.get((layer, head), z)
            wrote = wrote + used[layer, head] @ block.attn.out.weight[:, head * width : (head + 1) * width].T
        x = x + wrote
        gate, up = (norm(x) @ part.weight.T for part in (block.mlp.gate, block.mlp.up))
        used[layer, "mlp"] = frozen.get((layer, "mlp"), (F.silu(gate) * up) @ block.mlp.out.weight.T)
        x = x + used[layer, "mlp"]
    return norm(x) @ model.unembed.weight.T, used


@torch.no_grad()
@pytest.mark.parametrize("through", ["q", "k", "v"])
@pytest.mark.parametrize("kind", ["parallel", "causal", "anticausal", "sequential"])
def test_path_patching_layer_by_layer(kind, through):
    """Against a computation from the weights, layer by layer, with the paper's two passes written out.
    Catches: MLPs that carry the path on, senders' own layer or later ones left free, receivers in the trunk whose
    effect stops at frozen activations in the second pass, paths through the wrong heads."""
    model = random_model(head_kind=kind)
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(0, 12, (2, 2, 9), generator=generator)
    at, right, wrong = torch.tensor([8, 5]), torch.tensor([1, 2]), torch.tensor([3, 4])
    place = torch.arange(9)
    documents = torch.where(place > at[:, None], -1, 0)
    roles = torch.where(place == at[:, None], 4, 5).masked_fill(documents < 0, -1)
    pairs = Pairs(clean, corrupted, documents, roles, at, right, wrong, STORY_ROLES)
    for horizon in (1, 2):
        last = f"heads.{model.config.path(horizon)[-1]}"
        sets_of_heads = [([("blocks.0", 1)], [(last, 2)])]
        sets_of_heads += [
            ([("blocks.0", 0), ("blocks.0", 2), ("blocks.1", 1)], [("blocks.1", 0), (last, 0), (last, 1)])
        ]
        tables = [path_patching(model, pairs, *sets, through, horizon) for sets in sets_of_heads]
        for i in range(2):
            end = int(at[i]) + 1
            query = end - horizon
            good, theirs = layer_by_layer(model, clean[i, :end], horizon, {}, {})
            bad, own = layer_by_layer(model, corrupted[i, :end], horizon, {}, {})
            for (senders, receivers), table in zip(sets_of_heads, tables, strict=True):
                frozen = {key: value for key, value in own.items() if len(key) == 2}
                frozen |= {key: theirs[key] for key in senders}
                _, reached = layer_by_layer(model, corrupted[i, :end], horizon, frozen, {})
                inputs = {(*key, through): reached[*key, through] for key in receivers}
                patched, _ = layer_by_layer(model, corrupted[i, :end], horizon, {}, inputs)
                expected = [float(x[query, right[i]] - x[query, wrong[i]]) for x in (good, bad, patched)]
                assert table.loc[i, ["clean", "corrupted", "patched"]].tolist() == pytest.approx(expected, abs=1e-10)
                assert abs(expected[2] - expected[1]) > 1e-4


def test_shares_are_of_means(handmade):
    """Catches: a mean of shares, which one pair with two equal runs makes endless."""
    table = residual_patching(handmade, by_hand(SECONDS, 3))
    one = table[(table.layer == "blocks.0") & (table.role == "rest")].copy()
    one["clean"], one["corrupted"], one["patched"] = [0.0, 3.0, 6.0], [0.0, 1.0, -1.0], [0.5, 1.0, 3.0]
    assert recovery(one, ["layer", "role"]).recovery.tolist() == pytest.approx([4.5 / 9])
    assert recovery(one, ["pair"]).recovery.tolist()[1:] == pytest.approx([0, 4 / 7])


def test_hooks_are_gone_afterwards(handmade):
    """Catches: a patch that stays in the model."""
    tokens = by_hand(SECONDS).clean
    before = handmade.all_logits(tokens)
    head_patching(handmade, by_hand(SECONDS))
    assert torch.equal(handmade.all_logits(tokens), before)
    assert not handmade.blocks[0].attn.hook_z.fwd_hooks


def test_what_does_not_fit_is_named(handmade):
    pairs = by_hand(SECONDS)
    trunk, head = [("blocks.0", 0)], [("heads.1", 0)]
    with pytest.raises(ValueError, match="horizon=3 must be from 1 to n_future=2"):
        residual_patching(handmade, pairs, 3)
    with pytest.raises(ValueError, match="through='keys' is not known"):
        path_patching(handmade, pairs, trunk, head, "keys")
    with pytest.raises(ValueError, match="receivers is empty"):
        path_patching(handmade, pairs, trunk, [])
    with pytest.raises(ValueError, match=r"receivers: no attention head \('heads.2', 0\)"):
        path_patching(handmade, pairs, trunk, [("heads.2", 0)])
    with pytest.raises(ValueError, match=r"senders: no attention head \('blocks.0', 4\)"):
        path_patching(handmade, pairs, [("blocks.0", 4)], head)
    for senders, receivers in ((head, trunk), (trunk, trunk), (trunk + head, head), (trunk, trunk + head)):
        with pytest.raises(ValueError, match="every receiver needs a sender"):
            path_patching(handmade, pairs, senders, receivers)
    with pytest.raises(ValueError, match="no layer on the path to horizon=1 has attention"):
        head_patching(random_model(head_kind="linear", trunk_layers=0), pairs)
