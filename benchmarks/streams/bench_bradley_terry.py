"""Bradley-Terry strengths from a table of games, against choix.

All entrants stop with a largest gradient entry of at most 1e-6. choix gets its list of tuples made
beforehand; ours starts from the array of labels.
"""

import numpy as np
import pytest
from scipy.special import expit

from thalweg.streams import BradleyTerry

PLAYERS, GAMES = 1_000, 100_000
WORKLOAD = "maximum likelihood strengths, 1000 players, 100 000 games between random pairs"


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=PLAYERS)
    first = rng.integers(PLAYERS, size=GAMES)
    second = (first + rng.integers(1, PLAYERS, size=GAMES)) % PLAYERS
    first_won = rng.random(GAMES) < expit(x[first] - x[second])
    return np.where(first_won, [first, second], [second, first]).T.copy()


@pytest.fixture(scope="module")
def largest_gradient(pairs):
    def measure_gradient(x):
        lost = expit(x[pairs[:, 1]] - x[pairs[:, 0]])
        gradient = np.bincount(pairs[:, 0], lost, PLAYERS) - np.bincount(pairs[:, 1], lost, PLAYERS)
        return np.abs(gradient).max()

    return "largest gradient entry", measure_gradient


@pytest.mark.parametrize("labels", ["int", "str"])
def test_thalweg(measure, pairs, largest_gradient, labels):
    table = (
        pairs if labels == "int" else np.array([f"player {i:04d}" for i in range(PLAYERS)])[pairs]
    )
    model = BradleyTerry(prior=0, tol=1e-8)
    measure(
        lambda: model.fit(table).log_strengths_,
        workload=WORKLOAD,
        entrant=f"thalweg, {labels} labels" if labels == "str" else "thalweg",
        accuracy=largest_gradient,
        rounds=20,
    )


@pytest.mark.parametrize(
    ("solver", "tol", "target"), [("ilsr_pairwise", 1e-8, 30.0), ("mm_pairwise", 2e-11, 400.0)]
)
def test_choix(measure, pairs, largest_gradient, solver, tol, target):
    data = [tuple(pair) for pair in pairs.tolist()]

    def solve(*args, **options):
        import choix

        return getattr(choix, solver)(*args, **options)

    measure(
        lambda: solve(PLAYERS, data, tol=tol, max_iter=10_000),
        workload=WORKLOAD,
        entrant=f"choix.{solver}",
        accuracy=largest_gradient,
        peer="choix",
        target=target,
        rounds=3 if solver == "ilsr_pairwise" else 1,
    )
