"""Grid problems whose exact bridge is a table, and the errors of networks fitted to them."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_swiss_roll

from thalweg.transport import (
    CategoricalBridgeMatching,
    CategoricalReference,
    categorical_bridge,
    gaussian_kernel,
    product_reference,
)

GRID, GRID_ALPHA, GRID_INNER = 10, 0.3, 4
ROLL, ROLL_INNER, ROLL_SKIP, ROLL_ALPHAS = 50, 10, 10, (0.02, 0.05)


class GridProblem:
    """Two laws on a square grid, their exact bridge, and exact readings of a learned chain.

    `p0` and `p1` are tables (S, S) over the two tokens.
    """

    def __init__(self, p0, p1, reference):
        self.p0, self.p1, self.reference = p0, p1, reference
        self.S = reference.n_categories
        self.states = np.indices((self.S, self.S)).reshape(2, -1).T
        mean = np.tensordot(p1.ravel(), self.states, 1)
        self.spread = np.sqrt(p1.ravel() @ ((self.states - mean) ** 2).sum(axis=1))
        plan = categorical_bridge(p0.ravel(), p1.ravel(), product_reference(reference, 2))
        kept = p0.ravel() > 0
        self.target_mean = np.zeros((self.S**2, 2))
        self.target_mean[kept] = plan[kept] @ self.states / p0.ravel()[kept, None]
        self.independent_error = self.mean_error(np.broadcast_to(mean, self.target_mean.shape))

    def draw(self, law, n, rng):
        """Draw n sequences of two tokens."""
        return self.states[rng.choice(len(self.states), size=n, p=law.ravel())]

    def mean_error(self, mean):
        """Root mean square distance from the exact conditional mean, over the target's spread."""
        squares = ((mean - self.target_mean) ** 2).sum(axis=1)
        return float(np.sqrt(self.p0.ravel() @ squares) / self.spread)

    def conditional_mean(self, model):
        """E[end | start] of the learned chain at every state, by summing over all paths."""
        value = self.states.reshape(self.S, self.S, 2).astype(float)
        for n in range(self.reference.n_inner, -1, -1):
            law = model.transition_probs(self.states, n)
            onward = np.tensordot(law[:, 0], value, axes=1)
            value = np.einsum("xb,xbk->xk", law[:, 1], onward).reshape(self.S, self.S, 2)
        return value.reshape(-1, 2)

    def end_law(self, model):
        """Law (S, S) of the end of the learned chain that starts from `p0`."""
        law = self.p0
        for n in range(self.reference.n_inner + 1):
            step = model.transition_probs(self.states, n)
            law = step[:, 0].T @ (law.reshape(-1, 1) * step[:, 1])
        return law

    def fit(self, iterations, steps, setup, seed, tell):
        """Fit up to the last forward projection; return the model and the error after each."""
        errors = []
        total = 2 * iterations - 1

        def callback(state):
            tell(((2 * state.iteration - 2) + (state.direction == "backward")) / total, state)
            if state.direction == "backward" and state.step == 1:
                errors.append(self.mean_error(self.conditional_mean(state.estimator)))
                if state.iteration == iterations:
                    raise StopIteration

        rng = np.random.default_rng(seed)
        model = CategoricalBridgeMatching(
            self.reference,
            n_iter=iterations,
            steps_per_projection=steps,
            batch_size=setup.batch,
            lr=setup.lr,
            callback=callback,
            rng=seed,
        ).fit(*(self.draw(law, 50_000, rng) for law in (self.p0, self.p1)))
        return model, errors


def blobs(S, centres, widths):
    """Mixture of round normal laws on a grid of S x S; centres and widths in shares of S."""
    axis = (np.arange(S) + 0.5) / S
    table = np.zeros((S, S))
    for (a, b), width in zip(centres, widths, strict=True):
        table += np.exp(-((axis[:, None] - a) ** 2 + (axis - b) ** 2) / (2 * width**2))
    return table / table.sum()


def small_grid():
    """A normal law in the middle to four in the corners of a grid of 10 x 10."""
    corners = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
    return GridProblem(
        blobs(GRID, [(0.5, 0.5)], [0.18]),
        blobs(GRID, corners, [0.09] * 4),
        CategoricalReference(gaussian_kernel(GRID, GRID_ALPHA), GRID_INNER),
    )


def learned_grid(setup, rng, tell):
    """Errors of the networks on the small grid after each iteration."""
    problem = small_grid()
    model, errors = problem.fit(
        setup.iterations, setup.steps, setup, int(rng.integers(2**31)), tell
    )
    starts = problem.draw(problem.p0, setup.draws, rng)
    ends = np.zeros((GRID, GRID))
    np.add.at(ends, tuple(model.transform(starts, rng=int(rng.integers(2**31))).T), 1 / len(starts))
    return {
        "mean_errors": np.array(errors),
        "mean_error": errors[-1],
        "mean_error_ratio": errors[-1] / errors[0],
        "independent_error": problem.independent_error,
        "target_tv": np.abs(ends - problem.p1).sum() / 2,
        "grid_source": problem.p0,
        "grid_target": problem.p1,
        "grid_translated": ends,
    }


def swiss_roll(alpha, setup, rng, tell):
    """Normal law to swiss roll on a grid of 50 x 50."""
    points, _ = make_swiss_roll(200_000, noise=0.8, random_state=int(rng.integers(2**31)))
    cells = np.clip(((points[:, [0, 2]] + 16) / 32 * ROLL).astype(int), 0, ROLL - 1)
    target = np.zeros((ROLL, ROLL))
    np.add.at(target, tuple(cells.T), 1 / len(cells))
    reference = CategoricalReference(gaussian_kernel(ROLL, alpha, ROLL_SKIP), ROLL_INNER)
    problem = GridProblem(blobs(ROLL, [(0.5, 0.5)], [0.15]), target, reference)
    model, errors = problem.fit(
        setup.iterations, setup.roll_steps, setup, int(rng.integers(2**31)), tell
    )
    law = problem.end_law(model)
    return {
        f"roll_errors_{alpha:g}": np.array(errors),
        f"roll_error_{alpha:g}": errors[-1],
        f"roll_independent_error_{alpha:g}": problem.independent_error,
        f"roll_tv_{alpha:g}": np.abs(law - target).sum() / 2,
        f"roll_law_{alpha:g}": law,
        "roll_target": target,
    }
