"""Fields of a stochastic interpolant from those that were learned, in normalised coordinates.

Inside, a point is ``(x - alpha mean0 - beta mean1) / scale``, and the noise of the path is divided
by the scale with it. There b is the sum of the velocity without noise and of gamma' times the
denoiser, and the score minus the denoiser over gamma.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg._validation import check_option
from thalweg.transport._interpolant_schedules import column
from thalweg.transport.interpolants import Interpolant

Floats = NDArray[np.float64]


def check_learn(path: Interpolant, learn: Sequence[str]) -> list[str]:
    """Return the names of the fields to learn; ValueError where they do not give a velocity."""
    if isinstance(learn, str):
        raise TypeError(f"learn must be a sequence of names, got {learn!r}")
    names = list(learn)
    for name in names:
        check_option("learn", name, ["b", "v", "eta", "s"])
    if len(set(names)) != len(names):
        raise ValueError(f"learn must not repeat a name, got {learn!r}")
    if path.starts_from_noise and "v" in names:
        raise ValueError(f"learn must not hold 'v' where x0 is the noise, got {learn!r}")
    if not path.has_score and not set(names) <= {"b", "v"}:
        raise ValueError(f"learn must be ('b',) where there is no noise to denoise, got {learn!r}")
    noisy = {"eta", "s"} & set(names)
    enough = (
        "b" in names
        or ("v" in names and (noisy or not path.has_score))
        or (path.starts_from_noise and noisy)
    )
    if not enough:
        raise ValueError(
            f"learn must hold 'b', or 'v' and one of 'eta' and 's', to give a velocity, got "
            f"{learn!r}"
        )
    return names


class InterpolantFields:
    """Velocity, score and denoiser from networks; in either coordinates, at clamped times."""

    def __init__(
        self,
        path: Interpolant,
        networks: Mapping[str, torch.nn.Module],
        mean0: Floats,
        mean1: Floats,
        scale: float,
        t_min: float,
    ) -> None:
        self.path, self.networks, self.t_min = path, networks, t_min
        self.mean0, self.mean1, self.scale = mean0, mean1, scale

    def require_score(self) -> None:
        """Raise ValueError where neither eta nor s nor their equivalent was learned."""
        if not ({"eta", "s"} & set(self.networks)) and not self.path.starts_from_noise:
            raise ValueError(
                "a score is needed for epsilon > 0: there must be noise on the path, and 'eta' or "
                f"'s' in learn, got {sorted(self.networks)}"
            )

    def drift(self, t: Any, x: torch.Tensor, epsilon: float = 0.0) -> torch.Tensor:
        """Return ``b + epsilon s`` inside."""
        c, t = self._coefficients(t, x)
        known: dict[str, torch.Tensor] = {}
        value = self._b(c, t, x, known)
        if epsilon:
            value = value - (epsilon / c["noise"]) * self._eta(c, t, x, known)
        return value

    def velocity(self, t: torch.Tensor, x: torch.Tensor, device: Any) -> torch.Tensor:
        """Return b at points outside."""
        return self._moved(self._b, t, x, device)

    def plain_velocity(self, t: torch.Tensor, x: torch.Tensor, device: Any) -> torch.Tensor:
        """Return v at points outside."""
        return self._moved(self._v, t, x, device)

    def denoiser(self, t: torch.Tensor, x: torch.Tensor, device: Any) -> torch.Tensor:
        """Return eta at points outside."""
        self.require_score()
        c, clock, inside = self._inside(t, x, device)
        return self._eta(c, clock, inside, {}).to(x)

    def score(self, t: torch.Tensor, x: torch.Tensor, device: Any) -> torch.Tensor:
        """Return s at points outside."""
        self.require_score()
        c, clock, inside = self._inside(t, x, device)
        return (-self._eta(c, clock, inside, {}) / (c["noise"] * self.scale)).to(x)

    def inward(self, Z: Floats, t: float, device: Any) -> torch.Tensor:
        """Return points at time t as a tensor in normalised coordinates."""
        inside = (Z - self._centre(t)) / self.scale
        return torch.from_numpy(inside).to(device, torch.float32)

    def outward(self, x: torch.Tensor, t: float) -> Floats:
        """Return points at time t in the data's coordinates."""
        return np.asarray(self.scale * x.cpu().double().numpy() + self._centre(t))

    def _moved(self, field: Any, t: torch.Tensor, x: torch.Tensor, device: Any) -> torch.Tensor:
        c, clock, inside = self._inside(t, x, device)
        value = field(c, clock, inside, {}).to(x)
        slope = [column(v, x) for v in (c["centre_slope0"].to(x), c["centre_slope1"].to(x))]
        mean0, mean1 = (torch.from_numpy(m).to(x) for m in (self.mean0, self.mean1))
        moved: torch.Tensor = self.scale * value + slope[0] * mean0 + slope[1] * mean1
        return moved

    def _inside(self, t: torch.Tensor, x: torch.Tensor, device: Any) -> tuple[Any, Any, Any]:
        clock = t.clamp(self.t_min, 1 - self.t_min)
        at = {name: column(value, x) for name, value in self.path._at(clock).items()}
        mean0, mean1 = (torch.from_numpy(m).to(x) for m in (self.mean0, self.mean1))
        inside = (x - at["alpha"] * mean0 - at["beta"] * mean1) / self.scale
        inside = inside.to(device, torch.float32)
        c, clock = self._coefficients(clock.to(device, torch.float32), inside)
        return c, clock, inside

    def _coefficients(self, t: Any, x: torch.Tensor) -> tuple[dict[str, Any], Any]:
        """Return coefficients of the normalised path, as columns, and the clamped time."""
        clock = torch.as_tensor(t, dtype=torch.float64).clamp(self.t_min, 1 - self.t_min)
        at = self.path._at(clock)
        c = {
            name: column(value.to(x), x) / (self.scale if "noise" in name else 1)
            for name, value in self.path._noise_at(at).items()
        }
        c["centre_slope0"], c["centre_slope1"] = (at[name].to(x) for name in ("dalpha", "dbeta"))
        return c, clock.to(x)

    def _b(self, c: Any, t: Any, x: torch.Tensor, known: dict[str, torch.Tensor]) -> torch.Tensor:
        if "b" not in known:
            if "b" in self.networks:
                known["b"] = self.networks["b"](t, x)
            elif self.path.starts_from_noise:
                eta = self._eta(c, t, x, known)
                known["b"] = c["dnoise"] * eta + c["dbeta"] / c["beta"] * (x - c["noise"] * eta)
            else:
                known["b"] = self._v(c, t, x, known)
                if self.path.has_score:
                    known["b"] = known["b"] + c["dnoise"] * self._eta(c, t, x, known)
        return known["b"]

    def _v(self, c: Any, t: Any, x: torch.Tensor, known: dict[str, torch.Tensor]) -> torch.Tensor:
        value: torch.Tensor = self.networks["v"](t, x)
        return value

    def _eta(self, c: Any, t: Any, x: torch.Tensor, known: dict[str, torch.Tensor]) -> torch.Tensor:
        if "eta" not in known:
            if "eta" in self.networks:
                known["eta"] = self.networks["eta"](t, x)
            elif "s" in self.networks:
                known["eta"] = -c["noise"] * self.networks["s"](t, x)
            else:
                rate = c["dbeta"] / c["beta"]
                b = self._b(c, t, x, known)
                known["eta"] = (b - rate * x) / (c["dnoise"] - rate * c["noise"])
        return known["eta"]

    def _centre(self, t: float) -> Floats:
        at = self.path._at(np.asarray(t))
        return np.asarray(at["alpha"] * self.mean0 + at["beta"] * self.mean1)
