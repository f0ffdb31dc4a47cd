"""Drafts trained on the model's own text: self-distillation (Cai et al. 2024, Medusa, section 2.3.2).

A draft is accepted if it equals head 1's prediction, so drafts should learn the text that head 1 generates. Here head 1
and its path are frozen. It continues the task's rows greedily, and the other heads learn these continuations. Plain
decoding gives the same text before and after; only the drafts improve.
"""

from dataclasses import replace

import numpy as np

from data_gen import Batch
from mtp_lab.decoding.generation import generate
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks.base import REST

DRAFT = 4  # heads used for generation; in batches as large as a training's, more heads take more time than they save
GENERATED = "written"  # the label of tokens that head 1 generated
GENERATED_ONLY = ((GENERATED, 1.0), (REST, 0.0))  # label weights that count generated tokens only


def continue_rows(model: MTPTransformer, batch: Batch, count: int) -> Batch:
    """Rows whose last `count` tokens are replaced by head 1's greedy text and labelled; each row is one document.

    The heads in training draft this text. This saves time and has no influence on the text.
    """
    n_prompt = batch.seq - count
    prompts, draft = batch.tokens[:, :n_prompt], min(DRAFT, model.config.n_future)
    text = generate(model, prompts.tolist(), count, draft).tokens
    tokens = np.concatenate([prompts, text.numpy().astype(np.int32)], axis=1)
    generated = np.broadcast_to(np.arange(batch.seq) >= n_prompt, tokens.shape).copy()
    return replace(batch, tokens=tokens, documents=np.zeros_like(tokens), labels={GENERATED: generated})


def freeze_next_token(model: MTPTransformer) -> None:
    """Leaves trainable only the weights that plain decoding does not read: heads outside head 1's path, their joins."""
    on_path = (model.heads[str(i)] for i in model.config.path())
    for module in (model.embed, model.blocks, *on_path, model.unembed):
        module.requires_grad_(False)
