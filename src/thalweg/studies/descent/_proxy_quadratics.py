"""Exact dynamics of a pair of quadratics for the study of 2302.03542: samples, steps, noise floor.

f has eigenvalues from 1 to 1/100 in 30 dimensions; the proxy's Hessian differs by a symmetric
matrix of norm delta. A sample is a gradient with isotropic noise, and the mean gap follows from the
second moments of the error, without simulation.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from thalweg.descent import proxy_prox, proxy_prox_bound, stationary_risk

DIM = 30
SPECTRUM = np.logspace(0, -2, DIM)
START = np.ones(DIM)
SAMPLES_DELTA = 0.05
RATE_DELTAS = (0.012, 0.048, 0.19)
STEPS = np.logspace(-2.5, 1.5, 41)
"""Steps eta over which both methods are tuned."""
SHARE = 0.01
MOST = 2000
RISK_ETA, RISK_STEPS = 0.5, 600
"""Of the simulated runs, in which the slowest part of the error has forgotten its start to 1e-2."""


def quadratic_cases(setup, rng):
    """Samples to a gap for each noise, the noise floor against simulation, and the rate."""
    A = np.diag(SPECTRUM)
    proxy = A + difference(rng, SAMPLES_DELTA)
    ours, plain = [], []
    for noise in setup.noises:
        ours.append(samples(A, proxy, noise))
        plain.append(samples(A, np.zeros_like(A), noise))
    at = dict(zip(setup.noises, zip(ours, plain, strict=True), strict=True))
    results = {
        "noises": np.array(setup.noises),
        "samples_proxy": np.array(ours),
        "samples_sgd": np.array(plain),
        "noiseless_share": at[0.0][0] / at[0.0][1],
        "noisy_ratio": at[1.0][0] / at[1.0][1],
    }
    return results | floor(A, proxy, setup.simulated, rng) | rates(A, rng)


def difference(rng, delta):
    """Return a random symmetric matrix of spectral norm delta."""
    G = rng.normal(size=(DIM, DIM))
    G = G + G.T
    return delta * G / np.linalg.norm(G, 2)


def samples(A, proxy, noise):
    """Return the fewest samples over all steps until the mean gap is 1 % of the first.

    `noise` is the mean squared norm of the noise. In the eigenvectors of A^½ P A^½, with
    P = (proxy + I / eta)^-1, the parts of A^½ e go their own ways, and the gap is half the sum of
    their second moments.
    """
    root, identity = np.sqrt(A), np.eye(DIM)
    aim, best = SHARE * float(START @ A @ START), MOST
    for eta in STEPS:
        curved = proxy + identity / eta
        if np.linalg.eigvalsh(curved).min() <= 0:
            continue
        P = np.linalg.inv(curved)
        shares, vectors = np.linalg.eigh(root @ P @ root)
        factors = (1 - shares) ** 2
        if factors.max() >= 1:
            continue
        first = (vectors.T @ root @ START) ** 2
        settled = noise / DIM * np.sum((vectors.T @ root @ P) ** 2, axis=1) / (1 - factors)
        left = factors ** np.arange(1, best)[:, None]
        below = np.flatnonzero(left @ first + (1 - left) @ settled <= aim)
        best = int(below[0]) + 1 if below.size else best
    return best


def floor(A, proxy, runs, rng):
    """Compare the mean final gap of simulated runs with the stationary risk, in standard errors.

    The rows of one point are the runs; all start at the minimum, where the noise alone acts.
    """
    exact = stationary_risk(A, proxy, RISK_ETA, np.eye(DIM) / DIM)
    P = np.linalg.inv(proxy + np.eye(DIM) / RISK_ETA)
    ends = proxy_prox(
        lambda e, rng: e @ A + rng.normal(size=e.shape) / np.sqrt(DIM),
        lambda e: 0.5 * float(np.sum((e @ proxy) * e)),
        np.zeros((runs, DIM)),
        proxy_jac=lambda e: e @ proxy,
        eta=RISK_ETA,
        n_steps=RISK_STEPS,
        solver=lambda e, shift, eta: (e / eta - shift) @ P,
        rng=rng,
    ).x
    gaps = 0.5 * np.einsum("ki,ij,kj->k", ends, A, ends)
    error = float(gaps.std(ddof=1)) / np.sqrt(runs)
    return {
        "risk_exact": exact,
        "risk_simulated": float(gaps.mean()),
        "risk_error": abs(float(gaps.mean()) - exact) / error,
    }


def rates(A, rng):
    """Steps until the gradient has fallen to 1e-3 of its first norm, for each delta."""
    direction = difference(rng, 1.0)
    first = float(np.linalg.norm(A @ START))
    steps, ratios = [], []
    for delta in RATE_DELTAS:
        proxy = A + delta * direction
        run = proxy_prox(
            lambda e, rng: A @ e,
            partial(_half_square, proxy),
            START,
            proxy_jac=proxy.dot,
            delta=delta,
            n_steps=400,
            theta=0.0,
            solver=partial(_solve, proxy),
            record=True,
        )
        slopes = np.linalg.norm(run.history["x"] @ A, axis=1)
        below = np.flatnonzero(slopes <= 1e-3 * first)
        steps.append(int(below[0]) if below.size else 400)
        gap = 0.5 * float(START @ A @ START)
        ratios.append(np.mean(slopes[1:31] ** 2) / proxy_prox_bound(30, gap=gap, delta=delta))
    return {
        "rate_steps": np.array(steps),
        "rate_factors": np.array(steps[1:]) / np.array(steps[:-1]),
        "quadratic_bound_ratios": np.array(ratios),
    }


def _half_square(H, e):
    return 0.5 * e @ H @ e


def _solve(H, e, shift, eta):
    return np.linalg.solve(H + np.eye(DIM) / eta, e / eta - shift)
