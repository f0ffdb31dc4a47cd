"""Decoding: whatever the heads draft, the text is that of head 1 alone, token for token or in distribution."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtp_lab.config import ModelConfig
from mtp_lab.decoding import generation
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.decoding.generation import generate
from mtp_lab.decoding.speculative_sampling import Sampling, draw
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.transformer import MTPTransformer

KINDS = ("parallel", "causal", "anticausal", "linear", "sequential")
VARIANTS = {
    "plain": {},
    "relative": dict(position="relative", relative_offsets=4),
    "smeared": dict(smeared_keys=True),
    "attention only": dict(attention_only=True),
    "rope base, d_mlp": dict(rope_base=50.0, d_mlp=17),
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 0, 1, 2, 3, 4, 5, 6], [2, 2], [3, 1, 4, 1, 5]]
NEW = 16


def a_model(kind: str = "parallel", n: int = 4, seed: int = 0, vocab: int = 7, **changes) -> MTPTransformer:
    """Random weights, so large that drafts are accepted by chance, often but not always."""
    torch.manual_seed(seed)
    fields = dict(d_model=16, n_attention_heads=2, trunk_layers=1, d_mlp=32, max_seq=64)
    model = MTPTransformer(ModelConfig(vocab_size=vocab, n_future=n, head_kind=kind, **{**fields, **changes}))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if name.endswith(("bias", "smear")) else 0.3)
    return model.eval()


@torch.no_grad()
def cache_free(model: MTPTransformer, prompt: list[int], new: int = NEW) -> list[int]:
    """Greedy decoding that runs the whole text through the model for every token."""
    text = list(prompt)
    for _ in range(new):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


@torch.no_grad()
def blockwise(model: MTPTransformer, prompt: list[int], k: int, new: int = NEW) -> tuple[list[int], list[int]]:
    """Section 3.2 without caches: the drafts of each head come from all_logits of the text so far.

    Returns the number of accepted drafts of each forward pass, and the head that proposed each token.
    """
    text, accepted_by_pass, heads = list(prompt), [], []
    drafts: list[int] = []
    while len(text) - len(prompt) < new:
        best = model(torch.tensor([text + drafts]))[0].argmax(-1).tolist()
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == best[len(text) - 1 + accepted]:
            accepted += 1
        token, end = (
            best[len(text) - 1 + accepted],
            len(text) + accepted - 1,
        )  # end: the last position read and accepted
        text += [*drafts[:accepted], token]
        accepted_by_pass.append(accepted)
        heads += [*range(2, accepted + 2), 1]
        drafts = []
        for horizon in range(2, k + 1):  # sequential heads read the drafts before them
            padded = torch.tensor([[*text, *drafts]])
            drafts.append(int(model.all_logits(padded)[horizon - 1, 0, end].argmax()))
    return accepted_by_pass, heads[:new]


# --- Greedy: the same tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_is_plain_greedy_token_for_token(kind, variant):
    """In fp32, for every k and 1 to 5 prompts of different lengths, the tokens are those of decoding without a cache.
    Every number of accepted drafts occurs, so every length of crop occurs.
    Catches: attention to the keys of a rejected draft, positions of one row used for another, a rotation in the wrong
    layout, drafts that are accepted without verification."""
    model, heads = a_model(kind, **VARIANTS[variant]), set()
    expected = [cache_free(model, prompt) for prompt in PROMPTS]
    for k, batch in itertools.product(range(1, 5), range(1, 6)):
        found = generate(model, PROMPTS[:batch], NEW, draft=k)
        assert found.tokens.tolist() == expected[:batch], (k, batch)
        assert found.lengths.tolist() == [NEW] * batch
        heads |= set(found.heads.flatten().tolist())
    assert heads >= ({1, 2, 3, 4} if kind in ("parallel", "causal", "anticausal") else {1, 2})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_drafts_are_the_predictions_of_the_heads(kind, variant):
    """Each forward pass accepts as many drafts as blockwise decoding without a cache.
    Catches: drafts from a stale cache, position or head. The text would be the same, but decoding slow."""
    model = a_model(kind, seed=1, **VARIANTS[variant])
    for k in (2, 4):
        found = generate(model, PROMPTS[:3], NEW, draft=k)
        for row, prompt in enumerate(PROMPTS[:3]):
            accepted, heads = blockwise(model, prompt, k)
            assert int(found.forward_passes[row]) == len(accepted), (k, row)
            assert found.heads[row].tolist() == heads, (k, row)


@pytest.fixture(scope="module")
def trained() -> MTPTransformer:
    """A model that has learned to count modulo 11."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=11, d_model=16, n_attention_heads=2, trunk_layers=1, n_future=4, max_seq=64)
    model = MTPTransformer(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(60):
        loss = mtp_loss(model, (torch.randint(0, 11, (8, 1)) + torch.arange(16)) % 11).total
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return model.eval()


def test_a_trained_model_accepts_most_drafts(trained):
    """On text that its heads predict well, k heads give nearly k tokens per forward pass, and still the same tokens.
    Catches: an off-by-one that makes every second draft fail."""
    prompts = [[0, 1, 2, 3], [5, 6, 7, 8, 9], [10]]
    expected = [cache_free(trained, prompt, 40) for prompt in prompts]
    for k in range(1, 5):
        found = generate(trained, prompts, 40, draft=k)
        assert found.tokens.tolist() == expected
        assert found.tokens_per_forward_pass > 0.85 * k


@settings(max_examples=25, deadline=None, database=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 5),
    prompts=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=4),
    new=st.integers(1, 20),
    stop=st.sets(st.integers(0, 4), max_size=2),
    data=st.data(),
)
def test_any_request_equals_decoding_without_a_cache(kind, n, prompts, new, stop, data):
    """Prompts, lengths, stop tokens and numbers of heads drawn at random."""
    model = a_model(kind, n, seed=n, vocab=5)
    found = generate(model, prompts, new, draft=data.draw(st.integers(1, n)), stop=stop)
    for row, prompt in enumerate(prompts):
        expected = cache_free(model, prompt, new)
        end = next((i + 1 for i, token in enumerate(expected) if token in stop), new)
        assert found.tokens[row].tolist() == expected[:end] + [-1] * (new - end)
        assert int(found.lengths[row]) == end and (found.heads[row] > 0).sum() == end


# --- Rows that end -------------------------------------------------------------------------------------------------


def test_a_row_ends_at_a_stop_token_and_leaves_the_batch(monkeypatch):
    """The stop token is the last of its row. The other rows go on as if they were alone, in a smaller batch.
    Catches: rows with the cache of another row, a batch that still computes finished rows."""
    model = a_model(seed=7)
    alone = [generate(model, [prompt], NEW, draft=3, stop=[0]) for prompt in PROMPTS]
    sizes = []
    read = Decoder.read
    monkeypatch.setattr(
        Decoder, "read", lambda self, positions: (sizes.append(len(positions)), read(self, positions))[1]
    )
    together = generate(model, PROMPTS, NEW, draft=3, stop=[0])
    assert len({int(a.lengths) for a in alone}) > 2, "the test needs rows that end at different times"
    for row, single in enumerate(alone):
        assert together.tokens[row].tolist() == single.tokens[0].tolist()
        assert together.forward_passes[row] == single.forward_passes[0]
        n = int(single.lengths)
        ended = single.tokens[0, n - 1] == 0
        assert (ended or n == NEW) and (single.tokens[0, : n - 1] != 0).all() and (single.tokens[0, n:] == -1).all()
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == int(together.forward_passes.sum())


def test_streaming_reports_each_forward_pass():
    """The streamed tokens of each row are its text, at most k tokens in a call.
    Catches: tokens after a stop token or the limit, tokens under the number of another row after rows have moved."""
    model = a_model(seed=7)
    for stop in ((), (0,)):
        calls_by_row: list[list[list[int]]] = [[] for _ in PROMPTS]

        def note(row: int, new: list[int], calls_by_row=calls_by_row) -> None:
            calls_by_row[row].append(new)

        found = generate(model, PROMPTS, NEW, draft=3, stop=stop, stream=note)
        for row, calls in enumerate(calls_by_row):
            assert all(1 <= len(call) <= 3 for call in calls) and len(calls) == found.forward_passes[row]
            assert sum(calls, []) == found.tokens[row, : found.lengths[row]].tolist()


def test_counts_and_shares_are_consistent():
    """Plain decoding makes one token per forward pass. Shares fall with the head, and add up to the tokens per pass.
    Catches: shares of drafts that were never verified, forward passes counted for finished rows."""
    model = a_model(seed=1)
    plain = generate(model, PROMPTS, NEW, draft=1)
    assert plain.tokens_per_forward_pass == 1 and plain.accepted_by_head.tolist() == [1.0] and (plain.heads == 1).all()
    found = generate(model, PROMPTS, NEW, draft=4)
    shares = found.accepted_by_head
    assert shares[0] == 1 and (shares.diff() <= 0).all() and found.seconds > 0
    verifying = int(found.forward_passes.sum()) - len(PROMPTS)
    accepted = len(PROMPTS) + float(shares.sum()) * verifying
    assert 0 <= accepted - int(found.lengths.sum()) <= 3 * len(PROMPTS)  # cut off by max_new_tokens
    assert found.tokens_per_forward_pass == pytest.approx(float(found.lengths.sum()) / (verifying + len(PROMPTS)))


def test_no_step_allocates_a_cache():
    """Keys and values stay where they were allocated, and a decoder can be used again.
    Catches: a cache that is concatenated anew for every token."""
    decoder = Decoder(a_model(), 4)
    addresses: set[tuple[int, ...]] = set()

    def note(row: int, tokens: list[int]) -> None:
        addresses.add(tuple(layer.cache.data_ptr() for layer in decoder.layers))

    first = generate(decoder, PROMPTS, NEW, stream=note)
    assert len(addresses) == 1
    again = generate(decoder, PROMPTS, NEW)
    assert again.tokens.tolist() == first.tokens.tolist() == generate(a_model(), PROMPTS, NEW).tokens.tolist()


# --- Sampling: the same distribution -------------------------------------------------------------------------------


@torch.no_grad()
def joint(model: MTPTransformer, prompt: list[int], sampling: Sampling) -> np.ndarray:
    """Exact probabilities of the next three tokens: (vocab ** 3,)."""
    vocab, level = model.config.vocab_size, {(): 1.0}
    for _ in range(3):
        texts = torch.tensor([prompt + list(path) for path in level])
        p = sampling.probabilities(model(texts)[:, -1]).double()
        level = {
            (*path, x): chance * float(p[i, x]) for i, (path, chance) in enumerate(level.items()) for x in range(vocab)
        }
    return np.array(list(level.values()))


def p_value(model: MTPTransformer, draft: int, sampling: dict, rows: int = 3000, calls: int = 4) -> float:
    """p-value of a chi-square test: triples of sampled tokens against the exact joint distribution."""
    prompt, vocab = [1, 2, 3], model.config.vocab_size
    expected = joint(model, prompt, Sampling(**sampling))
    expected *= rows * calls / expected.sum()  # fp32 rounds the sum
    generator = torch.Generator().manual_seed(1)
    counts = np.zeros(vocab**3)
    for _ in range(calls):
        tokens = generate(model, [prompt] * rows, 3, draft=draft, generator=generator, **sampling).tokens.numpy()
        counts += np.bincount(tokens @ [vocab**2, vocab, 1], minlength=vocab**3)
    assert counts[expected == 0].sum() == 0, "a token that is cut off was drawn"
    rare = expected < 8  # one bin for all rare triples
    counts, expected = (np.append(bins[~rare], bins[rare].sum()) for bins in (counts, expected))
    return float(stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue)


CUTS = {
    "warm": dict(temperature=1.3),
    "cool, top-p": dict(temperature=0.8, top_p=0.85),
    "top-k": dict(temperature=1.0, top_k=3),
}


@pytest.mark.parametrize(
    "kind, cut", [("parallel", cut) for cut in CUTS] + [(kind, "cool, top-p") for kind in KINDS[1:]]
)
def test_sampled_text_has_the_models_distribution(kind, cut):
    """Three consecutive tokens, drafted by three heads, have head 1's own joint distribution (12,000 draws).
    Catches: q of another position, the inverse ratio, a token after the drafts drawn from the wrong row."""
    assert p_value(a_model(kind, n=3, seed=5, vocab=4), 3, CUTS[cut]) > 1e-3


def test_the_test_of_the_distribution_has_power(monkeypatch):
    """The same test detects two plausible mistakes: a rejected draft is replaced by a draw from p instead of the
    positive part of p - q, and drafts are accepted with probability p(x) alone.
    Catches: a chi-square test that does not detect a wrong residual."""
    model = a_model("parallel", n=3, seed=5, vocab=4)

    def replaced_from_p(p, drafts, q, generator):
        n_accepted, _ = accept_sampled(p, drafts, q, generator)
        return n_accepted, draw(p[torch.arange(len(p)), n_accepted], generator)

    def accepted_by_p_alone(p, drafts, q, generator):
        return accept_sampled(p, drafts, torch.ones_like(q), generator)

    accept_sampled = generation.accept_sampled
    for wrong in (replaced_from_p, accepted_by_p_alone):
        monkeypatch.setattr(generation, "accept_sampled", wrong)
        assert p_value(model, 3, CUTS["warm"]) < 1e-6


def test_sampling_repeats_with_its_generator():
    """The same seed gives the same text, another seed another text.
    Catches: randomness taken from torch's global generator."""
    model = a_model()

    def text(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return generate(model, PROMPTS, NEW, temperature=1.0, generator=generator).tokens.tolist()

    assert text(1) == text(1) != text(2)


# --- Errors --------------------------------------------------------------------------------------------------------

REFUSED = {
    "no prompts": (dict(prompts=[]), "prompts is empty; give at least one"),
    "an empty prompt": (dict(prompts=[[1], []]), "prompt 1 is empty; give at least one token"),
    "too long": (
        dict(prompts=[[1] * 60], max_new_tokens=5),
        "prompt 0 of 60 tokens and max_new_tokens=5 do not fit the model's max_seq=64; cut the prompt or ask for 4",
    ),
    "an unknown token": (dict(prompts=[[1, 7]]), "prompt 0 holds tokens 1 to 7; the model knows 0 to 6"),
    "more heads than there are": (dict(draft=5), "draft=5 must be an integer from 1 to the model's n_future=4"),
    "no head": (dict(draft=0), "draft=0 must be an integer from 1"),
    "no new tokens": (dict(max_new_tokens=0), "max_new_tokens=0 must be an integer of at least 1"),
    "a negative temperature": (dict(temperature=-0.5), "temperature=-0.5 must be 0"),
    "nan as temperature": (dict(temperature=float("nan")), "temperature=nan must be 0"),
    "too low a temperature": (dict(temperature=1e-39), "temperature=1e-39 must be 0 .greedy., or 1e-06 or above"),
    "no probability": (dict(temperature=1.0, top_p=0.0), "top_p=0.0 must be above 0 and at most 1"),
    "a negative top_k": (dict(temperature=1.0, top_k=-1), "top_k=-1 must be an integer of at least 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_requests_raise(case):
    """Before anything is computed, with the value and the fix."""
    request, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        generate(a_model(), **{"prompts": [[1, 2]], "max_new_tokens": 5, **request})


def test_a_decoder_keeps_its_number_of_heads():
    """Another draft than the decoder's would be ignored silently."""
    with pytest.raises(ValueError, match="draft=2 is not the decoder's 3"):
        generate(Decoder(a_model(), 3), [[1]], 4, draft=2)
