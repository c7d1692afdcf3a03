import math

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    WassersteinGradientFlow,
    barenblatt_sample,
    barenblatt_variance,
    gaussian_jko_step,
    gaussian_kl,
)
from thalweg.transport import _jko_step as jko  # noqa: E402
from thalweg.transport._flow_networks import ConvexMap, Frame, ResidualMap, Witness  # noqa: E402

MEAN, VARIANCES = np.array([1.5, -0.5]), np.array([0.5, 1.6])
STEP = 0.4
TINY = {"n_steps": 2, "n_jko": 2, "hidden": (8,), "batch_size": 16, "rng": 0}


def log_density(y):
    mean, variances = (torch.from_numpy(v).to(y) for v in (MEAN, VARIANCES))
    norm = torch.log(2 * math.pi * variances).sum()
    return -0.5 * ((y - mean).square() / variances).sum(1) - 0.5 * norm


def normal_cloud(n=4000, d=2, seed=0):
    """Rows with mean 0 and unit covariance exactly."""
    X = np.random.default_rng(seed).normal(size=(n, d))
    X -= X.mean(0)
    return X @ np.linalg.inv(np.linalg.cholesky(X.T @ X / n)).T


def exact_iterates(n, step=STEP):
    iterates = [(np.zeros(2), np.eye(2))]
    for _ in range(n):
        iterates.append(gaussian_jko_step(*iterates[-1], MEAN, np.diag(VARIANCES), step))
    return iterates


@pytest.fixture(scope="module")
def fitted():
    X = normal_cloud()
    return X, WassersteinGradientFlow(log_density=log_density, step_size=STEP, n_jko=2, rng=0).fit(
        X
    )


def test_particles_follow_the_exact_steps(fitted):
    """Measured 0.03 for seeds 0 to 2; the first step alone moves the mean by 0.6."""
    X, model = fitted
    for cloud, (mean, cov) in zip(model.path(X), exact_iterates(2), strict=True):
        np.testing.assert_allclose(cloud.mean(0), mean, atol=0.06)
        np.testing.assert_allclose(np.cov(cloud.T), cov, atol=0.1)


def test_energies_are_divergences_and_w2_the_distances_gone(fitted):
    X, model = fitted
    exact = exact_iterates(2)
    kl = [gaussian_kl(mean, cov, MEAN, np.diag(VARIANCES)) for mean, cov in exact]
    np.testing.assert_allclose(model.energies_, kl, atol=0.08)
    path = model.path(X)
    gone = ((path[1:] - path[:-1]) ** 2).sum(-1).mean(1)
    np.testing.assert_allclose(model.w2_, gone, rtol=1e-4)
    np.testing.assert_allclose(model.step_sizes_, STEP)
    dissipated = model.energies_[1:] + model.w2_ / (2 * STEP)
    assert (dissipated <= model.energies_[:-1] + 0.05).all()


def test_last_witness_is_the_ratio_to_the_gaussian_of_the_step_before(fitted):
    """Where most points are; the log of the ratio reaches 1.5 there."""
    _, model = fitted
    (before, cov_before), (mean, cov) = exact_iterates(2)[1:]
    points = np.random.default_rng(3).multivariate_normal(mean, cov, size=500)

    def log_pdf(m, C):
        squares = ((points - m) @ np.linalg.inv(C) * (points - m)).sum(1)
        return -0.5 * squares - 0.5 * np.linalg.slogdet(C)[1]

    exact = log_pdf(mean, cov) - log_pdf(before, cov_before)
    found = np.log(model.density_ratio(points))
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.15
    tensor = model.density_ratio(torch.from_numpy(points).requires_grad_())
    assert tensor.requires_grad
    np.testing.assert_allclose(tensor.detach(), model.density_ratio(points), rtol=1e-6)


def test_training_particles_are_where_transform_takes_them(fitted):
    X, model = fitted
    np.testing.assert_allclose(model.transform(X), model.particles_, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model.transform(X, n_jko=0), X)
    np.testing.assert_array_equal(model.transform(X, n_jko=1), model.path(X)[1])
    np.testing.assert_allclose(model.transform(X[:7]), model.particles_[:7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["residual", "icnn"])
def test_no_training_leaves_the_identity(form):
    X = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 3))
    model = WassersteinGradientFlow(
        log_density=lambda y: -y.square().sum(1), map=form, **TINY | {"n_steps": 0}
    ).fit(X)
    np.testing.assert_allclose(model.transform(X), X, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.w2_, 0, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"map": "icnn"},
        {"map": "icnn", "convexity": "penalty"},
        {"positivity": "softplus"},
        {"positivity": "smooth"},
        {"dv": True},
        {"base_sampler": lambda n, generator: torch.randn(n, 2, generator=generator)},
    ],
    ids=lambda options: " ".join(map(str, options.values()))[:20],
)
def test_variants_make_the_same_step(options):
    model = WassersteinGradientFlow(
        log_density=log_density, step_size=STEP, n_jko=1, rng=0, **options
    ).fit(normal_cloud())
    mean, cov = exact_iterates(1)[1]
    np.testing.assert_allclose(model.particles_.mean(0), mean, atol=0.08)
    np.testing.assert_allclose(np.cov(model.particles_.T), cov, atol=0.15)


def test_divergence_from_samples_makes_the_same_step():
    Y = np.random.default_rng(1).multivariate_normal(MEAN / 2, np.diag(VARIANCES), size=10_000)
    model = WassersteinGradientFlow("kl_samples", step_size=STEP, n_jko=1, rng=0)
    model.fit(normal_cloud(), Y)
    mean, cov = gaussian_jko_step([0, 0], np.eye(2), MEAN / 2, np.diag(VARIANCES), STEP)
    np.testing.assert_allclose(model.particles_.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(model.particles_.T), cov, atol=0.2)


@pytest.mark.parametrize("energy", ["js_samples", "gan_samples"])
def test_jensen_shannon_step_balances_pull_and_distance(energy):
    """At the optimum T(x) - x = -a grad log(2 sigmoid(u)) at T(x), u = log dP'/dQ.

    Between N(0, 1) and N(1, 1) u is 1/2 - x, so that a small step moves x by a (1 - sigmoid(u)).
    """
    a = 0.2
    rng = np.random.default_rng(2)
    X, Y = normal_cloud(d=1), rng.normal(1.0, 1.0, size=(10_000, 1))
    model = WassersteinGradientFlow(energy, step_size=a, n_jko=1, rng=0).fit(X, Y)
    moved = model.particles_.mean() / a
    expected = (1 / (1 + np.exp(0.5 - X))).mean()
    assert moved == pytest.approx(expected, rel=0.25)
    shift = 0.0 if energy == "js_samples" else -2 * math.log(2)
    p, q = np.exp(-(X**2) / 2), np.exp(-((X - 1) ** 2) / 2)
    exact = 2 * math.log(2) + 2 * np.mean(np.log(p / (p + q)))  # both terms are equal by symmetry
    assert model.energies_[0] == pytest.approx(exact + shift, abs=0.04)
    assert model.energies_[1] < model.energies_[0]


def test_porous_medium_spreads_like_barenblatt():
    """Two implicit steps of 0.2 lag by 0.5 %; the variance itself grows by 25 %."""
    X = barenblatt_sample(8000, 1, 1.0, rng=0)
    model = WassersteinGradientFlow("porous", step_size=0.2, n_jko=2, rng=0).fit(X)
    growth = model.particles_.var() / X.var()
    exact = barenblatt_variance(1, 1.4) / barenblatt_variance(1, 1.0)
    assert growth == pytest.approx(exact, abs=0.06)
    from scipy.integrate import quad

    from thalweg.transport import barenblatt

    energy = quad(lambda x: float(barenblatt([x], 1.0)) ** 2, -3, 3)[0]
    assert model.energies_[0] == pytest.approx(energy, rel=0.06)


def test_cubic_porous_medium_spreads_like_barenblatt():
    X = barenblatt_sample(8000, 1, 1.0, 3.0, rng=0)
    model = WassersteinGradientFlow("porous", m=3.0, step_size=0.5, n_jko=1, rng=0).fit(X)
    growth = model.particles_.var() / X.var()
    exact = barenblatt_variance(1, 1.5, 3.0) / barenblatt_variance(1, 1.0, 3.0)
    assert growth == pytest.approx(exact, abs=0.07)


def test_step_schedule_scales_the_steps():
    X = normal_cloud(64)
    options = TINY | {"log_density": log_density, "step_size": 0.4}
    by_call = WassersteinGradientFlow(step_schedule=lambda k: 0.5**k, **options).fit(X)
    by_list = WassersteinGradientFlow(step_schedule=[1.0, 0.5], **options).fit(X)
    np.testing.assert_allclose(by_call.step_sizes_, [0.4, 0.2])
    np.testing.assert_array_equal(by_call.particles_, by_list.particles_)


def test_each_step_is_played_with_its_own_size(monkeypatch):
    sizes = []

    class Recorded(jko.JKOStep):
        def __init__(self, *args, step_size, **options):
            sizes.append(step_size)
            super().__init__(*args, step_size=step_size, **options)

    monkeypatch.setattr("thalweg.transport.wasserstein_flow.JKOStep", Recorded)
    model = WassersteinGradientFlow(
        log_density=log_density, step_schedule=[1.0, 0.5], **TINY | {"step_size": 0.4}
    ).fit(normal_cloud(64))
    np.testing.assert_allclose(sizes[1:], [0.4, 0.2])  # the first trains the witness alone
    np.testing.assert_allclose(model.step_sizes_, sizes[1:])


def test_fresh_points_are_pushed_through_the_maps_so_far():
    def sampler(n, generator):
        return torch.randn(n, 2, generator=generator)

    model = WassersteinGradientFlow(
        log_density=log_density, base_sampler=sampler, lr=0.05, **TINY
    ).fit(normal_cloud(64))
    draw = model._draw_from(torch.zeros(1, 2))
    found = draw(5, torch.Generator().manual_seed(3))
    start = sampler(5, torch.Generator().manual_seed(3)).double().numpy()
    np.testing.assert_allclose(found, model.transform(start), rtol=1e-6)
    assert np.abs(found.numpy() - start).max() > 1e-3


def test_smaller_steps_move_less():
    X = normal_cloud()
    moved = [
        WassersteinGradientFlow(log_density=log_density, step_size=a, n_jko=1, n_steps=30, rng=0)
        .fit(X)
        .w2_[0]
        for a in (0.05, 0.2)
    ]
    exact = [
        ((gaussian_jko_step([0, 0], np.eye(2), MEAN, np.diag(VARIANCES), a)[0]) ** 2).sum()
        for a in (0.05, 0.2)
    ]
    np.testing.assert_allclose(moved, exact, rtol=0.35)


class FixedEnergy:
    """A with a slope that is known, for the objective of the map alone."""

    start, exponent = 0.0, False

    def __init__(self, slope):
        self.slope = slope

    def draw(self, n, generator):
        return torch.randn(n, 1, generator=generator)

    def gain(self, y, u):
        return self.slope * y[:, 0] + 0 * u

    def cost(self, u):
        return 0 * u

    def value(self, gain, cost):
        return gain.mean() - cost.mean()


@pytest.mark.parametrize(("before", "expected"), [(None, 0.6), (1.0, 0.2)])
def test_map_moves_against_the_mean_slope_of_the_energies(before, expected):
    """With A = -3 y and a = 0.2 the map is a shift of 0.6; +1 of the step before halves both."""
    frame = Frame(np.zeros(1), np.eye(1))
    witness = Witness(1, (4,), start=0.0, exponent=False, rng=0)
    previous = None if before is None else (FixedEnergy(before), witness)
    energy = FixedEnergy(-3.0)
    game = jko.JKOStep(
        energy, witness, energy.draw, step_size=0.2, batch_size=64, previous=previous
    )
    flow_map = ResidualMap(frame, (16,), 0)
    generator = torch.Generator().manual_seed(0)
    game.train(flow_map, n_steps=150, n_inner=1, n_outer=2, lr=1e-2, generator=generator)
    x = torch.linspace(-2, 2, 9)[:, None]
    np.testing.assert_allclose(flow_map(x) - x, expected, atol=0.03)


def test_crank_nicolson_is_the_trapezoidal_rule():
    """The mean of a flow from N(0, 1) to N(2, 1) solves m' = 2 - m.

    The first step is implicit in both, as there is no step before it.
    """
    X = normal_cloud(d=1)

    def target(y):
        return -0.5 * (y[:, 0] - 2).square()

    a, means = 0.8, []
    for on in (False, True):
        model = WassersteinGradientFlow(
            log_density=target, step_size=a, n_jko=2, crank_nicolson=on, rng=0
        )
        means.append(model.fit(X).particles_.mean())
    first = 2 * a / (1 + a)
    implicit, trapezoidal = (first + 2 * a) / (1 + a), (first * (1 - a / 2) + 2 * a) / (1 + a / 2)
    np.testing.assert_allclose(means, [implicit, trapezoidal], atol=0.12)
    # what both learn too far cancels
    assert means[1] - means[0] == pytest.approx(trapezoidal - implicit, abs=0.04)


def test_seed_gives_the_same_flow_and_no_global_state_is_touched():
    X = normal_cloud(64)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    model = WassersteinGradientFlow(log_density=log_density, **TINY)
    first, second = model.fit(X).particles_, clone(model).fit(X).particles_
    np.testing.assert_array_equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    other = clone(model).set_params(rng=1).fit(X).particles_
    assert not np.array_equal(first, other)


def test_interrupted_fit_goes_on_from_its_files(tmp_path):
    X = normal_cloud(64)
    options = TINY | {"log_density": log_density}
    whole = WassersteinGradientFlow(**options).fit(X)

    class InterruptedFitError(Exception):
        pass

    def interrupt(state):
        if (state.jko_step, state.step) == (2, 1):
            raise InterruptedFitError

    kept = options | {"checkpoint": tmp_path / "flow"}
    with pytest.raises(InterruptedFitError):
        WassersteinGradientFlow(callback=interrupt, **kept).fit(X)
    resumed = WassersteinGradientFlow(**kept).fit(X)
    np.testing.assert_array_equal(resumed.particles_, whole.particles_)
    np.testing.assert_array_equal(resumed.energies_, whole.energies_)
    with pytest.raises(ValueError, match="another configuration"):
        WassersteinGradientFlow(**kept | {"step_size": 0.3}).fit(X)


def test_callback_sees_every_round_and_can_stop():
    places = []

    def callback(state):
        places.append((state.jko_step, state.step))
        if places[-1] == (1, 2):
            raise StopIteration

    X = normal_cloud(64)
    model = WassersteinGradientFlow(
        log_density=log_density, callback=callback, **TINY | {"n_jko": 3}
    ).fit(X)
    assert places == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert len(model.maps_) == len(model.w2_) == len(model.step_sizes_) == 1
    assert len(model.energies_) == 2


def test_exponents_are_cut_and_counted():
    """A witness with a huge bias is cut at 15."""
    witness = Witness(1, (4,), start=20.0, exponent=True, rng=0)
    x = torch.zeros(6, 1)
    np.testing.assert_array_equal(witness(x).detach(), 15.0)
    assert int(witness.n_clamped) == 6
    witness.eval()(x)
    assert int(witness.n_clamped) == 6


def test_energy_that_overflows_names_the_step():
    def steep(y):
        return torch.where(y[:, 0] > 1e-3, torch.inf, y[:, 0])

    X = -np.abs(normal_cloud(64, 1))
    with pytest.raises(FloatingPointError, match=r"JKO step [12]"):
        WassersteinGradientFlow(
            log_density=steep, step_size=10.0, lr=0.5, **TINY | {"n_steps": 40}
        ).fit(X)


def test_convex_map_is_the_gradient_of_its_convex_potential():
    generator = torch.Generator().manual_seed(0)
    flow_map = ConvexMap(Frame(np.zeros(2), np.eye(2)), (8, 8), "projection", 0).double()
    with torch.no_grad():
        for parameter in flow_map.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator).double()
    flow_map.project()
    z = torch.randn(40, 2, generator=generator).double().requires_grad_()
    (slope,) = torch.autograd.grad(flow_map.potential(z).sum(), z)
    scale = float(flow_map.scale)
    torch.testing.assert_close(scale * slope, flow_map(scale * z).detach())
    x, y = z.detach()[:20], z.detach()[20:]
    inner = ((flow_map(x) - flow_map(y)) * (x - y)).sum(1)
    assert (inner > 0).all()


def test_penalty_weighs_negative_weights_and_projection_removes_them():
    frame = Frame(np.zeros(1), np.eye(1))
    for convexity in ("projection", "penalty"):
        flow_map = ConvexMap(frame, (2, 2), convexity, 0)
        with torch.no_grad():
            flow_map.W[0].copy_(torch.tensor([[-0.5, 1.0], [2.0, 0.0]]))
            flow_map.w.copy_(torch.tensor([-1.0, 3.0]))
        if convexity == "penalty":
            assert float(flow_map.penalty.detach()) == pytest.approx(10 * (0.25 + 1.0))
            flow_map.project()
            assert float(flow_map.w.detach().min()) == -1.0
        else:
            assert flow_map.penalty is None
            flow_map.project()
            assert all(float(w.detach().min()) == 0.0 for w in (flow_map.w, flow_map.W[0]))


def test_frame_whitens():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 5
    frame = Frame(X.mean(0), np.cov(X.T, bias=True))
    x = torch.from_numpy(X).float()
    inside = frame.inward(x)
    np.testing.assert_allclose(np.cov(inside.T.numpy(), bias=True), np.eye(3), atol=2e-3)
    torch.testing.assert_close(frame.outward(inside), x, rtol=1e-4, atol=1e-3)


def test_moving_the_problem_moves_the_flow():
    """The networks see the coordinates of the cloud, so only rounding differs."""
    X, shift = normal_cloud(200), np.array([30.0, -20.0])
    here = WassersteinGradientFlow(log_density=log_density, **TINY).fit(X)

    def moved(y):
        return log_density(y - torch.from_numpy(shift).to(y))

    there = WassersteinGradientFlow(log_density=moved, **TINY).fit(X + shift)
    np.testing.assert_allclose(there.particles_ - shift, here.particles_, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"energy": "renyi"}, "energy must be one of"),
        ({"log_density": None}, "log_density must be a callable"),
        ({"log_density": lambda y: y}, r"log_density must return a tensor \(4,\)"),
        ({"log_density": lambda y: 1.0}, r"log_density must return a tensor \(4,\) .* float"),
        ({"log_density": lambda y: y[:, 0].log()}, "log_density must be finite"),
        ({"energy": "js_samples"}, "Y must be a sample of the target"),
        ({"energy": "kl_samples", "Y": np.zeros((3, 1))}, "same number of columns"),
        ({"energy": "porous", "m": 1.0}, "m must be a finite number > 1"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0"),
        ({"n_jko": 0}, "n_jko must be an integer >= 1"),
        ({"n_steps": -1}, "n_steps must be an integer >= 0"),
        ({"n_inner": 0}, "n_inner must be an integer >= 1"),
        ({"n_outer": 0}, "n_outer must be an integer >= 1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"lr": -1.0}, "lr must be a finite number > 0"),
        ({"map": "affine"}, "map must be one of"),
        ({"convexity": "hope"}, "convexity must be one of"),
        ({"positivity": "abs"}, "positivity must be one of"),
        ({"hidden": (0,)}, "hidden must be an integer >= 1"),
        ({"step_schedule": [1.0]}, "step_schedule must have shape"),
        ({"step_schedule": lambda k: -1.0}, "step_schedule must be a finite number > 0"),
        ({"X": np.zeros((4, 2))}, "two distinct rows"),
        ({"X": np.zeros((1, 2))}, "n at least 2"),
        ({"X": np.full((4, 2), np.nan)}, "X must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(options, match):
    given = {"log_density": log_density, **TINY, **options}
    X, Y = given.pop("X", np.eye(4, 2)), given.pop("Y", None)
    with pytest.raises(ValueError, match=match):
        WassersteinGradientFlow(**given).fit(X, Y)


@pytest.mark.parametrize("n_jko", [-1, 3])
def test_number_of_maps_is_checked(n_jko):
    X = normal_cloud(32)
    model = WassersteinGradientFlow(log_density=log_density, **TINY).fit(X)
    with pytest.raises(ValueError, match="n_jko must be an integer >= 0 and <= 2"):
        model.transform(X, n_jko=n_jko)
    with pytest.raises(ValueError, match="X must have shape"):
        model.transform(np.zeros((3, 1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_flow_on_the_gpu_follows_the_exact_step():
    model = WassersteinGradientFlow(
        log_density=log_density, step_size=STEP, n_jko=1, device="cuda", rng=0
    ).fit(normal_cloud())
    np.testing.assert_allclose(model.particles_.mean(0), exact_iterates(1)[1][0], atol=0.08)
