"""Configs and named sizes: every test states a property and the bug it would catch."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from data_gen.stories.generator import Stories
from mtp_lab.config import (
    SIZES,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from mtp_lab.model.layers import Block
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.serialization import canonical_json, config_hash, from_mapping
from mtp_lab.tasks import ChoiceProcessTask, PolynomialsTask

PAPER = {  # Gloeckle et al. 2024: d_model, layers, attention heads, and the number of parameters in the name
    "1M": (128, 5, 4, 1e6),
    "3M": (256, 4, 8, 3e6),
    "10M": (384, 6, 8, 10e6),
    "30M": (512, 10, 8, 30e6),
    "100M": (768, 14, 12, 100e6),
    "300M": (1024, 25, 16, 300e6),
    "1B": (1536, 36, 24, 1e9),
}


def parameters(config: ModelConfig) -> int:
    """Parameters of the model without embedding and unembedding; nothing is allocated."""
    with torch.device("meta"):
        model = MTPTransformer(config)
    embeddings = {"embed.weight", "unembed.weight"}
    return sum(p.numel() for name, p in model.named_parameters() if name not in embeddings)


def layer(config: ModelConfig) -> int:
    """Parameters of one Llama layer: four square attention matrices and three of the gated MLP."""
    return 4 * config.d_model**2 + 3 * config.d_model * config.mlp_width


# --- Validation


@pytest.mark.parametrize(
    "fields, field, value, allowed",
    [
        (dict(vocab_size=0), "vocab_size", "0", "integer of at least 1"),
        (dict(d_model=-8), "d_model", "-8", "integer of at least 1"),
        (dict(d_model=128.0), "d_model", "128.0", "integer of at least 1"),
        (dict(n_layers="6"), "n_layers", "'6'", "integer of at least 1"),
        (dict(n_future=0), "n_future", "0", "integer of at least 1"),
        (dict(n_future=True), "n_future", "True", "integer of at least 1"),
        (dict(max_seq=0), "max_seq", "0", "integer of at least 1"),
        (dict(relative_offsets=0), "relative_offsets", "0", "integer of at least 1"),
        (dict(d_mlp=0), "d_mlp", "0", "integer of at least 1"),
        (dict(head_kind="paralel"), "head_kind", "'paralel'", "'causal', 'anticausal', 'linear', 'sequential'"),
        (dict(position="absolute"), "position", "'absolute'", "'rotary', 'relative'"),
        (dict(d_model=10, n_attention_heads=3), "d_model", "10", "multiple of n_attention_heads=3"),
        (dict(d_model=12, n_attention_heads=4), "d_model / n_attention_heads", "3", "even for rotary"),
        (dict(rope_base=1), "rope_base", "1", "above 1"),
        (dict(rope_base=math.nan), "rope_base", "nan", "above 1"),
        (dict(rope_base=math.inf), "rope_base", "inf", "above 1"),
        (dict(rope_base="10000"), "rope_base", "'10000'", "above 1"),
        (dict(trunk_layers=-1), "trunk_layers", "-1", "integer of at least 0"),
        (dict(trunk_layers=1.5), "trunk_layers", "1.5", "integer of at least 0"),
        (dict(trunk_layers=True), "trunk_layers", "True", "integer of at least 0"),
        (dict(n_layers=3, n_future=4), "n_layers", "3", "at least 4, or fix trunk_layers"),
        (dict(n_layers=3, n_future=4, head_kind="sequential"), "n_layers", "3", "at least 4"),
        (dict(attention_only=1), "attention_only", "1", "True or False"),
        (dict(smeared_keys="no"), "smeared_keys", "'no'", "True or False"),
        (dict(n_future=2, stop_gradient=(3,)), "stop_gradient", "(3,)", "1 to n_future=2"),
        (dict(n_future=2, stop_gradient=(0, 2)), "stop_gradient", "(0, 2)", "1 to n_future=2"),
        (dict(n_future=2, stop_gradient=(2.0,)), "stop_gradient", "(2.0,)", "1 to n_future=2"),
        (dict(n_future=2, stop_gradient=(True,)), "stop_gradient", "(True,)", "1 to n_future=2"),
        (dict(n_future=2, stop_gradient=2), "stop_gradient", "2", "1 to n_future=2"),
    ],
)
def test_an_invalid_value_fails_at_construction(fields, field, value, allowed):
    """With the field, the value and what is allowed: a value let through fails hours later, inside a matmul."""
    with pytest.raises(ValueError) as error:
        ModelConfig(**fields)
    message = str(error.value)
    assert message.startswith(field), message
    assert value in message and allowed in message, message


@pytest.mark.parametrize(
    "fields",
    [
        dict(n_layers=4, n_future=4),  # a trunk of no layers
        dict(n_layers=2, n_future=4, trunk_layers=0),
        dict(n_layers=2, n_future=4, head_kind="linear"),  # matrices take no layer of the budget
        dict(d_model=12, n_attention_heads=4, position="relative"),  # odd d_head without rotation
        dict(n_future=2, stop_gradient=(2, 1)),
        dict(n_future=2, stop_gradient=()),
    ],
)
def test_the_edges_of_what_is_allowed_are_allowed(fields):
    """A check with >= for > would refuse these, which the comparisons of the study need."""
    with torch.device("meta"):
        MTPTransformer(ModelConfig(**fields))


def test_a_config_cannot_be_changed():
    """A config is the identity of a run: one changed after hashing would be stored under another's name."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().d_model = 64


def test_an_unknown_size_names_the_known_ones():
    """A KeyError would leave the reader to search the source for the sizes."""
    with pytest.raises(ValueError, match=r"size='2M' is not known; use one of 1M, 3M, .*deep"):
        ModelConfig.of_size("2M")


def test_changes_win_over_the_size():
    """`of_size("1M", n_layers=7)` must have 7 layers: the size's own would train another model than requested."""
    config = ModelConfig.of_size("1M", n_layers=7, n_future=2)
    assert (config.d_model, config.n_layers, config.n_future) == (128, 7, 2)


# --- JSON and hash

CHANGED = ModelConfig(
    vocab_size=300,
    d_model=96,
    n_attention_heads=2,
    n_layers=7,
    n_future=3,
    head_kind="causal",
    trunk_layers=2,
    max_seq=64,
    d_mlp=48,
    attention_only=True,
    position="relative",
    rope_base=500.0,
    relative_offsets=8,
    smeared_keys=True,
    stop_gradient=(2, 3),
)


@pytest.mark.parametrize("config", [ModelConfig(), CHANGED], ids=["defaults", "changed"])
def test_a_config_survives_json(config):
    """stop_gradient comes back from JSON as a list; left one, the config would be unequal and unhashable."""
    back = ModelConfig(**json.loads(canonical_json(config)))
    assert back == config and hash(back) == hash(config)
    assert canonical_json(back) == canonical_json(config)
    assert config_hash(back) == config_hash(config)


def test_a_training_survives_json():
    """The configs inside of it come back as dictionaries: left so, a resumed run would not know its own model."""
    model = ModelConfig(n_future=3, rope_base=500, stop_gradient=(3,))
    config = TrainConfig(model=model, optimizer=OptimizerConfig(betas=(0.8, 0.9)), horizon_weights=(1, 0.5, 0))
    back = from_mapping(TrainConfig, json.loads(canonical_json(config)))
    assert back == config and config_hash(back) == config_hash(config)


def test_fields_that_came_later_leave_old_hashes_alone():
    """At its default a later field is not in the JSON, and JSON without it is read: runs trained before it stay found.
    Catches: a later field that the hash does not see at all."""
    plain, changed = TrainConfig(), TrainConfig(snapshot_every=10, model=ModelConfig(myopic=True))
    assert "snapshot_every" not in canonical_json(plain) and "myopic" not in canonical_json(plain)
    assert len({config_hash(c) for c in (plain, dataclasses.replace(plain, snapshot_every=10), changed)}) == 3
    assert from_mapping(TrainConfig, json.loads(canonical_json(plain))) == plain
    assert from_mapping(TrainConfig, json.loads(canonical_json(changed))) == changed


def test_the_hash_sees_every_field():
    """A field outside of the hash would give two different models the same run directory."""
    base = ModelConfig(n_future=3, n_layers=7)
    for field in dataclasses.fields(ModelConfig):
        value = getattr(CHANGED, field.name)
        if value == getattr(base, field.name):  # fields on which others depend, or which exclude others
            value = not value if isinstance(value, bool) else value + 1
        changed = dataclasses.replace(base, **{field.name: value})
        assert config_hash(changed) != config_hash(base), field.name


@pytest.mark.parametrize(
    "one, other",
    [
        (dict(rope_base=10_000), dict(rope_base=10_000.0)),
        (dict(n_future=3, stop_gradient=(3, 2, 3)), dict(n_future=3, stop_gradient=(2, 3))),
        (dict(n_future=3, stop_gradient=[2]), dict(n_future=3, stop_gradient=(2,))),
    ],
)
def test_equal_configs_have_equal_hashes(one, other):
    """10000 and 10000.0 are equal but not the same JSON: one run would be trained twice, under two names."""
    assert ModelConfig(**one) == ModelConfig(**other)
    assert config_hash(ModelConfig(**one)) == config_hash(ModelConfig(**other))


def test_equal_optimizers_have_equal_hashes():
    """As above: `weight_decay=0` in a notebook must find the run trained with 0.0."""
    whole = OptimizerConfig(weight_decay=0, clip=1, final=0, betas=(0, 0.95))
    decimal = OptimizerConfig(weight_decay=0.0, clip=1.0, final=0.0, betas=(0.0, 0.95))
    assert whole == decimal and config_hash(whole) == config_hash(decimal)


def test_equal_stories_have_equal_hashes():
    """And numbers of steps must be integers: 50.0 equals 50, but gives other JSON."""
    whole, decimal = Stories(fresh=0, scenery=1), Stories(fresh=0.0, scenery=1.0)
    assert whole == decimal and config_hash(whole) == config_hash(decimal)
    for value in (50.0, True):
        with pytest.raises(ValueError, match=f"warmup={value} must be a number of steps"):
            OptimizerConfig(warmup=value)
    for value in (1.0, True, np.int64(1)):
        with pytest.raises(ValueError, match="seed=.* must be an integer"):
            TrainConfig(seed=value)


@pytest.mark.parametrize("curriculum", ["forward", "reverse"])
def test_a_curriculum_needs_the_next_token(curriculum):
    """At one end it is the only horizon. Catches: hundreds of steps without loss, in which weights only decay."""
    model = ModelConfig(n_future=2)
    TrainConfig(model=model, horizon_weights=(1, 0), curriculum=curriculum)
    with pytest.raises(ValueError, match=f"horizon_weights=.0.0, 1.0. with curriculum='{curriculum}'"):
        TrainConfig(model=model, horizon_weights=(0, 1), curriculum=curriculum)


def test_the_hash_is_pinned():
    """A change of the format would orphan every trained run; it must be a decision, not an accident."""
    assert canonical_json(ModelConfig(n_future=2, stop_gradient=(2,))) == (
        '{"attention_only":false,"d_mlp":null,"d_model":128,"head_kind":"parallel","max_seq":512,'
        '"n_attention_heads":4,"n_future":2,"n_layers":6,"position":"rotary","relative_offsets":16,'
        '"rope_base":10000.0,"smeared_keys":false,"stop_gradient":[2],"trunk_layers":null,"vocab_size":257}'
    )
    assert len(config_hash(ModelConfig())) == 10
    assert config_hash(ModelConfig(), length=16).startswith(config_hash(ModelConfig()))


# --- Parameters


@pytest.mark.parametrize("size", PAPER)
def test_the_sizes_are_the_papers(size):
    """Width, layers, heads, and a name within 10 %: a wrong MLP width would miss the name, by a third or more."""
    d_model, n_layers, heads, named = PAPER[size]
    config = ModelConfig.of_size(size)
    assert (config.d_model, config.n_layers, config.n_attention_heads) == (d_model, n_layers, heads)
    assert abs(parameters(config) / named - 1) < 0.1


@pytest.mark.parametrize("kind", ["parallel", "causal", "anticausal"])
@pytest.mark.parametrize("size", SIZES)
def test_parameters_do_not_depend_on_n(size, kind):
    """Compute-matched: a head that did not take its layer from the trunk would win by its size alone."""
    config = ModelConfig.of_size(size, head_kind=kind)
    counts = {n: parameters(dataclasses.replace(config, n_future=n)) for n in (1, 2, 4) if n <= config.n_layers}
    assert set(counts.values()) == {config.n_layers * layer(config)}, counts
    assert len(counts) > 1


@pytest.mark.parametrize("size", ["1M", "tiny"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_linear_and_sequential_differ_by_what_is_documented(size, n):
    """Linear heads are one matrix each on a trunk of all layers; sequential heads add a join, except the first."""
    config = ModelConfig.of_size(size, n_future=n)
    linear, sequential = (dataclasses.replace(config, head_kind=kind) for kind in ("linear", "sequential"))
    assert linear.trunk_depth == config.n_layers
    assert parameters(linear) - parameters(config) == n * config.d_model**2
    assert parameters(sequential) - parameters(config) == (n - 1) * 2 * config.d_model**2


@pytest.mark.parametrize("kind", ["parallel", "causal", "anticausal", "sequential", "linear"])
def test_a_fixed_trunk_keeps_its_depth(kind):
    """Depth-matched: the trunk must keep its layers, whatever n and the budget say, and every head adds its own."""
    for n in (1, 2, 4):
        config = ModelConfig(d_model=32, n_layers=3, trunk_layers=5, n_future=n, head_kind=kind)
        head = config.d_model**2 if kind == "linear" else layer(config)
        joins = (n - 1) * 2 * config.d_model**2 if kind == "sequential" else 0
        assert config.trunk_depth == 5
        assert parameters(config) == 5 * layer(config) + n * head + joins


@pytest.mark.parametrize("kind", ["parallel", "causal", "anticausal", "sequential", "linear"])
def test_depth_of_the_next_token_path_is_the_number_of_layers_that_run(kind):
    """Counted in the plain forward pass: every layer that runs on the way to next-token logits, and no other.
    Catches: trunk + 1 where head 1 reads the other heads (anticausal), or is not a layer (linear)."""
    config = ModelConfig(d_model=32, n_attention_heads=2, n_layers=3, trunk_layers=2, n_future=3, head_kind=kind)
    model, ran = MTPTransformer(config), []
    for name, module in model.named_modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(torch.zeros(1, 4, dtype=torch.long))
    assert config.path_depth == len(ran)


def test_options_add_only_their_own_parameters():
    """No MLP, a bias for each attention head and offset, a share for each attention head: nothing else may appear."""
    base = ModelConfig(d_model=32, n_layers=3, n_future=2)
    attention = 3 * 4 * 32**2
    assert parameters(dataclasses.replace(base, attention_only=True)) == attention
    assert parameters(dataclasses.replace(base, position="relative")) - parameters(base) == 3 * 4 * 16
    assert parameters(dataclasses.replace(base, smeared_keys=True)) - parameters(base) == 3 * 4
    assert parameters(dataclasses.replace(base, d_mlp=5)) == attention + 3 * 3 * 32 * 5


@pytest.mark.parametrize(
    "kind, parents",
    [
        ("parallel", {1: 0, 2: 0, 3: 0}),
        ("linear", {1: 0, 2: 0, 3: 0}),
        ("causal", {1: 0, 2: 1, 3: 2}),
        ("sequential", {1: 0, 2: 1, 3: 2}),
        ("anticausal", {1: 2, 2: 3, 3: 0}),
    ],
)
def test_what_each_head_reads(kind, parents):
    """Appendix B: causal and anticausal swapped would still train, but measure something else."""
    assert ModelConfig(n_future=3, head_kind=kind).parents == parents


def test_an_unknown_precision_is_refused():
    """Catches: a word that neither bf16 nor fp32 is compared with, which would train in fp32 under another hash."""
    with pytest.raises(ValueError, match="precision='fp16' is not known; use one of 'auto', 'bf16', 'fp32'"):
        TrainConfig(precision="fp16")
    assert len({config_hash(TrainConfig(precision=precision)) for precision in ("auto", "bf16", "fp32")}) == 3


def test_numpy_integers_are_refused_by_name():
    """A numpy integer cannot become JSON; let through, it would fail when the run is stored, after training."""
    with pytest.raises(ValueError, match="n_layers="):
        ModelConfig(n_layers=np.int64(6))


@pytest.mark.parametrize(
    "weights, message",
    [
        ((("answr", 1),), "answr.*answer, .*'rest'"),
        ((("m", 1),), "'m'"),  # a numeric label, not a class of tokens
        ((("answer", -1),), "none negative"),
        ((("answer", math.inf),), "none negative"),
        ((("answer", 0), ("rest", 0)), "not all 0"),
    ],
)
def test_invalid_label_weights_are_refused(weights, message):
    """A misspelt label would otherwise train on everything without a warning."""
    task = PolynomialsTask()
    with pytest.raises(ValueError, match=message):
        TrainConfig(task=task, model=ModelConfig(vocab_size=task.vocab_size), label_weights=weights)


@pytest.mark.parametrize(
    "task, value, message",
    [(PolynomialsTask(), True, "=True needs .*'cause', .* polynomials"), (ChoiceProcessTask(), 1, "=1 must be")],
)
def test_causes_must_be_known(task, value, message):
    """Without the label no target could be ignored, and the training would be another."""
    with pytest.raises(ValueError, match=f"mask_unread_causes{message}"):
        TrainConfig(task=task, model=ModelConfig(vocab_size=task.vocab_size), mask_unread_causes=value)


def test_label_weights_survive_json():
    """JSON has no tuples and one kind of number: a run would not be found again."""
    task = PolynomialsTask()
    config = TrainConfig(
        task=task, model=ModelConfig(vocab_size=task.vocab_size), label_weights=(("answer", 4), ("rest", 1))
    )
    back = from_mapping(TrainConfig, json.loads(canonical_json(config)))
    assert back == config and config_hash(back) == config_hash(config)
    assert config_hash(config) != config_hash(dataclasses.replace(config, label_weights=(("answer", 4),)))
