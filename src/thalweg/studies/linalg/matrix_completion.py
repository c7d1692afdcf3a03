"""Completion of a low-rank table with a few inexact steps a row is as good as with exact solves.

Random tables of known rank are completed from a share of their entries: how the error on the unseen
entries falls with exact regressions and with 1, 2 and 4 steps of an iterative solver; from what
share of entries on a table is found; how operations and time grow with the rank. International
football, goal differences between all pairs of teams, is the example with noise.
"""

from __future__ import annotations

import time
import warnings
from functools import partial

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy import sparse

from thalweg import data
from thalweg.linalg import MatrixCompletion
from thalweg.studies.linalg._completion_baselines import factor_descent, football, soft_impute
from thalweg.studies.linalg._completion_file import complete_file
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported

SHAPE, RANK, SHARE = (300, 200), 5, 0.2
LARGE_SHAPE, LARGE_RANK, LARGE_SHARE = (4000, 3000), 20, 0.1
ITERATIONS, JUDGED_AT = 40, 25
INNER = (1, 2, 4)
TARGET = 1e-6
ROUNDING = 1e-12  # errors below are not part of the linear descent
RANKS = (5, 10, 20, 40)
ENTRIES_A_ROW = 400  # ten times the largest rank
SIDE_OF_PHASE = 100
FOUND = 1e-3
TOLERANCES = tuple(10.0**-e for e in range(1, 9))


def run(setup, rng, report):
    """Measure recovery, robustness, operations against rank, recovery against share."""
    report(0.0, "error by iteration")
    results = descents(setup, rng)
    if setup.large:
        report(0.1, "a large table")
        results |= large_table(setup, rng)
    report(0.3, "operations against rank")
    results |= operations(setup, rng)
    report(0.4, "recovery against share")
    results |= recovery(setup, rng, lambda done: report(0.4 + 0.5 * done, "recovery"))
    if data.available("football-results"):
        report(0.9, "football")
        results |= football(setup.football_games, setup.iterative_imputer, rng)
    return results


def low_rank(shape, rank, rng):
    """Return a table with Gaussian factors."""
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


def error_curve(table, observed, rank, n_iter=ITERATIONS, **options):
    """Relative error on the unseen entries after each iteration, and the fitted model."""
    unseen = ~observed
    norm, errors = np.linalg.norm(table[unseen]), []

    def watch(state):
        completed = state.row_factors @ state.col_factors.T
        errors.append(np.linalg.norm(completed[unseen] - table[unseen]) / norm)

    model = MatrixCompletion(rank, n_iter=n_iter, tol=0.0, rng=0, callback=watch, **options)
    model.fit(sparse.csr_array((table[observed], np.nonzero(observed)), shape=table.shape))
    # at the floor of rounding the fit stops by itself
    return np.array(errors + errors[-1:] * (n_iter - len(errors))), model


def iterations_to(errors, target=TARGET):
    """Return the first iteration whose error is at most `target`, infinite if there is none."""
    below = np.flatnonzero(np.asarray(errors) <= target)
    return float(below[0] + 1) if below.size else np.inf


def linear_fit(errors):
    """Return the ratio of successive errors and R^2 of the log-linear fit, rounding left out."""
    logs = np.log(errors)
    logs = logs[: int(min(len(logs), iterations_to(errors, ROUNDING)))]
    step = np.arange(len(logs))
    slope, offset = np.polyfit(step, logs, 1)
    rest = logs - slope * step - offset
    return np.exp(slope), 1 - np.sum(rest**2) / np.sum((logs - logs.mean()) ** 2)


def descents(setup, rng):
    """Error by iteration of all solvers on several tables, and of other methods on the last."""
    entrants = [("exact", 1), *((s, i) for s in ("sketch", "cg") for i in INNER)]
    curves: dict[tuple[str, int], list[np.ndarray]] = {entrant: [] for entrant in entrants}
    for _ in range(setup.tables):
        table, observed = low_rank(SHAPE, RANK, rng), rng.random(SHAPE) < SHARE
        for (solver, inner), found in curves.items():
            options = {"solver": solver, "inner_iter": inner}
            found.append(error_curve(table, observed, RANK, **options)[0])
    at = JUDGED_AT - 1
    exact = np.array([iterations_to(e) for e in curves["exact", 1]])
    fits = np.array([linear_fit(e) for s in ("sketch", "cg") for e in curves[s, 4]])
    results = {
        "error_exact_or_four": [
            e[at] for key in (("exact", 1), ("sketch", 4), ("cg", 4)) for e in curves[key]
        ],
        "error_two": [e[at] for s in ("sketch", "cg") for e in curves[s, 2]],
        "error_one": [e[at] for s in ("sketch", "cg") for e in curves[s, 1]],
        "iteration_ratio": np.concatenate(
            [[iterations_to(e) for e in curves[s, 2]] / exact for s in ("sketch", "cg")]
        ),
        "ratio_of_errors": fits[:, 0],
        "r_squared": fits[:, 1],
        "curve_exact": curves["exact", 1][-1],
        **{f"curve_{inner}": curves["sketch", inner][-1] for inner in INNER},
    }
    norm = np.linalg.norm(table[~observed])
    others = {
        "soft_impute": soft_impute(table, observed, ITERATIONS),
        "factor_descent": factor_descent(table, observed, RANK, ITERATIONS),
    }
    for name, tables in others.items():
        errors = [np.linalg.norm((t - table)[~observed]) / norm for t in tables]
        results[f"curve_{name}"] = np.array(errors)
    return results | tolerated(table, observed, exact[-1], setup)


def tolerated(table, observed, exact, setup):
    """Look for the largest error of the row updates that leaves the rate as it is."""
    reached, kept = [], 0.0
    for tol in TOLERANCES[:: setup.every_tolerance]:
        errors, _ = error_curve(table, observed, RANK, inner_iter=30, inner_tol=tol)
        reached.append(errors[-1])
        if iterations_to(errors) <= 1.5 * exact:
            kept = max(kept, tol)
    return {
        "update_tolerance": TOLERANCES[:: setup.every_tolerance],
        "error_by_tolerance": reached,
        "largest_tolerance": kept,
        "error_over_tolerance": np.max(np.divide(reached, TOLERANCES[:: setup.every_tolerance])),
    }


def large_table(setup, rng):
    """The same errors on a larger table."""
    table = low_rank(LARGE_SHAPE, LARGE_RANK, rng)
    observed = rng.random(LARGE_SHAPE) < LARGE_SHARE
    errors = {
        inner: error_curve(table, observed, LARGE_RANK, JUDGED_AT, solver=solver, inner_iter=inner)
        for solver, inner in (("exact", 1), ("cg", 2), ("cg", 4))
    }
    return {
        "large_error_exact_or_four": [errors[1][0][-1], errors[4][0][-1]],
        "large_error_two": errors[2][0][-1],
        "large_iteration_ratio": iterations_to(errors[2][0]) / iterations_to(errors[1][0]),
    }


def operations(setup, rng):
    """Operations and seconds of an iteration against the rank, about 400 entries a row."""
    side = setup.side
    observed = rng.random((side, side)) < ENTRIES_A_ROW / side
    place, entries = np.nonzero(observed), observed.sum()
    flops: dict[str, list[float]] = {solver: [] for solver in ("exact", "sketch", "cg")}
    seconds: dict[str, list[float]] = {solver: [] for solver in flops}
    for rank in RANKS:
        table = low_rank((side, side), rank, rng)
        X = sparse.csr_array((table[place], place), shape=table.shape)
        for solver in flops:
            marks: list[float] = []
            model = MatrixCompletion(
                rank,
                solver=solver,
                n_iter=setup.timed_iterations,
                tol=0.0,
                rng=0,
                callback=partial(_mark, marks),
            ).fit(X)
            flops[solver].append(model.flops_[-1])
            seconds[solver].append(np.diff(marks).min())
    slopes = {s: np.polyfit(np.log(RANKS), np.log(flops[s]), 1)[0] for s in flops}
    cost = flops["cg"][RANKS.index(20)] / (entries * 20)
    return {
        **{f"slope_{solver}": slope for solver, slope in slopes.items()},
        **{f"seconds_{solver}": np.array(seconds[solver]) for solver in seconds},
        **{f"operations_{solver}": np.array(flops[solver]) / entries for solver in flops},
        "cost_over_verification": cost,
        "time_ratio": seconds["exact"][RANKS.index(20)] / seconds["cg"][RANKS.index(20)],
    }


def _mark(marks, state):
    marks.append(time.perf_counter())


def recovery(setup, rng, progress):
    """Share of tables of 100 x 100 that are found, exact and with two inexact steps."""
    entrants = {
        "exact": {"solver": "exact"},
        "sketch": {"solver": "sketch", "inner_iter": 2},
        "cg": {"solver": "cg", "inner_iter": 2},
    }
    shape = (SIDE_OF_PHASE, SIDE_OF_PHASE)
    found = {name: np.zeros((len(setup.ranks), len(setup.shares))) for name in entrants}
    for at, rank in enumerate(setup.ranks):
        for share_at, share in enumerate(setup.shares):
            progress((at + share_at / len(setup.shares)) / len(setup.ranks))
            for _ in range(setup.trials):
                table, observed = low_rank(shape, rank, rng), rng.random(shape) < share
                for name, options in entrants.items():
                    with warnings.catch_warnings():  # of too few entries: meant here
                        warnings.simplefilter("ignore", UserWarning)
                        error = final_error(table, observed, rank, setup.steps, options)
                    found[name][at, share_at] += (error <= FOUND) / setup.trials
    worse = [np.mean(found[name] - found["exact"]) for name in ("sketch", "cg")]
    return {f"found_{name}": share for name, share in found.items()} | {
        "found_difference": worse,
        "shares": setup.shares,
        "phase_ranks": setup.ranks,
    }


def final_error(table, observed, rank, n_iter, options):
    """Return the relative error on the unseen entries of a fit that may stop early."""
    model = MatrixCompletion(rank, n_iter=n_iter, tol=1e-4, rng=0, **options)
    completed = model.fit(np.where(observed, table, np.nan)).reconstruct()
    return np.linalg.norm((completed - table)[~observed]) / np.linalg.norm(table[~observed])


def draw(results, figure):
    """Error by iteration, time against rank, recovery against share, football."""
    with_football = "football_completion" in results
    layout = [["curves", "time"], ["curves", "football" if with_football else "found"]]
    if with_football:
        layout = [["curves", "time"], ["found", "football"]]
    panels = figure.subplot_mosaic(layout, width_ratios=(1.25, 1))
    draw_curves(results, panels["curves"])
    draw_time(results, panels["time"])
    draw_recovery(results, panels["found"])
    if with_football:
        draw_football(results, panels["football"])


def draw_curves(results, axes):
    """Error on the unseen entries, iteration by iteration."""
    curves = (
        ("curve_exact", "exact regressions", "black", "-"),
        ("curve_4", "4 inexact steps", "#0b5394", "--"),
        ("curve_2", "2 steps", "#3d9970", "-"),
        ("curve_1", "1 step", "#e69f00", "-"),
        ("curve_factor_descent", "gradient descent", "0.6", "--"),
        ("curve_soft_impute", "soft-impute", "0.6", ":"),
    )
    for key, label, colour, style in curves:
        errors = results[key]
        axes.semilogy(np.arange(1, len(errors) + 1), errors, style, color=colour, label=label)
    axes.set(xlabel="iteration", ylabel="error on unseen entries\n(relative)", ylim=(1e-20, 40))
    axes.set_title("300 x 200, rank 5, 20 % seen", fontsize=10, loc="left")
    axes.set_yticks(10.0 ** -np.arange(0, 16, 3))
    axes.legend(fontsize=8, loc="lower left", ncols=2)


def draw_time(results, axes):
    """Seconds of an iteration against the rank."""
    for key, label, colour in (
        ("exact", "exact", "black"),
        ("sketch", "sketch, 3 steps", "#0b5394"),
        ("cg", "cg, 3 steps", "#b22222"),
    ):
        slope = results[f"slope_{key}"]
        axes.loglog(
            RANKS,
            1e3 * np.asarray(results[f"seconds_{key}"]),
            "o-",
            color=colour,
            markersize=4,
            label=f"{label}: operations ~ k$^{{{slope:.2f}}}$",
        )
    axes.set(xlabel="rank k", ylabel="time per iteration [ms]")
    axes.set_xticks(RANKS, [str(k) for k in RANKS])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(low, 4 * high)
    axes.set_title("400 entries a row and column", fontsize=10, loc="left")
    axes.legend(fontsize=8, loc="upper left")


def draw_recovery(results, axes):
    """Share of tables found against the share of entries seen."""
    colours = ("#0b5394", "#3d9970", "#e69f00")
    for at, rank in enumerate(results["phase_ranks"]):
        shares, colour = results["shares"], colours[at % len(colours)]
        axes.plot(shares, results["found_exact"][at], "-", color=colour, label=f"rank {rank}")
        axes.plot(shares, results["found_sketch"][at], "o", color=colour, fillstyle="none")
        axes.plot(shares, results["found_cg"][at], "x", color=colour, markersize=4)
    axes.plot([], [], "-", color="0.4", label="exact")
    axes.plot([], [], "o", color="0.4", fillstyle="none", label="sketch, 2 steps")
    axes.plot([], [], "x", color="0.4", markersize=4, label="cg, 2 steps")
    axes.set(xlabel="share of entries seen", ylabel="share of tables found")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title("tables of 100 x 100", fontsize=10, loc="left")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.4 * (high - low))
    axes.legend(fontsize=8, loc="lower right")


def draw_football(results, axes):
    """Bars of the error on held-out pairs of teams."""
    bars = {
        "always 0": "zero",
        "nearest teams": "neighbours",
        "iterative imputer": "iterative",
        "means of teams": "means",
        f"completion, rank {results['football_rank']}": "completion",
    }
    shown = {label: results.get(f"football_{key}") for label, key in bars.items()}
    shown = {label: value for label, value in shown.items() if value is not None}
    colours = ["0.7"] * (len(shown) - 1) + ["#0b5394"]
    drawn = axes.barh(list(shown), list(shown.values()), color=colours)
    axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    axes.set(xlabel="error on unseen pairs [goals]", xlim=(0, 1.18 * max(shown.values())))
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(f"{results['football_teams']} national teams", fontsize=10, loc="left")
    axes.grid(axis="y", visible=False)


EXACT_RECOVERY = "recovers a low-rank matrix exactly from part of its entries"
ROBUST = "the convergence is robust to approximate updates"
LINEAR = "linear convergence with inexact updates"
NEARLY_LINEAR = "time |Omega| k, against |Omega| k^2 of exact alternation"
FOOTBALL = "on real data with noise: goal differences between national teams"
STUDY = Study(
    paper="matrix-completion",
    quick={
        "tables": 2,
        "every_tolerance": 3,
        "large": False,
        "side": 500,
        "timed_iterations": 2,
        "ranks": (2, 5),
        "shares": (0.1, 0.15, 0.2),
        "trials": 3,
        "steps": 50,
        "football_games": 400,
        "iterative_imputer": False,
    },
    full={
        "tables": 10,
        "every_tolerance": 1,
        "large": True,
        "side": 2000,
        "timed_iterations": 6,
        "ranks": (2, 5, 10),
        "shares": (0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4),
        "trials": 20,
        "steps": 100,
        "football_games": 200,
        "iterative_imputer": True,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            EXACT_RECOVERY,
            "relative error on unseen entries, 300 x 200, rank 5, 20 % seen, 25 iterations, exact "
            "and 4 inner steps (sketch, cg), each table",
            "error_exact_or_four",
            at_most(1e-8),
        ),
        Claim(EXACT_RECOVERY, "the same, 2 inner steps", "error_two", at_most(1e-7)),
        Claim(EXACT_RECOVERY, "the same, 1 inner step", "error_one", reported()),
        Claim(
            EXACT_RECOVERY,
            "the same, 4000 x 3000, rank 20, 10 % seen: exact, 4 inner steps (cg)",
            "large_error_exact_or_four",
            at_most(1e-8),
            preset="full",
        ),
        Claim(
            EXACT_RECOVERY,
            "that table, 2 inner steps (cg)",
            "large_error_two",
            at_most(1e-7),
            preset="full",
        ),
        Claim(
            ROBUST,
            "iterations to an error of 1e-6, 2 inner steps (sketch, cg) over exact, each table",
            "iteration_ratio",
            at_most(1.5),
        ),
        Claim(
            ROBUST,
            "largest error of the row updates, relative to the entries, with which that many "
            "iterations reach 1e-6",
            "largest_tolerance",
            reported(),
        ),
        Claim(
            ROBUST,
            "error reached over the error allowed to the updates, at most",
            "error_over_tolerance",
            reported(),
        ),
        Claim(
            LINEAR,
            "fitted ratio of the error per iteration, 4 inner steps (sketch, cg), each table",
            "ratio_of_errors",
            at_most(0.6),
        ),
        Claim(LINEAR, "R^2 of the log-linear fit", "r_squared", at_least(0.95)),
        Claim(
            NEARLY_LINEAR,
            "log-log slope in k of counted operations of an iteration, k = 5 to 40: cg",
            "slope_cg",
            at_most(1.4),
        ),
        Claim(NEARLY_LINEAR, "that slope: exact", "slope_exact", at_least(1.7)),
        Claim(NEARLY_LINEAR, "that slope: sketch", "slope_sketch", reported()),
        Claim(
            NEARLY_LINEAR,
            "seconds of an iteration at k = 20, exact over cg",
            "time_ratio",
            reported(),
            preset="full",
        ),
        Claim(
            "no more entries are needed than with exact updates",
            "recovery probability, 2 inner steps (sketch, cg) minus exact, mean over ranks and "
            "shares of entries",
            "found_difference",
            at_least(-0.05),
        ),
        Claim(
            "nearly the time to verify the answer",
            "operations of an iteration over |Omega| k at k = 20, cg with 3 inner steps",
            "cost_over_verification",
            at_most(40),
        ),
        Claim(
            FOOTBALL,
            "root mean square error on held-out pairs",
            "football_completion",
            reported(),
            unit="goals",
            data="football-results",
        ),
        Claim(
            FOOTBALL,
            "the same by the means of the teams",
            "football_means",
            reported(),
            unit="goals",
            data="football-results",
        ),
    ],
    on_file=FileMethod(
        complete_file,
        expects="a table, .csv with blanks or .npy with NaN, or (triplets=true) a .csv of row, "
        "column, value",
        options={
            "triplets": False,
            "ranks": (1, 2, 3, 4, 5),
            "folds": 5,
            "alpha": 0.0,
            "center": True,
            "solver": "sketch",
        },
    ),
)
