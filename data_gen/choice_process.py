"""Choices and the forced tokens that follow from them: a stream of which every probability is known exactly.

The choice points of Gloeckle et al. 2024 (arXiv 2404.19737, sections 5.1 and 5.2) in isolation. Two parameters set how
many tokens are forced between two choices, and for how many tokens a choice stays relevant. Entropies and mutual
information are closed forms. Left out: measuring models against them.
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from data_gen.batch import NO_VALUE, Batch, Documents, fill

MOST_FUTURES = 2**16  # largest number that `joint` lists


@dataclass(frozen=True)
class ChoiceProcess:
    """A choice, `forced` tokens, a choice, ...: each forced token is the sum of the choices relevant to it, mod K.

    Token 2K opens a document. Token c < K is the choice of value c, drawn independently of everything before it. Token
    K + v is forced: v is the sum modulo K of the values of all choices that are relevant at its position, or 0 if there
    is none. A choice with relevance r is relevant to the forced tokens among the r tokens after it. All choices are
    visible in the stream, so the past determines every forced token. Uncertainty at horizon i comes only from the
    choices in between. A forced token reveals only the sum of several unseen choices.

    `seq` is always the length of a document. Arrays of exact quantities are per position t of a document, in nats,
    given x_0 to x_t. They are NaN where one of their tokens lies after the document's end.

    Labels:
        choice, forced  the kind of the token; both are False at the opening token
        n_choices       float32: number of possible tokens, given the past: K at choices, else 1
        probability     float32: probability of this token, given the past
        entropy         float32, nats: entropy of the token's distribution, given the past
        consequential   choices on which a forced token of the document depends
        cause           float32, at forced tokens: distance to the latest choice on which the token depends: the largest
                        horizon at which it is certain; -1 if there is no such choice, and at all other tokens

    Raises:
        ValueError: for values that do not define a process.
    """

    n_choices: int = field(default=4, metadata={"key": "options"})  # the key in stored configs
    """Number K of values of a choice, equally likely unless `probabilities` is given."""
    probabilities: tuple[float, ...] = ()
    """Probability of each value, if they are not equally likely. The sum is 1."""
    forced: int = 3
    """Forced tokens after each choice."""
    relevance: tuple[int, ...] = (3,)
    """Number of tokens after a choice for which it stays relevant. Choices take these values in turn: with (6, 0),
    consequential and inconsequential choices alternate."""

    def __post_init__(self) -> None:
        if self.n_choices < 2:
            raise ValueError(f"n_choices={self.n_choices} must be at least 2: a single value is not a choice")
        if self.forced < 0:
            raise ValueError(f"forced={self.forced} must be at least 0 tokens between choices")
        if not self.relevance or min(self.relevance) < 0:
            raise ValueError(f"relevance={self.relevance} must be one or more numbers of tokens >= 0, such as (3,)")
        if not self.probabilities:
            return
        if len(self.probabilities) != self.n_choices:
            raise ValueError(
                f"probabilities={self.probabilities} must be one for each of n_choices={self.n_choices}; "
                f"use n_choices={len(self.probabilities)}, or no probabilities for equally likely values"
            )
        if not min(self.probabilities) > 0 or not abs(sum(self.probabilities) - 1) < 1e-9:
            raise ValueError(f"probabilities={self.probabilities} must be positive and sum to 1, such as (0.75, 0.25)")

    @property
    def period(self) -> int:
        """Tokens from one choice to the next."""
        return self.forced + 1

    @property
    def vocab_size(self) -> int:
        return 2 * self.n_choices + 1

    @property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) c0, c1, ... for choices, f0, f1, ... for forced tokens, <s> for the opening token."""
        values = range(self.n_choices)
        return (*(f"c{value}" for value in values), *(f"f{value}" for value in values), "<s>")

    @property
    def distribution(self) -> np.ndarray:
        """(n_choices,) float64: the probability of each value of a choice."""
        return np.array(self.probabilities or [1 / self.n_choices] * self.n_choices)

    def documents(self, n: int, seq: int, rng: np.random.Generator) -> Documents:
        """n independent documents of `seq` tokens each. Raises ValueError for n < 1 and seq < 2."""
        _check(n=n, seq=seq)
        positions = self._positions(seq)
        ends = np.cumsum(self.distribution)[:-1]
        choices = np.searchsorted(ends, rng.random((n, len(positions))), side="right")  # (n, choices)
        probability = np.ones((n, seq), np.float32)
        probability[:, positions] = self.distribution[choices]
        labels = {name: np.tile(label, n) for name, label in self._labels(seq).items()}
        labels["probability"] = probability.ravel()
        return Documents(self._tokens(choices, seq).ravel(), np.full(n, seq), labels)

    def sample(self, rows: int, seq: int, rng: np.random.Generator) -> Batch:
        """Rows of one document each, (rows, seq). Raises ValueError for rows < 1 and seq < 2."""
        _check(rows=rows, seq=seq)
        return fill(lambda n: self.documents(n, seq, rng), rows, seq, mean_length=seq)

    def horizon_entropy(self, n: int, seq: int) -> np.ndarray:
        """(n, seq) H(x_{t+i} | x_0..x_t), row i - 1 for horizon i = 1..n.

        The entropy of a sum modulo K of the choices on which x_{t+i} depends and which are not in x_0..x_t. Raises
        ValueError for n < 1 and seq < 2.
        """
        unseen = self._unseen(n, seq)  # (n, seq)
        return np.where(unseen < 0, np.nan, self._sum_entropies(unseen.max())[unseen])

    def joint_entropy(self, n: int, seq: int) -> np.ndarray:
        """(seq,) H(x_{t+1}, ..., x_{t+n} | x_0..x_t), the entropy of the choices among them.

        Raises as `horizon_entropy`.
        """
        _check(n=n, seq=seq)
        t = np.arange(seq)
        choices = self._made(t + n) - self._made(t)  # (seq,)
        return np.where(t + n < seq, choices * _entropy(self.distribution), np.nan)

    def total_correlation(self, n: int, seq: int) -> np.ndarray:
        """(seq,) sum_i H(x_{t+i} | x_0..x_t) - H(x_{t+1}, ..., x_{t+n} | x_0..x_t), shared by n tokens.

        For n = 2 this is the mutual information I(X; Y) of section 5.2. Raises as `horizon_entropy`.
        """
        return self.horizon_entropy(n, seq).sum(axis=0) - self.joint_entropy(n, seq)

    def mutual_information(self, n: int, seq: int) -> np.ndarray:
        """(n, seq) I(x_{t+1}; x_{t+i} | x_0..x_t), row i - 1 for i = 1..n (row 0: the next token's entropy).

        The reduction of the entropy of x_{t+i} by x_{t+1}. Raises as `horizon_entropy`.
        """
        entropy = self.horizon_entropy(n, seq)  # (n, seq)
        after_next = np.zeros_like(entropy)  # H(x_{t+i} | x_0..x_{t+1}): one horizon less, one position later
        after_next[1:, :-1] = entropy[:-1, 1:]
        return entropy - after_next

    def joint(self, past: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The joint distribution of the n tokens after `past`, by enumeration.

        past  (t + 1,) the first tokens of a document

        Returns every possible future once, (futures, n) int32, and its probability, (futures,) float64. Raises
        ValueError for a past that cannot occur, n < 1, and more than 2**16 futures.
        """
        past = np.asarray(past)
        _check(n=n)
        seen = past[1 :: self.period]  # (choices made,)
        if not past.size or (self._tokens(seen[None], len(past))[0] != past).any():
            raise ValueError(
                f"past={past.tolist()} cannot be the beginning of a document; use a document's first tokens"
            )
        length = len(past) + n
        unmade = self._made(length - 1) - len(seen)
        if self.n_choices**unmade > MOST_FUTURES:
            raise ValueError(f"n={n} tokens have {self.n_choices}^{unmade} futures, too many to list; use a smaller n")
        drawn = np.array(list(product(range(self.n_choices), repeat=unmade)), int)  # (futures, choices to come)
        known = np.broadcast_to(seen, (len(drawn), len(seen)))
        tokens = self._tokens(np.concatenate([known, drawn], axis=1), length)  # (futures, length)
        return tokens[:, len(past) :], self.distribution[drawn].prod(axis=1)

    def text(self, tokens: np.ndarray) -> str:
        """Tokens, (n,), as one line, such as "<s> c2 f2 f2 f2 c0 f0"."""
        return " ".join(map(self.token_names.__getitem__, tokens))

    def _positions(self, seq: int) -> np.ndarray:
        """(choices,) positions of a document's choices."""
        return np.arange(1, seq, self.period)

    def _made(self, t: np.ndarray | int) -> np.ndarray | int:
        """Number of choices at positions up to t."""
        return (t + self.forced) // self.period

    def _dependence(self, seq: int) -> np.ndarray:
        """(choices, seq) bool, whether a token depends on a choice: the choice itself, and forced tokens after it."""
        positions = self._positions(seq)[:, None]  # (choices, 1)
        relevance = np.resize(self.relevance, positions.shape)
        after = np.arange(seq) - positions  # (choices, seq)
        return (after == 0) | ((after > 0) & (after <= relevance) & (after % self.period > 0))

    def _tokens(self, choices: np.ndarray, seq: int) -> np.ndarray:
        """(n, choices) values -> (n, seq) int32, the documents with these choices."""
        # in float because NumPy multiplies integer matrices slowly; sums are exact below 2^53
        value = (choices.astype(np.float64) @ self._dependence(seq)) % self.n_choices  # (n, seq)
        tokens = value.astype(np.int32) + np.int32(self.n_choices)
        tokens[:, self._positions(seq)] -= np.int32(self.n_choices)
        tokens[:, 0] = 2 * self.n_choices
        return tokens

    def _labels(self, seq: int) -> dict[str, np.ndarray]:
        """name -> (seq,), the labels that are the same for all documents."""
        positions, dependence = self._positions(seq), self._dependence(seq)
        choice = np.zeros(seq, bool)
        choice[positions] = True
        forced = ~choice
        forced[0] = False
        consequential = np.zeros(seq, bool)
        consequential[positions] = (dependence & forced).any(axis=1)
        latest = (dependence * positions[:, None]).max(axis=0)  # (seq,) 0 for none
        return {
            "choice": choice,
            "forced": forced,
            "n_choices": np.where(choice, self.n_choices, 1).astype(np.float32),
            "entropy": np.where(choice, _entropy(self.distribution), 0).astype(np.float32),
            "consequential": consequential,
            "cause": np.where(forced & (latest > 0), np.arange(seq) - latest, NO_VALUE).astype(np.float32),
        }

    def _unseen(self, n: int, seq: int) -> np.ndarray:
        """(n, seq) number of choices after t on which x_{t+i} depends, row i - 1; -1 after the document's end."""
        _check(n=n, seq=seq)
        dependence = self._dependence(seq)
        # (choices + 1, seq): in row k, the number of the choices k, k + 1, ... on which a token depends
        from_choice = np.concatenate([np.cumsum(dependence[::-1], axis=0)[::-1], np.zeros((1, seq), int)])
        t = np.arange(seq)
        target = t + np.arange(1, n + 1)[:, None]  # (n, seq)
        return np.where(target < seq, from_choice[self._made(t), np.minimum(target, seq - 1)], -1)

    def _sum_entropies(self, most: int) -> np.ndarray:
        """(most + 1,) entropies of the sum modulo K of 0, 1, ... choices."""
        value = np.arange(self.n_choices)
        add = self.distribution[(value[:, None] - value) % self.n_choices]  # (sum, sum before): adds one choice
        total, entropies = (value == 0).astype(float), []
        for _ in range(most + 1):
            entropies.append(_entropy(total))
            total = add @ total
        return np.array(entropies)


def _check(seq: int = 2, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if seq < 2:
        raise ValueError(f"seq={seq} must be at least 2, the opening token and a choice")


def _entropy(p: np.ndarray) -> float:
    """Nats, of (outcomes,)."""
    return float((p * np.log(1 / np.where(p > 0, p, 1))).sum())
