"""Bridges of whole tables: D-IMF and Sinkhorn against enumeration and each other."""

import numpy as np
import pytest

from thalweg.transport import (
    CategoricalReference,
    categorical_bridge,
    categorical_dimf,
    centroid_kernel,
    gaussian_kernel,
    uniform_kernel,
)

from ._chains import LAZY_WALK, SKEWED_WALK, divergence, laws, path_laws, skewed


def one_iteration_by_paths(coupling, reference):
    """The Markov projection from the law of whole paths, enumerated; N = 2."""
    S, Q = reference.n_categories, reference.kernel
    law = np.zeros((S,) * 4)
    for x0, xe in np.ndindex(S, S):
        law[x0, :, :, xe] = coupling[x0, xe] * path_laws(reference, x0, xe)
    ends = np.diag(coupling.sum(axis=1))
    for n in range(3):
        joint = law.sum(axis=tuple(k for k in range(4) if k not in (n, n + 1)))
        ends = ends @ (joint / joint.sum(axis=1, keepdims=True))
    assert Q.shape == (S, S)
    return ends


def test_two_states_keep_the_odds_ratio_of_the_reference():
    reference = CategoricalReference([[0.9, 0.1], [0.35, 0.65]], 3)
    p0, p1 = [0.3, 0.7], [0.6, 0.4]

    def odds(M):
        return M[0, 0] * M[1, 1] / (M[0, 1] * M[1, 0])

    expected = odds(reference.transition)
    assert odds(categorical_bridge(p0, p1, reference)) == pytest.approx(expected, rel=1e-10)
    fitted = categorical_dimf(p0, p1, reference, n_iter=60)[-1]
    assert odds(fitted) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kernel", [gaussian_kernel(20, 0.3), uniform_kernel(20, 0.2)])
def test_bridge_agrees_with_pot(kernel, monkeypatch):
    for library in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):  # ten seconds of imports otherwise
        monkeypatch.setenv(f"POT_BACKEND_DISABLE_{library}", "1")
    ot = pytest.importorskip("ot")
    p0, p1 = laws(20)
    reference = CategoricalReference(kernel, 3)
    cost = -np.log(reference.transition)
    plan = ot.sinkhorn(p0, p1, cost, 1.0, method="sinkhorn_log", stopThr=1e-13, numItermax=50_000)
    np.testing.assert_allclose(categorical_bridge(p0, p1, reference), plan, atol=1e-11)


def test_one_iteration_is_the_projection_of_enumerated_paths():
    reference, (p0, p1) = skewed(3, 2), laws(3)
    start, after = categorical_dimf(p0, p1, reference, n_iter=1)
    np.testing.assert_allclose(start, np.outer(p0, p1))
    np.testing.assert_allclose(after, one_iteration_by_paths(start, reference), atol=1e-13)


@pytest.mark.parametrize(
    "reference",
    [
        CategoricalReference(SKEWED_WALK, 3),
        CategoricalReference(gaussian_kernel(12, 0.3), 2),
        CategoricalReference(centroid_kernel(np.arange(12.0)[:, None] ** 1.5 / 9, 0.2), 4),
    ],
)
def test_dimf_keeps_marginals_and_approaches_the_bridge(reference):
    p0, p1 = laws(12)
    bridge = categorical_bridge(p0, p1, reference)
    couplings = categorical_dimf(p0, p1, reference, n_iter=60)
    assert len(couplings) == 61
    for coupling in couplings:
        np.testing.assert_allclose(coupling.sum(axis=1), p0, atol=1e-12)
        np.testing.assert_allclose(coupling.sum(axis=0), p1, atol=1e-12)
    gaps = np.array([divergence(coupling, bridge) for coupling in couplings])
    assert np.diff(gaps).max() <= 1e-12
    assert gaps[0] > 1e-3
    assert gaps[-1] <= 1e-9


def test_bridge_is_a_fixed_point():
    reference, (p0, p1) = skewed(8, 3), laws(8)
    bridge = categorical_bridge(p0, p1, reference)
    after = categorical_dimf(p0, p1, reference, n_iter=3, coupling=bridge)[-1]
    np.testing.assert_allclose(after, bridge, atol=1e-12)


def test_limit_does_not_depend_on_the_start():
    reference, (p0, p1) = skewed(6, 4), laws(6)
    other = CategoricalReference(gaussian_kernel(6, 0.4), 1)
    start = categorical_bridge(p0, p1, other)
    limits = [categorical_dimf(p0, p1, reference, n_iter=60, coupling=c)[-1] for c in (None, start)]
    assert np.abs(start - np.outer(p0, p1)).max() > 1e-3
    np.testing.assert_allclose(limits[0], limits[1], atol=1e-12)


def test_states_without_mass_stay_empty():
    reference = skewed(5, 2)
    p0, p1 = np.array([0.0, 0.5, 0.5, 0.0, 0.0]), np.array([0.3, 0.0, 0.0, 0.0, 0.7])
    bridge = categorical_bridge(p0, p1, reference)
    fitted = categorical_dimf(p0, p1, reference, n_iter=60)[-1]
    np.testing.assert_allclose(fitted, bridge, atol=1e-10)
    assert fitted[0].sum() == bridge[0].sum() == bridge[:, 1].sum() == 0


def test_bridge_never_takes_an_impossible_way():
    reference = CategoricalReference(LAZY_WALK, 1)
    p0, p1 = [0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.2, 0.4]
    bridge = categorical_bridge(p0, p1, reference)
    assert bridge[0, 3] == bridge[3, 0] == 0
    np.testing.assert_allclose(bridge.sum(axis=1), p0, atol=1e-11)
    np.testing.assert_allclose(bridge.sum(axis=0), p1, atol=1e-11)
    after = categorical_dimf(p0, p1, reference, n_iter=2, coupling=bridge)[-1]
    np.testing.assert_allclose(after, bridge, atol=1e-11)


@pytest.mark.parametrize(
    ("p0", "p1"),
    [([1.0, 0, 0, 0], [0, 0, 0, 1.0]), ([0.5, 0.5, 0, 0], [0, 0, 0.4, 0.6])],
)
def test_unreachable_laws_are_infeasible(p0, p1):
    reference = CategoricalReference(LAZY_WALK, 1)
    with pytest.raises(ValueError, match="infeasible"):
        categorical_bridge(p0, p1, reference)
    with pytest.raises(ValueError, match="infeasible: p0 x p1 puts mass"):
        categorical_dimf(p0, p1, reference)


def test_callback_sees_every_iteration_and_may_stop():
    reference, (p0, p1), seen = skewed(4, 2), laws(4), []

    def callback(state):
        seen.append((state.iteration, state.n_iter, state.coupling))
        if state.iteration == 3:
            raise StopIteration

    couplings = categorical_dimf(p0, p1, reference, n_iter=9, callback=callback)
    assert [s[:2] for s in seen] == [(1, 9), (2, 9), (3, 9)]
    assert len(couplings) == 4
    np.testing.assert_array_equal(couplings[-1], seen[-1][2])
