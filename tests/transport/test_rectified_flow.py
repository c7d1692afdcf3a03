import pickle

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    RectifiedFlow,
    TimeMLP,
    convex_cost,
    gaussian_matching_loss,
    gaussian_ot_map,
    gaussian_rectify,
    optimality_gap_bound,
)
from thalweg.transport._rectified_fields import PotentialField  # noqa: E402

S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])
M0, M1 = np.array([1.0, -2.0]), np.array([-3.0, 0.5])
N = 8000
SMALL = {"hidden": (32, 32), "n_steps": 600, "lr": 1e-2, "batch_size": 256, "n_pairs": 2000,
         "n_ode_steps": 20, "rng": 0}  # fmt: skip
TINY = {**SMALL, "hidden": (8,), "n_steps": 12, "batch_size": 16, "n_ode_steps": 5}
QUARTER_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def gaussians(seed, n=N):
    rng = np.random.default_rng(seed)
    return (rng.multivariate_normal(m, S, size=n) for m, S in ((M0, S0), (M1, S1)))


def tiny_clouds(n=60):
    rng = np.random.default_rng(7)
    return rng.normal(size=(n, 2)), 1 + 0.5 * rng.normal(size=(n, 2))


def linear_part(X, Z):
    """Least-squares matrix of an affine map."""
    return np.linalg.lstsq(X - X.mean(0), Z - Z.mean(0), rcond=None)[0].T


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.fixture(scope="module")
def squared():
    return RectifiedFlow("sqeuclidean", n_iter=2, **SMALL).fit(*gaussians(0))


@pytest.fixture(scope="module")
def plain():
    return RectifiedFlow(None, **SMALL).fit(*gaussians(0))


@pytest.fixture(scope="module")
def cubed():
    return RectifiedFlow(("power", 3.0), **SMALL).fit(*gaussians(0))


def test_learned_map_is_the_optimal_one_between_gaussians(squared):
    X, _ = gaussians(1)
    A, b = gaussian_ot_map(M0, S0, M1, S1)
    assert relative(squared.transform(X), X @ A.T + b) < 0.05
    assert relative(linear_part(X, squared.transform(X)), A) < 0.05


def test_costs_and_losses_are_those_of_the_exact_iteration(squared):
    """Held-out rows have a sampling error of a few percent."""
    shift = ((M1 - M0) ** 2).sum() / 2
    C = np.zeros((2, 2))
    for k in range(2):
        cost = shift + np.trace(S0 + S1) / 2 - np.trace(C)
        assert abs(squared.costs_[k] - cost) < 4 * squared.cost_errors_[k] + 0.01 * cost
        loss = gaussian_matching_loss(S0, S1, C)
        assert squared.losses_[k] == pytest.approx(loss, rel=0.12, abs=0.02)
        C = S0 @ gaussian_rectify(S0, S1, C).T


def test_plain_flow_is_that_of_free_matrices(plain):
    X, _ = gaussians(1)
    G = gaussian_rectify(S0, S1, conservative=False)
    assert relative(linear_part(X, plain.transform(X)), G) < 0.05
    assert relative(linear_part(X, plain.transform(X)), gaussian_rectify(S0, S1)) > 0.05
    loss = gaussian_matching_loss(S0, S1, conservative=False)
    assert plain.losses_[0] == pytest.approx(loss, rel=0.1)


@pytest.mark.parametrize("model", ["squared", "plain", "cubed"])
def test_end_law_is_that_of_the_target(model, request):
    X, _ = gaussians(2)
    Z = request.getfixturevalue(model).transform(X)
    assert np.abs(Z.mean(0) - M1).max() < 0.06
    assert relative(np.cov(Z.T), S1) < 0.1


def test_loss_of_the_squared_cost_is_the_squared_error():
    """Their gradients in the weights are the same, in the units that the loss is divided by."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(50, generator=generator)
    u, move = (torch.randn(50, 2, generator=generator) for _ in range(2))
    shift, scale = torch.tensor([1.0, -0.5]), 1.7
    network = TimeMLP(2, 1, hidden=(8,), rng=0)
    field = PotentialField(network, convex_cost("sqeuclidean"), shift, scale, move)
    weights = list(network.parameters())[:-1]  # the last bias has no gradient
    found = torch.autograd.grad(field.loss(t, u, move), weights)
    error = field.dual(t, u, differentiable=True) - (shift + scale * move)
    expected = torch.autograd.grad(error.square().sum(1).mean() / 2, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one * field.spread * scale, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", [("power", 1.5), ("norm", 3.0), ("quadratic", S1)])
def test_matching_loss_is_zero_at_the_right_gradient_alone(spec):
    """Rows that all move alike: the start of the network is the answer, others lose."""
    c, shift = convex_cost(spec), torch.tensor([2.0, -0.5])
    still, u = torch.zeros(50, 2), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    network = TimeMLP(2, 1, hidden=(8,), zero_init=True, rng=0)
    field = PotentialField(network, c, shift, 1.3, still)
    assert abs(float(field.excess(0.5, u, still).mean())) < 1e-6
    torch.testing.assert_close(field.velocity(0.5, u), still, atol=1e-5, rtol=0)
    torch.nn.init.normal_(network.rest[-1].weight, generator=torch.Generator().manual_seed(1))
    field.spread = 1.0
    gap = field.excess(0.5, u, still)
    y = field.dual(0.5, u).double()
    expected = c.conjugate(y) - y @ shift.double() + c.cost(shift.double()[None])
    torch.testing.assert_close(gap, expected)
    assert (gap > 0).all()


@pytest.mark.parametrize("cost", [("power", 1.5), ("power", 3.0)])
def test_on_the_line_every_cost_gives_the_quantile_coupling(cost):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6000, 1)), rng.exponential(size=(5000, 1))
    Z = RectifiedFlow(cost, n_iter=2, **SMALL).fit(X, Y).transform(X)
    assert spearmanr(X[:, 0], Z[:, 0]).statistic >= 0.999
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    np.testing.assert_allclose(np.quantile(Z, levels), np.quantile(Y, levels), atol=0.12)


@pytest.mark.parametrize(
    "cost", ["sqeuclidean", ("power", 1.5), ("power", 3.0), ("norm", 1.5), ("quadratic", S1)]
)
def test_translation_is_found_for_every_cost(cost):
    rng = np.random.default_rng(0)
    shift = np.array([2.0, -1.0])
    X = rng.normal(size=(4000, 2))
    model = RectifiedFlow(cost, n_iter=2, **SMALL).fit(X, X + shift)
    away = X[(X**2).sum(1) < 4]
    assert np.sqrt(((model.transform(away) - away - shift) ** 2).sum(1).mean()) < 0.12
    assert model.losses_[1] < 0.02 * model.costs_[0]
    assert model.costs_[2] == pytest.approx(convex_cost(cost).cost(shift[None])[0], rel=0.03)


def test_given_pairs_of_a_translation_are_kept_exactly():
    X = np.random.default_rng(0).normal(size=(500, 2))
    for cost in (None, ("power", 1.5)):
        model = RectifiedFlow(cost, **TINY).fit(X, X + 3, paired=True)
        np.testing.assert_allclose(model.transform(X), X + 3, atol=1e-4)
        assert model.losses_[0] == pytest.approx(0, abs=1e-6)
        assert model.straightness_[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("cost", ["sqeuclidean", ("power", 1.5), ("power", 3.0)])
def test_a_rotation_is_undone_by_a_cost_and_kept_without(cost):
    X = np.random.default_rng(0).normal(size=(6000, 2))
    pairs = X, X @ QUARTER_TURN.T
    undone = RectifiedFlow(cost, **SMALL).fit(*pairs, paired=True)
    kept = RectifiedFlow(None, **SMALL).fit(*pairs, paired=True)
    assert relative(kept.transform(X), pairs[1]) < 0.05
    c = convex_cost(cost)
    assert c.cost(undone.transform(X) - X).mean() < 0.06 * c.cost(kept.transform(X) - X).mean()


def test_velocity_is_the_displacement_where_pairs_go_straight():
    X = np.random.default_rng(0).normal(size=(6000, 2))
    Y = 0.4 * X + np.array([1.0, 2.0])
    model = RectifiedFlow(None, **SMALL).fit(X, Y, paired=True)
    for t in (0.1, 0.5, 0.9):
        assert relative(model.velocity(t, (1 - t) * X + t * Y), Y - X) < 0.05
    assert model.straightness_[0] < 0.01
    np.testing.assert_allclose(model.one_step(X), X + model.velocity(0.0, X))
    assert relative(model.one_step(X), Y) < 0.05


def test_velocity_is_the_conjugate_gradient_of_the_potential(cubed, squared):
    x = torch.from_numpy(next(gaussians(3, 200))).requires_grad_()
    t = torch.linspace(0.0, 1.0, 200, dtype=torch.float64)
    for model in (cubed, squared):
        (slope,) = torch.autograd.grad(model.potential(t, x).sum(), x)
        expected = convex_cost(model.cost).grad_conjugate(slope)
        torch.testing.assert_close(model.velocity(t, x).detach(), expected, rtol=1e-3, atol=1e-3)


def test_velocity_can_be_differentiated(squared):
    """The Jacobian of a gradient field is symmetric, and that of finite differences."""
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: squared.velocity(0.4, z), x)[0, :, 0]
    torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-3, atol=1e-4)
    h = 1e-2
    for i in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[i]
        slope = (squared.velocity(0.4, x + step) - squared.velocity(0.4, x - step)) / (2 * h)
        torch.testing.assert_close(slope[0], jacobian[:, i], rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize("model", ["squared", "plain", "cubed"])
def test_flow_and_its_inverse_cancel(model, request):
    model, (X, _) = request.getfixturevalue(model), gaussians(4, 300)
    X = X[((X - M0) ** 2).sum(1) < 4]
    back = model.inverse_transform(model.transform(X, n_steps=200), n_steps=200)
    assert np.sqrt(((back - X) ** 2).mean()) < 1e-3


def test_paths_start_at_the_points_and_end_where_the_map_does(cubed):
    X, Y = gaussians(5, 50)
    path = cubed.sample_path(X, 7)
    assert path.shape == (8, 50, 2)
    np.testing.assert_allclose(path[0], X, atol=1e-5)
    np.testing.assert_allclose(path[-1], cubed.transform(X, n_steps=7), atol=1e-5)
    back = cubed.sample_path(Y, 7, direction="backward")
    np.testing.assert_allclose(back[0], Y, atol=1e-5)
    np.testing.assert_allclose(back[-1], cubed.inverse_transform(Y, n_steps=7), atol=1e-5)
    middle = cubed.sample_path(X, 100)[49:52]
    speed = cubed.velocity(0.5, middle[1])
    np.testing.assert_allclose((middle[2] - middle[0]) / 0.02, speed, rtol=0.02, atol=0.02)


def test_many_rows_are_carried_in_parts(monkeypatch, squared):
    X, _ = gaussians(6, 100)
    whole = squared.transform(X), squared.sample_path(X, 4)
    monkeypatch.setattr("thalweg.transport._rectified_fields.ROWS_AT_ONCE", 30)
    np.testing.assert_allclose(squared.transform(X), whole[0], atol=1e-5)
    np.testing.assert_allclose(squared.sample_path(X, 4), whole[1], atol=1e-5)


def test_held_out_figures_are_those_of_the_coupling(cubed):
    X, Z = cubed.couplings_
    assert X.shape == Z.shape == (N // 10, 2)
    costs = convex_cost(("power", 3.0)).cost(Z - X)
    assert cubed.costs_[-1] == pytest.approx(costs.mean(), rel=1e-5)
    assert cubed.cost_errors_[-1] == pytest.approx(costs.std() / np.sqrt(len(X)), rel=1e-4)
    np.testing.assert_allclose(cubed.transform(X), Z, atol=1e-4)
    path = cubed.sample_path(X)
    chord = path[-1] - path[0]
    errors = [((cubed.velocity(k / 20, x) - chord) ** 2).sum(1).mean() for k, x in enumerate(path)]
    assert cubed.straightness_[0] == pytest.approx(np.trapezoid(errors, dx=1 / 20), rel=1e-3)


@pytest.mark.parametrize("paired", [True, False])
def test_held_out_rows_are_not_learnt_from(paired):
    u0 = torch.arange(40.0)[:, None]
    u1 = 100 + torch.arange(40.0 if paired else 60.0)[:, None]
    learnt, held = RectifiedFlow()._split(u0, u1, paired, torch.Generator().manual_seed(0))
    assert len(held[0]) == len(held[1]) == 4
    for whole, some, others in zip((u0, u1), learnt, held, strict=True):
        assert torch.equal(torch.cat([some, others]).sort(0).values, whole)
    for start, end in (learnt, held):
        assert (len(start) == len(end) and torch.equal(end, start + 100)) == paired


def test_fit_is_equivariant_to_shifts_and_scale():
    X, Y = tiny_clouds()
    for cost in (None, ("power", 1.5), ("norm", 3.0)):
        one = RectifiedFlow(cost, n_iter=2, **TINY).fit(X, Y)
        other = RectifiedFlow(cost, n_iter=2, **TINY).fit(10 * X + 300, 10 * Y + 300)
        moved, expected = other.transform(10 * X + 300), 10 * one.transform(X) + 300
        np.testing.assert_allclose(moved, expected, atol=2e-2)


class Cosh:
    def cost(self, x):
        return (x.cosh() - 1).sum(1)

    def conjugate(self, y):
        return (y * y.asinh() - (1 + y * y).sqrt() + 1).sum(1)

    def grad_conjugate(self, y):
        return y.asinh()


def test_own_cost_is_lowered():
    X = np.random.default_rng(0).normal(size=(3000, 2))
    model = RectifiedFlow(Cosh(), **SMALL).fit(X, X @ QUARTER_TURN.T, paired=True)
    assert model.costs_[1] < 0.06 * model.costs_[0]
    assert 0 < model.losses_[0] < model.costs_[0] - model.costs_[1]


def test_fresh_pairs_for_each_batch_lead_to_the_same_map(squared):
    options = {**SMALL, "n_pairs": None, "n_iter": 2, "n_steps": 400, "n_ode_steps": 6}
    model = RectifiedFlow("sqeuclidean", **options).fit(*gaussians(0))
    X, _ = gaussians(1)
    A, b = gaussian_ot_map(M0, S0, M1, S1)
    assert relative(model.transform(X, n_steps=20), X @ A.T + b) < 0.06


def test_fits_start_where_the_one_before_ended_or_anew():
    X, Y = tiny_clouds(400)
    options = {**TINY, "n_steps": 150, "n_iter": 2, "lr": 1e-2}
    warm = RectifiedFlow("sqeuclidean", **options).fit(X, Y)
    cold = RectifiedFlow("sqeuclidean", warm_start_potential=False, **options).fit(X, Y)
    np.testing.assert_array_equal(warm.history_[0], cold.history_[0])
    assert warm.history_[1][:5].mean() < 0.5 * cold.history_[1][:5].mean()


def test_callback_is_told_the_place():
    seen = []
    RectifiedFlow(
        "sqeuclidean", n_iter=2, callback=lambda s: seen.append((s.round, s.step)), **TINY
    ).fit(*tiny_clouds())
    assert seen == [(number, step) for number in (1, 2) for step in range(1, 13)]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("place", [(1, 5), (1, 12), (2, 7)])
@pytest.mark.parametrize("n_pairs", [30, None])
def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path, place, n_pairs):
    def stop(state):
        if (state.round, state.step) == place:
            raise StoppedError

    X, Y = tiny_clouds()
    options = {**TINY, "n_iter": 2, "n_pairs": n_pairs}
    whole = RectifiedFlow(("power", 3.0), **options).fit(X, Y)
    model = RectifiedFlow(("power", 3.0), checkpoint=tmp_path / "f", callback=stop, **options)
    with pytest.raises(StoppedError):
        model.fit(X, Y)
    model.set_params(callback=None).fit(X, Y)
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))
    np.testing.assert_array_equal(model.losses_, whole.losses_)
    np.testing.assert_array_equal(model.history_, whole.history_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": ("power", 2.5)}, r"cost was 'PowerCost\(3\)' and is now 'PowerCost\(2.5\)'"),
        ({"rng": 1}, "rng was 0 and is now 1"),
        ({"batch_size": 17}, "batch_size was 16"),
        ({"n_ode_steps": 6}, "n_ode_steps was 5"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, change, message):
    X, Y = tiny_clouds()
    options = {"cost": ("power", 3.0), "checkpoint": tmp_path / "fit", **TINY}
    RectifiedFlow(**options).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**{**options, **change}).fit(X, Y)
    with pytest.raises(ValueError, match="data was"):
        RectifiedFlow(**options).fit(X, Y + np.eye(60, 2))


def test_estimator_can_be_cloned_and_pickled():
    X, Y = tiny_clouds()
    model = clone(RectifiedFlow(("norm", 1.5), **TINY)).fit(X, Y)
    again = RectifiedFlow(("norm", 1.5), **TINY).fit(X, Y)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.transform(X), other.transform(X))
    np.testing.assert_array_equal(model.transform(X), again.transform(X))
    assert model.n_features_in_ == 2


def test_single_points_are_carried():
    model = RectifiedFlow("sqeuclidean", **TINY).fit([[0.0, 0.0]], [[1.0, 2.0]])
    np.testing.assert_allclose(model.transform([[0.0, 0.0]]), [[1.0, 2.0]], atol=1e-3)


def test_plain_flow_has_no_potential(plain):
    assert not hasattr(plain, "potential")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": "cubic"}, "cost must be"),
        ({"cost": ("power", 1.0)}, "p must be"),
        ({"cost": ("quadratic", np.eye(3))}, r"A must have shape \(2, 2\)"),
        ({"n_iter": 0}, "n_iter must be"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"schedule": "linear"}, "schedule must be"),
        ({"n_pairs": 0}, "n_pairs must be"),
        ({"n_ode_steps": 0}, "n_ode_steps must be"),
        ({"method": "dopri5"}, "method must be one of"),
        ({"validation_fraction": 1.0}, "validation_fraction must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**{**TINY, **change}).fit(*tiny_clouds())


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), "same number of columns"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "Y must be finite"),
        (np.zeros(5), np.zeros((5, 2)), "X must have 2 axes"),
        (np.zeros((5, 2)), np.zeros((6, 2)), "same number of rows when paired, got 5 and 6"),
    ],
)
def test_bad_clouds_are_refused_by_name(X, Y, message):
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**TINY).fit(X, Y, paired=True)


def test_bad_calls_are_refused_by_name():
    X, Y = tiny_clouds()
    model = RectifiedFlow("sqeuclidean", **TINY).fit(X, Y)
    with pytest.raises(ValueError, match=r"X must have shape \(any, 2\)"):
        model.transform(X[:, :1])
    with pytest.raises(ValueError, match=r"Y must have shape \(any, 2\)"):
        model.inverse_transform(X[:, :1])
    with pytest.raises(ValueError, match=r"X must have shape \(any, 2\)"):
        model.one_step(X[:, :1])
    with pytest.raises(ValueError, match="n_steps must be"):
        model.transform(X, n_steps=0)
    with pytest.raises(ValueError, match="direction must be one of"):
        model.sample_path(X, direction="up")
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        model.velocity(1.5, X)


def test_a_diverging_flow_names_iteration_and_time(monkeypatch):
    calm = PotentialField.velocity
    monkeypatch.setattr(
        PotentialField, "velocity", lambda self, t, u: calm(self, t, u) / (1.0 if t < 0.5 else 0.0)
    )
    with pytest.raises(FloatingPointError, match=r"iteration 1: .* at t = 0\.6"):
        RectifiedFlow("sqeuclidean", **TINY).fit(*tiny_clouds())


def test_bound_is_the_share_of_the_cost():
    assert optimality_gap_bound(3.0, 4) == 0.75
    with pytest.raises(ValueError, match="K must be"):
        optimality_gap_bound(1.0, 0)
    with pytest.raises(ValueError, match="initial_cost must be"):
        optimality_gap_bound(-1.0, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("cost", [None, ("power", 1.5)])
def test_flow_is_learned_on_the_accelerator(cost):
    X, Y = gaussians(0, 2000)
    model = RectifiedFlow(cost, device="cuda", n_iter=2, **SMALL).fit(X, Y)
    assert next(model.network_.parameters()).is_cuda
    assert np.abs(model.transform(X).mean(0) - M1).max() < 0.15
