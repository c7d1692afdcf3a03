import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.transport import (
    Interpolant,
    MixtureInterpolant,
    interpolant_losses,
    optimal_epsilon,
    sde_kl_bound,
)

N, H = 40_000, 1e-3
MIXTURES = {
    name: MixtureInterpolant(
        [1.0],
        [[0.0]],
        [[[1.0]]],
        [0.4, 0.6],
        [[-2.0], [1.5]],
        [[[0.3]], [[0.5]]],
        path,
    )
    for name, path in (
        ("linear", Interpolant.linear()),
        ("trig", Interpolant.trig()),
        ("one-sided", Interpolant.one_sided("trig")),
    )
}


def draws(mixture, seed=0):
    rng = np.random.default_rng(seed)
    x0, x1 = mixture.sample_ends(N, rng=rng)
    return rng.uniform(0.01, 0.99, N), x0, x1, rng.normal(size=x1.shape)


def exact_fields(mixture):
    def v(t, x):
        growth = mixture.interpolant.coefficients(t)["gamma_dgamma"]
        return mixture.velocity(t, x) + growth[:, None] * mixture.score(t, x)

    return {"b": mixture.velocity, "v": v, "eta": mixture.denoiser, "s": mixture.score}


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("name", MIXTURES)
def test_gradients_of_the_losses_vanish_at_the_exact_fields(name, antithetic):
    """Along random smooth directions, within 4 sigma of 20 batches."""
    mixture = MIXTURES[name]
    fields = exact_fields(mixture)
    if name == "one-sided":
        del fields["v"]
    slopes = {key: [] for key in fields}
    for seed in range(20):
        t, x0, x1, z = (v[: N // 20] for v in draws(mixture, seed))
        sides = [
            interpolant_losses(
                mixture.interpolant,
                {
                    key: lambda t, x, f=f, s=s: f(t, x) + s * H * np.sin(2 * x + 3 * t[:, None])
                    for key, f in fields.items()
                },
                t,
                x0,
                x1,
                z,
                antithetic=antithetic,
            )
            for s in (1, -1)
        ]
        for key in fields:
            slopes[key].append((sides[0][key] - sides[1][key]) / (2 * H))
    for key, values in slopes.items():
        error = np.std(values) / len(values) ** 0.5
        assert abs(np.mean(values)) <= 4 * error, key
        assert error <= 0.1, key


def test_excess_is_half_the_squared_error():
    mixture = MIXTURES["linear"]
    t, x0, x1, z = draws(mixture)
    fields = exact_fields(mixture)
    off = {key: lambda t, x, f=f: f(t, x) + 0.6 for key, f in fields.items()}
    exact, found = (
        interpolant_losses(mixture.interpolant, fs, t, x0, x1, z) for fs in (fields, off)
    )
    for key in fields:
        assert found[key] - exact[key] == pytest.approx(0.18, abs=0.03), key


def test_antithetic_pairs_keep_the_variance_finite_near_the_ends():
    mixture = MIXTURES["linear"]
    _, x0, x1, z = draws(mixture)
    fields = {"b": mixture.velocity, "s": mixture.score}
    spreads = []
    for antithetic in (True, False):
        losses = [
            interpolant_losses(
                mixture.interpolant,
                fields,
                np.full(500, 1e-6),
                *(v[i : i + 500] for v in (x0, x1, z)),
                antithetic=antithetic,
            )
            for i in range(0, N, 500)
        ]
        spreads.append({key: np.std([loss[key] for loss in losses]) for key in fields})
    for key in fields:
        assert spreads[0][key] < spreads[1][key] / 20


def test_tensors_can_be_differentiated():
    torch = pytest.importorskip("torch")
    t, x0, x1, z = (torch.from_numpy(v[:50]) for v in draws(MIXTURES["linear"]))
    c = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = interpolant_losses(Interpolant.linear(), {"eta": lambda t, x: c * x}, t, x0, x1, z)
    loss["eta"].backward()
    by_hand = interpolant_losses(
        Interpolant.linear(),
        {"eta": lambda t, x: 0.3 * x},
        *(v.numpy() for v in (t, x0, x1, z)),
    )
    assert loss["eta"].item() == pytest.approx(by_hand["eta"])
    assert c.grad is not None


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_optimal_epsilon_minimises_the_two_bounds_together(velocity, score, factor):
    def bound(epsilon):
        return 2 * sde_kl_bound(velocity, epsilon) + 2 * sde_kl_bound(epsilon**2 * score, epsilon)

    best = optimal_epsilon(velocity, score)
    assert bound(best) == pytest.approx((velocity * score) ** 0.5)
    assert bound(best) <= bound(best * factor) * (1 + 1e-12)


def test_bound_is_the_divergence_of_drifted_brownian_motions():
    """Paths of dX = c dt + sqrt(2 eps) dW end in N(c, 2 eps): divergence c^2 / (4 eps)."""
    assert sde_kl_bound(0.6**2, 0.3) == pytest.approx(0.6**2 / (2 * 2 * 0.3))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sde_kl_bound(-1.0, 1.0), "drift_error_sq must be"),
        (lambda: sde_kl_bound(1.0, 0.0), "epsilon must be"),
        (lambda: optimal_epsilon(1.0, 0.0), "score_error_sq must be"),
        (lambda: optimal_epsilon(np.nan, 1.0), "velocity_error_sq must be"),
        (
            lambda: interpolant_losses(Interpolant.linear(), {"w": None}, *draws(MIXTURES["trig"])),
            "fields must be one of",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()
