import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import (
    compose_schedule,
    convergence_bound,
    minimax_odd_polynomial,
    named_schedule,
    polar_express_schedule,
    worst_case_error,
)
from thalweg.linalg.sign_polynomials import _remez

PUBLISHED = np.array(
    [
        (8.287212018145624, -23.59588651909883, 17.300387312530926),
        (4.1070591115422, -2.94784991673791, 0.5448431082926602),
        (3.9486908534822938, -2.908902115962947, 0.551819139437013),
        (3.318419657370601, -2.488488024314875, 0.5100489401237203),
        (2.300652019954818, -1.6689039845747498, 0.418807311952567),
        (1.891301407787398, -1.267995827194587, 0.376804089485248),
        (1.8750014808, -1.2500016454, 0.3750001645),
        (1.875, -1.25, 0.375),
    ]
)

intervals = st.tuples(st.floats(1e-4, 0.95), st.floats(0.1, 10.0)).map(
    lambda pair: (pair[0] * pair[1], pair[1])
)


def optimum(n_iter, **options):
    return polar_express_schedule(n_iter, cushion=0, safety=1, **options)


def extrema_of(row, lower, upper):
    derivative = np.polynomial.Polynomial(row * np.arange(1, 2 * len(row), 2))
    return np.concatenate(([lower], np.sort(np.sqrt(derivative.roots().real)), [upper]))


def test_table_of_the_paper():
    np.testing.assert_allclose(polar_express_schedule(8, safety=1), PUBLISHED, atol=1e-8)


def test_safety_shrinks_the_argument_of_all_but_the_last():
    x = np.linspace(0, 1, 7)
    plain, safe = (polar_express_schedule(3, safety=s) for s in (1.0, 1.01))
    for t, shrink in enumerate((1.01, 1.01, 1.0)):
        np.testing.assert_allclose(
            compose_schedule(safe[t : t + 1], x), compose_schedule(plain[t : t + 1], x / shrink)
        )


@given(intervals)
def test_cubic_closed_form_is_the_remez_polynomial(interval):
    lower, upper = interval
    row, error = minimax_odd_polynomial(lower, upper, degree=3)
    scaled, remez_error = _remez(lower / upper, 1)
    np.testing.assert_allclose(row * [upper, upper**3], scaled, rtol=0, atol=1e-12)
    assert error == pytest.approx(remez_error, abs=1e-12)


@settings(deadline=None)
@given(intervals, st.sampled_from([1, 3, 5, 7, 9]))
def test_errors_alternate_with_equal_size(interval, degree):
    lower, upper = interval
    row, error = minimax_odd_polynomial(lower, upper, degree)
    points = extrema_of(row, lower, upper)
    signs = (-1.0) ** np.arange(len(points))
    errors = 1 - compose_schedule(row[None], points)
    np.testing.assert_allclose(errors, error * signs, rtol=0, atol=1e-11)


def test_errors_alternate_to_the_last_digits_for_degree_five():
    row, error = minimax_odd_polynomial(1e-3, 1.0)
    errors = 1 - compose_schedule(row[None], extrema_of(row, 1e-3, 1.0))
    np.testing.assert_allclose(errors, error * np.array([1, -1, 1, -1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", [5, 7, 9])
def test_vanishing_interval_gives_newton_schulz(degree):
    limit = {5: [15 / 8, -10 / 8, 3 / 8], 7: np.array([35, -35, 21, -5]) / 16}
    limit[9] = np.array([315, -420, 378, -180, 35]) / 128
    row, error = minimax_odd_polynomial(2.0, 2.0, degree)
    np.testing.assert_allclose(row, limit[degree] / 2.0 ** np.arange(1, degree + 1, 2), rtol=1e-14)
    assert error < 1e-15


@pytest.mark.parametrize("degree", [3, 5, 7, 21])
@pytest.mark.parametrize("lower", [1e-5, 1e-2, 0.5])
def test_error_is_the_maximum_on_a_grid(degree, lower):
    row, error = minimax_odd_polynomial(lower, 1.0, degree)
    grid = np.geomspace(lower, 1, 20_001)
    assert np.abs(1 - compose_schedule(row[None], grid)).max() == pytest.approx(error, abs=1e-8)


@pytest.mark.parametrize("n_iter", range(1, 8))
def test_worst_case_error_is_one_minus_the_image_of_the_smallest(n_iter):
    schedule = optimum(n_iter)
    error = worst_case_error(schedule, 1e-3)
    assert error == pytest.approx(1 - compose_schedule(schedule, 1e-3).item(), abs=1e-9)


@pytest.mark.parametrize("name", ["polar-express", "newton-schulz-3", "jordan", "you"])
@pytest.mark.parametrize("upper", [0.9, 1.0, 1.02])
def test_worst_case_error_is_the_maximum_on_a_grid(name, upper):
    schedule = named_schedule(name, 4)
    grid = np.concatenate((np.geomspace(1e-2, 0.1, 50_001), np.linspace(0.1, upper, 200_001)))
    largest = np.abs(1 - compose_schedule(schedule, grid)).max()
    assert 0 <= worst_case_error(schedule, 1e-2, upper) - largest < 1e-6


def test_a_diverging_schedule_has_an_infinite_error():
    assert worst_case_error(named_schedule("newton-schulz-5", 12), 0.5, 3.0) == np.inf


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e-1))
def test_no_perturbation_of_the_greedy_pair_is_better(seed, size):
    best = optimum(2)
    noise = np.random.default_rng(seed).uniform(-size, size, best.shape)
    assert worst_case_error(best * (1 + noise), 1e-3) >= worst_case_error(best, 1e-3) - 1e-12


@pytest.mark.parametrize(("degree", "order"), [(3, 2), (5, 3), (7, 4)])
def test_errors_fall_with_the_order_of_the_paper(degree, order):
    errors = [worst_case_error(optimum(t, lower=0.05, degree=degree), 0.05) for t in range(1, 5)]
    for before, after in itertools.pairwise(errors):
        assert after <= before**order + 1e-14


@pytest.mark.parametrize("degree", [3, 5, 7])
@pytest.mark.parametrize("lower", [1e-3, 0.1, 0.7])
def test_bound_of_the_paper_is_kept(degree, lower):
    for n_iter in range(1, 7):
        error = worst_case_error(optimum(n_iter, lower=lower, degree=degree), lower)
        assert error <= convergence_bound(lower, n_iter, degree) + 1e-14


def test_bound_is_tight_for_newton_schulz_of_degree_three():
    error = worst_case_error(named_schedule("newton-schulz-3", 1), 0.9)
    assert error < convergence_bound(0.9, 1, degree=3) == pytest.approx(0.19**2)


@pytest.mark.parametrize("degree", [3, 5, 7])
def test_cushioned_range_is_centred_on_one(degree):
    schedule = polar_express_schedule(2, degree=degree, cushion=0.1, safety=1)
    grid = compose_schedule(schedule[:1], np.geomspace(1e-3, 1, 200_001))
    assert grid.min() + grid.max() == pytest.approx(2, abs=1e-7)


def test_cushion_limits_the_slope_at_zero():
    slopes = [polar_express_schedule(1, cushion=c, safety=1)[0, 0] for c in (0, 0.1, 0.3)]
    assert slopes[0] > slopes[1] > slopes[2]


def test_no_loss_from_scale():
    small, large = (minimax_odd_polynomial(0.1 * u, u) for u in (1.0, 50.0))
    x = np.linspace(0.1, 1, 9)
    np.testing.assert_allclose(
        compose_schedule(small[0][None], x), compose_schedule(large[0][None], 50 * x), atol=1e-13
    )
    assert small[1] == pytest.approx(large[1], abs=1e-14)


def test_jordan_oscillates_and_does_not_converge():
    late = [compose_schedule(named_schedule("jordan", t), [0.3, 0.8]) for t in range(10, 40)]
    assert np.ptp(late) > 0.3
    assert 0.65 < np.min(late) < np.max(late) < 1.25


def test_tables_repeat_their_last_row():
    you = named_schedule("you", 8)
    np.testing.assert_array_equal(you[6:], you[[5, 5]])
    np.testing.assert_allclose(you[0] * 1024, [3955, -8306, 5008])
    np.testing.assert_array_equal(named_schedule("you", 2), you[:2])


def test_composition_applies_the_first_row_first():
    schedule = [[2.0, 0.0], [0.0, 1.0]]
    assert compose_schedule(schedule, 3.0) == 216.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minimax_odd_polynomial(0.0, 1.0), "lower must be a finite number > 0, got 0.0"),
        (lambda: minimax_odd_polynomial(2.0, 1.0), "upper must be a finite number >= 2, got 1.0"),
        (lambda: minimax_odd_polynomial(0.1, 1.0, 4), "degree must be odd, got 4"),
        (lambda: minimax_odd_polynomial(0.1, 1.0, 23), "degree must be an integer"),
        (lambda: polar_express_schedule(0), "n_iter must be"),
        (lambda: polar_express_schedule(3, lower=-1.0), "lower must be"),
        (lambda: polar_express_schedule(3, lower=1.5), "lower must be"),
        (lambda: polar_express_schedule(3, safety=0.99), "safety must be a finite number >= 1"),
        (lambda: polar_express_schedule(3, cushion=1.0), "cushion must be a finite number >= 0"),
        (lambda: polar_express_schedule(3, degree=2), "degree must be odd, got 2"),
        (lambda: named_schedule("adam", 3), "name must be one of 'polar-express', 'newton-sch"),
        (lambda: compose_schedule([1.0, 2.0], 0.5), "schedule must have 2 axes"),
        (lambda: compose_schedule(np.empty((0, 3)), 0.5), "schedule must have a row"),
        (lambda: worst_case_error([[1.0]], 0.0), "lower must be"),
        (lambda: convergence_bound(0.0, 3), "lower must be"),
        (lambda: convergence_bound(0.1, 3, 6), "degree must be odd, got 6"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
