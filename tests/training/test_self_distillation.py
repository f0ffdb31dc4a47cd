"""Drafts that learn the text of head 1: plain decoding stays the same, bit for bit, and more drafts are accepted."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_gen import Batch
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.decoding.generation import generate
from mtp_lab.experiments.self_speculation.conditions import SPECULATION, speculation_configs
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import BytesTask
from mtp_lab.training import runs
from mtp_lab.training.loop import load_weights
from mtp_lab.training.runs import Run
from mtp_lab.training.self_distillation import GENERATED, continue_rows, freeze_next_token

SEQ, COUNT, N = 32, 20, 3
KINDS = ("parallel", "causal", "linear", "sequential")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    """Texts of a few words in random order, which a small model learns quickly."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    words = np.array(["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat"])
    for i in range(60):
        (folder / f"{i}.txt").write_text(" ".join(words[rng.integers(0, len(words), size=60)]))
    return str(folder)


def model_of(kind: str = "parallel", **changes) -> ModelConfig:
    fields = dict(d_model=32, n_attention_heads=2, n_layers=N + 1, n_future=N, head_kind=kind, max_seq=SEQ, d_mlp=32)
    return ModelConfig(**{**fields, **changes})


def config_of(corpus: str, **changes) -> TrainConfig:
    fields = dict(
        task=BytesTask(paths=(corpus,), seq=SEQ),
        model=model_of(),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=5),
        steps=60,
        batch_size=8,
        log_every=1,
        evaluate_every=50,
        evaluate_rows=4,
        precision="fp32",
    )
    return TrainConfig(**{**fields, **changes})


def on_own_text(source: Run, **changes) -> TrainConfig:
    return replace(source.config, init_from=source.config.folder, self_distilled_tokens=COUNT, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def source(corpus, folder) -> Run:
    return runs.get_run(config_of(corpus), folder)


def test_rows_continue_with_head_1s_greedy_text(source):
    """The first tokens of each row are the task's. Every later token is head 1's most likely one after all
    tokens before it, by a plain forward pass.
    Catches: a continuation off by one, of another row, or of the real text."""
    model, batch = source.model(), source.config.task.batch(5, 0, 0)
    rows = continue_rows(model, batch, COUNT)
    assert np.array_equal(rows.tokens[:, : SEQ - COUNT], batch.tokens[:, : SEQ - COUNT])
    with torch.no_grad():
        best = model(torch.from_numpy(rows.tokens).long()).argmax(-1).numpy()
    assert np.array_equal(rows.tokens[:, SEQ - COUNT :], best[:, SEQ - COUNT - 1 : -1])
    assert not np.array_equal(rows.tokens, batch.tokens)
    assert np.array_equal(rows.labels[GENERATED], np.broadcast_to(np.arange(SEQ) >= SEQ - COUNT, (5, SEQ)))
    assert (rows.documents == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_plain_decoding_as_it_was(kind, corpus, folder):
    """The weights on head 1's path stay equal to the source's, bit for bit, and so does the text of plain decoding.
    Catches: weight decay on frozen weights, an unembedding that drafts train, a head that does not learn."""
    source = runs.get_run(config_of(corpus, model=model_of(kind), steps=3), folder)
    taught = runs.get_run(on_own_text(source, steps=4), folder)
    before, after = load_weights(source.path), load_weights(taught.path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("heads.2.", "heads.3.", "joins."))}
    prompt = [source.config.task.batch(1, 9, 9).tokens[0, :8].tolist()]
    texts = [generate(run.model(), prompt, 16, draft=k).tokens for run, k in ((source, 1), (taught, 1), (taught, N))]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


def test_loss_counts_generated_tokens_only(source, folder):
    """The first logged loss is the mean over targets that head 1 generated, for every horizon.
    Catches: prompts that count, drafts of the first generated tokens left out, training on real text instead."""
    taught = runs.get_run(on_own_text(source, steps=1, seed=5), folder)
    model, generated = source.model(), continue_rows(source.model(), source.config.task.batch(8, 0, 5), COUNT)
    tokens = torch.from_numpy(generated.tokens).long()
    with torch.no_grad():
        log_p = model.all_logits(tokens).log_softmax(-1)  # (n, rows, seq, vocab)
    expected = []
    for i in range(1, N + 1):
        nll = -log_p[i - 1, :, :-i].gather(-1, tokens[:, i:, None])[..., 0]  # (rows, seq - i), of the token i further
        expected.append(float(nll[:, SEQ - COUNT - i :].mean()))
    assert runs.read_log(taught.path)[0]["train"] == pytest.approx(expected, rel=1e-4)


class Failing(BytesTask):
    """The same fields, so the same hash and folder; the batch of step 3 does not come."""

    def batch(self, rows: int, step: int, seed: int) -> Batch:
        if step == 3:
            raise OSError("the disk is gone")
        return super().batch(rows, step, seed)


def test_resumed_is_uninterrupted(source, folder, tmp_path):
    """A run that broke off after a checkpoint ends in the bits of one that did not.
    Catches: text written by weights other than the source's, optimizer state of frozen weights that gets mixed up."""
    whole = on_own_text(source, steps=5, checkpoint_every=2, seed=3)
    shutil.copytree(source.path, tmp_path / source.config.folder)
    with pytest.raises(OSError, match="the disk is gone"):
        runs.get_run(replace(whole, task=Failing(**asdict(whole.task))), tmp_path)
    broken = tmp_path / whole.folder
    assert not (broken / "done.json").exists() and list((broken / "checkpoints").iterdir())
    resumed, one_go = load_weights(runs.get_run(whole, tmp_path).path), load_weights(runs.get_run(whole, folder).path)
    assert all(torch.equal(resumed[name], one_go[name]) for name in one_go)


def test_more_drafts_of_generated_text_are_accepted(source, folder):
    """A forward pass accepts clearly more tokens of the model's own text after prompts that are not in training.
    Catches: heads that learn text which decoding does not generate (other positions, other continuations)."""
    taught = runs.get_run(on_own_text(source, steps=150), folder)
    prompts = source.config.task.held_out("test", 16).tokens[:, : SEQ - COUNT].tolist()
    before, after = (generate(run.model(), prompts, COUNT) for run in (source, taught))
    assert torch.equal(before.tokens, after.tokens)
    assert after.tokens_per_forward_pass > before.tokens_per_forward_pass + 0.2


def test_no_gradient_where_the_trunk_reads_nothing_from_drafts(source):
    """Heads that read the trunk detached (`stop_gradient`, which saves time) get the gradients of heads that do not.
    Catches: presets whose drafts train differently for being faster."""
    tokens, gradients = torch.from_numpy(source.config.task.batch(4, 1, 1).tokens).long(), []
    for stopped in ((), tuple(range(1, N + 1))):
        model = MTPTransformer(replace(source.config.model, stop_gradient=stopped))
        model.load_state_dict(source.model().state_dict())
        freeze_next_token(model)
        mtp_loss(model, tokens).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(name.startswith(("heads.2", "heads.3")) for name in gradients[0])
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(self_distilled_tokens=SEQ), "self_distilled_tokens=32 must be a number of tokens below task.seq=32"),
        (dict(self_distilled_tokens=-1), "self_distilled_tokens=-1 must be"),
        (dict(self_distilled_tokens=True), "self_distilled_tokens=True must be"),
        (dict(self_distilled_tokens=8, init_from=""), "self_distilled_tokens=8 needs a trained head 1"),
        (dict(self_distilled_tokens=8, model=model_of(n_future=1, n_layers=2)), "n_future=1, head_kind='parallel'"),
        (dict(self_distilled_tokens=8, model=model_of("anticausal")), "every head is on the path of head 1"),
        (dict(self_distilled_tokens=8, label_weights=(("rest", 2.0),)), "trains on generated tokens only"),
    ],
)
def test_invalid_configs_are_refused(changes, message, corpus):
    """Each is refused at construction, with the value and the fix. Catches: a training that dies at its first step."""
    with pytest.raises(ValueError, match=message):
        config_of(corpus, **{"init_from": "bytes/source", **changes})


@pytest.mark.parametrize("preset", SPECULATION)
def test_presets_teach_the_drafts_of_the_model_trained_longest(preset):
    """One run a seed, and one more for each training with linear heads, goes on from the longest training on code and
    writes as much as the notebook's texts are long. Heads of both kinds share out as many layers."""
    configs, chosen = speculation_configs(preset, 2), SPECULATION[preset]
    taught = [config for config in configs if config.self_distilled_tokens]
    folders = {config.folder: config for config in configs}
    longest = ("parallel", max((chosen.steps, *chosen.other_steps)), chosen.batch_size)
    lengths = [longest, *(("linear", *length) for length in chosen.linear_heads)]
    sources = [folders[config.init_from] for config in taught]
    found = [(s.seed, s.model.head_kind, s.steps, s.batch_size) for s in sources]
    assert found == [(seed, *length) for seed in (0, 1) for length in lengths]
    for config, source in zip(taught, sources, strict=True):
        assert source.model.n_future == chosen.main_n and source.task == config.task
        assert source.model.head_kind == config.model.head_kind
        assert source.model.n_layers == chosen.size["trunk_layers"] + chosen.main_n
        assert config.self_distilled_tokens == config.task.seq - chosen.prompt


def test_labels_of_the_task_are_dropped(source):
    """The task's labels do not describe generated tokens. Catches: a generated token that is weighted as an answer."""
    batch = source.config.task.batch(2, 0, 0)
    labelled = Batch(batch.tokens, batch.documents, {"answer": np.ones(batch.tokens.shape, bool)})
    assert set(continue_rows(source.model(), labelled, COUNT).labels) == {GENERATED}
