"""What the factorisations return holds together: factors, counts and history."""

from functools import partial

import numpy as np
import pytest

from thalweg.linalg import (
    PairProgress,
    jacobi_eigh,
    jacobi_svd,
    pairwise_cholesky,
    pairwise_factor,
    pairwise_qr,
    scaled_condition,
)

A = np.random.default_rng(0).normal(size=(9, 5))
G = A.T @ A
FACTOR = partial(pairwise_factor, kind="jacobi")


@pytest.mark.parametrize(
    ("factorise", "matrix", "rebuild"),
    [
        (jacobi_svd, A, lambda r: r.u @ np.diag(r.s) @ r.vt),
        (jacobi_eigh, G, lambda r: r.v @ np.diag(r.w) @ r.v.T),
        (pairwise_qr, A, lambda r: r.q @ r.r),
        (pairwise_cholesky, G, lambda r: r.l @ r.l.T),
        (
            partial(pairwise_factor, kind="jacobi"),
            A,
            lambda r: r.basis @ np.linalg.inv(r.transform),
        ),
    ],
)
def test_the_factors_give_the_matrix_as_documented(factorise, matrix, rebuild):
    result = factorise(matrix, rng=0)
    np.testing.assert_allclose(rebuild(result), matrix, atol=1e-12)
    assert result.converged
    assert result.history is None


def test_history_holds_what_the_callback_saw():
    seen = []
    result = jacobi_svd(A, rng=0, track=True, callback=seen.append)
    history = result.history
    assert all(isinstance(state, PairProgress) for state in seen)
    assert [state.sweep for state in seen] == list(range(result.sweeps + 1))
    for name in ("steps", "potential", "off_diagonal", "condition"):
        values = getattr(history, name)
        np.testing.assert_array_equal(values, [getattr(state, name) for state in seen])
    assert history.steps[-1] == result.steps
    assert history.potential[0] == pytest.approx(result.potential)
    assert history.condition[0] == pytest.approx(scaled_condition(G))
    with pytest.raises(AttributeError):
        result.steps = 0
