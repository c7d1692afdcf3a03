import itertools
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    CategoricalBridgeMatching,
    CategoricalReference,
    TokenMLP,
    categorical_bridge,
    categorical_dimf,
    gaussian_kernel,
    product_reference,
    uniform_kernel,
)

S = 5
REFERENCE = CategoricalReference(
    [
        [0.7, 0.3, 0.0, 0.0, 0.0],
        [0.1, 0.7, 0.2, 0.0, 0.0],
        [0.0, 0.2, 0.7, 0.1, 0.0],
        [0.0, 0.0, 0.2, 0.7, 0.1],
        [0.1, 0.0, 0.0, 0.3, 0.6],
    ],
    3,
)
P0, P1 = np.array([0.1, 0.2, 0.4, 0.2, 0.1]), np.array([0.4, 0.1, 0.0, 0.2, 0.3])
SMALL = CategoricalReference(uniform_kernel(3, 0.3), 2)
X3 = np.random.default_rng(0).integers(3, size=(60, 2))
Y3 = np.random.default_rng(1).integers(3, size=(50, 2))


def small(**options):
    defaults = {"n_iter": 1, "steps_per_projection": 3, "hidden": (8,), "batch_size": 16, "rng": 0}
    return CategoricalBridgeMatching(SMALL, **(defaults | options))


def coupling_of(model, law, direction="forward"):
    """Ends of the learned chain of one token, from its transition probabilities."""
    states = np.arange(len(law))[:, None]
    ends = np.diag(law)
    for n in range(model.reference.n_inner + 1):
        ends = ends @ model.transition_probs(states, n, direction)[:, 0]
    return ends


def distance(p, q):
    return np.abs(p - q).sum() / 2


@pytest.fixture(scope="module")
def fit():
    """A fit of one token by a kernel without symmetry, and its coupling after one iteration."""
    rng = np.random.default_rng(0)
    X, Y = (rng.choice(S, size=(40_000, 1), p=p) for p in (P0, P1))
    first = {}

    def callback(state):
        if state.iteration == 1 and state.direction == "backward" and state.step == 1:
            first["coupling"] = coupling_of(state.estimator, P0)

    model = CategoricalBridgeMatching(
        REFERENCE,
        n_iter=3,
        steps_per_projection=100,
        hidden=(32,),
        batch_size=256,
        lr=2e-2,
        callback=callback,
        rng=0,
    ).fit(X, Y)
    return model, first["coupling"]


def test_projections_are_the_exact_iterations(fit):
    """Total variation; the training adds about 0.025, the first iteration moves 0.13."""
    model, first = fit
    exact = categorical_dimf(P0, P1, REFERENCE, n_iter=6)
    assert distance(first, exact[1]) <= 0.04
    assert distance(coupling_of(model, P0), exact[5]) <= 0.04
    assert distance(coupling_of(model, P1, "backward"), exact[6].T) <= 0.04
    assert distance(exact[0], exact[1]) > 0.1
    assert distance(exact[1], exact[5]) > 0.1


def test_coupling_approaches_the_bridge(fit):
    model, first = fit
    bridge = categorical_bridge(P0, P1, REFERENCE)
    assert distance(coupling_of(model, P0), bridge) <= 0.35 * distance(first, bridge)


def test_draws_follow_the_learned_chain(fit):
    """4.5 standard deviations of 20 000 draws from each side."""
    model, rows = fit[0], 20_000
    for direction, draw in (("forward", model.transform), ("backward", model.inverse_transform)):
        ends = draw(np.full((rows, 1), 3), rng=1)
        probs = coupling_of(model, np.eye(S)[3], direction)[3]
        shares = np.bincount(ends[:, 0], minlength=S) / rows
        assert (np.abs(shares - probs) <= 4.5 * np.sqrt(probs * (1 - probs) / rows) + 1e-12).all()


def test_path_begins_in_the_data_and_ends_in_the_translation(fit):
    x = np.random.default_rng(0).integers(S, size=(50, 1))
    path = fit[0].sample_path(x, rng=3)
    assert path.shape == (5, 50, 1)
    np.testing.assert_array_equal(path[0], x)
    np.testing.assert_array_equal(path[-1], fit[0].transform(x, rng=3))
    assert (REFERENCE.kernel[path[:-1], path[1:]] > 0).all()


def test_estimators_own_seed_repeats_a_draw_and_another_changes_it():
    model = small().fit(X3, Y3)
    np.testing.assert_array_equal(model.transform(X3), model.transform(X3))
    assert (model.transform(X3) != model.transform(X3, rng=1)).any()


def test_seed_decides_the_fit_and_no_global_state_is_touched():
    state = torch.get_rng_state()
    laws = [small().fit(X3, Y3).transition_probs(X3, 1) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(*laws)
    other = small(rng=torch.Generator().manual_seed(5)).fit(X3, Y3)
    assert (other.transition_probs(X3, 1) != laws[0]).any()


@pytest.mark.parametrize("parametrization", ["mixture", "d3pm"])
def test_transition_probs_are_laws(parametrization):
    model = small(parametrization=parametrization).fit(X3, Y3)
    for direction, n in itertools.product(("forward", "backward"), range(3)):
        law = model.transition_probs(X3, n, direction)
        assert law.shape == (60, 2, 3)
        assert law.min() >= 0
        np.testing.assert_allclose(law.sum(axis=-1), 1, atol=1e-12)


def test_parametrizations_differ():
    laws = [
        small(parametrization=p).fit(X3, Y3).transition_probs(X3, 0) for p in ("mixture", "d3pm")
    ]
    assert np.abs(laws[0] - laws[1]).max() > 1e-3


def test_many_rows_are_translated_in_parts(monkeypatch):
    model = small().fit(X3, Y3)
    whole = model.transition_probs(X3, 1)
    monkeypatch.setattr("thalweg.transport.categorical_bridge_matching.SAMPLE_ENTRIES", 7 * 6)
    np.testing.assert_allclose(model.transition_probs(X3, 1), whole, atol=1e-6)
    assert model.transform(X3).shape == X3.shape


def test_last_step_may_take_the_likeliest_token():
    model = small(argmax_last=True).fit(X3, Y3)
    path = model.sample_path(X3, rng=1)
    last = model.transition_probs(path[-2], 2).argmax(axis=-1)
    np.testing.assert_array_equal(path[-1], last)


def test_batches_are_matched_at_least_cost():
    reference = CategoricalReference(gaussian_kernel(9, 0.4), 1)
    rng = np.random.default_rng(0)
    data = {d: torch.from_numpy(rng.integers(9, size=(200, 2))) for d in ("forward", "backward")}
    model = CategoricalBridgeMatching(reference, batch_size=5, initial_coupling="minibatch-ot")
    x, y = (z.numpy() for z in model._first_pairs(data)(torch.Generator().manual_seed(0)))

    def cost(order):
        return -reference.log_transition(x, y[list(order)]).sum()

    costs = {order: cost(order) for order in itertools.permutations(range(5))}
    assert costs[0, 1, 2, 3, 4] == pytest.approx(min(costs.values()))
    assert max(costs.values()) > min(costs.values()) + 1


def test_independent_batches_pair_any_with_any():
    data = {"forward": torch.from_numpy(X3), "backward": torch.from_numpy(Y3)}
    pairs = small(batch_size=4000)._first_pairs(data)
    x, y = (z.numpy() @ [1, 3] for z in pairs(torch.Generator().manual_seed(0)))
    joint = np.histogram2d(x, y, bins=np.arange(10) - 0.5)[0] / 4000
    expected = np.outer(
        np.bincount(X3 @ [1, 3], minlength=9), np.bincount(Y3 @ [1, 3], minlength=9)
    )
    assert distance(joint, expected / 3000) <= 0.12  # about 0.06 by 4000 draws over 81 cells


def test_own_network_is_copied_and_left_alone():
    network = TokenMLP(2, 3, 2, hidden=(4,), rng=7)
    before = [p.detach().clone() for p in network.parameters()]
    model = small(network=network).fit(X3, Y3)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert isinstance(model.forward_, TokenMLP)
    assert model.forward_ is not model.backward_


def test_callback_is_told_where_a_step_is():
    seen = []
    small(n_iter=2, callback=lambda s: seen.append((s.iteration, s.direction, s.step))).fit(X3, Y3)
    expected = itertools.product((1, 2), ("forward", "backward"), (1, 2, 3))
    assert seen == list(expected)


def test_callback_may_end_the_fit():
    def callback(state):
        assert state.n_steps == 3
        assert state.n_iter == 1
        if state.direction == "forward" and state.step == 2:
            raise StopIteration

    model = small(callback=callback).fit(X3, Y3)
    assert [len(curve) for curve in model.loss_curves_] == [2]
    assert model.transform(X3).shape == (60, 2)
    with pytest.raises(NotFittedError):
        model.inverse_transform(Y3)


def test_interrupted_fit_goes_on_where_it_stopped(tmp_path):
    def callback(state):
        if state.iteration == 2 and state.direction == "forward" and state.step == 2:
            raise InterruptedError

    whole = small(n_iter=2).fit(X3, Y3)
    options = {"n_iter": 2, "checkpoint": tmp_path / "fit"}
    with pytest.raises(InterruptedError):
        small(callback=callback, **options).fit(X3, Y3)
    resumed = small(**options).fit(X3, Y3)
    for direction in ("forward", "backward"):
        np.testing.assert_array_equal(
            resumed.transition_probs(X3, 1, direction), whole.transition_probs(X3, 1, direction)
        )
    with pytest.raises(ValueError, match="another configuration: data was"):
        small(**options).fit(X3[1:], Y3)


def test_table_of_all_states_is_one_token():
    product = product_reference(SMALL, 2)
    options = {"n_iter": 1, "steps_per_projection": 2, "hidden": (8,), "rng": 0}
    model = CategoricalBridgeMatching(product, **options).fit(X3 @ [[3], [1]], Y3 @ [[3], [1]])
    assert model.transition_probs([[8]], 0).shape == (1, 1, 9)


def test_estimator_is_cloned_and_pickled():
    model = small().fit(X3, Y3)
    copy = clone(model)
    assert not hasattr(copy, "forward_")
    np.testing.assert_array_equal(copy.reference.kernel, SMALL.kernel)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X3), model.transform(X3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_fit_and_draws_run_on_an_accelerator():
    model = small(device="cuda", n_iter=2).fit(X3, Y3)
    assert next(model.forward_.parameters()).is_cuda
    assert model.transform(X3).shape == model.inverse_transform(X3).shape == (60, 2)


@pytest.mark.parametrize(
    ("options", "X", "Y", "error", "match"),
    [
        ({}, [[0.5, 1]], Y3, ValueError, "X must be whole numbers"),
        ({}, [[0, 3]], Y3, ValueError, r"X must be whole numbers in 0\.\.2, got 3"),
        ({}, X3, [[-1, 0]], ValueError, "Y must be whole numbers"),
        ({}, X3, Y3[:, :1], ValueError, r"Y must have 2 columns like X, got shape \(50, 1\)"),
        ({}, X3[:0], Y3, ValueError, "X must hold at least one sequence"),
        ({}, X3, None, TypeError, "Y must be"),
        ({"n_iter": 0}, X3, Y3, ValueError, "n_iter must be an integer >= 1, got 0"),
        ({"batch_size": 0}, X3, Y3, ValueError, "batch_size must be"),
        ({"steps_per_projection": 1.5}, X3, Y3, TypeError, "steps_per_projection must be"),
        ({"kl": -1.0}, X3, Y3, ValueError, "kl must be a finite number >= 0, got -1"),
        ({"kl": 0.0, "ce": 0.0}, X3, Y3, ValueError, "kl, ce and mse must not all be 0"),
        ({"lr": 0.0}, X3, Y3, ValueError, "lr must be"),
        ({"ema": 1.0}, X3, Y3, ValueError, "ema must be .* < 1, got 1.0"),
        ({"parametrization": "x0"}, X3, Y3, ValueError, "parametrization must be one of"),
        ({"initial_coupling": "ot"}, X3, Y3, ValueError, "initial_coupling must be one of"),
        ({"reference": np.eye(3)}, X3, Y3, TypeError, "reference must be a CategoricalReference"),
        ({"network": "mlp"}, X3, Y3, TypeError, "network must be None or a torch.nn.Module"),
        ({"network": TokenMLP(2, 4, 2)}, X3, Y3, ValueError, r"logits \(batch, 2, 3\), got"),
        ({"rng": "seed"}, X3, Y3, TypeError, "rng must be"),
    ],
)
def test_bad_input_is_refused_by_name(options, X, Y, error, match):
    with pytest.raises(error, match=match):
        small().set_params(**options).fit(X, Y)


def test_unreachable_targets_are_infeasible():
    walk = CategoricalReference([[0.5, 0.5, 0], [0.25, 0.5, 0.25], [0, 0.5, 0.5]], 1)
    model = small().set_params(reference=walk)
    model.fit([[0, 2]], [[2, 0]])
    model.set_params(reference=CategoricalReference([[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]], 1))
    with pytest.raises(
        ValueError, match=r"infeasible: .* token 0 of X to token 2 of Y in column 0"
    ):
        model.fit([[0, 2]], [[2, 1]])


def test_bad_calls_of_a_fitted_model_are_refused_by_name():
    model = small().fit(X3, Y3)
    for call, match in (
        (lambda: model.transform(X3[:, :1]), r"X must have shape \(n, 2\)"),
        (lambda: model.inverse_transform([[0, 9]]), r"Y must be whole numbers in 0\.\.2"),
        (lambda: model.transition_probs(X3, 3), "n must be an integer >= 0 and <= 2, got 3"),
        (lambda: model.transition_probs(X3, 0, "up"), "direction must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(NotFittedError):
        small().transform(X3)
