import math
import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    DataSeparation,
    GaussianPath,
    GaussianPathFlow,
    kinetic_energy,
    normalize_data,
)
from thalweg.transport.gaussian_path_flow import LAST_TIME, TABLE_SIZE, VelocityLoss  # noqa: E402

MEAN, COV = np.array([3.0, -40.0]), np.array([[9.0, 4.0], [4.0, 16.0]])
SMALL = {"hidden": (64, 64), "n_steps": 500, "lr": 1e-2, "ema": 0.97, "rng": 0}
TINY = {"hidden": (8,), "n_steps": 12, "batch_size": 16, "rng": 0}
FIXED = ["cond-ot", "vp-cosine"]


def normal_rows(n=3000, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COV, size=n)


@pytest.fixture(scope="module")
def fitted():
    return {path: GaussianPathFlow(path, **SMALL).fit(normal_rows()) for path in FIXED}


@pytest.mark.parametrize("path", FIXED)
def test_samples_have_the_law_of_the_data(fitted, path):
    sample = fitted[path].sample(6000, n_steps=20, rng=1)
    np.testing.assert_allclose(sample.mean(0), MEAN, atol=0.5)
    assert np.linalg.norm(np.cov(sample.T) - COV) < 0.15 * np.linalg.norm(COV)


@pytest.mark.parametrize("path", FIXED)
def test_velocity_is_that_of_normal_data(fitted, path):
    """u = a' E[x_1 | x] + m' E[z | x], linear in x for normal data."""
    model, rng = fitted[path], np.random.default_rng(2)
    S = COV / model.scale_**2
    for t in (0.1, 0.5, 0.9):
        a, m, da, dm = model.path_.coefficients(t)
        total = a**2 * S + m**2 * np.eye(2)
        x = rng.multivariate_normal([0, 0], total, size=500)
        exact = x @ np.linalg.solve(total, da * a * S + dm * m * np.eye(2)) * model.scale_
        found = model.velocity(t, model.mean_ + model.scale_ * x)
        error, size = (np.sqrt((v**2).mean()) for v in (found - exact, exact))
        assert error < 0.1 * size + 0.06 * model.scale_


@pytest.mark.parametrize("path", FIXED)
def test_density_is_that_of_the_law_it_learned(fitted, path):
    X = normal_rows(300, 5)
    exact = multivariate_normal(MEAN, COV).logpdf(X)
    found = fitted[path].log_prob(X, n_steps=20)
    assert abs((found - exact).mean()) < 0.08
    assert np.abs(found - exact).mean() < 0.15


def test_density_integrates_to_one(fitted):
    axes = [np.linspace(c - 6 * r, c + 6 * r, 60) for c, r in zip(MEAN, (3, 4), strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    density = np.exp(fitted["cond-ot"].log_prob(grid, n_steps=20))
    assert density.sum() * cell == pytest.approx(1, abs=0.01)


def test_optimal_path_is_that_of_the_data():
    X = np.random.default_rng(0).normal(size=(20, 12)) + 4
    model = GaussianPathFlow("ko", **TINY).fit(X)
    Z, mean, scale = normalize_data(X)
    separation = DataSeparation.from_data(Z, n_draws=2000, rng=1)
    assert model.separation_.total_angle_ == pytest.approx(separation.total_angle_, abs=0.03)
    best = kinetic_energy(GaussianPath.kinetic_optimal(separation), separation)
    assert kinetic_energy(model.path_, separation) == pytest.approx(best, abs=5e-3)
    np.testing.assert_allclose(model.mean_, mean)
    assert model.scale_ == pytest.approx(scale)
    assert GaussianPathFlow("cond-ot", **TINY).fit(X).separation_ is None


def test_optimal_path_learns_two_points():
    """Samples of the fitted flow end near the points, half at each."""
    X = np.repeat([[-1.0, 2.0], [3.0, 2.0]], 50, axis=0)
    model = GaussianPathFlow("ko", **SMALL).fit(X)
    sample = model.sample(2000, n_steps=8, rng=1)
    distance = np.linalg.norm(sample[:, None] - X[[0, -1]], axis=-1)
    assert np.median(distance.min(1)) < 0.25
    assert abs((distance.argmin(1) == 0).mean() - 0.5) < 0.06


def test_loss_is_the_weighted_error_against_the_conditional_velocity():
    path = GaussianPath.vp_linear()
    seen = {}

    def network(t, x):
        seen["t"], seen["x"] = t, x
        return 0.3 * x + 1

    X = torch.tensor([[2.0, -1.0]], dtype=torch.float64)  # one row: the noise can be solved for
    loss = VelocityLoss(network, X, path, 400)(torch.Generator().manual_seed(0))
    t, x, x1 = seen["t"].numpy(), seen["x"].numpy(), X.numpy()
    a, m, da, dm = (v[:, None] for v in path.coefficients(t))
    z = (x - a * x1) / m
    error = 0.3 * x + 1 - path.conditional_velocity(t, x, np.tile(x1, (400, 1)))
    assert float(loss) == pytest.approx((error**2 / (da**2 + dm**2)).mean(), rel=1e-6)
    assert abs(z.mean()) < 0.2
    assert abs(z.std() - 1) < 0.1
    assert 0 < t.min() < 0.01
    assert 0.99 < t.max() < LAST_TIME
    np.testing.assert_array_equal(np.floor(400 * t / LAST_TIME - 1e-9), np.arange(400))
    assert TABLE_SIZE > 400


def test_velocity_takes_a_time_a_row_and_tensors(fitted):
    model = fitted["cond-ot"]
    x = normal_rows(3)
    times = np.array([0.1, 0.5, 1.0])
    rows = model.velocity(times, x)
    for t, row, point in zip(times, rows, x, strict=True):
        np.testing.assert_allclose(model.velocity(t, point[None])[0], row, rtol=1e-3, atol=1e-3)
    tensor = model.velocity(torch.from_numpy(times), torch.from_numpy(x))
    np.testing.assert_allclose(tensor.detach(), rows, rtol=1e-5, atol=1e-5)


def test_fit_is_equivariant_to_shifts_and_scale():
    X = normal_rows(200)
    one = GaussianPathFlow("ko", **TINY).fit(X)
    other = GaussianPathFlow("ko", **TINY).fit(10 * X - 7)
    np.testing.assert_allclose(
        other.sample(50, n_steps=4), 10 * one.sample(50, n_steps=4) - 7, rtol=1e-3, atol=1e-2
    )
    np.testing.assert_allclose(
        other.log_prob(10 * X[:9] - 7, n_steps=4) + 2 * math.log(10),
        one.log_prob(X[:9], n_steps=4),
        atol=1e-3,
    )


def test_high_dimensions_use_an_estimate_of_the_divergence():
    X = np.random.default_rng(0).normal(size=(50, 17))
    model = GaussianPathFlow("cond-ot", **TINY).fit(X)
    one, other = (model.log_prob(X, n_steps=4, rng=seed) for seed in (0, 1))
    assert (one != other).any()
    np.testing.assert_array_equal(one, model.log_prob(X, n_steps=4, rng=0))


def test_seeds_decide_the_fit_and_the_draw():
    X = normal_rows(200)
    one, two = (GaussianPathFlow("ko", **TINY).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.sample(5), two.sample(5))
    assert (one.sample(5, rng=3) != one.sample(5, rng=4)).all()
    other = GaussianPathFlow("ko", **{**TINY, "rng": 1}).fit(X)
    assert (one.sample(5, rng=3) != other.sample(5, rng=3)).all()


def test_estimator_can_be_cloned_and_pickled():
    for path in ("ko", GaussianPath.kinetic_optimal(DataSeparation.perfect())):
        model = clone(GaussianPathFlow(path, **TINY)).fit(normal_rows(60))
        other = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(model.sample(5), other.sample(5))
    assert model.n_features_in_ == 2
    assert len(model.losses_) == 12


class StoppedError(Exception):
    pass


def stop(state):
    if state.step == 5:
        raise StoppedError


def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path):
    X = normal_rows(60)
    whole = GaussianPathFlow("ko", **TINY).fit(X)
    model = GaussianPathFlow("ko", checkpoint=tmp_path / "fit", callback=stop, **TINY)
    with pytest.raises(StoppedError):
        model.fit(X)
    model.set_params(callback=None).fit(X)
    np.testing.assert_array_equal(model.sample(5), whole.sample(5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "ko"}, "path was 'cond-ot' and is now 'ko'"),
        ({"path": GaussianPath.cond_ot()}, "path was 'cond-ot'"),
        ({"rng": 1}, "rng was 0 and is now 1"),
        ({"batch_size": 17}, "batch_size was 16"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, change, message):
    options = {"path": "cond-ot", "checkpoint": tmp_path / "fit", **TINY}
    GaussianPathFlow(**options).fit(normal_rows(60))
    with pytest.raises(ValueError, match=message):
        GaussianPathFlow(**{**options, **change}).fit(normal_rows(60))
    with pytest.raises(ValueError, match="data was"):
        GaussianPathFlow(**options).fit(normal_rows(60) + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "straight"}, "path must be one of 'ko', 'cond-ot'"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"ema": 1.0}, "ema must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        GaussianPathFlow(**{**TINY, **change}).fit(normal_rows(60))


def test_bad_arrays_are_refused_by_name(fitted):
    with pytest.raises(ValueError, match="zero variance"):
        GaussianPathFlow("ko", **TINY).fit(np.ones((5, 2)))
    model = fitted["cond-ot"]
    with pytest.raises(ValueError, match="X must have shape"):
        model.log_prob(np.ones((5, 3)))
    with pytest.raises(ValueError, match="n must be"):
        model.sample(0)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        model.velocity(1.5, np.ones((1, 2)))
    still = GaussianPath(lambda t: ((t > 0.5) * 1.0, (t <= 0.5) * 1.0, 0 * t, 0 * t))
    with pytest.raises(ValueError, match="path must have finite"):
        GaussianPathFlow(still, **TINY).fit(normal_rows(60))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fits_on_a_device():
    model = GaussianPathFlow("ko", device="cuda", **TINY).fit(normal_rows(60))
    assert model.sample(5).shape == (5, 2)
    assert np.isfinite(model.log_prob(normal_rows(5))).all()
    assert model.velocity(0.5, normal_rows(5)).shape == (5, 2)
