"""The equations of the nonlinear families; their fits are tested with all others."""

import numpy as np

from thalweg.transport import Repressilator, Vortex


def test_each_gene_is_repressed_by_the_one_before_it():
    beta, n, k, gamma = 10.0, 3.0, 2.0, 0.5
    x = np.array([[1.0, 2.0, 4.0]])
    drift = Repressilator().drift(np.array([beta, n, k, gamma]), 0.0, x)
    before = np.array([4.0, 1.0, 2.0])
    np.testing.assert_allclose(drift[0], beta / (1 + (before / k) ** n) - gamma * x[0])


def test_repressilator_at_negative_concentrations_is_that_of_the_smallest():
    params = np.array([10.0, 3.0, 1.0, 1.0])
    drift = Repressilator().drift(params, 0.0, np.full((1, 3), -0.5))
    np.testing.assert_allclose(drift, 10 / (1 + 1e-24) + 0.5)


def test_vortex_turns_left_and_fades():
    params = np.array([3.0, 1.0, 1.0, 0.5])
    near, far = Vortex().drift(params, 0.0, np.array([[1.001, 1.0], [1.0, 101.0]]))
    np.testing.assert_allclose(near, [0, 0.003], rtol=1e-4)
    np.testing.assert_allclose(far, [-3 * 0.25 / 100, 0], rtol=1e-4)
