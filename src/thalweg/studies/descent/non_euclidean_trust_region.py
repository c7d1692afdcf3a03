"""Muon is a trust-region step in the spectral norm: it obeys the bound, and its order matters."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import data
from thalweg.descent import (
    dual_norm,
    dual_norm_constant,
    lmo,
    nonconvex_bound,
    nonconvex_parameters,
    norm_trust_region,
    star_convex_bound,
    star_convex_parameters,
)
from thalweg.descent.norms import NORMS
from thalweg.studies.descent._non_euclidean_networks import TEXT, characters, digits
from thalweg.study import Claim, Study, at_least, at_most, reported

SHAPE = (8, 6)
NOISE = np.sqrt(48.0)
"""Standard deviation of 8 x 6 unit normals, all together."""
LIPSCHITZ = 6.0
"""The nuclear norm of an 8 x 6 matrix is at most six times its spectral norm."""
RADIUS = 4.0
CURVATURES = np.array([1.0, 2.0, 4.0])
MINIMISER = np.array([0.8, -0.5, 0.3])
PETALS = 3


def run(setup, rng, report):
    """Measure every claim on small problems whose constants are known, then train networks."""
    results: dict[str, Any] = {}
    results |= best_in_ball(setup, rng)
    results |= special_cases(rng)
    report(0.05, "bounds")
    target = rng.normal(size=SHAPE)
    results |= gradient_norms(setup, target, rng)
    results |= skewed_noise(setup, target, rng)
    report(0.2, "star-convex functions with weight decay")
    results |= star_convex(setup, rng)
    report(0.3, "digits")
    results |= digits(setup, int(rng.integers(2**31)))
    if setup.text_steps and data.available(TEXT):
        results |= characters(setup, int(rng.integers(2**31)), report)
    return results


def best_in_ball(setup, rng):
    """Compare the oracle with random points of the ball, half of them close to its own."""
    m = rng.normal(size=SHAPE)
    excess, error = [], []
    for norm in NORMS:
        best = lmo(m, norm)
        value = float(np.sum(m * best))
        spread = 10.0 ** rng.uniform(-4, 1, size=setup.points)
        d = best + spread[:, None, None] * rng.normal(size=(setup.points, *SHAPE))
        d[: setup.points // 2] -= best
        d /= lengths(d, norm)[:, None, None]
        excess.append(float(np.min(np.einsum("ij,kij->k", m, d))) - value)
        error.append(abs(value + dual_norm(m, norm)))
    return {"random_excess": min(excess), "value_error": max(error)}


def lengths(d, norm):
    """Norms of a stack of matrices, by NumPy's own routines."""
    if norm == "row":
        return np.linalg.norm(d, axis=2).max(axis=1)
    if norm == "nuclear":
        return np.linalg.norm(d, "nuc", axis=(1, 2))
    if norm == "spectral":
        return np.linalg.norm(d, 2, axis=(1, 2))
    order = {"l2": 2, "linf": np.inf, "l1": 1}[norm]
    return np.linalg.norm(d.reshape(len(d), -1), order, axis=1)


def special_cases(rng, steps=200, radius=0.02, alpha=0.1):
    """Run three known methods, written out, beside ours on the same noise."""

    def orthogonal(m):
        left, _, right = np.linalg.svd(m, full_matrices=False)
        return left @ right

    def unit(m):
        return m / np.linalg.norm(m)

    known: dict[Any, Any] = {"l2": unit, "linf": np.sign, "spectral": orthogonal}
    target, seed = rng.normal(size=SHAPE), int(rng.integers(2**31))
    differences = []
    for norm, direction in known.items():
        noise, x, m = np.random.default_rng(seed), np.zeros(SHAPE), None
        for _ in range(steps):
            g = x - target + noise.normal(size=SHAPE)
            m = g if m is None else (1 - alpha) * m + alpha * g
            x = x - radius * direction(m)
        ours = minimise(target, gaussian, seed, steps, norm=norm, radius=radius, alpha=alpha)[-1]
        differences.append(float(np.max(np.abs(ours - x))))
    return {"special_case_difference": max(differences)}


def gaussian(rng):
    """Unit normal noise."""
    return rng.normal(size=SHAPE)


def minimise(target, noise, rng, steps, norm="spectral", **settings):
    """Return all points of a run on ‖X - target‖² / 2."""
    points = [np.zeros(SHAPE)]
    norm_trust_region(
        lambda x: 0.5 * float(np.sum((x - target) ** 2)),
        points[0],
        jac=lambda x, rng: x - target + noise(rng),
        norm=norm,
        rng=rng,
        stochastic=True,
        maxiter=steps,
        callback=points.append,
        **settings,
    )
    return np.array(points)


def gradient_norms(setup, target, rng):
    """Mean nuclear norm of the gradients against the number of steps, beside the bounds."""
    constants = {
        "gap": 0.5 * float(np.sum(target**2)),
        "L": LIPSCHITZ,
        "sigma": NOISE,
        "rho": dual_norm_constant("spectral", SHAPE),
    }
    rows = []
    for steps in setup.steps:
        plain = nonconvex_parameters(steps, radius=RADIUS)
        ahead = nonconvex_parameters(steps, radius=RADIUS, extrapolate=True)

        def mean(steps=steps, **settings):
            points = [
                minimise(target, gaussian, child, steps, **settings)[:-1]
                for child in rng.spawn(setup.runs)
            ]
            return float(np.mean(lengths(np.concatenate(points) - target, "nuclear")))

        rows.append(
            (
                mean(**plain),
                nonconvex_bound(steps, **constants, **plain),
                mean(**ahead, extrapolate=True),
                nonconvex_bound(steps, **constants, **ahead, hessian_lipschitz=0.0),
                mean(**ahead),
            )
        )
    plain, bound, extrapolated, extrapolated_bound, lagging = np.array(rows).T
    return {
        "steps": np.array(setup.steps),
        "gradient_norm": plain,
        "gradient_norm_bound": bound,
        "bound_ratio": plain / bound,
        "extrapolated_norm": extrapolated,
        "extrapolated_bound": extrapolated_bound,
        "extrapolated_bound_ratio": extrapolated / extrapolated_bound,
        "extrapolation_ratio": extrapolated / lagging,
    }


def skewed_noise(setup, target, rng):
    """Orthogonalise after and before averaging, where 5 % of the noise points the other way."""
    steps = 2000
    direction = np.linalg.qr(rng.normal(size=SHAPE))[0]

    def noise(rng):
        return direction * (19.0 if rng.random() < 0.05 else -1.0)

    curves = {}
    for name, order in (("muon", "after"), ("osgdm", "before")):
        runs = [
            minimise(
                target,
                noise,
                child,
                steps,
                orthogonalise=order,
                **nonconvex_parameters(steps, radius=2.0),
            )
            for child in rng.spawn(setup.skewed_runs)
        ]
        curves[name] = np.mean([lengths(x - target, "nuclear") for x in runs], axis=0)
    last = steps // 10
    return {
        "skewed_muon": float(np.mean(curves["muon"][-last:])),
        "skewed_osgdm": float(np.mean(curves["osgdm"][-last:])),
        "skewed_muon_curve": curves["muon"][::20],
        "skewed_osgdm_curve": curves["osgdm"][::20],
    }


def star_convex(setup, rng):
    """Gaps with weight decay, in D = 1, of a quadratic and of a function that is not convex."""
    theta = np.linspace(0, 2 * np.pi, 10_000)
    wave, slope = 2 + np.sin(PETALS * theta), PETALS * np.cos(PETALS * theta)
    bend = wave - PETALS**2 * np.sin(PETALS * theta) / 2
    hessians = np.array([[wave, slope / 2], [slope / 2, bend]]).transpose(2, 0, 1)
    steepest = float(np.abs(np.linalg.eigvalsh(hessians)).max())
    farthest = []
    results: dict[str, Any] = {"star_steps": np.array(setup.star_steps)}
    for name, function, norm, dim, L, rho in (
        ("quadratic", quadratic, "linf", 3, float(CURVATURES.sum()), 3**0.5),
        ("flower", flower, "row", 2, steepest, 1.0),
    ):
        start = np.zeros((setup.star_runs, dim))
        constants = {"L": L, "sigma": dim**0.5, "rho": rho, "D": 1.0}
        constants["gap"] = float(function(start)[0].mean())
        gaps, bounds = [], []
        for steps in setup.star_steps:
            settings = star_convex_parameters(steps, D=1.0)
            gap, largest = star_convex_run(function, start, norm, steps, settings, rng.spawn(1)[0])
            alpha, beta = settings["alpha"], settings["weight_decay"]
            gaps.append(gap)
            farthest.append(largest)
            bounds.append(star_convex_bound(steps, **constants, alpha=alpha, beta=beta))
        results[f"{name}_gap"], results[f"{name}_bound"] = np.array(gaps), np.array(bounds)
        results[f"{name}_bound_ratio"] = np.array(gaps) / np.array(bounds)
        results[f"{name}_slope"] = float(np.polyfit(np.log(setup.star_steps), np.log(gaps), 1)[0])
    return results | {"largest_distance": max(farthest)}


def star_convex_run(function, start, norm, steps, settings, rng):
    """Return the mean gap and the largest norm met.

    Each row is a run of its own: both norms step in every row as if it were alone.
    """
    largest = 0.0

    def measure(x):
        nonlocal largest
        sizes = np.abs(x) if norm == "linf" else np.sqrt(np.sum(x * x, axis=1))
        largest = max(largest, float(sizes.max()))

    outcome = norm_trust_region(
        lambda x: float(function(x)[0].mean()),
        start,
        jac=lambda x, rng: function(x)[1] + rng.normal(size=x.shape),
        norm=norm,
        rng=rng,
        stochastic=True,
        maxiter=steps,
        callback=measure,
        **settings,
    )
    return outcome.fun, largest


def quadratic(x):
    """Values and gradients of a three-dimensional quadratic in each row."""
    away = x - MINIMISER
    return 0.5 * np.sum(CURVATURES * away**2, axis=1), CURVATURES * away


def flower(x):
    """Values and gradients of r² (2 + sin 3 theta) / 2 in each row, around its minimiser."""
    away = x - MINIMISER[:2]
    theta = PETALS * np.arctan2(away[:, 1], away[:, 0])
    wave, slope = 2 + np.sin(theta), PETALS * np.cos(theta)
    turned = np.stack([-away[:, 1], away[:, 0]], axis=1)
    value = 0.5 * np.sum(away**2, axis=1) * wave
    return value, wave[:, None] * away + 0.5 * slope[:, None] * turned


def draw(results, figure):
    """Draw gradient norm and bound; the two orders under skewed noise; losses of networks."""
    left, middle, right = figure.subplots(1, 3)
    steps = results["steps"]
    for key, bound, color, name in (
        ("gradient_norm", "gradient_norm_bound", "C0", "Muon"),
        ("extrapolated_norm", "extrapolated_bound", "C2", "Muon, extrapolated"),
    ):
        left.loglog(steps, results[bound], color + "--", label=f"bound: {name}")
        left.loglog(steps, results[key], color + "o-", label=f"here: {name}")
    left.set(
        title="Gaussian noise, 8 x 6 quadratic",
        xlabel="steps K",
        ylabel="mean nuclear norm of the gradient",
        ylim=(1, 120),
    )
    left.set_xticks(steps, [f"{k:g}" for k in steps])
    left.set_xticks([], minor=True)
    left.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    left.set_yticks([], minor=True)
    left.legend(fontsize=8, loc="upper right")

    k = 20 * np.arange(len(results["skewed_muon_curve"]))
    osgdm, muon = results["skewed_osgdm_curve"], results["skewed_muon_curve"]
    middle.plot(k, osgdm, "C3", label="orthogonalise, then average\n(Orthogonal-SGDM)")
    middle.plot(k, muon, "C0", label="average, then orthogonalise\n(Muon)")
    middle.set(
        title="Skewed noise, same quadratic",
        xlabel="step",
        ylabel="nuclear norm of the gradient",
        ylim=(0, 1.1 * max(osgdm.max(), muon.max())),
    )
    middle.legend(fontsize=8, loc="upper right")

    if "text_curves" in results:
        curves = results["text_curves"]
        x = results["text_every"] * (1 + np.arange(curves.shape[1]))
        colors = ["C0", "C9", "C3", "C4", "C5", "C1", "C7"]
        for i in np.argsort(-curves[:, -1]):
            name = f"{results['text_methods'][i]}: {curves[i, -1]:.2f}"
            right.plot(x, curves[i], colors[i], label=name)
        right.set(
            title="Character model, best rates", xlabel="step", ylabel="validation loss, nats"
        )
    else:
        for key, color, label in (("sgd", "C1", "SGD-M"), ("muon", "C0", "Muon")):
            curve = results[f"digits_{key}_curve"]
            right.semilogy(np.arange(len(curve)), curve, color + "o-", label=label)
        right.set(title="Digits, best rates", xlabel="epoch", ylabel="training loss, nats")
        right.set_xticks(np.arange(0, len(curve), 2))
    right.legend(fontsize=8, loc="upper right")


STUDY = Study(
    paper="non-euclidean-trust-region",
    quick={
        "points": 10_000,
        "steps": (500, 2000),
        "runs": 1,
        "skewed_runs": 4,
        "star_steps": (1000, 4000),
        "star_runs": 256,
        "epochs": 10,
        "digit_seeds": 1,
        "muon_rates": (0.04,),
        "sgd_rates": (0.1, 0.2),
        "text_steps": 0,
    },
    full={
        "points": 10_000,
        "steps": (125, 500, 2000, 8000),
        "runs": 8,
        "skewed_runs": 32,
        "star_steps": (1000, 4000, 16_000, 64_000),
        "star_runs": 256,
        "epochs": 10,
        "digit_seeds": 3,
        "muon_rates": (0.01, 0.02, 0.04, 0.08, 0.16),
        "sgd_rates": (0.025, 0.05, 0.1, 0.2, 0.4),
        "text_steps": 300,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the orthogonalised gradient is the first-order trust-region step in the spectral norm",
            "<m, d> of the best of 10⁴ points of the ball, minus the oracle's; worst of six norms",
            "random_excess",
            at_least(0),
        ),
        Claim(
            "the step promises a decrease of radius times the dual norm",
            "largest |<m, lmo(m)> + dual norm of m|, six norms",
            "value_error",
            at_most(1e-10),
        ),
        Claim(
            "Muon, normalised SGD and signSGD with momentum are special cases",
            "largest difference from the methods written out, after 200 noisy steps",
            "special_case_difference",
            at_most(1e-12),
        ),
        Claim(
            "convergence for non-convex functions at the proven rate",
            "mean nuclear norm of the gradient over its bound, each K",
            "bound_ratio",
            at_most(1),
        ),
        Claim(
            "Muon averages first, so skewed noise cancels",
            "nuclear norm of the gradient, last 200 of 2000 steps",
            "skewed_muon",
            at_most(2.5),
        ),
        Claim(
            "Orthogonal-SGDM orthogonalises first and is driven uphill",
            "the same figure",
            "skewed_osgdm",
            at_least(5),
        ),
        Claim(
            "with weight decay, a rate for star-convex functions",
            "gap of a quadratic over its bound, each K",
            "quadratic_bound_ratio",
            at_most(1),
        ),
        Claim(
            "also where a star-convex function is not convex",
            "gap of r² (2 + sin 3θ) / 2 over its bound, each K",
            "flower_bound_ratio",
            at_most(1),
        ),
        Claim(
            "the gap falls like K^(-1/3) or faster",
            "slope of log gap against log K, quadratic",
            "quadratic_slope",
            at_most(-0.28),
        ),
        Claim(
            "weight decay keeps the iterates in a ball",
            "largest norm of an iterate over D",
            "largest_distance",
            at_most(1 + 1e-12),
        ),
        Claim(
            "extrapolation helps where second derivatives vary slowly",
            "mean nuclear norm with over without it, K = 500 and 2000 among others",
            "extrapolation_ratio",
            at_most(0.75),
        ),
        Claim(
            "Muon trains networks faster than SGD with momentum",
            "training loss on digits after 10 epochs, over the best rate of SGD-M",
            "digits_ratio",
            at_most(1),
        ),
        Claim(
            "Muon beats Orthogonal-SGDM on language",
            "validation loss of a character model, Muon minus Orthogonal-SGDM",
            "text_muon_over_osgdm",
            reported(),
            preset="full",
            unit="nats",
            data=TEXT,
        ),
        Claim(
            "Muon beats AdamW on language",
            "validation loss of a character model, Muon minus AdamW",
            "text_muon_over_adamw",
            reported(),
            preset="full",
            unit="nats",
            data=TEXT,
        ),
        Claim(
            "weight decay matters",
            "validation loss of a character model, Muon with decay minus without",
            "text_decay",
            reported(),
            preset="full",
            unit="nats",
            data=TEXT,
        ),
    ],
)
