"""The loss of the light bridge, its gradients in closed form, and the Adam loop that lowers it.

The loss ``mean log c(x) - mean log v(y)`` of a Gaussian mixture potential needs no automatic
differentiation: with p the weights of the conditional mixtures at x and q the responsibilities of
the components for y, every gradient is a sum of p or q times x, y and their squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg.transport._mixture_potential import MixturePotential

Floats: TypeAlias = NDArray[np.float64]
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
FINAL_SHARE = 0.01
"""Share of the learning rate that the cosine schedule ends with; chosen here."""
WINDOW = 100
"""Steps whose mean loss `tol` compares with that of the steps before; chosen here."""
STEPS_A_DRAW = 64
LOG_NEGLIGIBLE = -80.0
"""Smaller log-weights count as this: products with subnormal numbers take many times longer."""


class Objective(Protocol):
    """A loss of a flat parameter vector on a batch."""

    start: Floats

    def features(self, Z: Floats) -> Floats:
        """Return what is kept of each row of the data."""

    def loss_and_gradient(self, theta: Floats, fx: Floats, fy: Floats) -> tuple[float, Floats]:
        """Return the loss on the features of a batch and its gradient in all parameters."""

    def potential(self, theta: Floats) -> MixturePotential:
        """Return the potential of these parameters."""


class DiagonalObjective:
    """Parameters log a (K), r (K, d), log S (K, d); features ``[z^2, z]``."""

    def __init__(self, potential: MixturePotential) -> None:
        self.epsilon, self.shape = potential.epsilon, potential.locations.shape
        self.start = np.concatenate(
            [potential.log_weights, potential.locations.ravel(), np.log(potential.scales).ravel()]
        )

    def features(self, Z: Floats) -> Floats:
        return np.hstack([Z**2, Z])

    def loss_and_gradient(self, theta: Floats, fx: Floats, fy: Floats) -> tuple[float, Floats]:
        eps, d = self.epsilon, self.shape[1]
        log_a, r, log_s = _unpack(theta, self.shape, self.shape)
        S = np.exp(log_s)
        precision = 1 / (eps * S)
        r_precision = r * precision
        log_c, p = _soft(np.hstack([S / (2 * eps), r / eps]) @ fx.T + log_a[:, None])
        constant = log_a - 0.5 * ((r * r_precision).sum(1) + log_s.sum(1))
        log_v, q = _soft(np.hstack([-0.5 * precision, r_precision]) @ fy.T + constant[:, None])
        px, qy = p @ fx, q @ fy
        p_sum, q_sum = p.sum(1), q.sum(1)[:, None]
        gradient = np.empty_like(theta)
        d_log_a, d_r, d_log_s = _unpack(gradient, self.shape, self.shape)
        d_log_a[:] = p_sum - q_sum[:, 0]
        d_r[:] = px[:, d:] / eps - (qy[:, d:] - q_sum * r) * precision
        spread = (qy[:, :d] - 2 * r * qy[:, d:] + q_sum * r**2) * precision
        d_log_s[:] = S * px[:, :d] / (2 * eps) - (spread - q_sum) / 2
        loss = log_c - log_v + d / 2 * math.log(2 * math.pi * eps)
        return loss, gradient

    def potential(self, theta: Floats) -> MixturePotential:
        log_a, r, log_s = _unpack(theta, self.shape, self.shape)
        return MixturePotential(log_a.copy(), r.copy(), np.exp(log_s), self.epsilon)


class FullObjective:
    """Parameters log a (K), r (K, d), L (K, d, d); S = L L', L lower triangular, log diagonal."""

    def __init__(self, potential: MixturePotential) -> None:
        self.epsilon = potential.epsilon
        self.shape = potential.locations.shape
        d = self.shape[1]
        self.lower, self.diagonal = np.tril(np.ones((d, d))), np.arange(d)
        L = np.linalg.cholesky(potential.scales)
        L[:, self.diagonal, self.diagonal] = np.log(L[:, self.diagonal, self.diagonal])
        self.start = np.concatenate([potential.log_weights, potential.locations.ravel(), L.ravel()])

    def features(self, Z: Floats) -> Floats:
        return Z

    def loss_and_gradient(self, theta: Floats, fx: Floats, fy: Floats) -> tuple[float, Floats]:
        eps, (K, d), diagonal = self.epsilon, self.shape, self.diagonal
        log_a, r, _ = _unpack(theta, (K, d), (K, d, d))
        L = self._factors(theta)
        inverse = np.linalg.inv(L)
        xL = fx @ L
        log_c, p = _soft(log_a[:, None] + ((xL**2).sum(-1) + 2 * r @ fx.T) / (2 * eps))
        z = (fy - r[:, None, :]) @ inverse.swapaxes(1, 2)
        scale = L[:, diagonal, diagonal]
        constant = log_a - np.log(scale).sum(1)
        log_v, q = _soft(constant[:, None] - (z**2).sum(-1) / (2 * eps))
        qz = q[:, :, None] * z
        gradient = np.empty_like(theta)
        d_log_a, d_r, d_L = _unpack(gradient, (K, d), (K, d, d))
        q_sum = q.sum(1)
        d_log_a[:] = p.sum(1) - q_sum
        d_r[:] = (p @ fx - (qz.sum(1)[:, None, :] @ inverse)[:, 0]) / eps
        d_L[:] = fx.T @ (p[:, :, None] * xL)
        d_L -= inverse.swapaxes(1, 2) @ (z.swapaxes(1, 2) @ qz)
        d_L *= self.lower / eps
        d_L[:, diagonal, diagonal] = d_L[:, diagonal, diagonal] * scale + q_sum[:, None]
        loss = log_c - log_v + d / 2 * math.log(2 * math.pi * eps)
        return loss, gradient

    def potential(self, theta: Floats) -> MixturePotential:
        K, d = self.shape
        log_a, r, _ = _unpack(theta, (K, d), (K, d, d))
        L = self._factors(theta)
        return MixturePotential(log_a.copy(), r.copy(), L @ L.swapaxes(1, 2), self.epsilon)

    def _factors(self, theta: Floats) -> Floats:
        K, d = self.shape
        L = _unpack(theta, (K, d), (K, d, d))[2] * self.lower
        L[:, self.diagonal, self.diagonal] = np.exp(L[:, self.diagonal, self.diagonal])
        return L


def train(
    potential: MixturePotential,
    X: Floats,
    Y: Floats,
    *,
    offset: float,
    batch_size: int,
    n_steps: int,
    learning_rate: float,
    schedule: str,
    tol: float | None,
    callback: Callable[[Any], Any] | None,
    rng: np.random.Generator,
) -> tuple[MixturePotential, Floats]:
    """Lower the loss by Adam from `potential`; return the trained potential and the loss curve.

    `offset` is added to every loss that is reported.
    """
    objective: Objective
    objective = DiagonalObjective(potential) if potential.diagonal else FullObjective(potential)
    theta = objective.start.copy()
    rates = np.full_like(theta, learning_rate)
    rates[: len(potential.log_weights)] /= potential.epsilon
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    losses = np.empty(n_steps)
    with np.errstate(all="ignore"):
        fx, fy = objective.features(X), objective.features(Y)
        for step in range(n_steps):
            if step % STEPS_A_DRAW == 0:
                rows_x = rng.integers(len(X), size=(STEPS_A_DRAW, batch_size))
                rows_y = rng.integers(len(Y), size=(STEPS_A_DRAW, batch_size))
            batch_x = fx.take(rows_x[step % STEPS_A_DRAW], axis=0)
            batch_y = fy.take(rows_y[step % STEPS_A_DRAW], axis=0)
            loss, gradient = objective.loss_and_gradient(theta, batch_x, batch_y)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss was {loss} at step {step} with epsilon={potential.epsilon:g}; scale "
                    "the data (a spread of about 1 to 10) or lower learning_rate"
                )
            losses[step] = loss = loss + offset
            first += (1 - ADAM_BETAS[0]) * (gradient - first)
            second += (1 - ADAM_BETAS[1]) * (gradient * gradient - second)
            corrected = np.sqrt(second / (1 - ADAM_BETAS[1] ** (step + 1))) + ADAM_EPSILON
            share = _share(schedule, step / n_steps) / (1 - ADAM_BETAS[0] ** (step + 1))
            theta -= share * rates * first / corrected
            if _stop(callback, step, n_steps, loss) or _settled(losses[: step + 1], tol):
                losses = losses[: step + 1]
                break
    if not np.isfinite(theta).all():
        raise FloatingPointError(
            f"the parameters were not finite after step {len(losses)} with "
            f"epsilon={potential.epsilon:g}; scale the data or lower learning_rate"
        )
    return objective.potential(theta), losses


def _unpack(theta: Floats, *shapes: tuple[int, ...]) -> list[Floats]:
    """Views of log a, then of arrays of these shapes."""
    start = shapes[0][0]
    views = [theta[:start]]
    for shape in shapes:
        stop = start + math.prod(shape)
        views.append(theta[start:stop].reshape(shape))
        start = stop
    return views


def _soft(logits: Floats) -> tuple[float, NDArray[np.float32]]:
    """Return the mean over columns (points) of logsumexp over rows, and its gradient.

    Logits are float64, for they are large at small epsilon; their exponentials need float32 only,
    which takes a quarter of the time.
    """
    largest = logits.max(0)
    shifted = np.maximum(logits - largest, LOG_NEGLIGIBLE).astype(np.float32)
    weights = np.exp(shifted, out=shifted)
    total = weights.sum(0)
    mean = float((largest + np.log(total)).mean())
    weights *= 1 / (total * np.float32(len(total)))
    return mean, weights


def _share(schedule: str, progress: float) -> float:
    if schedule == "constant":
        return 1.0
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2


def _stop(callback: Callable[[Any], Any] | None, step: int, n_steps: int, loss: float) -> bool:
    if callback is None:
        return False
    try:
        callback(SimpleNamespace(step=step + 1, n_steps=n_steps, loss=loss))
    except StopIteration:
        return True
    return False


def _settled(losses: Floats, tol: float | None) -> bool:
    if tol is None or len(losses) % WINDOW or len(losses) < 2 * WINDOW:
        return False
    windows = losses.reshape(-1, WINDOW).mean(1)
    return bool(windows[-2] - windows[-1] < tol)
