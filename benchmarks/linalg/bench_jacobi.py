"""Singular values to high relative accuracy: ours, LAPACK's dgejsv, a loop in NumPy.

The matrix of the loop is smaller: it needs seconds where the others need milliseconds.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import lapack

from thalweg.linalg import jacobi_svd, pairwise_qr

EPS = np.finfo(float).eps


def gaussian(m, n):
    return np.random.default_rng(0).normal(size=(m, n))


def lapack_svd(a):
    values, u, v, scales, _, info = lapack.dgejsv(a, joba=0, jobu=0, jobv=0, jobr=0, jobp=0)
    assert info == 0
    return u, values * scales[0] / scales[1], v.T


def loop_svd(a, rng):
    """Rotate uniformly random pairs of columns with NumPy alone."""
    a, n = np.asfortranarray(a), a.shape[1]
    v = np.eye(n, order="F")
    while True:
        for _ in range(n * (n - 1) // 2):
            i, j = sorted(rng.choice(n, 2, replace=False))
            x, y = a[:, i], a[:, j]
            xx, xy, yy = x @ x, x @ y, y @ y
            if abs(xy) <= EPS * np.sqrt(xx * yy):
                continue
            z = (yy - xx) / (2 * xy)
            t = (1.0 if z >= 0 else -1.0) / (abs(z) + np.hypot(1, z))
            c = 1 / np.hypot(1, t)
            rotation = np.array([[c, c * t], [-c * t, c]])
            a[:, [i, j]] = a[:, [i, j]] @ rotation
            v[:, [i, j]] = v[:, [i, j]] @ rotation
        norms = np.linalg.norm(a, axis=0)
        cosines = np.abs((a / norms).T @ (a / norms)) - np.eye(n)
        if cosines.max() <= n * EPS:
            break
    order = np.argsort(-norms)
    return (a / norms)[:, order], norms[order], v[:, order].T


def ours(pivoting):
    def run(a):
        done = jacobi_svd(a, pivoting, rng=0)
        return done.u, done.s, done.vt

    return run


def residual(a):
    return "relative residual", lambda usv: np.abs((usv[0] * usv[1]) @ usv[2] - a).max() / usv[1][0]


@pytest.mark.parametrize(
    ("entrant", "svd", "peer"),
    [
        ("thalweg, random pairs", ours("random"), None),
        ("thalweg, random sweeps", ours("random-sweep"), None),
        ("scipy dgejsv", lapack_svd, "scipy"),
    ],
)
def test_accurate_singular_values(measure, entrant, svd, peer):
    a = gaussian(500, 200)
    measure(
        lambda: svd(a),
        workload="accurate SVD, 500 x 200 normal",
        entrant=entrant,
        accuracy=residual(a),
        peer=peer,
        target=1 / 6 if peer else None,
    )


@pytest.mark.parametrize("entrant", ["thalweg, random pairs", "NumPy loop"])
def test_against_a_loop(measure, entrant):
    a = gaussian(80, 40)
    svd = ours("random")
    if entrant == "NumPy loop":
        svd = lambda a: loop_svd(a, np.random.default_rng(0))  # noqa: E731
    measure(
        lambda: svd(a),
        workload="accurate SVD, 80 x 40 normal",
        entrant=entrant,
        accuracy=residual(a),
        target=50.0 if entrant == "NumPy loop" else None,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg, random pairs", "numpy.linalg.qr"])
def test_orthogonal_factor(measure, entrant):
    a = gaussian(500, 200)
    if entrant == "numpy.linalg.qr":
        run, peer = lambda: np.linalg.qr(a).Q, "numpy"
    else:
        run, peer = lambda: pairwise_qr(a, tol=1e-14, max_sweeps=60, rng=0).q, None
    measure(
        run,
        workload="QR, 500 x 200 normal",
        entrant=entrant,
        accuracy=("largest cosine", lambda q: np.abs(q.T @ q - np.eye(200)).max()),
        peer=peer,
    )
