"""Runs of every bounded method of 1405.4980, each beside what its theorem promises.

A function a chapter; each returns `Run` records. Where a bound holds for a fixed number of steps
only, because the step length depends on it, the method is run anew for each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.descent import (
    Euclidean,
    LinearBarrier,
    NegativeEntropy,
    centre_of_gravity,
    conjugate_gradient,
    dual_averaging,
    ellipsoid,
    fista,
    frank_wolfe,
    geometric_descent,
    gradient_descent,
    matrix_game,
    mirror_descent,
    mirror_prox,
    nesterov,
    path_following,
    project_simplex,
    prox_l1,
    proximal_gradient,
    random_coordinate_descent,
    rate,
    saddle_mirror_descent,
    saddle_mirror_prox,
    subgradient_method,
    vaidya,
)
from thalweg.descent.stochastic import replicate
from thalweg.studies.descent._convex_problems import HALF_WIDTH, one_row, outside_box, programme

BANDS = 3.0
BROKEN = 2
"""``status`` of a run that could not go on."""
ROUNDING = 1e-13
"""Relative to the start; no bound can be seen below it."""


@dataclass(frozen=True)
class Run:
    """What a theorem bounds, measured along a run.

    Attributes
    ----------
    rate : str
        Name of the bound, as of `thalweg.descent.rate`.
    on : str
        The problem.
    t : ndarray of int, shape (k,)
        Numbers of steps.
    measured, bound : ndarray, shape (k,)
        The quantity and what the theorem promises.
    start : float
        The quantity before the first step.
    band : ndarray or 0.0
        Three standard errors of the measurement, 0 where nothing is random.
    """

    rate: str
    on: str
    t: np.ndarray
    measured: np.ndarray
    bound: np.ndarray
    start: float
    band: Any = 0.0

    @property
    def ratios(self) -> np.ndarray:
        """Measured, less band and rounding, over the bound."""
        over = self.measured - self.band - ROUNDING * max(self.start, 1.0)
        return np.divide(over, self.bound, out=np.zeros_like(over), where=over > 0)

    @property
    def tells(self) -> bool:
        """Whether a run that stays where it starts would be found out."""
        return bool(np.min(self.bound) < self.start)


def run_of(name, on, measured, t=None, start=None, band=0.0, **constants):
    """Return the run with its bound; `measured` begins at the start unless `t` is given."""
    measured = np.asarray(measured, dtype=float)
    t = np.arange(len(measured)) if t is None else np.asarray(t)
    start = float(measured[0]) if start is None else start
    return Run(name, on, t, measured, rate(name, t, **constants), start, band)


def sound(result):
    """Return the result of a run that did not break down."""
    if result.status == BROKEN:
        raise RuntimeError(f"a run ended early: {result.message}")
    return result


def along(method, problem, **options):
    """Return the result, the gaps of its history and its points, the start first."""
    points = [np.array(problem.x0)]
    result = sound(
        method(
            problem.fun, problem.x0, jac=problem.jac, record=True, callback=points.append, **options
        )
    )
    return result, result.history["fun"] - problem.minimum, np.array(points)


def cutting_runs(problem, n, maxiter=None, ftol=1e-4):
    """Chapter 2: queries of the three cutting planes. Returns results by name, and runs."""
    box, more = [(-HALF_WIDTH, HALF_WIDTH)] * n, {"ftol": ftol, "record": True}
    radius = HALF_WIDTH * math.sqrt(n)
    results = {
        "centre of gravity": centre_of_gravity(problem.fun, jac=problem.jac, bounds=box, **more),
        "Vaidya": vaidya(problem.fun, jac=problem.jac, bounds=box, **more),
        "ellipsoid": ellipsoid(
            problem.fun, np.zeros(n), jac=problem.jac, radius=radius, feasible=outside_box, **more
        ),
    }
    gaps = {name: sound(found).history["fun"] - problem.minimum for name, found in results.items()}
    on, bound = f"largest of affine functions, n = {n}", problem.more["bound"]
    runs = [
        run_of("centre_of_gravity", on, gaps["centre of gravity"], bound=bound, n=n),
        run_of(
            "ellipsoid", on, gaps["ellipsoid"], bound=bound, n=n,
            radius=radius, inner_radius=HALF_WIDTH,
        ),
    ]  # fmt: skip
    return results, gaps, runs


def gradient_runs(problem, condition, steps):
    """Chapters 2.4 and 3: smooth minimisation without constraints. Returns runs and certificates.

    The certificates are pairs (what is claimed, what is true).
    """
    on, c = f"quadratic, condition {condition:g}", {"L": 1.0, "radius": problem.radius}
    strong, more = c | {"mu": problem.mu}, {"gtol": 0.0, "maxiter": steps}
    _, gaps, points = along(gradient_descent, problem, L=1.0, **more)
    away = np.sum((points - problem.solution) ** 2, axis=1)
    runs = [
        run_of("gradient_descent-convex", on, gaps, **c),
        run_of("gradient_descent-strong", on, away, **strong),
    ]
    gaps = along(gradient_descent, problem, step=2 / (1 + problem.mu), **more)[1]
    runs.append(run_of("gradient_descent-strong-long", on, gaps, **strong))
    gaps = along(nesterov, problem, L=1.0, mu=problem.mu, **more)[1]
    runs.append(run_of("nesterov-strong", on, gaps, **strong))
    gaps = along(nesterov, problem, L=1.0, **more)[1]
    runs.append(run_of("nesterov-convex", on, gaps, **c))
    ball, gaps, _ = along(geometric_descent, problem, L=1.0, mu=problem.mu, maxiter=steps)
    radii = ball.history["radius_sq"]
    runs.append(
        run_of("geometric_descent", on, radii, L=1.0, mu=problem.mu, radius=math.sqrt(radii[0]))
    )
    centres = np.sum((ball.history["centre"] - problem.solution) ** 2, axis=1)
    H, b = problem.more["H"], problem.more["b"]
    found = sound(conjugate_gradient(H, b, problem.x0, record=True, maxiter=len(b)))
    # f + b·x* / 2 is half the squared error in the norm of H.
    height = found.history["fun"] + 0.5 * b @ problem.solution
    error = np.sqrt(2 * np.maximum(height, 0.0))
    runs.append(
        run_of("conjugate_gradient", on, error, L=1.0, mu=problem.mu, radius=float(error[0]))
    )
    return runs, [(radii, centres)], gaps


def subgradient_runs(affine, kinks, horizons):
    """Chapter 3.1 and 3.4.1: kinks."""
    n = len(affine.x0)
    away = affine.radius
    constants = {"radius": away, "lipschitz": affine.lipschitz}
    box = {"projection": lambda x: np.clip(x, -HALF_WIDTH, HALF_WIDTH)}
    on = f"largest of affine functions, n = {n}"
    ends = [
        along(subgradient_method, affine, maxiter=t, **constants, **box)[1][-1] for t in horizons
    ]
    most = horizons[-1]
    runs = [
        run_of(
            "subgradient_method-convex", on, ends, horizons, affine.gap0, **constants
        )
    ]  # fmt: skip
    constants["radius"] = 2 * HALF_WIDTH * math.sqrt(n)
    gaps = along(
        subgradient_method, affine, step="decreasing", maxiter=most, **constants, **box
    )[1]  # fmt: skip
    runs.append(run_of("subgradient_method-decreasing", on, gaps, **constants))
    width = kinks.more["half_width"]
    gaps = along(
        subgradient_method, kinks, strong_convexity=kinks.mu, maxiter=most,
        projection=lambda x: np.clip(x, -width, width),
    )[1]  # fmt: skip
    runs.append(
        run_of(
            "subgradient_method-strong", f"absolute values and a parabola, n = {len(kinks.x0)}",
            gaps, mu=kinks.mu, lipschitz=kinks.lipschitz,
        )
    )  # fmt: skip
    return runs


def simplex_runs(square, absolute, steps, horizons, replicates, rng):
    """Chapters 3.2, 3.3 and 4, and 6.1 for the noise: regression on the simplex."""
    n = len(square.x0)
    on, entropy = f"least squares on the simplex, n = {n}", NegativeEntropy()
    options = {"L": square.L, "projection": project_simplex, "gtol": 0.0, "maxiter": steps}
    gaps = along(gradient_descent, square, **options)[1]
    runs = [
        run_of(
            "gradient_descent-projected", on, gaps,
            L=square.L, radius=square.radius, gap0=square.gap0,
        )
    ]  # fmt: skip
    certificates = []
    for step in ("open-loop", "short", "exact"):
        result, gaps, _ = along(
            frank_wolfe, square, lmo=lambda g: np.eye(n)[g.argmin()], step=step, L=square.L,
            gap_tol=0.0, maxiter=steps,
        )  # fmt: skip
        certificates.append((result.history["gap"], gaps))
        runs.append(run_of("frank_wolfe", f"{on}, {step}", gaps, L=square.L, diameter=math.sqrt(2)))
    radius, L_max = math.sqrt(math.log(n)), square.more["L_max"]
    gaps = along(mirror_prox, square, mirror=entropy, L=L_max, maxiter=steps)[1]
    runs.append(run_of("mirror_prox", on, gaps, L=L_max, radius=radius))
    on = f"absolute deviations on the simplex, n = {n}"
    for method, factor in ((mirror_descent, 2.0), (dual_averaging, 0.5)):
        length = radius / absolute.lipschitz * math.sqrt(factor)
        ends = [
            along(method, absolute, mirror=entropy, step=length / math.sqrt(t), maxiter=t)[1][-1]
            for t in horizons
        ]
        runs.append(
            run_of(
                method.__name__, on, ends, horizons, absolute.gap0,
                radius=radius, lipschitz=absolute.lipschitz,
            )
        )  # fmt: skip
    noise = absolute.more["noise"]

    def noisy(generator):
        return [
            mirror_descent(
                absolute.fun, absolute.x0, jac=one_row(absolute), mirror=entropy, stochastic=True,
                step=radius / noise * math.sqrt(2 / t), maxiter=t, rng=generator,
            ).fun - absolute.minimum
            for t in horizons
        ]  # fmt: skip

    mean, band = mean_and_band(replicate(noisy, replicates, rng=rng))
    runs.append(
        run_of(
            "mirror_descent-stochastic", on + ", a row at a time", mean, horizons, absolute.gap0,
            band, radius=radius, lipschitz=noise,
        )
    )  # fmt: skip
    return runs, certificates


def noisy_smooth_run(problem, sigma, horizons, replicates, rng):
    """Chapter 6.2: noisy gradients of a smooth function."""
    n = len(problem.x0)
    radius = problem.radius / math.sqrt(2)  # D(x*, x0) = ‖x* - x0‖² / 2

    def one(generator):
        gaps = []
        for t in horizons:
            result = mirror_descent(
                problem.fun, problem.x0, mirror=Euclidean(), stochastic=True, rng=generator,
                jac=lambda x, rng: problem.jac(x) + sigma / math.sqrt(n) * rng.normal(size=n),
                step=1 / (1 + sigma * math.sqrt(t / 2) / radius), maxiter=t,
            )  # fmt: skip
            shifted = result.x + (result.x_last - problem.x0) / t
            gaps.append(problem.fun(shifted) - problem.minimum)
        return gaps

    mean, band = mean_and_band(replicate(one, replicates, rng=rng))
    return run_of(
        "mirror_descent-stochastic-smooth", f"quadratic with noise, n = {n}", mean, horizons,
        problem.gap0, band, radius=radius, sigma=sigma, L=1.0,
    )  # fmt: skip


def lasso_runs(problem, steps):
    """Chapter 5.1: ISTA and FISTA on the lasso. Returns runs and the solution."""
    lam = problem.more["lam"]
    options: dict[str, Any] = {
        "jac": problem.jac, "prox": lambda v, t: prox_l1(v, lam * t), "L": problem.L,
        "g": lambda x: lam * np.abs(x).sum(),
    }  # fmt: skip
    best = fista(problem.fun, problem.x0, gtol=1e-12, maxiter=100_000, **options)
    radius = float(np.linalg.norm(best.x - problem.x0))
    on = f"lasso, {problem.more['A'].shape[0]} patients"
    runs = []
    for method in (proximal_gradient, fista):
        found = method(problem.fun, problem.x0, record=True, gtol=0.0, maxiter=steps, **options)
        gaps = sound(found).history["fun"] - best.fun
        runs.append(run_of(method.__name__, on, gaps, L=problem.L, radius=radius))
    return runs, best.x


def duality_gaps(A, xs, ys):
    """Return what the players could still win, for each pair of strategies."""
    return np.max(xs @ A, axis=1) - np.min(ys @ A.T, axis=1)


def game_runs(A, horizons, replicates, rng):
    """Chapters 5.2 and 6.5: a zero-sum game by saddle-point methods."""
    (m, n), largest, most = A.shape, float(np.abs(A).max()), horizons[-1]
    radius = (math.sqrt(math.log(m)), math.sqrt(math.log(n)))
    entropy = NegativeEntropy()
    on, starts = f"game of {m} x {n}", (np.full(m, 1 / m), np.full(n, 1 / n))
    field = (lambda x, y: A @ y, lambda x, y: A.T @ x)
    options: dict[str, Any] = {"mirror_x": entropy, "mirror_y": entropy, "radius": radius}
    smoothness, lipschitz = (0.0, largest, largest, 0.0), (largest, largest)
    found = saddle_mirror_prox(
        *field, *starts, **options, smoothness=smoothness, maxiter=most, record=True
    )
    gaps = duality_gaps(A, found.history["x"], found.history["y"])
    start = float(gaps[0])
    runs = [run_of("saddle_mirror_prox", on, gaps, radius=radius, smoothness=smoothness)]
    ends = []
    for t in horizons:
        found = saddle_mirror_descent(*field, *starts, **options, lipschitz=lipschitz, maxiter=t)
        ends.append(duality_gaps(A, found.x[None], found.y[None])[0])
    runs.append(
        run_of(
            "saddle_mirror_descent", on, ends, horizons, start, radius=radius, lipschitz=lipschitz
        )
    )
    size = {"largest": largest, "m": m, "n": n}
    found = matrix_game(A, maxiter=most, tol=0.0, record=True)
    runs.append(run_of("matrix_game-mirror-prox", on, found.history["gap"], **size))
    ends = [matrix_game(A, method="mirror-descent", maxiter=t, tol=0.0).gap for t in horizons]
    runs.append(run_of("matrix_game-mirror-descent", on, ends, horizons, start, **size))

    def sampled(generator):
        return [
            matrix_game(A, method="stochastic", maxiter=t, tol=0.0, rng=generator).gap
            for t in horizons
        ]

    mean, band = mean_and_band(replicate(sampled, replicates, rng=rng))
    runs.append(run_of("matrix_game-stochastic", on, mean, horizons, start, band, **size))
    return runs


def path_run(n, m, tol, rng):
    """Chapter 5.3: short steps along the central path. Returns the run, result and certificate."""
    c, A, b, best = programme(n, m, rng)
    barrier = LinearBarrier(A, b)
    found = sound(
        path_following(c, barrier, np.zeros(n), mode="short", tol=tol, record=True, maxiter=10**5)
    )
    history = found.history
    # The theorem counts from the first point beside the path.
    first = int(np.argmax((history["t"] > 0) & (history["decrement"] <= 0.25)))
    gaps = history["fun"][first:] - best
    run = run_of(
        "path_following", f"linear programme, {m} rows", gaps, nu=barrier.nu,
        t0=float(history["t"][first]),
    )  # fmt: skip
    long = path_following(c, barrier, np.zeros(n), tol=tol)
    return run, found, long, (history["gap"], history["fun"] - best)


def coordinate_runs(problem, steps, replicates, rng):
    """Chapter 6.4: random coordinates, drawn evenly and in proportion to their curvature."""
    H, lengths, x0 = problem.more["H"], problem.more["L"], problem.x0
    runs = []
    for gamma in (0.0, 1.0):
        mu = coordinate_convexity(problem, gamma)

        def one(generator, gamma=gamma):
            found = random_coordinate_descent(
                problem.fun, x0, partial=lambda x, i: H[i] @ x, L=lengths, gamma=gamma,
                maxiter=steps, rng=generator, record=True,
            )  # fmt: skip
            return found.history["fun"] - problem.minimum

        mean, band = mean_and_band(replicate(one, replicates, rng=rng))
        # The level set {f <= f(x0)} reaches this far in the norm [1 - gamma].
        radius = math.sqrt(2 * problem.gap0 / mu)
        on = f"skewed quadratic, n = {len(x0)}, gamma = {gamma:g}"
        constants = {"L": lengths, "gamma": gamma}
        runs += [
            run_of(
                "random_coordinate_descent-convex", on, mean, band=band, radius=radius, **constants
            ),
            run_of(
                "random_coordinate_descent-strong", on, mean, band=band, mu=mu,
                gap0=problem.gap0, **constants,
            ),
        ]  # fmt: skip
    return runs


def coordinate_convexity(problem, gamma):
    """Return the strong convexity of a quadratic in the norm [1 - gamma]."""
    scale = problem.more["L"] ** ((1 - gamma) / 2)
    return float(np.linalg.eigvalsh(problem.more["H"] / np.outer(scale, scale))[0])


def mean_and_band(values):
    """Return the mean of replicates and three standard errors."""
    return values.mean(axis=0), BANDS * values.std(axis=0, ddof=1) / math.sqrt(len(values))
