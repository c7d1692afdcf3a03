"""SGD with one step from all squared gradients tunes itself: rates, bounds and its knob, measured.

A function that is not convex shows the two rates, 1/T with little noise and 1/√T with much, and
its runs are held against the bounds of high probability. Least squares shows that the scale eta
matters little where SGD diverges; a run from far away, that gradients need no bound. On every path,
whatever the noise, four inequalities are checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import data
from thalweg.descent import (
    adagrad_norm,
    affine_noise,
    function_gap_bound,
    gradient_bound,
    noiseless_bound,
)
from thalweg.studies.descent._adagrad_file import FILE_METHOD
from thalweg.studies.descent._adagrad_network import SETS, network_case
from thalweg.studies.descent._adagrad_runs import (
    BASELINES,
    baseline_runs,
    diabetes,
    noisy_runs,
    saturating,
    tumours,
)
from thalweg.study import Claim, Study, at_least, at_most, between, equals, reported

NOISES = ((0.0, 0.0), (0.0, 1.0), (0.3, 1.0), (1.0, 0.0), (1.0, 2.0))
SIGMA0, SIGMA1 = np.array(NOISES).T[:, :, None]
LOW_NOISE, HIGH_NOISE = [0, 1], 3
ETA, GAMMA, DELTA = 1.0, 1e-2, 0.05
TIMES = 25
ROUNDING = -1e-9

SCALE_NOISE = (0.3, 1.0)
SCALE_STEPS = 5000
NEAR_SCALES = (0.3, 1.0, 3.0, 10.0)
DIVERGING = (3.0, 10.0, 100.0)

FAR_START = np.full(4, 1.4e4 / 2)
"""A point 14000 from zero."""
FAR_ETA, FAR_GAMMA, FAR_STEPS, FAR_GOAL = 300.0, 1.0, 200_000, 1e-6


def run(setup, rng, report):
    """Measure rates, bounds, the effect of eta, a start far away, and the certificates."""
    rooms: dict[str, list[np.ndarray]] = {}
    results: dict[str, Any] = {}
    results |= rates(setup, rng, rooms)
    report(0.4, "least squares over the scales")
    results |= scales(setup, rng, rooms)
    report(0.7, "logistic regression")
    results |= tumour_runs(setup, rng, rooms)
    report(0.85, "from far away")
    results |= far_away(rng)
    results["certificate_rooms"] = np.array([min(map(np.min, r)) for r in rooms.values()])
    results["certificate_names"] = list(rooms)
    results["certified_runs"] = sum(r.size for r in rooms["regret"])
    results |= control(setup, rng)
    if setup.network_images and all(map(data.available, SETS)):
        report(0.9, "networks")
        results |= network_case(setup, rng)
    return results


def collect(rooms, runs):
    """Keep the room of every run in every inequality."""
    for name, room in runs.rooms.items():
        rooms.setdefault(name, []).append(room)


def rates(setup, rng, rooms):
    """Run the function that is not convex with each noise; compare with rates and bounds."""
    case, T = saturating(), setup.steps
    times = np.unique(np.append(np.geomspace(10, T, TIMES).astype(int), [T // 4, T]))
    runs = noisy_runs(
        case, SIGMA0, SIGMA1, eta=ETA, gamma=GAMMA, steps=T, replicates=setup.replicates, rng=rng,
        times=times,
    )  # fmt: skip
    collect(rooms, runs)
    means = runs.mean_squares.mean(axis=-1)
    divisions = means[np.searchsorted(times, T // 4)] / means[-1]
    F, bounds, worst = [], [], []
    for at, (sigma0, sigma1) in enumerate(NOISES):
        known = {
            "gap": case.first, "beta": case.beta, "sigma0": sigma0, "sigma1": sigma1, "eta": ETA,
            "gamma": GAMMA,
        }  # fmt: skip
        F.append(function_gap_bound(T, DELTA, **known))
        bounds.append([gradient_bound(int(t), DELTA, **known) for t in times])
        worst.append(runs.mean_squares[-1, at].max() / bounds[-1][-1])
    exact = noiseless_bound(case.first, case.beta, ETA, GAMMA)
    gap_bound = np.array(F)
    return {
        "times": times,
        "mean_squares": means.T,
        "gradient_bounds": np.array(bounds),
        "noiseless_bounds": exact / times,
        "noiseless_ratio": float(means[-1, 0] * T / exact),
        "low_noise_division": divisions[LOW_NOISE],
        "high_noise_division": float(divisions[HIGH_NOISE]),
        "divisions": divisions,
        "above_gap_bound": (runs.highest > gap_bound[:, None]).mean(axis=1),
        "gap_bound_over_measured": gap_bound / runs.highest.max(axis=1),
        "gradient_over_bound": np.array(worst),
    }


def scales(setup, rng, rooms):
    """Run least squares with each scale and rule; compare the gaps of the averages."""
    case, etas = diabetes(), np.array(setup.etas)
    runs = noisy_runs(
        case, *SCALE_NOISE, eta=etas[:, None], gamma=GAMMA, steps=SCALE_STEPS,
        replicates=setup.scale_replicates, rng=rng, times=[SCALE_STEPS],
    )  # fmt: skip
    collect(rooms, runs)
    gaps = runs.average_gap.mean(axis=1)
    near = gaps[np.isin(etas, NEAR_SCALES)]
    results: dict[str, Any] = {
        "etas": etas,
        "scale_first": case.first,
        "gaps_AdaGrad-Norm": gaps,
        "scale_ratio": float(near.max() / near.min()),
        "diverged": int(np.sum(has_diverged(runs.last_gap, case))),
        "least_squares_over_bound": float(np.max(runs.average_gap / runs.convex_bound)),
    }
    for name, rule in BASELINES.items():
        last, average = baseline_runs(
            rule, case, *SCALE_NOISE, etas=etas, steps=SCALE_STEPS,
            replicates=setup.baseline_replicates, rng=rng,
        )  # fmt: skip
        results[f"gaps_{name}"] = average.mean(axis=1)
        if name == "SGD, constant":
            share = has_diverged(last, case).mean(axis=1)
            results["sgd_diverged"] = share[np.isin(etas, DIVERGING)]
    return results


def has_diverged(last_gap, case):
    """Whether a run ended above its start or not at all."""
    return ~(last_gap <= case.first)


def tumour_runs(setup, rng, rooms):
    """Run logistic regression with each noise; compare averages with the bound of their run."""
    runs = noisy_runs(
        tumours(), SIGMA0, SIGMA1, eta=ETA, gamma=GAMMA, steps=setup.logistic_steps,
        replicates=setup.logistic_replicates, rng=rng, times=[setup.logistic_steps],
    )  # fmt: skip
    collect(rooms, runs)
    return {"logistic_over_bound": float(np.max(runs.average_gap / runs.convex_bound))}


def far_away(rng):
    """Start where gradients are huge, with exact gradients and with noise as large as they are."""
    first = float(FAR_START @ FAR_START)
    ratios, steps = [], []

    def near(state):
        if state.x @ state.x <= FAR_GOAL * first:
            raise StopIteration

    for sigma1 in (0.0, 1.0):
        found = adagrad_norm(
            affine_noise(lambda x: x, 0.0, sigma1), FAR_START, n_steps=FAR_STEPS, eta=FAR_ETA,
            gamma=FAR_GAMMA, rng=rng, callback=near, average=False,
        )  # fmt: skip
        ratios.append(float(found.x @ found.x) / first)
        steps.append(found.nit)
    return {"far_ratios": np.array(ratios), "far_steps": np.array(steps)}


def control(setup, rng):
    """Leave the current gradient out of the steps; the share of runs that a certificate refuses."""
    wrong = noisy_runs(
        saturating(), SIGMA0, SIGMA1, eta=ETA, gamma=GAMMA, steps=100,
        replicates=setup.baseline_replicates, rng=rng, times=[100], delayed=True,
    )  # fmt: skip
    room = np.min(list(wrong.rooms.values()), axis=0)
    return {"wrong_refused": float(np.mean(room < ROUNDING))}


def draw(results, figure):
    """Draw the mean squared gradient against T with its bounds, and gaps against the scale."""
    left, right = figure.subplots(1, 2)
    times = results["times"]
    for at, (sigma0, sigma1) in enumerate(NOISES):
        color = f"C{at}"
        left.loglog(
            times, results["mean_squares"][at], color, label=f"σ₀ = {sigma0:g}, σ₁ = {sigma1:g}"
        )
        left.loglog(times, results["gradient_bounds"][at], color, ls="--", lw=0.9)
    left.loglog(times, results["noiseless_bounds"], "k:", lw=1.2, label="bound without noise")
    left.plot([], [], "0.4", ls="--", lw=0.9, label="bounds, probability 95 %")
    left.set(
        title="Rates, and what is promised",
        xlabel="steps T",
        ylabel="mean of ‖∇f(w_t)‖² over t ≤ T",
    )
    low, high = left.get_ylim()
    left.set_ylim(low, high * 1e6)
    left.legend(fontsize=7, ncols=2, loc="upper center")

    etas = results["etas"]
    for at, name in enumerate(("AdaGrad-Norm", *BASELINES)):
        gaps = results[f"gaps_{name}"]
        shown = np.where(gaps <= 1e3, gaps, np.nan)
        style = {"lw": 2.2, "color": "k"} if at == 0 else {"lw": 1.2, "color": f"C{at - 1}"}
        right.loglog(etas, shown, "o-", ms=3.5, label=name, **style)
    right.axhline(results["scale_first"], color="0.5", lw=0.8, ls=":", label="at the start")
    right.set(
        title=f"Least squares, {SCALE_STEPS} steps",
        xlabel="scale of the steps η (no point: diverged)",
        ylabel="f - f* at the average of the points",
        ylim=(1e-5, 1e5),
    )
    right.legend(fontsize=7, ncols=2, loc="upper center")


STUDY = Study(
    paper="adagrad-stepsizes",
    quick={
        "steps": 2000,
        "replicates": 200,
        "etas": (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0),
        "scale_replicates": 30,
        "baseline_replicates": 3,
        "logistic_steps": 300,
        "logistic_replicates": 8,
        "network_images": 0,
        "network_epochs": 0,
        "network_etas": (1.0,),
    },
    full={
        "steps": 100_000,
        "replicates": 200,
        "etas": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        "scale_replicates": 200,
        "baseline_replicates": 40,
        "logistic_steps": 2000,
        "logistic_replicates": 40,
        "network_images": 10_000,
        "network_epochs": 3,
        "network_etas": (0.01, 0.1, 1.0, 10.0),
    },
    run=run,
    draw=draw,
    on_file=FILE_METHOD,
    claims=[
        Claim(
            "sharp rates in the low-noise regime: 1/T",
            "division of mean ‖∇f‖² from T to 4 T; σ₀ = 0, σ₁ = 0 and 1",
            "low_noise_division",
            at_least(3.5),
        ),
        Claim(
            "and in the high-noise regime: 1/√T",
            "division of mean ‖∇f‖² from T to 4 T; σ₀ = 1, σ₁ = 0",
            "high_noise_division",
            between(1.7, 2.8),
        ),
        Claim(
            "fully self-tuning: the scale hardly matters",
            "gap of the worst η of 0.3, 1, 3, 10 over the best's; least squares, mean of the runs",
            "scale_ratio",
            at_most(10),
        ),
        Claim(
            "no scale makes it diverge",
            "runs that end above their start, η from 0.01 to 100",
            "diverged",
            equals(0),
        ),
        Claim(
            "where SGD with constant steps does",
            "share of its runs that diverge; steps 3, 10, 100",
            "sgd_diverged",
            equals(1),
        ),
        Claim(
            "function values stay below F with probability 95 %",
            "share of runs with f(w_t) - f* > F at some t, each noise",
            "above_gap_bound",
            at_most(0.05),
        ),
        Claim(
            "how far F is from the runs",
            "F over the largest f(w_t) - f* of all runs, each noise",
            "gap_bound_over_measured",
            reported(),
        ),
        Claim(
            "a bound on gradients with high probability, affine variance included",
            "mean ‖∇f‖² over its bound, worst run of each noise",
            "gradient_over_bound",
            at_most(1),
        ),
        Claim(
            "without noise a bound that is certain",
            "sum of ‖∇f‖² over its bound",
            "noiseless_ratio",
            at_most(1),
        ),
        Claim(
            "no bound on the gradients is needed",
            "gap over the start's, from ‖x‖ = 14000 with η = 300, at most 200000 steps; exact "
            "gradients, and noise of their size",
            "far_ratios",
            at_most(FAR_GOAL),
        ),
        Claim(
            "steps it took",
            "steps until the gap is 1e-6 of the start's, the same runs",
            "far_steps",
            reported(),
        ),
        Claim(
            "inequalities that hold on every path",
            "least relative room over all runs: regret, log sum, root sum, descent",
            "certificate_rooms",
            at_least(ROUNDING),
        ),
        Claim(
            "negative control: steps without the current gradient",
            "share of such runs that a certificate refuses",
            "wrong_refused",
            equals(1),
        ),
        Claim(
            "convex problems: the average obeys the bound of its own run",
            "largest gap over bound, least squares (442 patients)",
            "least_squares_over_bound",
            at_most(1),
        ),
        Claim(
            "convex problems: the average obeys the bound of its own run",
            "largest gap over bound, logistic regression (569 tumours), each noise",
            "logistic_over_bound",
            at_most(1),
        ),
        Claim(
            "the scale matters little for networks too",
            "training loss of the worst η over the best's, digits: AdaGrad-Norm, SGD, SGD 1/√t, "
            "AdaGrad, Adam",
            "network_spread",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "and what the best scale reaches",
            "training loss at the best η, the same methods",
            "network_best",
            reported(),
            preset="full",
            data=SETS,
        ),
    ],
)
