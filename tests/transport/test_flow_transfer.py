import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import FlowTransfer, classifier_two_sample, mmd2  # noqa: E402

TINY = {"n_steps": 9, "n_blocks": 2, "hidden": 8, "batch_size": 64, "rng": 0}
S = np.array([[1.0, 0.5], [0.5, 2.0]])
D = np.array([[2.0, -0.8], [-0.8, 1.0]])
SHIFT = np.array([1.0, -2.0])


def gaussians(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal([0, 0], S, n), rng.multivariate_normal(SHIFT, D, n)


def conditional(n, data, rng):
    """x = g c + (1 or 2) noise, with conditions of another law in the data."""
    c = rng.normal(0.5 if data else 0.0, 1.0, size=(n, 1))
    noise = rng.normal(size=(n, 2))
    return (2 * c + 2 * noise if data else -c + noise), c


@pytest.fixture(scope="module")
def between_gaussians():
    return FlowTransfer(n_steps=150, lr=2e-2, n_blocks=2, hidden=16, rng=0).fit(*gaussians())


def test_map_between_gaussians_gives_the_covariance_of_the_data(between_gaussians):
    X, _ = gaussians(20_000, 1)
    Z = between_gaussians.transform(X)
    A = np.linalg.lstsq(X - X.mean(0), Z - Z.mean(0), rcond=None)[0].T
    np.testing.assert_allclose(A @ S @ A.T, D, atol=0.1 * 2)
    np.testing.assert_allclose(np.cov(Z.T), D, atol=0.1 * 2)
    np.testing.assert_allclose(Z.mean(0), SHIFT, atol=0.1)


def test_inverse_undoes_the_map(between_gaussians):
    X, _ = gaussians(500, 2)
    Z = between_gaussians.transform(X)
    np.testing.assert_allclose(between_gaussians.inverse_transform(Z), X, atol=1e-3)


def test_log_density_is_that_of_the_data(between_gaussians):
    _, Y = gaussians(2000, 3)
    centred = Y - SHIFT
    exact = -0.5 * (centred @ np.linalg.inv(D) * centred).sum(1)
    exact -= 0.5 * np.log(np.linalg.det(2 * np.pi * D))
    assert np.abs(between_gaussians.log_prob(Y) - exact).mean() < 0.1


def test_conditional_laws_match_though_conditions_differ_in_law():
    rng = np.random.default_rng(0)
    (x, cx), (y, cy) = conditional(4000, False, rng), conditional(4000, True, rng)
    model = FlowTransfer(n_steps=150, lr=2e-2, n_blocks=2, hidden=16, rng=0).fit(
        x, y, source_condition=cx, target_condition=cy
    )
    fresh, c = conditional(4000, False, rng)
    moved = model.transform(fresh, c)
    residual = moved - 2 * c
    np.testing.assert_allclose(residual.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(np.cov(residual.T), 4 * np.eye(2), atol=0.5)
    assert classifier_two_sample(
        np.hstack([moved, c]), np.hstack([2 * c + 2 * rng.normal(size=(4000, 2)), c]), rng=0
    ) < 0.58  # fmt: skip


def test_conditional_mode_draws_from_the_data():
    X, Y = gaussians()
    model = FlowTransfer(
        mode="conditional", n_steps=150, lr=2e-2, n_blocks=2, hidden=16, rng=0
    ).fit(X, Y)
    Z = model.transform(X, rng=1)
    np.testing.assert_allclose(Z.mean(0), SHIFT, atol=0.2)
    np.testing.assert_allclose(np.cov(Z.T), D, atol=0.4)
    np.testing.assert_array_equal(Z, model.transform(X, rng=1))
    assert not np.array_equal(Z, model.transform(X, rng=2))
    assert not hasattr(model, "inverse_transform")
    assert not hasattr(model, "log_prob")


def test_displacement_is_limited_where_asked():
    X, Y = gaussians()
    options = {"n_steps": 120, "lr": 1e-2, "n_blocks": 2, "hidden": 16, "rng": 0}
    free = FlowTransfer(**options, mmd_weight=0.0).fit(X, Y)
    limit = 0.3 * free.constraint_values_["displacement"]
    held = FlowTransfer(**options, mmd_weight=0.0, max_displacement=limit).fit(X, Y)
    assert held.constraint_values_["displacement"] < 0.75 * free.constraint_values_["displacement"]
    assert held.multipliers_["displacement"] > 0
    assert "displacement" not in free.multipliers_


def ring(n, rng):
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 0.15 * rng.normal(size=n)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def test_active_limit_is_met_and_has_a_price():
    """One block cannot bend a normal law to a ring, so that likelihood and discrepancy disagree.

    A free fit ends at a discrepancy of about 0.013.
    """
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(4096, 2)), ring(4096, rng)
    options = {"n_steps": 300, "lr": 1e-2, "n_blocks": 1, "hidden": 16, "rng": 0}
    limit = 0.0115
    held = FlowTransfer(**options, mmd_target=limit).fit(X, Y)
    fresh, truth = rng.normal(size=(4096, 2)), ring(4096, rng)
    scale = truth.std(0)
    final = mmd2(held.transform(fresh) / scale, truth / scale)
    assert final <= 1.5 * limit
    assert held.multipliers_["mmd"] > 1
    assert held.history_["mmd_multiplier"].min() == 0


def test_price_of_a_limit_that_is_met_anyway_returns_to_nothing(between_gaussians):
    """The excess when the constraint sets in is paid for, and none is left at the end."""
    course = between_gaussians.history_["mmd_multiplier"]
    assert course.min() == 0
    assert between_gaussians.multipliers_["mmd"] < 1
    rng = np.random.default_rng(5)
    X, Y = rng.multivariate_normal([0, 0], S, 4096), rng.multivariate_normal(SHIFT, D, 4096)
    Z, scale = between_gaussians.transform(X), Y.std(0)
    assert mmd2(Z / scale, Y / scale) <= 1.5 * between_gaussians.mmd_floor_


def test_history_and_callback_tell_of_the_constraint():
    seen = []
    X, Y = gaussians(300)

    def callback(state):
        seen.append((state.loss, dict(state.constraints)))
        assert state.estimator.transform(X[:3]).shape == (3, 2)

    model = FlowTransfer(**TINY, callback=callback).fit(X, Y)
    assert model.history_["step"].tolist() == [4, 5, 6, 7, 8, 9]
    assert len(model.history_["mmd"]) == len(model.history_["mmd_multiplier"]) == 6
    assert [loss for loss, _ in seen] == pytest.approx(model.history_["loss"].tolist())
    assert seen[2][1] == {}
    assert seen[3][1]["mmd"][0] == pytest.approx(model.history_["mmd"][0])
    assert model.history_["mmd_multiplier"][0] == 0
    assert model.multipliers_["mmd"] >= model.history_["mmd_multiplier"][-1] > 0


@pytest.mark.parametrize("options", [{"mmd_target": 1e-2}, {"mmd_factor": 10.0}])
def test_weight_of_a_violated_limit_adds_up_the_excess(options):
    """By plain ascent, with the discrepancy in units of what it is at first."""
    X, Y = gaussians(300)
    model = FlowTransfer(**TINY, lr=1e-9, multiplier_lr=0.5, **options).fit(X, Y)
    limit = options.get("mmd_target", 10 * model.mmd_floor_)
    course = [*model.history_["mmd_multiplier"], model.multipliers_["mmd"]]
    square = 0.5 * (model.history_["mmd"] - limit) / np.diff(course)
    np.testing.assert_allclose(square, square[0], rtol=1e-4)
    scale = Y.std(0)
    assert square[0] ** 0.5 == pytest.approx(mmd2(X / scale, Y / scale), rel=0.05)


def test_fixed_weight_replaces_the_limit():
    X, Y = gaussians(300)
    none, some = (FlowTransfer(**TINY, mmd_weight=w).fit(X, Y) for w in (0.0, 50.0))
    assert none.multipliers_ == some.multipliers_ == {}
    np.testing.assert_array_equal(none.history_["loss"][:3], some.history_["loss"][:3])
    assert abs(some.history_["loss"][3] - none.history_["loss"][3]) > 0.1


def test_floor_is_the_size_of_the_discrepancy_of_halves():
    X, Y = gaussians(2000)
    small = FlowTransfer(**TINY).fit(X[:300], Y[:300]).mmd_floor_
    large = FlowTransfer(**TINY).fit(X, Y).mmd_floor_
    assert 0 < large < small < 0.05
    with pytest.warns(UserWarning, match=r"mmd_target is 1e-09, below the [\d.e-]+ of two halves"):
        FlowTransfer(**TINY, mmd_target=1e-9).fit(X, Y)


def test_order_of_features_matters_only_to_the_noise():
    X, Y = gaussians()
    options = {"n_steps": 90, "lr": 2e-2, "n_blocks": 2, "hidden": 16, "rng": 0}
    scores = []
    for order in ([0, 1], [1, 0]):
        Z = FlowTransfer(**options).fit(X[:, order], Y[:, order]).transform(X[:, order])
        scores.append(classifier_two_sample(Z, Y[:, order], rng=0))
    assert scores == pytest.approx([0.51, 0.51], abs=0.04)


def test_resumed_fit_equals_an_uninterrupted_one(tmp_path):
    X, Y = gaussians(300)
    through = FlowTransfer(**TINY).fit(X, Y)

    def interrupt(state):
        if state.step == 5:
            raise KeyboardInterrupt

    path = tmp_path / "fit"
    with pytest.raises(KeyboardInterrupt):
        FlowTransfer(**TINY, checkpoint=path, callback=interrupt).fit(X, Y)
    resumed = FlowTransfer(**TINY, checkpoint=path).fit(X, Y)
    np.testing.assert_array_equal(resumed.transform(X), through.transform(X))
    assert resumed.multipliers_ == through.multipliers_
    with pytest.raises(ValueError, match="another configuration"):
        FlowTransfer(**TINY, checkpoint=path, damping=2.0).fit(X, Y)


def test_units_and_seeds_do_not_matter_beyond_their_meaning():
    X, Y = gaussians(300)
    plain = FlowTransfer(**TINY).fit(X, Y).transform(X)
    state = torch.get_rng_state()
    scaled = clone(FlowTransfer(**TINY)).fit(1e3 * X + 7, 1e3 * Y + 7).transform(1e3 * X + 7)
    np.testing.assert_allclose((scaled - 7) / 1e3, plain, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "paired"}, "mode must be one of"),
        ({"damping": -1.0}, "damping must"),
        ({"mmd_target": 0.0}, "mmd_target must"),
        ({"mmd_target": "ceiling"}, "mmd_target must be one of"),
        ({"mmd_factor": 0.0}, "mmd_factor must"),
        ({"mmd_weight": -1.0}, "mmd_weight must"),
        ({"max_displacement": 0.0}, "max_displacement must"),
        ({"n_steps": 0}, "n_steps must"),
        ({"lr": 0.0}, "lr must"),
    ],
)
def test_bad_parameters_are_refused_by_name(options, match):
    with pytest.raises(ValueError, match=match):
        FlowTransfer(**options).fit(*gaussians(200))


def test_bad_samples_are_refused_by_name():
    X, Y = gaussians(200)
    c = np.linspace(0, 1, 200)[:, None]
    flat = X.copy()
    flat[:, 1] = 3.0
    holes = X.copy()
    holes[5, 0] = np.nan
    model = FlowTransfer(**TINY)
    for arguments, match in (
        ((X, Y[:, :1]), "target must have 2 columns"),
        ((X[:199], Y), "source must have at least 200 rows, got 199"),
        ((X, Y[:199]), "target must have at least 200 rows"),
        ((flat, Y), "source must vary in every column, column 1 is always 3"),
        ((X, flat), "target must vary in every column"),
        ((holes, Y), "source must be finite"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(*arguments)
    for conditions, match in (
        ({"source_condition": c}, "target_condition must be given"),
        ({"target_condition": c}, "source_condition must be given"),
        ({"source_condition": c, "target_condition": c[:9]}, "target_condition must have shape"),
        ({"source_condition": c, "target_condition": 0 * c}, "target_condition must vary"),
        ({"source_condition": c, "target_condition": np.hstack([c, c])}, "must have 1 columns"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(X, Y, **conditions)


def test_conditions_are_asked_for_as_fitted():
    X, Y = gaussians(200)
    c = np.linspace(0, 1, 200)[:, None]
    with_condition = FlowTransfer(**TINY).fit(X, Y, source_condition=c, target_condition=c)
    with pytest.raises(ValueError, match=r"condition must have shape \(200, 1\)"):
        with_condition.transform(X)
    with pytest.raises(ValueError, match="condition must be None"):
        FlowTransfer(**TINY).fit(X, Y).transform(X, c)
    assert with_condition.transform(X[:0], c[:0]).shape == (0, 2)


def test_a_loss_that_leaves_the_numbers_names_its_step():
    X, Y = gaussians(300)
    with pytest.raises(FloatingPointError, match="at step"):
        FlowTransfer(**{**TINY, "n_steps": 60}, lr=1e30).fit(X, Y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_runs_on_cuda():
    X, Y = gaussians(300)
    assert np.isfinite(FlowTransfer(**TINY, device="cuda").fit(X, Y).transform(X)).all()
