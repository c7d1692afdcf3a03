"""The closed forms against tables of all sequences, gradients against differences, and the fit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from thalweg.transport import (
    CategoricalReference,
    DLightSB,
    DLightSBM,
    categorical_bridge,
    gaussian_kernel,
    product_reference,
    uniform_kernel,
)
from thalweg.transport._cp_potential import CPPotential, Powers
from thalweg.transport._cp_training import EnergyObjective, MatchingObjective, matched

S, D, N, K = 4, 2, 2, 3
KERNEL = np.array(
    [[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.2, 0.1], [0.0, 0.3, 0.6, 0.1], [0.2, 0.0, 0.1, 0.7]]
)
REFERENCE = CategoricalReference(KERNEL, N)
STATES = np.indices((S,) * D).reshape(D, -1).T
RNG = np.random.default_rng(0)
LOG_WEIGHTS, LOG_CORES = RNG.normal(size=K), RNG.normal(size=(K, D, S))


def fitted(cls=DLightSB, log_weights=LOG_WEIGHTS, log_cores=LOG_CORES):
    """A model with these parameters, without training."""
    model = cls(REFERENCE, K, rng=0)
    model.log_weights_, model.log_cores_, model.n_features_in_ = log_weights, log_cores, D
    return model


def joint_power(n):
    """A_n on all sequences."""
    return np.kron(np.linalg.matrix_power(KERNEL, n), np.linalg.matrix_power(KERNEL, n))


def value_table(n):
    """The potential seen from time n, on all sequences, by brute force."""
    v = np.zeros(len(STATES))
    for k in range(K):
        v += np.exp(LOG_WEIGHTS[k]) * np.exp(
            LOG_CORES[k, 0, STATES[:, 0]] + LOG_CORES[k, 1, STATES[:, 1]]
        )
    return joint_power(N + 1 - n) @ v


def plan_table():
    """q*(y | x) on all sequences, by brute force."""
    return joint_power(N + 1) * value_table(N + 1) / value_table(0)[:, None]


def step_table(n):
    return joint_power(1) * value_table(n + 1) / value_table(n)[:, None]


def one_token_laws(table):
    """Laws of each token, (states, D, S), from a table (states, states)."""
    cube = table.reshape(-1, S, S)
    return np.stack([cube.sum(2), cube.sum(1)], axis=1)


def test_potential_and_normaliser_are_those_of_the_table():
    model = fitted()
    np.testing.assert_allclose(model.log_potential(STATES), np.log(value_table(N + 1)), rtol=1e-12)
    np.testing.assert_allclose(model.log_normalizer(STATES), np.log(value_table(0)), rtol=1e-12)


def test_transitions_are_those_of_the_table_and_their_product_is_the_plan():
    model, product = fitted(), np.eye(len(STATES))
    for n in range(N + 1):
        law = model.transition_probs(STATES, n)
        np.testing.assert_allclose(law, one_token_laws(step_table(n)), atol=1e-13)
        np.testing.assert_allclose(law.sum(2), 1, atol=1e-13)
        product = product @ step_table(n)
    np.testing.assert_allclose(product, plan_table(), atol=1e-12)
    np.testing.assert_allclose(model.end_probs(STATES), one_token_laws(plan_table()), atol=1e-12)


def test_components_times_their_own_steps_make_the_joint_transitions():
    potential = CPPotential(REFERENCE, LOG_WEIGHTS, LOG_CORES)
    for n in range(N + 1):
        p = potential.component_probs(STATES, n)
        before, after = potential.cores(n), potential.cores(n + 1)
        joint = np.zeros((len(STATES),) * 2)
        for k in range(K):
            a, b = (KERNEL * after[:, d, k] / before[:, d, k, None] for d in range(D))
            joint += p[:, k, None] * np.kron(a, b)
        np.testing.assert_allclose(joint, step_table(n), atol=1e-13)


@pytest.mark.parametrize("reference", [REFERENCE, CategoricalReference(uniform_kernel(4, 0.3), N)])
def test_powers_of_the_even_kernel_take_the_short_way(reference):
    cores = RNG.random((S, D, K))
    powers = Powers(reference)
    assert (powers._even[1] is None) == (reference is REFERENCE)
    for n, A in enumerate(reference.cumulative):
        np.testing.assert_allclose(powers.dot(n, cores), np.einsum("ij,jdk->idk", A, cores))
        np.testing.assert_allclose(
            powers.transposed_dot(n, cores), np.einsum("ji,jdk->idk", A, cores)
        )


def test_draws_follow_the_plan_and_the_path():
    """4.5 standard deviations of 40 000 draws, on all sequences."""
    model, rows, start = fitted(), 40_000, 6
    x = np.tile(STATES[start], (rows, 1))
    path = model.sample_path(x, rng=2)
    assert path.shape == (N + 2, rows, D)
    np.testing.assert_array_equal(path[0], x)
    middle = (step_table(0) @ step_table(1))[start]
    for draws, law in (
        (model.transform(x, rng=1), plan_table()[start]),
        (path[-1], plan_table()[start]),
        (path[2], middle),
        (model.sample(x[:4], rows // 4, rng=3).reshape(-1, D), plan_table()[start]),
    ):
        shares = np.bincount(draws @ [S, 1], minlength=S**D) / rows
        assert (np.abs(shares - law) <= 4.5 * np.sqrt(law * (1 - law) / rows) + 1e-12).all()


def test_path_is_the_markov_chain_of_the_steps():
    """Two steps together: a component drawn once gives the joint law of the chain."""
    model, rows, start = fitted(), 60_000, 6
    path = model.sample_path(np.tile(STATES[start], (rows, 1)), rng=2) @ [S, 1]
    pairs = np.bincount(path[1] * 16 + path[2], minlength=256) / rows
    law = (step_table(0)[start][:, None] * step_table(1)).ravel()
    assert (np.abs(pairs - law) <= 5 * np.sqrt(law * (1 - law) / rows) + 1e-12).all()


def test_odds_ratio_of_two_states_is_that_of_the_reference():
    reference = CategoricalReference([[0.8, 0.2], [0.4, 0.6]], 2)
    model = DLightSB(reference, 2)
    model.log_weights_, model.log_cores_ = np.zeros(2), np.log([[[1.0, 3.0]], [[2.0, 0.5]]])
    model.n_features_in_ = 1

    def odds(table):
        return table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0])

    q = model.end_probs([[0], [1]])[:, 0]
    assert odds(q) == pytest.approx(odds(reference.transition), rel=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_scaling_the_cores_leaves_the_plan(seed):
    factors = np.random.default_rng(seed).normal(0, 5, size=(K, D))
    model = fitted()
    other = fitted(
        log_weights=LOG_WEIGHTS - factors.sum(1), log_cores=LOG_CORES + factors[:, :, None]
    )
    for a, b in (
        (model.end_probs(STATES), other.end_probs(STATES)),
        (model.transition_probs(STATES, 1), other.transition_probs(STATES, 1)),
        (model.log_potential(STATES), other.log_potential(STATES)),
    ):
        np.testing.assert_allclose(a, b, atol=1e-10)


def objectives():
    rng = np.random.default_rng(3)
    X, Y = rng.integers(S, size=(50, D)), rng.integers(S, size=(40, D))
    yield EnergyObjective(REFERENCE, X, Y, K, 9)
    for loss, coupling in (("kl", "independent"), ("mse", "minibatch-ot")):
        yield MatchingObjective(REFERENCE, X, Y, K, 9, loss=loss, coupling=coupling)


@pytest.mark.parametrize("entropy", [0.0, 0.7])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_agree_with_differences(which, entropy):
    objective = list(objectives())[which]
    theta = np.random.default_rng(1).normal(size=K + K * D * S)
    batch = objective.draw(np.random.default_rng(2))
    _, gradient = objective.loss_and_gradient(theta, batch, entropy)
    h = 1e-5
    for i, step in enumerate(h * np.eye(len(theta))):
        up, down = (
            objective.loss_and_gradient(t, batch, entropy)[0] for t in (theta + step, theta - step)
        )
        assert gradient[i] == pytest.approx((up - down) / (2 * h), abs=1e-6)


def theta_of(log_weights, log_cores):
    return np.concatenate([log_weights, log_cores.transpose(2, 1, 0).ravel()])


def test_energy_on_a_batch_is_the_loss_and_the_bonus_the_entropy():
    energy = next(objectives())
    batch = energy.draw(np.random.default_rng(0))
    model = fitted()
    loss, _ = energy.loss_and_gradient(theta_of(LOG_WEIGHTS, LOG_CORES), batch, 0.0)
    assert loss == pytest.approx(model.loss(*batch), rel=1e-12)
    assert model.score(*batch) == -model.loss(*batch)
    less, _ = energy.loss_and_gradient(theta_of(LOG_WEIGHTS, LOG_CORES), batch, 0.5)
    p = CPPotential(REFERENCE, LOG_WEIGHTS, LOG_CORES).component_probs(batch[0], 0)
    assert loss - less == pytest.approx(-0.5 * (p * np.log(p)).sum(1).mean(), rel=1e-12)


def matching_by_table(objective, batch):
    total, rows = 0.0, 0
    for n, x, posterior in batch:
        law = one_token_laws(step_table(n))[x @ [S, 1]]
        if objective.loss == "kl":
            kept = posterior > 0
            total += (posterior[kept] * np.log(posterior[kept] / law[kept])).sum()
        else:
            total += ((posterior - law) ** 2).sum()
        rows += len(x)
    return total / rows


@pytest.mark.parametrize("which", [1, 2])
def test_matching_on_a_batch_is_the_distance_of_the_tables(which):
    objective = list(objectives())[which]
    batch = objective.draw(np.random.default_rng(0))
    loss, _ = objective.loss_and_gradient(theta_of(LOG_WEIGHTS, LOG_CORES), batch, 0.0)
    assert loss == pytest.approx(matching_by_table(objective, batch), rel=1e-12)


def test_matching_draws_bridges_and_their_posteriors():
    x, y = np.array([[0, 1]]), np.array([[2, 3]])
    objective = MatchingObjective(REFERENCE, x, y, K, 400, loss="kl", coupling="independent")
    rng = np.random.default_rng(0)
    seen = {n: [] for n in range(N + 1)}
    for _ in range(60):
        for n, states, posterior in objective.draw(rng):
            ends = np.repeat(y, len(states), axis=0)
            np.testing.assert_allclose(posterior, REFERENCE.posterior_probs(states, ends, n))
            seen[n].append(states)
    for n, states in seen.items():
        states = np.concatenate(states)
        law = REFERENCE.bridge_probs(x, y, n)[0]
        for d in range(D):
            shares = np.bincount(states[:, d], minlength=S) / len(states)
            error = 4.5 * np.sqrt(law[d] * (1 - law[d]) / len(states))
            assert (np.abs(shares - law[d]) <= error + 1e-12).all()


def exact_losses(theta, p0):
    """Energy and matching loss of theta on exact laws: ends of the true plan from p0."""
    cores = theta[K:].reshape(S, D, K).transpose(2, 1, 0)
    model = fitted(log_weights=theta[:K], log_cores=cores)
    coupling = p0[:, None] * plan_table()
    energy = p0 @ model.log_normalizer(STATES) - coupling.sum(0) @ model.log_potential(STATES)
    x, y = (STATES[i] for i in np.divmod(np.arange(len(STATES) ** 2), len(STATES)))
    matching = 0.0
    for n in range(N + 1):
        bridge = REFERENCE.bridge_probs(x, y, n)
        joint = coupling.ravel()[:, None] * (bridge[:, 0, :, None] * bridge[:, 1, None, :]).reshape(
            -1, S**2
        )
        law = model.transition_probs(STATES, n)
        for i, state in enumerate(STATES):
            held = joint[:, i] > 0
            rows = np.repeat(state[None], held.sum(), axis=0)
            posterior = REFERENCE.posterior_probs(rows, y[held], n)
            kept = posterior > 0
            logs = np.log(posterior, where=kept, out=np.zeros_like(posterior))
            logs -= np.where(kept, np.log(np.maximum(law[i], 1e-300)), 0.0)
            matching += joint[held, i] @ (posterior * logs).sum((1, 2))
    return energy, matching / (N + 1)


def test_losses_are_lowest_at_the_truth():
    rng = np.random.default_rng(0)
    theta, p0 = theta_of(LOG_WEIGHTS, LOG_CORES), rng.dirichlet(np.ones(len(STATES)))
    least = exact_losses(theta, p0)
    for _ in range(20):
        direction = rng.normal(size=len(theta))
        for step in (0.1, -0.1):
            there = exact_losses(theta + step * direction, p0)
            assert there[0] > least[0] + 1e-5
            assert there[1] > least[1] + 1e-6


@pytest.mark.parametrize(("cls", "tokens", "n"), [(DLightSB, 2, 5), (DLightSBM, 1, 8)])
def test_fit_approaches_the_bridge_of_two_laws(cls, tokens, n):
    """Against Sinkhorn's plan on all sequences; independent pairs are more than 0.3 away."""
    reference = CategoricalReference(gaussian_kernel(n, 0.3), 3)
    rng = np.random.default_rng(0)
    p0, p1 = rng.dirichlet(0.5 * np.ones(n**tokens), size=2)
    states = np.indices((n,) * tokens).reshape(tokens, -1).T
    X, Y = (states[rng.choice(len(states), 20_000, p=p)] for p in (p0, p1))
    components = 10 if tokens > 1 else 3
    model = cls(reference, components, n_steps=500, learning_rate=5e-2, rng=0).fit(X, Y)
    product = product_reference(reference, tokens)
    exact = categorical_bridge(p0, p1, product)
    logs = model.log_potential(states) - model.log_normalizer(states)[:, None]
    plan = p0[:, None] * product.transition * np.exp(logs)
    np.testing.assert_allclose(plan.sum(), 1, atol=1e-12)
    assert np.abs(plan - exact).sum() / 2 <= 0.08
    assert np.abs(np.outer(p0, p1) - exact).sum() / 2 >= 0.3
    assert len(model.loss_curve_) == 500
    assert logsumexp(model.log_weights_) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(logsumexp(model.log_cores_, axis=2), 0, atol=1e-12)


def test_matching_takes_the_cheapest_pairs_of_a_batch():
    rng = np.random.default_rng(0)
    x, y = rng.integers(S, size=(2, 5, D))
    reference = CategoricalReference(gaussian_kernel(S, 0.4), 1)
    costs = {
        order: -reference.log_transition(x, y[list(order)]).sum()
        for order in itertools.permutations(range(5))
    }
    best = -reference.log_transition(x, y[matched(reference, x, y)]).sum()
    assert best == pytest.approx(min(costs.values()))
    assert max(costs.values()) > best + 1


X4, Y4 = np.random.default_rng(0).integers(S, size=(2, 60, D))


def small(cls=DLightSB, **options):
    return cls(REFERENCE, **({"n_components": 4, "n_steps": 5, "rng": 0} | options))


@pytest.mark.parametrize("init", ["samples", "uniform", "gaussian"])
def test_start_is_as_named(init):
    start = small(init=init)._initial_cores(Y4, np.random.default_rng(0))
    assert start.shape == (4, D, S)
    if init == "samples":
        r = np.exp(start)
        np.testing.assert_allclose(r.max(2), 0.9)
        np.testing.assert_allclose(r.sum(2), 1)
        assert all((row == Y4).all(1).any() for row in r.argmax(2))
    if init == "uniform":
        assert start.min() >= 0
        assert start.max() <= 1
    if init == "gaussian":
        rows, std = start.argmax(2), 2 * S / 50
        jumps = (np.arange(S) - rows[:, :, None]) / std
        expected = np.exp(-(jumps**2) / 2) / (std * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(np.exp(start), expected, rtol=1e-10)


def test_bonus_falls_to_zero_over_its_share_of_the_steps():
    seen = []

    class Watched(EnergyObjective):
        def loss_and_gradient(self, theta, batch, entropy):
            seen.append(entropy)
            return super().loss_and_gradient(theta, batch, entropy)

    model = small(entropy=0.4, entropy_steps=0.5, n_steps=8)
    model._objective = lambda x, y: Watched(REFERENCE, x, y, 4, 16)
    model.fit(X4, Y4)
    np.testing.assert_allclose(seen, [0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0])


def test_first_step_of_adam_has_the_length_of_the_rate():
    start = np.random.default_rng(0).normal(size=(4, D, S))
    model = small(init=start, n_steps=1, learning_rate=0.25, schedule="constant", entropy=0.0)
    model._store = lambda weights, cores: setattr(model, "raw", (weights, cores))
    model.fit(X4, Y4)
    np.testing.assert_allclose(np.abs(model.raw[1] - start), 0.25, rtol=1e-3)
    np.testing.assert_allclose(np.abs(model.raw[0] + np.log(4)), 0.25, rtol=1e-3)


def test_callback_sees_each_step_and_may_end_the_fit():
    seen = []

    def callback(state):
        seen.append((state.step, state.n_steps, state.loss))
        if state.step == 3:
            raise StopIteration

    model = small(callback=callback).fit(X4, Y4)
    assert [s[:2] for s in seen] == [(1, 5), (2, 5), (3, 5)]
    np.testing.assert_array_equal(model.loss_curve_, [s[2] for s in seen])


@pytest.mark.parametrize("cls", [DLightSB, DLightSBM])
def test_seed_decides_fit_and_draws(cls):
    models = [small(cls).fit(X4, Y4) for _ in range(2)]
    np.testing.assert_array_equal(models[0].log_cores_, models[1].log_cores_)
    np.testing.assert_array_equal(models[0].transform(X4), models[0].transform(X4))
    assert (models[0].transform(X4) != models[0].transform(X4, rng=1)).any()
    assert not hasattr(clone(models[0]), "log_cores_")
    assert clone(models[0]).objective == {DLightSB: "energy", DLightSBM: "matching"}[cls]


def test_many_rows_are_drawn_in_parts(monkeypatch):
    model = fitted()
    whole = model.end_probs(STATES)
    monkeypatch.setattr("thalweg.transport._cp_potential.BLOCK_ENTRIES", 3 * D * S)
    np.testing.assert_allclose(model.end_probs(STATES), whole, rtol=1e-14)
    assert model.transform(STATES).shape == STATES.shape


@pytest.mark.parametrize(
    ("options", "X", "Y", "error", "match"),
    [
        ({}, [[0.5, 1]], Y4, ValueError, "X must be whole numbers"),
        ({}, [[0, 4]], Y4, ValueError, r"X must be whole numbers in 0\.\.3, got 4"),
        ({}, X4, Y4[:, :1], ValueError, r"Y must have 2 columns like X"),
        ({}, X4[:0], Y4, ValueError, "X must hold at least one sequence"),
        ({}, X4, None, TypeError, "Y must be the target"),
        ({"reference": KERNEL}, X4, Y4, TypeError, "reference must be a CategoricalReference"),
        ({"n_components": 0}, X4, Y4, ValueError, "n_components must be an integer >= 1, got 0"),
        ({"n_components": 61}, X4, Y4, ValueError, "n_components must be at most .* 61 and 60"),
        ({"init": np.zeros((4, D, 5))}, X4, Y4, ValueError, r"init must have shape \(4, 2, 4\)"),
        ({"init": "kmeans"}, X4, Y4, ValueError, "init must be one of"),
        ({"objective": "sb"}, X4, Y4, ValueError, "objective must be one of"),
        ({"matching_loss": "l1"}, X4, Y4, ValueError, "matching_loss must be one of"),
        ({"initial_coupling": "ot"}, X4, Y4, ValueError, "initial_coupling must be one of"),
        ({"schedule": "linear"}, X4, Y4, ValueError, "schedule must be one of"),
        ({"sample_prob": 1.0}, X4, Y4, ValueError, "sample_prob must be"),
        ({"entropy": -1.0}, X4, Y4, ValueError, "entropy must be"),
        ({"entropy_steps": 1.5}, X4, Y4, ValueError, "entropy_steps must be"),
        ({"learning_rate": 0.0}, X4, Y4, ValueError, "learning_rate must be"),
        ({"betas": (0.9, 1.0)}, X4, Y4, ValueError, "betas must be"),
        ({"batch_size": 0}, X4, Y4, ValueError, "batch_size must be"),
        ({"n_steps": 1.5}, X4, Y4, TypeError, "n_steps must be"),
    ],
)
def test_bad_input_is_refused_by_name(options, X, Y, error, match):
    with pytest.raises(error, match=match):
        small().set_params(**options).fit(X, Y)


def test_unreachable_targets_are_infeasible():
    stuck = CategoricalReference([[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]], 1)
    with pytest.raises(
        ValueError, match=r"infeasible: .* token 0 of X to token 1 of Y in column 0"
    ):
        DLightSB(stuck, 1).fit([[0, 2]], [[1, 1]])


def test_a_loss_that_is_not_finite_stops_the_fit():
    start = np.full((4, D, S), 1e308)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="at step 1"):
        small(init=start).fit(X4, Y4)


def test_bad_calls_of_a_model_are_refused_by_name():
    model = fitted()
    for call, match in (
        (lambda: model.transform(STATES[:, :1]), r"X must have shape \(n, 2\)"),
        (lambda: model.log_potential([[0, 9]]), r"Y must be whole numbers in 0\.\.3"),
        (lambda: model.transition_probs(STATES, 3), "n must be an integer >= 0 and <= 2, got 3"),
        (lambda: model.sample(STATES, 0), "n_samples must be"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(NotFittedError):
        DLightSB(REFERENCE).transform(STATES)
