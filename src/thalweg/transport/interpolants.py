"""Stochastic interpolants: random paths that join two laws exactly in finite time.

``x_t = alpha(t) x0 + beta(t) x1 + gamma(t) z`` with a latent standard normal z has the law of x0 at
time 0 and of x1 at time 1. Which schedules are taken decides how the law moves in between; which
fields are regressed on the path, and how noisy the sampler is, is decided afterwards. Score-based
diffusion, rectified flow and stochastic localisation are three of the schedules.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, sections 2 to 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_option, check_real, is_torch_tensor
from thalweg.transport._interpolant_schedules import (
    FAMILIES,
    GAMMAS,
    Array,
    Schedule,
    callables,
    column,
    in_kind_of,
)

END_TOLERANCE = 1e-6
DERIVATIVE_TOLERANCE = 1e-3
CHECK_TIMES = np.linspace(0.025, 0.975, 39)
DIFFERENCE = 1e-6
ONE_SIDED = {
    "linear": "one-sided-linear",
    "trig": "one-sided-trig",
    "sqrt": "one-sided-sqrt",
}
DIFFUSIONS = {"vp": "one-sided-sqrt", "localization": "one-sided-linear"}


@dataclass(frozen=True)
class Interpolant:
    """Schedules alpha, beta and gamma of a stochastic interpolant, with their derivatives.

    Make one with `linear`, `trig`, `encoding_decoding`, `one_sided`, `mirror`, `rectified`,
    `from_diffusion` or `custom`. One-sided interpolants need a standard normal x0, independent of
    x1, which then plays the part of z; the mirror interpolant joins a law to itself.

    Parameters
    ----------
    family : str, default "linear"
        ``"linear"``: (1-t, t). ``"trig"``: ``sqrt(1-gamma^2)`` times (cos, sin) of ``pi t / 2``.
        ``"encoding-decoding"``: ``cos^2(pi t)`` on x0 in the first half, on x1 in the second.
        ``"one-sided-linear"``, ``"one-sided-trig"``, ``"one-sided-sqrt"`` (``sqrt(1-t^2), t``).
        ``"mirror"``: (0, 1). ``"custom"``: `schedules`.
    gamma : {"brownian", "quadratic", "sine-squared", None} or (callable, callable)
        ``sqrt(a t (1-t))``, ``a t (1-t)``, ``a sin^2(pi t)``, zero, or a function of an array of
        times and its derivative. None for the one-sided families.
    a : float, default 1.0
        Factor of the named gammas.
    schedules : (alpha, dalpha, beta, dbeta), optional
        Functions of an array of times, for ``family="custom"``.

    Raises
    ------
    ValueError
        If an end is not as it must be, gamma is negative or exceeds 1 for ``"trig"``, or a
        derivative is off by more than 1e-3; it names the schedule.

    Notes
    -----
    ``"trig"`` with a gamma that reaches 1, such as ``"sine-squared"``, has a kink there; the
    derivatives of alpha and beta at that time are the means of both sides.

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, sections 3 to 5.

    Examples
    --------
    >>> import numpy as np
    >>> path = Interpolant.linear(gamma="brownian")
    >>> x0, x1, z = np.zeros((1, 2)), np.ones((1, 2)), np.ones((1, 2))
    >>> path.sample(0.5, x0, x1, z)
    (array([[1., 1.]]), array([[1., 1.]]))
    >>> float(path.coefficients(0.5)["gamma"])
    0.5
    """

    family: str = "linear"
    gamma: Any = "brownian"
    a: float = 1.0
    schedules: tuple[Schedule, Schedule, Schedule, Schedule] | None = None

    def __post_init__(self) -> None:
        check_option("family", self.family, FAMILIES)
        check_real("a", self.a, above=0)
        if (self.schedules is not None) != (self.family == "custom"):
            raise ValueError("schedules must be given for family='custom' and for no other")
        if self.gamma is None or isinstance(self.gamma, str):
            check_option("gamma", self.gamma, [*GAMMAS, None])
        elif not callables(self.gamma, 2):
            raise TypeError(
                f"gamma must be a name, None or a pair of callables, got {self.gamma!r}"
            )
        if self.schedules is not None and not callables(self.schedules, 4):
            raise TypeError("schedules must be four callables: alpha, dalpha, beta, dbeta")
        if self.starts_from_noise and self.gamma is not None:
            raise ValueError(
                f"gamma must be None for {self.family!r}, where x0 is the noise, got {self.gamma!r}"
            )
        if self.family == "mirror" and self.gamma is None:
            raise ValueError("gamma must not be None for 'mirror', whose path would stand still")
        if self.family == "trig" and isinstance(self.gamma, str):
            top = self.a / 4 if self.gamma != "sine-squared" else self.a
            if top > 1:
                raise ValueError(f"a must keep gamma <= 1 for 'trig', got {self.a!r}")
        self._check_ends()
        self._check_derivatives()

    @classmethod
    def linear(cls, gamma: Any = "brownian", *, a: float = 1.0) -> Interpolant:
        """Return ``(1-t) x0 + t x1 + gamma z``."""
        return cls("linear", gamma, a)

    @classmethod
    def trig(cls, gamma: Any = "brownian", *, a: float = 1.0) -> Interpolant:
        """Return the one with ``alpha^2 + beta^2 + gamma^2 = 1``, which keeps unit variance."""
        return cls("trig", gamma, a)

    @classmethod
    def encoding_decoding(cls) -> Interpolant:
        """Return the one that passes through a pure standard normal at t = 1/2."""
        return cls("encoding-decoding", "sine-squared")

    @classmethod
    def one_sided(cls, kind: str = "linear") -> Interpolant:
        """Return ``alpha x0 + beta x1``, x0 standard normal; kind "linear", "trig" or "sqrt"."""
        return cls(ONE_SIDED[check_option("kind", kind, ONE_SIDED)], None)

    @classmethod
    def mirror(cls, gamma: Any = "brownian", *, a: float = 1.0) -> Interpolant:
        """Return ``x1 + gamma z``, from a law to itself."""
        return cls("mirror", gamma, a)

    @classmethod
    def rectified(cls) -> Interpolant:
        """Return ``(1-t) x0 + t x1`` without noise: rectified flow; it has no score."""
        return cls("linear", None)

    @classmethod
    def from_diffusion(cls, kind: str = "vp") -> Interpolant:
        """Return the one-sided interpolant that a noising process is in another clock.

        ``"vp"`` is the Ornstein-Uhlenbeck process of score-based diffusion, ``"localization"``
        stochastic localisation; `diffusion_clock` gives the clocks.
        """
        return cls(DIFFUSIONS[check_option("kind", kind, DIFFUSIONS)], None)

    @classmethod
    def custom(
        cls,
        alpha: Schedule,
        dalpha: Schedule,
        beta: Schedule,
        dbeta: Schedule,
        gamma: Any = "brownian",
        *,
        a: float = 1.0,
    ) -> Interpolant:
        """Return one of your own functions of an array of times; derivatives are checked."""
        return cls("custom", gamma, a, (alpha, dalpha, beta, dbeta))

    def coefficients(self, t: Any) -> dict[str, Any]:
        """Return the schedules at given times.

        Parameters
        ----------
        t : float, array or tensor
            Times in [0, 1].

        Returns
        -------
        dict
            ``"alpha"``, ``"beta"``, ``"gamma"``, the derivatives ``"dalpha"``, ``"dbeta"``,
            ``"dgamma"``, which may be infinite at the ends, and ``"gamma_dgamma"``, the product,
            which is finite; of the shape and kind of `t`.
        """
        if not is_torch_tensor(t):
            t = check_array("t", t)
        if math.prod(t.shape):
            check_real("t", float(t.min()), at_least=0)
            check_real("t", float(t.max()), at_most=1)
        return self._at(t)

    def noise(self, t: Any) -> dict[str, Any]:
        """Return `coefficients` with x0's in the place of z's where x0 is the noise.

        ``"noise"`` and ``"dnoise"`` are gamma and its derivative, or alpha and its own for a
        one-sided interpolant, whose ``"alpha"`` and ``"dalpha"`` are then zero. The score is
        ``-E[z | x_t = x] / noise`` in either case.
        """
        return self._noise_at(self.coefficients(t))

    def sample(self, t: Any, x0: Array, x1: Array, z: Array | None = None) -> tuple[Array, Array]:
        """Return points of the path and their derivatives in time.

        Parameters
        ----------
        t : float or array (n,)
            Times in [0, 1]; inside, where a derivative is infinite at the ends.
        x0, x1, z : array or tensor (n, d)
            Ends and noise; `z` may be None where gamma is zero.

        Returns
        -------
        x_t, dx_t : array or tensor (n, d)
        """
        x0, x1, z = _matching(x0, x1, z)
        if z is None and self.gamma is not None:
            raise ValueError("z must be given where gamma is not zero")
        c = {name: column(value, x0) for name, value in self.coefficients(t).items()}
        point = c["alpha"] * x0 + c["beta"] * x1
        slope = c["dalpha"] * x0 + c["dbeta"] * x1
        if z is not None and self.gamma is not None:
            point, slope = point + c["gamma"] * z, slope + c["dgamma"] * z
        if not bool((abs(c["dalpha"]) + abs(c["dgamma"]) < math.inf).all()):
            raise ValueError(f"t must lie inside (0, 1) for {self}: a derivative is infinite")
        return point, slope

    @property
    def starts_from_noise(self) -> bool:
        """Whether x0 is the noise, as in the one-sided families."""
        return self.family in ONE_SIDED.values()

    @property
    def has_score(self) -> bool:
        """Whether there is noise, so that densities are smooth and have a learnable score."""
        return self.starts_from_noise or self.gamma is not None

    def _at(self, t: Any) -> dict[str, Any]:
        with np.errstate(divide="ignore", invalid="ignore"):
            gammas = self._gamma_at(t)
            if self.schedules is None:
                pair = FAMILIES[self.family](t, *gammas)
            else:
                pair = tuple(in_kind_of(t, schedule) for schedule in self.schedules)
        names = ("alpha", "dalpha", "beta", "dbeta", "gamma", "dgamma", "gamma_dgamma")
        return dict(zip(names, (*pair, *gammas), strict=True))

    def _gamma_at(self, t: Any) -> tuple[Any, Any, Any]:
        if self.gamma is None:
            return 0 * t, 0 * t, 0 * t
        if isinstance(self.gamma, str):
            return GAMMAS[self.gamma](t, self.a)
        value, slope = (in_kind_of(t, schedule) for schedule in self.gamma)
        return value, slope, value * slope

    def _noise_at(self, c: dict[str, Any]) -> dict[str, Any]:
        if not self.starts_from_noise:
            return {**c, "noise": c["gamma"], "dnoise": c["dgamma"]}
        zero = 0 * c["alpha"]
        return {**c, "alpha": zero, "dalpha": zero, "noise": c["alpha"], "dnoise": c["dalpha"]}

    def _check_ends(self) -> None:
        first, last = self._at(np.array(0.0)), self._at(np.array(1.0))
        start = (0.0, 1.0) if self.family == "mirror" else (1.0, 0.0)
        for time, found, want in (
            (0, first, {"alpha": start[0], "beta": start[1], "gamma": 0.0}),
            (1, last, {"alpha": 0.0, "beta": 1.0, "gamma": 0.0}),
        ):
            for name, value in want.items():
                if not abs(float(found[name]) - value) <= END_TOLERANCE:
                    raise ValueError(
                        f"{name} must be {value:g} at t = {time}, got {float(found[name]):.6g}"
                    )

    def _check_derivatives(self) -> None:
        if self.schedules is None and not callables(self.gamma, 2):
            return
        c, h = self._at(CHECK_TIMES), DIFFERENCE
        later, earlier = self._at(CHECK_TIMES + h), self._at(CHECK_TIMES - h)
        if np.min(c["gamma"]) < 0 or (self.gamma is not None and not np.min(c["gamma"]) > 0):
            raise ValueError(f"gamma must be positive inside (0, 1), got {np.min(c['gamma']):.6g}")
        if self.family == "trig" and np.max(c["gamma"]) > 1:
            raise ValueError(f"gamma must be <= 1 for 'trig', got {np.max(c['gamma']):.6g}")
        for name in ("alpha", "beta", "gamma"):
            slope = (later[name] - earlier[name]) / (2 * h)
            error = np.abs(c[f"d{name}"] - slope).max()
            if not error <= DERIVATIVE_TOLERANCE * max(1.0, np.abs(slope).max()):
                raise ValueError(
                    f"d{name} must be the derivative of {name} to within "
                    f"{DERIVATIVE_TOLERANCE:g}, but is off by {error:.6g}"
                )


def diffusion_clock(kind: str, tau: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the time t and the factor c at which a noising process is ``X_tau = c x_t``.

    Parameters
    ----------
    kind : {"vp", "localization"}
        ``"vp"``: ``X = exp(-tau) x1 + sqrt(1 - exp(-2 tau)) z``, noise added as tau grows.
        ``"localization"``: ``X = tau x1 + sqrt(tau) z``, noise removed as tau grows.
    tau : float or array_like
        Times of the process, at least 0.

    Returns
    -------
    t, factor : array
        Arguments and factors of ``Interpolant.from_diffusion(kind)``, x0 being the z above.

    Examples
    --------
    >>> t, factor = diffusion_clock("localization", 4.0)
    >>> round(float(t), 6), float(factor)
    (0.666667, 6.0)
    """
    check_option("kind", kind, DIFFUSIONS)
    tau = check_array("tau", tau)
    if tau.size:
        check_real("tau", float(tau.min()), at_least=0)
    if kind == "vp":
        return np.exp(-tau), np.ones_like(tau)
    root = np.sqrt(tau)
    return root / (1 + root), tau + root


def _matching(x0: Array, x1: Array, z: Array | None) -> tuple[Array, Array, Array | None]:
    named = {"x0": x0, "x1": x1} | ({} if z is None else {"z": z})
    if not is_torch_tensor(x0):
        named = {name: check_array(name, value, ndim=2) for name, value in named.items()}
    shape = tuple(named["x0"].shape)
    for name, value in named.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have the shape of x0, {shape}, got {tuple(value.shape)}")
    return named["x0"], named["x1"], named.get("z")
