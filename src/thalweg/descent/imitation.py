"""Teach a policy by an expert's actions in the states that the policy itself reaches.

The expert is asked once for each state of a round; `thalweg.descent.SSO` makes many updates of the
policy for it, an optimizer of torch makes one.

Source: "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607, online
imitation learning; the roll-outs are those of DAgger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg._validation import check_array, check_count, check_real
from thalweg.descent.target_surrogate import SSO

LARGEST_SEED = 2**31


class OnlineImitation:
    r"""Online imitation of an expert: roll out, ask the expert, take a step.

    In each round the environment is reset, and states are collected under a mixture of expert and
    policy; the expert names its action in every one; and the optimizer takes one step on the mean
    loss of the policy's actions in these states, which is ½ ‖action - expert's‖², or the
    cross-entropy where the expert's actions are whole numbers.

    Parameters
    ----------
    policy : torch.nn.Module
        From observations of shape (b, ...) to actions of shape (b, ...), or to logits of shape
        (b, actions) where actions are whole numbers.
    expert : callable
        ``expert(observation)``: the action, an array of floats or a whole number.
    environment : object
        With the methods of a Gymnasium environment: ``reset(seed=...)`` returns an observation
        and a dict, ``step(action)`` an observation, a reward, whether the episode has terminated
        and whether it was truncated, and a dict.
    optimizer : torch.optim.Optimizer
        Of the policy's parameters. An `SSO` makes its inner steps, any other one step: online
        gradient descent.
    rounds : int, default 50
        Rounds.
    samples_per_round : int, default 100
        States in a round; episodes that end are begun anew.
    mixing : float, default 0.0
        Probability in [0, 1] that the expert's action is taken, drawn at each state.
    rng : None, int or numpy.random.Generator, optional
        Seeds the environment at every reset, and mixes.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as stated.

    References
    ----------
    "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607.

    Examples
    --------
    >>> import numpy as np, torch
    >>> class Drift:
    ...     '''A point on a line that the action pushes; noise pushes it too.'''
    ...     def reset(self, *, seed=None, options=None):
    ...         self.rng, self.at = np.random.default_rng(seed), 1.0
    ...         return np.array([self.at]), {}
    ...     def step(self, action):
    ...         self.at += float(action[0]) + 0.1 * self.rng.normal()
    ...         return np.array([self.at]), -self.at**2, False, False, {}
    >>> policy = torch.nn.Linear(1, 1, bias=False).double()
    >>> weight = torch.nn.init.zeros_(policy.weight)
    >>> optimizer = SSO(policy.parameters(), target_step=1.0)
    >>> imitation = OnlineImitation(policy, lambda x: -0.5 * x, Drift(), optimizer, rounds=5, rng=0)
    >>> history = imitation.run()
    >>> round(policy.weight.item(), 4), int(history["expert_calls"][-1])
    (-0.5, 500)
    """

    def __init__(
        self,
        policy: torch.nn.Module,
        expert: Callable[[Any], Any],
        environment: Any,
        optimizer: torch.optim.Optimizer,
        *,
        rounds: int = 50,
        samples_per_round: int = 100,
        mixing: float = 0.0,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        if not isinstance(policy, torch.nn.Module):
            raise TypeError(f"policy must be a torch.nn.Module, got {policy!r}")
        if not callable(expert):
            raise TypeError(f"expert must be callable, got {expert!r}")
        for name in ("reset", "step"):
            if not callable(getattr(environment, name, None)):
                raise TypeError(f"environment must have the method {name!r}, got {environment!r}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
        self.policy, self.expert = policy, expert
        self.environment, self.optimizer = environment, optimizer
        self.rounds = check_count("rounds", rounds)
        self.samples_per_round = check_count("samples_per_round", samples_per_round)
        self.mixing = check_real("mixing", mixing, at_least=0, at_most=1)
        self.rng = np.random.default_rng(rng)
        # a policy without parameters still has a type to work in
        self._like = next(policy.parameters(), torch.zeros(()))

    def run(
        self, callback: Callable[[dict[str, Any]], object] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run all rounds.

        Parameters
        ----------
        callback : callable, optional
            Called after each round with a dict: ``round`` (from 1), ``loss``, ``reward``.

        Returns
        -------
        dict of arrays of shape (rounds,)
            ``loss`` on the states of a round before its step, ``reward`` (mean of its states),
            ``episodes`` (begun in it), ``expert_calls`` (so far).

        Raises
        ------
        RuntimeError
            If an observation, an action or a loss is not finite: it names the round.
        """
        history: dict[str, list[float]] = {"loss": [], "reward": [], "episodes": []}
        for number in range(1, self.rounds + 1):
            observations, labels, reward, episodes = self._roll_out(number)
            loss = self._learn(observations, labels, number)
            found = {"loss": loss, "reward": reward, "episodes": episodes}
            for name, value in found.items():
                history[name].append(value)
            if callback is not None:
                callback({"round": number, "loss": loss, "reward": reward})
        arrays = {name: np.array(values) for name, values in history.items()}
        return arrays | {"expert_calls": self.samples_per_round * np.arange(1, self.rounds + 1)}

    def _roll_out(self, number: int) -> tuple[NDArray[Any], NDArray[Any], float, int]:
        """The states of a round, the expert's actions there, the mean reward, the episodes."""
        observations, labels, rewards, episodes = [], [], [], 0
        over = True
        for _ in range(self.samples_per_round):
            if over:
                seed = int(self.rng.integers(LARGEST_SEED))
                observation, _ = self.environment.reset(seed=seed)
                episodes += 1
            seen = _finite("an observation", observation, number)
            label = _finite("the expert's action", self.expert(observation), number)
            observations.append(seen)
            labels.append(label)
            if self.mixing > 0 and self.rng.random() < self.mixing:
                action = label
            else:
                action = self._action(seen, label, number)
            # environments of whole-numbered actions use them as keys
            whole = action.ndim == 0 and action.dtype.kind in "iu"
            outcome = self.environment.step(int(action) if whole else action)
            observation, reward, terminated, truncated, _ = outcome
            rewards.append(float(reward))
            over = bool(terminated or truncated)
        return np.array(observations), np.array(labels), float(np.mean(rewards)), episodes

    def _action(self, observation: NDArray[Any], label: NDArray[Any], number: int) -> NDArray[Any]:
        with torch.no_grad():
            output = self.policy(self._tensor(observation[None]))[0]
        output = _finite("the policy's action", output.double().cpu().numpy(), number)
        if label.dtype.kind in "iu":
            return np.asarray(output.argmax())
        if output.shape != label.shape:
            raise ValueError(
                f"the policy's actions must have the expert's shape {label.shape}, "
                f"got {output.shape}"
            )
        return output.astype(label.dtype)

    def _learn(self, observations: NDArray[Any], labels: NDArray[Any], number: int) -> float:
        states = self._tensor(observations)
        if labels.dtype.kind in "iu":
            wanted = torch.as_tensor(labels, device=self._like.device).long()
        else:
            wanted = self._tensor(labels)

        def forward() -> torch.Tensor:
            return self.policy(states)

        def target_loss(z: torch.Tensor) -> torch.Tensor:
            if not wanted.is_floating_point():
                return torch.nn.functional.cross_entropy(z, wanted)
            return 0.5 * (z - wanted).square().sum() / len(z)

        def closure() -> Any:
            self.optimizer.zero_grad()
            loss = target_loss(forward())
            loss.backward()
            return loss

        if isinstance(self.optimizer, SSO):
            loss = self.optimizer.step(forward, target_loss)
        else:
            loss = torch.as_tensor(self.optimizer.step(closure)).detach()
        return float(_finite("the loss", float(loss), number))

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(values, dtype=self._like.dtype, device=self._like.device)


def _finite(what: str, value: Any, number: int) -> NDArray[Any]:
    array = check_array(what, value, dtype=None, finite=False)
    if not np.isfinite(array).all():
        raise RuntimeError(f"{what} must be finite in round {number}")
    return array
