import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import kl_div
from sklearn.base import clone

from thalweg.transport import (
    CategoricalReference,
    categorical_bridge,
    categorical_dimf,
    centroid_kernel,
    gaussian_kernel,
    product_reference,
    uniform_kernel,
)
from thalweg.transport.categorical import check_tokens, sample_categorical

LAZY_WALK = np.array(
    [[0.8, 0.2, 0.0, 0.0], [0.2, 0.6, 0.2, 0.0], [0.0, 0.2, 0.6, 0.2], [0.0, 0.0, 0.2, 0.8]]
)

SKEWED_WALK = 0.7 * np.eye(12) + 0.3 * np.random.default_rng(9).dirichlet(np.ones(12), size=12)


def skewed(S, n_inner, seed=0):
    """A chain without any symmetry."""
    kernel = np.random.default_rng(seed).dirichlet(np.ones(S), size=S)
    return CategoricalReference(kernel, n_inner)


def laws(S, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(S), size=2)


def divergence(p, q):
    return kl_div(p, q).sum()


def path_laws(reference, x0, x1):
    """Law of the inner points given both ends, by enumeration of the chain's paths."""
    S, N, Q = reference.n_categories, reference.n_inner, reference.kernel
    table = np.zeros((S,) * N)
    for inner in np.ndindex(table.shape):
        path = (x0, *inner, x1)
        table[inner] = np.prod([Q[a, b] for a, b in pairwise(path)])
    return table / table.sum()


def test_cumulative_holds_powers():
    reference = skewed(4, 3)
    for n in range(5):
        np.testing.assert_allclose(
            reference.cumulative[n], np.linalg.matrix_power(reference.kernel, n), atol=1e-14
        )
    np.testing.assert_allclose(reference.transition, reference.cumulative[-1], atol=1e-14)


def test_bridge_and_posterior_are_those_of_enumerated_paths():
    reference, x0, x1 = skewed(3, 3), 2, 0
    table = path_laws(reference, x0, x1)
    for n in (1, 2, 3):
        others = tuple(i for i in range(3) if i != n - 1)
        bridge = reference.bridge_probs([[x0]], [[x1]], n)[0, 0]
        np.testing.assert_allclose(bridge, table.sum(axis=others), atol=1e-13)
    pairs = table.sum(axis=2)
    for xn in range(3):
        posterior = reference.posterior_probs([[xn]], [[x1]], 1)[0, 0]
        np.testing.assert_allclose(posterior, pairs[xn] / pairs[xn].sum(), atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 5), st.data())
def test_bridge_then_posterior_is_the_next_bridge(S, N, data):
    """sum_x q(x_n = x | x0, xe) q(x_{n+1} | x, xe) = q(x_{n+1} | x0, xe)."""
    reference = skewed(S, N, data.draw(st.integers(0, 100)))
    n = data.draw(st.integers(0, N))
    x0, xe = data.draw(st.integers(0, S - 1)), data.draw(st.integers(0, S - 1))
    now = reference.bridge_probs([[x0]], [[xe]], n)[0, 0]
    states = np.arange(S)[:, None]
    steps = reference.posterior_probs(states, np.full_like(states, xe), n)[:, 0]
    later = reference.bridge_probs([[x0]], [[xe]], n + 1)[0, 0]
    np.testing.assert_allclose(now @ steps, later, atol=1e-12)


def test_bridge_is_pinned_at_both_ends():
    reference = skewed(5, 2)
    x0, x1 = np.array([[0, 3]]), np.array([[4, 1]])
    np.testing.assert_allclose(reference.bridge_probs(x0, x1, 0)[0], np.eye(5)[x0[0]])
    np.testing.assert_allclose(reference.bridge_probs(x0, x1, 3)[0], np.eye(5)[x1[0]], atol=1e-15)
    np.testing.assert_allclose(reference.posterior_probs(x0, x1, 2)[0], np.eye(5)[x1[0]])


def test_one_time_a_row():
    reference, rng = skewed(4, 3), np.random.default_rng(0)
    x, y = rng.integers(4, size=(2, 5, 3))
    times = np.array([0, 3, 1, 2, 3])
    for method in (reference.bridge_probs, reference.posterior_probs):
        together = method(x, y, times)
        for row, n in enumerate(times):
            np.testing.assert_allclose(together[row], method(x, y, int(n))[row])


def test_bridge_draws_follow_their_law():
    """4.5 standard deviations of 40 000 draws."""
    reference, n = skewed(4, 3), 40_000
    x0, x1 = np.tile([0, 3], (n, 1)), np.tile([2, 1], (n, 1))
    draws = reference.bridge(x0, x1, 2, rng=0)
    probs = reference.bridge_probs(x0[:1], x1[:1], 2)[0]
    for d in range(2):
        shares = np.bincount(draws[:, d], minlength=4) / n
        assert (np.abs(shares - probs[d]) <= 4.5 * np.sqrt(probs[d] * (1 - probs[d]) / n)).all()


def test_paths_follow_the_powers():
    """4.5 standard deviations of 40 000 draws at every time."""
    reference, n = skewed(3, 2), 40_000
    path = reference.sample(np.full((n, 1), 1), rng=0)
    assert path.shape == (4, n, 1)
    for k in range(4):
        probs = reference.cumulative[k][1]
        shares = np.bincount(path[k, :, 0], minlength=3) / n
        assert (np.abs(shares - probs) <= 4.5 * np.sqrt(probs * (1 - probs) / n) + 1e-15).all()
    steps = np.zeros((3, 3))
    np.add.at(steps, (path[1, :, 0], path[2, :, 0]), 1)
    shares = steps / steps.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, reference.kernel, atol=0.03)


def test_log_transition_sums_over_coordinates():
    reference = CategoricalReference(LAZY_WALK, 1)
    logs = reference.log_transition([[0, 1], [0, 0]], [[1, 1], [3, 0]])
    A = LAZY_WALK @ LAZY_WALK
    np.testing.assert_allclose(logs, [np.log(A[0, 1]) + np.log(A[1, 1]), -np.inf])


def test_product_is_the_chain_on_sequences():
    reference = skewed(3, 2)
    product = product_reference(reference, 2)
    x, y = np.random.default_rng(0).integers(3, size=(2, 6, 2))
    states = [np.ravel_multi_index(z.T, (3, 3))[:, None] for z in (x, y)]
    for name in ("bridge_probs", "posterior_probs"):
        joint = getattr(product, name)(*states, 1)[:, 0].reshape(6, 3, 3)
        first, second = getattr(reference, name)(x, y, 1).swapaxes(0, 1)
        np.testing.assert_allclose(joint, first[:, :, None] * second[:, None, :], atol=1e-13)
    np.testing.assert_allclose(
        product.log_transition(*states), reference.log_transition(x, y), rtol=1e-12
    )
    np.testing.assert_allclose(
        product.cumulative[2], np.linalg.matrix_power(product.kernel, 2), atol=1e-14
    )


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


def test_unreachable_ends_of_a_bridge_are_named():
    reference = CategoricalReference(LAZY_WALK, 1)
    with pytest.raises(ValueError, match=r"infeasible: x1 cannot be reached .* row 1: 0 to 3"):
        reference.bridge_probs([[1], [0]], [[1], [3]], 1)
    with pytest.raises(ValueError, match=r"infeasible: xend cannot be reached .* row 0: 0 to 2"):
        reference.posterior_probs([[0]], [[2]], 1)


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


def test_drawing_never_takes_a_category_without_weight():
    weights = np.tile([0.0, 0.3, 0.0, 0.7, 0.0], (20_000, 1))
    draws = sample_categorical(3 * weights, rng=0)
    assert set(np.unique(draws)) == {1, 3}
    assert abs((draws == 3).mean() - 0.7) <= 4.5 * np.sqrt(0.21 / 20_000)


def test_reference_is_read_only_and_survives_copies():
    kernel = np.array(LAZY_WALK)
    reference = CategoricalReference(kernel, 2)
    kernel[0, 0] = 7.0
    assert reference.kernel[0, 0] == 0.8
    with pytest.raises(ValueError, match="read-only"):
        reference.cumulative[0, 0, 0] = 1.0
    for copy in (pickle.loads(pickle.dumps(reference)), clone(reference, safe=False)):
        np.testing.assert_array_equal(copy.transition, reference.transition)


REFERENCE = CategoricalReference(LAZY_WALK, 2)
QUARTER = [0.25] * 4


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: CategoricalReference(LAZY_WALK, 0), ValueError, "n_inner must be .* >= 1, got 0"),
        (lambda: CategoricalReference(LAZY_WALK[:3], 1), ValueError, "kernel must be square"),
        (lambda: product_reference(REFERENCE, 7), ValueError, r"at most 4096 states.* = 16384"),
        (lambda: REFERENCE.sample([[0.5]]), ValueError, "x0 must be whole numbers .* got 0.5"),
        (lambda: REFERENCE.sample([[np.nan]]), ValueError, "x0 must be finite"),
        (lambda: REFERENCE.sample([[0], [4]]), ValueError, r"x0 .* 0..3, got 4 at index \(1, 0\)"),
        (lambda: REFERENCE.sample([[-1]]), ValueError, "x0 .* got -1"),
        (lambda: REFERENCE.sample([["a"]]), TypeError, "x0 must be an array of integers"),
        (lambda: REFERENCE.sample([0, 1]), ValueError, r"x0 must have shape \(n, D\)"),
        (lambda: REFERENCE.bridge([[0]], [[0, 1]], 1), ValueError, r"x1 must have shape \(1, 1\)"),
        (lambda: REFERENCE.bridge([[0]], [[0]], 4), ValueError, r"n must lie in 0\.\.3"),
        (lambda: REFERENCE.posterior_probs([[0]], [[0]], 3), ValueError, r"n must lie in 0\.\.2"),
        (lambda: REFERENCE.bridge([[0]], [[0]], -1), ValueError, "n must lie in"),
        (lambda: REFERENCE.bridge([[0]], [[0]], 1.5), TypeError, "n must be integers"),
        (lambda: REFERENCE.bridge([[0]], [[0]], [1, 1]), ValueError, r"shape \(1,\), got \(2,\)"),
        (lambda: check_tokens("X", [[0, 1]], 2, n_tokens=3), ValueError, r"shape \(n, 3\)"),
        (lambda: categorical_dimf(QUARTER, [0.5] * 4, REFERENCE), ValueError, "p1 must .* sum 2"),
        (lambda: categorical_dimf([1.0], QUARTER, REFERENCE), ValueError, r"p0 must have shape"),
        (
            lambda: categorical_bridge([1.5, -0.5, 0, 0], QUARTER, REFERENCE),
            ValueError,
            "p0 must have no negative entry",
        ),
        (
            lambda: categorical_dimf(QUARTER, QUARTER, REFERENCE, coupling=np.eye(4) / 3),
            ValueError,
            "coupling must have .* marginals",
        ),
        (lambda: categorical_dimf(QUARTER, QUARTER, REFERENCE, n_iter=-1), ValueError, "n_iter"),
        (lambda: categorical_bridge(QUARTER, QUARTER, REFERENCE, tol=0), ValueError, "tol must"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, match):
    with pytest.raises(error, match=match):
        call()
