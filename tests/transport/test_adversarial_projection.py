"""The losses, the drawn transitions and one step of an adversarial Markovian projection."""

import math
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.transport import BrownianReference, markovian_projection_step  # noqa: E402
from thalweg.transport._training import Learner  # noqa: E402
from thalweg.transport.adversarial_projection import (  # noqa: E402
    EndGenerator,
    StepDiscriminator,
    discriminator_loss,
    draw_chain,
    draw_next,
    generator_loss,
)

TIMES = np.array([0.0, 0.1, 0.4, 1.0])
EPSILON = 0.7


class Linear(torch.nn.Module):
    """A discriminator with a known slope."""

    def __init__(self, slope):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, x_next, n, x):
        return x_next @ self.slope + 0.1 * n + x.sum(1)


class Constant(torch.nn.Module):
    """A generator that always guesses one end, plus its noise times a factor."""

    def __init__(self, end, factor=0.0):
        super().__init__()
        self.end, self.factor = torch.nn.Parameter(torch.tensor(end)), factor

    def forward(self, x, n, z):
        return self.end.expand(x.shape) + self.factor * z


def softplus(v):
    return np.log1p(np.exp(v))


def batch(n=50, d=2):
    rng = np.random.default_rng(0)
    real, fake, now = (torch.from_numpy(rng.normal(size=(n, d))).float() for _ in range(3))
    return real, fake, torch.from_numpy(rng.integers(3, size=n)), now


def test_a_discriminator_that_knows_nothing_pays_two_log_two_without_penalty():
    real, fake, index, now = batch()
    ignorant = Linear([0.0, 0.0])
    now, index = torch.zeros_like(now), torch.zeros_like(index)
    loss = discriminator_loss(ignorant, real, fake, index, now, 5.0)
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert generator_loss(ignorant, fake, index, now).item() == pytest.approx(math.log(2), rel=1e-6)


def test_losses_are_those_of_the_formula():
    real, fake, index, now = batch()
    slope = [0.5, -2.0]
    module = Linear(slope)

    def logits(points):
        return points.numpy() @ slope + 0.1 * index.numpy() + now.numpy().sum(1)

    expected = (
        softplus(-logits(real)).mean() + softplus(logits(fake)).mean() + 0.3 / 2 * (0.5**2 + 2.0**2)
    )
    found = discriminator_loss(module, real, fake, index, now, 0.3)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    without = discriminator_loss(module, real, fake, index, now, 0.0)
    assert without.item() == pytest.approx(expected - 0.15 * 4.25, rel=1e-5)
    expected = softplus(-logits(fake)).mean()
    assert generator_loss(module, fake, index, now).item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_is_on_true_points_and_trains_the_discriminator():
    class Quadratic(Linear):
        def forward(self, x_next, n, x):
            return (x_next**2) @ self.slope

    real, fake, index, now = batch()
    module = Quadratic([1.0, 3.0])
    with_penalty, without = (
        discriminator_loss(module, real, fake, index, now, r1) for r1 in (2.0, 0.0)
    )
    slopes = 2 * real * module.slope
    assert (with_penalty - without).item() == pytest.approx(
        slopes.square().sum(1).mean().item(), rel=1e-4
    )
    (gradient,) = torch.autograd.grad(with_penalty - without, module.slope)
    expected = 8 * module.slope * real.square().mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_transition_is_a_bridge_to_the_guessed_end(k):
    n, end, factor = 40_000, [2.0, -1.0], 0.5
    now = torch.full((n, 2), 0.3)
    rng = torch.Generator().manual_seed(k)
    index = torch.full((n,), k)
    found = draw_next(
        Constant(end, factor), now, index, TIMES, BrownianReference(EPSILON), 2, rng
    ).detach()
    s, t = TIMES[k], TIMES[k + 1]
    share = (t - s) / (1 - s)
    mean = 0.3 + share * (np.array(end) - 0.3)
    variance = share**2 * factor**2 + EPSILON * (t - s) * (1 - t) / (1 - s)
    np.testing.assert_allclose(found.mean(0), mean, atol=5 * math.sqrt(variance / n))
    np.testing.assert_allclose(np.cov(found.T), variance * np.eye(2), atol=0.04 * variance)


def test_the_last_step_returns_the_guess_itself():
    now = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    index = torch.full((9,), 2)
    found = draw_next(Constant([2.0, -1.0]), now, index, TIMES, BrownianReference(), 1, None)
    np.testing.assert_allclose(found.detach(), np.tile([2.0, -1.0], (9, 1)), atol=1e-6)


def test_chain_to_a_point_is_a_brownian_bridge_and_asks_once_a_step():
    asked = []

    class Asked(Constant):
        def forward(self, x, n, z):
            asked.append(n.unique().tolist())
            return super().forward(x, n, z)

    n = 40_000
    path = draw_chain(
        Asked([0.0]), torch.zeros(n, 1), TIMES, BrownianReference(EPSILON), 1,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert asked == [[0], [1], [2]]
    found = np.cov(torch.stack(path)[1:3, :, 0])
    s, t = TIMES[1:3]
    expected = EPSILON * np.array([[s * (1 - s), s * (1 - t)], [s * (1 - t), t * (1 - t)]])
    np.testing.assert_allclose(found, expected, atol=0.01 * EPSILON)


def parts(**options):
    G = EndGenerator(2, 2, TIMES, hidden=(8,), rng=0)
    D = StepDiscriminator(2, TIMES, hidden=(8,), rng=1)

    def pairs(rng):
        return torch.randn(16, 2, generator=rng), 3 + torch.randn(16, 2, generator=rng)

    return pairs, G, D, {"times": TIMES, "epsilon": EPSILON, "latent_dim": 2} | options


def test_a_step_updates_the_discriminator_d_steps_times_then_the_generator():
    pairs, G, D, options = parts(d_steps=3)
    order = []

    def of_discriminator(loss):
        order.append("D")
        loss.backward()
        assert all(p.grad is None for p in G.parameters())

    def of_generator(loss):
        order.append("G")
        before = [p.grad.clone() for p in D.parameters()]
        loss.backward()
        assert any(p.grad.abs().max() > 0 for p in G.parameters())
        for p, grad in zip(D.parameters(), before, strict=True):
            assert torch.equal(p.grad, grad)

    losses = markovian_projection_step(
        pairs, G, D, of_generator, of_discriminator, rng=0, **options
    )
    assert order == ["D", "D", "D", "G"]
    assert losses.shape == (2,)
    assert all(p.requires_grad for p in D.parameters())


def test_losses_that_are_returned_are_those_that_were_given():
    pairs, G, D, options = parts(d_steps=2)
    given = {"D": [], "G": []}
    losses = markovian_projection_step(
        pairs, G, D, given["G"].append, given["D"].append, rng=0, **options
    )
    assert losses[0].item() == pytest.approx(np.mean([loss.item() for loss in given["D"]]))
    assert losses[1].item() == pytest.approx(given["G"][0].item())
    values = [loss.item() for loss in given["D"]]
    assert values[0] != values[1]


def test_a_seed_decides_the_step():
    pairs, G, D, options = parts()
    runs = [
        markovian_projection_step(pairs, G, D, lambda _: None, lambda _: None, rng=seed, **options)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_generator_learns_a_law_that_is_not_gaussian():
    """From a point to two humps at -1 and 1, of deviation 0.25, in two steps."""
    times, epsilon, hump = [0, 0.5, 1], 0.5, 0.25
    G = EndGenerator(1, 1, times, hidden=(64, 64, 64), rng=0)
    D = StepDiscriminator(1, times, hidden=(64, 64, 64), rng=1)
    steps, rng = 400, torch.Generator().manual_seed(0)
    learners = [
        Learner([net], n_steps=steps, lr=lr, betas=(0.5, 0.9), ema=0.98)
        for net, lr in ((G, 2e-3), (D, 4e-3))
    ]

    def pairs(rng):
        signs = 2.0 * torch.randint(2, (256, 1), generator=rng) - 1
        return torch.zeros(256, 1), signs + hump * torch.randn(256, 1, generator=rng)

    for _ in range(steps):
        markovian_projection_step(
            pairs, G, D, *(learner.step for learner in learners),
            times=times, epsilon=epsilon, rng=rng,
        )  # fmt: skip
    (trained,) = learners[0].trained()
    path = draw_chain(trained, torch.zeros(4000, 1), times, BrownianReference(epsilon), 1, rng)
    middle, end = path[1].numpy(), path[2].numpy()
    assert abs(end.mean()) < 0.2
    assert np.abs(end).mean() == pytest.approx(1, abs=0.15)
    assert np.mean(np.abs(end) < 0.4) < 0.2  # a normal law of this variance has 0.3
    second = 1 + hump**2
    assert middle.var() == pytest.approx(second / 4 + epsilon / 4, rel=0.2)
    assert (middle * end).mean() == pytest.approx(second / 2, rel=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be"),
        ({"times": [0, 0.5, 0.4, 1]}, "times must increase strictly from 0 to 1"),
        ({"times": [0.1, 1]}, "times must increase strictly from 0 to 1"),
        ({"latent_dim": -1}, "latent_dim must be"),
        ({"r1": -0.1}, "r1 must be"),
        ({"d_steps": 0}, "d_steps must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    pairs, G, D, options = parts(**change)
    with pytest.raises(ValueError, match=message):
        markovian_projection_step(pairs, G, D, lambda _: None, lambda _: None, **options)


def test_defaults_see_times_and_every_input():
    """A default network that ignored an argument would learn the wrong law."""
    G, D = EndGenerator(2, 3, TIMES, rng=0), StepDiscriminator(2, TIMES, rng=0)
    x, y = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    z, n = torch.ones(5, 3), torch.arange(5) % 3
    assert G(x, n, z).shape == (5, 2)
    assert D(y, n, x).shape == (5,)
    for inputs in pairwise([(x, n, z), (x, (n + 1) % 3, z), (x, (n + 1) % 3, -z)]):
        assert (G(*inputs[0]) - G(*inputs[1])).abs().max() > 1e-3
    for inputs in pairwise([(y, n, x), (y, (n + 1) % 3, x), (y, (n + 1) % 3, -x)]):
        assert (D(*inputs[0]) - D(*inputs[1])).abs().max() > 1e-3
    assert EndGenerator(2, 0, TIMES, rng=0)(x, n, torch.zeros(5, 0)).shape == (5, 2)
