import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

torch = pytest.importorskip("torch")

from thalweg.transport import barenblatt, gaussian_kl, variational_divergence  # noqa: E402
from thalweg.transport._flow_networks import Frame  # noqa: E402
from thalweg.transport.variational_energies import (  # noqa: E402
    BoxReference,
    GaussianReference,
    GeneralizedEntropy,
    JensenShannon,
    KullbackLeibler,
    PositiveFunction,
    SampleReference,
    estimate,
    new_witness,
    pooled_frame,
)

P, Q = norm(0.5, 0.8), norm(-0.3, 1.3)
GRID = np.linspace(-12, 12, 24_001)
STEP = GRID[1] - GRID[0]


def raw(positive, h):
    """The network's number that gives h."""
    inverse = {
        "exp": np.log,
        "softplus": lambda v: v + np.log(-np.expm1(-v)),
        "smooth": lambda v: np.log(np.log1p(v)) - np.log1p(-np.log1p(v)),
    }[positive.kind]
    return torch.from_numpy(inverse(h))


def by_quadrature(energy, u, p, mu, inside=slice(None)):
    """E_P[A] and E_mu[B] with u and the densities on the grid."""
    y = torch.from_numpy(GRID[inside])[:, None]
    gain = (p * energy.gain(y, u).numpy()).sum() * STEP
    cost = (mu * energy.cost(u).numpy()).sum() * STEP
    return torch.tensor([gain]), torch.tensor([cost])


def gaussian_reference(mean, deviation):
    return GaussianReference(Frame(np.array([mean]), np.array([[deviation**2]])).double())


@pytest.mark.parametrize("kind", ["exp", "softplus", "smooth"])
@pytest.mark.parametrize("dv", [False, True])
def test_divergence_from_a_density_at_the_best_function_is_exact(kind, dv):
    mu = norm(0.4, 1.0)
    h = P.pdf(GRID) / mu.pdf(GRID)
    inside = h > 1e-12
    positive = PositiveFunction(kind)
    energy = KullbackLeibler(
        gaussian_reference(0.4, 1.0), lambda y: torch.from_numpy(Q.logpdf(y[:, 0])), positive, dv
    )
    u = raw(positive, h[inside])
    value = energy.value(
        *by_quadrature(energy, u, P.pdf(GRID[inside]), mu.pdf(GRID[inside]), inside)
    )
    exact = gaussian_kl([0.5], [[0.64]], [-0.3], [[1.69]])
    assert float(value) == pytest.approx(exact, abs=2e-6)  # the reference is kept in float32


@pytest.mark.parametrize("dv", [False, True])
def test_divergence_from_samples_at_the_best_function_is_exact(dv):
    h = P.pdf(GRID) / Q.pdf(GRID)
    inside = h > 1e-12
    energy = KullbackLeibler(SampleReference(torch.zeros(1, 1)), None, PositiveFunction(), dv)
    found = by_quadrature(
        energy,
        torch.from_numpy(np.log(h[inside])),
        P.pdf(GRID[inside]),
        Q.pdf(GRID[inside]),
        inside,
    )
    exact = gaussian_kl([0.5], [[0.64]], [-0.3], [[1.69]])
    assert float(energy.value(*found)) == pytest.approx(exact, abs=1e-9)


def test_only_the_form_of_donsker_and_varadhan_forgives_a_factor_of_h():
    h = P.pdf(GRID) / Q.pdf(GRID)
    inside = h > 1e-12
    values = []
    for dv in (False, True):
        energy = KullbackLeibler(SampleReference(torch.zeros(1, 1)), None, PositiveFunction(), dv)
        u = torch.from_numpy(np.log(3 * h[inside]))
        values.append(
            float(
                energy.value(
                    *by_quadrature(energy, u, P.pdf(GRID[inside]), Q.pdf(GRID[inside]), inside)
                )
            )
        )
    exact = gaussian_kl([0.5], [[0.64]], [-0.3], [[1.69]])
    assert values[0] == pytest.approx(exact + math.log(3) - 2, abs=1e-9)
    assert values[1] == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("gan", "shift"), [(False, 0.0), (True, -2 * math.log(2))])
def test_jensen_shannon_at_the_best_function_is_exact(gan, shift):
    p, q = P.pdf(GRID), Q.pdf(GRID)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(r > 0, r * np.log(r / middle), 0) for r in (p, q)]
    exact = float(np.nansum(terms) * STEP)
    u = torch.from_numpy(P.logpdf(GRID) - Q.logpdf(GRID))
    energy = JensenShannon(SampleReference(torch.zeros(1, 1)), gan=gan)
    value = float(energy.value(*by_quadrature(energy, u, p, q)))
    assert value == pytest.approx(exact + shift, abs=1e-9)


@pytest.mark.parametrize("gan", [False, True])
def test_jensen_shannon_has_the_functions_of_the_table(gan):
    u = torch.linspace(-3, 3, 7, dtype=torch.float64)
    energy = JensenShannon(SampleReference(torch.zeros(1, 1)), gan=gan)
    if gan:
        gain, cost = torch.sigmoid(u).log(), -(1 - torch.sigmoid(u)).log()
    else:
        s = 2 * (-u).exp() / (1 + (-u).exp())
        gain, cost = (2 - s).log(), -s.log()
    torch.testing.assert_close(energy.gain(u[:, None], u), gain)
    torch.testing.assert_close(energy.cost(u), cost)


@pytest.mark.parametrize("m", [1.5, 2.0, 3.0])
def test_generalised_entropy_at_the_best_function_is_exact(m):
    low, high = -3.0, 4.0
    box = BoxReference(torch.tensor([low]).double(), torch.tensor([high]).double())
    inside = np.abs(GRID - (low + high) / 2) < (high - low) / 2
    p = barenblatt(GRID[inside][:, None], 1.0, 2.0)
    q = 1 / (high - low)
    energy = GeneralizedEntropy(box, m, PositiveFunction())
    u = torch.from_numpy(np.log(np.maximum(p / q, 1e-30)))
    value = energy.value(*by_quadrature(energy, u, p, np.full(inside.sum(), q), inside))
    exact = quad(lambda x: float(barenblatt([x], 1.0, 2.0)) ** m, low, high, points=[-2.1, 2.1])[0]
    assert float(value) == pytest.approx(exact / (m - 1), abs=1e-4)


def samples(n, seed):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(0.5 + 0.8 * rng.standard_normal((n, 1))), rng


def energies(y):
    """Each energy, its log dP/dmu (or u) at the best h, and a sampler of mu."""
    box = BoxReference(torch.tensor([-4.0]).double(), torch.tensor([5.0]).double())
    reference = gaussian_reference(0.4, 1.0)
    from_q = SampleReference(y)

    def log_ratio(other):
        return lambda x: torch.from_numpy(P.logpdf(x.numpy()[:, 0]) - other(x.numpy()[:, 0]))

    log_q = lambda x: torch.from_numpy(Q.logpdf(x.numpy()[:, 0]))  # noqa: E731
    gaussian = norm(0.4, 1.0)
    flat = log_ratio(lambda x: np.full_like(x, -math.log(9)))
    return {
        "kl_density": (
            KullbackLeibler(reference, log_q, PositiveFunction()),
            log_ratio(gaussian.logpdf),
            lambda rng, n: 0.4 + rng.standard_normal(n),
        ),
        "dv": (
            KullbackLeibler(reference, log_q, PositiveFunction(), dv=True),
            log_ratio(gaussian.logpdf),
            lambda rng, n: 0.4 + rng.standard_normal(n),
        ),
        "kl_samples": (
            KullbackLeibler(from_q, None, PositiveFunction()),
            log_ratio(Q.logpdf),
            lambda rng, n: -0.3 + 1.3 * rng.standard_normal(n),
        ),
        "js": (
            JensenShannon(from_q),
            log_ratio(Q.logpdf),
            lambda rng, n: -0.3 + 1.3 * rng.standard_normal(n),
        ),
        "porous": (
            GeneralizedEntropy(box, 2.0, PositiveFunction()),
            flat,
            lambda rng, n: rng.uniform(-4, 5, n),
        ),
    }


@pytest.mark.parametrize("name", ["kl_density", "dv", "kl_samples", "js", "porous"])
def test_gradient_in_h_vanishes_at_the_best_function(name):
    """Directions 1, x, x^2; the means of 400 000 draws have deviations below 0.005."""
    y, rng = samples(400_000, 0)
    energy, best, draw = energies(y)[name]
    z = torch.from_numpy(draw(rng, 400_000))[:, None]
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def number(x):
        directions = torch.cat([torch.ones_like(x), x, x**2], 1)
        return best(x) + directions @ weights

    value = energy.value(energy.gain(y, number(y)), energy.cost(number(z)))
    value.backward()
    np.testing.assert_allclose(weights.grad.numpy(), 0, atol=0.015)


@pytest.mark.parametrize("kind", ["exp", "softplus", "smooth"])
def test_witness_starts_at_one(kind):
    positive = PositiveFunction(kind)
    energy = KullbackLeibler(SampleReference(torch.zeros(1, 2)), None, positive)
    u = new_witness(2, (8,), energy, 0)(torch.randn(5, 2, generator=torch.Generator()))
    torch.testing.assert_close(positive.value(u), torch.ones(5))
    torch.testing.assert_close(positive.log(u), torch.zeros(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["exp", "softplus", "smooth"])
def test_logarithm_of_h_is_that_of_h_and_finite_far_down(kind):
    positive, u = PositiveFunction(kind), torch.linspace(-10, 10, 41)
    torch.testing.assert_close(positive.log(u), positive.value(u).log(), atol=2e-4, rtol=1e-4)
    assert positive.log(torch.tensor([-300.0])).isfinite().all()


def test_references_draw_what_their_densities_say():
    generator = torch.Generator().manual_seed(0)
    cov = np.array([[2.0, 0.6], [0.6, 0.5]])
    reference = GaussianReference(Frame(np.array([1.0, -2.0]), cov))
    x = reference.draw(200_000, generator)
    np.testing.assert_allclose(x.mean(0), [1, -2], atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.03)
    exact = torch.distributions.MultivariateNormal(
        torch.tensor([1.0, -2.0]), torch.from_numpy(cov).float()
    ).log_prob(x[:50])
    torch.testing.assert_close(reference.log_prob(x[:50]), exact, rtol=1e-4, atol=1e-4)
    box = BoxReference(torch.tensor([0.0, -1.0]), torch.tensor([2.0, 4.0]))
    z = box.draw(100_000, generator)
    np.testing.assert_allclose(z.mean(0), [1.0, 1.5], atol=0.02)
    np.testing.assert_allclose(z.std(0), np.array([2, 5]) / np.sqrt(12), rtol=0.01)
    assert box.log_density == pytest.approx(-math.log(10))


def test_pooled_frame_gives_both_clouds_half_the_weight():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(3, 1, size=(400, 2)), rng.normal(-1, 2, size=(400, 2))
    both = np.concatenate([X, Y])
    frame = pooled_frame(X, Y)
    inside = frame.inward(torch.from_numpy(both).float()).numpy()
    np.testing.assert_allclose(inside.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(inside.T, bias=True), np.eye(2), atol=1e-4)


def test_estimate_uses_the_witness_on_both_clouds():
    energy = JensenShannon(SampleReference(torch.zeros(1, 1)))
    y, z = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [-1.0], [2.0]])
    found = estimate(energy, lambda x: x[:, 0], y, z)
    expected = energy.gain(y, y[:, 0]).mean() - energy.cost(z[:, 0]).mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("kind", "options"), [("kl", {}), ("kl", {"dv": True}), ("js", {})])
def test_learned_divergence_of_gaussians_is_near_the_exact_one(kind, options):
    """0.06 nats: the deviation of the mean of 2500 log-ratios is below 0.025."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal([0.6, 0], [1, 0.7], size=(10_000, 2)), rng.normal(size=(10_000, 2))
    found = variational_divergence(X, Y, kind, n_steps=150, rng=0, **options)
    cov = np.diag([1, 0.49])
    if kind == "kl":
        exact = gaussian_kl([0.6, 0], cov, [0, 0], np.eye(2))
    else:
        p = norm.logpdf(X, [0.6, 0], [1, 0.7]).sum(1), norm.logpdf(X).sum(1)
        q = norm.logpdf(Y, [0.6, 0], [1, 0.7]).sum(1), norm.logpdf(Y).sum(1)
        exact = math.log(2) - np.mean(
            [np.logaddexp(0, p[1] - p[0]).mean(), np.logaddexp(0, q[0] - q[1]).mean()]
        )
    assert found == pytest.approx(exact, abs=0.06 if kind == "kl" else 0.02)


def test_divergence_of_a_law_from_itself_is_about_zero():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(2, 4000, 2))
    assert abs(variational_divergence(X, Y, n_steps=60, rng=0)) < 0.05


def test_seed_gives_the_same_divergence():
    X, Y = np.random.default_rng(1).normal(size=(2, 100, 2))
    first, second = (variational_divergence(X, Y, n_steps=3, rng=5) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "tv"}, "kind must be one of"),
        ({"positivity": "square"}, "positivity must be one of"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"lr": 0.0}, "lr must be a finite number > 0"),
        ({"X": np.zeros((3, 2))}, "X must have at least 4 rows"),
        ({"X": np.zeros((4, 2)), "Y": np.zeros((4, 2))}, "two distinct rows"),
        ({"Y": np.zeros((5, 3))}, "same number of columns"),
    ],
)
def test_bad_input_is_refused_by_name(options, match):
    given = {"X": np.eye(5, 2), "Y": np.eye(6, 2)} | options
    with pytest.raises(ValueError, match=match):
        variational_divergence(**given)
