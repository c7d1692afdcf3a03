"""For each thing a reader may know of a problem: the method, what it promises, what it did.

    python benchmarks/comparisons/optimisers.py

Each row runs a method of `thalweg.descent` on a small problem with known constants and sets what it
reached beside the bound that the library computes for it. Results go to optimisers.json beside this
file, of which the table of the documentation's page "Which optimiser?" is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import linprog, minimize

from thalweg import descent
from thalweg.descent.recursion import SCHEMES
from thalweg.study.environment import describe_environment

RESULTS = Path(__file__).with_suffix(".json")
DIM, CONDITION = 100, 1e3


@dataclass(frozen=True)
class Row:
    """What is known, the method, and a run: its cost, the bound for it and what was reached."""

    known: str
    method: str
    promise: str
    run: Callable[[], tuple[str, float | None, float]]
    """Returns the cost in words, the promised value and the reached one."""


@cache
def quadratic() -> tuple[Any, Any, np.ndarray, float]:
    """f = x·Hx / 2, eigenvalues from 1 / CONDITION to 1, and a start; f* = 0 at 0."""
    spectrum = np.geomspace(1 / CONDITION, 1.0, DIM)
    x0 = np.random.default_rng(0).normal(size=DIM)
    return lambda x: 0.5 * spectrum @ x**2, lambda x: spectrum * x, x0, float(np.linalg.norm(x0))


def smooth(method: Any, name: str, steps: int, **options: Any) -> tuple[str, float, float]:
    """A gradient method on the quadratic."""
    fun, jac, x0, radius = quadratic()
    constants = {"L": 1.0, "mu": 1 / CONDITION, "radius": radius, "gap0": fun(x0)}
    needed = {k: constants[k] for k in descent.known_rates()[name].constants if k in constants}
    result = minimize(
        fun, x0, jac=jac, method=method, options={"maxiter": steps, "gtol": 0.0, **options}
    )
    return f"{result.nit} gradients", float(descent.rate(name, steps, **needed)), result.fun


def conjugate() -> tuple[str, float, float]:
    fun, jac, x0, _ = quadratic()
    spectrum = jac(np.ones(DIM))
    steps = 100
    result = descent.conjugate_gradient(
        np.diag(spectrum), np.zeros(DIM), x0, tol=0.0, maxiter=steps
    )
    start = (2 * fun(x0)) ** 0.5
    promised = descent.rate("conjugate_gradient", steps, L=1.0, mu=1 / CONDITION, radius=start)
    return f"{steps} products", float(promised) ** 2 / 2, fun(result.x)


@cache
def affine_maximum(n: int = 6, pieces: int = 20) -> tuple[Any, Any, float, float]:
    """The largest of affine functions on the box [-5, 5]^n, its minimum and Lipschitz constant."""
    rng = np.random.default_rng(1)
    A, b = rng.normal(size=(pieces, n)), rng.normal(size=pieces)
    best = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.c_[A, -np.ones(pieces)],
        b_ub=-b,
        bounds=[(-5, 5)] * n + [(None, None)],
    )
    lipschitz = float(np.linalg.norm(A, axis=1).max())
    return lambda x: np.max(A @ x + b), lambda x: A[np.argmax(A @ x + b)], best.fun, lipschitz


def subgradient() -> tuple[str, float, float]:
    fun, jac, best, lipschitz = affine_maximum()
    radius, steps = 5 * 6**0.5, 2000
    result = minimize(
        fun,
        np.zeros(6),
        jac=jac,
        method=descent.subgradient_method,
        options={
            "radius": radius,
            "lipschitz": lipschitz,
            "projection": lambda x: np.clip(x, -5, 5),
            "maxiter": steps,
        },
    )
    promised = descent.rate("subgradient_method-convex", steps, radius=radius, lipschitz=lipschitz)
    return f"{steps} subgradients", float(promised), float(result.fun) - best


def cutting() -> tuple[str, float, float]:
    fun, jac, best, _ = affine_maximum()
    result = minimize(
        fun, np.zeros(6), jac=jac, method=descent.vaidya, bounds=[(-5, 5)] * 6,
        options={"ftol": 1e-6},
    )  # fmt: skip
    return f"{result.nfev} values and subgradients", 1e-6, float(result.fun) - best


def lasso() -> tuple[str, float, float]:
    """FISTA on least squares with a tenth of the largest useful l1 weight."""
    rng = np.random.default_rng(2)
    A = rng.normal(size=(80, 40))
    b = A[:, :5] @ rng.normal(size=5) + 0.1 * rng.normal(size=80)
    lam = 0.1 * np.abs(A.T @ b).max()
    L = float(np.linalg.norm(A, 2) ** 2)

    def fun(x: np.ndarray) -> float:
        return 0.5 * float(np.sum((A @ x - b) ** 2))

    def run(steps: int) -> Any:
        return descent.fista(
            fun, np.zeros(40), jac=lambda x: A.T @ (A @ x - b), L=L, gtol=0.0, maxiter=steps,
            prox=lambda v, t: descent.prox_l1(v, t * lam), g=lambda x: lam * np.abs(x).sum(),
        )  # fmt: skip

    best = run(20_000)
    promised = descent.rate("fista", 20, L=L, radius=float(np.linalg.norm(best.x)))
    return "20 gradients", float(promised), float(run(20).fun - best.fun)


def simplex() -> tuple[str, float, float]:
    """Frank-Wolfe for a mixture: least squares over the simplex, vertices only."""
    rng = np.random.default_rng(3)
    A, b = rng.normal(size=(60, 30)), rng.normal(size=60)
    L = float(np.linalg.norm(A, 2) ** 2)
    vertices = np.eye(30)

    def run(steps: int) -> Any:
        return descent.frank_wolfe(
            lambda x: 0.5 * np.sum((A @ x - b) ** 2), np.full(30, 1 / 30),
            jac=lambda x: A.T @ (A @ x - b), lmo=lambda g: vertices[np.argmin(g)],
            gap_tol=0.0, maxiter=steps,
        )  # fmt: skip

    result = run(300)
    best = run(30_000)
    lower = best.fun - float(best.gap) if "gap" in best else best.fun
    promised = descent.rate("frank_wolfe", 300, L=L, diameter=2**0.5)
    return "300 gradients and vertices", float(promised), float(result.fun - lower)


def game() -> tuple[str, float, float]:
    A = np.random.default_rng(4).uniform(-1, 1, size=(12, 15))
    steps = 1000
    result = descent.matrix_game(A, maxiter=steps, tol=0.0)
    promised = descent.rate(
        "matrix_game-mirror-prox", steps, largest=float(np.abs(A).max()), m=12, n=15
    )
    return f"{2 * steps} products with each player's matrix", float(promised), float(result.gap)


@cache
def regression() -> tuple[Any, np.ndarray, Any, float]:
    """L2-logistic regression on 569 tumours: the problem, its solution, constants, and f*."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import scale

    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    problem = descent.Logistic(X, np.where(y == 1, 1.0, -1.0), l2=1 / len(y))
    best = descent.subsampled_newton_cg(
        problem, np.zeros(30), cg_tol=1e-8, cg_iterations=60, gtol=1e-14
    )
    known = descent.constants(problem, np.zeros(30), best.x)
    return problem, best.x, known, problem.value(best.x)


def sums(kind: str) -> tuple[str, float, float]:
    """Methods of finite sums, 30 passes; the squared distance or the gap, means of ten runs."""
    problem, solution, known, least = regression()
    x0, n = np.zeros(30), problem.n
    steps = 30 * n
    reached = []
    for seed in range(10):
        if kind == "sgd":
            step = 0.5 * descent.step_limit("sgd-convex", known)
            result = descent.sgd(problem, x0, step=step, n_steps=steps, average="uniform", rng=seed)
            reached.append(problem.value(result.x) - least)
        else:
            step = 1 / (3 * known.L_max)
            result = descent.saga(problem, x0, step=step, n_steps=steps, rng=seed)
            reached.append(float(np.sum((result.x - solution) ** 2)))
    if kind == "sgd":
        promised = descent.bound("sgd-convex", steps, step=step, constants=known)
    else:
        gap, distance = problem.value(x0) - least, float(np.sum(solution**2))
        promised = descent.recursion_rate(
            "saga", steps, L=known.L_max, mu=1 / n, n=n, gap0=gap, dist0_sq=distance
        )
    return "30 passes", float(promised), float(np.mean(reached))


def dynamics(method: Any, **options: Any) -> tuple[str, float, float]:
    """Triple momentum on the quadratic: the distance falls by 1 - sqrt(mu / L) a step."""
    fun, jac, x0, radius = quadratic()
    steps = 500
    result = minimize(
        fun, x0, jac=jac, method=method, options={"maxiter": steps, "gtol": 0.0, **options}
    )
    rate = 1 - CONDITION**-0.5
    return f"{steps} gradients", CONDITION**0.5 * radius * rate**steps, float(
        np.linalg.norm(result.x)
    )  # fmt: skip


def known_minimum() -> tuple[str, float, float]:
    """Polyak's steps with momentum on the largest of affine functions, whose minimum is known."""
    fun, jac, best, lipschitz = affine_maximum()
    steps = 1000
    result = descent.polyak_momentum(
        fun, np.zeros(6), jac=jac, f_star=best, variant="mag", momentum=0.5, maxiter=steps,
        gtol=0.0, record=True,
    )  # fmt: skip
    distance = float(np.linalg.norm(result.history["x"][-1]))
    promised = descent.polyak_mag_bound(steps, lipschitz, distance, 0.5)
    return f"{steps} subgradients", float(promised), float(result.history["fun"].min()) - best


def interpolated() -> tuple[str, float, float]:
    """Accelerated steps on rows that a model fits exactly; mean gap of ten runs."""
    rng = np.random.default_rng(5)
    A = rng.normal(size=(60, 10)) * np.logspace(0, -1, 10)
    solution = rng.normal(size=10)
    problem = descent.LeastSquares(A, A @ solution)
    spectrum = np.linalg.eigvalsh(A.T @ A / 60)
    growth, steps = descent.strong_growth_constant(problem), 600
    mu, step = float(spectrum[0]), 1 / (growth * float(spectrum[-1]))
    start = np.zeros(10)
    reached = [
        descent.stochastic_nesterov(problem, start, step=step, n_steps=steps, mu=mu, rng=seed).fun
        for seed in range(10)
    ]
    promised = descent.accelerated_bound(
        steps, step=step, mu=mu, gamma0=mu, gap0=problem.value(start),
        dist0=float(np.linalg.norm(solution)),
    )  # fmt: skip
    return f"{steps} steps, a row and a full gradient each", float(promised), float(
        np.mean(reached)
    )  # fmt: skip


def unknown_constants() -> tuple[str, float, float]:
    """AdaGrad-Norm, told no constant, without noise: the sum of squared gradients."""
    fun, jac, x0, _ = quadratic()
    result = descent.adagrad_norm(
        lambda x, rng: jac(x), x0, n_steps=1000, eta=1.0, gamma=1e-2, rng=0
    )
    promised = descent.noiseless_bound(fun(x0), 1.0, 1.0, 1e-2)
    return "1000 gradients", float(promised), float(result.grad_sum) - 1e-4


def large_batches() -> tuple[str, float, float]:
    """Heavy ball with step decay: the exact risk, beside the mean of 200 simulated runs."""
    spectrum, noise, steps = np.geomspace(1 / CONDITION, 1.0, 50), 1e-4, 3000
    schedule, momentum = (
        descent.step_decay(steps, L=1.0, kappa=CONDITION),
        (1 - CONDITION**-0.5) ** 2,
    )
    bias, variance = descent.expected_risk(
        spectrum, np.ones(50), schedule, momentum=momentum, noise=noise
    )
    rng = np.random.default_rng(6)
    w = before = np.ones((200, 50))
    for eta in schedule:
        g = spectrum * w + np.sqrt(noise * spectrum) * rng.normal(size=w.shape)
        w, before = w - eta * g + momentum * (w - before), w
    return f"{steps} steps", float(bias + variance), float(0.5 * (spectrum * w**2).sum(1).mean())


def cheap_proxy() -> tuple[str, float, float]:
    """Logistic regression on all tumours, with 150 of them as the proxy."""
    problem, _, _, least = regression()
    proxy = descent.Logistic(problem.rows[:150], problem.targets[:150], l2=problem.l2)

    def hessian(which: Any) -> Callable[[np.ndarray], np.ndarray]:
        eye = np.eye(which.dim)
        return lambda w: np.stack([which.hessp(w, column) for column in eye], axis=1)

    result = descent.proxy_prox(
        lambda w, rng: problem.gradient(w), proxy.value, np.zeros(30), proxy_jac=proxy.gradient,
        delta=descent.relative_smoothness(hessian(problem), hessian(proxy), [np.zeros(30)]),
        n_steps=30, theta=0.1, record=True,
    )  # fmt: skip
    points = result.history["x"]
    delta = descent.relative_smoothness(hessian(problem), hessian(proxy), points)
    gap = problem.value(np.zeros(30)) - least
    promised = descent.proxy_prox_bound(30, gap=gap, delta=delta, theta=0.1)
    reached = np.mean([np.sum(problem.gradient(w) ** 2) for w in points[1:]])
    return "30 gradients of all rows", float(promised), float(reached)


def hessian_products() -> tuple[str, float | None, float]:
    problem, _, _, least = regression()
    result = descent.subsampled_newton_cg(
        problem, np.zeros(30), cg_tol=0.01, cg_iterations=30, n_steps=5, gtol=0.0
    )
    return f"{result.passes:.0f} passes, products included", None, float(result.fun) - least


def untuned_network() -> tuple[str, float | None, float]:
    """A perceptron on digits by SMB at its default, 15 epochs: the training loss."""
    import torch
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    rows, labels = torch.from_numpy(X / 16).float(), torch.from_numpy(y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )
    optimizer = descent.SMB(model.parameters())
    loss_of = torch.nn.functional.cross_entropy
    rng = np.random.default_rng(0)
    for _ in range(15):
        for batch in np.array_split(rng.permutation(len(rows)), len(rows) // 128):
            optimizer.step(lambda batch=batch: loss_of(model(rows[batch]), labels[batch]))
    return "15 epochs", None, float(loss_of(model(rows), labels).detach())


ROWS = [
    Row("smooth, convex; L", "gradient_descent", "gradient_descent-convex",
        lambda: smooth(descent.gradient_descent, "gradient_descent-convex", 1000, L=1.0)),
    Row("smooth, convex; L; few gradients", "nesterov", "nesterov-convex",
        lambda: smooth(descent.nesterov, "nesterov-convex", 1000, L=1.0)),
    Row("smooth, strongly convex; L, mu", "nesterov", "nesterov-strong",
        lambda: smooth(descent.nesterov, "nesterov-strong", 1000, L=1.0, mu=1 / CONDITION)),
    Row("the same; no faster rate is known", "triple_momentum",
        "sqrt(L / mu) radius (1 - sqrt(mu / L))^t, of ‖x_t - x*‖",
        lambda: dynamics(descent.triple_momentum, L=1.0, mu=1 / CONDITION)),
    Row("the least value, no constants", "polyak_momentum", "G D / ((1 - beta) sqrt(t))",
        known_minimum),
    Row("nothing but gradients", "adagrad_norm", "root of the log-sum inequality, of sum ‖∇f‖²",
        unknown_constants),
    Row("quadratic; products with its matrix", "conjugate_gradient", "conjugate_gradient",
        conjugate),
    Row("convex, not smooth; Lipschitz", "subgradient_method", "subgradient_method-convex",
        subgradient),
    Row("convex, not smooth; few variables", "vaidya", "its own certificate", cutting),
    Row("smooth plus a simple term; L", "fista", "fista", lasso),
    Row("smooth over a set with cheap vertices; L", "frank_wolfe", "frank_wolfe", simplex),
    Row("a game on two simplices", "matrix_game", "matrix_game-mirror-prox", game),
    Row("finite sum, few passes; L_max", "sgd", "sgd-convex", lambda: sums("sgd")),
    Row("finite sum, many digits; L_max", "saga", "saga", lambda: sums("saga")),
    Row("finite sum, Hessian products", "subsampled_newton_cg", "local, by the inner accuracy",
        hessian_products),
    Row("rows that the model fits exactly; L, mu, rho", "stochastic_nesterov",
        "prod (1 - alpha_k) (gap0 + gamma_0 dist0² / 2)", interpolated),
    Row("large batches, noise like the Hessian; L, mu", "stochastic_heavy_ball",
        "expected_risk, exact in expectation", large_batches),
    Row("a cheap function near the expensive one; delta", "proxy_prox",
        "proxy_prox_bound, of mean ‖∇f‖²", cheap_proxy),
    Row("a network, no learning rate tuned", "SMB", "smb_descent_bound a step", untuned_network),
]  # fmt: skip


def statements() -> dict[str, str]:
    """The formula of each bound of the library by its name."""
    known = {**SCHEMES, **descent.theorems(), **descent.known_rates()}
    return {name: rule.statement for name, rule in known.items()}


def main() -> int:
    rows = []
    for row in ROWS:
        cost, promised, reached = row.run()
        promise = statements().get(row.promise, row.promise)
        rows.append(
            {
                "known": row.known,
                "method": row.method,
                "promise": promise,
                "cost": cost,
                "promised": promised,
                "reached": reached,
            }
        )
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table = Table()
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.2g}" if isinstance(v, float) else v for v in row.values()))
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
