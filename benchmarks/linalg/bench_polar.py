"""Polar factor by matrix products, against the singular value decomposition and its own parts."""

import numpy as np
import pytest
import scipy.linalg

from thalweg.linalg import polar_express_schedule, polar_factor

STEPS = 8


def spread(rows, columns, least=1e-2):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, columns)))[0] for n in (rows, columns))
    values = np.geomspace(least, 1, columns)
    return ((u * values) @ v.T).astype(np.float32), u @ v.T


def error(exact):
    return "error", lambda factor: np.linalg.norm(factor - exact) / np.sqrt(exact.shape[1])


@pytest.mark.parametrize("entrant", ["thalweg", "scipy.linalg.polar"])
def test_square(measure, entrant):
    matrix, exact = spread(1024, 1024)
    ours = entrant == "thalweg"
    measure(
        lambda: polar_factor(matrix, STEPS) if ours else scipy.linalg.polar(matrix)[0],
        workload="polar factor, 1024 x 1024, float32, 8 polynomials",
        entrant=entrant,
        accuracy=error(exact),
        peer=None if ours else "scipy",
        target=3.0,
    )


@pytest.mark.parametrize("entrant", ["thalweg", "the products alone"])
def test_against_products(measure, entrant):
    """The share of the rate of matrix products that the iteration reaches."""
    matrix, exact = spread(1024, 1024)

    def products():
        for _ in range(3 * STEPS):
            matrix @ matrix
        return exact

    ours = entrant == "thalweg"
    measure(
        (lambda: polar_factor(matrix, STEPS)) if ours else products,
        workload="polar factor, 1024 x 1024, float32, or its 24 matrix products alone",
        entrant=entrant,
        accuracy=error(exact),
        target=0.6,
    )


@pytest.mark.parametrize("entrant", ["thalweg, fast", "plain iteration"])
def test_tall(measure, entrant):
    matrix, exact = spread(4096, 512)
    fast = entrant == "thalweg, fast"
    measure(
        lambda: polar_factor(matrix, STEPS, fast=fast),
        workload="polar factor, 4096 x 512, float32, 8 polynomials",
        entrant=entrant,
        accuracy=error(exact),
        target=1.3,
    )


def test_schedule(measure):
    measure(
        lambda: polar_express_schedule(STEPS),
        workload="schedule of 8 polynomials (at most 5 ms wanted)",
        entrant="thalweg",
        accuracy=("first coefficient", lambda schedule: schedule[0, 0] * 1.01),
        rounds=20,
    )
