"""Networks that learn what affine transitions leave over, and the score that starts them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.transport import AdversarialBridge, BrownianReference, sample_neighbours  # noqa: E402
from thalweg.transport._affine_baseline import (  # noqa: E402
    CorrectedGenerator,
    WhiteningDiscriminator,
)
from thalweg.transport._affine_end_law import SMALLEST_WIDTH, AffineEndLaw  # noqa: E402
from thalweg.transport._chain_projections import pairs_at_hand  # noqa: E402
from thalweg.transport.adversarial_projection import energy_score  # noqa: E402

TIMES = np.array([0.0, 0.2, 0.5, 1.0])
REFERENCE = BrownianReference(0.3)
N = 20_000


class Seen(torch.nn.Module):
    """A network that keeps what it is given and returns a constant."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *inputs):
        self.inputs = inputs
        return self.value.expand(len(inputs[0]), *self.value.shape)


def pairs(seed=0):
    rng = torch.Generator().manual_seed(seed)
    start = torch.randn(N, 2, generator=rng, dtype=torch.float64) * torch.tensor([0.3, 2.0]) + 1
    turn = torch.tensor([[0.6, -0.8], [0.4, 0.3]], dtype=torch.float64)
    end = start @ turn.T + 0.5 * torch.randn(N, 2, generator=rng, dtype=torch.float64) - 2
    return start, end


@pytest.fixture(scope="module")
def fitted():
    law = AffineEndLaw(2, 3)
    law.fit(*pairs(), TIMES, REFERENCE, torch.Generator().manual_seed(1))
    return law


def neighbours(seed=2):
    rng = torch.Generator().manual_seed(seed)
    return sample_neighbours(*pairs(seed), TIMES, REFERENCE.epsilon, rng)


def test_points_and_deviations_are_standardised_at_each_time(fitted):
    index, now, later = neighbours()
    network = Seen(torch.zeros(()))
    judge = WhiteningDiscriminator(fitted, network, TIMES, REFERENCE)
    assert judge(later, index, now).shape == (N,)
    white, same, inside = network.inputs
    assert same is index
    for k in range(3):
        rows = index == k
        np.testing.assert_allclose(inside[rows].mean(0), 0, atol=0.06)
        np.testing.assert_allclose(inside[rows].std(0), 1, atol=0.05)
        joint = torch.cat([white[rows], inside[rows]], 1)
        np.testing.assert_allclose(white[rows].mean(0), 0, atol=0.06)
        cov = np.cov(joint.T)
        np.testing.assert_allclose(cov[:2, :2], np.eye(2), atol=0.06)
        np.testing.assert_allclose(cov[:2, 2:], 0, atol=0.06)


def test_generator_adds_its_network_in_units_of_what_the_fit_leaves(fitted):
    index, now, _ = neighbours()
    network = Seen(torch.tensor([2.0, -3.0], dtype=torch.float64))
    z = torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = CorrectedGenerator(fitted, network)(now, index, z)
    expected = fitted(now, index, z[:, :2]) + fitted.spread[index][:, None] * network.value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network.inputs[0], fitted.standardise(now, index))
    assert network.inputs[1] is index
    assert network.inputs[2] is z
    assert 0.2 < fitted.spread[0] < 0.6
    assert fitted.spread[2] < fitted.spread[0]


def test_noise_of_fewer_columns_enters_through_the_network_alone(fitted):
    index, now, _ = neighbours()
    network = Seen(torch.zeros(2, dtype=torch.float64))
    z = torch.ones(N, 1, dtype=torch.float64)
    found = CorrectedGenerator(fitted, network)(now, index, z)
    torch.testing.assert_close(found, fitted(now, index, torch.zeros_like(now)))
    assert network.inputs[2] is z


def test_columns_without_spread_are_not_divided_by_zero():
    start, end = pairs()
    start[:, 0], end = 0.0, start.clone()
    end[:, 0] = 0.0
    law = AffineEndLaw(2, 1)
    law.fit(start, end, [0.0, 1.0], REFERENCE, torch.Generator().manual_seed(0))
    assert law.width[0, 0] == law.spread[0] == SMALLEST_WIDTH
    judge = WhiteningDiscriminator(law, Seen(torch.zeros(())), [0.0, 1.0], REFERENCE).float()
    assert judge.W.isfinite().all()


class Normal(torch.nn.Module):
    def __init__(self, mean, deviation):
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x, n, z):
        return self.mean + self.deviation * z


def score(mean, deviation, spread=1.0):
    rng = torch.Generator().manual_seed(0)
    end = torch.randn(200_000, 1, generator=rng)
    index = torch.zeros(len(end), dtype=torch.int64)
    unit = torch.full((len(end),), spread)
    return energy_score(Normal(mean, deviation), end, index, end, unit, 1, rng).item()


def test_energy_score_is_least_at_the_true_law():
    """For a standard normal end: E|G - end| - E|G - G'|/2 = 2/sqrt(pi) - 1/sqrt(pi)."""
    best = score(0.0, 1.0)
    assert best == pytest.approx(1 / np.sqrt(np.pi), abs=5e-3)
    wide = np.sqrt(2 / np.pi) * (np.sqrt(1 + 1.5**2) - 1.5 / np.sqrt(2))
    assert score(0.0, 1.5) == pytest.approx(wide, abs=5e-3)
    for mean, deviation in ((0.0, 0.6), (0.0, 1.5), (0.4, 1.0)):
        assert score(mean, deviation) > best + 0.01
    assert score(0.0, 1.0, spread=2.0) == pytest.approx(best / 2, rel=1e-5)


def test_assigned_pairs_are_drawn_once_and_rows_given_as_pairs_are_kept():
    X, Y = (torch.randn(50, 2, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    rng = torch.Generator().manual_seed(0)
    assert pairs_at_hand(X, Y, 16, "paired", rng)[0] is X
    free, assigned = (pairs_at_hand(X, Y, 16, c, rng) for c in ("independent", "minibatch-ot"))
    assert len(free[0]) == len(free[1]) >= N
    cost = [(a - b).square().sum(1).mean() for a, b in (free, assigned)]
    assert cost[1] < 0.5 * cost[0]


def fit(**options):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 1))
    Y = np.where(X > 0, 4.0, -4.0) + 0.2 * rng.normal(size=X.shape)
    model = AdversarialBridge(
        0.5, 2, n_iter=1, steps_per_projection=300, hidden=(32, 32), initial_coupling="paired",
        rng=0, **options,
    ).fit(X, Y)  # fmt: skip
    return model, model.transform(X)


def test_scored_steps_learn_a_law_that_bends_and_tell_their_losses():
    """A network that stays next to affine, or that the adversary alone moves, leaves 0.6."""
    model, reached = fit()
    first = model.history_[0]
    assert first["energy_distance"] < 0.4
    assert np.mean(np.abs(reached) < 2) < 0.3
    losses = first["losses"]
    assert losses.shape == (300, 2)
    assert (losses[:240, 0] == 0).all()
    assert (losses[240:, 0] > 0).all()
    assert losses[220:240, 1].mean() < 0.75 * losses[:5, 1].mean()


def test_without_scored_steps_all_are_adversarial():
    X = np.random.default_rng(0).normal(size=(50, 1))
    model = AdversarialBridge(
        0.5, 2, n_iter=1, steps_per_projection=5, hidden=(8,), score_share=0.0, rng=0
    ).fit(X, X)
    assert (model.history_[0]["losses"][:, 0] > 0).all()


def test_untrained_default_networks_carry_gaussians_as_the_affine_fit_does():
    """With next to no step the covariance of the ends is right, which a bare network misses."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 2)) * [0.3, 2.0]
    Y = X[:, ::-1] + 0.3 * rng.normal(size=X.shape)
    model = AdversarialBridge(
        0.5, n_iter=1, steps_per_projection=2, hidden=(32,), initial_coupling="paired", rng=0
    ).fit(X, Y)
    found = np.cov(X.T, model.transform(X).T)
    wanted = np.cov(X.T, Y.T)
    assert np.linalg.norm(found - wanted) < 0.25 * np.linalg.norm(wanted)
