"""Training drafts on what the model itself writes: self-distillation (Cai et al. 2024, Medusa, section 2.3.2).

Head 1 decides what is written, so a draft is good if it says what head 1 will say, whether people would have or not.
Here head 1 and all that it stands on are frozen, it continues the task's rows greedily, and the other heads learn
those continuations. Plain decoding writes the same text before and after; only drafts get better.
"""

from dataclasses import replace

import numpy as np

from data_gen import Batch
from mtp_lab.decoding.generation import generate
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks.base import REST

DRAFT = 4  # heads that draft for the writer: more cost more than they gain in batches as large as a training's
GENERATED = "written"  # a mark: tokens that head 1 wrote
GENERATED_ONLY = ((GENERATED, 1.0), (REST, 0.0))  # what counts in the loss, as `TrainConfig.label_weights` has it


def continue_rows(model: MTPTransformer, batch: Batch, count: int) -> Batch:
    """Rows with head 1's greedy text in place of their last `count` tokens, which it marks; each row one document.

    The heads that learn this text draft it: it would be the same without them, and later.
    """
    given = batch.seq - count
    rows, draft = batch.tokens[:, :given].tolist(), min(DRAFT, model.config.n_future)
    text = generate(model, rows, count, draft).tokens
    tokens = np.concatenate([batch.tokens[:, :given], text.numpy().astype(np.int32)], axis=1)
    written = np.broadcast_to(np.arange(batch.seq) >= given, tokens.shape).copy()
    return replace(batch, tokens=tokens, documents=np.zeros_like(tokens), labels={GENERATED: written})


def freeze_next_token(model: MTPTransformer) -> None:
    """Leaves only those weights trainable that plain decoding never reads: heads beyond the first, and their joins."""
    on_path = (model.heads[str(i)] for i in model.config.path())
    for module in (model.embed, model.blocks, *on_path, model.unembed):
        module.requires_grad_(False)
