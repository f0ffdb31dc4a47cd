"""Answers: teacher-forced predictions agree with decoding, and pass@k is the count that it is defined as."""

import copy
import itertools
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from data_gen.batch import Documents
from data_gen.polynomials.stream import Polynomials
from data_gen.star_graph import StarGraphs
from mtp_lab.config import ModelConfig
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.evaluation import answers
from mtp_lab.model.predictions import tensors
from mtp_lab.model.transformer import MTPTransformer

SMALL = Polynomials(p=2, d=2, max_operations=2)  # answers of 2 of 13 tokens, prompts of 4 to 9


def a_model(n: int, max_seq: int = 24) -> MTPTransformer:
    """Random weights, large enough for confident answers. Rows of 24 tokens hold one or two documents."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=SMALL.vocab_size, d_model=32, n_attention_heads=2, n_layers=n + 1, n_future=n,
                         d_mlp=32, max_seq=max_seq)  # fmt: skip
    model = MTPTransformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def with_answers(documents: Documents, new_answers: np.ndarray) -> Documents:
    """The same documents with other answers, (documents, length)."""
    tokens = documents.tokens.copy()
    tokens[documents.labels["answer"]] = new_answers.ravel()
    return Documents(tokens, documents.lengths, documents.labels)


@torch.no_grad()
def cache_free(model: MTPTransformer, prompt: np.ndarray, length: int) -> list[int]:
    """Greedy decoding that runs the whole text of one document for every token."""
    text = prompt.tolist()
    for _ in range(length):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


@torch.no_grad()
def answer_logits(model: MTPTransformer, prompt: np.ndarray, answer: np.ndarray) -> torch.Tensor:
    """(length, vocab) logits of an answer's tokens, from one forward pass over one document for each token."""
    texts = [[*prompt.tolist(), *answer[:i].tolist()] for i in range(len(answer))]
    return torch.stack([model(torch.tensor([text]))[0, -1] for text in texts])


@cache
def random_case(n: int) -> tuple[MTPTransformer, Documents]:
    """A random model; every second answer is replaced by the one it decodes."""
    model, documents = a_model(n), SMALL.documents(24, np.random.default_rng(1))
    prompts, right = answers.questions(documents)
    for i in range(0, 24, 2):
        right[i] = cache_free(model, prompts[i], 2)
    return model, with_answers(documents, right)


@cache
def trained_case(n: int) -> tuple[MTPTransformer, Documents]:
    """A model that has memorised the first 30 of 80 documents, in rows of up to 128 tokens."""
    torch.manual_seed(0)
    documents = SMALL.documents(80, np.random.default_rng(2))
    model = MTPTransformer(ModelConfig(vocab_size=SMALL.vocab_size, d_model=32, n_attention_heads=2, n_layers=3,
                                       n_future=n, max_seq=256))  # fmt: skip
    batch = documents[:30].pack(64)
    tokens, owners = tensors(batch)
    weights = list(model.parameters())
    for learning_rate in np.linspace(0.01, 0.001, 50):
        logits = model.all_logits(tokens, owners)
        is_answer = [torch.from_numpy(batch.labels["answer"][:, i:]) for i in range(1, n + 1)]
        loss = sum(
            F.cross_entropy(logits[i - 1, :, :-i][label], tokens[:, i:][label])
            for i, label in enumerate(is_answer, start=1)
        )
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= learning_rate * gradient.sign()  # torch.optim would first import the compiler, for seconds
    return model.eval(), documents


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0, 3])
def test_questions_end_at_the_equals_sign(pause):
    """Prompt, answer and "end" are the whole document.
    Catches: pauses or "=" left out, the answers of other documents."""
    stream = Polynomials(p=3, d=3, max_operations=4, pause=pause)
    documents = stream.documents(30, np.random.default_rng(0))
    prompts, right = answers.questions(documents)
    assert right.shape == (30, 3) and all(prompt[-1] == stream.equals for prompt in prompts)
    whole = [np.concatenate([prompt, answer, [stream.end]]) for prompt, answer in zip(prompts, right, strict=True)]
    assert np.array_equal(np.concatenate(whole), documents.tokens)


def test_questions_of_graphs_have_their_paths_as_answers():
    """Documents that end with their answer, without an "end"."""
    graphs = StarGraphs(degree=2, length=4, nodes=12)
    documents = graphs.documents(10, np.random.default_rng(0))
    prompts, right = answers.questions(documents)
    whole = documents.tokens.reshape(10, -1)
    assert right.tolist() == [graphs.solve(row) for row in whole]
    assert np.array_equal(np.stack(prompts), whole[:, : graphs.answer_start])


def test_documents_without_a_proper_answer_are_refused():
    """Each message names the first document that is wrong."""

    def marked(*labels: str) -> Documents:
        flat = np.array([m == "a" for m in "".join(labels)])
        return Documents(np.zeros(len(flat), np.int32), np.array([len(m) for m in labels]), {"answer": flat})

    assert answers.questions(marked(".aa", "..aa."))[1].shape == (2, 2)
    for documents, message in (
        (marked(".aa", "...", "..."), "document 1 has no token with the label 'answer'"),
        (marked("...", ".aa"), "document 0 has no token"),
        (marked(".aa", "..aa", ".aaa"), "document 2 has an answer of 3 tokens, document 0 has one of 2"),
        (marked(".aa", ".a.a"), "document 1 has other tokens within its answer"),
        (marked(".aa", "aa."), "document 1 starts with its answer"),
        (SMALL.documents(3, np.random.default_rng(0))[:0], "no documents"),
        (Documents(np.zeros(2, np.int32), np.array([2]), {"m": np.zeros(2, np.float32)}), "their labels are: m"),
        (
            StarGraphs(2, 3, 8, "teacherless").documents(2, np.random.default_rng(0)),
            "'target' are teacherless: their answers are replaced by dummies",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            answers.questions(documents)


# --- decoding and teacher forcing -------------------------------------------------------------------------------------


def exact_by_decoding(model: MTPTransformer, documents: Documents, draft: int) -> np.ndarray:
    prompts, right = answers.questions(documents)
    return answers.exact_match(answers.decode_answers(model, prompts, right.shape[1], draft=draft), right)[:, 0]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("case", [random_case, trained_case])
def test_teacher_forcing_is_exact_where_greedy_decoding_is(case, n):
    """Teacher forcing and decoding agree on whole answers, whatever drafts are used.
    Catches: documents that see each other, logits of the wrong position, answers of other documents."""
    model, documents = case(n)
    found = answers.teacher_forced(model, documents)
    assert 0.2 < found.exact.mean() < 0.95
    if case is random_case:
        assert found.exact[::2].all()
    for draft in range(1, n + 1):
        assert np.array_equal(exact_by_decoding(model, documents, draft), found.exact)


@pytest.mark.parametrize("n", [1, 2])
def test_teacher_forcing_predicts_each_token_from_the_correct_ones(n):
    """Against forward passes over single documents, for any number of rows at once.
    Catches: a wrong first token that takes the second one with it, chunks out of order."""
    model, documents = random_case(n)
    rng = np.random.default_rng(0)
    prompts, right = answers.questions(documents)
    right[1::2, 0] = rng.integers(0, 4, 12)
    right[1::2, 1] = [int(answer_logits(model, prompts[i], right[i])[1].argmax()) for i in range(1, 24, 2)]
    documents = with_answers(documents, right)
    logits = torch.stack(
        [answer_logits(model, *pair) for pair in zip(prompts, right, strict=True)]
    )  # (documents, 2, vocab)
    nll = F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(right), reduction="none").numpy()
    for rows_at_once in (1, 7, 32):
        found = answers.teacher_forced(model, documents, rows_at_once)
        assert np.array_equal(found.correct, logits.argmax(-1).numpy() == right)
        np.testing.assert_allclose(found.nll, nll, rtol=1e-4, atol=1e-5)
    assert (~found.correct[:, 0] & found.correct[:, 1]).any()


def test_teacher_forcing_does_not_run_draft_heads():
    """Heads beyond the first have no influence. Catches: all_logits, and a loss over horizons."""
    model, documents = random_case(2)
    broken = copy.deepcopy(model)
    for parameter in broken.parameters_of_head(2):
        parameter.data.fill_(torch.nan)
    broken.heads["2"].register_forward_hook(lambda *_: pytest.fail("a draft head has run"))
    assert np.array_equal(answers.teacher_forced(broken, documents).nll, answers.teacher_forced(model, documents).nll)


def test_a_document_longer_than_max_seq_is_refused():
    with pytest.raises(ValueError, match="max_seq"):
        answers.teacher_forced(a_model(1, max_seq=8), SMALL.documents(40, np.random.default_rng(0)))


@pytest.mark.parametrize("n", [1, 2])
def test_decoded_answers_are_those_of_each_prompt(n, monkeypatch):
    """Against decoding without a cache, in the prompts' order; prompts of a length are decoded together.
    Catches: answers in the order of the lengths, batches of any prompts."""
    model, documents = random_case(n)
    prompts, widths, generate = answers.questions(documents)[0], [], answers.generate

    def watched(decoder, batch, *args, **kwargs):
        widths.append([len(prompt) for prompt in batch])
        return generate(decoder, batch, *args, **kwargs)

    monkeypatch.setattr(answers, "generate", watched)
    reference = [cache_free(model, prompt, 3) for prompt in prompts]
    for draft in range(1, n + 1):
        decoded = answers.decode_answers(model, prompts, 3, draft=draft, at_once=7)
        assert decoded.shape == (24, 1, 3) and decoded[:, 0].tolist() == reference
        assert np.array_equal(answers.decode_answers(Decoder(model, draft), prompts, 3), decoded)
    assert list(map(len, widths[:4])) == [7, 7, 7, 3]
    assert sum(widths[:4], []) == sorted(map(len, prompts)) != list(map(len, prompts))


def test_samples_can_be_drawn_again():
    """By their seed; samples of one prompt differ. Catches: one generator for all batches started anew, no seed."""
    model, documents = random_case(2)
    prompts = [answers.questions(documents)[0][0]] * 8
    settings = dict(length=4, samples=4, temperature=1.5, at_once=8)
    decoded = answers.decode_answers(model, prompts, **settings, seed=3)
    assert np.array_equal(answers.decode_answers(model, prompts, **settings, seed=3), decoded)
    assert not np.array_equal(answers.decode_answers(model, prompts, **settings, seed=4), decoded)
    assert len(np.unique(decoded.reshape(-1, 4), axis=0)) > 8  # the batches hold 8 each
    assert all(len(np.unique(document, axis=0)) > 1 for document in decoded)


def test_decoding_refuses_what_cannot_be_meant():
    """Prompts are named by their own number, not by that of their batch."""
    model, prompts = a_model(2), [[1] * 20, [1, 2], [1] * 23]
    for arguments, message in (
        (dict(prompts=prompts[:2], length=2, samples=2), "samples=2 at temperature=0"),
        (dict(prompts=prompts, length=2), "prompt 2 has 23 tokens; with an answer of length=2 it can have 1 to 22"),
        (dict(prompts=[[1], []], length=2), "prompt 1 has 0 tokens"),
        (dict(prompts=[], length=2), "prompts is empty"),
        (dict(prompts=[[1]], length=0), "length=0"),
        (dict(prompts=[[1]], length=1, samples=0), "samples=0"),
        (dict(prompts=[[1]], length=1, at_once=0), "at_once=0"),
        (dict(prompts=[[1]], length=1, draft=3), "draft=3"),
        (dict(prompts=[[1]], length=1, temperature=-1.0), "temperature=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            answers.decode_answers(model, **arguments)
    with pytest.raises(ValueError, match="draft=1 is not the decoder's 2"):
        answers.decode_answers(Decoder(model, 2), [[1]], 1, draft=1)


# --- probability -----------------------------------------------------------------------------------------------------


def test_answer_probability_is_the_product_of_what_sampling_draws_from():
    """All 13^2 answers to one question share out probability 1, each as its tokens do, at several temperatures.
    Catches: a temperature on top of probabilities, logits that have seen the token, fp32 sums."""
    model, stream, temperatures = a_model(2).double(), SMALL, (0.3, 1.0, 2.5)
    question = stream.documents(5, np.random.default_rng(3))[4:5]
    every = np.array(list(itertools.product(range(stream.vocab_size), repeat=2)))
    n = len(every)
    labels = {"answer": np.tile(question.labels["answer"], n)}
    documents = with_answers(Documents(np.tile(question.tokens, n), np.tile(question.lengths, n), labels), every)
    found = answers.answer_probability(model, documents, temperatures)
    assert found.shape == (3, n) and np.ptp(found[1]) > 0.01
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    prompts, _ = answers.questions(documents)
    for answer, row in zip(every[::9], found.T[::9], strict=True):
        logits = answer_logits(model, prompts[0], answer)
        for temperature, probability in zip(temperatures, row, strict=True):
            expected = (logits / temperature).softmax(-1)[[0, 1], answer].prod()
            assert probability == pytest.approx(float(expected), rel=1e-10)


def test_answer_probability_is_of_each_document():
    """At temperature 1 it is exp(-nll) of teacher_forced. Catches: documents in another order, chunks side by side."""
    model, documents = random_case(1)
    nll = answers.teacher_forced(model, documents).nll.sum(axis=1)
    for rows_at_once in (3, 32):
        found = answers.answer_probability(model, documents, [1.0, 0.5], rows_at_once)
        assert found.shape == (2, 24)
        np.testing.assert_allclose(found[0], np.exp(-nll), rtol=1e-4)
    for temperature in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"temperature={temperature}"):
            answers.answer_probability(model, documents, [1.0, temperature])


@pytest.mark.parametrize("n", [1, 2])
def test_samples_are_right_as_often_as_is_probable(n):
    """Binomial tests of every question, with and without drafts; the same counts rule out another temperature."""
    model, documents = trained_case(n)
    documents = documents[22:38]  # half of them memorised
    prompts, right = answers.questions(documents)
    expected, other = answers.answer_probability(model, documents, [2.0, 1.5])
    for draft in range(1, n + 1):
        decoded = answers.decode_answers(model, prompts, 2, samples=250, temperature=2.0, draft=draft)
        counts = answers.exact_match(decoded, right).sum(axis=1)
        p = [[stats.binomtest(c, 250, q).pvalue for c, q in zip(counts, row, strict=True)] for row in (expected, other)]
        assert min(p[0]) > 1e-3 / 16 > min(p[1])


# --- choosing among samples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_choices(n):
    """Against all choices of k of n samples, c of them right; documents at once or one by one."""
    for k in range(1, n + 1):
        chosen = list(itertools.combinations(range(n), k))
        share = [np.mean([min(choice) < c for choice in chosen]) for c in range(n + 1)]
        np.testing.assert_allclose(answers.pass_at_k(np.arange(n + 1), n, k), share, rtol=1e-12, atol=0)
        assert answers.pass_at_k(n, n, k) == 1 and answers.pass_at_k(0, n, k) == 0
    assert answers.pass_at_k(np.ones((2, 3), np.uint8), 7, 3).shape == (2, 3)


def test_pass_at_k_is_unbiased():
    """Its mean over right samples of 200, a binomial number, is what the probability says.
    Catches: k samples drawn with replacement, overflow in the binomial coefficients."""
    for p, k in itertools.product((0.001, 0.1, 0.6), (1, 10, 100, 200)):
        c = np.arange(201)
        mean = (stats.binom.pmf(c, 200, p) * answers.pass_at_k(c, 200, k)).sum()
        assert mean == pytest.approx(float(answers.expected_pass_at_k(p, k)), rel=1e-9)


def test_expected_pass_at_k_of_extremes():
    """Tiny probabilities do not vanish, certain ones make no warning."""
    found = answers.expected_pass_at_k(np.array([[0.0, 1e-18], [0.5, 1.0]]), 10)
    np.testing.assert_allclose(found, [[0, 1e-17], [1 - 0.5**10, 1]], rtol=1e-12)


def test_impossible_counts_are_refused():
    for arguments, message in (
        ((3, 5, 6), "k=6 is more than samples=5"),
        ((6, 5, 2), "from 0 to samples=5, got 6 to 6"),
        ((np.array([2, -1]), 5, 2), "got -1 to 2"),
        ((1, 5, 0), "k=0"),
        ((0, 0, 1), "samples=0"),
        ((np.array([0.5]), 5, 1), "must be integers.*float64"),
    ):
        with pytest.raises(ValueError, match=message):
            answers.pass_at_k(*arguments)
    for p, k, message in ((0.5, 0, "k=0"), (1.5, 2, "1.5"), ([0.1, -0.5], 2, "-0.5 to 0.1"), (float("nan"), 1, "nan")):
        with pytest.raises(ValueError, match=message):
            answers.expected_pass_at_k(p, k)


def test_majority_is_the_most_frequent_answer():
    """Against counters, which keep the order of insertion: of a tie, the first sample.
    Catches: the most frequent token at each place, the smallest of a tie."""
    decoded = np.random.default_rng(0).integers(0, 3, (200, 6, 2))
    counters = [Counter(map(tuple, document.tolist())) for document in decoded]
    assert answers.majority_answer(decoded).tolist() == [list(counter.most_common(1)[0][0]) for counter in counters]
    tied = [counter for counter in counters if list(counter.values()).count(max(counter.values())) > 1]
    assert 20 < len(tied) < 180 and any(min(counter) != counter.most_common(1)[0][0] for counter in tied)
    for wrong in (decoded[0], decoded[:, :0]):
        with pytest.raises(ValueError, match=r"at least 1 sample, got shape \("):
            answers.majority_answer(wrong)


def test_majority_baseline_is_the_most_frequent_correct_answer():
    """Of a tie the smallest, by the first token first; it is correct where the answer equals it."""
    documents = SMALL.documents(6, np.random.default_rng(0))
    right = np.array([[2, 0], [1, 3], [2, 0], [0, 9], [1, 3], [0, 8]])
    assert answers.majority_baseline(with_answers(documents, right)).tolist() == [1, 3]
    assert answers.majority_baseline(with_answers(documents[:5], right[:5])).tolist() == [1, 3]
    assert answers.majority_baseline(with_answers(documents[:4], right[:4])).tolist() == [2, 0]
    assert answers.exact_match(np.array([1, 3]), right).tolist() == [False, True, False, False, True, False]


def test_exact_match_compares_whole_answers_of_the_same_document():
    """Any axes between. Catches: samples held against other documents' answers, one right token that is enough."""
    right = np.array([[1, 2], [3, 4]])
    decoded = np.array([[[1, 2], [3, 4]], [[3, 2], [3, 4]]])
    assert answers.exact_match(decoded, right).tolist() == [[True, False], [False, True]]
    assert answers.exact_match(decoded[:, None], right).shape == (2, 1, 2)
    assert answers.exact_match(right, right).tolist() == [True, True]
    for wrong in (decoded[:1], decoded[..., :1], np.array([1])):
        with pytest.raises(ValueError, match=r"\(2, 2\)"):
            answers.exact_match(wrong, right)
