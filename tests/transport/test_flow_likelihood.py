import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.transport import flow_log_prob  # noqa: E402
from thalweg.transport.flow_likelihood import backward_with_volume  # noqa: E402

M0, M1 = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 0.0]).double()
S0 = torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double()
S1 = torch.tensor([[0.4, -0.1], [-0.1, 0.8]]).double()
EYE = torch.eye(2).double()
NORMALS = [torch.distributions.MultivariateNormal(m, S) for m, S in ((M0, S0), (M1, S1))]


def velocity(t, x):
    """The linear interpolant with Brownian noise between two Gaussians, in closed form."""
    S = (1 - t) ** 2 * S0 + t**2 * S1 + t * (1 - t) * EYE
    cross = (t - 1) * S0 + t * S1 + (0.5 - t) * EYE
    away = x - (1 - t) * M0 - t * M1
    return M1 - M0 + away @ torch.linalg.solve(S, cross.T)


def test_log_density_of_a_gaussian_pair_is_the_closed_form():
    y = NORMALS[1].sample((50,))
    found = flow_log_prob(velocity, y, NORMALS[0].log_prob, n_steps=50, method="rk4")
    np.testing.assert_allclose(found, NORMALS[1].log_prob(y), atol=1e-4)


def test_estimated_trace_has_the_right_mean():
    y = NORMALS[1].mean.repeat(4000, 1)
    found = flow_log_prob(velocity, y, NORMALS[0].log_prob, n_steps=20, exact=False, rng=0)
    assert found.std() > 1e-3
    expected = NORMALS[1].log_prob(y[0])
    assert abs(found.mean() - expected) <= 4 * found.std() / 4000**0.5 + 1e-3


def test_density_of_the_sde_is_the_mean_over_backward_paths():
    """dX = -X dt + sqrt(2 eps) dW from N(0, 1): known variance; 4 sigma and the steps' 0.01."""
    epsilon, n = 0.15, 20_000
    variance = np.exp(-2) + epsilon * (1 - np.exp(-2))
    y = torch.tensor([[0.4]]).double()
    start, volume = backward_with_volume(
        lambda t, x: -x,
        y.repeat(n, 1),
        (2 * epsilon) ** 0.5,
        times=np.linspace(1, 0, 101),
        rng=torch.Generator().manual_seed(0),
    )
    terms = torch.exp(volume - 0.5 * start[:, 0] ** 2) / (2 * np.pi) ** 0.5
    expected = np.exp(-0.5 * 0.16 / variance) / (2 * np.pi * variance) ** 0.5
    assert abs(terms.mean() - expected) <= 4 * terms.std() / n**0.5 + 0.01
    np.testing.assert_allclose(volume, 1.0, atol=1e-6)
