"""Targets of the study of Hamiltonian Monte Carlo, with their exact moments where there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, log_expit

Floats = NDArray[np.float64]

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
PRIOR_MU, PRIOR_TAU = 5.0, 5.0
DIMENSION = 100


@njit(cache=True)
def normal(x):
    """N(0, I)."""
    return -0.5 * (x @ x), -x


@njit(cache=True)
def funnel(x):
    """N(0, 3^2) in the first coordinate v, N(0, exp(v)) in the others."""
    gradient = np.empty_like(x)
    inverse, square = np.exp(-x[0]), 0.0
    for i in range(1, x.size):
        square += x[i] * x[i]
        gradient[i] = -inverse * x[i]
    half = 0.5 * (x.size - 1)
    gradient[0] = -x[0] / 9.0 - half + 0.5 * inverse * square
    return -x[0] * x[0] / 18.0 - half * x[0] - 0.5 * inverse * square, gradient


@njit(cache=True)
def noncentred(x):
    """Eight schools: mu, log tau, and effects in units of tau around mu."""
    gradient = np.empty_like(x)
    tau = np.exp(x[1])
    ratio = (tau / PRIOR_TAU) ** 2
    value = -0.5 * (x[0] / PRIOR_MU) ** 2 - np.log1p(ratio) + x[1]
    gradient[0] = -x[0] / PRIOR_MU**2
    gradient[1] = 1.0 - 2.0 * ratio / (1.0 + ratio)
    for j in range(EFFECTS.size):
        residual = (EFFECTS[j] - x[0] - tau * x[2 + j]) / ERRORS[j]
        value -= 0.5 * residual**2 + 0.5 * x[2 + j] ** 2
        gradient[0] += residual / ERRORS[j]
        gradient[1] += residual / ERRORS[j] * tau * x[2 + j]
        gradient[2 + j] = residual / ERRORS[j] * tau - x[2 + j]
    return value, gradient


@njit(cache=True)
def centred(x):
    """Eight schools: mu, log tau, and the effects themselves."""
    gradient = np.empty_like(x)
    tau = np.exp(x[1])
    ratio = (tau / PRIOR_TAU) ** 2
    value = -0.5 * (x[0] / PRIOR_MU) ** 2 - np.log1p(ratio) + x[1]
    gradient[0] = -x[0] / PRIOR_MU**2
    gradient[1] = 1.0 - 2.0 * ratio / (1.0 + ratio)
    for j in range(EFFECTS.size):
        residual = (EFFECTS[j] - x[2 + j]) / ERRORS[j]
        deviation = (x[2 + j] - x[0]) / tau
        value -= 0.5 * residual**2 + 0.5 * deviation**2 + x[1]
        gradient[0] += deviation / tau
        gradient[1] += deviation**2 - 1.0
        gradient[2 + j] = residual / ERRORS[j] - deviation / tau
    return value, gradient


def gaussian(covariance: Floats) -> Any:
    """Return the log density of N(0, covariance), compiled."""
    precision = np.linalg.inv(covariance)

    @njit
    def density(x):
        gradient = -(precision @ x)
        return 0.5 * (x @ gradient), gradient

    return density


def correlated_covariance(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return a covariance of condition 100 in random directions, and those directions."""
    basis = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0]
    return (basis * np.logspace(-2, 0, DIMENSION)) @ basis.T, basis


def logistic_regression(rng: np.random.Generator) -> tuple[Any, Floats, Floats, Floats, float]:
    """Return a posterior, and its moments by importance sampling with their errors.

    The data are scikit-learn's on breast cancer, the prior is N(0, I). Proposals are Student's t
    around the mode; the last value is their effective number.
    """
    from sklearn.datasets import load_breast_cancer

    features, label = load_breast_cancer(return_X_y=True)
    X = np.ascontiguousarray((features - features.mean(axis=0)) / features.std(axis=0))
    sign = 2.0 * label - 1.0

    @njit
    def density(w):
        margin = sign * (X @ w)
        tail = np.exp(-np.abs(margin))
        loss = np.log1p(tail) + np.maximum(-margin, 0.0)
        chance = np.where(margin > 0, tail, 1.0) / (1.0 + tail)
        return -loss.sum() - 0.5 * (w @ w), X.T @ (sign * chance) - w

    d = X.shape[1]
    mode = minimize(lambda w: tuple(-v for v in density(w)), np.zeros(d), jac=True, tol=1e-10).x
    chance = expit(X @ mode)
    covariance = np.linalg.inv((X.T * (chance * (1 - chance))) @ X + np.eye(d))
    proposal = stats.multivariate_t(mode, 1.2 * covariance, df=20, seed=rng)
    draws = proposal.rvs(100_000)
    log_target = log_expit((draws @ X.T) * sign).sum(axis=1) - 0.5 * (draws**2).sum(axis=1)
    log_weight = log_target - proposal.logpdf(draws)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    means = weight @ draws
    sds = np.sqrt(weight @ (draws - means) ** 2)
    errors = np.sqrt(weight**2 @ (draws - means) ** 2)
    return density, means, sds, errors, float(1.0 / (weight**2).sum())


def eight_schools() -> dict[str, Any]:
    """Return the exact posterior of mu and log tau by quadrature over log tau."""
    log_tau = np.linspace(-12.0, 6.0, 6001)
    variance = np.exp(2 * log_tau)[:, None] + ERRORS**2
    precision = (1 / variance).sum(axis=1) + PRIOR_MU**-2
    mean = (EFFECTS / variance).sum(axis=1) / precision
    log_weight = (
        log_tau
        - np.log1p(np.exp(2 * log_tau) / PRIOR_TAU**2)
        - 0.5 * np.log(variance).sum(axis=1)
        - 0.5 * np.log(precision)
        - 0.5 * (EFFECTS**2 / variance).sum(axis=1)
        + 0.5 * precision * mean**2
    )
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean_mu, mean_log = weight @ mean, weight @ log_tau
    mu = np.linspace(-25.0, 35.0, 601)
    return {
        "mean_mu": mean_mu,
        "sd_mu": np.sqrt(weight @ (1 / precision + (mean - mean_mu) ** 2)),
        "mean_log_tau": mean_log,
        "sd_log_tau": np.sqrt(weight @ (log_tau - mean_log) ** 2),
        "log_tau": log_tau,
        "log_tau_cdf": np.cumsum(weight),
        "mu": mu,
        "mu_cdf": stats.norm.cdf((mu[:, None] - mean) * np.sqrt(precision)) @ weight,
    }
