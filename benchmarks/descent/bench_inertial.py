"""Momentum on a million unknowns: ours, PyTorch's SGD and the bare vector updates.

A step costs one gradient, three vector updates and the checks of what the user's function returned
(shape, finite, a copy of its own); the updates alone are what NumPy takes. torch.optim.SGD does the
heavy ball in fused loops, unchecked.

Then gradients until the slope has fallen to 1e-8 of the first, against
scipy.optimize's L-BFGS-B and CG, which are told neither L nor mu.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.optimize import minimize

from thalweg.descent import coefficients, heavy_ball, triple_momentum, two_step

SIZE = 1_000_000
STEPS = 50
DIM, CONDITION = 200, 1e4


@functools.cache
def spectrum():
    return np.linspace(0.01, 1.0, SIZE)


def ours(method):
    def run():
        return method(
            lambda x: 0.0,
            np.ones(SIZE),
            jac=lambda x: spectrum() * x,
            L=1.0,
            mu=0.01,
            gtol=0,
            maxiter=STEPS,
        ).x

    return run


def bare():
    alpha, beta = coefficients("heavy-ball", L=1.0, mu=0.01)[:2]

    def run():
        before = now = np.ones(SIZE)
        for _ in range(STEPS):
            before, now = now, now + beta * (now - before) - alpha * (spectrum() * now)
        return now

    return run


def torch_sgd():
    torch = pytest.importorskip("torch")
    alpha, beta = coefficients("heavy-ball", L=1.0, mu=0.01)[:2]
    lam = torch.tensor(spectrum())

    def run():
        x = torch.nn.Parameter(torch.ones(SIZE, dtype=torch.float64))
        optimizer = torch.optim.SGD([x], lr=alpha, momentum=beta)
        for _ in range(STEPS):
            x.grad = lam * x.detach()
            optimizer.step()
        return x.detach().numpy()

    return run


@pytest.mark.parametrize(
    ("entrant", "make", "peer"),
    [
        ("thalweg heavy_ball", lambda: ours(heavy_ball), None),
        ("thalweg triple_momentum", lambda: ours(triple_momentum), None),
        ("NumPy written out", bare, None),
        ("torch.optim.SGD", torch_sgd, "torch"),
    ],
)
def test_vector_updates(measure, entrant, make, peer):
    measure(
        make(),
        workload=f"{STEPS} momentum steps, {SIZE:,} unknowns",
        entrant=entrant,
        accuracy=("norm of x, relative to the start's", lambda x: np.linalg.norm(x) / SIZE**0.5),
        peer=peer,
    )


@functools.cache
def problem():
    lam = np.geomspace(1 / CONDITION, 1.0, DIM)
    x0 = np.random.default_rng(0).normal(size=DIM)
    return lambda x: 0.5 * float(x @ (lam * x)), lambda x: lam * x, x0


def until_flat(method):
    fun, jac, x0 = problem()
    gtol = 1e-8 * float(np.abs(jac(x0)).max())
    options = {"gtol": gtol, "maxiter": 100_000}
    if method in ("heavy-ball", "nesterov", "triple-momentum"):
        names = ("alpha", "beta", "gamma", "delta")
        values = coefficients(method, L=1.0, mu=1 / CONDITION)
        options |= dict(zip(names, values, strict=True))
        return lambda: minimize(fun, x0, jac=jac, method=two_step, options=options)
    if method == "L-BFGS-B":
        options |= {"ftol": 0.0, "maxfun": 100_000}
    return lambda: minimize(fun, x0, jac=jac, method=method, options=options)


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("triple-momentum", None),
        ("nesterov", None),
        ("heavy-ball", None),
        ("L-BFGS-B", "scipy"),
        ("CG", "scipy"),
    ],
)
def test_gradients_to_a_flat_slope(measure, method, peer):
    measure(
        until_flat(method),
        workload=f"quadratic of condition {CONDITION:g}, dimension {DIM}, slope to 1e-8",
        entrant=("" if peer else "thalweg ") + method,
        accuracy=("gradients", lambda result: result.njev if result.success else np.inf),
        peer=peer,
    )
