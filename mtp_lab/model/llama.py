"""Trunk and head 1 as a Hugging Face Llama, and back: config.json and safetensors, nothing unpickled.

The way from the embedding to the next-token logits is an ordinary Llama: trunk and head 1, or with anticausal heads
trunk, head n, ..., head 1. What a Llama has no layer for is refused by name. Of a Llama trained elsewhere, the norms'
gains fold into the matrices that read them, another epsilon into those that write what they read, and shared keys and
values are repeated: all exact but for rounding, so the logits stay what they were.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from data_gen.bytes import SEPARATOR, VOCABULARY
from mtp_lab.config import ModelConfig
from mtp_lab.files import write_atomic
from mtp_lab.model.layers import NORM_EPS, Block
from mtp_lab.model.transformer import MTPTransformer

WEIGHTS = "model.safetensors"
DOCUMENT = "<|document|>"  # how the byte tokenizer writes the token that opens a document
NORMS = {  # what each matrix of a layer reads
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
NOT_A_LLAMA = {  # field: (the value refused, why, the fix)
    "head_kind": ("linear", "head 1 is z + W z, and no layer of a Llama is that", "train with head_kind='parallel'"),
    "position": ("relative", "a Llama's attention has no learned bias", "train with position='rotary'"),
    "smeared_keys": (True, "a Llama's keys come from one token each", "train with smeared_keys=False"),
    "attention_only": (True, "every layer of a Llama has an MLP", "train with attention_only=False"),
}


def export(model: MTPTransformer, folder: str | Path, byte_tokenizer: bool = False) -> None:
    """Writes trunk and head 1 for `AutoModelForCausalLM.from_pretrained(folder)`.

    Args:
        folder: new or empty.
        byte_tokenizer: the model's tokens are bytes, and 256 opens a document: writes a tokenizer that knows this.

    Raises:
        ValueError: for a model that a Llama cannot express, naming the field; a folder that holds something already;
            a byte tokenizer for a model of another vocabulary.
        OSError: if the folder cannot be written.
    """
    config, folder = model.config, Path(folder)
    for field, (refused, why, fix) in NOT_A_LLAMA.items():
        if getattr(config, field) == refused:
            raise ValueError(f"{field}={refused!r} cannot be exported: {why}; {fix}")
    if byte_tokenizer and config.vocab_size != VOCABULARY:
        raise ValueError(
            f"vocab_size={config.vocab_size} is not the byte tokenizer's {VOCABULARY}: these tokens are no bytes; "
            "export without byte_tokenizer"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose a new folder, so that no files of two models mix")
    # no end: the models never emit one; no pad: generate would take it for padding wherever a prompt holds it
    special = {"bos_token_id": SEPARATOR if byte_tokenizer else None, "eos_token_id": None, "pad_token_id": None}
    matrices = _matrices(model)
    gains = {name: model.unembed.weight.new_ones(config.d_model) for name in _norms(len(_path(model)))}
    content = {name: tensor.contiguous() for name, tensor in (matrices | gains).items()}
    write_atomic(folder / WEIGHTS, save(content, metadata={"format": "pt"}))
    if byte_tokenizer:
        _write_tokenizer(folder, config.max_seq)
    _write_json(folder / "generation_config.json", special)
    _write_json(folder / "config.json", _llama_config(model) | special)


def load(folder: str | Path) -> MTPTransformer:
    """A Llama's directory as a model of n_future=1 in fp32, in evaluation mode.

    Raises:
        ValueError: if it holds no Llama, one that this model cannot express, or other tensors than its config says.
        OSError: if there is no config.json, or it cannot be read.
    """
    from transformers import LlamaConfig

    folder = Path(folder)
    content = json.loads((folder / "config.json").read_text())
    kind = content.get("model_type")
    if kind != "llama":
        raise ValueError(f"model_type={kind!r} in {folder} cannot be read: it must be 'llama'")
    llama = LlamaConfig.from_dict(content)  # older files too, and what they leave out
    _check_expressible(llama)
    model = MTPTransformer(
        ModelConfig(
            vocab_size=llama.vocab_size,
            d_model=llama.hidden_size,
            n_attention_heads=llama.num_attention_heads,
            n_layers=llama.num_hidden_layers,
            max_seq=llama.max_position_embeddings,
            d_mlp=llama.intermediate_size,
            rope_base=llama.rope_parameters["rope_theta"],
        )
    )
    matrices = _matrices(model)
    held = _read(folder / WEIGHTS, _llama_shapes(matrices, llama))
    for name, matrix in matrices.items():
        matrix.copy_(_fitted(name, held, llama))
    return model.eval()


# --- The two layouts ------------------------------------------------------------------------------------------------


def _path(model: MTPTransformer) -> list[Block]:
    """The layers from the embedding to the next-token logits: the trunk's, and the heads down to head 1."""
    return [*model.blocks, *(model.heads[str(i)] for i in model.config.path())]


def _matrices(model: MTPTransformer) -> dict[str, Tensor]:
    """The model's own weights, views where Llama cuts them, by Llama's names."""
    found = {"model.embed_tokens.weight": model.embed.weight, "lm_head.weight": model.unembed.weight}
    for i, block in enumerate(_path(model)):
        q, k, v = block.attn.qkv.weight.chunk(3)  # (d_model, d_model) each: heads, and inside them half-split pairs
        parts = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}
        parts |= {"self_attn.o_proj": block.attn.out.weight, "mlp.gate_proj": block.mlp.gate.weight}
        parts |= {"mlp.up_proj": block.mlp.up.weight, "mlp.down_proj": block.mlp.out.weight}
        found |= {f"model.layers.{i}.{part}.weight": weight for part, weight in parts.items()}
    return {name: weight.detach() for name, weight in found.items()}


def _norms(layers: int) -> list[str]:
    """Llama's names of the norms' gains."""
    inside = [f"model.layers.{i}.{norm}.weight" for i in range(layers) for norm in dict.fromkeys(NORMS.values())]
    return [*inside, "model.norm.weight"]


def _norm_before(name: str) -> str | None:
    """The gain of the norm whose output a matrix reads; None for those that write to the residual stream."""
    if name == "lm_head.weight":
        return "model.norm.weight"
    part = next((part for part in NORMS if f".{part}." in name), None)
    return part and name.replace(part, NORMS[part])


def _fitted(name: str, held: dict[str, Tensor], llama: Any) -> Tensor:
    """A Llama's matrix as this model needs it: gain and epsilon folded in, keys and values repeated.

    With c = sqrt(our epsilon / theirs), x / sqrt(mean x^2 + theirs) = c x / sqrt(mean (c x)^2 + ours): all that writes
    to the residual stream, times c.
    """
    norm = _norm_before(name)
    weight = held[name] * (held[norm] if norm else (NORM_EPS / llama.rms_norm_eps) ** 0.5)  # (out, in) * (in,)
    if _reads_shared(name):
        shared = llama.num_attention_heads // llama.num_key_value_heads  # query heads to a head of keys and values
        weight = weight.unflatten(0, (llama.num_key_value_heads, -1)).repeat_interleave(shared, dim=0).flatten(0, 1)
    return weight


def _reads_shared(name: str) -> bool:
    """Whether a matrix makes keys or values, whose heads a Llama may share among queries."""
    return ".k_proj." in name or ".v_proj." in name


# --- What cannot be read --------------------------------------------------------------------------------------------


def _check_expressible(llama: Any) -> None:
    """Raises ValueError for the first setting of a LlamaConfig that an MTPTransformer has nothing for."""
    own = llama.hidden_size // llama.num_attention_heads
    rope = {name: value for name, value in llama.rope_parameters.items() if name not in ("rope_theta", "type")}
    untie = "write it with tie_word_embeddings=False and a copy of the embedding as lm_head"
    for name, value, wanted, why in (
        ("hidden_act", llama.hidden_act, "silu", "the MLP's gate is silu"),
        ("attention_bias", llama.attention_bias, False, "no matrix has a bias"),
        ("mlp_bias", llama.mlp_bias, False, "no matrix has a bias"),
        ("tie_word_embeddings", llama.tie_word_embeddings, False, f"the unembedding is a matrix of its own; {untie}"),
        ("head_dim", llama.head_dim, own, "attention heads share hidden_size out evenly"),
        ("rope_parameters", rope, {"rope_type": "default"}, "rotary wavelengths have a base and no scaling"),
    ):
        if value != wanted:
            raise ValueError(f"{name}={value!r} cannot be read: {why}; it must be {wanted!r}")
    if llama.num_attention_heads % llama.num_key_value_heads:
        raise ValueError(f"num_key_value_heads={llama.num_key_value_heads} must divide {llama.num_attention_heads}")
    if not llama.rms_norm_eps > 0:
        raise ValueError(f"rms_norm_eps={llama.rms_norm_eps!r} cannot be read: it must be above 0")


def _llama_shapes(matrices: dict[str, Tensor], llama: Any) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of a Llama must have."""
    narrow = (llama.num_key_value_heads * llama.head_dim, llama.hidden_size)
    shapes = {name: narrow if _reads_shared(name) else tuple(matrix.shape) for name, matrix in matrices.items()}
    return shapes | dict.fromkeys(_norms(llama.num_hidden_layers), (llama.hidden_size,))


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file in fp32; ValueError unless they are exactly those of these shapes."""
    fix = f"write it with LlamaForCausalLM.save_pretrained, in one {WEIGHTS}"
    if not path.exists():
        raise ValueError(f"{path} is missing, and sharded or pickled weights are not read; {fix}")
    try:
        held = {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}; {fix}") from error
    missing, beyond = sorted(set(shapes) - set(held)), sorted(set(held) - set(shapes))
    if missing or beyond:
        raise ValueError(f"{path} lacks {missing[:3]} of a Llama's tensors, and {beyond[:3]} are none of them; {fix}")
    for name, tensor in held.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and {shapes[name]} by its config.json; {fix}")
    return held


# --- Files ----------------------------------------------------------------------------------------------------------


def _llama_config(model: MTPTransformer) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": len(_path(model)),
        "num_attention_heads": config.n_attention_heads,
        "num_key_value_heads": config.n_attention_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq,
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "rope_theta": config.rope_base,  # where transformers before 5 look
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "dtype": str(model.unembed.weight.dtype).removeprefix("torch."),
    }


def _write_tokenizer(folder: Path, longest: int) -> None:
    """Byte b is token b, and every text begins with the token that opens a document.

    Nothing in a text is read as that token. Rows of a batch are padded with it on the left, under an attention mask.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()} | {DOCUMENT: SEPARATOR}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(DOCUMENT, special=True, normalized=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{DOCUMENT} $A", pair=f"{DOCUMENT} $A {DOCUMENT} $B", special_tokens=[(DOCUMENT, SEPARATOR)]
    )
    write_atomic(folder / "tokenizer.json", tokenizer.to_str())
    settings = {"bos_token": DOCUMENT, "pad_token": DOCUMENT, "padding_side": "left", "model_max_length": longest}
    settings |= {"split_special_tokens": True, "clean_up_tokenization_spaces": False}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1) + "\n")
