"""Both directions in one run: the coupling approaches the bridge, halves and phases are as said."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    CategoricalReference,
    OnlineCategoricalBridgeMatching,
    categorical_bridge,
    categorical_dimf,
    uniform_kernel,
)
from thalweg.transport._training import Learner  # noqa: E402
from thalweg.transport.categorical_bridge_matching import (  # noqa: E402
    CategoricalBridgeMatching,
)
from thalweg.transport.online_categorical_bridge_matching import _averaged, _Step  # noqa: E402

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
    defaults = {"n_steps": 4, "warmup_steps": 2, "hidden": (8,), "batch_size": 16, "rng": 0}
    return OnlineCategoricalBridgeMatching(SMALL, **(defaults | options))


def coupling_of(model, law, direction="forward"):
    """Ends of the learned chain of one token, from its transition probabilities."""
    states = np.arange(len(law))[:, None]
    ends = np.diag(law)
    for n in range(model.reference.n_inner + 1):
        ends = ends @ model.transition_probs(states, n, direction)[:, 0]
    return ends


def distance(p, q):
    return np.abs(p - q).sum() / 2


def test_both_couplings_approach_the_bridge():
    """Total variation; one projection of independent pairs is 0.09 or more from the bridge."""
    rng = np.random.default_rng(0)
    X, Y = (rng.choice(S, size=(40_000, 1), p=p) for p in (P0, P1))
    model = OnlineCategoricalBridgeMatching(
        REFERENCE,
        n_steps=150,
        warmup_steps=30,
        hidden=(32,),
        batch_size=384,
        lr=2e-2,
        betas=(0.9, 0.99),
        ema=0.98,
        rng=0,
    ).fit(X, Y)
    bridge = categorical_bridge(P0, P1, REFERENCE)
    first = categorical_dimf(P0, P1, REFERENCE, n_iter=1)[1]
    assert distance(first, bridge) > 0.09
    assert distance(coupling_of(model, P0), bridge) <= 0.06
    assert distance(coupling_of(model, P1, "backward"), bridge.T) <= 0.06
    assert model.loss_curve_.shape == (150, 2)


class Recorder:
    """Stands for the chains of a step and keeps the pairs that they are given."""

    def __init__(self, parameter):
        self.parameter, self.seen = parameter, []

    def loss_of_pairs(self, start, end, generator):
        self.seen.append((start.numpy(), end.numpy()))
        return (self.parameter**2).sum()


@pytest.mark.parametrize("warmup", [0, 3])
def test_each_half_of_a_batch_teaches_one_direction(warmup):
    """X holds tokens 0 and 1, Y holds 2: ends are data, starts are data or the other chain's."""
    model = small(warmup_steps=warmup, batch_size=15)
    X, Y = np.array([[0, 0], [1, 1]]), np.array([[2, 2]])
    networks, data, generator, _ = model._start(X, Y)
    learner = Learner(list(networks.values()), n_steps=4, ema=0.9)
    averaged = _averaged(networks, learner)
    step = _Step(model, networks, averaged, data, learner)
    recorders = {d: Recorder(next(networks[d].parameters())) for d in networks}
    step.chains = recorders
    losses = step(generator)
    assert losses.shape == (2,)
    (x, y), (y_back, x_back) = recorders["forward"].seen[0], recorders["backward"].seen[0]
    assert len(x) == len(y) == 7
    assert len(x_back) == len(y_back) == 8
    assert (y == 2).all()
    assert (x_back < 2).all()
    if warmup:
        assert (x < 2).all()
        assert (y_back == 2).all()
    else:
        assert set(np.unique(x)) == set(np.unique(y_back)) == {0, 1, 2}


def test_pairs_of_a_direction_come_from_the_others_average(monkeypatch):
    seen = []

    def record(self, other, ends, n=None):
        seen.append((other.network, ends, n))

    monkeypatch.setattr(OnlineCategoricalBridgeMatching, "_simulated_pairs", record)
    model = small(batch_size=7)
    networks, data, _, _ = model._start(X3, Y3)
    learner = Learner(list(networks.values()), n_steps=4, ema=0.5)
    averaged = _averaged(networks, learner)
    _Step(model, networks, averaged, data, learner)
    (network, ends, n), (network_back, ends_back, n_back) = seen
    assert network is averaged["backward"]
    assert network_back is averaged["forward"]
    assert ends is data["backward"]
    assert ends_back is data["forward"]
    assert (n, n_back) == (3, 4)


def test_averaged_networks_follow_the_learner():
    """The copies share the averages' memory, and follow them through a step."""
    model = small()
    networks, data, generator, _ = model._start(X3, Y3)
    learner = Learner(list(networks.values()), n_steps=4, lr=0.1, ema=0.5)
    averaged = _averaged(networks, learner)
    step = _Step(model, networks, averaged, data, learner)
    for _ in range(3):
        step(generator)
    for d, trained in zip(("forward", "backward"), learner.trained(), strict=True):
        for a, b, raw in zip(
            averaged[d].parameters(), trained.parameters(), networks[d].parameters(), strict=True
        ):
            assert torch.equal(a, b)
            assert not torch.equal(a, raw)
            assert not a.requires_grad


def test_callback_sees_each_step_and_the_networks_so_far():
    seen = []

    def callback(state):
        law = state.estimator.transition_probs(X3, 1)
        seen.append((state.step, state.n_steps, np.isscalar(state.loss), law))
        if state.step == 3:
            raise StopIteration

    model = small(callback=callback).fit(X3, Y3)
    assert [s[:3] for s in seen] == [(1, 4, True), (2, 4, True), (3, 4, True)]
    assert (seen[0][3] != seen[2][3]).any()
    assert len(model.loss_curve_) == 3
    np.testing.assert_array_equal(model.transition_probs(X3, 1), seen[2][3])
    assert model.inverse_transform(Y3).shape == Y3.shape


def test_interrupted_fit_goes_on_where_it_stopped(tmp_path):
    def callback(state):
        if state.step == 3:
            raise InterruptedError

    whole = small(n_steps=6).fit(X3, Y3)
    options = {"n_steps": 6, "checkpoint": tmp_path / "fit"}
    with pytest.raises(InterruptedError):
        small(callback=callback, **options).fit(X3, Y3)
    resumed = small(**options).fit(X3, Y3)
    for direction in ("forward", "backward"):
        np.testing.assert_array_equal(
            resumed.transition_probs(X3, 1, direction), whole.transition_probs(X3, 1, direction)
        )
    with pytest.raises(ValueError, match="another configuration: warmup_steps was 2"):
        small(**options | {"warmup_steps": 1}).fit(X3, Y3)


def test_seed_decides_the_fit_and_parameters_are_its_own():
    laws = [small().fit(X3, Y3).transition_probs(X3, 1, "backward") for _ in range(2)]
    np.testing.assert_array_equal(*laws)
    model = small(initial_coupling="minibatch-ot", mse=1.0, kl=0.0)
    assert clone(model).get_params()["warmup_steps"] == 2
    assert "n_iter" not in model.get_params()
    assert isinstance(model.fit(X3, Y3), CategoricalBridgeMatching)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_fit_and_draws_run_on_an_accelerator():
    model = small(device="cuda").fit(X3, Y3)
    assert next(model.forward_.parameters()).is_cuda
    assert model.transform(X3).shape == model.inverse_transform(X3).shape == (60, 2)


@pytest.mark.parametrize(
    ("options", "X", "Y", "error", "match"),
    [
        ({}, [[0, 3]], Y3, ValueError, r"X must be whole numbers in 0\.\.2, got 3"),
        ({}, X3, Y3[:, :1], ValueError, "Y must have 2 columns like X"),
        ({"n_steps": 0}, X3, Y3, ValueError, "n_steps must be an integer >= 1, got 0"),
        ({"warmup_steps": 5}, X3, Y3, ValueError, "warmup_steps must be an integer >= 0 and <= 4"),
        ({"batch_size": 1}, X3, Y3, ValueError, "batch_size must be an integer >= 2, got 1"),
        ({"kl": 0.0, "ce": 0.0}, X3, Y3, ValueError, "kl, ce and mse must not all be 0"),
        ({"ema": 1.0}, X3, Y3, ValueError, "ema must be"),
        ({"reference": np.eye(3)}, X3, Y3, TypeError, "reference must be a CategoricalReference"),
    ],
)
def test_bad_input_is_refused_by_name(options, X, Y, error, match):
    with pytest.raises(error, match=match):
        small().set_params(**options).fit(X, Y)


def test_unfitted_model_is_refused():
    with pytest.raises(NotFittedError):
        small().transform(X3)
