"""Matrix square root and its gradient, against Newton-Schulz with autograd and against eigh."""

import numpy as np
import pytest
import torch

from thalweg.linalg import matrix_inv_sqrt, matrix_sqrt

STEPS = 7
SHAPE = 64, 128
ENTRANTS = {
    "thalweg, taylor and lyapunov": {"method": "taylor"},
    "thalweg, pade and lyapunov": {"method": "pade"},
    "Newton-Schulz, 7 steps with autograd": {
        "method": "newton-schulz",
        "degree": STEPS,
        "backward": "autograd",
    },
    "torch.linalg.eigh": {"method": "eigh", "backward": "lyapunov-exact"},
}


def covariances(batch, size, device="cpu"):
    x = np.random.default_rng(0).standard_normal((batch, size, 2 * size), dtype=np.float32)
    return torch.from_numpy(x @ x.swapaxes(-1, -2) / (2 * size)).to(device)


def error(a):
    """Mean relative error of the gradient of the sum of the root."""
    exact = root_and_gradient(a.double(), ENTRANTS["torch.linalg.eigh"])
    norms = torch.linalg.matrix_norm(exact)
    return "error of the gradient", lambda gradient: float(
        (torch.linalg.matrix_norm(gradient.double() - exact) / norms).mean()
    )


def root_and_gradient(a, options, synchronize=False):
    a = a.clone().requires_grad_()
    y = matrix_sqrt(a, check_finite=False, **options)
    (gradient,) = torch.autograd.grad(y.sum(), a)
    if synchronize:
        torch.cuda.synchronize()
    return gradient


@pytest.mark.parametrize("entrant", ENTRANTS)
def test_root_and_gradient(measure, entrant):
    a = covariances(*SHAPE)
    measure(
        lambda: root_and_gradient(a, ENTRANTS[entrant]),
        workload="root and gradient, 64 matrices of 128 x 128, float32",
        entrant=entrant,
        accuracy=error(a),
        target=None if entrant == "torch.linalg.eigh" else 1.0,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("entrant", ["thalweg, pade and lyapunov", "torch.linalg.eigh"])
def test_root_and_gradient_on_a_gpu(measure, entrant):
    a = covariances(*SHAPE, device="cuda")
    measure(
        lambda: root_and_gradient(a, ENTRANTS[entrant], synchronize=True),
        workload="root and gradient, 64 matrices of 128 x 128, float32, GPU",
        entrant=entrant,
        accuracy=error(a),
        target=1.5,
    )


@pytest.mark.parametrize("method", ["pade", "taylor", "newton-schulz", "eigh"])
def test_inverse_root(measure, method):
    a = covariances(*SHAPE)
    exact = matrix_inv_sqrt(a.double(), "eigh")
    measure(
        lambda: matrix_inv_sqrt(a, method),
        workload="inverse root, 64 matrices of 128 x 128, float32",
        entrant=f"thalweg, {method}" if method in ("pade", "taylor") else method,
        accuracy=("error", lambda y: float(torch.dist(y.double(), exact) / exact.norm())),
    )
