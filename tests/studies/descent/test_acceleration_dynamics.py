"""The study of acceleration: its quick run, its functions, and what it would see if wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from thalweg.descent import coefficients, mode_rate
from thalweg.studies.descent import acceleration_dynamics as study
from thalweg.studies.descent._acceleration_cases import (
    NAMES,
    kinked,
    log_cosh,
    quadratic,
    trajectory,
)
from thalweg.study import run_study


def test_quick_run_confirms_every_claim():
    outcome = run_study("acceleration-dynamics")
    assert outcome.record.state == "holds", outcome.record.traceback
    results = outcome.record.results
    assert results["lyapunov_control"] > 100
    # Each bound is near what is measured: neither slopes nor rates pass by far.
    assert outcome.arrays["error_slopes"].max() < 2.1
    assert results["tmm_rate"] == pytest.approx(0.8, abs=1e-6)
    assert outcome.arrays["cycle_periods"].tolist() == [3, 3]
    assert results["order_1_slope"] - results["order_0_slope"] > 0.8
    assert outcome.png


CASES = {
    "log cosh": log_cosh(),
    "one dimension": log_cosh([[2.0]], [3.0]),
    "quadratic": quadratic(100.0, 5, np.random.default_rng(0)),
    "kinked": kinked(3.3),
}


@pytest.mark.parametrize("name", CASES)
def test_functions_have_the_derivatives_and_constants_they_claim(name):
    case = CASES[name]
    rng = np.random.default_rng(1)
    assert case.fun(np.zeros_like(case.x0)) == 0
    for _ in range(20):
        x = 2 * rng.normal(size=case.x0.shape)
        v = rng.normal(size=case.x0.shape)
        v /= np.linalg.norm(v)
        h = 1e-6
        change = (case.fun(x + h * v) - case.fun(x - h * v)) / (2 * h)
        assert case.jac(x) @ v == pytest.approx(change, abs=1e-6)
        bend = (case.jac(x + h * v) - case.jac(x - h * v)) / (2 * h)
        np.testing.assert_allclose(case.hessp(x, v), bend, atol=1e-6)
        assert case.mu - 1e-12 <= v @ case.hessp(x, v) <= case.L + 1e-12


def test_values_of_the_kinked_function_have_no_jump():
    for at in (1.0, 2.0):
        below, above = (kinked(0.0).fun(np.array([at + shift])) for shift in (-1e-9, 1e-9))
        assert above - below == pytest.approx(0, abs=1e-6)


def test_modes_predict_the_steps_that_are_counted():
    case = quadratic(400.0, 20, np.random.default_rng(0))
    for method in NAMES:
        three = coefficients(method, L=1.0, mu=1 / 400)[:3]
        rate = np.max(mode_rate(np.array([1 / 400, 1.0]), *three))
        assert study.steps_needed(case, method) == pytest.approx(
            np.log(1e8) / -np.log(rate), rel=0.35
        )


def test_a_wrong_limit_would_be_seen(monkeypatch):
    real = study.continuous_limit
    monkeypatch.setattr(
        study, "continuous_limit", lambda *three: (*real(*three)[:2], 1.0, real(*three)[3])
    )
    found = study.distance_to_equation(SimpleNamespace(levels=(4, 5, 6)))
    assert max(found["error_slopes"]) < 1.5


def test_tail_rate_of_a_geometric_run():
    points = 3.0 * (-0.7) ** np.arange(100)[:, None]
    assert study.tail_rate(points) == pytest.approx(0.7)


def test_trajectories_have_every_step():
    assert trajectory(CASES["kinked"], 0.04, 0.5, 0.5, steps=9).shape == (10, 1)
