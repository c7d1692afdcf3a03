from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    Constants,
    LeastSquares,
    bound,
    constants,
    iterations_for,
    minibatch_constants,
    sgd,
    step_limit,
    theorems,
)
from thalweg.descent.bounds import averaging_weights, step_for, step_schedule

C = Constants(
    L=2.0, L_max=5.0, mu=0.5, mu_min=0.25, pl=0.75, G=3.0, diameter=4.0, n=10, dist0_sq=7.0,
    gap0=6.0, sigma_star_sq=1.5, delta_star=0.3,
)  # fmt: skip
INTERPOLATED = replace(C, sigma_star_sq=0.0, delta_star=0.0)
T = 150
BATCH = 4
LEFT = (10 - 4) / (4 * 9)
L_BATCH = 10 * 3 / (4 * 9) * 2.0 + LEFT * 5.0
STEPS = 0.04 / np.sqrt(np.arange(1, T + 1))


def average_bound(start, noise, largest):
    """The sgd-convex bound summed step by step."""
    top = bottom = 0.0
    for gamma in STEPS:
        top += gamma**2 * noise
        bottom += gamma * (1 - 2 * gamma * largest)
    return start / (2 * bottom) + top / bottom


# theorem -> (step, batch, the statement evaluated by hand)
LITERAL = {
    "gd-convex": (0.4, None, lambda: 7.0 / (2 * 0.4 * T)),
    "gd-strong": (0.4, None, lambda: math.prod([1 - 0.4 * 0.5] * T) * 7.0),
    "gd-pl": (0.4, None, lambda: math.prod([1 - 0.4 * 0.75] * T) * 6.0),
    "gd-nonconvex": (0.4, None, lambda: 2 * 6.0 / (0.4 * T)),
    "sgd-convex": (STEPS, None, lambda: average_bound(7.0, 1.5, 5.0)),
    "sgd-strong": (0.05, None, lambda: 0.975**T * 7.0 + 2 * 0.05 * 1.5 / 0.5),
    "sgd-strong-switch": (
        None, None, lambda: 8 * 1.5 / (0.25 * T) + 16 * 100 * 7.0 / (math.e**2 * T**2)
    ),
    "sgd-pl": (0.05, None, lambda: (1 - 0.05 * 0.75) ** T * 6.0 + 0.05 * 2 * 5 * 0.3 / 0.75),
    "sgd-nonconvex": (
        0.02, None, lambda: (1 + 10 * 0.0004) ** T * 6.0 / (0.02 * T) + 10 * 0.02 * 0.3
    ),
    "minibatch-convex": (STEPS, BATCH, lambda: average_bound(7.0, LEFT * 1.5, L_BATCH)),
    "minibatch-strong": (0.1, BATCH, lambda: 0.95**T * 7.0 + 2 * 0.1 * LEFT * 1.5 / 0.5),
    "minibatch-pl": (
        0.1, BATCH, lambda: (1 - 0.075) ** T * 6.0 + 0.1 * 2 * (LEFT * 5 * 0.3) / 0.75
    ),
    "sgdm-convex": (0.05, None, lambda: 7.0 / (0.05 * (T + 1)) + 2 * 0.05 * 1.5),
    "subgrad-convex": (
        STEPS, None, lambda: (7.0 + 9.0 * sum(STEPS**2)) / (2 * sum(STEPS))
    ),
    "subgrad-bounded": (0.7, None, lambda: (16 / (2 * 0.7) + 0.7 * 9.0) / math.sqrt(T)),
    "subgrad-strong": (None, None, lambda: 2 * 9.0 / (0.5 * (T + 1))),
    "prox-convex": (0.4, None, lambda: 7.0 / (2 * 0.4 * T)),
    "prox-strong": (0.4, None, lambda: 0.8**T * 7.0),
    "sprox-convex": (
        STEPS, None,
        lambda: (7.0 + 2 * 0.04 * 6.0) / (2 * (1 - 4 * 0.04 * 5) * sum(STEPS))
        + 2 * 1.5 * sum(STEPS**2) / ((1 - 4 * 0.04 * 5) * sum(STEPS)),
    ),
    "sprox-strong": (0.05, None, lambda: 0.975**T * 7.0 + 2 * 0.05 * 1.5 / 0.5),
    "sps-lipschitz": (None, None, lambda: 3.0 * math.sqrt(7.0) / math.sqrt(T)),
    "sps-smooth": (None, None, lambda: 2 * 5.0 * 7.0 / T),
    "sps-strong": (None, None, lambda: (1 - 0.5 / 20) ** T * 7.0),
    "spp-lipschitz": (0.3, None, lambda: 7.0 / (2 * 0.3 * T) + 0.3 * 9.0 / 2),
    "spp-strong": (
        0.8, None, lambda: (1.2**-2) ** T * 7.0 + 0.64 * 1.5 * 1.2**-2 / (1 - 1.2**-2)
    ),
}  # fmt: skip


def constants_of(theorem):
    return INTERPOLATED if theorem in ("sps-smooth", "sps-strong") else C


def test_every_theorem_is_evaluated_below():
    assert set(LITERAL) == set(theorems())
    for name, entry in theorems().items():
        assert entry.id == name
        assert entry.statement
        assert entry.assumptions


@pytest.mark.parametrize("theorem", LITERAL)
def test_bounds_are_their_statements(theorem):
    step, batch, literal = LITERAL[theorem]
    value = bound(theorem, T, step=step, constants=constants_of(theorem), batch_size=batch)
    assert isinstance(value, float)
    assert value == pytest.approx(literal(), rel=1e-12)
    every = bound(theorem, [0, T, 3], step=step, constants=constants_of(theorem), batch_size=batch)
    assert every[1] == value
    assert every[0] >= every[1]
    assert every[2] >= every[1]


LIMITS = {
    "gd-convex": 0.5, "gd-strong": 0.5, "gd-pl": 0.5, "gd-nonconvex": 0.5,
    "sgd-convex": 0.1, "sgd-strong": 0.1, "sgd-pl": 0.075, "sgdm-convex": 0.05,
    "minibatch-convex": 0.5 / L_BATCH, "minibatch-strong": 0.5 / L_BATCH,
    "minibatch-pl": 0.75 / (2 * L_BATCH), "prox-convex": 0.5, "prox-strong": 0.5,
    "sprox-convex": 0.05, "sprox-strong": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("theorem", LITERAL)
def test_steps_up_to_the_limit_are_allowed_and_none_above(theorem):
    batch = LITERAL[theorem][1]
    limit = step_limit(theorem, constants_of(theorem), batch)
    assert limit == pytest.approx(LIMITS.get(theorem, math.inf), rel=1e-12)
    if math.isinf(limit):
        return
    options = {"constants": C, "batch_size": batch}
    strict = theorem in ("sgd-convex", "minibatch-convex", "sprox-convex")
    assert bound(theorem, 10, step=limit * (1 - 1e-6), **options) > 0
    with pytest.raises(ValueError, match=f"step must be <=? .* for {theorem}"):
        bound(theorem, 10, step=limit * (1 + 1e-6), **options)
    if strict:
        with pytest.raises(ValueError, match="step must be <"):
            bound(theorem, 10, step=limit, **options)
    else:
        bound(theorem, 10, step=limit, **options)


@pytest.mark.parametrize("theorem", LITERAL)
@pytest.mark.parametrize("epsilon", [1.0, 0.03])
def test_iterations_are_the_least_that_the_bound_asks_for(theorem, epsilon):
    c, batch = constants_of(theorem), LITERAL[theorem][1]
    needed = iterations_for(theorem, epsilon, constants=c, batch_size=batch)
    step = step_for(theorem, c, epsilon, batch)
    options = {"step": step, "constants": c, "batch_size": batch}
    assert bound(theorem, needed, **options) <= epsilon
    assert bound(theorem, needed - 1, **options) > epsilon
    floors = {
        "sgd-strong": lambda g: 2 * g * 1.5 / 0.5, "sgdm-convex": lambda g: 2 * g * 1.5,
        "sprox-strong": lambda g: 2 * g * 1.5 / 0.5, "sgd-pl": lambda g: g * 3 / 0.75,
        "sgd-convex": lambda g: 1.5 * g / (1 - 10 * g),
        "sprox-convex": lambda g: 3 * g / (1 - 20 * g),
        "spp-strong": lambda g: g * 1.5 / (0.25 * (2 + 0.25 * g)),
        "spp-lipschitz": lambda g: g * 9 / 2, "subgrad-convex": lambda g: g * 9 / 2,
        "minibatch-strong": lambda g: 2 * g * LEFT * 1.5 / 0.5,
        "minibatch-convex": lambda g: LEFT * 1.5 * g / (1 - 2 * g * L_BATCH),
        "minibatch-pl": lambda g: g * 2 * LEFT * 5 * 0.3 / 0.75,
    }  # fmt: skip
    if theorem in floors:
        strict = theorem in ("sgd-convex", "minibatch-convex", "sprox-convex")
        limit = step_limit(theorem, c, batch) / (2 if strict else 1)
        # The floor is half of epsilon, unless the limit is reached first.
        if step == pytest.approx(limit):
            assert floors[theorem](step) <= epsilon / 2 * (1 + 1e-9)
        else:
            assert floors[theorem](step) == pytest.approx(epsilon / 2)
            assert step < limit


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["gd-convex", "gd-strong", "sgd-strong", "sgdm-convex", "spp-lipschitz"]),
    st.floats(1e-3, 1e3),
    st.floats(1e-2, 1e2),
    st.floats(1e-3, 1.0),
)
def test_iterations_are_minimal_for_any_constants(theorem, dist0_sq, L, share):
    c = Constants(
        L=L, L_max=3 * L, mu=share * L, G=2.0, dist0_sq=dist0_sq, sigma_star_sq=share, n=5
    )
    epsilon = 0.1 * dist0_sq
    needed = iterations_for(theorem, epsilon, constants=c)
    step = step_for(theorem, c, epsilon)
    assert bound(theorem, needed, step=step, constants=c) <= epsilon
    if needed:
        assert bound(theorem, needed - 1, step=step, constants=c) > epsilon


def test_iterations_with_steps_of_ones_own():
    assert iterations_for("gd-convex", 0.01, step=0.1, constants=C) == 3500
    needed = iterations_for("subgrad-convex", 9.0, step=STEPS, constants=C)
    assert bound("subgrad-convex", needed, step=STEPS, constants=C) <= 9.0
    assert bound("subgrad-convex", needed - 1, step=STEPS, constants=C) > 9.0
    with pytest.raises(ValueError, match="step must hold more than 150 steps"):
        iterations_for("subgrad-convex", 1e-3, step=STEPS, constants=C)
    with pytest.raises(ValueError, match=r"epsilon must be within reach of sgd-strong"):
        iterations_for("sgd-strong", 0.01, step=0.1, constants=C)
    with pytest.raises(ValueError, match=r"epsilon must be within reach of sgd-nonconvex"):
        iterations_for("sgd-nonconvex", 0.1, step=0.1, constants=C)
    assert iterations_for("gd-pl", 10.0, constants=C) == 0


def test_a_minibatch_of_one_is_sgd_and_of_all_gradient_descent():
    one, every = minibatch_constants(C, 1), minibatch_constants(C, 10)
    assert (one.L_max, one.sigma_star_sq, one.delta_star) == pytest.approx((5.0, 1.5, 0.3))
    assert (every.L_max, every.sigma_star_sq, every.delta_star) == (2.0, 0.0, 0.0)
    assert (one.G, one.dist0_sq) == (C.G, C.dist0_sq)
    for kind, step in (("convex", 0.03), ("strong", 0.05), ("pl", 0.05)):
        batch = bound(f"minibatch-{kind}", 20, step=step, constants=C, batch_size=1)
        assert batch == pytest.approx(bound(f"sgd-{kind}", 20, step=step, constants=C))
    # With the full batch the strong bound is gradient descent's.
    assert bound("minibatch-strong", 20, step=0.25, constants=C, batch_size=10) == pytest.approx(
        bound("gd-strong", 20, step=0.25, constants=C)
    )
    single = Constants(n=1, L=2.0, L_max=2.0, sigma_star_sq=0.0)
    assert minibatch_constants(single, 1) == single


def test_sgd_without_noise_is_gradient_descent_but_for_its_limit():
    quiet = replace(INTERPOLATED, L_max=2.0, n=1)
    assert bound("sgd-strong", 9, step=0.25, constants=quiet) == pytest.approx(
        bound("gd-strong", 9, step=0.25, constants=quiet)
    )
    assert bound("sgd-pl", 9, step=0.1, constants=quiet) == pytest.approx(
        bound("gd-pl", 9, step=0.1, constants=quiet)
    )
    # 1 - 2 gamma L = 1/2 in place of 1
    assert bound("sgd-convex", 9, step=0.125, constants=quiet) == pytest.approx(
        2 * bound("gd-convex", 9, step=0.125, constants=quiet)
    )


def test_the_switching_schedule_begins_with_four_kappa_constant_steps():
    steps = step_schedule("sgd-strong-switch", 60, constants=C)
    assert (steps[:40] == 0.1).all()
    t = np.arange(40, 60)
    np.testing.assert_allclose(steps[40:], (2 * t + 1) / (0.5 * (t + 1) ** 2))
    values = bound("sgd-strong-switch", [39, 40], constants=C, step=steps)
    assert np.isinf(values[0])
    assert np.isfinite(values[1])


@pytest.mark.parametrize("kappa", [1.0, 1.01, 1.1, 1.5, 2.0, 7.3])
def test_the_switching_bound_dominates_its_recursion(kappa):
    """E‖x+ - x*‖² <= (1 - gamma mu) E‖x - x*‖² + 2 gamma² s2, iterated with the schedule."""
    for noise, start in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        c = Constants(L_max=kappa, mu=1.0, dist0_sq=start, sigma_star_sq=noise)
        steps = step_schedule("sgd-strong-switch", 400, constants=c)
        values = bound("sgd-strong-switch", np.arange(401), constants=c)
        distance = start
        for t, gamma in enumerate(steps):
            distance = (1 - gamma) * distance + 2 * gamma**2 * noise
            assert distance <= values[t + 1] * (1 + 1e-12)


def test_schedules_and_weights_are_those_of_the_theorems():
    np.testing.assert_allclose(
        step_schedule("subgrad-strong", 3, constants=C), [2 / (0.5 * k) for k in (2, 3, 4)]
    )
    np.testing.assert_allclose(
        step_schedule("subgrad-bounded", 4, constants=C, step=0.6), 0.6 / np.sqrt([1, 2, 3, 4])
    )
    assert (step_schedule("sgd-strong", 2, constants=C) == 0.1).all()
    assert (step_schedule("sgd-convex", 2, constants=C, step=STEPS) == STEPS[:2]).all()
    gamma = np.array([0.05, 0.02])
    np.testing.assert_allclose(averaging_weights("sgd-convex", gamma, C), gamma * (1 - 10 * gamma))
    np.testing.assert_allclose(averaging_weights("sprox-convex", gamma, C), gamma)
    assert averaging_weights("subgrad-strong", gamma, C).tolist() == [1.0, 2.0]
    assert averaging_weights("spp-lipschitz", gamma, C).tolist() == [1.0, 1.0]
    assert bound("subgrad-bounded", 1, constants=C, step=STEPS) == pytest.approx(
        bound("subgrad-bounded", 1, constants=C, step=0.04)
    )


def test_gradient_descent_attains_the_pl_bound():
    mu = 2.0
    problem = LeastSquares([[math.sqrt(mu)]], [0.0])
    c = constants(problem, [3.0])
    points = sgd(problem, [3.0], step=1 / mu, n_steps=2, record=True).history["x"]
    gaps = problem.value(points) - c.f_star
    np.testing.assert_allclose(
        gaps, bound("gd-pl", [0, 1, 2], step=1 / mu, constants=c), atol=1e-14
    )


def test_the_noise_floor_of_a_quadratic_in_closed_form_stays_below_its_bound():
    # f_i = mu (x - c_i)² / 2: E x² contracts by (1 - gamma mu)² and gains gamma² s2 a step.
    mu, gamma, centres = 2.0, 0.2, np.array([-1.0, 1.0, 3.0, -3.0])
    problem = LeastSquares(np.full((4, 1), math.sqrt(mu)), math.sqrt(mu) * centres)
    c = constants(problem, [0.0])
    assert c.sigma_star_sq == pytest.approx(mu**2 * 5.0)
    floor = gamma * c.sigma_star_sq / (mu * (2 - gamma * mu))
    runs = [
        sgd(problem, [0.0], step=gamma, n_steps=4000, rng=seed, record=True).history["x"][50:]
        for seed in range(5)
    ]
    # 20 000 points with a correlation time of about 2 steps: within 5 %.
    assert np.mean(np.square(runs)) == pytest.approx(floor, rel=0.05)
    assert floor < bound("sgd-strong", 10**6, step=gamma, constants=c)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bound("gd", 1, constants=C), KeyError, "must be one of gd-convex, gd-nonconvex"),
        (lambda: step_limit("gd", C), KeyError, "must be one of"),
        (lambda: bound("gd-convex", 1, constants=Constants(L=1.0)), ValueError, "have dist0_sq"),
        (lambda: bound("sgd-pl", 1, constants=replace(C, pl=None, mu=None)), ValueError, "have pl"),
        (lambda: bound("gd-strong", 1, constants=replace(C, mu=0.0)), ValueError, "mu > 0"),
        (lambda: bound("gd-convex", 1, constants={}), TypeError, "constants must be Constants"),
        (lambda: bound("gd-convex", -1, constants=C), ValueError, "T must be >= 0"),
        (lambda: bound("gd-convex", 1.5, constants=C), TypeError, "T must be an integer"),
        (lambda: bound("gd-convex", 1, step=-1.0, constants=C), ValueError, "step must be .* > 0"),
        (lambda: bound("gd-convex", 2, step=[0.1, 0.2], constants=C), ValueError, "be constant"),
        (lambda: bound("sgd-convex", 9, step=[0.01], constants=C), ValueError, "hold 9 steps"),
        (lambda: bound("sprox-convex", 2, step=[0.01, 0.02], constants=C), ValueError, "increase"),
        (lambda: bound("subgrad-strong", 2, step=0.1, constants=C), ValueError, "None or an array"),
        (lambda: bound("subgrad-strong", 2, step=[1.0, 0.1], constants=C), ValueError, "schedule"),
        (lambda: bound("sps-strong", 2, step=0.1, constants=INTERPOLATED), ValueError, "be None"),
        (lambda: bound("sps-smooth", 2, constants=C), ValueError, r"0 \(interpolation\)"),
        (lambda: bound("minibatch-pl", 1, constants=C), ValueError, "batch_size must be given"),
        (lambda: bound("minibatch-pl", 1, constants=C, batch_size=11), ValueError, "batch_size"),
        (lambda: bound("gd-convex", 1, constants=C, batch_size=2), ValueError, "must be None"),
        (lambda: minibatch_constants(C, 0), ValueError, "batch_size must be"),
        (lambda: minibatch_constants(Constants(n=3, L=1.0), 2), ValueError, "have L_max"),
        (lambda: iterations_for("gd-convex", 0.0, constants=C), ValueError, "epsilon must be"),
        (lambda: bound("spp-strong", 1, constants=C), ValueError, "step must be given"),
        (lambda: step_schedule("sps-smooth", 3, constants=INTERPOLATED), ValueError,
         "step lengths"),
        (lambda: averaging_weights("gd-convex", [0.1], C), ValueError, "about an average"),
    ],
)  # fmt: skip
def test_what_a_theorem_does_not_cover_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
