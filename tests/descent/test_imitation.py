"""Online imitation: what is visited, who is asked, what is learned."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import SSO, OnlineImitation  # noqa: E402


class Counter:
    """A state that counts steps and keeps the actions; episodes of a given length."""

    def __init__(self, length=4):
        self.length, self.seeds, self.actions = length, [], []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.at = 0
        return np.array([1.0, 0.0]), {}

    def step(self, action):
        self.actions.append(action)
        self.at += 1
        reward = 10.0 * self.at
        return np.array([1.0, float(self.at)]), reward, self.at == self.length, False, {}


def expert(observation):
    return np.array([2.0 - 3.0 * observation[1]])


def linear(value=0.0):
    policy = torch.nn.Linear(2, 1, bias=False).double()
    torch.nn.init.constant_(policy.weight, value)
    return policy


def test_a_step_is_taken_on_the_states_that_were_visited():
    """Two rounds of seven states, in episodes of four, written out for gradient descent."""
    policy = linear()
    environment = Counter()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    seen = []
    found = OnlineImitation(
        policy, expert, environment, optimizer, rounds=2, samples_per_round=7, rng=0
    ).run(callback=seen.append)
    states = np.array([[1.0, k % 4] for k in range(7)])
    w, losses = np.zeros(2), []
    taken = []
    for _ in range(2):
        residual = states @ w - (2 - 3 * states[:, 1])
        taken.extend(states @ w)
        losses.append(0.5 * np.mean(residual**2))
        w = w - 0.01 * states.T @ residual / 7
    np.testing.assert_allclose(found["loss"], losses)
    np.testing.assert_allclose(np.ravel(environment.actions), taken)
    np.testing.assert_allclose(policy.weight.detach().numpy()[0], w)
    np.testing.assert_allclose(found["reward"], np.mean([10, 20, 30, 40, 10, 20, 30]))
    assert found["episodes"].tolist() == [2, 2]
    assert found["expert_calls"].tolist() == [7, 14]
    assert len(set(environment.seeds)) == 4
    assert [state["round"] for state in seen] == [1, 2]
    assert [state["loss"] for state in seen] == found["loss"].tolist()


def test_surrogates_learn_a_linear_expert_in_one_round():
    policy = linear()
    optimizer = SSO(policy.parameters(), target_step=1.0, inner="lbfgs", inner_steps=50)
    found = OnlineImitation(policy, expert, Counter(), optimizer, rounds=2, rng=0).run()
    np.testing.assert_allclose(policy.weight.detach().numpy(), [[2.0, -3.0]], atol=1e-5)
    assert found["loss"][0] > 1
    assert found["loss"][1] < 1e-8
    assert optimizer.n_target_grad == 2


@pytest.mark.parametrize(("mixing", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_the_expert_acts_at_the_rate_of_the_mixture(mixing, share):
    environment = Counter()
    policy = linear(1e3)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    OnlineImitation(
        policy, expert, environment, optimizer, rounds=1, samples_per_round=2000, mixing=mixing,
        rng=1,
    ).run()  # fmt: skip
    by_expert = np.mean([abs(float(a[0])) < 100 for a in environment.actions])
    # four standard deviations of a share of 2000 draws
    assert abs(by_expert - share) <= 4 * np.sqrt(share * (1 - share) / 2000)


def test_the_same_seed_gives_the_same_rounds():
    def go():
        environment = Counter()
        policy = linear()
        OnlineImitation(
            policy, expert, environment, SSO(policy.parameters(), target_step=0.5), rounds=3,
            samples_per_round=5, mixing=0.5, rng=7,
        ).run()  # fmt: skip
        return environment.seeds, np.ravel(environment.actions)

    first, second = go(), go()
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_whole_numbered_actions_are_classes():
    class Signs(Counter):
        def reset(self, *, seed=None, options=None):
            self.rng = np.random.default_rng(seed)
            return super().reset()

        def step(self, action):
            assert isinstance(action, int)
            _, *rest = super().step(action)
            return self.rng.normal(size=2), *rest

    policy = torch.nn.Linear(2, 3)
    with torch.no_grad():
        policy.weight.zero_()
        policy.bias.zero_()
    optimizer = SSO(policy.parameters(), target_step=2.0, inner_steps=50)
    environment = Signs(length=1000)
    found = OnlineImitation(
        policy, lambda x: 2 if x[0] > 0 else 0, environment, optimizer, rounds=12, rng=0
    ).run()
    assert found["loss"][0] == pytest.approx(np.log(3), rel=1e-6)
    assert found["loss"][-1] < 0.2
    assert set(environment.actions[-100:]) == {0, 2}


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_environments_of_gymnasium_are_taken_as_they_are(name):
    gymnasium = pytest.importorskip("gymnasium")
    environment = gymnasium.make(name)
    discrete = name.startswith("CartPole")

    def teacher(observation):
        if discrete:
            return int(observation[2] + observation[3] > 0)
        return np.clip(-2.0 * observation[1:2] - observation[2:3], -2, 2).astype(np.float32)

    policy = torch.nn.Linear(4 if discrete else 3, 2 if discrete else 1)
    with torch.no_grad():
        policy.weight.zero_()
        policy.bias.zero_()
    optimizer = SSO(policy.parameters(), target_step=1.0, inner_steps=20)
    found = OnlineImitation(
        policy, teacher, environment, optimizer, rounds=8, samples_per_round=60, rng=0
    ).run()
    assert found["loss"][-1] < 0.85 * found["loss"][0]
    assert np.all(found["episodes"] >= 1)


def test_numbers_that_are_not_finite_stop_the_run_by_round():
    def run(**changed):
        policy = changed.get("policy", linear())
        optimizer = torch.optim.SGD(policy.parameters(), lr=changed.get("lr", 0.0))
        OnlineImitation(
            policy, changed.get("expert", expert), Counter(), optimizer, rounds=3,
            samples_per_round=5, rng=0,
        ).run()  # fmt: skip

    with pytest.raises(RuntimeError, match="expert's action must be finite in round 1"):
        run(expert=lambda x: np.array([np.nan]))
    with pytest.raises(RuntimeError, match="policy's action must be finite in round 1"):
        run(policy=linear(np.inf))
    with pytest.raises(RuntimeError, match="loss must be finite in round 2"):
        run(lr=1e200)
    with pytest.raises(ValueError, match=r"expert's shape \(3,\), got \(1,\)"):
        run(expert=lambda x: np.zeros(3))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"policy": abs}, "policy"),
        ({"expert": 3}, "expert"),
        ({"environment": object()}, "reset"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"rounds": 0}, "rounds"),
        ({"samples_per_round": 0}, "samples_per_round"),
        ({"mixing": 1.5}, "mixing"),
    ],
)
def test_bad_arguments_are_named(changed, name):
    policy = linear()
    arguments = {
        "policy": policy, "expert": expert, "environment": Counter(),
        "optimizer": torch.optim.SGD(policy.parameters()), **changed,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=name):
        OnlineImitation(**arguments)
