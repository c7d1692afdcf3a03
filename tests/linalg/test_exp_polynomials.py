import math

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from thalweg.linalg import (
    attention_rank,
    critical_bound,
    exp_degree,
    exp_polynomial,
    taylor_degree,
)

bounds = st.floats(1e-3, 12)


def true_error(coef, bound, points=1000):
    """Largest relative error by 40 digits."""
    with mpmath.workdps(40):
        exact = [mpmath.mpf(float(c)) for c in coef[::-1]]
        xs = [mpmath.mpf(float(x)) for x in np.linspace(-bound, bound, points)]
        return float(max(abs(mpmath.polyval(exact, x) / mpmath.exp(x) - 1) for x in xs))


def least_error_by_linear_program(bound, degree, points=400):
    """Least max of |p(x) exp(-x) - 1| over Chebyshev points: a lower bound on the minimax error."""
    t = np.cos(np.pi * np.arange(points) / (points - 1))
    basis = np.polynomial.chebyshev.chebvander(t, degree) * np.exp(-bound * t)[:, None]
    ones = np.ones((points, 1))
    matrix = np.block([[basis, -ones], [-basis, -ones]])
    right = np.concatenate((ones[:, 0], -ones[:, 0]))
    cost = np.r_[np.zeros(degree + 1), 1.0]
    limits = [(None, None)] * (degree + 1) + [(0, None)]
    return linprog(cost, matrix, right, bounds=limits, method="highs").fun


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_taylor_coefficients_by_hand(degree):
    coef, error = exp_polynomial(0.5, degree=degree, kind="taylor")
    np.testing.assert_allclose(coef, [1, 1, 1 / 2, 1 / 6][: degree + 1], rtol=1e-15)
    by_hand = abs(
        1 - math.exp(0.5) * sum((-0.5) ** k / math.factorial(k) for k in range(degree + 1))
    )
    assert error == pytest.approx(by_hand, rel=1e-10)


def test_minimax_tends_to_taylor_on_short_intervals():
    coef, error = exp_polynomial(1e-5, degree=3)
    np.testing.assert_allclose(coef, [1, 1, 1 / 2, 1 / 6], rtol=1e-12)
    assert error < 1e-15
    np.testing.assert_allclose(exp_polynomial(1e-3, degree=2)[0], [1, 1, 1 / 2], rtol=2e-3)


def test_constants_have_a_closed_form():
    coef, error = exp_polynomial(0.7, degree=0)
    assert coef == pytest.approx([1 / math.cosh(0.7)], rel=1e-12)
    assert error == pytest.approx(math.tanh(0.7), rel=1e-12)


@pytest.mark.parametrize(
    ("bound", "degrees", "taylor"),
    [(0.5, (2, 4), (3, 5)), (1, (3, 5), (5, 7)), (2, (5, 7), (8, 11)), (4, (7, 10), (15, 19))],
)
def test_degrees_of_known_accuracies(bound, degrees, taylor):
    assert tuple(exp_degree(bound, eps) for eps in (1e-2, 1e-4)) == degrees
    assert tuple(taylor_degree(bound, eps) for eps in (1e-2, 1e-4)) == taylor


@pytest.mark.parametrize("bound", [0.5, 2.0, 6.0, 10.0])
@pytest.mark.parametrize("eps", [1e-2, 1e-5])
def test_achieved_error_is_that_of_high_precision(bound, eps):
    coef, error = exp_polynomial(bound, eps)
    found = true_error(coef, bound)
    round_off = 4e-16 * math.exp(2 * bound)
    assert error <= eps
    assert error * (1 - 1e-3) - round_off <= found <= error * (1 + 1e-6) + round_off


@pytest.mark.parametrize(("bound", "eps"), [(0.5, 1e-3), (1, 1e-4), (4, 1e-3), (8, 1e-2)])
def test_no_lower_degree_reaches_the_error(bound, eps):
    degree = exp_degree(bound, eps)
    assert least_error_by_linear_program(bound, degree - 1) > eps
    least = least_error_by_linear_program(bound, degree)
    assert exp_polynomial(bound, eps)[1] == pytest.approx(least, rel=2e-3)


@settings(deadline=None, max_examples=30)
@example(6.5, 3)  # narrow lobes
@given(bounds, st.integers(0, 12))
def test_error_alternates_as_often_as_the_optimum_must(bound, degree):
    coef, error = exp_polynomial(bound, degree=degree)
    if error < 1e-9 or error > 0.99:
        return
    x = -bound * np.cos(np.linspace(0, np.pi, 100_001))
    r = np.polynomial.polynomial.polyval(x, coef) * np.exp(-x) - 1
    near = np.abs(r) > error * (1 - 1e-3)
    signs = np.sign(r[near])
    assert 1 + np.sum(signs[1:] != signs[:-1]) == degree + 2


@settings(deadline=None, max_examples=30)
@given(bounds, st.floats(1e-7, 0.5))
def test_degree_is_the_least_and_grows_with_the_bound(bound, eps):
    degree = exp_degree(bound, eps)
    assert exp_polynomial(bound, degree=degree)[1] <= eps + 1e-15 * math.exp(2 * bound)
    if degree:
        assert exp_polynomial(bound, degree=degree - 1)[1] > eps * (1 - 2e-5)
    assert degree <= taylor_degree(bound, eps)
    assert exp_degree(bound * 1.1, eps) >= degree
    assert exp_degree(bound, eps / 2) >= degree


def test_degree_is_found_where_powers_in_double_precision_are_lost():
    degree = exp_degree(27.7, 1e-3)
    assert least_error_by_linear_program(27.7, 20) > 1e-3
    assert degree == 37
    with pytest.raises(ValueError, match="powers of x in double precision"):
        exp_polynomial(27.7, 1e-3)
    assert 100 < exp_degree(100.0, 1e-3) < 130


@pytest.mark.parametrize("eps", [1e-1, 1e-3, 1e-6])
def test_zero_bound_needs_a_constant(eps):
    coef, error = exp_polynomial(0.0, eps)
    assert coef.tolist() == [1.0]
    assert error == 0
    assert attention_rank(0.0, eps, 5) == 1


def test_rank_counts_monomials():
    assert attention_rank(1.0, 1e-3, 4) == math.comb(8, 4)
    assert attention_rank(1.0, 1e-3, 1) == exp_degree(1.0, 1e-3) + 1


@pytest.mark.parametrize(("tokens", "d"), [(341, 4), (5461, 4), (1024, 10), (100, 1), (17, 3)])
def test_critical_bound_is_where_the_rank_reaches_a_quarter_of_the_tokens(tokens, d):
    bound = critical_bound(tokens, d)
    assert attention_rank(bound, 1e-3, d) < tokens / 4
    assert attention_rank(bound * (1 + 1e-6), 1e-3, d) >= tokens / 4


def test_critical_bound_grows_with_tokens_and_shrinks_with_width():
    by_tokens = [critical_bound(4**k, 4) for k in range(2, 9)]
    assert by_tokens == sorted(by_tokens)
    by_width = [critical_bound(4096, d) for d in (2, 4, 8, 16)]
    assert by_width == sorted(by_width, reverse=True)


def test_critical_bound_at_its_ends():
    assert critical_bound(4, 2) == 0
    assert critical_bound(5, 2) == pytest.approx(math.atanh(1e-3), rel=2e-5)
    assert critical_bound(10_000, 1) == 100


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: exp_polynomial(-1.0), ValueError, "bound must be .*>= 0 and <= 100, got -1"),
        (lambda: exp_polynomial(101.0), ValueError, "bound must be"),
        (lambda: exp_polynomial(math.nan), ValueError, "bound must be"),
        (lambda: exp_polynomial("1"), TypeError, "bound must be"),
        (lambda: exp_polynomial(1.0, 0.0), ValueError, "eps must be .*> 0 and < 1, got 0"),
        (lambda: exp_polynomial(1.0, 1.0), ValueError, "eps must be"),
        (lambda: exp_polynomial(1.0, degree=-1), ValueError, "degree must be"),
        (lambda: exp_polynomial(1.0, degree=2.5), TypeError, "degree must be"),
        (lambda: exp_polynomial(1.0, kind="pade"), ValueError, "kind must be one of 'minimax'"),
        (lambda: taylor_degree(1.0, 2.0), ValueError, "eps must be"),
        (lambda: attention_rank(1.0, 1e-3, 0), ValueError, "d must be"),
        (lambda: critical_bound(0, 4), ValueError, "n_tokens must be"),
        (lambda: critical_bound(100, 4, eps=-1), ValueError, "eps must be"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
