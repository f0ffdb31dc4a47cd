"""Answers of documents that end with an answer: by decoding, teacher-forced, and from several samples.

An answer counts as correct only as a whole (exact match; Gloeckle et al. 2024, section 4.2). With several samples, one
correct sample is enough: pass@k, the measure of the code benchmarks of section 3.1, here on tasks with one correct
answer. The model's probability of the answer gives the expected pass@k without any samples.
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

PACKED_ROW = 128  # tokens: attention takes longer in longer rows, and shorter rows have more padding


@dataclass(frozen=True, eq=False)
class TeacherForced:
    """Predictions of the next-token head for answers, each token given the correct tokens before it."""

    correct: np.ndarray
    """(documents, length) bool, whether the answer's token is the most likely one."""
    nll: np.ndarray
    """(documents, length) cross-entropy of the answer's token, in nats."""

    @property
    def exact(self) -> np.ndarray:
        """(documents,) bool, whether the whole answer is correct, that is, whether greedy decoding gives it."""
        return self.correct.all(axis=1)


def questions(documents: Documents) -> tuple[list[np.ndarray], np.ndarray]:
    """The prompt of each document, up to its answer ("=" included), and the correct answers, (documents, length) int.

    Raises:
        ValueError: for no documents, for documents without the token label "answer", for teacherless documents, and
            for answers that are missing, start their document, are not contiguous or differ in length.
    """
    if not len(documents):
        raise ValueError("there are no documents; give at least one")
    if "answer" not in documents.labels:
        known = ", ".join(documents.labels) or "none"
        raise ValueError(f"documents need the label 'answer' on the tokens of their answers; their labels are: {known}")
    if TARGET in documents.labels:
        raise ValueError(
            f"documents with the label {TARGET!r} are teacherless: their answers are replaced by dummies; evaluate "
            "them by predictions.next_token_predictions and Batch.target_tokens"
        )
    label, starts = documents.labels["answer"], documents.ends - documents.lengths
    counts = np.add.reduceat(label, starts, dtype=int)  # (documents,)
    if len(empty := np.flatnonzero(counts == 0)):
        raise ValueError(f"document {empty[0]} has no token with the label 'answer'; leave it out")
    if len(different := np.flatnonzero(counts != counts[0])):
        raise ValueError(
            f"document {different[0]} has an answer of {counts[different[0]]} tokens, document 0 has one of "
            f"{counts[0]}; call this for each length separately"
        )
    positions = np.flatnonzero(label).reshape(len(documents), -1)  # (documents, length)
    if len(split := np.flatnonzero(positions[:, -1] - positions[:, 0] >= counts[0])):
        raise ValueError(f"document {split[0]} has other tokens within its answer; label one contiguous stretch only")
    if len(no_prompt := np.flatnonzero(positions[:, 0] == starts)):
        raise ValueError(f"document {no_prompt[0]} starts with its answer; it needs a token before it, such as '='")
    prompts = [documents.tokens[start:end] for start, end in zip(starts, positions[:, 0], strict=True)]
    return prompts, documents.tokens[positions].astype(int)


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
    """The model's answers, (documents, samples, length) int, in the order of the prompts.

    Args:
        length: tokens of an answer; exactly this many are decoded.
        samples: answers to each prompt, drawn independently.
        draft: heads used, head 1 included; by default head 1 alone, or a decoder's own number.
        at_once: answers in a batch. Prompts are sorted by length, since a batch is as wide as its longest prompt.
        seed: of the samples, which also depend on the prompts, draft and at_once.

    Raises:
        ValueError: for several samples at temperature 0 (they would be equal), for no prompts, for a prompt that is
            empty or does not fit into max_seq with its answer, and in the cases of `generate`.
    """
    check_positive(length=length, samples=samples, at_once=at_once)
    if samples > 1 and temperature == 0:
        raise ValueError(f"samples={samples} at temperature=0 are all equal; use samples=1 or a higher temperature")
    if not len(prompts):
        raise ValueError("prompts is empty; give at least one")
    lengths, longest = np.array([len(prompt) for prompt in prompts]), model.config.max_seq - length
    if len(invalid := np.flatnonzero((lengths < 1) | (lengths > longest))):
        raise ValueError(
            f"prompt {invalid[0]} has {lengths[invalid[0]]} tokens; with an answer of length={length} it can have "
            f"1 to {longest}, for the model's max_seq={model.config.max_seq}"
        )
    if not isinstance(model, Decoder):
        model = Decoder(model, 1 if draft is None else draft)
    generator = torch.Generator(model.embedding.device).manual_seed(seed)
    order = np.argsort(lengths, kind="stable")
    rows = np.repeat(order, samples)
    decoded = []
    for start in range(0, len(rows), at_once):
        batch = [prompts[row] for row in rows[start : start + at_once]]
        decoded.append(generate(model, batch, length, draft, temperature, generator=generator).tokens.numpy())
    answers = np.empty((len(prompts), samples, length), int)
    answers[order] = np.concatenate(decoded).reshape(answers.shape)  # back to the order of the prompts
    return answers


def teacher_forced(model: MTPTransformer, documents: Documents, rows_at_once: int = 32) -> TeacherForced:
    """Predictions for all answers by one forward pass over packed documents; of the heads, only head 1's path runs.

    Raises:
        ValueError: in the cases of `questions`, and for a document that is longer than max_seq.
    """
    correct, nll = [], []
    for logits, tokens in _answers(model, documents, rows_at_once):
        correct.append(logits.argmax(-1) == tokens)
        nll.append(-logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0])
    return TeacherForced(torch.cat(correct).numpy(), torch.cat(nll).numpy())


def answer_probability(
    model: MTPTransformer, documents: Documents, temperatures: Sequence[float], rows_at_once: int = 32
) -> np.ndarray:
    """The exact probability that a sample is the correct answer, (temperatures, documents), by one forward pass.

    It is the product over the answer's tokens of softmax(logits / temperature).

    Raises:
        ValueError: for a temperature that is not above 0, and in the cases of `teacher_forced`.
    """
    for temperature in temperatures:
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r} must be above 0; for greedy decoding use teacher_forced")
    divisors = torch.tensor(temperatures, dtype=torch.float64)[:, None, None, None]
    probabilities = []
    for logits, tokens in _answers(model, documents, rows_at_once):
        log_p = (logits / divisors).log_softmax(-1)  # (temperatures, answers, length, vocab)
        index = tokens[..., None].expand(*log_p.shape[:-1], 1)
        probabilities.append(log_p.gather(-1, index)[..., 0].sum(-1).exp())  # (temperatures, answers)
    return torch.cat(probabilities, dim=1).numpy()


def _answers(model: MTPTransformer, documents: Documents, rows_at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, for some rows at a time, fp64 logits (answers, length, vocab) and tokens (answers, length), in order."""
    length, device = questions(documents)[1].shape[1], next(model.parameters()).device
    batch = documents.pack(min(max(PACKED_ROW, int(documents.lengths.max())), model.config.max_seq))
    for start in range(0, batch.rows, rows_at_once):
        part = batch[start : start + rows_at_once]
        row, position = np.nonzero(part.labels["answer"])  # no document is split over rows, so answers are complete
        with torch.no_grad():
            logits = model(*tensors(part, device))[row, position - 1]  # (answers * length, vocab)
        answers = torch.from_numpy(part.tokens[row, position]).long()
        # on the CPU, since not every accelerator supports fp64
        yield logits.cpu().double().unflatten(0, (-1, length)), answers.view(-1, length)


def expected_pass_at_k(p: np.ndarray | float, k: int) -> np.ndarray:
    """The probability that at least one of k samples is correct: 1 - (1 - p)^k, accurate for small p of any shape.

    Raises:
        ValueError: for k < 1, and for p that is not from 0 to 1.
    """
    check_positive(k=k)
    p = np.asarray(p, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p must be probabilities from 0 to 1, got {p.min()} to {p.max()}")
    with np.errstate(divide="ignore"):  # p = 1: log 0
        return -np.expm1(k * np.log1p(-p))


def pass_at_k(correct: np.ndarray | int, samples: int, k: int) -> np.ndarray:
    """Share of subsets of k samples with at least one correct sample: 1 - C(samples - correct, k) / C(samples, k).

    An unbiased estimate of `expected_pass_at_k` (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    Args:
        correct: number of correct samples of each document, an integer array of any shape.

    Raises:
        ValueError: for k that is not from 1 to samples, and for correct that is not an integer from 0 to samples.
    """
    check_positive(samples=samples, k=k)
    if k > samples:
        raise ValueError(f"k={k} is more than samples={samples}; draw at least k")
    correct = np.asarray(correct)
    if correct.dtype.kind not in "iu":
        raise ValueError(f"correct must be integers, the number of correct samples, got {correct.dtype}")
    if ((correct < 0) | (correct > samples)).any():
        raise ValueError(f"correct must be from 0 to samples={samples}, got {correct.min()} to {correct.max()}")
    left = samples - np.arange(k)  # (k,) samples before each draw; after wrong draws, left - correct of them are wrong
    return 1 - ((left - correct.astype(int)[..., None]).clip(min=0) / left).prod(axis=-1)


def majority_answer(answers: np.ndarray) -> np.ndarray:
    """Each document's most frequent answer; of equally frequent answers the one that was sampled first.

    Args:
        answers: (documents, samples, length).

    Returns:
        (documents, length).

    Raises:
        ValueError: for another shape, and for no samples.
    """
    if answers.ndim != 3 or not answers.shape[1]:
        raise ValueError(
            f"answers must be (documents, samples, length) with at least 1 sample, got shape {answers.shape}"
        )
    votes = np.stack([(samples[:, None] == samples).all(-1).sum(-1) for samples in answers])  # (documents, samples)
    return answers[np.arange(len(answers)), votes.argmax(axis=1)]


def majority_baseline(documents: Documents) -> np.ndarray:
    """The most frequent correct answer, (length,): the best answer for a model that does not read the question.

    Of equally frequent answers the smallest, token by token. Raises ValueError in the cases of `questions`.
    """
    answers, counts = np.unique(questions(documents)[1], axis=0, return_counts=True)  # sorted
    return answers[counts.argmax()]


def exact_match(answers: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Whether each answer is correct as a whole.

    Args:
        answers: (documents, ..., length), or one answer (length,) for all documents, such as `majority_baseline`.
        correct: (documents, length) the correct answers.

    Returns:
        (documents, ...) bool.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if answers.ndim == 1:
        answers = np.broadcast_to(answers, (len(correct), len(answers)))
    if correct.ndim != 2 or (len(answers), answers.shape[-1]) != correct.shape:
        raise ValueError(
            f"answers must be (documents, ..., length) for correct (documents, length); got {answers.shape} and "
            f"{correct.shape}"
        )
    return (answers == correct.reshape(len(correct), *[1] * (answers.ndim - 2), -1)).all(axis=-1)
