"""Fitting a diffusion Schrödinger bridge with the simplified loss and with the original one.

The baseline is the original loss in the same code, so that the ratio is the price of its two extra
network calls a target; the accuracy of both is the relative error of the covariance of the ends
against the closed form. Both begin with the same half, whose reference needs no network.
"""

import numpy as np
import pytest

from thalweg.transport import gaussian_eot

pytest.importorskip("torch")

from thalweg.transport import DiffusionSchrodingerBridge

EPSILON, STEPS, POINTS, EPOCHS = 1.0, 400, 4000, 2
M0, M1 = np.zeros(2), np.array([1.0, -3.0])
S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])


@pytest.mark.parametrize("entrant", ["thalweg simplified loss", "original loss, same code"])
def test_epochs(measure, entrant):
    rng = np.random.default_rng(0)
    X, Y = (rng.multivariate_normal(m, S, POINTS) for m, S in ((M0, S0), (M1, S1)))
    plan = gaussian_eot(M0, S0, M1, S1, EPSILON)[0]
    kind = "simplified" if entrant.startswith("thalweg") else "original"

    def fit():
        return DiffusionSchrodingerBridge(
            EPSILON,
            parametrization="transition",
            loss=kind,
            n_epochs=EPOCHS,
            n_steps=STEPS,
            rng=0,
        ).fit(X, Y)

    def error(model):
        ends = model.transform(X, rng=1)
        found = (X - X.mean(0)).T @ (ends - ends.mean(0)) / len(X)
        return np.linalg.norm(found - plan) / np.linalg.norm(plan)

    measure(
        fit,
        workload=f"{EPOCHS} epochs of 2 x {STEPS} steps, batch 256, two Gaussians in the plane",
        entrant=entrant,
        accuracy=("relative error of the covariance of the ends", error),
        target=1.3,
        rounds=3,
    )
