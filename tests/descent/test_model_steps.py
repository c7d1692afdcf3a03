"""The model step against the linear system that defines it, and the bounds that follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    model_building_eigenvalue_bounds,
    model_building_step,
    smb_descent_bound,
)

ETA = 0.9


def draws(number=200, n=7, seed=0):
    """Gradients, trial steps and changes of all lengths; some along each other."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        g, s, y = rng.normal(size=(3, n)) * 10.0 ** rng.uniform(-3, 3, size=(3, 1))
        if i % 2:
            s = -(10.0 ** rng.uniform(-2, 1)) * g
        yield g, s, y


def matrix(g, s, y, eta=ETA):
    """The matrix of the system, its shift found from the eigenvalues and not by the formula."""
    curved = np.outer(s, y) + np.outer(y, s)
    smallest = np.linalg.norm(s) * np.linalg.norm(g) / eta
    return (smallest - np.linalg.eigvalsh(curved)[0]) * np.eye(len(g)) + curved


def test_the_step_solves_the_linear_system():
    for g, s, y in draws():
        expected = np.linalg.solve(matrix(g, s, y), -(s @ s) * g)
        # a change far above the gradient makes the system that badly conditioned
        rounding = 1e-10 * max(1.0, 1e-3 * np.linalg.norm(y) / np.linalg.norm(g))
        found = model_building_step(g, s, y, eta=ETA)
        assert np.linalg.norm(found - expected) <= rounding * np.linalg.norm(expected)


def test_the_step_is_shorter_than_the_trial_and_descends():
    for g, s, y in draws():
        found = model_building_step(g, s, y, eta=ETA)
        assert np.linalg.norm(found) <= ETA * np.linalg.norm(s) * (1 + 1e-9)
        assert found @ g < 0


def test_without_change_of_the_gradient_it_is_eta_times_the_trial():
    g = np.array([3.0, -4.0, 12.0])
    s = -0.25 * g
    np.testing.assert_allclose(model_building_step(g, s, 0 * g, eta=ETA), ETA * s, rtol=1e-15)


@pytest.mark.parametrize("a", [0.0, 0.3, 2.0, 50.0])
def test_on_a_parabola_it_has_a_closed_form(a):
    x, alpha = 1.7, 0.8
    g = np.array([a * x + 1.0])
    s = -alpha * g
    closed = -g * alpha * ETA / (1 + 2 * a * alpha * ETA)
    np.testing.assert_allclose(model_building_step(g, s, a * s, eta=ETA), closed, rtol=1e-12)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_the_function_does_not_matter(seed, k):
    """f -> k f with alpha -> alpha / k leaves the trial step, and so the model step."""
    g, s, y = next(draws(1, seed=seed))
    step = model_building_step(g, s, y)
    scaled = model_building_step(k * g, s, k * y)
    assert np.linalg.norm(scaled - step) <= 1e-9 * np.linalg.norm(s)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_coordinates_do_not_matter(seed):
    g, s, y = next(draws(1, seed=seed))
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(7, 7)))
    step = model_building_step(g, s, y)
    turned = model_building_step(turn @ g, turn @ s, turn @ y)
    assert np.linalg.norm(turned - turn @ step) <= 1e-9 * np.linalg.norm(s)


def test_zero_vectors_give_no_step():
    g = np.ones(3)
    assert not model_building_step(g, 0 * g, g).any()
    assert not model_building_step(0 * g, g, g).any()


def test_shape_and_type_are_those_of_the_gradient():
    g, s, y = (v.reshape(2, 3) for v in next(draws(1, n=6)))
    whole = model_building_step(g, s, y)
    assert whole.shape == (2, 3)
    np.testing.assert_array_equal(
        whole.ravel(), model_building_step(g.ravel(), s.ravel(), y.ravel())
    )
    single = model_building_step(*(v.astype(np.float32) for v in (g, s, y)))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, whole, rtol=1e-4)
    assert model_building_step([1, 2], [-1, -2], [0, 0]).dtype == np.float64


def test_tensors_go_the_same_way():
    torch = pytest.importorskip("torch")
    for g, s, y in draws(20):
        vectors = [torch.tensor(v).reshape(7, 1) for v in (g, s, y)]
        found = model_building_step(*vectors, eta=ETA)
        assert found.dtype == torch.float64
        assert found.shape == (7, 1)
        expected = model_building_step(g, s, y, eta=ETA)
        assert np.linalg.norm(found.numpy().ravel() - expected) <= 1e-12 * np.linalg.norm(s)
    half = [v.to(torch.bfloat16).requires_grad_() for v in vectors]
    step = model_building_step(*half)
    assert step.dtype == torch.bfloat16
    assert not step.requires_grad


@pytest.mark.parametrize(("alpha", "L"), [(0.1, 3.0), (1.0, 1.0), (5.0, 2.0)])
def test_eigenvalues_reach_their_bounds(alpha, L):
    rng = np.random.default_rng(0)
    lmin, lmax = model_building_eigenvalue_bounds(alpha, L, eta=ETA)
    for share in (0.0, 0.5, 1.0):
        g, y = rng.normal(size=(2, 6))
        s = -alpha * g
        y *= share * L * np.linalg.norm(s) / np.linalg.norm(y)
        eigenvalues = np.linalg.eigvalsh((s @ s) * np.linalg.inv(matrix(g, s, y)))
        assert eigenvalues[-1] == pytest.approx(lmax, rel=1e-9)
        assert eigenvalues[0] >= lmin * (1 - 1e-9)
    assert eigenvalues[0] == pytest.approx(lmin, rel=1e-9)


def blockwise(g, s, y, blocks):
    step = np.empty_like(g)
    for block in blocks:
        step[block] = model_building_step(g[block], s[block], y[block], eta=ETA)
    return step


def test_blocks_keep_the_mean_of_the_bound_but_not_the_eigenvalues():
    rng = np.random.default_rng(1)
    alpha, L = 0.7, 2.0
    lmin, lmax = model_building_eigenvalue_bounds(alpha, L, eta=ETA)
    blocks = [[0], [1, 2], [3, 4, 5]]
    below = 0
    for _ in range(300):
        g, y = rng.normal(size=(2, 6)) * 10.0 ** rng.uniform(-2, 2, size=(2, 6))
        s = -alpha * g
        # along the gradient where that is steep: where the fall is least
        y = y if rng.random() < 0.5 else s * 10.0 ** rng.uniform(-1, 0, size=6)
        y *= L * np.linalg.norm(s) / np.linalg.norm(y)
        step = blockwise(g, s, y, blocks)
        assert -step @ g >= lmin * (g @ g) * (1 - 1e-9)
        assert np.linalg.norm(step) <= lmax * np.linalg.norm(g) * (1 + 1e-9)
        below += -step[0] * g[0] < 0.5 * lmin * g[0] ** 2
    assert below


def test_a_quadratic_falls_as_far_as_the_bound_says_and_wrong_constants_show():
    rng = np.random.default_rng(2)
    curvatures = np.geomspace(1e-3, 1.0, 8)
    broken = 0
    for alpha in (0.1, 0.5, 0.7):
        for _ in range(100):
            x = rng.normal(size=8) * 10.0 ** rng.uniform(-2, 2, size=8)
            g = curvatures * x
            step = blockwise(g, -alpha * g, -alpha * curvatures * g, [slice(0, 4), slice(4, 8)])
            fall = 0.5 * (x @ g - (x + step) @ (curvatures * (x + step)))
            bound = smb_descent_bound(np.linalg.norm(g), alpha, 1.0, eta=ETA)
            assert bound > 0
            assert fall >= bound * (1 - 1e-9)
            broken += fall < smb_descent_bound(np.linalg.norm(g), alpha, 0.1, eta=ETA)
    assert broken > 30


def test_the_bound_is_the_formula():
    lmin, lmax = model_building_eigenvalue_bounds(0.3, 2.0, eta=0.8)
    assert (lmin, lmax) == pytest.approx((0.24 / 1.96, 0.24))
    expected = (0.24 / 1.96 - 0.24**2) * np.array([1.0, 9.0])
    np.testing.assert_allclose(smb_descent_bound([1.0, 3.0], 0.3, 2.0, eta=0.8), expected)


ONE = np.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: model_building_step(ONE, ONE, ONE, eta=1.0), ValueError, "eta must"),
        (lambda: model_building_step(ONE, ONE, ONE, eta=0.0), ValueError, "eta must"),
        (lambda: model_building_step(ONE, np.ones(3), ONE), ValueError, "s_trial must .* shape"),
        (lambda: model_building_step(ONE, ONE, np.ones((2, 1))), ValueError, "y must .* shape"),
        (lambda: model_building_step(ONE, ONE, ONE * np.nan), ValueError, "y must be finite"),
        (lambda: model_building_step(ONE * 1j, ONE, ONE), TypeError, "g must"),
        (lambda: model_building_eigenvalue_bounds(0.0, 1.0), ValueError, "alpha must"),
        (lambda: model_building_eigenvalue_bounds(1.0, -1.0), ValueError, "L must"),
        (lambda: model_building_eigenvalue_bounds(1.0, 1.0, eta=2.0), ValueError, "eta must"),
        (lambda: smb_descent_bound(-1.0, 1.0, 1.0), ValueError, "g_norm must"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_tensors_are_refused_by_name():
    torch = pytest.importorskip("torch")
    one = torch.ones(2)
    with pytest.raises(TypeError, match="s_trial must be a real floating tensor"):
        model_building_step(one, ONE, one)
    with pytest.raises(TypeError, match="y must be a real floating tensor"):
        model_building_step(one, one, torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="y must be dense"):
        model_building_step(one, one, one.to_sparse())
    with pytest.raises(ValueError, match=r"s_trial must have the shape \(2,\)"):
        model_building_step(one, torch.ones(3), one)
    with pytest.raises(ValueError, match="g must be finite"):
        model_building_step(one * torch.inf, one, one)
