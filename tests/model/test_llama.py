"""Export and import: the same logits here and in Hugging Face."""

import json
import logging
import shutil
import socket

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, pipeline

from mtp_lab.config import ModelConfig
from mtp_lab.decoding.generation import generate
from mtp_lab.model.llama import DOCUMENT, export, load
from mtp_lab.model.transformer import MTPTransformer

SMALL = dict(vocab_size=31, d_model=24, n_attention_heads=3, n_layers=5, max_seq=48)
MODELS = {
    "n = 1": {},
    "parallel": dict(n_future=3),
    "causal": dict(n_future=3, head_kind="causal"),
    "sequential": dict(n_future=3, head_kind="sequential"),
    "anticausal, through all heads": dict(n_future=4, head_kind="anticausal"),
    "heads alone": dict(n_future=4, head_kind="anticausal", trunk_layers=0),
    "rope base": dict(n_future=2, rope_base=50.0),
    "large rope base, one attention head": dict(n_attention_heads=1, rope_base=500_000.0),
    "d_mlp": dict(n_future=2, d_mlp=17),
    "stop gradient": dict(n_future=2, stop_gradient=(1, 2)),
}
LLAMAS = {
    "plain": {},
    "shared keys and values": dict(num_key_value_heads=2),
    "one head of keys and values": dict(num_key_value_heads=1),
    "epsilon": dict(rms_norm_eps=1e-6),
    "large epsilon, shared": dict(rms_norm_eps=0.05, num_key_value_heads=2),
    "rope base": dict(rope_parameters={"rope_type": "default", "rope_theta": 50.0}),
}


def a_model(seed: int = 0, **changes) -> MTPTransformer:
    """Weights so large that every matrix counts, and still logits of about 1."""
    torch.manual_seed(seed)
    model = MTPTransformer(ModelConfig(**{**SMALL, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def a_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    """As others train them: norms with gains of their own, here from 0.2 to 2, some negative."""
    torch.manual_seed(seed)
    fields = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4)
    llama = LlamaForCausalLM(LlamaConfig(**{**fields, "rms_norm_eps": 1e-5, "max_position_embeddings": 48, **changes}))
    for name, parameter in llama.named_parameters():
        torch.nn.init.normal_(parameter, std=0.15)
        if "norm" in name:
            parameter.data.sign_().mul_(torch.empty_like(parameter).uniform_(0.2, 2.0))
    return llama.eval()


def tokens(vocab: int = 31, seq: int = 48) -> torch.Tensor:
    return torch.randint(0, vocab, (4, seq), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(model: MTPTransformer, llama: LlamaForCausalLM) -> float:
    inputs = tokens(model.config.vocab_size)
    assert model(inputs).std() > 0.1
    return float((model(inputs) - llama(inputs).logits).abs().max())


@pytest.fixture
def silent(monkeypatch):
    """Fails on any use of the network, and on any warning of transformers."""
    events = []

    class Listener(logging.Handler):
        def emit(self, record):
            events.append(record.getMessage())

    def refused(self, address):
        events.append(f"tried to reach {address}")
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refused)
    listener = Listener(logging.WARNING)
    logging.getLogger("transformers").addHandler(listener)
    yield
    logging.getLogger("transformers").removeHandler(listener)
    assert events == []


# --- Export: Hugging Face reads our models --------------------------------------------------------------------------


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_exported_llama_has_the_same_logits(changes, attention, tmp_path, silent):
    """Logits of the exported model are ours to 1e-5 in fp32, read from the folder alone.
    Catches: q, k and v in another order, rotated pairs in another layout, gate and up exchanged, another epsilon or
    rope base, a head of an anticausal model left out, heads in the order of horizons instead of the path's."""
    model = a_model(**changes)
    export(model, tmp_path / "llama")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", attn_implementation=attention)
    assert type(llama) is LlamaForCausalLM and llama.dtype == torch.float32
    assert difference(model, llama) < 1e-5


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_export_and_load_give_the_model_bit_for_bit(changes, tmp_path):
    """Export and load give the next-token path alone, its weights and logits to the bit; twice gives the same file.
    Catches: gains of one that change a bit, layers in another order, weights left at their initial values, head 1 of n
    exported where other heads belong to its path."""
    model = a_model(**changes)
    export(model, tmp_path / "once")
    back = load(tmp_path / "once")
    kept = model.config.n_future if model.config.head_kind == "anticausal" else 1
    assert back.config.n_future == 1 and back.config.n_layers == model.config.trunk_depth + kept
    assert torch.equal(back(tokens()), model(tokens()))
    for name, weight in back.state_dict().items():
        if not name.startswith("heads.") and name in model.state_dict():
            assert torch.equal(weight, model.state_dict()[name]), name
    assert torch.equal(back.heads["1"].attn.qkv.weight, model.heads["1"].attn.qkv.weight)
    export(back, tmp_path / "twice")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["parallel", "causal", "anticausal", "sequential"])
def test_greedy_generation_is_the_same_token_for_token(kind, tmp_path, silent):
    """`model.generate` generates max_new_tokens, and the same tokens as ours with any number of heads.
    Catches: Llama's default end token (2), which ends texts early; a beginning or padding token that changes the mask;
    an export that is right at short contexts only."""
    model = a_model(n_future=3, head_kind=kind, vocab_size=7, max_seq=64)
    export(model, tmp_path / "llama")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    assert llama.config.eos_token_id is None and llama.config.pad_token_id is None
    prompts = tokens(vocab=7, seq=6)
    written = llama.generate(prompts, max_new_tokens=40, do_sample=False)
    for k in (1, 2, 3):
        assert generate(model, prompts, 40, draft=k).tokens.tolist() == written[:, 6:].tolist()


@pytest.mark.parametrize(
    "changes",
    [dict(head_kind="linear"), dict(position="relative"), dict(smeared_keys=True), dict(attention_only=True)],
    ids=str,
)
def test_settings_without_a_llama_raise_with_their_names(changes, tmp_path):
    """The error names the field, its value and the fix, and nothing is written.
    Catches: a folder that loads and predicts something else."""
    ((field, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{field}={value!r}.*Llama.*train with {field}="):
        export(a_model(**changes), tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


def test_a_folder_in_use_raises(tmp_path):
    """Catches: the tokenizer of another model in the same folder as new weights."""
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not empty"):
        export(a_model(), tmp_path)


# --- Bytes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_model() -> MTPTransformer:
    return a_model(n_future=2, vocab_size=257)


@pytest.fixture(scope="module")
def byte_folder(byte_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "bytes"
    export(byte_model, folder, byte_tokenizer=True)
    return folder


@pytest.fixture(scope="module")
def tokenizer(byte_folder):
    return AutoTokenizer.from_pretrained(byte_folder)


@settings(max_examples=200, deadline=None, database=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example(text="")
@example(text="  def f(x):\r\n\treturn x\u00a0# \u2028 \x00\x7f")
@example(text=f"a text about {DOCUMENT} is no new document")
def test_any_text_is_its_bytes_and_comes_back(text, tokenizer):
    """After the token that opens a document, byte b of the text is token b, and decoding gives the text again.
    Catches: a space put in front, line ends or blanks normalised, a byte's character mapped to another byte, the name
    of the special token read as the token."""
    ids = tokenizer(text).input_ids
    assert ids == [256, *text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:]


def test_every_byte_has_its_token(tokenizer):
    """All 257, also bytes that do not occur in valid UTF-8.
    Catches: a vocabulary without one of the bytes, or numbered by characters."""
    assert len(tokenizer) == tokenizer.vocab_size == 257
    assert tokenizer.decode([0xFF, 65]) == "\ufffdA" and tokenizer.decode([256]) == DOCUMENT
    assert sorted(tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(range(257)))) == list(range(257))


def test_texts_of_different_lengths_are_continued_as_one_by_one(byte_model, byte_folder, tokenizer, silent):
    """A padded batch, a batch without a mask, and a pipeline all generate the same tokens as ours.
    Catches: padding on the right; a padding token in the generation settings, for which `generate` hides every 256 in
    a prompt; a warning about either."""
    texts, new = ["def f(", "import numpy as np\n", "é"], 24
    prompts = [tokenizer(text).input_ids for text in texts]
    expected = generate(byte_model, prompts, new).tokens
    llama = AutoModelForCausalLM.from_pretrained(byte_folder)
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    written = llama.generate(**padded, max_new_tokens=new, do_sample=False)
    assert torch.equal(written[:, padded.input_ids.shape[1] :], expected)
    alone = llama.generate(torch.tensor([prompts[0]]), max_new_tokens=new, do_sample=False)
    assert torch.equal(alone[:, len(prompts[0]) :], expected[:1])
    pipe = pipeline("text-generation", model=llama, tokenizer=tokenizer)
    (answer,) = pipe(texts[1], max_new_tokens=new, do_sample=False)
    assert answer["generated_text"] == texts[1] + tokenizer.decode(expected[1])


def test_other_vocabularies_get_no_byte_tokenizer(tmp_path):
    """Catches: bytes of a text read as tokens of a grammar."""
    with pytest.raises(ValueError, match="vocab_size=31.*257"):
        export(a_model(), tmp_path / "llama", byte_tokenizer=True)
    export(a_model(), tmp_path / "llama")
    assert not (tmp_path / "llama" / "tokenizer.json").exists()
    assert json.loads((tmp_path / "llama" / "config.json").read_text())["bos_token_id"] is None


# --- Import: we read models of Hugging Face -------------------------------------------------------------------------


@pytest.mark.parametrize("changes", LLAMAS.values(), ids=LLAMAS)
def test_a_llama_trained_elsewhere_is_read_exactly(changes, tmp_path):
    """Gains, epsilon and shared keys and values become plain matrices, and the logits stay within 1e-5.
    Catches: a gain folded into rows instead of columns or into the matrix before the norm, one of q, k, v, gate, up
    and unembedding forgotten, keys repeated in the order of tiles instead of neighbours, an epsilon ignored."""
    llama = a_llama(**changes)
    llama.save_pretrained(tmp_path)
    assert difference(load(tmp_path), llama) < 1e-5


def test_half_precision_is_read_as_fp32(tmp_path):
    """Catches: gains folded in bf16, which rounds them away."""
    a_llama().bfloat16().save_pretrained(tmp_path)
    model, llama = load(tmp_path), LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert model.embed.weight.dtype == torch.float32
    assert difference(model, llama) < 1e-5


def test_configs_of_older_versions_are_read(tmp_path):
    """rope_theta at the top and no head_dim, as transformers 4 writes them.
    Catches: such a base replaced by the default."""
    llama = a_llama(rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    llama.save_pretrained(tmp_path)
    change(tmp_path, rope_theta=50.0, rope_scaling=None, rope_parameters=..., head_dim=...)
    assert difference(load(tmp_path), llama) < 1e-5


def change(folder, **fields) -> None:
    """Sets fields of config.json; ... removes one."""
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(tie_word_embeddings=True), "tie_word_embeddings=True.*lm_head"),
        (dict(attention_bias=True), "attention_bias=True.*bias"),
        (dict(mlp_bias=True), "mlp_bias=True.*bias"),
        (dict(hidden_act="gelu"), "hidden_act='gelu'.*silu"),
        (dict(head_dim=8), "head_dim=8.*must be 6"),
        (dict(rope_parameters=..., rope_scaling={"type": "linear", "factor": 2.0}), "rope_parameters=.*linear"),
        (dict(num_key_value_heads=3), "num_key_value_heads=3 must divide 4"),
        (dict(rms_norm_eps=0.0), "rms_norm_eps=0.0.*above 0"),
        (dict(model_type="mistral"), "model_type='mistral'.*must be 'llama'"),
        (dict(model_type=...), "model_type=None.*must be 'llama'"),
        (dict(intermediate_size=41), r"mlp.*is .*40.*41.*by its config.json"),
        (dict(num_key_value_heads=2), r"k_proj.*is \(24, 24\), and \(12, 24\)"),
        (dict(num_hidden_layers=4), r"lacks \['model.layers.3"),
        (dict(num_hidden_layers=2), r"and \['model.layers.2.*none of them"),
    ],
    ids=str,
)
def test_llamas_that_we_cannot_express_raise_with_the_setting(fields, message, tmp_path):
    """Catches: a Llama that loads without its biases, scaled positions or head size, and predicts something else."""
    a_llama().save_pretrained(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_tensors_that_are_no_part_of_a_llama_raise(tmp_path):
    """Catches: biases that the config does not mention, dropped without an error."""
    a_llama().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(24)}
    save_file(tensors | bias, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"q_proj\.bias"):
        load(tmp_path)


def test_missing_pickled_and_damaged_weights_are_named(byte_folder, tmp_path):
    """Catches: a pickle opened where safetensors are missing, a parser's error without the file's name."""
    copy = tmp_path / "copy"
    shutil.copytree(byte_folder, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        load(copy)
    weights.rename(copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model.safetensors is missing.*pickled"):
        load(copy)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
