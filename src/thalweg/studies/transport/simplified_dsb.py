"""A bridge whose loss takes one network call where the classical one takes three, and no worse.

First what is exact: proportional fitting of Gaussians against the entropic plan that it leads to,
and how the optima of both losses come together as the steps shrink. Then a pair of Gaussians in the
plane, where each variant is trained and its covariance of the ends set beside the plan's, and the
network calls of a step are counted. The full preset joins a checkerboard and a pinwheel, and a
normal cloud and a swiss roll, with all variants, from scratch and from a model that was trained for
as many updates as an epoch has: bridge matching for the first pair, a one-sided interpolant for the
second. An update is one step of Adam on one network. Where the digits are at hand, twos become
threes.

Distances are energy distances between the forward ends and fresh points, which for two samples of
one law scatter about zero; ratios are of their sums over both pairs, so that one that is nearly
zero does not decide. A model's own samples are those of its diffusion with the same noise.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch
from thalweg.studies.transport._simplified_dsb_clouds import (
    HELD_OUT,
    IMAGES,
    LABELS,
    M0,
    M1,
    S0,
    S1,
    digits,
    gaussians,
)
from thalweg.studies.transport._simplified_dsb_planes import PLANES, STARTED, VARIANTS, planes
from thalweg.studies.transport.light_sb import read_clouds
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, between, equals, reported
from thalweg.transport import (
    DiffusionSchrodingerBridge,
    TimeMLP,
    energy_distance,
    gaussian_eot,
    gaussian_ipf,
    half_bridge_target,
)

GAUSSIAN_EPSILON, DIGIT_EPSILON = 1.0, 0.5
GAMMAS = np.geomspace(0.1, 1e-3, 9)
ROUNDS = 12
LABELLED = {
    "transition": ("simplified, next point", "tab:blue"),
    "original": ("original, next point", "tab:red"),
    "terminal": ("end of the chain", "tab:green"),
    "flow": ("direction to the end", "tab:purple"),
}


def run(setup, rng, report):
    """Measure the exact Gaussians, the learned ones, the planes and the digits."""
    report(0.0, "exact Gaussians")
    results: dict[str, Any] = exact(rng)
    report(0.05, "learned Gaussians")
    results |= learned_gaussians(setup, rng)
    results |= counted_calls(rng)
    if setup.timed_steps:
        report(0.15, "time of a half")
        results |= timed_halves(setup, rng)
    if setup.plane_steps:
        results |= planes(setup, rng, partial(_portion, report, 0.2, 0.9))
    if setup.digit_steps and data.available(IMAGES) and data.available(LABELS):
        report(0.9, "digits")
        results |= translated_digits(setup, rng)
    return results


def exact(rng):
    """Errors of the exact rounds, and the gap between the optima of both losses."""
    plan, _, _ = gaussian_eot(M0, S0, M1, S1, GAUSSIAN_EPSILON)
    rounds = gaussian_ipf(S0, S1, GAUSSIAN_EPSILON, n_iter=ROUNDS)
    slope = rng.standard_normal((2, 2))
    gaps = [np.subtract(*optima(S0, slope, gamma, 2.0)) for gamma in GAMMAS]
    gaps = np.linalg.norm(gaps, axis=(1, 2))
    return {
        "ipf_errors": np.array([relative(C, plan) for C in rounds]),
        "gaps": gaps,
        "gap_slope": np.polyfit(np.log(GAMMAS), np.log(gaps), 1)[0],
    }


def optima(S, slope, gamma, epsilon):
    """Best linear steps back of both losses for ``x_next = (1 + gamma slope) x_k + noise``.

    Regressions on points whose second moments are exactly those of the pair.
    """
    d = len(S)
    A = np.eye(d) + gamma * slope
    pair = np.block([[S, S @ A.T], [A @ S, A @ S @ A.T + epsilon * gamma * np.eye(d)]])
    points = np.linalg.cholesky(pair).T
    x_k, x_next = points[:, :d], points[:, d:]
    targets = (
        half_bridge_target(x_k, x_next, lambda k, x: x @ A.T, k=0, kind=kind)
        for kind in ("simplified", "original")
    )
    return [np.linalg.lstsq(x_next, target, rcond=None)[0].T for target in targets]


def relative(found, exact):
    """Relative error in Frobenius norm."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def cross_cov(X, Y):
    """Covariance of paired rows."""
    return (X - X.mean(0)).T @ (Y - Y.mean(0)) / len(X)


def learned_gaussians(setup, rng):
    """Errors of the covariance of the ends, all variants."""
    X, Y = gaussians(setup.gaussian_points, rng)
    fresh, _ = gaussians(setup.gaussian_points, rng)
    plan, _, _ = gaussian_eot(M0, S0, M1, S1, GAUSSIAN_EPSILON)
    errors, means = [], []
    for options in VARIANTS.values():
        model = DiffusionSchrodingerBridge(
            GAUSSIAN_EPSILON,
            n_epochs=setup.gaussian_epochs,
            n_steps=setup.gaussian_steps,
            lr=setup.lr,
            rng=0,
            **options,
        ).fit(X, Y)
        ends = model.transform(fresh, rng=1)
        errors.append(relative(cross_cov(fresh, ends), plan))
        means.append(np.abs(ends.mean(0) - M1).max())
    return {"cross_errors": np.array(errors), "mean_errors": np.array(means)}


def counted_calls(rng):
    """Network calls of a training step once both directions are networks."""
    X, Y = gaussians(200, rng)
    steps, rows, calls = 10, 32, []
    for name in ("transition", "original"):
        seen: list[None] = []

        def note(module, inputs, output, seen=seen):
            if isinstance(module, TimeMLP) and len(inputs[1]) == rows:
                seen.append(None)

        def forget(state, seen=seen):
            if (state.epoch, state.direction, state.step) == (2, "backward", 1):
                seen.clear()

        handle = torch.nn.modules.module.register_module_forward_hook(note)
        try:
            DiffusionSchrodingerBridge(
                n_epochs=2,
                n_steps=steps,
                n_cache=100,
                batch_size=rows,
                callback=forget,
                rng=0,
                **VARIANTS[name],
            ).fit(X, Y)
        finally:
            handle.remove()
        calls.append(len(seen) / (2 * steps - 1))
    return {"calls_simplified": calls[0], "calls_original": calls[1]}


def timed_halves(setup, rng):
    """Seconds of the second backward half: medians of fits in turn, and their ratio."""
    X, Y = gaussians(4000, rng)
    seconds: dict[str, list[float]] = {"transition": [], "original": []}
    for _ in range(setup.timed_fits):
        for name, kept in seconds.items():
            at: dict[tuple[Any, ...], float] = {}

            def note(state, at=at):
                at[state.epoch, state.direction, state.step] = time.perf_counter()

            steps = setup.timed_steps
            DiffusionSchrodingerBridge(
                n_epochs=2, n_steps=steps, callback=note, rng=0, **VARIANTS[name]
            ).fit(X, Y)
            kept.append(at[2, "backward", steps] - at[1, "forward", steps])
    medians = {name: statistics.median(kept) for name, kept in seconds.items()}
    return {
        "seconds_simplified": medians["transition"],
        "seconds_original": medians["original"],
        "time_ratio": medians["transition"] / medians["original"],
    }


def translated_digits(setup, rng):
    """Twos to threes: distance of held-out translations over that before."""
    X, Y = digits(rng)
    model = DiffusionSchrodingerBridge(
        DIGIT_EPSILON, hidden=(128, 128), n_epochs=3, n_steps=setup.digit_steps, rng=0
    ).fit(X[HELD_OUT:], Y[HELD_OUT:])
    x, y = X[:HELD_OUT], Y[:HELD_OUT]
    before = energy_distance(x, y)
    return {"digits_ratio": energy_distance(model.transform(x, rng=1), y) / before}


def _portion(report, start, stop, share, message):
    report(start + (stop - start) * share, message)


def draw(results, figure):
    """Gap of the losses' optima, errors of rounds and variants, and distances against updates."""
    many = "updates" in results
    top, bottom = figure.subfigures(2, 1) if many else (figure, None)
    left, right = top.subplots(1, 2)
    left.loglog(GAMMAS, results["gaps"], "o-", color="tab:blue", label="measured")
    guide = results["gaps"][-1] * (GAMMAS / GAMMAS[-1]) ** 2
    left.loglog(GAMMAS, guide, "--", color="0.5", label="square of the step")
    left.set(xlabel="step size (chain has length 1)", ylabel="gap of the optimal steps")
    left.set_title("simplified and original loss, Gaussians", fontsize=10)
    left.legend(fontsize=9)
    rounds = np.arange(1, ROUNDS + 1)
    shown = np.maximum(results["ipf_errors"], 1e-16)
    right.semilogy(rounds, shown, "o-", color="0.3", label="exact rounds")
    for (_, (label, color)), error in zip(LABELLED.items(), results["cross_errors"], strict=True):
        right.axhline(error, color=color, ls="--", label=label)
    right.set(xlabel="round", ylabel="relative error of the\ncovariance of the ends")
    right.set_title("fit of two Gaussians; learned: dashed", fontsize=10)
    right.legend(fontsize=8, loc="lower left")
    if bottom is None:
        return
    titles = {"board": "checkerboard to pinwheel", "roll": "normal cloud to swiss roll"}
    for ax, pair in zip(bottom.subplots(1, 2), PLANES, strict=True):
        updates = results["updates"]
        for name, (label, color) in LABELLED.items():
            curve = np.maximum(results[f"{pair}_{name}"], 1e-4)
            ax.semilogy(updates, curve, "o-", color=color, label=label, ms=4)
            if name in STARTED:
                curve = np.maximum(results[f"{pair}_{name}_started"], 1e-4)
                # the model's own updates, those of an epoch, take the place of a half
                ax.semilogy(updates + updates[0] / 2, curve, "s:", color=color, ms=4)
        ax.axhline(results[f"{pair}_given"], color="0.4", ls="-.", lw=1)
        ax.set(xlabel="updates", ylabel="energy distance of the ends")
        ax.set_title(titles[pair], fontsize=10)
    handles = [
        *(ax.plot([], [], "o-", color=c, label=text)[0] for text, c in LABELLED.values()),
        ax.plot([], [], "s:", color="0.2", label="started from a given model")[0],
        ax.plot([], [], "-.", color="0.4", label="the given model itself")[0],
    ]
    bottom.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)


def on_file(path, setup, out, rng, report):
    """Learn the bridge between a user's clouds and carry each to the other."""
    arrays = read_clouds(path)
    source, target = arrays["source"], arrays["target"]
    unit = float(np.sqrt((source.var(0).mean() + target.var(0).mean()) / 2))
    if not unit > 0:
        raise ValueError("--input: source and target must not be single points")

    def tell(state):
        done = 2 * (state.epoch - 1) + (state.direction == "forward") + state.step / state.n_steps
        report(0.9 * done / (2 * setup.epochs), f"epoch {state.epoch}, {state.direction}")

    model = DiffusionSchrodingerBridge(
        setup.epsilon * unit**2,
        n_times=setup.times,
        parametrization=setup.parametrization,
        n_epochs=setup.epochs,
        n_steps=setup.steps,
        callback=tell,
        rng=int(rng.integers(2**31)),
    ).fit(source, target)
    report(0.9, "sampling")
    there, back = model.transform(source), model.inverse_transform(target)
    history: dict[str, Any] = {
        key: np.array([h[key] for h in model.history_])
        for key in ("epoch", "direction", "loss", "energy_distance_end")
    }
    np.savez(out / "bridge.npz", forward=there, backward=back, **history)
    return {
        "unit": unit,
        "energy_distance_forward_to_target": energy_distance(there, target),
        "energy_distance_backward_to_source": energy_distance(back, source),
        "energy_distance_source_to_target": energy_distance(source, target),
    }


CHEAPER = "cheaper: one network call a target in place of three"
STARTS = "a score or flow model as the start converges faster"
IMPROVES = "the bridge improves the model that it starts from"
STUDY = Study(
    paper="simplified-dsb",
    quick={
        "gaussian_points": 4000,
        "gaussian_epochs": 2,
        "gaussian_steps": 150,
        "lr": 1e-2,
        "timed_steps": 0,
        "timed_fits": 0,
        "plane_steps": 0,
        "epochs": 0,
        "points": 0,
        "judged": 0,
        "digit_steps": 0,
    },
    full={
        "gaussian_points": 10_000,
        "gaussian_epochs": 5,
        "gaussian_steps": 400,
        "lr": 5e-3,
        "timed_steps": 400,
        "timed_fits": 3,
        "plane_steps": 400,
        "epochs": 5,
        "points": 20_000,
        "judged": 4000,
        "digit_steps": 400,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the simplification is sound",
            "log-log slope of the gap between the optima of both losses against the step size",
            "gap_slope",
            between(1.8, 2.2),
        ),
        Claim(CHEAPER, "calls of a training step, simplified loss", "calls_simplified", equals(1)),
        Claim(CHEAPER, "calls of a training step, original loss", "calls_original", equals(3)),
        Claim(
            CHEAPER,
            "seconds of half an epoch, simplified over original, medians",
            "time_ratio",
            at_most(0.75),
            preset="full",
        ),
        Claim(
            "same result or better",
            "energy distance at the end, simplified over original, equal updates, both pairs",
            "original_ratio",
            at_most(1.2),
            preset="full",
        ),
        Claim(
            STARTS,
            "updates, the model's included, until twice the distance that scratch ends with, over "
            "those of scratch; next point, direction",
            "updates_ratio",
            at_most(1.0),
            preset="full",
        ),
        Claim(
            STARTS,
            "distance after the first epoch over that of scratch; next point, direction",
            "first_ratio",
            at_most(0.5),
            preset="full",
        ),
        Claim(
            IMPROVES,
            "distance of the model's own samples over that after the bridge; next point, direction",
            "improvement",
            at_least(1.0),
            preset="full",
        ),
        Claim(
            IMPROVES,
            "transport cost after over before; next point, direction, both pairs each",
            "cost_ratio",
            at_most(1.0),
            preset="full",
        ),
        Claim(
            "the reparametrisation helps",
            "best of end and direction over next point, distance at equal updates",
            "reparametrised_ratio",
            at_most(1.1),
            preset="full",
        ),
        Claim(
            "it solves the Schrödinger bridge",
            "relative error of the covariance of the ends, Gaussians: next point, original loss, "
            "end, direction",
            "cross_errors",
            at_most(0.2),
        ),
        Claim(
            "twos to threes in 16 principal components",
            "energy distance of held-out translations over that before",
            "digits_ratio",
            reported(),
            preset="full",
            data=(IMAGES, LABELS),
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=".npz with source (n, d) and target (m, d)",
        options={
            "epsilon": 0.5,
            "times": 20,
            "parametrization": "flow",
            "epochs": 5,
            "steps": 400,
        },
    ),
)
