"""Floating-point operations of training, counted from the shapes of the model; nothing is measured."""

from mtp_lab.config import ModelConfig


def flops_per_token(model: ModelConfig, seq: int) -> int:
    """Floating-point operations of a training step for each token.

    A weight takes 6 operations: 2 in the forward pass and 4 in the backward pass (Kaplan et al. 2020, section 2.1).
    The embedding is a look-up and takes none. The unembedding counts once for each of the n horizons. The products of
    attention take 12 x d_model x seq in each layer; half of them are masked, but computed all the same.

    Args:
        seq: tokens a row.
    """
    layer = 4 * model.d_model**2 + 3 * model.d_model * model.mlp_width * (not model.attention_only)
    layers = model.trunk_depth + (0 if model.head_kind == "linear" else model.n_future)
    heads = model.n_future * model.d_model**2 * (model.head_kind == "linear")
    joins = 2 * model.d_model**2 * (model.n_future - 1) * (model.head_kind == "sequential")
    unembedding = model.n_future * model.d_model * model.vocab_size
    return 6 * (layers * layer + heads + joins + unembedding) + 12 * layers * model.d_model * seq
