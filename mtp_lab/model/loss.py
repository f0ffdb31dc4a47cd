"""The multi-token loss (Gloeckle et al. 2024, Eq. 2), once as it is written and once in the memory of one head.

    L_n = - sum_i w_i mean_t log P(x_{t+i} | x_{<=t})        mean over the valid targets of horizon i

The mean may weigh tokens (answers alone, say): a token then counts its weight at whichever horizon it is predicted.

`reference` holds the logits of all heads at once: O(nV) memory a position. `sequential` is the paper's Figure 2 for
every head kind: each head is run, unembedded and back-propagated before the next one is, so that one head's logits
exist at a time, O(V), and of these only a chunk of positions. Both give the same gradients through
`loss.total.backward()`, under autocast, gradient accumulation and DistributedDataParallel.

PyTorch's chunked `linear_cross_entropy` would do a head's part, but in bf16 it rounds the sum of the losses (by 1 % at
16k positions) and the gradient of the unembedding from chunk to chunk. Here both are added up in fp32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtp_lab.config import check_choice
from mtp_lab.model.layers import Context
from mtp_lab.model.targets import IGNORE, future_targets, target_weights
from mtp_lab.model.transformer import MTPTransformer

CHUNK_LOGITS = 2**20  # logits alive at a time, about; larger chunks are no faster
FEWEST_ROWS = 256  # positions in a chunk, however large the vocabulary: fewer are slower
Method = Literal["sequential", "reference"]


@dataclass(frozen=True)
class Loss:
    """What to back-propagate, (); and the mean nats of each horizon, (n_future,), unweighted and detached."""

    total: Tensor
    per_horizon: Tensor


def mtp_loss(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None = None,
    weights: Sequence[float] | Tensor | None = None,
    method: Method = "sequential",
    counts: Tensor | None = None,
    token_weights: Tensor | None = None,
    target_tokens: Tensor | None = None,
    causes: Tensor | None = None,
) -> Loss:
    """Eq. 2 on a batch.

    Args:
        model: trunk and heads.
        tokens: (batch, seq) token ids.
        documents: (batch, seq) document of each token, -1 for padding; attention and targets stay inside documents.
        weights: n_future weights w_i of the horizons; all 1 by default, as in the paper.
        method: "sequential" (the memory of one head) or "reference" (everything at once).
        counts: (n_future,) the sum of the targets' weights to divide by, where this batch is one part of a larger one
            (gradient accumulation, several processes); by default this batch's own. A horizon without any gives 0.
        token_weights: (batch, seq) what each token counts where it is a target, none negative; all 1 by default.
            `per_horizon` are means with the same weights.
        target_tokens: (batch, seq) the token to be said in each place, where it is not the one that is read there
            (teacherless training; `data_gen.Batch.target_tokens`).
        causes: (batch, seq) how far before each token the one that decides it stands, where horizons that have not
            read it are not to count (`targets.target_weights`).

    Raises:
        ValueError: for an unknown method, or weights that are not n_future non-negative numbers.
    """
    check_choice("method", method, Method)
    context = model.context(tokens, documents)  # checks the shapes
    targets = future_targets(tokens if target_tokens is None else target_tokens, model.config.n_future, documents)
    trunk = model.trunk(tokens, context)
    weights = _checked(weights, model.config.n_future).to(trunk.device, torch.promote_types(trunk.dtype, torch.float32))
    shares = target_weights(targets, token_weights, causes).to(weights.dtype)
    counts = shares.sum(dim=(1, 2)) if counts is None else counts
    counts = counts.where(counts > 0, 1)
    if method == "reference":
        means = _reference(model, trunk, tokens, context, targets, shares) / counts
        return Loss((weights * means).sum(), means.detach())
    job = _Job(model, tokens, context, targets, shares, weights, counts, differentiate=torch.is_grad_enabled())
    return Loss(*_Sequential.apply(trunk, job, *job.parameters))


def token_losses(model: MTPTransformer, latent: Tensor, targets: Tensor) -> Tensor:
    """-log P(target) in nats, fp32 at least: latent (positions, d_model), targets (positions,) -> (positions,).

    0 where there is no target. All logits are alive at once.
    """
    logits = model.unembedded(latent)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def in_compute_precision(x: Tensor) -> Tensor:
    """As autocast would hand it to a matrix product."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def chunks(model: MTPTransformer, latent: Tensor, *aligned: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """(batch, seq, d_model) and any (batch, seq), cut into runs of positions whose logits one can afford at once."""
    rows = max(FEWEST_ROWS, CHUNK_LOGITS // model.config.vocab_size)
    return zip(latent.flatten(0, 1).split(rows), *(part.flatten().split(rows) for part in aligned), strict=True)


def _checked(weights: Sequence[float] | Tensor | None, n_future: int) -> Tensor:
    weights = torch.ones(n_future) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    if weights.shape != (n_future,) or not bool((weights >= 0).all()):
        raise ValueError(f"weights={weights.tolist()} must be n_future={n_future} numbers, none of them negative")
    return weights


def _reference(
    model: MTPTransformer, trunk: Tensor, tokens: Tensor, context: Context, targets: Tensor, shares: Tensor
) -> Tensor:
    """Weighted sum of the cross-entropies of each horizon, all logits alive at once: (n_future,)."""
    latents = model.run_heads(trunk, tokens, context)
    stacked = torch.stack([latents[i] for i in model.config.parents])  # (n_future, batch, seq, d_model)
    nll = token_losses(model, stacked.flatten(0, 2), targets.flatten()).view(targets.shape)
    return (nll * shares).sum(dim=(1, 2))


# --- Figure 2, for any arrangement of heads -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What the sequential pass needs besides the trunk's output."""

    model: MTPTransformer
    tokens: Tensor  # (batch, seq)
    context: Context
    targets: Tensor  # (n_future, batch, seq)
    shares: Tensor  # (n_future, batch, seq) what each target counts
    weights: Tensor  # (n_future,)
    counts: Tensor  # (n_future,)
    differentiate: bool  # whether gradients are needed

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the heads and the unembedding (of the embedding too, where a head reads it) that train."""
        heads = [p for i in self.model.config.parents for p in self.model.parameters_of_head(i)]
        return [p for p in dict.fromkeys([*heads, self.model.unembed.weight]) if p.requires_grad]


class _Sequential(torch.autograd.Function):
    """Computes the gradients of the heads in its forward; its backward only scales and hands them out."""

    @staticmethod
    def forward(ctx: Any, trunk: Tensor, job: _Job, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        walk = _Walk(job)
        trunk_gradient = walk.above(0, trunk)
        means = torch.stack(walk.sums) / job.counts
        ctx.mark_non_differentiable(means)
        ctx.save_for_backward(trunk_gradient, *(walk.gradients.get(p) for p in job.parameters))
        return (job.weights * means).sum(), means

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        trunk_gradient, *gradients = ctx.saved_tensors
        return trunk_gradient * scale, None, *(None if g is None else g * scale for g in gradients)


class _Walk:
    """Depth-first over the heads: parallel heads are a star around the trunk, causal ones a path away from it.

    At every head: run it on its parent's latent, cut off from the graph; visit the heads that stand on it; unembed;
    then send the gradient gathered at its latent down to the parent, and forget the head's activations.
    """

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.sums = list(job.weights.new_zeros(len(job.targets)))  # summed nats of each horizon
        self.gradients: dict[nn.Parameter, Tensor] = {}
        parents = job.model.config.parents
        self.children = {j: [i for i, parent in parents.items() if parent == j] for j in (0, *parents)}

    def above(self, parent: int, latent: Tensor) -> Tensor:
        """Gradient of the total at the `latent` of `parent` (0: the trunk), from all heads that stand on it."""
        job, gradient = self.job, torch.zeros_like(latent)
        leaf = latent.detach().requires_grad_(job.differentiate)
        for i in self.children[parent]:
            with torch.set_grad_enabled(job.differentiate):
                output = job.model.head(i, leaf, job.tokens, job.context)
            at_output = self.above(i, output) + self._unembedding(i, output)
            if job.differentiate:
                gradient += self._backward(output, leaf, job.model.parameters_of_head(i), at_output)
        return gradient

    def _unembedding(self, i: int, latent: Tensor) -> Tensor:
        """Notes the loss of horizon i and returns the gradient of its share of the total at the head's latent."""
        job, leaf = self.job, latent.detach().requires_grad_(self.job.differentiate)
        with torch.set_grad_enabled(job.differentiate):
            normed = job.model.norm(leaf)
        weight, share = job.model.unembed.weight, (job.weights / job.counts)[i - 1]
        inputs, matrix = (in_compute_precision(t.detach()) for t in (normed, weight))
        at_inputs, at_weight = [], torch.zeros_like(weight)
        for rows, targets, shares in chunks(job.model, inputs, job.targets[i - 1], job.shares[i - 1]):
            nll, at_rows, part = _chunk(rows, matrix, targets, shares, job.differentiate)
            self.sums[i - 1] += nll
            if job.differentiate:
                at_inputs.append(at_rows)
                at_weight += part
        if not job.differentiate:
            return torch.zeros_like(leaf)
        if weight.requires_grad:
            self._add(weight, at_weight * share)
        return self._backward(normed, leaf, [], torch.cat(at_inputs).view_as(normed).to(normed.dtype) * share)

    def _backward(self, output: Tensor, leaf: Tensor, parameters: list[nn.Parameter], gradient: Tensor) -> Tensor:
        """Back-propagates through one piece: adds to the parameters' gradients, returns the leaf's."""
        if not output.requires_grad:  # a frozen head that reads its input detached
            return torch.zeros_like(leaf)
        parameters = [p for p in parameters if p.requires_grad]
        found = torch.autograd.grad(output, [leaf, *parameters], gradient, allow_unused=True)
        for parameter, part in zip(parameters, found[1:], strict=True):
            if part is not None:
                self._add(parameter, part)
        return torch.zeros_like(leaf) if found[0] is None else found[0]

    def _add(self, parameter: nn.Parameter, part: Tensor) -> None:
        known = self.gradients.get(parameter)
        self.gradients[parameter] = part if known is None else known.add_(part)


def _chunk(
    rows: Tensor, matrix: Tensor, targets: Tensor, shares: Tensor, differentiate: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Weighted nats of a run of positions, and their gradients at inputs (positions, d_model) and unembedding.

    The gradient of -log P(target) at the logits is P minus one at the target: written out, the logits are read and
    written half as often as by autograd.
    """
    logits = rows @ matrix.T
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)  # (positions, vocab)
    shares, correct = shares[:, None], targets.clamp(min=0)[:, None]  # (positions, 1); a target that is none counts 0
    nll = -(log_p.gather(1, correct) * shares).sum()
    if not differentiate:
        return nll, None, None
    error = log_p.exp_().scatter_add_(1, correct, log_p.new_full(correct.shape, -1.0)).to(rows.dtype)
    shares = shares.to(rows.dtype)
    return nll, error @ matrix * shares, error.T @ (rows * shares)
