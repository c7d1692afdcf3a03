"""Heavy ball with step decay on data: ridge regression, and a network on handwritten digits."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes

from thalweg.descent import (
    LeastSquares,
    empirical_noise,
    expected_risk,
    step_decay,
    stochastic_heavy_ball,
)
from thalweg.descent.anisotropic_heavy_ball import momentum_of
from thalweg.studies.descent._heavy_ball_risks import SGD_FACTOR, WIDE_SCALES
from thalweg.studies.descent._large_scale_network import digits

PENALTY = 1e-3
"""Ridge penalty over the largest curvature: about one over the condition number."""
PASSES = 100
BATCHES = (8, 32, 128)
COMPONENTS = 50
HIDDEN, BATCH = 128, 250


def ridge(rows, targets, l2=None):
    """Return ridge regression; by default the penalty makes a condition number of 1000 or less."""
    if l2 is None:
        l2 = PENALTY * np.linalg.norm(rows, ord=2) ** 2 / len(rows)
    return LeastSquares(rows, targets, l2=l2)


def standardised(columns):
    """Return columns of mean zero and variance one; constant ones become zero."""
    spread = columns.std(axis=0)
    return (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


class Landscape:
    """What the exact tool needs of a least squares problem: modes, start and noise in them."""

    def __init__(self, problem):
        self.problem = problem
        hessian = problem.rows.T @ problem.rows / problem.n + problem.l2 * np.eye(problem.dim)
        self.eigenvalues, axes = np.linalg.eigh(hessian)
        self.L, self.mu = float(self.eigenvalues[-1]), float(self.eigenvalues[0])
        self.minimum = problem.minimiser(np.zeros(problem.dim))
        self.least = problem.value(self.minimum)
        self.error = -axes.T @ self.minimum
        self.noise = (problem.component_gradients(self.minimum) @ axes).var(axis=0)

    @property
    def kappa(self):
        """Condition number."""
        return self.L / self.mu

    @property
    def gap(self):
        """Excess at the start, zero."""
        return self.problem.value(np.zeros(self.problem.dim)) - self.least

    def steps(self, T, momentum, scale=1.0, factor=4.0):
        """Step decay of heavy ball (momentum True) or SGD, with the stages that suit it."""
        options = {"L": self.L, "kappa": self.kappa, "factor": factor, "momentum": momentum}
        return scale * step_decay(T, **options)

    def predicted(self, steps, momentum, batch):
        """Expected risk if the noise were that at the minimum everywhere."""
        beta = momentum_of(self.kappa) if momentum else 0.0
        noise = self.noise / batch
        return sum(expected_risk(self.eigenvalues, self.error, steps, momentum=beta, noise=noise))

    def reached(self, steps, momentum, batch, rng, runs=1):
        """Mean excess after runs; inf where one leaves the finite numbers."""
        gaps = []
        for child in rng.spawn(runs):
            result = stochastic_heavy_ball(
                self.problem, np.zeros(self.problem.dim), n_steps=len(steps), L=self.L, mu=self.mu,
                momentum=None if momentum else 0.0, steps=steps, batch_size=batch, rng=child,
            )  # fmt: skip
            gaps.append(result.fun - self.least if result.success else np.inf)
        return float(np.mean(gaps))


def ridge_case(problem, setup, rng):
    """Compare both methods on one problem at several batch sizes and one budget of samples."""
    land, n = Landscape(problem), problem.n
    ratios, grown, over_prediction = [], [], []
    for batch in BATCHES:
        T = PASSES * n // batch
        steps = land.steps(T, momentum=True)
        ours = land.reached(steps, True, batch, rng, setup.ridge_runs)
        theirs = min(
            land.reached(
                land.steps(T, False, scale, SGD_FACTOR), False, batch, rng, setup.ridge_runs
            )
            for scale in WIDE_SCALES
        )
        ratios.append(ours / theirs)
        grown.append(not ours <= land.gap)
        over_prediction.append(ours / land.predicted(steps, True, batch))
    noises = [empirical_noise(problem, w) for w in (np.zeros(problem.dim), land.minimum)]
    return {
        "ratio": ratios[-1],
        "smallest": min((b for b, bad in zip(BATCHES, grown, strict=True) if not bad), default=0),
        "over_prediction": over_prediction[-1],
        "noise_ratio": noises[0] / noises[1],
    }


def packaged_cases(setup, rng):
    """Ridge on two tables of scikit-learn."""
    cases = []
    for load in (load_breast_cancer, load_diabetes):
        rows, targets = load(return_X_y=True)
        problem = ridge(standardised(rows), standardised(targets[:, None])[:, 0])
        cases.append(ridge_case(problem, setup, rng))
    return {
        f"ridge_{name}": np.array([case[name] for case in cases])
        for name in ("ratio", "smallest", "over_prediction", "noise_ratio")
    }


def zero_or_one(setup, rng):
    """Ridge on the leading components of images of the digits 0 and 1."""
    images, labels = digits()
    kept = labels < 2
    rows = images[kept] - images[kept].mean(axis=0)
    axes = np.linalg.eigh(rows.T @ rows)[1][:, -COMPONENTS:]
    case = ridge_case(ridge(rows @ axes, labels[kept] - labels[kept].mean()), setup, rng)
    return {"digits_ratio": case["ratio"], "digits_smallest": case["smallest"]}


def network_case(setup, rng):
    """Train a perceptron by heavy ball, torch's momentum and SGD on one schedule of stages."""
    from thalweg._torch import torch
    from thalweg.descent import HeavyBall, StepDecayLR

    images, labels = digits()
    X = torch.tensor(images, dtype=torch.float32)
    y = torch.tensor(labels)
    order = rng.permutation(len(X))
    test, train = order[: len(X) // 5], order[len(X) // 5 :]
    total = setup.network_epochs * (len(train) // BATCH)
    batches = [
        torch.tensor(part[:BATCH])
        for _ in range(setup.network_epochs)
        for part in np.array_split(rng.permutation(train), len(train) // BATCH)
    ]

    def error_of(make, rate):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(X.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10)
            )
        optimizer = make(model.parameters(), rate)
        scheduler = StepDecayLR(optimizer, total, kappa=100.0, n_stages=setup.network_stages)
        for batch in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            wrong = model(X[test]).argmax(dim=1) != y[test]
        return float(wrong.float().mean())

    entrants = (
        lambda params, lr: HeavyBall(params, lr=lr, momentum=0.81),
        lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.81),
        lambda params, lr: torch.optim.SGD(params, lr=lr),
    )
    rates = (0.03, 0.1, 0.3)
    errors = [min(error_of(make, rate) for rate in rates) for make in entrants]
    return {"network_errors": np.array(errors)}
