"""The multi-token loss (Gloeckle et al. 2024, Eq. 2), once as it is written and once in the memory of one head.

    L_n = - sum_i w_i mean_t log P(x_{t+i} | x_{<=t})        mean over the targets of horizon i

The mean may be weighted by token. A token then has the same weight at whichever horizon it is predicted.

`reference` holds the logits of all heads at once: O(nV) memory for each position. `sequential` is the paper's Figure 2
for every head kind. Each head is run, unembedded and back-propagated before the next one. So the logits of only one
head exist at a time, O(V), and of these only a chunk of positions. Both methods give the same gradients through
`loss.total.backward()`, under autocast, gradient accumulation and DistributedDataParallel.

PyTorch's chunked `linear_cross_entropy` is not used: in bf16 it rounds the sum of the losses (by 1 % at 16k positions)
and the gradient of the unembedding from chunk to chunk. Here both are summed in fp32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtp_lab.config import check_choice
from mtp_lab.model.layers import Context
from mtp_lab.model.targets import IGNORE, Targets, make_targets
from mtp_lab.model.transformer import MTPTransformer

CHUNK_LOGITS = 2**20  # approximate number of logits in memory at a time; larger chunks are no faster
FEWEST_ROWS = 256  # least number of positions in a chunk, whatever the vocabulary: smaller chunks are slower
Method = Literal["sequential", "reference"]


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, in nats."""

    total: Tensor
    """() L_n of Eq. 2, to back-propagate."""
    per_horizon: Tensor
    """(n_future,) mean of each horizon, without its weight w_i, detached; 0 for a horizon without targets."""


def mtp_loss(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None = None,
    *,
    weights: Sequence[float] | Tensor | None = None,
    method: Method = "sequential",
    targets: Targets | None = None,
) -> Loss:
    """Eq. 2 on a batch.

    Args:
        model: trunk and heads.
        tokens: (batch, seq) token ids.
        documents: (batch, seq) document of each token, -1 for padding; attention and targets stay inside documents.
        weights: n_future weights w_i of the horizons; all 1 by default, as in the paper.
        method: "sequential" (the memory of one head) or "reference" (everything at once).
        targets: the targets, where they are not simply the next tokens with weight 1 (`targets.make_targets`), or
            where this batch is one part of a larger one: then a slice of the targets of the larger batch.

    Raises:
        ValueError: for an unknown method, weights that are not n_future non-negative numbers, or targets of another
            shape than (n_future, batch, seq).

    Example:
        >>> model, tokens = MTPTransformer(ModelConfig(n_future=2)), torch.randint(0, 257, (4, 32))
        >>> loss = mtp_loss(model, tokens)
        >>> loss.total.backward()
        >>> loss.per_horizon.shape  # nats
        torch.Size([2])
    """
    check_choice("method", method, Method)
    n_future = model.config.n_future
    context = model.context(tokens, documents)  # checks the shapes
    targets = make_targets(tokens, n_future, documents) if targets is None else targets
    if targets.tokens.shape != (n_future, *tokens.shape):
        raise ValueError(
            f"targets {tuple(targets.tokens.shape)} must be (n_future, batch, seq) of n_future={n_future} "
            f"and tokens {tuple(tokens.shape)}"
        )
    trunk = model.trunk(tokens, context)
    weights = _checked(weights, n_future).to(trunk.device, torch.promote_types(trunk.dtype, torch.float32))
    denominators = targets.denominators.to(weights.dtype)
    denominators = denominators.where(denominators > 0, 1)  # the mean over no targets is 0
    targets = replace(targets, weights=targets.weights.to(weights.dtype), denominators=denominators)
    if method == "reference":
        means = _reference(model, trunk, tokens, context, targets)
        return Loss((weights * means).sum(), means.detach())
    heads = _HeadByHead(model, tokens, context, targets, weights)
    return Loss(*_Sequential.apply(trunk, heads, *heads.parameters))


def token_losses(model: MTPTransformer, latent: Tensor, targets: Tensor) -> Tensor:
    """-log P(target) in nats, fp32 at least: latent (positions, d_model), targets (positions,) -> (positions,).

    0 where there is no target. All logits are in memory at once.
    """
    logits = model.unembedded(latent)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def chunks(model: MTPTransformer, latent: Tensor, *aligned: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits (batch, seq, d_model) and any (batch, seq) into chunks of positions, small enough to hold their logits."""
    rows = max(FEWEST_ROWS, CHUNK_LOGITS // model.config.vocab_size)
    return zip(latent.flatten(0, 1).split(rows), *(tensor.flatten().split(rows) for tensor in aligned), strict=True)


def _checked(weights: Sequence[float] | Tensor | None, n_future: int) -> Tensor:
    weights = torch.ones(n_future) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    if weights.shape != (n_future,) or not bool((weights >= 0).all()):
        raise ValueError(f"weights={weights.tolist()} must be n_future={n_future} numbers, none of them negative")
    return weights


def _reference(model: MTPTransformer, trunk: Tensor, tokens: Tensor, context: Context, targets: Targets) -> Tensor:
    """The means of Eq. 2, all logits in memory at once: (n_future,)."""
    latents = model.run_heads(trunk, tokens, context)
    stacked = torch.stack([latents[i] for i in model.config.parents])  # (n_future, batch, seq, d_model)
    nll = token_losses(model, stacked.flatten(0, 2), targets.tokens.flatten()).view(targets.tokens.shape)
    return (nll * targets.weights).sum(dim=(1, 2)) / targets.denominators


# --- Figure 2, for any arrangement of heads -----------------------------------------------------------------------


class _Sequential(torch.autograd.Function):
    """Computes all gradients in its forward pass. Its backward pass only scales them and returns them."""

    @staticmethod
    def forward(ctx: Any, trunk: Tensor, heads: "_HeadByHead", *parameters: Tensor) -> tuple[Tensor, Tensor]:
        trunk_gradient = heads.visit_children(0, trunk)
        means = torch.stack(heads.sums) / heads.targets.denominators
        ctx.mark_non_differentiable(means)
        ctx.save_for_backward(trunk_gradient, *(heads.gradients.get(p) for p in heads.parameters))
        return (heads.weights * means).sum(), means

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        trunk_gradient, *gradients = ctx.saved_tensors
        return trunk_gradient * scale, None, *(None if g is None else g * scale for g in gradients)


class _HeadByHead:
    """The sequential pass of Figure 2: one head after the other is run, unembedded and back-propagated.

    The heads are the nodes of a tree with the trunk as its root: parallel heads are all children of the trunk, causal
    heads form a path. The pass visits the tree depth first. At each head:

    1. Run the head on its parent's latent, detached from the graph.
    2. Visit the children of the head, which return their gradients at its latent.
    3. Unembed the latent, chunk by chunk, which adds the gradient of the head's own loss.
    4. Back-propagate the sum through the head to the parent's latent, and free the head's activations.
    """

    def __init__(
        self, model: MTPTransformer, tokens: Tensor, context: Context, targets: Targets, weights: Tensor
    ) -> None:
        self.model, self.tokens, self.context, self.targets, self.weights = model, tokens, context, targets, weights
        self.differentiate = torch.is_grad_enabled()
        parents = model.config.parents
        self.children = {j: [i for i, parent in parents.items() if parent == j] for j in (0, *parents)}
        parameters = [p for i in parents for p in model.parameters_of_head(i)] + [model.unembed.weight]
        self.parameters = [p for p in dict.fromkeys(parameters) if p.requires_grad]
        self.sums = list(weights.new_zeros(len(parents)))  # weighted sum of -log P of each horizon
        self.gradients: dict[nn.Parameter, Tensor] = {}

    def visit_children(self, parent: int, latent: Tensor) -> Tensor:
        """Gradient of the total loss at the `latent` of `parent` (0: the trunk), from all heads that read it."""
        gradient = torch.zeros_like(latent)
        leaf = latent.detach().requires_grad_(self.differentiate)
        for i in self.children[parent]:
            with torch.set_grad_enabled(self.differentiate):
                output = self.model.head(i, leaf, self.tokens, self.context)
            output_gradient = self.visit_children(i, output) + self._unembed(i, output)
            if self.differentiate:
                gradient += self._backward(output, leaf, self.model.parameters_of_head(i), output_gradient)
        return gradient

    def _unembed(self, i: int, latent: Tensor) -> Tensor:
        """Adds up the loss of horizon i and returns the gradient of the total loss at the head's latent through it."""
        leaf = latent.detach().requires_grad_(self.differentiate)
        with torch.set_grad_enabled(self.differentiate):
            normed = self.model.norm(leaf)
        weight = self.model.unembed.weight
        inputs, matrix = (_in_compute_precision(t.detach()) for t in (normed, weight))
        input_gradients, weight_gradient = [], torch.zeros_like(weight)
        for chunk in chunks(self.model, inputs, self.targets.tokens[i - 1], self.targets.weights[i - 1]):
            nll, chunk_input_gradient, chunk_weight_gradient = _unembed_chunk(*chunk, matrix, self.differentiate)
            self.sums[i - 1] += nll
            if self.differentiate:
                input_gradients.append(chunk_input_gradient)
                weight_gradient += chunk_weight_gradient
        if not self.differentiate:
            return torch.zeros_like(leaf)
        scale = (self.weights / self.targets.denominators)[i - 1]  # d total / d sums[i - 1], by Eq. 2
        if weight.requires_grad:
            self._accumulate(weight, weight_gradient * scale)
        normed_gradient = torch.cat(input_gradients).view_as(normed).to(normed.dtype) * scale
        return self._backward(normed, leaf, [], normed_gradient)

    def _backward(self, output: Tensor, leaf: Tensor, parameters: list[nn.Parameter], gradient: Tensor) -> Tensor:
        """Back-propagates from output to leaf: accumulates the parameters' gradients and returns that of the leaf."""
        if not output.requires_grad:  # a frozen head that reads its input detached
            return torch.zeros_like(leaf)
        parameters = [p for p in parameters if p.requires_grad]
        leaf_gradient, *gradients = torch.autograd.grad(output, [leaf, *parameters], gradient, allow_unused=True)
        for parameter, parameter_gradient in zip(parameters, gradients, strict=True):
            if parameter_gradient is not None:
                self._accumulate(parameter, parameter_gradient)
        return torch.zeros_like(leaf) if leaf_gradient is None else leaf_gradient

    def _accumulate(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        previous = self.gradients.get(parameter)
        self.gradients[parameter] = gradient if previous is None else previous.add_(gradient)


def _in_compute_precision(x: Tensor) -> Tensor:
    """x in the precision in which autocast runs matrix products."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _unembed_chunk(
    inputs: Tensor, targets: Tensor, weights: Tensor, matrix: Tensor, differentiate: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Weighted sum of -log P of a chunk of positions, and its gradients at inputs (positions, d_model) and matrix.

    The gradient of -log P(target) at the logits is P minus one at the target. Written out, this reads and writes the
    logits half as often as autograd does.
    """
    logits = inputs @ matrix.T
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)  # (positions, vocab)
    targets, weights = targets.clamp(min=0)[:, None], weights[:, None]  # (positions, 1); ignored targets have weight 0
    nll = -(log_p.gather(1, targets) * weights).sum()
    if not differentiate:
        return nll, None, None
    logit_gradient = log_p.exp_().scatter_add_(1, targets, log_p.new_full(targets.shape, -1.0)).to(inputs.dtype)
    weights = weights.to(inputs.dtype)
    return nll, logit_gradient @ matrix * weights, logit_gradient.T @ (inputs * weights)
