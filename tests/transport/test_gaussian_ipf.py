import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.transport import gaussian_eot, gaussian_ipf, gaussian_kl


def random_pair(seed, d):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(2, d, d))
    return A @ A.T / d + 0.3 * np.eye(d), B @ B.T / d + 0.3 * np.eye(d)


def limit(S0, S1, epsilon):
    zero = np.zeros(len(S0))
    return gaussian_eot(zero, S0, zero, S1, epsilon)[0]


@given(seed=st.integers(0, 500), d=st.integers(1, 4), epsilon=st.floats(0.3, 3.0))
def test_rounds_lead_to_the_entropic_plan(seed, d, epsilon):
    S0, S1 = random_pair(seed, d)
    path = gaussian_ipf(S0, S1, epsilon, n_iter=300)
    assert len(path) == 300
    np.testing.assert_allclose(path[-1], limit(S0, S1, epsilon), atol=1e-7)


@given(seed=st.integers(0, 500), d=st.integers(1, 4))
def test_divergence_of_the_end_falls_in_each_round(seed, d):
    """A round scales the kernel's ends alone, so that the noise of the forward step is eps K."""
    (S0, S1), epsilon, zero = random_pair(seed, d), 0.8, np.zeros(d)
    divergences = [gaussian_kl(zero, S0 + epsilon * np.eye(d), zero, S1)]
    for C in gaussian_ipf(S0, S1, epsilon, n_iter=8):
        K = np.linalg.solve(S0, C).T
        np.testing.assert_allclose(K, K.T, atol=1e-9)
        divergences.append(gaussian_kl(zero, K @ S0 @ K.T + epsilon * K, zero, S1))
    assert (np.diff(divergences) <= 1e-12).all()
    assert divergences[-1] < 0.2 * divergences[0] + 1e-9


def test_one_dimension_is_the_recursion_of_precisions():
    """Sinkhorn on the exponents of ``exp(-a x^2/2 - b y^2/2 + x y / eps)``, in one dimension."""
    s0, s1, epsilon, b = 1.7, 0.6, 0.5, 1 / 0.5
    for C in gaussian_ipf([[s0]], [[s1]], epsilon, n_iter=6):
        # the start's marginal of the forward step is s0: a from b, then b so that the end's is s1;
        # a plan of precision [[a, -1/eps], [-1/eps, b]] has variances b / det, a / det
        a = solve_precision(s0, b, epsilon)
        b = solve_precision(s1, a, epsilon)
        # the forward step keeps b and starts from s0 again
        assert C[0, 0] == pytest.approx(s0 / (epsilon * b), rel=1e-10)


def solve_precision(variance, other, epsilon):
    """p with ``other / (p other - 1/eps^2) = variance``."""
    return 1 / variance + 1 / (epsilon**2 * other)


def test_another_reference_has_its_own_plan():
    S0, S1 = random_pair(3, 2)
    K0 = np.array([[0.8, 0.3], [-0.2, 1.1]])
    path = gaussian_ipf(S0, S1, 0.7, n_iter=200, K0=K0)
    np.testing.assert_allclose(K0 @ path[-1], limit(K0 @ S0 @ K0.T, S1, 0.7), atol=1e-9)


def test_a_reference_that_is_the_plan_stays():
    S0 = np.array([[2.0]])
    for C in gaussian_ipf(S0, [[3.0]], 1.0, n_iter=3):
        np.testing.assert_allclose(C, S0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"n_iter": 0}, "n_iter must be"),
        ({"S0": -np.eye(2)}, "S0 must be positive definite"),
        ({"S1": np.eye(3)}, "S1 must have shape"),
        ({"K0": np.eye(3)}, r"K0 must have shape \(2, 2\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        gaussian_ipf(**{"S0": np.eye(2), "S1": np.eye(2), "epsilon": 1.0, **change})
