from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from thalweg.transport import odeint, sdeint

torch = pytest.importorskip("torch")

FORMS = {"numpy": np.asarray, "torch": torch.from_numpy}


def turning(t, x):
    """A field whose solution is known: x' = cos(t) x."""
    return np.cos(t) * x


def turned(x0, t0, t1):
    return x0 * np.exp(np.sin(t1) - np.sin(t0))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_error_falls_with_the_order_of_the_method(method, order):
    x0, errors = np.ones((1, 1)), []
    for n_steps in (20, 40, 80):
        x = odeint(turning, x0, t0=0.3, t1=2.0, n_steps=n_steps, method=method)
        errors.append(abs(x - turned(x0, 0.3, 2.0)).item())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(slopes, order, atol=0.25)


@pytest.mark.parametrize(("method", "calls"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_evaluations_are_counted(method, calls):
    solution = odeint(turning, np.ones((3, 2)), n_steps=7, method=method, full_output=True)
    assert solution.n_eval == 7 * calls
    assert solution.path is None


@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "dopri5"])
@pytest.mark.parametrize("form", FORMS)
def test_backward_integration_returns_to_the_start(method, form):
    x0 = FORMS[form](np.array([[1.0, -2.0]]))
    cos = np.cos if form == "numpy" else lambda t: float(np.cos(t))
    steps = {"n_steps": 2000 if method == "euler" else 200, "method": method}
    end = odeint(lambda t, x: cos(t) * x, x0, t0=0.2, t1=1.4, **steps)
    start = odeint(lambda t, x: cos(t) * x, end, t0=1.4, t1=0.2, **steps)
    np.testing.assert_allclose(end, turned(np.asarray(x0), 0.2, 1.4), rtol=1e-3)
    np.testing.assert_allclose(start, x0, rtol=1e-3 if method == "euler" else 1e-5)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "dopri5"])
def test_numpy_and_torch_give_the_same_path(method):
    x0 = np.random.default_rng(0).normal(size=(5, 2))
    options = {"method": method, "n_steps": 9, "return_path": True}
    path = odeint(lambda t, x: np.sin(x) - t, x0, **options)
    other = odeint(lambda t, x: torch.sin(x) - t, torch.from_numpy(x0), **options)
    assert isinstance(other, torch.Tensor)
    np.testing.assert_allclose(other, path, rtol=1e-13, atol=1e-13)


def van_der_pol(t, x):
    u, v = x[..., 0], x[..., 1]
    return np.stack([v, 2 * (1 - u**2) * v - u + 0.3 * np.cos(t)], -1)


def test_dopri5_agrees_with_scipy_in_values_and_evaluations():
    x0, tolerances = np.array([2.0, 0.0]), {"rtol": 1e-7, "atol": 1e-9}
    ours = odeint(
        van_der_pol, x0, t1=8.0, method="dopri5", n_steps=50,
        return_path=True, full_output=True, **tolerances,
    )  # fmt: skip
    exact = solve_ivp(van_der_pol, (0, 8), x0, "DOP853", ours.times, rtol=1e-12, atol=1e-12)
    theirs = solve_ivp(van_der_pol, (0, 8), x0, "RK45", ours.times, **tolerances)
    error, their_error = (abs(path - exact.y.T).max() for path in (ours.path, theirs.y.T))
    assert error <= 1.1 * their_error
    assert ours.n_eval <= 1.1 * theirs.nfev
    np.testing.assert_array_equal(ours.x, ours.path[-1])


def test_dopri5_takes_no_more_evaluations_for_a_denser_report():
    options = {"method": "dopri5", "return_path": True, "full_output": True}
    few, many = (odeint(turning, np.ones(1), n_steps=n, **options) for n in (2, 500))
    assert few.n_eval == many.n_eval
    np.testing.assert_allclose(many.path[:, 0], turned(1.0, 0, many.times), rtol=1e-5)


def test_dopri5_reports_backward_paths_in_the_order_of_the_grid():
    times = np.array([2.0, 1.5, 0.1])
    path = odeint(turning, np.ones(1), times=times, method="dopri5", return_path=True)
    np.testing.assert_allclose(path[:, 0], turned(1.0, 2.0, times), rtol=1e-5)


def test_dopri5_error_follows_the_tolerance():
    errors = [
        abs(odeint(turning, np.ones(1), t1=5.0, method="dopri5", rtol=rtol, atol=rtol)
            - turned(1.0, 0, 5.0)).item()
        for rtol in (1e-4, 1e-7, 1e-10)
    ]  # fmt: skip
    assert errors[0] > 30 * errors[1] > 900 * errors[2]


def test_irregular_grid_equals_its_pieces():
    times, x0 = [0.0, 0.1, 0.5, 0.6], np.ones(2)
    path = odeint(turning, x0, times=times, return_path=True)
    x = x0
    for i, (s, t) in enumerate(pairwise(times)):
        x = odeint(turning, x, t0=s, t1=t, n_steps=1)
        np.testing.assert_allclose(path[i + 1], x, rtol=1e-14)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["euler", "heun", "rk4", "dopri5"]),
    st.floats(-3, 3),
    st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3),
)
def test_constant_velocity_is_integrated_exactly(method, t0, span):
    x = odeint(lambda t, x: 2 + 0 * x, np.zeros(3), t0=t0, t1=t0 + span, n_steps=5, method=method)
    np.testing.assert_allclose(x, 2 * span, rtol=1e-10)


def test_single_precision_is_kept():
    x0 = np.ones((2, 2), dtype=np.float32)
    assert odeint(lambda t, x: -x, x0).dtype == np.float32
    assert sdeint(lambda t, x: -x, torch.from_numpy(x0), 1.0, rng=0).dtype == torch.float32


def test_gradients_pass_through_the_solution():
    rate = torch.tensor(0.7, requires_grad=True)
    x = odeint(lambda t, x: rate * x, torch.ones(1, dtype=torch.float64), method="rk4")
    x.sum().backward()
    np.testing.assert_allclose(rate.grad, np.exp(0.7), rtol=1e-6)


# Ornstein-Uhlenbeck dX = -a X dt + s dW; one step of each method is affine in X, so the moments of
# the scheme are known without sampling: X -> g X + r N.
A, S, T = 1.2, 0.8, 1.5
M0, V0 = 2.0, 0.3


def moments(growth, kick, n_steps):
    m, v = M0, V0
    for _ in range(n_steps):
        m, v = growth * m, growth**2 * v + kick**2
    return m, v


def exact_moments():
    decay = np.exp(-A * T)
    return M0 * decay, V0 * decay**2 + S**2 * (1 - decay**2) / (2 * A)


def one_step(method, n_steps):
    """Growth and kick of one step, by applying it to 0 and 1 with the same noise and with none."""
    h = T / n_steps
    x = np.array([0.0, 1.0])
    quiet = sdeint(lambda t, x: -A * x, x, 0.0, t1=h, n_steps=1, method=method, rng=0)
    noisy = sdeint(lambda t, x: -A * x, x, S, t1=h, n_steps=1, method=method, rng=0)
    z = np.random.default_rng(0).standard_normal(2)
    kick = (noisy - quiet) / z
    np.testing.assert_allclose(kick[0], kick[1])
    return quiet[1], kick[0]


@pytest.mark.parametrize(
    ("method", "order"), [("euler-maruyama", 1), ("heun", 1), ("stochastic-heun", 2)]
)
def test_moments_of_ornstein_uhlenbeck_converge_with_the_weak_order(method, order):
    errors = [
        np.abs(np.subtract(moments(*one_step(method, n), n), exact_moments()))
        for n in (40, 80, 160)
    ]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert slopes.min() > order - 0.25
    if order == 1:
        assert slopes[:, 1].max() < 1.3


@pytest.mark.parametrize("method", ["euler-maruyama", "heun", "stochastic-heun"])
@pytest.mark.parametrize("form", FORMS)
def test_sampled_moments_are_those_of_ornstein_uhlenbeck(method, form):
    n, steps = 20_000, 60
    x0 = FORMS[form](M0 + np.sqrt(V0) * np.random.default_rng(1).standard_normal((n, 1)))
    rng = np.random.default_rng(2) if form == "numpy" else torch.Generator().manual_seed(2)
    x = np.asarray(sdeint(lambda t, x: -A * x, x0, S, t1=T, n_steps=steps, method=method, rng=rng))
    m, v = moments(*one_step(method, steps), steps)
    assert abs(x.mean() - m) <= 4.5 * np.sqrt(v / n)
    assert abs(x.var() - v) <= 4.5 * v * np.sqrt(2 / n)


def test_reversed_process_recovers_the_law_of_the_start():
    """Backward drift b - s^2 score with the exact Gaussian score leads from time T back to 0."""

    def variance(t):
        return V0 * np.exp(-2 * A * t) + S**2 * (1 - np.exp(-2 * A * t)) / (2 * A)

    def backward(t, x):
        return -A * x + S**2 * (x - M0 * np.exp(-A * t)) / variance(t)

    n, (m, v) = 20_000, exact_moments()
    ends = m + np.sqrt(v) * np.random.default_rng(3).standard_normal(n)
    x = sdeint(backward, ends, S, t0=T, t1=0.0, n_steps=150, method="stochastic-heun", rng=4)
    assert abs(x.mean() - M0) <= 4.5 * np.sqrt(V0 / n) + 2e-3
    assert abs(x.var() - V0) <= 4.5 * V0 * np.sqrt(2 / n) + 2e-3


def test_noise_of_a_schedule_adds_up():
    """Pure noise sigma(t) = t: the variance is the quadrature of t^2 that each method implies."""
    x0, times = np.zeros(40_000), np.array([0.0, 1.0, 3.0])
    expected = {"euler-maruyama": 0 + 1 * 2, "heun": 0 + 1 * 2, "stochastic-heun": 0.5 + 10}
    for method, variance in expected.items():
        x = sdeint(lambda t, x: 0 * x, x0, lambda t: t, times=times, method=method, rng=0)
        assert abs(x.var() - variance) <= 4.5 * variance * np.sqrt(2 / len(x))


def test_heun_with_noise_evaluates_at_the_new_time_from_the_noisy_point():
    seen = []

    def drift(t, x):
        seen.append((t, x.copy()))
        return 3.0 + 0 * x

    sdeint(drift, np.zeros(1), 2.0, t0=0.0, t1=0.25, n_steps=1, method="heun", rng=5)
    noisy = 2 * 0.5 * np.random.default_rng(5).standard_normal(1)
    assert [t for t, _ in seen] == [0.25, 0.25]
    np.testing.assert_allclose([x for _, x in seen], [noisy, noisy + 0.25 * 3])


def test_sde_path_starts_at_the_start_and_ends_at_the_end():
    x0 = np.ones((4, 2))
    options = {"n_steps": 6, "rng": 7}
    path = sdeint(lambda t, x: -x, x0, 1.0, return_path=True, **options)
    assert path.shape == (7, 4, 2)
    np.testing.assert_array_equal(path[0], x0)
    np.testing.assert_array_equal(path[-1], sdeint(lambda t, x: -x, x0, 1.0, **options))


def test_an_integer_gives_the_same_draw_again():
    for x0 in (np.zeros(3), torch.zeros(3)):
        a, b, c = (sdeint(lambda t, x: -x, x0, 1.0, rng=r) for r in (0, 0, 1))
        assert bool((a == b).all())
        assert not bool((a == c).all())


def test_a_solution_that_leaves_the_numbers_is_named_with_its_time():
    with pytest.raises(FloatingPointError, match=r"at t = (0\.5|1)"):
        odeint(lambda t, x: np.exp(x**4) * x**9, np.full(1, 3.0), n_steps=2, t1=1, method="heun")
    with pytest.raises(FloatingPointError, match=r"at t = 0\.99999|at t = 1"):
        odeint(lambda t, x: x**2, np.ones(1), t1=2.0, method="dopri5")


def test_a_drift_that_is_not_finite_is_named_with_its_time():
    with pytest.raises(FloatingPointError, match=r"at t = 0\.5"):
        sdeint(lambda t, x: x / 0 if t > 0.2 else x, torch.ones(2), 1.0, n_steps=4, rng=0)
    with pytest.raises(FloatingPointError, match="at t = 0;"):
        odeint(lambda t, x: np.full(1, np.nan), np.ones(1), method="dopri5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps must be"),
        ({"method": "midpoint"}, "method must be one of 'euler'"),
        ({"rtol": 0.0}, "rtol must be"),
        ({"atol": -1.0}, "atol must be"),
        ({"t1": 0.0}, "t1 must differ"),
        ({"t0": np.inf}, "t0 must be"),
        ({"times": [0.0, 0.5, 0.5]}, "times must be"),
        ({"times": [0.0]}, "times must be"),
        ({"x0": [np.nan]}, "x0 must be finite"),
        ({"x0": torch.tensor([np.inf])}, "x0 must be finite"),
        ({"velocity": lambda t, x: x[:1]}, "velocity\\(t, x\\) must have the shape of x"),
    ],
)
def test_bad_arguments_of_odeint_are_refused_by_name(change, message):
    arguments = {"velocity": lambda t, x: x, "x0": np.ones(3), **change}
    with pytest.raises(ValueError, match=message):
        odeint(arguments.pop("velocity"), arguments.pop("x0"), **arguments)


def test_bad_arguments_of_sdeint_are_refused_by_name():
    with pytest.raises(ValueError, match="sigma must be"):
        sdeint(lambda t, x: x, np.ones(3), -1.0)
    with pytest.raises(ValueError, match="method must be one of 'euler-maruyama'"):
        sdeint(lambda t, x: x, np.ones(3), 1.0, method="rk4")
    with pytest.raises(ValueError, match=r"drift\(t, x\) must have the shape"):
        sdeint(lambda t, x: 0.0, np.ones(3), 1.0)
    with pytest.raises(TypeError, match="drift must be callable"):
        sdeint(3.0, np.ones(3), 1.0)
    with pytest.raises(TypeError, match="x0 must be a floating point tensor"):
        odeint(lambda t, x: x, torch.ones(3, dtype=torch.int64))
