"""Families of drifts with unknown parameters: mechanistic models of how points move.

A family knows its drift ``b(t, x)`` for given parameters and how to fit them to velocities seen
along paths, which for a diffusion with constant noise is maximum likelihood. Families that are
linear in their parameters are fitted by least squares through a QR factorisation that passes over
the rows in blocks, others by SciPy's `least_squares` from the best of several starts. Initial
parameters give a drift of nearly zero, so that a method that refines a family starts from Brownian
motion.

Source: "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
2408.06277, section 5 and appendix, for the families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, lsq_linear

from thalweg._validation import check_array, check_count

Floats: TypeAlias = NDArray[np.float64]
INITIAL_RATE = 1e-5
"""Value of every rate before the first fit, as published."""
BLOCK_ROWS = 65_536
"""Rows of one block of a linear least-squares fit."""
START_ROWS = 2000
"""Rows on which the starts of a nonlinear fit are compared; chosen here."""


class DriftFamily(ABC):
    """Drifts ``b(t, x)`` with parameters: what a reference process may be.

    A family of your own needs `names`, `drift` and `init`; `fit` then is SciPy's `least_squares`
    with numerical derivatives.

    Attributes
    ----------
    names : tuple of str
        Names of the parameters, in order.
    dim : int or None
        Columns of `x`; None is any number.
    nonnegative : tuple of bool
        Which parameters are rates, kept at 0 or above; empty is none.
    """

    names: tuple[str, ...] = ()
    dim: int | None = None
    nonnegative: tuple[bool, ...] = ()

    @property
    def n_params(self) -> int:
        """Number p of parameters."""
        return len(self.names)

    @abstractmethod
    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return the drift (n, d) at points `x` (n, d) and times `t`, a float or (n,)."""

    @abstractmethod
    def init(self) -> Floats:
        """Return the parameters (p,) of a drift that is nearly zero."""

    def fit(
        self,
        t: ArrayLike,
        x: ArrayLike,
        velocity: ArrayLike,
        params0: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Floats:
        """Return the parameters of least ``sum weights |velocity - b(t, x)|^2``.

        Parameters
        ----------
        t : array_like (n,)
            Times.
        x, velocity : array_like (n, d)
            Points and the velocities there.
        params0 : array_like (p,), optional
            Where an iterative fit starts; None is `init`.
        weights : array_like (n,), optional
            Weights of the rows; the step length, where velocities are increments over the step.

        Returns
        -------
        array (p,)
        """
        t, x, velocity, root = self._rows(t, x, velocity, weights)
        start = self._parameters(params0)
        if not self.n_params:
            return start
        return self._fit_rows(t, x, velocity, root, start)

    def jacobian(self, params: Floats, t: Any, x: Floats) -> Floats | None:
        """Return the derivative of the drift by the parameters, (n, d, p); None if not known."""
        return None

    def _fit_rows(self, t: Floats, x: Floats, velocity: Floats, root: Floats, start: Floats) -> Any:
        few = _thinned(len(x))
        starts = [start, *self._starts(start, t[few], x[few], velocity[few])]
        best = min(
            starts,
            key=lambda p: np.sum(
                (root[few] * (self.drift(p, t[few], x[few]) - velocity[few])) ** 2
            ),
        )
        floor = np.full(self.n_params, -np.inf)
        floor[np.asarray(self.nonnegative, dtype=bool)] = 0.0

        def residual(params: Floats) -> Floats:
            return np.ravel(root * (self.drift(params, t, x) - velocity))

        def derivative(params: Floats) -> Floats:
            slopes: Any = self.jacobian(params, t, x)
            return np.reshape(root[:, :, None] * slopes, (-1, self.n_params))

        known = self.jacobian(best, t[:1], x[:1]) is not None
        return least_squares(
            residual,
            np.maximum(best, floor),
            jac=derivative if known else "2-point",
            bounds=(floor, np.inf),
            x_scale="jac",
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        ).x

    def _starts(self, start: Floats, t: Floats, x: Floats, velocity: Floats) -> Iterable[Floats]:
        """Return further starts (p,) of a nonlinear fit, judged on a few rows."""
        return ()

    def _rows(
        self, t: ArrayLike, x: ArrayLike, velocity: ArrayLike, weights: ArrayLike | None
    ) -> tuple[Floats, Floats, Floats, Floats]:
        x = check_array("x", x, shape=(None, self.dim))
        velocity = check_array("velocity", velocity, shape=x.shape)
        t = check_array("t", t, shape=(len(x),))
        if weights is None:
            return t, x, velocity, np.ones((len(x), 1))
        weights = check_array("weights", weights, shape=(len(x),))
        if (weights < 0).any():
            raise ValueError(f"weights must be at least 0, got {weights.min()}")
        return t, x, velocity, np.sqrt(weights)[:, None]

    def _parameters(self, params: ArrayLike | None) -> Floats:
        if params is None:
            return self.init()
        return check_array("params0", params, shape=(self.n_params,)).copy()


class ZeroDrift(DriftFamily):
    """No drift and no parameters: Brownian motion, the reference of a vanilla bridge.

    Examples
    --------
    >>> import numpy as np
    >>> ZeroDrift().drift(np.empty(0), 0.0, np.ones((1, 2)))
    array([[0., 0.]])
    """

    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return zeros (n, d)."""
        return np.zeros_like(x)

    def init(self) -> Floats:
        """Return the empty array."""
        return np.empty(0)


class LinearFamily(DriftFamily):
    """Drifts that are linear in their parameters, fitted by least squares.

    Parameters
    ----------
    basis : callable
        ``basis(t, x) -> array (n, d, p)``, so that the drift is ``basis(t, x) @ params``; `t` is a
        float or (n,).
    offset : callable, optional
        ``offset(t, x) -> array (n, d)``: a part of the drift without parameters.
    names : sequence of str, optional
        Names of the parameters; without them p is asked of the basis, at a point of `dim` zeros.
    dim : int, optional
        Columns of `x`; needed where there are no names.
    nonnegative : bool or sequence of bool, default False
        Which parameters are kept at 0 or above.

    Examples
    --------
    Growth that fades with time, dx = (a + c t) x dt:

    >>> import numpy as np
    >>> def basis(t, x):
    ...     return np.stack([x, np.reshape(t, (-1, 1)) * x], axis=2)
    >>> family = LinearFamily(basis, names=("a", "c"))
    >>> x, t = np.array([[1.0], [2.0], [1.0]]), np.array([0.0, 1.0, 2.0])
    >>> family.fit(t, x, (3 - 1 * t[:, None]) * x).round(9)
    array([ 3., -1.])
    """

    def __init__(
        self,
        basis: Callable[[Any, Floats], Floats],
        *,
        offset: Callable[[Any, Floats], Floats] | None = None,
        names: Sequence[str] | None = None,
        dim: int | None = None,
        nonnegative: bool | Sequence[bool] = False,
    ) -> None:
        for name, function in (("basis", basis), ("offset", offset)):
            if not (callable(function) or (function is None and name == "offset")):
                raise TypeError(f"{name} must be callable as {name}(t, x), got {function!r}")
        self.basis, self.offset, self.dim = basis, offset, dim
        if names is None:
            if dim is None:
                raise ValueError("dim must be given where names are not, got None")
            probe = basis(0.0, np.zeros((1, check_count("dim", dim))))
            names = [f"theta[{i}]" for i in range(np.shape(probe)[-1])]
        self.names = tuple(names)
        flags = np.broadcast_to(np.asarray(nonnegative, dtype=bool), len(self.names))
        self.nonnegative = tuple(bool(flag) for flag in flags)

    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return ``offset(t, x) + basis(t, x) @ params``."""
        moved = self.basis(t, x) @ params
        return moved if self.offset is None else moved + self.offset(t, x)

    def jacobian(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return the basis."""
        return self.basis(t, x)

    def init(self) -> Floats:
        """Return 1e-5 for every rate, 0 for the others."""
        return np.where(self.nonnegative, INITIAL_RATE, 0.0)

    def _fit_rows(self, t: Floats, x: Floats, velocity: Floats, root: Floats, start: Floats) -> Any:
        p = self.n_params
        triangle = np.empty((0, p + 1))
        for first in range(0, len(x), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            design, wanted = self.basis(t[part], x[part]), velocity[part]
            if self.offset is not None:
                wanted = wanted - self.offset(t[part], x[part])
            rows = np.concatenate([design, wanted[:, :, None]], axis=2) * root[part, :, None]
            stacked = np.concatenate([triangle, rows.reshape(-1, p + 1)])
            triangle = np.asarray(np.linalg.qr(stacked, mode="r"))
        params = np.linalg.lstsq(triangle[:, :p], triangle[:, p], rcond=None)[0]
        floor = np.where(self.nonnegative, 0.0, -np.inf)
        if (params < floor).any():
            params = lsq_linear(triangle[:, :p], triangle[:, p], (floor, np.inf), tol=1e-13).x
        return params


class LotkaVolterra(LinearFamily):
    """Prey x and predators y: ``dx = alpha x - beta x y``, ``dy = delta x y - gamma y``.

    Parameters are (alpha, beta, gamma, delta), all rates.

    Examples
    --------
    >>> import numpy as np
    >>> LotkaVolterra().drift(np.array([1.0, 0.4, 0.4, 0.1]), 0.0, np.array([[5.0, 4.0]]))
    array([[-3. ,  0.4]])
    """

    def __init__(self) -> None:
        super().__init__(
            _lotka_volterra, names=("alpha", "beta", "gamma", "delta"), dim=2, nonnegative=True
        )


class OrnsteinUhlenbeck(LinearFamily):
    """Linear drift ``A x + c``; the parameters are A row by row, then c.

    Parameters
    ----------
    dim : int
        Columns of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> family = OrnsteinUhlenbeck(1)
    >>> family.names, family.drift(np.array([-2.0, 1.0]), 0.0, np.array([[3.0]]))
    (('A[0,0]', 'c[0]'), array([[-5.]]))
    """

    def __init__(self, dim: int) -> None:
        d = check_count("dim", dim)
        names = [f"A[{i},{j}]" for i in range(d) for j in range(d)] + [f"c[{i}]" for i in range(d)]
        super().__init__(_affine, names=names, dim=d)

    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return ``A x + c``."""
        A, c = self.matrices(params)
        return x @ A.T + c

    def matrices(self, params: Floats) -> tuple[Floats, Floats]:
        """Return A (d, d) and c (d,)."""
        d = self.dim or 1
        return params[: d * d].reshape(d, d), params[d * d :]

    def _fit_rows(self, t: Floats, x: Floats, velocity: Floats, root: Floats, start: Floats) -> Any:
        design = np.column_stack([x, np.ones(len(x))]) * root
        solution = np.linalg.lstsq(design, velocity * root, rcond=None)[0]
        return np.concatenate([solution[:-1].T.ravel(), solution[-1]])


class Spring(LinearFamily):
    """Damped springs: columns are positions q, then velocities v, and ``dq = v``.

    ``dv = force - stiffness q - damping v``, with one stiffness and one damping for all
    coordinates; a spring at rest at q0 has the force stiffness times q0. Stiffness and damping are
    rates, kept at 0 or above.

    Parameters
    ----------
    dim : int, default 1
        Positions; `x` has twice as many columns.

    Examples
    --------
    >>> import numpy as np
    >>> Spring(1).drift(np.array([4.0, 0.5, 0.0]), 0.0, np.array([[1.0, 2.0]]))
    array([[ 2., -5.]])
    """

    def __init__(self, dim: int = 1) -> None:
        d = check_count("dim", dim)
        names = ["stiffness", "damping", *(f"force[{i}]" for i in range(d))]
        super().__init__(
            _spring, offset=_moving, names=names, dim=2 * d, nonnegative=[True, True] + [False] * d
        )


def _lotka_volterra(t: Any, x: Floats) -> Floats:
    basis = np.zeros((len(x), 2, 4))
    prey, predators = x[:, 0], x[:, 1]
    basis[:, 0, 0] = prey
    basis[:, 0, 1] = -prey * predators
    basis[:, 1, 2] = -predators
    basis[:, 1, 3] = prey * predators
    return basis


def _affine(t: Any, x: Floats) -> Floats:
    n, d = x.shape
    basis = np.zeros((n, d, d * d + d))
    for i in range(d):
        basis[:, i, i * d : (i + 1) * d] = x
        basis[:, i, d * d + i] = 1.0
    return basis


def _spring(t: Any, x: Floats) -> Floats:
    n, d = len(x), x.shape[1] // 2
    basis = np.zeros((n, 2 * d, 2 + d))
    basis[:, d:, 0] = -x[:, :d]
    basis[:, d:, 1] = -x[:, d:]
    basis[:, d + np.arange(d), 2 + np.arange(d)] = 1.0
    return basis


def _moving(t: Any, x: Floats) -> Floats:
    d = x.shape[1] // 2
    return np.concatenate([x[:, d:], np.zeros((len(x), d))], axis=1)


def _thinned(rows: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, rows - 1, min(rows, START_ROWS)).astype(np.int64))
