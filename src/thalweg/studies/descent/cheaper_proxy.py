"""A cheap proxy saves expensive gradients: as many as its difference from f is smoother than f.

Logistic regression on tumours leans on 50, 150 or 400 of the rows (public beside private data),
least squares on rows drawn from a fitted Gaussian (synthetic data), and a damped oscillator on a
coarse time step (a simulator). Each run is held against its bound, against gradient descent, and
against the minimiser of the proxy. On pairs of quadratics the mean dynamics are exact: steps by the
smoothness delta of the difference, samples under noise, and the noise floor. The full preset trains
a network on few clear digits by many blurred ones.

With two files of labelled rows: the regression of the first by the proxy of the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import data
from thalweg.studies.descent._proxy_cases import (
    STEPS,
    TUNED,
    gradients_needed,
    measured,
    simulator_pair,
    steepest,
    synthetic_pair,
    tumour_pairs,
    tuned_steps_needed,
)
from thalweg.studies.descent._proxy_files import FILE_METHOD
from thalweg.studies.descent._proxy_network import SETS, network_case
from thalweg.studies.descent._proxy_quadratics import quadratic_cases
from thalweg.study import Claim, Study, at_least, at_most, between, reported

LOOSE = 0.5
"""The library's default inner accuracy."""


def run(setup, rng, report):
    """Measure the pairs of data and simulators, then the quadratics, then the network."""
    results: dict[str, Any] = {}
    pairs = tumour_pairs(setup.public_rows, rng)
    results |= tumours(pairs, report)
    report(0.3, "synthetic rows, coarse simulator")
    results |= others(results, rng)
    report(0.4, "quadratics")
    results |= quadratic_cases(setup, rng)
    results["bound_ratios"] = np.concatenate(
        [results["run_bound_ratios"], results["quadratic_bound_ratios"]]
    )
    if setup.network_batches and all(data.available(name) for name in SETS):
        report(0.5, "digits, clear and blurred")
        results |= network_case(setup, rng)
    return results


def tumours(pairs, report):
    """Compare each proxy with gradient descent at 1/L and tuned, and with its own minimiser."""
    L = steepest(pairs[0])
    rows, loose, curves = [], [], {}
    for at, pair in enumerate(pairs):
        report(0.3 * at / len(pairs), pair.name)
        found = measured(pair)
        level = found["slopes"][-1]
        plain, curve = gradients_needed(pair, level, 1 / L)
        tuned = plain
        for scale in TUNED:
            tuned = gradients_needed(pair, level, scale / L, most=tuned)[0]
        tuned_proxy = tuned_steps_needed(pair, level, found["delta"], STEPS)
        warm, warm_curve = gradients_needed(pair, level, 1 / L, start=pair.proxy_star)
        ratio = L / found["delta"]
        rows.append(
            (ratio, plain, plain / (STEPS * ratio), tuned, tuned_proxy, warm, found["gap_share"],
             found["proxy_gradients"], found["bound_ratio"])
        )  # fmt: skip
        curves[f"slopes_{at}"], curves[f"bounds_{at}"] = found["slopes"], found["bounds"]
        curves[f"warm_{at}"] = warm_curve
        if "descent" not in curves or len(curve) > len(curves["descent"]):
            curves["descent"] = curve
        cheap = measured(pair, theta=LOOSE)
        loose.append(
            (gradients_needed(pair, cheap["slopes"][-1], 1 / L)[0] * cheap["delta"] / (STEPS * L),
             cheap["proxy_gradients"], cheap["bound_ratio"])
        )  # fmt: skip
    columns, cheap_columns = np.array(rows).T, np.array(loose).T
    names = (
        "L_over_delta",
        "descent_gradients",
        "saving",
        "tuned_gradients",
        "tuned_proxy_gradients",
        "warm_gradients",
        "gap_shares",
        "proxy_gradients",
        "bounds_met",
    )
    return curves | dict(zip(names, columns, strict=True)) | {
        "pairs": [pair.name for pair in pairs],
        "loose_saving": cheap_columns[0],
        "loose_proxy_gradients": cheap_columns[1],
        "run_bound_ratios": np.concatenate([columns[-1], cheap_columns[2]]),
    }  # fmt: skip


def others(results, rng):
    """The pairs that are no tumours."""
    shares, bounds, savings = [], [], []
    for pair in (synthetic_pair(rng), simulator_pair()):
        found = measured(pair)
        L = steepest(pair)
        count, _ = gradients_needed(pair, found["slopes"][-1], 1 / L)
        shares.append(found["gap_share"])
        bounds.append(found["bound_ratio"])
        savings.append(count / STEPS)
    return {
        "other_gap_shares": np.array(shares),
        "other_savings": np.array(savings),
        "run_bound_ratios": np.concatenate([results["run_bound_ratios"], bounds]),
    }


def draw(results, figure):
    """Squared gradients against expensive gradients, with bounds; samples against noise."""
    figure.set_size_inches(10.5, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    curve = results["descent"]
    left.loglog(np.arange(len(curve)) + 1, curve, "k", lw=1.5, label="gradient descent, 1/L")
    for at, name in enumerate(results["pairs"]):
        ratio = results["L_over_delta"][at]
        steps = np.arange(STEPS + 1) + 1
        left.loglog(
            steps, results[f"slopes_{at}"], f"C{at}o-", ms=3, lw=1.5,
            label=f"{name}, L/δ = {ratio:.0f}",
        )  # fmt: skip
        warm = results[f"warm_{at}"]
        left.loglog(np.arange(len(warm)) + 1, warm, f"C{at}:", lw=1.5)
        left.loglog(steps[1:], results[f"bounds_{at}"], f"C{at}--", lw=1)
    left.loglog([], [], "0.4", ls="--", lw=1, label="bound of the mean")
    left.loglog([], [], "0.4", ls=":", lw=1.5, label="descent from the proxy's minimum")
    left.set_xlabel("1 + gradients of the expensive loss")
    left.set_ylabel("‖∇f‖², f in nats")
    left.set_title("logistic regression on tumours, part of the rows cheap", fontsize=10)

    noises = results["noises"]
    places = np.arange(len(noises))
    for key, color, name in (
        ("samples_sgd", "k", "SGD"),
        ("samples_proxy", "C0", "steps on the proxy"),
    ):
        right.semilogy(places, results[key], color, marker="o", label=f"{name}, best step")
        for place, count in zip(places, results[key], strict=True):
            right.annotate(
                f"{count}", (place, count), textcoords="offset points",
                xytext=(0, 7 if key == "samples_sgd" else -14), ha="center", fontsize=8,
                color=color,
            )  # fmt: skip
    right.set_xticks(places, [f"{noise:g}" for noise in noises])
    right.set_ylim(1, 3 * results["samples_sgd"].max())
    right.set_xlabel("noise: mean squared norm")
    right.set_ylabel("samples until the gap is 1 % of the first")
    right.set_title("quadratics, δ = L/20, exact means", fontsize=10)
    for axes, columns in ((left, 2), (right, 1)):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize=8,
            frameon=False,
        )  # fmt: skip


STUDY = Study(
    paper="cheaper-proxy",
    quick={
        "public_rows": (50, 150, 400),
        "noises": (0.0, 0.01, 0.1, 1.0),
        "simulated": 200,
        "network_batches": 0,
        "network_seeds": 1,
        "blur": 1.0,
    },
    full={
        "public_rows": (50, 150, 400),
        "noises": (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        "simulated": 200,
        "network_batches": 30,
        "network_seeds": 2,
        "blur": 1.0,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the rate is that of a delta-smooth objective, much better where delta << L",
            "gradients of f that descent at 1/L needs for ‖∇f‖² after 30 steps on the proxy, over "
            "30 L/delta; 50, 150, 400 public rows",
            "saving",
            at_least(0.35),
        ),
        Claim(
            "the same with inner steps at the default accuracy 1/2",
            "the same figure",
            "loose_saving",
            reported(),
        ),
        Claim(
            "how much smoother the difference is than f",
            "L/delta, 50, 150, 400 public rows",
            "L_over_delta",
            reported(),
        ),
        Claim(
            "steps longer than theory allows, the best of 1 to 16 times as long",
            "gradients that tuned descent needs for the same",
            "tuned_gradients",
            reported(),
        ),
        Claim(
            "steps longer than theory allows, the best of 1 to 16 times as long",
            "gradients that tuned steps on the proxy need for the same",
            "tuned_proxy_gradients",
            reported(),
        ),
        Claim(
            "what a start at the proxy's minimum saves",
            "gradients that descent at 1/L from the proxy's minimum needs",
            "warm_gradients",
            reported(),
        ),
        Claim(
            "the derived bound with delta in place of L",
            "mean ‖∇f‖² over its bound, largest over T <= 30, each deterministic run",
            "bound_ratios",
            at_most(1),
        ),
        Claim(
            "better than the proxy alone",
            "gap after 30 steps over that of the proxy's minimiser, each proxy",
            "gap_shares",
            at_most(0.05),
        ),
        Claim(
            "also for synthetic rows and a coarse simulator",
            "the same figure",
            "other_gap_shares",
            reported(),
        ),
        Claim(
            "also for synthetic rows and a coarse simulator",
            "gradients of descent at 1/L over those of 30 steps on the proxy",
            "other_savings",
            reported(),
        ),
        Claim(
            "better sample efficiency without noise",
            "samples until the gap is 1 % of the first, over SGD's; both tuned",
            "noiseless_share",
            at_most(0.25),
        ),
        Claim(
            "with noise of norm one the statistical limit of a strongly convex quadratic holds for "
            "both methods: the limit of the claim",
            "samples over SGD's; both tuned",
            "noisy_ratio",
            between(0.9, 1.1),
        ),
        Claim(
            "the noise floor of exact steps on a quadratic",
            "200 simulated runs against stationary_risk, in standard errors",
            "risk_error",
            at_most(4),
        ),
        Claim(
            "steps grow in proportion to delta",
            "factor of the steps to 1e-3 of the gradient when delta is 0.012, 0.048, 0.19",
            "rate_factors",
            between(2.5, 5),
        ),
        Claim(
            "the inner problem is cheap",
            "proxy gradients a step by L-BFGS, median, each proxy",
            "proxy_gradients",
            at_most(30),
        ),
        Claim(
            "a network learns clear digits by blurred ones",
            "held-out loss over that of tuned SGD after as many clear batches",
            "network_ratio",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "a network learns clear digits by blurred ones",
            "held-out loss over that of training on blurred digits first, then SGD",
            "network_warm_ratio",
            reported(),
            preset="full",
            data=SETS,
        ),
    ],
    on_file=FILE_METHOD,
)
