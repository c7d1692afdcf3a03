"""Whether a polytope is bounded: asked by whatever walks through one or centres in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

Floats = NDArray[np.float64]


def way_out(A: Floats, n: int) -> Floats | None:
    """Return a direction d with Ad <= 0, along which Ax <= b has no end, or None.

    Either the rows span the space and some weights y >= 1 have y·A = 0, so that only d = 0 has
    Ad <= 0; or some d has Ad = 0; or the largest sum of -Ad with -1 <= Ad <= 0 is at least 1. The
    rows should be of one length.
    """
    if not len(A):
        return np.eye(n)[0]
    _, sizes, rows = np.linalg.svd(A, full_matrices=len(A) < n)
    if len(sizes) < n or sizes[-1] <= sizes[0] * max(A.shape) * np.finfo(float).eps:
        return rows[-1]
    m = len(A)
    balance = linprog(np.ones(m), A_eq=A.T, b_eq=np.zeros(n), bounds=(1, None))
    if balance.status == 0:
        return None
    # the variables are d and s = -Ad
    found = linprog(
        np.r_[np.zeros(n), -np.ones(m)],
        A_eq=sparse.hstack([sparse.csr_array(A), sparse.eye_array(m)], format="csr"),
        b_eq=np.zeros(m),
        bounds=[(None, None)] * n + [(0, 1)] * m,
    )
    if found.status != 0:
        raise ValueError(f"Ax <= b must be a bounded polytope; could not tell: {found.message}")
    if -found.fun < 0.5:
        return None
    return found.x[:n] / np.linalg.norm(found.x[:n])
