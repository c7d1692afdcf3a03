"""Linear models on which all methods race: speeches of two plays, or a table of a user."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from sklearn.datasets import load_breast_cancer
from sklearn.feature_extraction.text import HashingVectorizer

from thalweg import data
from thalweg.descent import (
    Logistic,
    SparseLogistic,
    diagonal_scaling,
    dynamic_sampling,
    fista,
    l1_projected_gradient,
    orthant_newton,
    prox_l1,
    proximal_newton,
    saga,
    sgd,
    stochastic_quasi_newton,
    subsampled_newton_cg,
    svrg,
)

TEXT = "tinyshakespeare"
KINGS = (
    "GLOUCESTER", "KING RICHARD III", "BUCKINGHAM", "QUEEN MARGARET", "KING EDWARD IV", "WARWICK",
)  # fmt: skip
VIENNA = ("DUKE VINCENTIO", "ISABELLA", "LUCIO", "ANGELO", "ESCALUS", "POMPEY")
SHORTEST_SPEECH = 20
FEATURES = 2**12
SG_BATCH = 50
GRID_STEPS = (1.0, 4.0, 16.0)
SQN_BATCH, SQN_HESSIAN, SQN_EVERY = 300, 300, 10
SQN_STEP, SQN_DELAY = 0.5, 10.0
SG_BATCH = 10
HESSIAN_SAMPLE = 300
EXACT: dict[str, Any] = {"cg_tol": 1e-6, "cg_iterations": 200, "n_steps": 60, "gtol": 1e-13}
LAM, L2 = 0.01, 0.01


class Race:
    """A logistic problem, sparse and dense, with its minimum and the steps that suit it."""

    def __init__(self, sparse):
        self.sparse = sparse
        self.dense = Logistic(sparse.rows.toarray(), sparse.targets, l2=sparse.l2)
        self.x0 = np.zeros(sparse.dim)
        self.best = subsampled_newton_cg(sparse, self.x0, **EXACT).fun
        curvature = sparse.curvature()
        self.L = curvature["L"]
        # a step of 1 for rows of length one, as in the text case
        self.unit = 0.25 / (curvature["L_max"] - sparse.l2)

    def gap(self, x):
        """Return the gap, never below what rounding leaves."""
        return max(self.sparse.value(x) - self.best, 1e-16)

    def curve(self, history, every=1):
        """Return passes and gaps of a recorded run."""
        n_grad, points = history["n_grad"][::every], history["x"][::every]
        return np.asarray(n_grad) / self.sparse.n, np.array([self.gap(x) for x in points])

    def sg(self, step, batch, passes, rng, replace=False):
        """Run SG pass by pass; return passes and gaps."""
        problem = self.dense if batch == 1 else self.sparse
        x, gaps, rng = self.x0, [self.gap(self.x0)], np.random.default_rng(rng)
        steps = max(self.sparse.n // batch, 1)
        for _ in range(passes):
            x = sgd(problem, x, step=step, n_steps=steps, batch_size=batch, rng=rng).x
            gaps.append(self.gap(x))
        return np.arange(passes + 1) * steps * batch / self.sparse.n, np.array(gaps)

    def lbfgs(self, evaluations):
        """Run SciPy's L-BFGS; return evaluations and the gap of each."""
        gaps = []

        def fun(w):
            value = self.sparse.value(w)
            gaps.append(max(value - self.best, 1e-16))
            return value, self.sparse.gradient(w)

        minimize(
            fun, self.x0, jac=True, method="L-BFGS-B",
            options={"maxfun": evaluations, "ftol": 0.0, "gtol": 1e-13},
        )  # fmt: skip
        return np.arange(1, len(gaps) + 1), np.array(gaps)

    def newton(self, rng=None, **options):
        """Run Newton-CG; return passes and gaps."""
        result = subsampled_newton_cg(
            self.sparse, self.x0, gtol=1e-13, record=True, rng=rng, **options
        )
        return self.curve(result.history)

    def sqn(self, passes, rng):
        """Run stochastic quasi-Newton; return passes and gaps."""
        batch = min(SQN_BATCH, self.sparse.n)
        per_step = batch + min(SQN_HESSIAN, self.sparse.n) / SQN_EVERY
        result = stochastic_quasi_newton(
            self.sparse, self.x0, step=lambda k: SQN_STEP * SQN_DELAY / (SQN_DELAY + k),
            n_steps=int(passes * self.sparse.n / per_step), batch_size=batch,
            hessian_batch=SQN_HESSIAN, update_every=SQN_EVERY, rng=rng, record=True,
        )  # fmt: skip
        return self.curve(result.history, every=5)

    def all_methods(self, passes, rng):
        """Return a curve of passes and gaps for each method."""
        n = self.sparse.n
        batch = min(SG_BATCH, n)
        seeds = [int(s) for s in rng.integers(2**31, size=8)]
        curves = {
            "SG": self.sg(self.unit, 1, passes, seeds[0]),
            "minibatch SG": self.sg(4 * self.unit, batch, passes, seeds[1]),
            "gradient descent": self.curve(
                sgd(
                    self.sparse, self.x0, step=1 / self.L, n_steps=passes, batch_size=n,
                    record=True,
                ).history | {"n_grad": n * np.arange(passes + 1)}
            ),
            "L-BFGS": self.lbfgs(passes),
            "Newton-CG": self.newton(n_steps=60),
            "subsampled Newton": self.newton(
                seeds[2], n_steps=60, hessian_batch=min(HESSIAN_SAMPLE, n)
            ),
            "SQN": self.sqn(passes, seeds[3]),
            "dynamic sampling": self.dynamic(passes, seeds[4]),
            "RMSprop": self.rmsprop(passes, seeds[5]),
        }  # fmt: skip
        step = 1.0 / (3 * (0.25 / self.unit + self.sparse.l2))
        run = svrg(
            self.dense, self.x0, step=step, n_epochs=max(passes // 3, 1), inner_steps=n,
            rng=seeds[6], record=True,
        )  # fmt: skip
        curves["SVRG"] = self.curve(run.history)
        curves["SAGA"] = self.saga(step, passes, seeds[7])
        for name, (at, gaps) in curves.items():
            kept = np.asarray(at) <= passes
            curves[name] = np.asarray(at)[kept], np.asarray(gaps)[kept]
        return curves

    def dynamic(self, passes, rng):
        """Run growing batches to the number of passes."""
        n_steps, done, size = 0, 0.0, 2.0
        while done < passes * self.sparse.n:
            done += min(size, self.sparse.n)
            size *= 1.1
            n_steps += 1
        result = dynamic_sampling(
            self.sparse, self.x0, step=1 / self.L, n_steps=n_steps, max_batch=self.sparse.n, rng=rng
        )
        return self.curve(result.history, every=2)

    def rmsprop(self, passes, rng):
        """Run RMSprop on minibatches."""
        batch = min(SG_BATCH, self.sparse.n)
        steps = passes * self.sparse.n // batch
        result = diagonal_scaling(
            self.sparse, self.x0, rule="rmsprop", batch_size=batch, n_steps=steps,
            step=lambda k: 0.03 / np.sqrt(k), rng=rng, record=True,
        )  # fmt: skip
        return self.curve(result.history, every=max(steps // 30, 1))

    def saga(self, step, passes, rng):
        """Run SAGA to a few numbers of passes, the same draws each time."""
        ends = sorted({0, max(passes // 3, 1), passes})
        n, gaps = self.sparse.n, []
        for end in ends:
            steps = max(end - 1, 0) * n
            gaps.append(
                self.gap(saga(self.dense, self.x0, step=step, n_steps=steps, rng=rng).x)
                if steps else self.gap(self.x0)
            )  # fmt: skip
        return np.array(ends), np.array(gaps)


def speeches():
    """Return hashed words of speeches and who speaks: +1 the histories, -1 Vienna."""
    with data.open_text(data.fetch(TEXT, download=False)) as file:
        blocks = file.read().split("\n\n")
    kept, labels = [], []
    for block in blocks:
        name, _, words = block.strip().partition(":\n")
        words = words.strip()
        if len(words) > SHORTEST_SPEECH and name in KINGS + VIENNA:
            kept.append(words)
            labels.append(1.0 if name in KINGS else -1.0)
    return csr_array(HashingVectorizer(n_features=FEATURES).transform(kept)), np.array(labels)


def tumours():
    """Return scikit-learn's table of 569 tumours, standardised, rows of mean square length 1."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return X / np.sqrt(X.shape[1]), np.where(y == 1, 1.0, -1.0)


def text_case(setup, rng):
    """Measure the claims about the text problem."""
    rows, labels = speeches()
    race = Race(SparseLogistic(rows, labels, l2=1 / len(labels)))
    lbfgs = race.lbfgs(60)[1]
    seeds = rng.integers(2**31, size=setup.seeds)
    sg = np.mean([race.sg(1.0, 1, 10, s)[1] for s in seeds], axis=0)
    gaps = race.newton(n_steps=60, cg_tol=0.01, cg_iterations=30)[1]
    iterations = int(np.argmax(gaps <= 1e-12)) if (gaps <= 1e-12).any() else 999
    needed = []
    for seed in seeds:
        passes, falls = race.newton(seed, n_steps=60, hessian_batch=HESSIAN_SAMPLE)
        needed.append(passes[np.argmax(falls <= 1e-10)] if (falls <= 1e-10).any() else 999.0)
    grid = {
        (step, batch): np.mean([race.sg(step, batch, 40, s)[1] for s in seeds], axis=0)
        for step in GRID_STEPS
        for batch in setup.grid_batches
    }
    sqn = [race.sqn(40, s) for s in seeds]

    def over_sg(passes, batches):
        ours = np.mean([gaps[np.searchsorted(at, passes, side="right") - 1] for at, gaps in sqn])
        return float(
            ours / min(grid[step, batch][passes] for step in GRID_STEPS for batch in batches)
        )

    return {
        "documents": len(labels),
        "sg_first": float(sg[1] / lbfgs[1]),
        "batch_later": float(lbfgs[9] / sg[10]),
        "newton_iterations": iterations,
        "subsampled_passes": float(np.max(needed)),
        "sqn_ratio": over_sg(20, [SG_BATCH]),
        "sqn_ratios_any_batch": [over_sg(passes, setup.grid_batches) for passes in (20, 40)],
    }, race


def sparse_models():
    """Solve one l1 problem by all methods; return differences and gradient evaluations."""
    X, labels = tumours()
    problem = Logistic(X, labels, l2=L2)
    x0 = np.zeros(problem.dim)
    identity = np.eye(problem.dim)

    def hess(w):
        return np.stack([problem.hessp(w, e) for e in identity])

    common: dict[str, Any] = {"jac": problem.gradient, "gtol": 1e-12}
    runs = {
        "proximal Newton": proximal_newton(
            problem.value, x0, hess=hess, lam=LAM, inner_sweeps=200, **common
        ),
        "proximal Newton, L-BFGS": proximal_newton(
            problem.value, x0, lam=LAM, maxiter=1000, **common
        ),
        "orthant Newton": orthant_newton(
            problem.value, x0, hessp=problem.hessp, lam=LAM, cg_tol=0.01, **common
        ),
        "FISTA": fista(
            problem.value, x0, prox=lambda v, t: prox_l1(v, LAM * t), maxiter=20_000,
            L=problem.curvature()["L"], **common,
        ),
        "projected gradient": l1_projected_gradient(
            problem.value, x0, lam=LAM, maxiter=50_000, **common
        ),
    }  # fmt: skip
    counts = {name: run.njev for name, run in runs.items()}
    exact = runs["proximal Newton"]
    others = [runs[name].x for name in ("orthant Newton", "FISTA")]
    return {
        "l1_difference": float(max(np.abs(x - exact.x).max() for x in others)),
        "l1_ratio": counts["proximal Newton"]
        / min(count for name, count in counts.items() if name != "proximal Newton"),
        "l1_counts": np.array(list(counts.values())),
        "l1_methods": list(counts),
        "l1_nonzero": int(np.count_nonzero(exact.x)),
    }
