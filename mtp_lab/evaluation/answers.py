"""Answers to questions in documents that end in one: said by decoding, judged in one pass, chosen among samples.

An answer is right as a whole or not at all (exact match; Gloeckle et al. 2024, section 4.2). Of several samples it is
enough that one is right: pass@k, the measure of the code benchmarks of section 3.1, here on tasks that have one right
answer. A model's own probability of it gives what pass@k is expected to be, without any samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_gen.batch import TARGET, Documents
from mtp_lab.config import check_positive
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.decoding.generation import generate
from mtp_lab.model.predictions import tensors
from mtp_lab.model.transformer import MTPTransformer

ROW = 128  # tokens of a packed row: attention costs more in longer ones, and shorter ones leave more padding


@dataclass(frozen=True, eq=False)
class TeacherForced:
    """What the next-token head says of answers that it is shown: of each token, given the right ones before it."""

    right: np.ndarray
    """(documents, length) whether it is thought most likely."""
    nll: np.ndarray
    """(documents, length) its cross-entropy."""

    @property
    def exact(self) -> np.ndarray:
        """(documents,) whether all of an answer is right, which is when greedy decoding says it."""
        return self.right.all(axis=1)


def questions(documents: Documents) -> tuple[list[np.ndarray], np.ndarray]:
    """Each document up to its answer, "=" included, and the right answers, (documents, length) int.

    Raises:
        ValueError: for no documents, no mark "answer", teacherless documents, and answers that are missing, begin their
            document, are not in one piece or differ in length.
    """
    if not len(documents):
        raise ValueError("there are no documents; give at least one")
    if "answer" not in documents.labels:
        known = ", ".join(documents.labels) or "none"
        raise ValueError(f"documents need a mark 'answer' on the tokens of their answers; their marks are: {known}")
    if TARGET in documents.labels:
        raise ValueError(
            f"documents with the mark {TARGET!r} are teacherless: dummies stand in place of their answers; judge them "
            "by evaluate.next_token and Batch.target_tokens"
        )
    label, starts = documents.labels["answer"], documents.ends - documents.lengths
    counts = np.add.reduceat(label, starts, dtype=int)  # (documents,)
    if len(empty := np.flatnonzero(counts == 0)):
        raise ValueError(f"document {empty[0]} has no token with the mark 'answer'; leave it out")
    if len(other := np.flatnonzero(counts != counts[0])):
        raise ValueError(
            f"document {other[0]} has an answer of {counts[other[0]]} tokens, document 0 one of {counts[0]}; "
            "ask for answers of each length on their own"
        )
    places = np.flatnonzero(label).reshape(len(documents), -1)  # (documents, length)
    if len(torn := np.flatnonzero(places[:, -1] - places[:, 0] >= counts[0])):
        raise ValueError(f"document {torn[0]} has other tokens within its answer; mark one piece of it only")
    if len(bare := np.flatnonzero(places[:, 0] == starts)):
        raise ValueError(f"document {bare[0]} begins with its answer; it needs a token before that, such as '='")
    prompts = [documents.tokens[start:end] for start, end in zip(starts, places[:, 0], strict=True)]
    return prompts, documents.tokens[places].astype(int)


def decode_answers(
    model: MTPTransformer | Decoder,
    prompts: Sequence[Sequence[int] | np.ndarray],
    length: int,
    samples: int = 1,
    temperature: float = 0.0,
    draft: int | None = None,
    at_once: int = 256,
    seed: int = 0,
) -> np.ndarray:
    """What the model answers: (documents, samples, length) int, in the order of the prompts.

    Args:
        length: tokens of an answer; exactly as many are decoded.
        samples: answers to each prompt, drawn independently.
        draft: heads used, head 1 included; by default head 1 alone, or a decoder's own.
        at_once: answers decoded at a time. A batch is as wide as its longest prompt, so those of a length go together.
        seed: of the draws; the same samples come back only for the same prompts, draft and at_once, too.

    Raises:
        ValueError: for several samples at temperature 0, where all would be equal; no prompts, an empty one, one that
            does not fit max_seq with its answer; and what `generate` refuses.
    """
    check_positive(length=length, samples=samples, at_once=at_once)
    if samples > 1 and temperature == 0:
        raise ValueError(f"samples={samples} at temperature=0 are all equal; ask for 1, or for a higher temperature")
    if not len(prompts):
        raise ValueError("prompts is empty; give at least one")
    lengths, most = np.array([len(prompt) for prompt in prompts]), model.config.max_seq - length
    if len(wrong := np.flatnonzero((lengths < 1) | (lengths > most))):
        raise ValueError(
            f"prompt {wrong[0]} has {lengths[wrong[0]]} tokens; with an answer of length={length} it can have "
            f"1 to {most}, for the model's max_seq={model.config.max_seq}"
        )
    if not isinstance(model, Decoder):
        model = Decoder(model, 1 if draft is None else draft)
    generator = torch.Generator(model.embedding.device).manual_seed(seed)
    order = np.argsort(lengths, kind="stable")
    rows = np.repeat(order, samples)
    answers = []
    for start in range(0, len(rows), at_once):
        asked = [prompts[row] for row in rows[start : start + at_once]]
        answers.append(generate(model, asked, length, draft, temperature, generator=generator).tokens.numpy())
    said = np.empty((len(prompts), samples, length), int)
    said[order] = np.concatenate(answers).reshape(said.shape)
    return said


def teacher_forced(model: MTPTransformer, documents: Documents, rows_at_once: int = 32) -> TeacherForced:
    """Judges all answers in one forward over packed documents; only the next-token head, and what it stands on, runs.

    Raises ValueError for what `questions` refuses, and for a document that is longer than max_seq.
    """
    right, nll = [], []
    for logits, tokens in _answers(model, documents, rows_at_once):
        right.append(logits.argmax(-1) == tokens)
        nll.append(-logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0])
    return TeacherForced(torch.cat(right).numpy(), torch.cat(nll).numpy())


def answer_probability(
    model: MTPTransformer, documents: Documents, temperatures: Sequence[float], rows_at_once: int = 32
) -> np.ndarray:
    """The probability that a sample is the whole right answer, exact, in one forward: (temperatures, documents).

    It is the product over the answer's tokens of softmax(logits / temperature). Raises ValueError for a temperature
    that is not above 0, and for what `teacher_forced` refuses.
    """
    for temperature in temperatures:
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"temperature={temperature!r} must be above 0; greedy decoding is judged by teacher_forced"
            )
    at = torch.tensor(temperatures, dtype=torch.float64)[:, None, None, None]
    chances = []
    for logits, tokens in _answers(model, documents, rows_at_once):
        told = (logits / at).log_softmax(-1)  # (temperatures, answers, length, vocab)
        index = tokens[..., None].expand(*told.shape[:-1], 1)
        chances.append(told.gather(-1, index)[..., 0].sum(-1).exp())  # (temperatures, answers)
    return torch.cat(chances, dim=1).numpy()


def _answers(model: MTPTransformer, documents: Documents, rows_at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of some documents at a time, in order: fp64 logits (answers, length, vocab), and the tokens (answers, length)."""
    length, device = questions(documents)[1].shape[1], next(model.parameters()).device
    batch = documents.pack(min(max(ROW, int(documents.lengths.max())), model.config.max_seq))
    for start in range(0, batch.rows, rows_at_once):
        part = batch[start : start + rows_at_once]
        row, at = np.nonzero(part.labels["answer"])  # no document is split over rows, so answers are whole
        with torch.no_grad():
            logits = model(*tensors(part, device))[row, at - 1]  # (answers * length, vocab)
        answers = torch.from_numpy(part.tokens[row, at]).long()
        # on the CPU, as not every accelerator knows fp64
        yield logits.cpu().double().unflatten(0, (-1, length)), answers.view(-1, length)


def expected_pass_at_k(p: np.ndarray | float, k: int) -> np.ndarray:
    """The probability that one of k samples is right: 1 - (1 - p)^k, for p of any shape, accurate for small p.

    Raises ValueError for k < 1, and p that is not from 0 to 1.
    """
    check_positive(k=k)
    p = np.asarray(p, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p must be probabilities from 0 to 1, got {p.min()} to {p.max()}")
    with np.errstate(divide="ignore"):  # p = 1: log 0
        return -np.expm1(k * np.log1p(-p))


def pass_at_k(correct: np.ndarray | int, samples: int, k: int) -> np.ndarray:
    """Share of the choices of k samples that hold a right one: 1 - C(samples - correct, k) / C(samples, k).

    Unbiased for `expected_pass_at_k` (Chen et al. 2021, arXiv 2107.03374, eq. 1); `correct` counts the right samples of
    each document, in any shape.

    Raises:
        ValueError: for k that is not 1 to samples, and correct that is no integer from 0 to samples.
    """
    check_positive(samples=samples, k=k)
    if k > samples:
        raise ValueError(f"k={k} is more than samples={samples}; draw at least k")
    correct = np.asarray(correct)
    if correct.dtype.kind not in "iu":
        raise ValueError(f"correct must be integers, right samples of each document, got {correct.dtype}")
    if ((correct < 0) | (correct > samples)).any():
        raise ValueError(f"correct must be from 0 to samples={samples}, got {correct.min()} to {correct.max()}")
    left = samples - np.arange(k)  # (k,) before each draw; of them, after wrong ones only, left - correct are wrong
    return 1 - ((left - correct.astype(int)[..., None]).clip(min=0) / left).prod(axis=-1)


def majority(said: np.ndarray) -> np.ndarray:
    """Each document's most frequent answer, of those equally frequent the one said first.

    (documents, samples, length) -> (documents, length). Raises ValueError for another shape, and for no samples.
    """
    if said.ndim != 3 or not said.shape[1]:
        raise ValueError(f"said must be (documents, samples, length) with at least 1 sample, got shape {said.shape}")
    votes = np.stack([(answers[:, None] == answers).all(-1).sum(-1) for answers in said])  # (documents, samples)
    return said[np.arange(len(said)), votes.argmax(axis=1)]


def majority_baseline(documents: Documents) -> np.ndarray:
    """The most frequent right answer, (length,): what is best said without reading a question.

    Of those equally frequent the smallest, token by token. Raises ValueError for what `questions` refuses.
    """
    answers, counts = np.unique(questions(documents)[1], axis=0, return_counts=True)  # sorted
    return answers[counts.argmax()]


def exact_match(said: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether each answer is right as a whole: (documents, ..., length) and (documents, length) -> (documents, ...).

    `said` can also be one answer (length,) to all, such as `modal`'s. Raises ValueError where the shapes do not fit.
    """
    if said.ndim == 1:
        said = np.broadcast_to(said, (len(right), len(said)))
    if right.ndim != 2 or (len(said), said.shape[-1]) != right.shape:
        raise ValueError(
            f"said must be (documents, ..., length) for right (documents, length); got {said.shape} and {right.shape}"
        )
    return (said == right.reshape(len(right), *[1] * (said.ndim - 2), -1)).all(axis=-1)
