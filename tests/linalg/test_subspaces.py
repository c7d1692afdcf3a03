from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from thalweg.linalg import incoherence, subspace_distance


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), k=st.integers(1, 5))
def test_incoherence_is_the_largest_leverage_and_basis_free(seed, k):
    rng = np.random.default_rng(seed)
    u, mix = rng.normal(size=(20, k)), rng.normal(size=(k, k)) + 4 * np.eye(k)
    leverage = np.diag(u @ np.linalg.pinv(u))
    assert incoherence(u) == pytest.approx(np.sqrt(leverage.max() * 20 / k), rel=1e-8)
    assert incoherence(u @ mix) == pytest.approx(incoherence(u), rel=1e-6)
    assert 1 - 1e-12 <= incoherence(u) <= np.sqrt(20 / k) + 1e-12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), size=st.floats(1e-8, 1.0))
def test_subspace_distance_is_the_sine_of_the_largest_angle(seed, size):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(20, 3))
    v = u @ rng.normal(size=(3, 3)) + size * rng.normal(size=(20, 3))
    expected = np.sin(subspace_angles(u, v).max())
    assert subspace_distance(u, v) == pytest.approx(expected, rel=1e-6, abs=1e-14)
    assert subspace_distance(v, u) == pytest.approx(expected, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("u", [np.ones((2, 3)), np.ones(3), [[np.nan], [1.0]]])
def test_bad_bases_are_refused(u):
    with pytest.raises(ValueError, match="u must"):
        incoherence(u)
    with pytest.raises(ValueError, match="u must"):
        subspace_distance(u, np.ones((3, 1)))
    with pytest.raises(ValueError, match="same shape"):
        subspace_distance(np.ones((3, 1)), np.ones((4, 1)))
