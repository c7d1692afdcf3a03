"""Figure of the study of 1405.4980: runs (solid) and bounds (dashed), chapter by chapter."""

from __future__ import annotations

import numpy as np

LOWEST = 1e-12
"""Below it gaps are rounding."""
SMALL = 8


def draw(results, figure):
    """Three rows of three panels; every bound has the colour of its run."""
    figure.set_size_inches(10.5, 9.6)
    axes = figure.subplots(3, 3).ravel()
    panels = (
        cutting, calls, gradients, simplex, lasso, game, newton, coordinates, graphs,
    )  # fmt: skip
    for axis, panel in zip(axes, panels, strict=True):
        panel(results, axis)
        axis.tick_params(labelsize=SMALL)
        axis.title.set_fontsize(9.5)
        axis.xaxis.label.set_fontsize(9)
        axis.yaxis.label.set_fontsize(9)
    figure.suptitle("Runs (solid) and what the theorems promise (dashed)", fontsize=11)


def label(axis, title, x, y, **legend):
    """Name a panel and its axes."""
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.legend(fontsize=7.5, **({"frameon": False} | legend))


def curve(axis, values, colour, name, bound=None, start=0):
    """Draw a run from step `start` on, down to rounding, and its bound."""
    values = np.asarray(values)
    t = np.arange(len(values))
    shown = (t >= start) & (values > LOWEST)
    axis.plot(t[shown], values[shown], colour, lw=1.4, label=name)
    if bound is not None:
        kept = (t >= start) & np.isfinite(bound) & (np.asarray(bound) > LOWEST)
        axis.plot(t[kept], np.asarray(bound)[kept], f"{colour}--", lw=1)


def cutting(results, axis):
    """Gap of the best query against the number of queries."""
    curve(axis, results["cutting_g"], "C0", "centre of gravity", results["cutting_g_bound"])
    curve(axis, results["cutting_v"], "C2", "Vaidya")
    curve(axis, results["cutting_e"], "C1", "ellipsoid", results["cutting_e_bound"])
    axis.set_yscale("log")
    n = results["dimensions"][-1]
    label(axis, f"2. Cutting planes, n = {n}", "oracle calls", "best f − min f")


def calls(results, axis):
    """Queries to 1e-4 by dimension."""
    for k, (colour, name) in enumerate(
        (("C0", "centre of gravity"), ("C2", "Vaidya"), ("C1", "ellipsoid"))
    ):
        counts = np.asarray(results["oracle_calls"])[:, k]
        axis.plot(results["dimensions"], counts, f"{colour}o-", lw=1.4, ms=4, label=name)
    axis.set_yscale("log")
    axis.set_ylim(10, 2000)
    axis.set_xticks(results["dimensions"])
    label(axis, "2. Oracle calls to 1e-4", "dimension n", "oracle calls", loc="upper left")


def gradients(results, axis):
    """Gap of plain and accelerated steps."""
    axis.set_yscale("log")
    curve(
        axis, results["gradient_plain"], "C0", "gradient descent",
        results["gradient_plain_bound"], 1,
    )  # fmt: skip
    curve(
        axis, results["gradient_nesterov"], "C1", "Nesterov", results["gradient_nesterov_bound"], 1
    )
    curve(axis, results["gradient_geometric"], "C2", "geometric descent", start=1)
    axis.set_ylim(LOWEST / 3, 1e6)
    label(axis, "3. Quadratic of condition 10⁴", "steps", "f − min f", loc="upper right")


def simplex(results, axis):
    """Mirror descent and its kin."""
    at = results["horizons"]
    for colour, key, name in (
        ("C0", "mirror_descent", "mirror descent"),
        ("C1", "dual_averaging", "dual averaging"),
    ):
        axis.loglog(at, results[key], f"{colour}o-", lw=1.4, ms=4, label=f"{name}, absolute")
        axis.loglog(at, results[f"{key}_bound"], f"{colour}--", lw=1)
    curve(
        axis, results["mirror_prox"], "C2", "mirror prox, squares", results["mirror_prox_bound"], 1
    )
    low = min(np.min(results["mirror_prox"]), np.min(results["mirror_descent"]))
    axis.set_ylim(low / 30)
    label(axis, "4. Regression on the simplex", "steps", "f(average) − min f", loc="lower left")


def lasso(results, axis):
    """ISTA and FISTA."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    curve(axis, results["ista"], "C0", "ISTA", results["ista_bound"], 1)
    curve(axis, results["fista"], "C1", "FISTA", results["fista_bound"], 1)
    label(axis, "5.1 Lasso, 442 patients", "steps", "f − min f", loc="lower left")


def game(results, axis):
    """Mirror prox and mirror descent on a zero-sum game."""
    at = results["game_horizons"]
    axis.set_xscale("log")
    axis.set_yscale("log")
    curve(axis, results["game_prox"], "C0", "mirror prox", results["game_prox_bound"], 10)
    axis.plot(at, results["game_descent"], "C1o-", lw=1.4, ms=4, label="mirror descent")
    axis.plot(at, results["game_descent_bound"], "C1--", lw=1)
    label(axis, "5.2 Game of 12 × 15", "steps", "duality gap", loc="lower left")


def newton(results, axis):
    """Newton steps by the number of constraints."""
    rows, short = np.asarray(results["rows"]), np.asarray(results["newton_short"])
    axis.loglog(rows, short, "C0o-", lw=1.4, ms=4, label="short steps")
    axis.loglog(rows, short[0] * np.sqrt(rows / rows[0]), "C0--", lw=1, label="√ν")
    axis.loglog(rows, results["newton_long"], "C1o-", lw=1.4, ms=4, label="long steps")
    axis.set_xticks(rows, [str(m) for m in rows])
    axis.minorticks_off()
    label(
        axis, "5.3 Interior point", "constraints ν", "Newton steps",
        loc="center right", bbox_to_anchor=(1.0, 0.42),
    )  # fmt: skip


def coordinates(results, axis):
    """Coordinate descent by its work."""
    n = results["work_dimension"]
    axis.set_yscale("log")
    for colour, key, name, unit in (
        ("C0", "plain", "gradient descent", 1),
        ("C1", "gamma0", "coordinates, evenly", n),
        ("C2", "gamma1", "coordinates, by curvature", n),
    ):
        values = np.asarray(results[f"work_{key}"])
        work = np.arange(len(values)) / unit
        axis.plot(work[1:], values[1:], colour, lw=1.4, label=name)
        if key != "plain":
            axis.plot(work[1:], results[f"work_{key}_bound"][1:], f"{colour}--", lw=1)
    axis.set_xscale("log")
    axis.set_ylim(results["work_plain"][0] * 1e-7)
    label(
        axis, f"6.4 Skewed quadratic, n = {n}", "work in gradients", "f − min f", loc="lower left"
    )


def graphs(results, axis):
    """Mean rounded cut over the relaxation, a bar a graph."""
    names, ratios = results["graphs"], np.asarray(results["cut_ratios"])
    places = np.arange(len(names))
    axis.barh(places, ratios, color="C0", height=0.6)
    axis.axvline(0.878, color="k", ls="--", lw=1)
    axis.set_yticks(places, names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlim(0.8, 1.005)
    axis.set(
        title="6.6 MAXCUT: hyperplanes, 0.878 dashed", xlabel="mean cut / relaxation", ylabel=""
    )
