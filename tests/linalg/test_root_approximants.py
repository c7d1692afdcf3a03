import mpmath
import numpy as np
import pytest
import scipy.interpolate
from hypothesis import given
from hypothesis import strategies as st

from thalweg.linalg import approximation_error, pade_coefficients, taylor_coefficients
from thalweg.linalg.root_approximants import inverse_root_fractions, root_fractions

Z = np.linspace(0, 0.99, 34)


def quotient(degree, z):
    """The Padé quotient in closed form."""
    s, n = np.sqrt(1 - z), 2 * degree + 1
    return s * ((1 + s) ** n + (1 - s) ** n) / ((1 + s) ** n - (1 - s) ** n)


def test_taylor_coefficients_are_binomials():
    root, inverse = taylor_coefficients(12), taylor_coefficients(12, inverse=True)
    for k in range(13):
        assert root[k] == pytest.approx(float((-1) ** k * mpmath.binomial(0.5, k)), rel=1e-14)
        assert inverse[k] == pytest.approx(float(mpmath.binomial(2 * k, k)) / 4**k, rel=1e-14)
    assert (root[1:] < 0).all()


def test_pade_of_degree_one():
    p, q = pade_coefficients(1)
    assert p.tolist() == [1, -0.75]
    assert q.tolist() == [1, -0.25]


@pytest.mark.parametrize("degree", [2, 5])
def test_pade_agrees_with_scipy(degree):
    p, q = scipy.interpolate.pade(taylor_coefficients(2 * degree), degree)
    ours = pade_coefficients(degree)
    np.testing.assert_allclose(ours[0], p.c[::-1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours[1], q.c[::-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("degree", [1, 5, 8])
def test_pade_agrees_with_its_closed_form(degree):
    p, q = (np.polynomial.polynomial.polyval(Z, table) for table in pade_coefficients(degree))
    bound = 1e-13 if degree <= 5 else 1e-11  # powers begin to cancel
    np.testing.assert_allclose(p / q, quotient(degree, Z), rtol=bound)


@pytest.mark.parametrize("degree", [1, 5, 30])
def test_partial_fractions_are_the_quotient(degree):
    exact = quotient(degree, Z)
    root = 1 - sum(a * Z / (1 - b * Z) for a, b in root_fractions(degree))
    np.testing.assert_allclose(root, exact, rtol=1e-12)
    constant, terms = inverse_root_fractions(degree)
    inverse = constant + sum(c / (1 - Z + t) for c, t in terms)
    np.testing.assert_allclose(inverse, 1 / exact, rtol=1e-12)


@given(st.integers(1, 40), st.floats(1e-3, 0.9), st.booleans())
def test_taylor_error_is_that_of_the_partial_sum(degree, x, inverse):
    with mpmath.workdps(80):
        z = 1 - mpmath.mpf(x)
        power = mpmath.mpf(-0.5 if inverse else 0.5)
        total = sum(mpmath.binomial(power, k) * (-z) ** k for k in range(degree + 1))
        exact = float(total / mpmath.mpf(x) ** power - 1)
    ours = approximation_error(x, "taylor", degree, inverse=inverse)
    assert ours == pytest.approx(exact, rel=1e-10)
    assert (ours < 0) == inverse


@given(st.integers(1, 20), st.floats(1e-4, 0.99))
def test_pade_error_is_that_of_the_quotient(degree, x):
    with mpmath.workdps(80):
        s, n = mpmath.sqrt(mpmath.mpf(x)), 2 * degree + 1
        r = s * ((1 + s) ** n + (1 - s) ** n) / ((1 + s) ** n - (1 - s) ** n)
        root, inverse = float(r / s - 1), float(s / r - 1)
    assert approximation_error(x, degree=degree) == pytest.approx(root, rel=1e-10)
    assert approximation_error(x, degree=degree, inverse=True) == pytest.approx(inverse, rel=1e-10)


@pytest.mark.parametrize("method", ["pade", "taylor", "newton-schulz"])
@pytest.mark.parametrize("inverse", [False, True])
def test_the_smallest_eigenvalue_has_the_largest_error(method, inverse):
    errors = np.abs(approximation_error(np.geomspace(1e-8, 1, 60), method, inverse=inverse))
    assert (np.diff(errors) <= 1e-15).all()
    assert errors[-1] == 0


def test_defaults_are_degrees_five_and_ten_and_five_steps():
    for method, degree in (("pade", 5), ("taylor", 10), ("newton-schulz", 5)):
        assert approximation_error(0.01, method) == approximation_error(0.01, method, degree)


def test_rounding_above_one_is_forgiven():
    assert approximation_error(1 + 1e-15) == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: taylor_coefficients(0), ValueError, "degree must be an integer >= 1, got 0"),
        (lambda: pade_coefficients(1.5), TypeError, "degree must be an integer >= 1, got 1.5"),
        (lambda: approximation_error([0.5, 0.0]), ValueError, "x must be above 0 and at most 1"),
        (lambda: approximation_error([0.5, 1.1]), ValueError, "x must be above 0 and at most 1"),
        (lambda: approximation_error(np.nan), ValueError, "x must be finite"),
        (lambda: approximation_error(0.5, "eigh"), ValueError, "method must be one of 'taylor'"),
        (lambda: approximation_error(0.5, degree=0), ValueError, "degree must be an integer"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
