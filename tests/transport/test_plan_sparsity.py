"""The sparsity of a plan by enumeration of the assignments, and by the plans themselves."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from thalweg.transport import assignment_gap, plan_sparsity_bound, sinkhorn_newton_sparse


def uniform(n):
    return np.full(n, 1 / n)


@pytest.mark.parametrize("seed", range(5))
def test_assignment_gap_is_that_of_the_two_best_permutations(seed):
    C = np.random.default_rng(seed).normal(size=(5, 5))
    costs = sorted(C[np.arange(5), list(order)].sum() for order in itertools.permutations(range(5)))
    assert assignment_gap(C) == pytest.approx((costs[1] - costs[0]) / 5, abs=1e-12)


def test_assignment_gap_of_ties_and_of_one_row():
    assert assignment_gap(np.zeros((3, 3))) == 0.0
    assert assignment_gap([[2.0]]) == math.inf
    for bad in ([[1.0, 2.0]], np.empty((0, 0)), [[math.inf]]):
        with pytest.raises(ValueError, match=r"^C must"):
            assignment_gap(bad)


@pytest.mark.parametrize("seed", range(5))
def test_plan_is_as_near_the_assignment_as_the_bound_says(seed):
    n = 10
    C = np.random.default_rng(seed).random((n, n))
    gap = assignment_gap(C)
    best = np.zeros((n, n))
    best[linear_sum_assignment(C)] = 1 / n
    for factor in (1, 3):
        eta = factor * (1 + 2 * math.log(n)) / gap
        plan = sinkhorn_newton_sparse(uniform(n), uniform(n), C, 1 / eta, tol=1e-13).plan
        assert 0 < np.abs(plan - best).sum() <= plan_sparsity_bound(n, eta, gap)


def test_sparsity_bound_is_its_formula_at_any_gap():
    assert plan_sparsity_bound(3, 2.0, 1.5) == pytest.approx(54 * math.exp(-3))
    assert plan_sparsity_bound(3, 2.0, 0.0) == 54
    assert plan_sparsity_bound(3, 2.0, math.inf) == 0.0
    assert plan_sparsity_bound(3, 1e300, 1e300) == 0.0
    for bad in ((0, 1.0, 1.0), (3, 0.0, 1.0), (3, 1.0, -1.0), (3, 1.0, math.nan)):
        with pytest.raises(ValueError, match="must be"):
            plan_sparsity_bound(*bad)
