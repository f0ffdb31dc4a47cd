"""Trunk and head 1 as a Hugging Face Llama, and back: config.json and safetensors, no pickles.

The layers from the embedding to the next-token logits are an ordinary Llama: trunk and head 1, or with anticausal heads
trunk, head n, ..., head 1. A setting that a Llama cannot express is an error that names it.

A Llama trained elsewhere may have gains in its norms, another epsilon, and attention heads that share keys and values.
`load` folds gain and epsilon into the matrices and repeats the shared keys and values. The logits are the same up to
rounding.
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
DOCUMENT = "<|document|>"  # the byte tokenizer's name of the token that opens a document
NORMS = {  # matrix: the norm whose output it reads
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
NOT_A_LLAMA = {  # field: (the value without a Llama, the reason, the fix)
    "head_kind": ("linear", "head 1 is z + W z, which is no layer of a Llama", "train with head_kind='parallel'"),
    "position": ("relative", "a Llama's attention has no relative bias", "train with position='rotary'"),
    "smeared_keys": (True, "a Llama's keys come from one token each", "train with smeared_keys=False"),
    "attention_only": (True, "every layer of a Llama has an MLP", "train with attention_only=False"),
}


def export(model: MTPTransformer, folder: str | Path, byte_tokenizer: bool = False) -> None:
    """Writes trunk and head 1 for `AutoModelForCausalLM.from_pretrained(folder)`.

    Args:
        folder: new or empty.
        byte_tokenizer: also writes a tokenizer for models whose tokens are bytes and where 256 opens a document.

    Raises:
        ValueError: for a model that a Llama cannot express, with the name of the field; for a folder that is not empty;
            for a byte tokenizer with a model of another vocabulary.
        OSError: if the folder cannot be written.
    """
    config, folder = model.config, Path(folder)
    for field, (value, reason, fix) in NOT_A_LLAMA.items():
        if getattr(config, field) == value:
            raise ValueError(f"{field}={value!r} cannot be exported: {reason}; {fix}")
    if byte_tokenizer and config.vocab_size != VOCABULARY:
        raise ValueError(
            f"vocab_size={config.vocab_size} is not the byte tokenizer's {VOCABULARY}: these tokens are not bytes; "
            "export without byte_tokenizer"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose a new folder, so that files of two models do not mix")
    # no eos: the models have no such token; no pad: generate would treat this token in a prompt as padding
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
    """Reads the folder of a Llama as a model with n_future=1, in fp32 and in evaluation mode.

    Raises:
        ValueError: if the folder does not hold a Llama, if this model cannot express it, or if its tensors do not match
            its config.
        OSError: if there is no config.json, or it cannot be read.
    """
    from transformers import LlamaConfig

    folder = Path(folder)
    content = json.loads((folder / "config.json").read_text())
    kind = content.get("model_type")
    if kind != "llama":
        raise ValueError(f"model_type={kind!r} in {folder} cannot be read: it must be 'llama'")
    llama = LlamaConfig.from_dict(content)  # fills in fields that older files leave out
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
    llama_tensors = _read(folder / WEIGHTS, _llama_shapes(matrices, llama))
    for name, matrix in matrices.items():
        matrix.copy_(_converted(name, llama_tensors, llama))
    return model.eval()


# --- The two layouts ------------------------------------------------------------------------------------------------


def _path(model: MTPTransformer) -> list[Block]:
    """The layers from the embedding to the next-token logits: those of the trunk, and the heads to head 1."""
    return [*model.blocks, *(model.heads[str(i)] for i in model.config.path())]


def _matrices(model: MTPTransformer) -> dict[str, Tensor]:
    """The model's weights by Llama's names; views where a Llama has several matrices for one of ours."""
    matrices = {"model.embed_tokens.weight": model.embed.weight, "lm_head.weight": model.unembed.weight}
    for i, block in enumerate(_path(model)):
        q, k, v = block.attn.qkv.weight.chunk(3)  # (d_model, d_model) each, pairs half-split as in Llama
        of_block = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}
        of_block |= {"self_attn.o_proj": block.attn.out.weight, "mlp.gate_proj": block.mlp.gate.weight}
        of_block |= {"mlp.up_proj": block.mlp.up.weight, "mlp.down_proj": block.mlp.out.weight}
        matrices |= {f"model.layers.{i}.{name}.weight": weight for name, weight in of_block.items()}
    return {name: weight.detach() for name, weight in matrices.items()}


def _norms(layers: int) -> list[str]:
    """Llama's names of the gains of all norms."""
    of_layers = [f"model.layers.{i}.{norm}.weight" for i in range(layers) for norm in dict.fromkeys(NORMS.values())]
    return [*of_layers, "model.norm.weight"]


def _norm_before(name: str) -> str | None:
    """Name of the gain of the norm that a matrix reads; None for matrices that write to the residual stream."""
    if name == "lm_head.weight":
        return "model.norm.weight"
    matrix = next((matrix for matrix in NORMS if f".{matrix}." in name), None)
    return matrix and name.replace(matrix, NORMS[matrix])


def _converted(name: str, llama_tensors: dict[str, Tensor], llama: Any) -> Tensor:
    """A matrix of a Llama for this model: gain and epsilon folded in, shared keys and values repeated.

    With c = sqrt(our epsilon / theirs), x / sqrt(mean x^2 + theirs) = c x / sqrt(mean (c x)^2 + ours). So all matrices
    that write to the residual stream are multiplied by c.
    """
    norm = _norm_before(name)
    factor = llama_tensors[norm] if norm else (NORM_EPS / llama.rms_norm_eps) ** 0.5
    weight = llama_tensors[name] * factor  # (out, in) * (in,)
    if _is_key_or_value(name):
        queries = llama.num_attention_heads // llama.num_key_value_heads  # query heads that share a key and value head
        weight = weight.unflatten(0, (llama.num_key_value_heads, -1)).repeat_interleave(queries, dim=0).flatten(0, 1)
    return weight


def _is_key_or_value(name: str) -> bool:
    """Whether a matrix computes keys or values, which attention heads of a Llama may share."""
    return ".k_proj." in name or ".v_proj." in name


# --- Errors -------------------------------------------------------------------------------------------------------


def _check_expressible(llama: Any) -> None:
    """Raises ValueError for the first setting of a LlamaConfig that an MTPTransformer cannot express."""
    d_head = llama.hidden_size // llama.num_attention_heads
    rope = {name: value for name, value in llama.rope_parameters.items() if name not in ("rope_theta", "type")}
    untie = "write it with tie_word_embeddings=False and a copy of the embedding as lm_head"
    for name, value, required, reason in (
        ("hidden_act", llama.hidden_act, "silu", "the MLP's gate is silu"),
        ("attention_bias", llama.attention_bias, False, "no matrix has a bias"),
        ("mlp_bias", llama.mlp_bias, False, "no matrix has a bias"),
        ("tie_word_embeddings", llama.tie_word_embeddings, False, f"the unembedding is a separate matrix; {untie}"),
        ("head_dim", llama.head_dim, d_head, "head_dim is hidden_size / num_attention_heads"),
        ("rope_parameters", rope, {"rope_type": "default"}, "RoPE has a base and no scaling"),
    ):
        if value != required:
            raise ValueError(f"{name}={value!r} cannot be read: {reason}; it must be {required!r}")
    if llama.num_attention_heads % llama.num_key_value_heads:
        raise ValueError(f"num_key_value_heads={llama.num_key_value_heads} must divide {llama.num_attention_heads}")
    if not llama.rms_norm_eps > 0:
        raise ValueError(f"rms_norm_eps={llama.rms_norm_eps!r} cannot be read: it must be above 0")


def _llama_shapes(matrices: dict[str, Tensor], llama: Any) -> dict[str, tuple[int, ...]]:
    """The required shape of each tensor of a Llama."""
    key_or_value = (llama.num_key_value_heads * llama.head_dim, llama.hidden_size)
    shapes = {name: key_or_value if _is_key_or_value(name) else tuple(w.shape) for name, w in matrices.items()}
    return shapes | dict.fromkeys(_norms(llama.num_hidden_layers), (llama.hidden_size,))


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file in fp32. Raises ValueError unless they have exactly these names and shapes."""
    fix = f"write it with LlamaForCausalLM.save_pretrained, in one {WEIGHTS}"
    if not path.exists():
        raise ValueError(f"{path} is missing, and sharded or pickled weights are not read; {fix}")
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}; {fix}") from error
    missing, unknown = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or unknown:
        raise ValueError(f"{path} lacks {missing[:3]} of a Llama's tensors, and {unknown[:3]} are none of them; {fix}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and {shapes[name]} by its config.json; {fix}")
    return tensors


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
        "rope_theta": config.rope_base,  # where transformers before version 5 reads it
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "dtype": str(model.unembed.weight.dtype).removeprefix("torch."),
    }


def _write_tokenizer(folder: Path, max_seq: int) -> None:
    """Writes a tokenizer in which byte b is token b and every text starts with the token that opens a document.

    No text contains that token, even where it contains its name. Rows of a batch are padded with it on the left, under
    an attention mask.
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
    settings = {"bos_token": DOCUMENT, "pad_token": DOCUMENT, "padding_side": "left", "model_max_length": max_seq}
    settings |= {"split_special_tokens": True, "clean_up_tokenization_spaces": False}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1) + "\n")
