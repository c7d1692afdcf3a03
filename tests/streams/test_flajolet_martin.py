from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from thalweg.streams import chernoff_exponent, chernoff_interval, log_mgf, required_registers
from thalweg.streams.flajolet_martin import _log_mgf_at, count_of_mean, expected_register

LAWS = [
    {"averaging": averaging, "base": base}
    for averaging in ("independent", "stochastic")
    for base in (None, 2.0, 1.1)
]


def share(law, n_registers):
    return 1.0 if law["averaging"] == "independent" else 1.0 / n_registers


@pytest.mark.parametrize(("n", "tolerance"), [(1, 1e-10), (7, 1e-10), (99, 1e-10), (100, 1e-10),
                                              (10**6, 1e-10), (10**15, 1e-8)])  # fmt: skip
def test_log_mgf_is_the_ratio_of_gamma_functions(n, tolerance):
    s = np.array([-1000.0, -20.0, -1.0, -1e-8, 0.0, 0.3, 0.9, 0.999, 1 - 1e-9])
    with mpmath.workdps(40):
        expected = [
            float(
                mpmath.loggamma(1 - mpmath.mpf(x))
                + mpmath.loggamma(n + 1)
                - mpmath.loggamma(n + 1 - mpmath.mpf(x))
            )
            for x in s
        ]
    np.testing.assert_allclose(log_mgf(s, n), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "L"), [(1, 2), (5, 64), (100, 64), (3000, 64)])
def test_stochastic_log_mgf_is_the_integral_with_its_atom(n, L):
    s = [-300.0, -20.0, -1.0, 0.0, 0.3, 0.9, 0.999]

    def exact(x):
        x, q = mpmath.mpf(x), mpmath.mpf(1) / L
        seen = mpmath.hyp2f1(1 - x + n, 1, 2 - x, q, maxterms=10**6) * n * q / (1 - x)
        return float(mpmath.log((1 - q) ** n * (1 + seen)))

    got = log_mgf(s, n, n_registers=L, averaging="stochastic")
    with mpmath.workdps(40):
        np.testing.assert_allclose(got, [exact(x) for x in s], atol=1e-10)


@pytest.mark.parametrize("averaging", ["independent", "stochastic"])
@pytest.mark.parametrize(("base", "levels"), [(2.0, 400), (1.2, 1600)])
def test_log_mgf_in_base_b_is_the_sum_over_levels(averaging, base, levels):
    n, L = 50, 8
    q = 1.0 if averaging == "independent" else 1 / L

    def below(k):
        return (1 - mpmath.mpf(q) * mpmath.mpf(base) ** -(k + 1)) ** n

    # At 0.9 log b the terms fall by b^-0.1 a level: what follows the last is below 1e-12.
    with mpmath.workdps(160):
        terms = [below(0)] + [below(k) - below(k - 1) for k in range(1, levels)]
        for factor in (-3.0, 0.0, 0.5, 0.9):
            s = factor * math.log(base)
            exact = mpmath.log(mpmath.fsum(mpmath.exp(s * k) * p for k, p in enumerate(terms)))
            got = log_mgf(s, n, n_registers=L, averaging=averaging, base=base)
            assert float(got) == pytest.approx(float(exact), abs=1e-10)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [1, 10, 10**5])
def test_m_is_one_at_zero_and_its_slope_is_the_expectation(law, n):
    h = 1e-5
    values = log_mgf([-h, 0.0, h], n, n_registers=16, **law)
    expected = expected_register(n, share(law, 16), law["base"])
    assert values[1] == pytest.approx(0, abs=1e-12)
    assert (values[2] - values[0]) / (2 * h) == pytest.approx(expected, rel=1e-5)


def test_the_expectation_is_the_harmonic_number():
    for n in (1, 2, 30):
        assert expected_register(n) == pytest.approx(sum(1 / k for k in range(1, n + 1)), rel=1e-12)


@pytest.mark.parametrize(("n", "L"), [(1, 2), (1, 1024), (7, 2), (7, 64), (3000, 64)])
def test_the_stochastic_expectation_is_its_finite_sum(n, L):
    exact = math.fsum((1 - (1 - 1 / L) ** j) / j for j in range(1, n + 1))
    assert expected_register(n, 1 / L) == pytest.approx(exact, rel=1e-11)


def test_a_register_that_sees_almost_all_items_is_an_independent_one():
    s = np.array([-3.0, 0.4])
    assert expected_register(9, 1 - 1e-9) == pytest.approx(expected_register(9), abs=1e-7)
    np.testing.assert_allclose(_log_mgf_at(9, 1 - 1e-9, None)(s), log_mgf(s, 9), atol=1e-7)


def test_small_bases_tend_to_the_continuous_register():
    b = 1.01
    for n in (10, 10**4):
        assert math.log(b) * expected_register(n, base=b) == pytest.approx(
            expected_register(n), rel=1e-2
        )
        got = log_mgf(0.5 * math.log(b), n, base=b)
        assert float(got) == pytest.approx(float(log_mgf(0.5, n)), rel=1e-2)


def test_large_counts_tend_to_the_gumbel_law():
    n = 10**6
    s = np.linspace(-5, 0.9, 60)
    gumbel = s * math.log(n) + gammaln(1 - s)
    np.testing.assert_allclose(log_mgf(s, n) - gumbel, s * (1 - s) / (2 * n), atol=1e-9)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("L", [2, 64, 4096])
@pytest.mark.parametrize("n", [3, 10**4])
def test_the_exponent_at_the_ends_is_what_the_level_asks(law, L, n):
    mean = expected_register(n, share(law, L), law["base"])
    low, high = chernoff_interval(mean, L, 0.9, **law)
    assert low < n < high
    for end, side in ((low, 0), (high, 1)):
        if end > 1:
            exponents = chernoff_exponent(mean, end, n_registers=L, **law)
            assert L * exponents[side] == pytest.approx(math.log(2 / 0.1), abs=1e-8)
            assert exponents[1 - side] == 0


@pytest.mark.parametrize("law", LAWS)
def test_the_exponent_is_the_supremum(law):
    n, L = 40, 8
    expectation = expected_register(n, share(law, L), law["base"])
    unit = 1.0 if law["base"] is None else math.log(law["base"])

    def loss(s):
        return float(log_mgf(s, n, n_registers=L, **law)) - s * mean

    for factor, bounds, side in ((1.7, (0, unit * (1 - 1e-9)), 0), (0.6, (-60 * unit, 0), 1)):
        mean = factor * expectation
        found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        got = chernoff_exponent(mean, n, n_registers=L, **law)
        assert got[side] == pytest.approx(-found.fun, rel=1e-7)
        assert got[1 - side] == 0


def test_one_item_in_one_register_has_the_exponent_of_an_exponential_variable():
    for mean in (0.01, 0.5, 2.0, 30.0):
        assert sum(chernoff_exponent(mean, 1)) == pytest.approx(mean - 1 - math.log(mean), rel=1e-8)


def test_a_mean_of_zero_is_as_rare_as_all_levels_being_zero():
    upper, lower = chernoff_exponent(0.0, 20, base=2.0)
    assert upper == 0
    assert lower == pytest.approx(-20 * math.log(0.5), rel=1e-6)


@given(
    st.sampled_from(LAWS),
    st.sampled_from([2, 16, 256]),
    st.floats(0.05, 20),
    st.floats(1e-3, 2),
    st.floats(0.1, 0.999),
)
@settings(max_examples=30, deadline=None)
def test_the_interval_moves_with_the_mean_and_widens_with_the_level(law, L, mean, more, level):
    low, high = chernoff_interval(mean, L, level, **law)
    assert 1 <= low <= high
    assert low <= count_of_mean(mean, share(law, L), law["base"]) * (1 + 1e-9)
    moved = chernoff_interval(mean + more, L, level, **law)
    assert moved[0] >= low
    assert moved[1] >= high
    wider = chernoff_interval(mean, L, 1 - (1 - level) / 2, **law)
    assert wider[0] <= low * (1 + 1e-9)
    assert wider[1] >= high * (1 - 1e-9)


@given(st.sampled_from(LAWS), st.sampled_from([2, 64, 1024]), st.floats(0, math.log(1e12)))
@settings(max_examples=60, deadline=None)
def test_the_count_of_a_mean_inverts_the_expectation(law, L, log_n):
    n = math.exp(log_n)
    mean = expected_register(n, share(law, L), law["base"])
    assert count_of_mean(mean, share(law, L), law["base"]) == pytest.approx(n, rel=1e-6)


@pytest.mark.parametrize("n_registers", [1, 8])
@pytest.mark.parametrize("n", [1, 2, 20])
def test_the_interval_covers_in_draws_from_the_law(n, n_registers):
    draws = np.random.default_rng(0).random((300, n_registers)) ** (1 / n)
    means = -np.log1p(-draws).mean(axis=1)
    covered = [low <= n <= high for low, high in (chernoff_interval(m, n_registers, 0.5)
                                                  for m in means)]  # fmt: skip
    # Coverage of at least one half: five standard errors of 300 fair coins.
    assert np.mean(covered) >= 0.5 - 5 * 0.5 / math.sqrt(300)


def test_at_least_the_nonempty_registers_were_seen():
    low, _ = chernoff_interval(0.05, 64, averaging="stochastic", nonempty=30)
    assert low == 30
    assert chernoff_interval(2.0, 64, nonempty=64)[0] < 64


def test_required_registers_are_the_fewest_that_do():
    for rel_err, level in ((0.1, 0.95), (0.5, 0.8)):
        L = required_registers(rel_err, level)
        n = 1e7  # the Gumbel limit to 1e-7
        for registers, inside in ((L + 1, True), (L - 1, False)):
            low, high = chernoff_interval(expected_register(n), registers, level)
            assert ((1 - rel_err) * n <= low and high <= (1 + rel_err) * n) == inside


def test_required_registers_follow_the_normal_approximation():
    first_order = 2 * math.pi**2 / 6 * math.log(40) / math.log(1.01) ** 2
    assert required_registers(0.01) == pytest.approx(first_order, rel=0.01)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: log_mgf(1.0, 5), "s must be < 1 = 1, got 1.0"),
        (lambda: log_mgf(0.7, 5, base=2.0), r"s must be < log\(base\) = 0.693147, got 0.7"),
        (lambda: log_mgf(np.nan, 5), "s must be finite"),
        (lambda: log_mgf(0.1, 0.5), "n must be a finite number >= 1"),
        (lambda: log_mgf(0.1, 5, base=1.0), "base must be a finite number > 1"),
        (lambda: log_mgf(0.1, 5, averaging="all"), "averaging must be one of"),
        (lambda: log_mgf(0.1, 5, averaging="stochastic"), "n_registers must be an integer >= 2"),
        (lambda: chernoff_exponent(-1.0, 5), "mean must be"),
        (lambda: chernoff_interval(1.0, 0), "n_registers must be"),
        (lambda: chernoff_interval(1.0, 8, 1.0), "level must be"),
        (lambda: chernoff_interval(1.0, 8, nonempty=9), "nonempty must be"),
        (lambda: chernoff_interval(np.inf, 8), "mean must be"),
        (lambda: required_registers(0.0), "rel_err must be"),
        (lambda: required_registers(1.0), "rel_err must be"),
        (lambda: required_registers(0.1, 0.0), "level must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, what):
    with pytest.raises(ValueError, match=what):
        call()
