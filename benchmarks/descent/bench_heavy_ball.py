"""Exact risk of heavy ball against the same recursion in NumPy; a torch step against torch's SGD.

A hundred thousand steps in a thousand modes are wanted in a second of one core, about ten
operations a mode and step.
"""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import expected_risk, step_decay

MODES, STEPS, KAPPA = 1000, 100_000, 1e4
MOMENTUM = (1 - KAPPA**-0.5) ** 2
NOISE = 1e-4
WIDTHS, DEPTH = 512, 8


def numpy_risk(lam, error, steps, *, momentum, noise):
    m, before = error.copy(), error.copy()
    p, q, r = np.zeros((3, len(lam)))
    s = noise * lam
    for eta in steps:
        a = 1 + momentum - eta * lam
        m, before = a * m - momentum * before, m
        p, q, r = (
            a * (a * p - 2 * momentum * q) + momentum**2 * r + eta**2 * s,
            a * p - momentum * q,
            p,
        )
    return 0.5 * np.sum(lam * m**2), 0.5 * np.sum(lam * p)


def dense_variance(lam, steps):
    """Variance of the two outermost modes, by products of 3 x 3 matrices."""
    total = 0.0
    for h in lam:
        state = np.zeros(3)
        for eta in steps:
            a = 1 + MOMENTUM - eta * h
            step = np.array(
                [[a * a, -2 * a * MOMENTUM, MOMENTUM**2], [a, -MOMENTUM, 0.0], [1.0, 0.0, 0.0]]
            )
            state = step @ state
            state[0] += eta**2 * NOISE * h
        total += 0.5 * h * state[0]
    return total


@pytest.mark.parametrize("entrant", ["thalweg", "the recursion in NumPy"])
def test_expected_risk(measure, entrant):
    lam, error = np.logspace(0, -np.log10(KAPPA), MODES), np.ones(MODES)
    steps = step_decay(STEPS, L=1.0, kappa=KAPPA)
    risk = expected_risk if entrant == "thalweg" else numpy_risk
    options = {"momentum": MOMENTUM, "noise": NOISE}
    ends, short = lam[[0, -1]], steps[:: STEPS // 1000]
    exact = dense_variance(ends, short)
    measure(
        lambda: risk(lam, error, steps, **options),
        workload=f"exact risk of heavy ball, {MODES} modes, {STEPS:,} steps",
        entrant=entrant,
        accuracy=(
            "relative error of the variance, two modes",
            lambda _: abs(risk(ends, np.ones(2), short, **options)[1] / exact - 1),
        ),
        target=3.0,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg", "torch.optim.SGD"])
def test_step(measure, entrant):
    torch = pytest.importorskip("torch")
    from thalweg.descent import HeavyBall

    generator = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.zeros(WIDTHS, WIDTHS)) for _ in range(DEPTH)]
    for p in matrices:
        p.grad = torch.randn(p.shape, generator=generator)
    make = HeavyBall if entrant == "thalweg" else torch.optim.SGD
    optimizer = make(matrices, lr=0.01, momentum=0.9)
    taken = 0

    def step():
        nonlocal taken
        taken += 1
        optimizer.step()
        return taken

    def relative_error(count):
        weight = sum((1 - 0.9 ** (k + 1)) / 0.1 for k in range(count))
        moved = [p.detach().double() for p in matrices]
        expected = [-0.01 * weight * p.grad.double() for p in matrices]
        return max(float((a - b).norm() / b.norm()) for a, b in zip(moved, expected, strict=True))

    measure(
        step,
        workload=f"step of heavy ball, {DEPTH} matrices {WIDTHS} x {WIDTHS}",
        entrant=entrant,
        accuracy=("relative error of the displacement", relative_error),
        peer=None if entrant == "thalweg" else "torch",
        target=0.8,
        rounds=30,
    )
