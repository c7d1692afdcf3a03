"""Constant steps give polynomial tails, of an order like one over the step, and no lighter ones.

Measured: tails of a scalar iteration, moments of products of random matrices, covariances for
small steps, and how often TD(0) stays within its confidence radius. On a user's table: streaming
least squares with standard errors, confidence radii and the order of the tails.
"""

from __future__ import annotations

import csv
import math
import warnings
from typing import Any

import numpy as np
from scipy.stats import norm

from thalweg.linalg import (
    clt_covariance,
    confidence_radius,
    finite_sampler,
    hill_estimator,
    linear_sa,
    lms_sampler,
    lyapunov_constants,
    mean_square_stable,
    product_moment_bound,
    stationary_covariance,
    tail_index,
    tail_index_mc,
    td_sampler,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, between, reported

STEPS = (0.1, 0.2, 0.4)
FINE_STEPS = (0.4, 0.2, 0.1, 0.05)
SCALAR_A = np.repeat([-1.0, 3.0], [2, 3])
TOP = 400
FORGET = 12.0
"""Iterations times step after which the scalar iteration has forgotten its start."""
FAR = 6.0
ANCHOR = 1e-3
SEEN = 10
"""The figure shows frequencies of at least so many chains, and asymptotes from `ANCHOR` on."""
ORDERS = (2, 4, 8)
SHARES = (0.5, 1.0, 2.0)
"""Steps, in units of the largest at which the bound of the highest order contracts."""
DRAWN_SHARE = 2.0
SPREAD = 1.5
POINTS = 20
STATES, FEATURES, DISCOUNT, TD_STEP, DELTA = 20, 5, 0.5, 0.1, 0.05
VISITED_STATE = 15
TIMES = (200, 1000)
LARGEST_COLUMNS = 30
LARGEST_ENTRIES = 20_000_000


def run(setup, rng, report):
    """Measure tails, moments of products, covariances and the coverage of the radius."""
    report(0.0, "tails of a scalar iteration")
    results = tails(setup, rng, report)
    report(0.5, "moments of products")
    sampler = spread_matrices(rng)
    results |= products(sampler, setup, rng)
    report(0.7, "covariances")
    results |= covariances(sampler)
    report(0.75, "coverage of the radius")
    results |= coverage(setup, rng)
    return results


def scalar_sampler():
    """Return the scalar example: A is -1 (0.4) or 3 (0.6), the noise a fair sign."""
    a, b = np.repeat(SCALAR_A, 2), np.tile([-1.0, 1.0], len(SCALAR_A))
    return finite_sampler(a[:, None, None], b[:, None])


def tails(setup, rng, report):
    """Compare the tails of many scalar chains with their order and with a Gaussian."""
    sampler = scalar_sampler()
    grid = np.geomspace(0.5, 40, 60)
    hill, order, survival, counts = [], [], [], []
    results: dict[str, Any] = {"grid": grid, "steps": np.array(STEPS)}
    for number, step in enumerate(STEPS):
        report(0.15 * number, f"tails, step {step:g}")
        chains = setup.tail_chains if step == STEPS[-1] else setup.other_chains
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            x = linear_sa(
                sampler, [0.0], step, math.ceil(FORGET / step), n_chains=chains, rng=rng
            ).ravel()
        variance = stationary_covariance(
            sampler.a_bar, sampler.noise_cov, step, sampler.a_second_moment
        ).item()
        size = np.sort(np.abs(x)) / math.sqrt(variance)
        survival.append(1 - np.searchsorted(size, grid, side="right") / chains)
        counts.append(chains)
        hill.append(hill_estimator(x, TOP))
        order.append(tail_index(SCALAR_A, step_size=step))
    orders = [tail_index(SCALAR_A, step_size=step) * step for step in FINE_STEPS]
    return results | {
        "chains": np.array(counts),
        "hill": np.array(hill),
        "order": np.array(order),
        "hill_over_order": hill[-1] / order[-1],
        "survival": np.array(survival),
        "gaussian_survival": 2 * norm.sf(grid),
        "far_over_gaussian": float(np.mean(size > FAR) / (2 * norm.sf(FAR))),
        "order_times_step": np.array(orders),
        "order_variation": max(orders) / min(orders),
    }


def spread_matrices(rng):
    """Return a random mean matrix in three dimensions with four equally likely deviations."""
    d = 3
    mean = np.eye(d) + rng.normal(size=(d, d)) / 5
    deviations = rng.normal(size=(4, d, d))
    deviations -= deviations.mean(axis=0)
    deviations *= SPREAD / np.linalg.norm(deviations, 2, axis=(1, 2)).max()
    return finite_sampler(mean + deviations, rng.normal(size=(4, d)))


def products(sampler, setup, rng):
    """Compare moments of random products with their bound, for three orders and three steps."""
    constants = lyapunov_constants(sampler.a_bar)
    v = constants.norm(sampler.deviations).max()
    unit = constants.a / ((max(ORDERS) - 1) * v**2)
    lengths = np.arange(setup.factors // POINTS, setup.factors + 1, setup.factors // POINTS)
    moments, bounds = [], []
    for share in SHARES:
        norms = product_norms(sampler, share * unit, lengths, setup.products, rng)
        for p in ORDERS:
            moments.append((norms**p).mean(axis=1) ** (1 / p))
            bounds.append(
                [
                    product_moment_bound(sampler.a_bar, sampler.deviations, share * unit, n, p)
                    for n in lengths.tolist()
                ]
            )
    ratio = np.array(moments) / np.array(bounds)
    drawn = slice(SHARES.index(DRAWN_SHARE) * len(ORDERS), None)
    return {
        "lengths": lengths,
        "product_step": DRAWN_SHARE * unit,
        "moments": np.array(moments)[drawn][: len(ORDERS)],
        "bounds": np.array(bounds)[drawn][: len(ORDERS)],
        "moment_over_bound": ratio[:, -1],
        "largest_moment_over_bound": float(ratio.max()),
    }


def product_norms(sampler, step, lengths, count, rng):
    """Return spectral norms, shape (lengths, count), of products of so many factors."""
    factors = np.eye(sampler.b.shape[1]) - step * sampler.a
    product = np.tile(np.eye(len(factors[0])), (count, 1, 1))
    norms = []
    for n in range(1, int(lengths[-1]) + 1):
        product = np.einsum("nij,njk->nik", factors[sampler.indices(rng, count)], product)
        if n in lengths:
            norms.append(np.linalg.norm(product, 2, axis=(1, 2)))
    return np.array(norms)


def covariances(sampler):
    """Compare the stationary covariance over the step with that of the central limit theorem."""
    steps = lyapunov_constants(sampler.a_bar).step_max * np.geomspace(0.001, 0.1, 9)
    limit = clt_covariance(sampler.a_bar, sampler.noise_cov)
    gaps = [
        np.linalg.norm(
            stationary_covariance(sampler.a_bar, sampler.noise_cov, step, sampler.a_second_moment)
            / step
            - limit
        )
        / np.linalg.norm(limit)
        for step in steps
    ]
    return {
        "covariance_steps": steps,
        "covariance_gaps": np.array(gaps),
        "covariance_slope": np.polyfit(np.log(steps), np.log(gaps), 1)[0],
    }


def walk_sampler():
    """Return TD(0) on a reflecting random walk, rewarded at its end, with cosines as features."""
    i = np.arange(STATES)
    P = np.zeros((STATES, STATES))
    np.add.at(P, (i, np.minimum(i + 1, STATES - 1)), 0.5)
    np.add.at(P, (i, np.maximum(i - 1, 0)), 0.5)
    wave = np.arange(FEATURES)
    phi = np.cos(np.pi * (i[:, None] + 0.5) * wave / STATES) * np.where(wave > 0, math.sqrt(2), 1)
    phi /= math.sqrt(FEATURES)
    return td_sampler(P, phi, (i == STATES - 1).astype(float), DISCOUNT), phi


def coverage(setup, rng):
    """Count how often the value of a state is within the radius of its limit."""
    sampler, phi = walk_sampler()
    u, target = phi[VISITED_STATE], sampler.theta_star
    radii, within, quantiles = [], [], []
    for n in TIMES:
        radius = confidence_radius(
            u,
            n,
            sampler.a_bar,
            sampler.noise_cov,
            TD_STEP,
            start_error=float(np.linalg.norm(target)),
            deviation=sampler.deviations,
            weights=sampler.weights,
            noise_bound=sampler.noise_bound,
            delta=DELTA,
        )
        theta = linear_sa(
            sampler, np.zeros(FEATURES), TD_STEP, n, n_chains=setup.td_chains, rng=rng
        )[:, 0]
        error = np.abs((theta - target) @ u)
        radii.append(radius)
        within.append(np.mean(error <= radius))
        quantiles.append(np.quantile(error, 1 - DELTA))
    return {
        "radius": np.array(radii),
        "coverage": np.array(within),
        "error_quantile": np.array(quantiles),
        "radius_over_quantile": np.array(radii) / np.array(quantiles),
    }


def draw(results, figure):
    """Survival of the scalar iteration beside a Gaussian's; moments of products beside bounds."""
    left, right = figure.subplots(1, 2)
    grid = results["grid"]
    for number, (step, kappa) in enumerate(zip(results["steps"], results["order"], strict=True)):
        survival = results["survival"][number]
        seen = survival >= SEEN / results["chains"][number]
        colour = f"C{number}"
        name = rf"step {step:g}: $\kappa$ = {kappa:.2f}"
        left.loglog(grid[seen], survival[seen], ".", color=colour, label=name)
        anchor = int(np.flatnonzero(survival >= ANCHOR)[-1])
        line = grid[anchor:]
        left.loglog(line, survival[anchor] * (line / grid[anchor]) ** -kappa, color=colour, lw=0.9)
    left.plot([], [], "0.4", lw=0.9, label=r"slope $-\kappa$, as t grows")
    left.loglog(grid, results["gaussian_survival"], "k--", lw=1.2, label="Gaussian, same variance")
    left.set(
        xlim=(0.5, 40),
        ylim=(1e-6, 2),
        xlabel="distance t from the target (standard deviations)",
        ylabel="probability of a larger distance",
        title="scalar iteration: polynomial tails",
    )
    left.legend(loc="upper right", fontsize=8)
    lengths = results["lengths"]
    for number, p in enumerate(ORDERS):
        colour = f"C{number}"
        right.semilogy(lengths, results["bounds"][number], color=colour, ls="--", lw=1.2)
        right.semilogy(
            lengths, results["moments"][number], "osD"[number], ms=4, color=colour, label=f"p = {p}"
        )
    right.plot([], [], "0.4", ls="--", lw=1.2, label="bound, same order")
    right.set(
        xlabel="number of factors n",
        ylabel=r"moment of the norm, $(E\,\|\Gamma_{1:n}\|^p)^{1/p}$",
        title=f"products of random 3 x 3 matrices, step {results['product_step']:.2g}",
    )
    right.legend(loc="lower left", fontsize=8)
    for axes in (left, right):
        axes.title.set_fontsize(10)


def filter_file(path, setup, out, rng, report):
    """Run streaming least squares on a table; write estimates with errors and radii."""
    names, X, y = read_table(path, setup.intercept)
    sampler = lms_sampler(X, y)
    d = X.shape[1]
    constants = lyapunov_constants(sampler.a_bar)
    deviations = sampler.deviations
    v = math.sqrt(float(np.mean(constants.norm(deviations) ** 2)))
    admissible = min(constants.step_max, constants.a / v**2) if v > 0 else constants.step_max
    if setup.step_size < 0:
        raise ValueError(f"--set: step_size must be >= 0 (0 chooses one), got {setup.step_size}")
    if setup.passes <= 0:
        raise ValueError(f"--set: passes must be > 0, got {setup.passes}")
    if not 0 < setup.delta < 1:
        raise ValueError(f"--set: delta must be in (0, 1), got {setup.delta}")
    step = setup.step_size or admissible / 2
    n = max(1, round(setup.passes * len(y)))

    def progress(state):
        report(0.8 * state.iteration / n, f"iteration {state.iteration} of {n}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            theta = linear_sa(sampler, np.zeros(d), step, n, rng=rng, callback=progress)[0, -1]
        except FloatingPointError as error:
            raise ValueError(f"--input: {error} (admissible: {admissible:.3g})") from None
    summary = {
        "rows": len(y),
        "iterations": n,
        "step size": step,
        "largest step shown to contract in mean square": admissible,
        "mean-square stable": mean_square_stable(sampler.a_bar, step, sampler.a_second_moment),
    }
    columns: dict[str, Any] = {"estimate": theta, "least squares": sampler.theta_star}
    if summary["mean-square stable"]:
        covariance = stationary_covariance(
            sampler.a_bar, sampler.noise_cov, step, sampler.a_second_moment
        )
        np.savetxt(out / "covariance.csv", covariance, delimiter=",", fmt="%.17g")
        columns["standard error"] = np.sqrt(np.diag(covariance))
    if step <= constants.step_max:
        columns[f"radius {1 - setup.delta:g}"] = [
            confidence_radius(
                u,
                n,
                sampler.a_bar,
                sampler.noise_cov,
                step,
                start_error=float(np.linalg.norm(sampler.theta_star)),
                deviation=deviations,
                a_second_moment=sampler.a_second_moment,
                noise_bound=sampler.noise_bound,
                delta=setup.delta,
            )
            for u in np.eye(d)
        ]
    report(0.9, "tail order")
    if setup.tail:
        try:
            order = tail_index_mc(sampler, step, rng)
        except ValueError as error:
            summary["tail order"] = f"none: {error}"
        else:
            summary["tail order"] = order.value
            summary["tail order, standard error"] = order.standard_error
    with open(out / "estimates.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["column", *columns])
        writer.writerows(
            [name, *(repr(float(c[i])) for c in columns.values())] for i, name in enumerate(names)
        )
    return summary | {
        "largest distance from least squares": float(np.abs(theta - sampler.theta_star).max())
    }


def read_table(path, intercept):
    """Read numbers separated by commas, with a line of names or not; the last is the response."""
    if path.suffix.lower() != ".csv":
        raise ValueError(f"--input: expected a .csv file, got {path.name!r}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = next(csv.reader(file), [])
        names = [] if all(map(_is_number, first)) else [name.strip() for name in first]
        table = np.loadtxt(
            path, delimiter=",", ndmin=2, skiprows=1 if names else 0, encoding="utf-8-sig"
        )
    except ValueError as error:
        raise ValueError(f"--input: {path.name} holds no table of numbers: {error}") from None
    if table.ndim != 2 or len(table) < 2 or table.shape[1] < 2:
        raise ValueError(
            f"--input: expected at least two rows and two columns, got shape {table.shape}"
        )
    if not np.isfinite(table).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise ValueError(
            f"--input: {table[row, column]} in data row {row}, column {column} is not finite"
        )
    X, y = table[:, :-1], table[:, -1]
    names = names[:-1] if names else [f"x{i}" for i in range(X.shape[1])]
    if len(names) != X.shape[1]:
        raise ValueError(f"--input: {len(names) + 1} names for {X.shape[1] + 1} columns")
    if intercept:
        X, names = np.column_stack([np.ones(len(y)), X]), ["intercept", *names]
    if X.shape[1] > LARGEST_COLUMNS or X.shape[1] * X.size > LARGEST_ENTRIES:
        raise ValueError(
            f"--input: expected at most {LARGEST_COLUMNS} predictors and {LARGEST_ENTRIES} for "
            f"rows times predictors squared, got {len(y)} rows and {X.shape[1]} predictors"
        )
    if np.linalg.matrix_rank(X) < X.shape[1]:
        raise ValueError("--input: the predictors must be linearly independent")
    return names, X, y


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


STUDY = Study(
    paper="linear-stochastic-approximation",
    quick={
        "tail_chains": 400_000,
        "other_chains": 100_000,
        "factors": 200,
        "products": 2_000,
        "td_chains": 2_000,
    },
    full={
        "tail_chains": 400_000,
        "other_chains": 2_000_000,
        "factors": 200,
        "products": 50_000,
        "td_chains": 2_000,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the bound on moments of products holds",
            "Monte Carlo moment over bound at the last n: orders 2, 4, 8 at each of three steps",
            "moment_over_bound",
            at_most(1),
        ),
        Claim(
            "the bound on moments of products holds",
            "largest ratio over all n, orders and steps",
            "largest_moment_over_bound",
            reported(),
        ),
        Claim(
            "its order in p is tight: moments up to about 1/step are finite and no others",
            "largest finite order times step, largest over smallest, steps 0.4 to 0.05, scalar",
            "order_variation",
            at_most(1.6),
        ),
        Claim(
            "tails are polynomial",
            "Hill estimate from the 400 largest of 400000 over the exact order, step 0.4",
            "hill_over_order",
            between(0.88, 1.12),
        ),
        Claim(
            "no Gaussian or exponential bound holds",
            "probability beyond 6 standard deviations over a Gaussian's, step 0.4",
            "far_over_gaussian",
            at_least(1e3),
        ),
        Claim(
            "the covariance of the central limit theorem leads",
            "slope of its relative gap to the covariance over the step, log-log",
            "covariance_slope",
            between(0.8, 1.2),
        ),
        Claim(
            "errors are bounded with high probability at finite n",
            "share of chains within the radius for delta = 0.05, TD(0), n = 200 and 1000",
            "coverage",
            at_least(0.95),
        ),
        Claim(
            "errors are bounded with high probability at finite n",
            "radius over the 0.95 quantile seen, n = 200 and 1000",
            "radius_over_quantile",
            reported(),
        ),
    ],
    on_file=FileMethod(
        filter_file,
        expects="a .csv of numbers, a line of names optional; the last column is the response",
        options={
            "step_size": 0.0,
            "passes": 10.0,
            "delta": DELTA,
            "intercept": False,
            "tail": True,
        },
    ),
)
