import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from thalweg.transport import (
    CategoricalReference,
    categorical_bridge,
    categorical_dimf,
    product_reference,
)
from thalweg.transport.categorical import check_tokens, sample_categorical

from ._chains import LAZY_WALK, path_laws, skewed


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


def test_unreachable_ends_of_a_bridge_are_named():
    reference = CategoricalReference(LAZY_WALK, 1)
    with pytest.raises(ValueError, match=r"infeasible: x1 cannot be reached .* row 1: 0 to 3"):
        reference.bridge_probs([[1], [0]], [[1], [3]], 1)
    with pytest.raises(ValueError, match=r"infeasible: xend cannot be reached .* row 0: 0 to 2"):
        reference.posterior_probs([[0]], [[2]], 1)


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
