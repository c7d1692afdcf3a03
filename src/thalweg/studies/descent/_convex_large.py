"""The two larger problems of the study of 1405.4980: matrix completion and digits."""

from __future__ import annotations

import math

import numpy as np
from sklearn.svm import LinearSVC

from thalweg.descent import frank_wolfe, nuclear_ball_lmo, project_ball, subgradient_method
from thalweg.studies.descent import _convex_problems as problems
from thalweg.studies.descent import _convex_runs as runs_of

SVM_WEIGHT = 1e-2


def completed(setup, rng):
    """Complete a matrix of rank 3, of which 40% is seen, over the nuclear ball."""
    problem = problems.completion((60, 80), 3, 0.4, rng)
    radius = problem.more["nuclear"]
    found, gaps, _ = runs_of.along(
        frank_wolfe, problem, lmo=lambda G: nuclear_ball_lmo(G, radius), step="exact",
        gap_tol=0.0, maxiter=setup.completion_steps,
    )  # fmt: skip
    truth = problem.solution
    run = runs_of.run_of("frank_wolfe", "matrix completion", gaps, L=1.0, diameter=2 * radius)
    error = float(np.linalg.norm(found.x - truth) / np.linalg.norm(truth))
    figures = {"completion_ratio": float(run.ratios.max()), "completion_error": error}
    return figures, run, [(found.history["gap"], gaps)]


def support_vectors(setup):
    """Train a support vector machine on two digits by subgradients, half of them held back."""
    X, y = problems.digit_pair(2 * setup.svm_rows)
    half = len(y) // 2
    train, signs = X[:half], y[:half]

    def fun(w):
        hinge = np.maximum(0.0, 1 - signs * (train @ w)).mean()
        return float(hinge + 0.5 * SVM_WEIGHT * w @ w)

    def jac(w):
        inside = signs * (train @ w) < 1
        return SVM_WEIGHT * w - (signs * inside) @ train / half

    # The minimiser has ‖w‖² <= 2 f(0) / weight.
    radius = math.sqrt(2 / SVM_WEIGHT)
    lipschitz = float(np.linalg.norm(train, axis=1).max()) + SVM_WEIGHT * radius
    peer = LinearSVC(
        C=1 / (SVM_WEIGHT * half), loss="hinge", fit_intercept=False, tol=1e-10, max_iter=10**6,
        random_state=0,
    ).fit(train, signs)  # fmt: skip
    found = subgradient_method(
        fun, np.zeros(train.shape[1]), jac=jac, strong_convexity=SVM_WEIGHT, record=True,
        projection=lambda w: project_ball(w, radius), maxiter=setup.svm_steps,
    )  # fmt: skip
    gaps = found.history["fun"] - fun(peer.coef_[0])
    run = runs_of.run_of(
        "subgradient_method-strong", "digits", gaps, mu=SVM_WEIGHT, lipschitz=lipschitz
    )
    wrong = np.sign(X[half:] @ found.x) != y[half:]
    return {
        "svm_ratio": float(run.ratios.max()),
        "svm_gap": float(gaps[-1]),
        "svm_test_error": float(wrong.mean()),
    }
