"""The data separation function of a data set, against its definition written down in NumPy.

The baseline draws the same number of rows and noise at each angle and averages the squared error of
the posterior mean, one dense softmax and one matrix product an angle. The specification asks for
3000 rows of 784 columns on 160 angles within 6 seconds on one core.
"""

import numpy as np
import pytest
from scipy.special import softmax

from thalweg.transport import DataSeparation, normalize_data

N_DRAWS, N_ANGLES = 300, 160
BASELINE = "definition (NumPy)"


@pytest.mark.parametrize(("n", "d"), [(500, 64), (3000, 784)])
@pytest.mark.parametrize("entrant", ["thalweg", BASELINE])
def test_separation(measure, n, d, entrant):
    X, _, _ = normalize_data(np.random.default_rng(0).standard_normal((n, d)))

    def ours():
        return DataSeparation.from_data(X, n_draws=N_DRAWS, n_angles=N_ANGLES, rng=1).total_angle_

    measure(
        ours if entrant == "thalweg" else lambda: definition(X),
        workload=f"total angle of {n} x {d} normal rows, {N_ANGLES} angles",
        entrant=entrant,
        accuracy=("total angle [rad]", float),
        target=2.0,
        rounds=3,
    )


def definition(X):
    """Return the total angle from the posterior mean's squared error at each angle."""
    rng, (n, d) = np.random.default_rng(2), X.shape
    rows = rng.integers(n, size=N_DRAWS)
    noise = rng.standard_normal((N_DRAWS, d))
    truth, half = X[rows], (X**2).sum(1) / 2
    angles, g = np.linspace(0, np.pi / 2, N_ANGLES), [0.0]
    for s in np.tan(angles[1:-1]):
        y = s * truth + noise
        mean = softmax(s * (y @ X.T) - s**2 * half, axis=1) @ X
        error = ((truth - mean) ** 2).sum(1).mean() / d
        g.append(np.sqrt(np.clip(1 - (1 + s**2) * error, 0, 1)))
    return np.trapezoid([*g, 1.0], angles)
