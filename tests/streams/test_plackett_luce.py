"""Plackett-Luce strengths: reduction to pairs, independent optimisation, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad, minimize
from scipy.special import expit, logsumexp

from thalweg.streams import fit_bradley_terry, fit_plackett_luce

PRIORS = pytest.mark.parametrize("prior", [0.0, 1.0, 2.5])


def some_rankings(n=7, seed=0, count=25, length=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    rankings = []
    for _ in range(count):
        chosen = rng.permutation(n)[: length or rng.integers(2, n + 1)]
        rankings.append(chosen[np.argsort(-x[chosen] - rng.gumbel(size=len(chosen)))].tolist())
    order = rng.permutation(n).tolist()
    around = [[order[k - 1], order[k]] for k in range(n)]  # connects everybody both ways
    return rankings + around


def negative_log_posterior(x, rankings, prior, weights=None):
    weights = np.ones(len(rankings)) if weights is None else weights
    value = -prior * np.sum(np.log(expit(x)) + np.log(expit(-x)))
    for ranking, weight in zip(rankings, weights, strict=True):
        for m in range(len(ranking) - 1):
            value -= weight * (x[ranking[m]] - logsumexp(x[ranking[m:]]))
    return value


def derivatives(x, rankings, prior):
    chance = expit(x)
    g = -prior * (1 - 2 * chance)
    h = np.diag(2 * prior * chance * (1 - chance)) + (prior == 0) / len(x)
    for ranking in rankings:
        for m in range(len(ranking) - 1):
            stage = ranking[m:]
            p = np.exp(x[stage] - logsumexp(x[stage]))
            g[stage] += p
            g[ranking[m]] -= 1
            h[np.ix_(stage, stage)] += np.diag(p) - np.outer(p, p)
    return g, h


@PRIORS
def test_agrees_with_trust_region_newton(prior):
    rankings = some_rankings()
    reference = minimize(
        negative_log_posterior,
        np.zeros(7),
        args=(rankings, prior),
        jac=lambda x, *args: derivatives(x, *args)[0],
        hess=lambda x, *args: derivatives(x, *args)[1],
        method="trust-exact",
        options={"gtol": 1e-11},
    ).x
    result = fit_plackett_luce(rankings, prior=prior, tol=1e-14)
    assert result.success
    np.testing.assert_allclose(result.x, reference, atol=1e-8)


@PRIORS
def test_fun_is_the_negative_log_posterior_and_jac_its_gradient(prior):
    rankings = some_rankings()
    result = fit_plackett_luce(rankings, prior=prior, max_iter=1)
    assert np.abs(result.jac).max() > 1e-3
    assert result.fun == pytest.approx(negative_log_posterior(result.x, rankings, prior), rel=1e-13)
    error = check_grad(
        lambda x: negative_log_posterior(x, rankings, prior), lambda _: result.jac, result.x
    )
    assert error < 1e-5


@PRIORS
@pytest.mark.parametrize("max_iter", [1, 2, 10_000])
def test_rankings_of_two_are_games_sweep_by_sweep(prior, max_iter):
    rankings = some_rankings(length=2, count=60)
    wins = np.zeros((7, 7))
    for winner, loser in rankings:
        wins[winner, loser] += 1
    ours = fit_plackett_luce(rankings, prior=prior, max_iter=max_iter)
    pairs = fit_bradley_terry(wins, prior=prior, max_iter=max_iter)
    assert ours.nit == pairs.nit
    np.testing.assert_allclose(ours.x, pairs.x, atol=1e-13)
    assert ours.fun == pytest.approx(pairs.fun, rel=1e-12)


def test_updates_are_cyclic_each_from_the_newest_strengths():
    rankings = some_rankings(n=5, count=6)
    p = np.ones(5)
    for i in range(5):
        above = below = 0.0
        for ranking in rankings:
            for m in range(len(ranking) - 1):
                total = sum(p[ranking[m:]])
                if ranking[m] == i:
                    above += (total - p[i]) / total
                elif i in ranking[m:]:
                    below += 1 / total
        p[i] = above / below
    x = fit_plackett_luce(rankings, prior=0, max_iter=1).x
    np.testing.assert_allclose(x, np.log(p) - np.log(p).mean(), atol=1e-13)


def test_no_sweep_lowers_the_posterior():
    rankings = some_rankings(n=9, count=12)
    values = []
    fit_plackett_luce(
        rankings,
        tol=1e-10,
        callback=lambda state: values.append(negative_log_posterior(state.x, rankings, 1.0)),
    )
    assert len(values) > 8
    assert np.diff(values).max() <= 1e-13 * values[-1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_relabelling_players_relabels_strengths(seed):
    rankings = some_rankings(seed=seed)
    order = np.random.default_rng(seed).permutation(7)
    x = fit_plackett_luce(rankings, tol=1e-12).x
    renamed = [order[ranking].tolist() for ranking in rankings]
    np.testing.assert_allclose(fit_plackett_luce(renamed, tol=1e-12).x[order], x, atol=1e-8)


def test_every_order_once_makes_all_equal():
    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    np.testing.assert_allclose(fit_plackett_luce(orders, prior=0, tol=1e-12).x, 0, atol=1e-9)


def test_whole_weights_are_repeated_rankings():
    rankings = some_rankings()
    weights = np.random.default_rng(3).integers(0, 4, len(rankings))
    repeated = [r for r, times in zip(rankings, weights, strict=True) for _ in range(times)]
    weighted = fit_plackett_luce(rankings, weights=weights, tol=1e-12)
    plain = fit_plackett_luce(repeated, tol=1e-12)
    np.testing.assert_allclose(weighted.x, plain.x, atol=1e-9)
    assert weighted.fun == pytest.approx(plain.fun, rel=1e-12)


def test_equal_lengths_may_come_as_a_matrix():
    rankings = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
    np.testing.assert_array_equal(
        fit_plackett_luce(rankings).x, fit_plackett_luce(rankings.tolist()).x
    )


def test_players_in_no_ranking_get_strength_one():
    result = fit_plackett_luce([[0, 1], [1, 0]], n_items=4, tol=1e-12)
    np.testing.assert_allclose(result.x, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("rankings", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one ranking"),
        ([[0, 1], [2]], {}, ValueError, r"2 players or more, got \[2\]"),
        ([[0, 1], [2, 1, 2]], {}, ValueError, r"not repeat a player, got \[2, 1, 2\]"),
        ([[0, -1]], {}, ValueError, "from 0, got -1"),
        ([[0, 1.5]], {}, TypeError, "player numbers"),
        ([["a", "b"]], {}, TypeError, "player numbers"),
        ([0, 1], {}, TypeError, "sequences of player numbers"),
        ([[0, 3]], {"n_items": 3}, ValueError, "below n_items=3, got 3"),
        ([[0, 1]], {"prior": -1}, ValueError, "prior"),
        ([[0, 1]], {"tol": 0}, ValueError, "tol"),
        ([[0, 1]], {"weights": [-1]}, ValueError, "weights must be >= 0"),
        ([[0, 1]], {"weights": [1, 1]}, ValueError, "weights must have shape"),
        ([[0, 1, 2], [1, 0, 2]], {"prior": 0}, ValueError, "fall into 2 groups .* prior > 0"),
        (
            [[0, 1], [1, 0]],
            {"prior": 0, "weights": [1, 0]},
            ValueError,
            "fall into 2 groups .* prior > 0",
        ),
    ],
)
def test_malformed_arguments_are_refused_by_name(rankings, options, error, message):
    with pytest.raises(error, match=message):
        fit_plackett_luce(rankings, **options)
