"""Momentum methods follow one damped equation: it tells why they accelerate, and who may cycle.

Iterates of Nesterov's method, the heavy ball and triple momentum are laid over the equation
X'' + (A + B hess f) X' + C grad f = 0; its passive form is steered onto gradient flow; its slow
manifold is measured; rates on quadratics are counted; and the heavy ball is caught in a 3-cycle.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from thalweg.descent import (
    coefficients,
    continuous_limit,
    discretise,
    find_cycle,
    inertial_ode,
    mode_rate,
    nesterov_lyapunov,
    passivity_immersion,
    slow_manifold,
    two_step,
)
from thalweg.studies.descent._acceleration_cases import (
    NAMES,
    STEPS,
    kinked,
    log_cosh,
    phase_plane,
    quadratic,
    trajectory,
)
from thalweg.study import Claim, Study, at_least, at_most, between, equals, reported

INERTIAL = ("nesterov", "heavy-ball", "triple-momentum")
COLORS = {"gradient": "C7", "nesterov": "C0", "heavy-ball": "C3", "triple-momentum": "C2"}
HORIZON = 4.0
MODAL_RATES = {"nesterov": 0.8, "triple-momentum": 0.8, "heavy-ball": 2 / 3, "gradient": 12 / 13}
"""Largest modal radius for curvatures in [1, 25]."""
CYCLE = np.array([2592.0, 792.0, -2208.0]) / 1225
TRAPPED = (3.07, 3.46)
TMM_RHO = 0.8
"""1 - 1 / sqrt(25)."""


def run(setup, rng, report):
    """Measure each part of the programme on functions with known constants."""
    results: dict[str, Any] = {}
    results |= round_trip(setup)
    results |= distance_to_equation(setup)
    report(0.1, "passivity and immersion")
    results |= immersion()
    results |= lyapunov(setup, rng)
    results |= manifold(setup)
    report(0.2, "rates")
    results |= modal_rates()
    results |= cycles(setup)
    results |= phase_plane()
    return results | iterations(setup, rng, report)


def round_trip(setup):
    """Take Nesterov's coefficients to the equation and back; how far it is from gradient flow."""
    errors, gaps = [], []
    for kappa in (25.0, *setup.kappas):
        alpha, beta, gamma, _ = coefficients("nesterov", L=0.7 * kappa, mu=0.7)
        A, B, C, h = continuous_limit(alpha, beta, gamma)
        errors.append(np.abs(np.subtract(discretise(A, B, h), (alpha, beta, gamma))).max())
        gaps.append(C / (A * B))
    return {"round_trip_error": max(errors), "immersion_gap": np.array(gaps)}


def distance_to_equation(setup):
    """Compare iterates with the equation, and with the plain one, as steps shrink."""
    case = log_cosh()
    results: dict[str, Any] = {"error_slopes": [], "plain_slopes": []}
    for method in INERTIAL:
        steps, errors, plain_errors = [], [], []
        for level in setup.levels:
            alpha, beta, gamma, _ = coefficients(method, L=4.0**level * case.L, mu=case.mu)
            A, B, C, h = continuous_limit(alpha, beta, gamma)
            count = int(HORIZON / h)
            x = trajectory(case, alpha, beta, gamma, steps=count)
            v0 = -0.5 * h * C * case.jac(case.x0)
            times = h * np.arange(count + 1)
            path = inertial_ode(case.jac, case.x0, times, A=A, B=B, C=C, v0=v0)[0]
            plain = inertial_ode(case.jac, case.x0, times, A=A, B=0, C=1)[0]
            steps.append(h)
            errors.append(np.linalg.norm(x - path, axis=1).max())
            plain_errors.append(np.linalg.norm(x - plain, axis=1).max())
        key = method.replace("-", "_")
        results[f"{key}_h"], results[f"{key}_error"] = np.array(steps), np.array(errors)
        results[f"{key}_plain_error"] = np.array(plain_errors)
        results["error_slopes"].append(slope(steps, errors))
        results["plain_slopes"].append(slope(steps, plain_errors))
    for key in ("error_slopes", "plain_slopes"):
        results[key] = np.array(results[key])
    return results


def slope(x, y):
    """Slope of a line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def immersion(kappa=0.8, gamma=1.5):
    """Follow psi along the closed loop of a function that is not quadratic."""
    case = log_cosh()
    times = np.linspace(0, HORIZON, 81)
    _, _, psi = passivity_immersion(
        case.jac, case.x0, times, kappa=kappa, gamma=gamma, hessp=case.hessp, v0=[1.0, 2.0]
    )
    expected = np.exp(-gamma * times)[:, None] * psi[0]
    error = np.linalg.norm(psi - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return {"psi_error": float(error.max())}


def lyapunov(setup, rng):
    """Count times at which the energy of Nesterov's equation does not fall as fast as promised."""
    cases = [log_cosh(), *(quadratic(kappa, setup.dim, rng) for kappa in setup.lyapunov_kappas)]
    right = [violations(case) for case in cases]
    weak = [violations(case, damping=0.02) for case in cases]
    return {"lyapunov_violations": sum(right), "lyapunov_control": min(weak)}


def violations(case, damping=2.0):
    """Count violations on a path with A = damping sqrt(mu); the promise is for 2."""
    root, s = np.sqrt(case.mu), 1 / case.L
    A, B, C = damping * root, np.sqrt(s), 1 + np.sqrt(case.mu * s)
    times = np.linspace(0, 10 / root, 1001)
    v0 = -np.sqrt(s) / 2 * C * case.jac(case.x0)
    x, v = inertial_ode(case.jac, case.x0, times, A=A, B=B, C=C, v0=v0)
    energy, change = nesterov_lyapunov(
        case.fun,
        case.jac,
        x,
        v,
        mu=case.mu,
        s=s,
        x_star=np.zeros_like(case.x0),
        hessp=case.hessp,
        A=A,
        B=B,
        C=C,
    )
    return int(np.sum(change > -root / 4 * energy))


def manifold(setup, speed=1.0, B=0.25):
    """Distances of a path from the slow manifolds of order 0 and 1 as damping grows."""
    case = log_cosh()
    times = np.concatenate([[0.0], np.linspace(1.5, 3.0, 31)])
    distances = []
    for A in setup.dampings:
        C = speed * A
        x, v = inertial_ode(case.jac, case.x0, times, A=A, B=B, C=C, hessp=case.hessp)
        orders = [
            np.array(
                [slow_manifold(case.jac, p, A=A, B=B, C=C, hessp=case.hessp, order=k) for p in x]
            )
            for k in (0, 1)
        ]
        sizes = np.linalg.norm(orders[0], axis=1)
        distances.append([float((np.linalg.norm(v - w, axis=1) / sizes)[1:].max()) for w in orders])
    eps = 1 / np.array(setup.dampings)
    first, second = np.array(distances).T
    return {
        "epsilon": eps,
        "order_0_distance": first,
        "order_1_distance": second,
        "order_0_slope": slope(eps, first),
        "order_1_slope": slope(eps, second),
    }


def modal_rates():
    """Largest modal radius over curvatures in [1, 25], less what theory says."""
    lam = np.linspace(1.0, 25.0, 2401)
    radii = [
        float(np.max(mode_rate(lam, *coefficients(method, L=25.0, mu=1.0)[:3])))
        for method in MODAL_RATES
    ]
    return {
        "modal_radii": np.array(radii),
        "modal_error": float(np.abs(np.subtract(radii, list(MODAL_RATES.values()))).max()),
    }


def cycles(setup):
    """Start four methods where the heavy ball is trapped."""
    distances, periods, arrived, rates = [], [], [], []

    def points(method, x0, steps=STEPS):
        case = kinked(x0)
        return trajectory(case, *coefficients(method, L=case.L, mu=case.mu), steps=steps)

    for x0 in np.linspace(*TRAPPED, setup.starts):
        caught, slower, faster = (
            points(method, x0) for method in ("heavy-ball", "nesterov", "triple-momentum")
        )
        distances.append(np.abs(caught[-3:] - CYCLE).min(axis=1).max())
        cycle = find_cycle(partial(points, "heavy-ball"), x0)
        periods.append(0 if cycle is None else len(cycle))
        arrived.append([abs(slower[-1, 0]), abs(faster[-1, 0])])
        rates.append(tail_rate(faster))
    curves = {
        f"{method.replace('-', '_')}_curve": points(method, np.mean(TRAPPED), steps=40)[:, 0]
        for method in NAMES
    }
    return curves | {
        "cycle_distance": float(max(distances)),
        "cycle_periods": np.array([min(periods), max(periods)]),
        "arrived": np.array(arrived).max(axis=0),
        "tmm_rate": float(max(rates)),
    }


def tail_rate(points):
    """Mean factor a step over the second half of a run, two points together."""
    sizes = np.linalg.norm(points, axis=1)
    pairs = np.hypot(sizes[1:], sizes[:-1])
    half = len(pairs) // 2
    return float((pairs[-1] / pairs[half]) ** (1 / (len(pairs) - 1 - half)))


def iterations(setup, rng, report):
    """Count steps until the distance to the minimum is 1e-8 of the start's."""
    counts = []
    for at, kappa in enumerate(setup.kappas):
        report(0.3 + 0.7 * at / len(setup.kappas), f"iterations at condition {kappa:g}")
        case = quadratic(kappa, setup.dim, rng)
        counts.append([steps_needed(case, method) for method in NAMES])
    table = np.array(counts)
    rho = 1 - 1 / np.sqrt(np.array(setup.kappas))
    expected = np.log(1e8 * np.sqrt(np.array(setup.kappas))) / -np.log(rho)
    return {
        "iterations": table,
        "iteration_ratios": (table[:, :1] / table[:, [1, 3]]).ravel(),
        "tmm_over_guarantee": table[:, 3] / expected,
    }


def steps_needed(case, method):
    """Steps to a relative distance of 1e-8."""
    goal = 1e-16 * float(case.x0 @ case.x0)

    def arrive(x):
        if x @ x <= goal:
            raise StopIteration

    alpha, beta, gamma, delta = coefficients(method, L=case.L, mu=case.mu)
    return two_step(
        case.fun,
        case.x0,
        jac=case.jac,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        delta=delta,
        gtol=0,
        maxiter=100 * int(case.L / case.mu),
        callback=arrive,
    ).nit


def draw(results, figure):
    """Draw the phase plane; the iterates' distance from the equation; the heavy ball's cycle."""
    left, middle, right = figure.subplots(1, 3)
    for method in NAMES:
        key, color = method.replace("-", "_"), COLORS[method]
        if method != "gradient":
            left.plot(*results[f"phase_{key}_path"], color=color, lw=0.8)
        left.plot(*results[f"phase_{key}"], "o", color=color, ms=3, label=NAMES[method])
    left.plot(*results["phase_manifold"], "k--", lw=1, label="M: v = -κ f′(x)")
    left.plot(*results["phase_immersion"], "C1", lw=1.6, label="steered onto M")
    left.set(
        title="log cosh 2x + x²/4",
        xlabel="position x",
        ylabel="velocity v",
        xlim=(-1.2, 3.2),
        ylim=(-5.0, 1.2),
    )
    left.legend(fontsize=7, loc="lower right")

    for method in INERTIAL:
        key, color = method.replace("-", "_"), COLORS[method]
        h = results[f"{key}_h"]
        middle.loglog(h, results[f"{key}_error"], color + "o-", ms=4, label=NAMES[method])
        middle.loglog(h, results[f"{key}_plain_error"], color + "s:", ms=3)
    middle.plot([], [], "k-", label="this equation, slope 2")
    middle.plot([], [], "k:", label="without curvature terms, slope 1")
    middle.set(
        title="Iterates and equation",
        xlabel="time of a step h = √α",
        ylabel="largest |x_k - X(kh)|",
    )
    low, high = middle.get_ylim()
    middle.set_ylim(low / 30, high)
    middle.legend(fontsize=7, loc="lower right")

    for method in NAMES:
        curve = results[f"{method.replace('-', '_')}_curve"]
        right.plot(curve, "o-", color=COLORS[method], ms=2.5, lw=1, label=NAMES[method])
    for at in CYCLE:
        right.axhline(at, color="C3", lw=0.6, ls="--")
    right.set(
        title="Curvatures 25, 1, 25",
        xlabel="step k",
        ylabel="output x",
        ylim=(-8.5, 7.5),
    )
    right.legend(fontsize=7, loc="upper right", ncols=2)


STUDY = Study(
    paper="acceleration-dynamics",
    quick={
        "kappas": (1e4,),
        "levels": (3, 4, 5, 6, 7),
        "dim": 50,
        "lyapunov_kappas": (1e2,),
        "dampings": (16.0, 32.0, 64.0, 128.0),
        "starts": 8,
    },
    full={
        "kappas": (1e4, 1e5, 1e6),
        "levels": (3, 4, 5, 6, 7, 8, 9, 10),
        "dim": 50,
        "lyapunov_kappas": (1e2, 1e4, 1e6),
        "dampings": (16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
        "starts": 100,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "a dynamical system from which Nesterov's algorithm follows",
            "largest change of α, β, γ on the way to the equation and back",
            "round_trip_error",
            at_most(1e-12),
        ),
        Claim(
            "the system explains each term of the algorithm: iterates follow it to second order",
            "slope in h of the distance from X(kh): Nesterov, heavy ball, triple momentum",
            "error_slopes",
            at_least(1.9),
        ),
        Claim(
            "the plain equation, without the terms of curvature and force, is first order only",
            "the same slopes for X″ + A X′ + ∇f = 0 from rest",
            "plain_slopes",
            between(0.8, 1.2),
        ),
        Claim(
            "passivity and immersion makes gradient flow an attractive manifold, for every f",
            "largest relative deviation of ψ from exp(-γt) ψ(0), not quadratic",
            "psi_error",
            at_most(1e-6),
        ),
        Claim(
            "acceleration means leaving that manifold, where C = A B",
            "C / (A B) of Nesterov's method, condition 25 and those of the run",
            "immersion_gap",
            reported(),
        ),
        Claim(
            "rates on quadratics",
            "largest modal radius at condition 25 less 0.8 (Nesterov, triple momentum), 2/3 "
            "(heavy ball), 12/13 (gradient)",
            "modal_error",
            at_most(1e-9),
        ),
        Claim(
            "Nesterov's method and triple momentum accelerate",
            "steps of gradient descent over theirs, to a distance of 1e-8, each condition",
            "iteration_ratios",
            at_least(20),
        ),
        Claim(
            "steps of triple momentum, in dimension 50",
            "steps over ln(√κ / 1e-8) / ln(1 / ρ), each condition",
            "tmm_over_guarantee",
            reported(),
        ),
        Claim(
            "the acceleration of triple momentum is in the same frame",
            "its factor a step where the heavy ball cycles; ρ = 0.8",
            "tmm_rate",
            at_most(TMM_RHO + 1e-6),
        ),
        Claim(
            "the heavy ball may fail to converge to the optimum",
            "distance from the 3-cycle after 400 steps, worst start in [3.07, 3.46]",
            "cycle_distance",
            at_most(1e-8),
        ),
        Claim(
            "where Nesterov's method and triple momentum converge",
            "|x| after 400 steps from the same starts, worst",
            "arrived",
            at_most(1e-6),
        ),
        Claim(
            "the energy of Nesterov's equation falls at rate √μ / 4",
            "times at which E′ > -(√μ / 4) E",
            "lyapunov_violations",
            equals(0),
        ),
        Claim(
            "negative control: with a hundredth of the damping it does not",
            "the same count, least of the functions",
            "lyapunov_control",
            at_least(1),
        ),
        Claim(
            "singular perturbation: strong damping brings a slow manifold, gradient flow",
            "slope in ε = 1/A of the distance from it",
            "order_0_slope",
            between(0.8, 1.2),
        ),
        Claim(
            "and its next order",
            "slope in ε of the distance from the manifold of order 1",
            "order_1_slope",
            between(1.7, 2.3),
        ),
    ],
)
