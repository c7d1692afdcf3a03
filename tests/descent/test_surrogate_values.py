"""What a surrogate is worth: an upper bound up to a step length, and not beyond it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from thalweg.descent import majorisation_bound, smoothness, surrogate_value  # noqa: E402

F = torch.nn.functional

LOSSES = {
    "squared": (lambda z, y: 0.5 * (z - y).square().sum(-1), (3,)),
    "logistic": (lambda z, y: F.softplus(-z * (1 - 2 * (y[:, 0] > 0))), ()),
    "cross-entropy": (lambda z, y: F.cross_entropy(z, y.argmax(-1), reduction="none"), (3,)),
}


def cases(name, b, seed, scale=3.0):
    """Random outputs z, f and a per-sample loss."""
    generator = torch.Generator().manual_seed(seed)
    loss, tail = LOSSES[name]
    y = torch.randn(b, 3, generator=generator, dtype=torch.float64)
    z, f = (
        scale * torch.randn(b, *tail, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return z, f, lambda x: loss(x, y)


def slopes(loss, z):
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(LOSSES)), st.integers(1, 6), st.integers(0, 10**6), st.floats(0.05, 1))
def test_the_surrogate_is_an_upper_bound_up_to_the_safe_step(name, b, seed, share):
    z, f, loss = cases(name, b, seed)
    eta = share / smoothness(name)
    S = loss(z).mean() + surrogate_value(f, z, slopes(loss, z), eta)
    assert float(S - loss(f).mean()) >= -1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_the_bound_fails_beyond_the_safe_step(name):
    gaps = []
    for seed in range(50):
        z, f, loss = cases(name, 4, seed)
        S = loss(z).mean() + surrogate_value(f, z, slopes(loss, z), 10 / smoothness(name))
        gaps.append(float(S - loss(f).mean()))
    assert min(gaps) < -0.1


@pytest.mark.parametrize("name", LOSSES)
def test_the_smoothness_is_the_largest_curvature(name):
    """Of Hessians at many points, and near the known maximiser: equal classes, logit zero."""
    loss, tail = LOSSES[name]
    y = torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64)
    largest = 0.0
    points = [torch.zeros(1, *tail, dtype=torch.float64)]
    if name == "cross-entropy":
        points.append(torch.tensor([[9.0, 9.0, -40.0]], dtype=torch.float64))
    points += [cases(name, 1, seed)[0] for seed in range(10)]
    for z in points:
        hessian = torch.autograd.functional.hessian(lambda x: loss(x, y).sum(), z)
        largest = max(largest, float(torch.linalg.eigvalsh(hessian.reshape(z.numel(), -1)).max()))
    assert largest == pytest.approx(smoothness(name), rel=1e-9)


def test_with_unit_step_the_surrogate_of_squares_is_the_loss():
    z, f, loss = cases("squared", 7, 3)
    S = loss(z).mean() + surrogate_value(f, z, slopes(loss, z), 1.0)
    torch.testing.assert_close(S, loss(f).mean(), rtol=1e-13, atol=1e-13)


def test_the_metric_weighs_the_squares():
    z, f = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    G, metric = torch.tensor([[10.0, 100.0]]), torch.tensor([[2.0, 3.0]])
    expected = 20 + 300 + (2 * 4 + 3 * 9) / (2 * 0.5)
    assert surrogate_value(f, z, G, 0.5, metric).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2), torch.ones(2), torch.ones(2), 0.0), "eta"),
        ((torch.ones(2), torch.ones(3), torch.ones(2), 1.0), "z must"),
        ((torch.ones(2), torch.ones(2), torch.ones(2, 1), 1.0), "G must"),
        ((torch.ones(0), torch.ones(0), torch.ones(0), 1.0), "outputs must"),
        ((1.0, torch.ones(2), torch.ones(2), 1.0), "outputs must"),
    ],
)
def test_bad_surrogates_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        surrogate_value(*arguments)


def test_bad_constants_are_named():
    with pytest.raises(ValueError, match="loss_name"):
        smoothness("hinge")
    for arguments, name in (((0, 1, 1), "beta"), ((1, -1, 1), "gap"), ((1, 1, 0), "steps")):
        with pytest.raises(ValueError, match=name):
            majorisation_bound(*arguments)
    assert majorisation_bound(3.0, 2.0, 4) == pytest.approx(3.0)
