"""Targets of the study of Wasserstein gradient flows, and the particle methods beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from thalweg._torch import torch

FEATURES = 10
ALPHA_SHAPE, ALPHA_RATE = 1.0, 0.01
"""Gamma law of the precision of the weights, as in the set-up of Stein's variational descent."""


class GaussianTarget:
    """A Gaussian with independent coordinates of unlike widths: from 0.7 to 1.5."""

    def __init__(self, dim: int) -> None:
        self.mean = np.linspace(2.0, 1.0, dim)
        self.variances = np.linspace(0.7, 1.5, dim) ** 2
        self.cov = np.diag(self.variances)
        self.log_norm = -0.5 * float(np.log(2 * np.pi * self.variances).sum())

    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,) at points (n, d)."""
        mean, variances = (torch.from_numpy(v).to(y) for v in (self.mean, self.variances))
        return self.log_norm - 0.5 * ((y - mean).square() / variances).sum(1)


class MixtureTarget:
    """Ten Gaussians of unit covariance with means uniform in a cube of half-width 2.5."""

    def __init__(self, dim: int, rng: np.random.Generator) -> None:
        self.means = rng.uniform(-2.5, 2.5, size=(10, dim))

    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,) up to a constant."""
        means = torch.from_numpy(self.means).to(y)
        return torch.logsumexp(y @ means.T - means.square().sum(1) / 2, 1) - y.square().sum(1) / 2

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n points."""
        chosen = self.means[rng.integers(len(self.means), size=n)]
        return np.asarray(chosen + rng.standard_normal(chosen.shape))


class LogisticPosterior:
    """Bayesian logistic regression on a split of the breast-cancer data.

    Points are the weights, the last one that of the constant, then the log of their precision.
    """

    def __init__(self, seed: int) -> None:
        X, y = load_breast_cancer(return_X_y=True)
        parts = train_test_split(X[:, :FEATURES], y, test_size=0.2, random_state=seed)
        scaler = StandardScaler().fit(parts[0])
        self.X, self.X_test = (
            np.column_stack([scaler.transform(part), np.ones(len(part))]) for part in parts[:2]
        )
        self.y, self.y_test = parts[2:]
        self.dim = FEATURES + 2
        self.signed = torch.from_numpy(self.X * (2 * self.y - 1)[:, None]).float()

    def log_density(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the log of the posterior (n,) up to a constant, at points (n, 12)."""
        w, log_alpha = theta[:, :-1], theta[:, -1]
        fit = torch.nn.functional.logsigmoid(w @ self.signed.T.to(theta)).sum(1)
        alpha = log_alpha.exp()
        prior = w.shape[1] / 2 * log_alpha - alpha * w.square().sum(1) / 2
        return fit + prior + ALPHA_SHAPE * log_alpha - ALPHA_RATE * alpha

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw particles: unit normal weights, and log-precisions near 0."""
        theta = rng.standard_normal((n, self.dim))
        theta[:, -1] *= 0.5
        return theta

    def accuracy(self, theta: np.ndarray) -> float:
        """Share of the test rows that the mean prediction of the particles gets right."""
        logits = self.X_test @ theta[:, :-1].T
        predicted = (1 / (1 + np.exp(-np.clip(logits, -50, 50)))).mean(1) > 0.5
        return float((predicted == self.y_test).mean())

    def map_accuracy(self) -> float:
        """Test accuracy of scikit-learn's penalised fit, which is a posterior mode."""
        model = LogisticRegression(max_iter=1000).fit(self.X[:, :-1], self.y)
        return float(model.score(self.X_test[:, :-1], self.y_test))


def gradient(log_density: Any, x: np.ndarray) -> np.ndarray:
    """Return the gradient of a log-density at points (n, d)."""
    points = torch.from_numpy(x).float().requires_grad_()
    (slope,) = torch.autograd.grad(log_density(points).sum(), points)
    return slope.double().numpy()


def langevin(
    log_density: Any, x: np.ndarray, time: float, n_steps: int, rng: np.random.Generator
) -> np.ndarray:
    """Return points after unadjusted Langevin diffusion for so long."""
    h = time / n_steps
    for _ in range(n_steps):
        noise = np.sqrt(2 * h) * rng.standard_normal(x.shape)
        x = x + h * gradient(log_density, x) + noise
    return x


def stein_descent(
    log_density: Any, x: np.ndarray, n_steps: int, step: float = 0.3, decay: float = 0.9
) -> np.ndarray:
    """Return points after Stein variational gradient descent, with the usual scaled steps.

    Source: Liu and Wang, "Stein Variational Gradient Descent" (2016), arXiv 1608.04471.
    """
    power = np.zeros_like(x)
    for i in range(n_steps):
        squares = (x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T
        width = np.median(squares) / np.log(len(x) + 1)
        kernel = np.exp(-squares / width)
        repulsion = 2 / width * (x * kernel.sum(1)[:, None] - kernel @ x)
        direction = (kernel @ gradient(log_density, x) + repulsion) / len(x)
        power = direction**2 if i == 0 else decay * power + (1 - decay) * direction**2
        x = x + step * direction / (1e-6 + np.sqrt(power))
    return x
