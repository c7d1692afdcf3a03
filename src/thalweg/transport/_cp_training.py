"""Losses of a sum-of-products potential, their gradients in closed form, and the Adam loop.

Both losses are functions of theta = (log beta, log r). The energy ``mean log c(x) - mean log v(y)``
needs draws of the two ends; the matching loss compares, at states of bridges between pairs, the
reference's posterior with the model's next step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from thalweg.transport._cp_potential import TINY, Powers, at_tokens, placement, selection
from thalweg.transport._light_bridge_training import ADAM_EPSILON, _share, _stop
from thalweg.transport.categorical import CategoricalReference, sample_categorical

Floats: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = NDArray[np.int64]

TIMES_A_STEP = 4
"""Distinct times, at most, in a batch of the matching loss; each costs products of all cores."""


class Objective(Protocol):
    """A loss of theta on random rows of the data."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a batch."""

    def loss_and_gradient(self, theta: Floats, batch: Any, entropy: float) -> tuple[float, Floats]:
        """Return loss less `entropy` times the components' mean entropy, and its gradient."""


class _Unpacked:
    """theta as arrays: weights (K,) and cores (S, D, K), scaled so that each has the maximum 1."""

    def __init__(self, theta: Floats, shape: tuple[int, int, int]) -> None:
        self.logs = theta[shape[2] :].reshape(shape)
        peak = self.logs.max(0)
        self.logs = self.logs - peak
        self.cores = np.exp(self.logs)
        self.log_weights = theta[: shape[2]] + peak.sum(0)


class EnergyObjective:
    """``mean log c(x) - mean log v(y)`` on draws x of the source and y of the target."""

    def __init__(
        self, reference: CategoricalReference, X: Tokens, Y: Tokens, n_components: int, batch: int
    ) -> None:
        self.X, self.Y, self.batch = X, Y, batch
        self.powers, self.n_steps = Powers(reference), reference.n_inner + 1
        self.shape = (reference.n_categories, X.shape[1], n_components)

    def draw(self, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        return _rows(self.X, self.batch, rng), _rows(self.Y, self.batch, rng)

    def loss_and_gradient(
        self, theta: Floats, batch: tuple[Tokens, Tokens], entropy: float
    ) -> tuple[float, Floats]:
        S, D, K = self.shape
        now = _Unpacked(theta, self.shape)
        at_x, at_y = (selection(Z, S) for Z in batch)
        u = np.maximum(self.powers.dot(self.n_steps, now.cores), TINY)
        log_c, p = _soft(now.log_weights + at_x @ np.log(u).reshape(S * D, K))
        log_v, q = _soft(now.log_weights + at_y @ now.logs.reshape(S * D, K))
        bonus, p_weights = _entropy(p, entropy)
        p_weights += p
        p_weights /= len(p)
        q /= len(q)
        du = (at_x.T @ p_weights).reshape(self.shape)
        du /= u
        d_cores = self.powers.transposed_dot(self.n_steps, du) * now.cores
        d_cores -= (at_y.T @ q).reshape(self.shape)
        gradient = np.concatenate([p_weights.sum(0) - q.sum(0), d_cores.ravel()])
        return float(log_c.mean() - log_v.mean()) - bonus, gradient


class MatchingObjective:
    """Distance from the reference's posterior to the model's step, at states of bridges.

    Averaged over rows and times, summed over coordinates; `loss` is ``"kl"`` or ``"mse"``.
    """

    def __init__(
        self,
        reference: CategoricalReference,
        X: Tokens,
        Y: Tokens,
        n_components: int,
        batch: int,
        *,
        loss: str,
        coupling: str,
    ) -> None:
        self.reference, self.X, self.Y, self.batch = reference, X, Y, batch
        self.loss, self.coupling = loss, coupling
        self._to = reference.cumulative
        self._from = np.ascontiguousarray(self._to.transpose(0, 2, 1))
        self.powers, self.n_steps = Powers(reference), reference.n_inner + 1
        self.shape = (reference.n_categories, X.shape[1], n_components)

    def draw(self, rng: np.random.Generator) -> list[tuple[int, Tokens, Floats]]:
        """Return (time n, states x_n, posterior of x_{n+1}) for some times."""
        x, y = _rows(self.X, self.batch, rng), _rows(self.Y, self.batch, rng)
        if self.coupling == "minibatch-ot":
            y = y[matched(self.reference, x, y)]
        parts = []
        for rows in np.array_split(np.arange(self.batch), min(TIMES_A_STEP, self.batch)):
            n = int(rng.integers(self.n_steps))
            end = y[rows]
            state = sample_categorical(self._to[n][x[rows]] * self._from[-1 - n][end], rng)
            posterior = self._to[1][state] * self._from[-2 - n][end]
            posterior /= posterior.sum(-1, keepdims=True)
            parts.append((n, state, posterior))
        return parts

    def loss_and_gradient(
        self, theta: Floats, batch: list[tuple[int, Tokens, Floats]], entropy: float
    ) -> tuple[float, Floats]:
        now = _Unpacked(theta, self.shape)
        d_weights, d_cores = np.zeros(self.shape[2]), np.zeros(self.shape)
        total, rows = 0.0, sum(len(x) for _, x, _ in batch)
        for n, x, posterior in batch:
            after = np.maximum(self.powers.dot(self.n_steps - n - 1, now.cores), TINY)
            before = np.maximum(self.powers.dot(1, after), TINY)
            loss, dw, d_after, d_before = self._part(
                now.log_weights, before, after, x, posterior, entropy
            )
            d_after += self.powers.transposed_dot(1, d_before)
            d_cores += self.powers.transposed_dot(self.n_steps - n - 1, d_after)
            d_weights += dw
            total += loss
        d_cores *= now.cores
        gradient = np.concatenate([d_weights, d_cores.ravel()])
        return total / rows, gradient / rows

    def _part(
        self,
        log_weights: Floats,
        before: Floats,
        after: Floats,
        x: Tokens,
        posterior: Floats,
        entropy: float,
    ) -> tuple[float, Floats, Floats, Floats]:
        """Return the loss of rows of one time and its derivatives in log beta, u^{n+1}, u^n."""
        S, K = self.shape[0], self.shape[2]
        start = at_tokens(before, x)
        _, p = _soft(log_weights + np.log(start).sum(1))
        per_core = (p[:, None] / start).transpose(1, 0, 2)
        moves = after.transpose(1, 0, 2)
        kernel = self.reference.kernel[x].transpose(1, 0, 2)
        target = posterior.transpose(1, 0, 2)
        mixed = np.maximum(per_core @ moves.transpose(0, 2, 1), TINY)
        if self.loss == "kl":
            law = np.maximum(kernel * mixed, TINY)
            loss = float((target * np.log(np.maximum(target, TINY) / law)).sum())
            d_mixed = -target / mixed
        else:
            difference = kernel * mixed - target
            loss = float((difference**2).sum())
            d_mixed = 2 * kernel * difference
        d_after = (d_mixed.transpose(0, 2, 1) @ per_core).transpose(1, 0, 2)
        pull = (d_mixed @ moves).transpose(1, 0, 2) / start
        bonus, d_terms = _entropy(p, entropy)
        slope = pull.sum(1)
        d_terms += p * (slope - (p * slope).sum(1, keepdims=True))
        d_start = (d_terms[:, None] - p[:, None] * pull) / start
        spread = placement(x, S).T @ d_start.reshape(-1, K)
        d_before = spread.reshape(self.shape)
        return loss - bonus * len(x), d_terms.sum(0), d_after, d_before


def train(
    objective: Objective,
    theta: Floats,
    *,
    n_steps: int,
    learning_rate: float,
    betas: tuple[float, float],
    schedule: str,
    entropy: float,
    entropy_steps: float,
    callback: Callable[[Any], Any] | None,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Lower the loss by Adam from `theta`; return the last theta and the loss of each step.

    The bonus falls linearly from `entropy` to 0 over the share `entropy_steps` of the steps.
    """
    theta = theta.copy()
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    decaying = entropy_steps * n_steps
    losses = np.empty(n_steps)
    for step in range(n_steps):
        bonus = entropy * (1 - step / decaying) if step < decaying else 0.0
        loss, gradient = objective.loss_and_gradient(theta, objective.draw(rng), bonus)
        if not (math.isfinite(loss) and np.isfinite(gradient).all()):
            raise FloatingPointError(
                f"the loss was {loss} at step {step + 1}, or its gradient not finite; lower "
                "learning_rate"
            )
        losses[step] = loss
        first *= betas[0]
        first += (1 - betas[0]) * gradient
        second *= betas[1]
        gradient *= gradient
        second += (1 - betas[1]) * gradient
        np.divide(second, 1 - betas[1] ** (step + 1), out=gradient)
        np.sqrt(gradient, out=gradient)
        gradient += ADAM_EPSILON
        np.divide(first, gradient, out=gradient)
        rate = learning_rate * _share(schedule, step / n_steps)
        gradient *= rate / (1 - betas[0] ** (step + 1))
        theta -= gradient
        if _stop(callback, step, n_steps, loss):
            losses = losses[: step + 1]
            break
    return theta, losses


def matched(reference: CategoricalReference, x: Tokens, y: Tokens) -> Tokens:
    """Return the order of `y` that pairs it with `x` at least ``-log A_T`` in sum."""
    cost = -np.log(np.maximum(reference.transition, TINY))
    costs = sum(cost[x[:, d, None], y[:, d]] for d in range(x.shape[1]))
    return np.asarray(linear_sum_assignment(costs)[1])


def _rows(Z: Tokens, n: int, rng: np.random.Generator) -> Tokens:
    return Z[rng.integers(len(Z), size=n)]


def _soft(terms: Floats) -> tuple[Floats, Floats]:
    """Return logsumexp over the last axis and the softmax."""
    largest = terms.max(1, keepdims=True)
    weights = np.exp(terms - largest)
    total = weights.sum(1, keepdims=True)
    weights /= total
    return (largest + np.log(total))[:, 0], weights


def _entropy(p: Floats, weight: float) -> tuple[float, Floats]:
    """Return `weight` times the mean entropy of rows, and minus its derivative, times rows."""
    if not weight:
        return 0.0, np.zeros_like(p)
    logs = np.log(np.maximum(p, TINY))
    entropies = -(p * logs).sum(1, keepdims=True)
    return weight * float(entropies.mean()), weight * p * (logs + entropies)
