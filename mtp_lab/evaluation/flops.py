"""Operations of a training step, counted from the shapes of the model."""

from mtp_lab.config import ModelConfig


def flops_per_token(model: ModelConfig, seq: int) -> int:
    """Operations of one training step a token: 6 for each weight it is multiplied with, and attention over the row.

    Forward 2, backward 4 (Kaplan et al. 2020, section 2.1); the embedding is a look-up and counts nothing; the n
    unembeddings count each. Attention's products cost 12 x d_model x seq a layer, half of it masked but computed.
    """
    layer = 4 * model.d_model**2 + 3 * model.d_model * model.mlp_width * (not model.attention_only)
    layers = model.trunk_depth + (0 if model.head_kind == "linear" else model.n_future)
    heads = model.n_future * model.d_model**2 * (model.head_kind == "linear")
    joins = 2 * model.d_model**2 * (model.n_future - 1) * (model.head_kind == "sequential")
    unembedding = model.n_future * model.d_model * model.vocab_size
    return 6 * (layers * layer + heads + joins + unembedding) + 12 * layers * model.d_model * seq
