"""What a chain's learning starts from: step sizes, networks, and a model that is given.

A given model is not trained on; networks that start at zero learn what is to be added to it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg._validation import check_count, check_option, check_real
from thalweg.transport._diffusion_chain_training import PARAMETRIZATIONS, Chain
from thalweg.transport._training import fingerprint
from thalweg.transport.diffusion_chain import DIRECTIONS, KINDS, check_gammas, symmetric_gammas
from thalweg.transport.networks import TimeMLP

Floats = NDArray[np.float64]
Modules = dict[str, "torch.nn.Module | None"]


@dataclass(frozen=True)
class GivenModel:
    """Drift of one direction, in normalised coordinates, of a model of the marginals.

    With the marginals' velocity v and score s, diffusions with variance epsilon a unit of time have
    drifts ``v + epsilon s / 2`` forward and ``-v + epsilon s / 2`` backward. The score's part is
    divided by ``1 + epsilon gamma |s|^2 / (2 d)``: where marginals are narrower than the noise of a
    step, as at the clean end of a one-sided interpolant, an Euler step along the score would
    overshoot, and the velocity alone leads to the end. Times are at least half a step from both
    ends, where learned fields are unreliable.
    """

    model: Any
    chain: Chain
    direction: str
    centres: Floats
    scale: float

    def __call__(self, k: Any, x: torch.Tensor) -> torch.Tensor:
        k = k.cpu().numpy() if isinstance(k, torch.Tensor) else np.asarray(k)
        backward = self.direction == "backward"
        step, ahead = (k - 1, k - 1) if backward else (k, k + 1)
        gamma = self.chain.gammas[step]
        x_data = self.centres[k] + self.scale * x.cpu().double().numpy()
        first, last = self.chain.gammas[0] / 2, 1 - self.chain.gammas[-1] / 2
        t = np.clip(self.chain.times[k], first, last)
        t = float(t) if np.ndim(t) == 0 else t
        velocity = np.asarray(self.model.velocity(t, x_data))
        variance = self.chain.epsilon * self.scale**2
        score = self._score(t, x_data)
        steepness = variance * gamma * (score**2).sum(1) / (2 * x.shape[1])
        pull = variance / 2 * score / (1 + steepness[:, None])
        drift = (-velocity if backward else velocity) + pull
        centre = (self.centres[ahead] - self.centres[k]) / np.reshape(gamma, (-1, 1))
        return torch.from_numpy((drift - centre) / self.scale).to(x)

    def _score(self, t: Any, x: Floats) -> Floats:
        if hasattr(self.model, "score"):
            return np.array(self.model.score(t, x))
        noise = np.reshape(self.model.interpolant.noise(t)["noise"], (-1, 1))
        least = np.finfo(float).tiny
        return np.asarray(-self.model.denoiser(t, x) / np.maximum(noise, least))


def check_chain(
    parametrization: str, loss: str, n_times: int, gammas: Any, reference_rate: float
) -> tuple[Floats, float]:
    """Return step sizes and rate; ValueError where parameters are wrong or do not go together."""
    check_option("parametrization", parametrization, PARAMETRIZATIONS)
    transition = parametrization == "transition"
    if check_option("loss", loss, KINDS) == "original" and not transition:
        raise ValueError(
            "loss must be 'simplified' unless parametrization='transition', got 'original' with "
            f"{parametrization!r}"
        )
    N = check_count("n_times", n_times, at_least=2)
    if isinstance(gammas, str):
        kind = check_option("gammas", gammas, ["uniform", "symmetric"])
        sizes = symmetric_gammas(N, 1.0) if kind == "uniform" else symmetric_gammas(N)
    else:
        sizes = check_gammas("gammas", gammas)
    rate = check_real("reference_rate", reference_rate, at_least=0)
    if rate and not transition:
        raise ValueError(
            "reference_rate must be 0 unless parametrization='transition', since the others take "
            f"the posterior of Brownian motion, got {rate!r}"
        )
    if rate * sizes.max() >= 1:
        raise ValueError(
            f"reference_rate must be below 1 over the largest step, {1 / sizes.max():.6g}, got "
            f"{rate!r}"
        )
    return sizes, rate


def is_model(init: Any) -> bool:
    """Whether `init` is a model of the marginals, not nothing and not a pair of modules."""
    return init is not None and not isinstance(init, (tuple, list))


def check_model(model: Any, X: Floats) -> None:
    """Raise TypeError naming what `model` lacks to be a start, ValueError for another dimension."""
    missing = [] if callable(getattr(model, "velocity", None)) else ["velocity"]
    if not callable(getattr(model, "score", None)) and not (
        callable(getattr(model, "denoiser", None))
        and callable(getattr(getattr(model, "interpolant", None), "noise", None))
    ):
        missing.append("score")
    if missing:
        raise TypeError(
            "init must have the methods velocity(t, x) and score(t, x), or velocity, denoiser and "
            f"an interpolant; {type(model).__name__} lacks {' and '.join(missing)}"
        )
    shape = np.shape(model.velocity(0.5, X[:1]))
    if shape != X[:1].shape:
        raise ValueError(f"init must give velocities of shape {X[:1].shape}, got {shape}")


def starting_networks(
    init: Any, networks: Any, d: int, hidden: Sequence[int], rng: torch.Generator
) -> dict[str, torch.nn.Module]:
    """Return the networks to train: copies of those given, else new ones.

    New ones start at zero where they correct a model.
    """
    given = _pair("networks", networks, d, whole=True)
    if not is_model(init):
        trained = _pair("init", init, d, whole=False)
        given = {name: trained[name] or given[name] for name in DIRECTIONS}
    started: dict[str, torch.nn.Module] = {}
    for name in DIRECTIONS:
        network = given[name]
        if network is None:
            network = TimeMLP(d, hidden=hidden, zero_init=is_model(init), rng=rng)
        started[name] = copy.deepcopy(network)
    return started


def start_fingerprint(init: Any, networks: Any, X: Floats) -> str:
    """Return a short text that tells starts apart."""
    if is_model(init):
        return f"{type(init).__name__} {fingerprint(np.asarray(init.velocity(0.5, X[:1000])))}"
    modules = [m for pair in (init, networks) for m in pair or () if m is not None]
    parameters = [p.detach() for m in modules for p in m.parameters()]
    return f"{'modules' if init else 'nothing'} {fingerprint(*parameters)}"


def _pair(name: str, value: Any, d: int, whole: bool) -> Modules:
    """Return backward and forward module; TypeError or ValueError where `value` is no such pair."""
    if value is None:
        return dict.fromkeys(DIRECTIONS)
    pair = list(value) if isinstance(value, (tuple, list)) else []
    if len(pair) != 2 or not all(
        isinstance(m, torch.nn.Module) or (m is None and i == 1 and not whole)
        for i, m in enumerate(pair)
    ):
        raise TypeError(f"{name} must be a pair of modules, backward and forward, got {value!r}")
    for module in pair:
        if module is not None:
            like = next(module.parameters(), torch.zeros(()))
            t, x = torch.full((2,), 0.5).to(like), torch.zeros(2, d).to(like)
            with torch.no_grad():
                found = tuple(module(t, x).shape)
            if found != (2, d):
                raise ValueError(f"{name} must map (2, {d}) to (2, {d}), got {found}")
    return dict(zip(DIRECTIONS, pair, strict=True))
