"""Expensive gradients until the slope is flat, with a proxy and without.

Logistic regression whose proxy is the loss on a tenth of the rows, with the smoothness of the
difference estimated on the way. Against gradient descent and scipy.optimize's L-BFGS-B: the
gradients of the whole loss that bring the largest entry of the slope to 1e-8, and the time for all.
The target is at most a tenth of the gradients of descent at 1/L, and fewer than L-BFGS-B's.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.optimize import minimize

from thalweg.descent import Logistic, gradient_descent, proxy_prox_minimize

ROWS, DIM, SHARE = 100_000, 50, 10
GTOL = 1e-8
L2 = 1e-3


@functools.cache
def problems():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, DIM)) * np.logspace(0, -1, DIM)
    y = np.where(X @ rng.normal(size=DIM) + rng.normal(size=ROWS) > 0, 1.0, -1.0)
    f, proxy = Logistic(X, y, l2=L2), Logistic(X[: ROWS // SHARE], y[: ROWS // SHARE], l2=L2)
    return f, proxy, f.curvature()["L"]


def by_proxy():
    f, proxy, _ = problems()
    return lambda: proxy_prox_minimize(
        f.value, np.zeros(DIM), jac=f.gradient, proxy_fun=proxy, delta="estimate", gtol=GTOL
    )


def by_descent():
    f, _, L = problems()
    return lambda: gradient_descent(
        f.value, np.zeros(DIM), jac=f.gradient, step=1 / L, gtol=GTOL, maxiter=20_000
    )


def by_scipy():
    f, *_ = problems()
    options = {"gtol": GTOL, "ftol": 0.0, "maxiter": 20_000}
    return lambda: minimize(
        f.value, np.zeros(DIM), jac=f.gradient, method="L-BFGS-B", options=options
    )


@pytest.mark.parametrize(
    ("entrant", "make", "peer"),
    [
        ("thalweg proxy_prox_minimize", by_proxy, None),
        ("thalweg gradient_descent", by_descent, None),
        ("L-BFGS-B", by_scipy, "scipy"),
    ],
)
def test_gradients_of_the_whole_to_a_flat_slope(measure, entrant, make, peer):
    f, *_ = problems()
    measure(
        make(),
        workload=f"logistic regression, {ROWS:,} rows, a tenth of them cheap, slope to {GTOL:g}",
        entrant=entrant,
        accuracy=(
            "gradients of the whole",
            lambda result: result.njev if np.abs(f.gradient(result.x)).max() < 3e-8 else np.inf,
        ),
        peer=peer,
        rounds=3,
    )
