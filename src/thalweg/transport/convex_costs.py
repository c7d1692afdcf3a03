"""Convex costs of moving a point by x, with the conjugates that transport by a potential needs.

A potential whose gradient is y moves a point with the velocity ``grad c*(y)``: of all velocities it
is the one with ``c(v) + c*(y) = v.y`` (Fenchel-Young), and the gap of that equality for any other
is what `RectifiedFlow` minimises.

Source: "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv
2209.14577, section 4.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from thalweg._validation import check_array, check_count, check_real, is_torch_tensor

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; what comes back is of the kind that went in."""

FENCHEL_YOUNG_TOLERANCE = 1e-6
"""Largest gap of the Fenchel-Young equality, as a share of the terms' size."""
CHECK_POINTS = 64
CHECK_SCALES = (0.1, 1.0, 3.0)


class ConvexCost:
    """A strictly convex, differentiable cost c with its conjugate ``c*(y) = max_x x.y - c(x)``.

    The methods of a subclass take NumPy arrays and torch tensors and give back the kind that they
    got; they are made by `convex_cost`. A cost of your own may be any object with the first three
    methods, which are then called with torch tensors alone and must be differentiable.
    """

    def cost(self, x: Array) -> Array:
        """Return c of displacements (n, d), as (n,)."""
        raise NotImplementedError

    def conjugate(self, y: Array) -> Array:
        """Return c* of dual vectors (n, d), as (n,)."""
        raise NotImplementedError

    def grad_conjugate(self, y: Array) -> Array:
        """Return the gradient of c*, the displacement that y is the price of, as (n, d)."""
        raise NotImplementedError

    def gradient(self, x: Array) -> Array:
        """Return the gradient of c, the inverse of `grad_conjugate`, as (n, d)."""
        raise NotImplementedError


def convex_cost(cost: Any, dim: int | None = None) -> ConvexCost:
    """Return the cost of a name, a tuple or an object.

    Parameters
    ----------
    cost : str, tuple or object
        | ``"sqeuclidean"``: ``|x|^2 / 2``
        | ``("power", p)``, p > 1: ``sum |x_i|^p / p``
        | ``("norm", p)``, p > 1: ``|x|^p / p`` of the Euclidean norm
        | ``("quadratic", A)``, A (d, d) symmetric and positive definite: ``x'Ax / 2``
        | an object with ``cost``, ``conjugate`` and ``grad_conjugate`` as `ConvexCost` has them
    dim : int, optional
        Columns of the points: a matrix must have them, and an object is tried on vectors with so
        many entries (2 if None).

    Returns
    -------
    ConvexCost

    Raises
    ------
    TypeError
        If `cost` is none of these.
    ValueError
        If the name is unknown, p is not above 1, A is not symmetric and positive definite or has
        other columns than `dim`, or an object breaks ``c(x) + c*(y) >= x.y`` or the equality at
        ``x = grad c*(y)``, tried at random points to 1e-6.

    References
    ----------
    "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv 2209.14577,
    section 4.

    Examples
    --------
    >>> import numpy as np
    >>> c = convex_cost(("power", 3.0))
    >>> c.cost(np.array([[3.0, 0.0]])), c.grad_conjugate(np.array([[9.0, 0.0]]))
    (array([9.]), array([[3., 0.]]))
    """
    dim = None if dim is None else check_count("dim", dim)
    if isinstance(cost, str):
        if cost != "sqeuclidean":
            raise ValueError(
                "cost must be 'sqeuclidean', ('power', p), ('norm', p), ('quadratic', A) or an "
                f"object, got {cost!r}"
            )
        return PowerCost(2.0)
    if isinstance(cost, (tuple, list)):
        return _from_pair(cost, dim)
    if isinstance(cost, (PowerCost, NormCost)):
        return cost
    if isinstance(cost, QuadraticCost):
        return _fitting(cost, dim)
    missing = [
        name
        for name in ("cost", "conjugate", "grad_conjugate")
        if not callable(getattr(cost, name, None))
    ]
    if missing:
        raise TypeError(
            "cost must be a name, a tuple or an object with cost, conjugate and grad_conjugate; "
            f"{cost!r} lacks {', '.join(missing)}"
        )
    own = cost if isinstance(cost, _OwnCost) else _OwnCost(cost)
    own.check(2 if dim is None else dim)
    return own


class PowerCost(ConvexCost):
    """``sum |x_i|^p / p``; the conjugate has the exponent q with ``1/p + 1/q = 1``."""

    def __init__(self, p: float) -> None:
        self.p, self.q = _exponents(p)

    def __repr__(self) -> str:
        return f"PowerCost({self.p:g})"

    def cost(self, x: Array) -> Array:
        """Return ``sum |x_i|^p / p``."""
        return (abs(x) ** self.p).sum(-1) / self.p

    def conjugate(self, y: Array) -> Array:
        """Return ``sum |y_i|^q / q``."""
        return (abs(y) ** self.q).sum(-1) / self.q

    def grad_conjugate(self, y: Array) -> Array:
        """Return ``sign(y_i) |y_i|^(q-1)``."""
        return _sign(y) * abs(y) ** (self.q - 1)

    def gradient(self, x: Array) -> Array:
        """Return ``sign(x_i) |x_i|^(p-1)``."""
        return _sign(x) * abs(x) ** (self.p - 1)


class NormCost(ConvexCost):
    """``|x|^p / p`` of the Euclidean norm: the same in all directions."""

    def __init__(self, p: float) -> None:
        self.p, self.q = _exponents(p)

    def __repr__(self) -> str:
        return f"NormCost({self.p:g})"

    def cost(self, x: Array) -> Array:
        """Return ``|x|^p / p``."""
        return _norm(x)[..., 0] ** self.p / self.p

    def conjugate(self, y: Array) -> Array:
        """Return ``|y|^q / q``."""
        return _norm(y)[..., 0] ** self.q / self.q

    def grad_conjugate(self, y: Array) -> Array:
        """Return ``|y|^(q-2) y``."""
        return self._along(y, self.q)

    def gradient(self, x: Array) -> Array:
        """Return ``|x|^(p-2) x``."""
        return self._along(x, self.p)

    @staticmethod
    def _along(x: Array, exponent: float) -> Array:
        length = _norm(x)
        return x / (length + (length == 0)) * length ** (exponent - 1)


class QuadraticCost(ConvexCost):
    """``x'Ax / 2``: directions weigh differently."""

    def __init__(self, A: ArrayLike) -> None:
        A = check_array("A", A, ndim=2)
        if A.shape[0] != A.shape[1] or not len(A):
            raise ValueError(f"A must be square, got shape {A.shape}")
        if not np.allclose(A, A.T, rtol=1e-9, atol=1e-12 * np.abs(A).max()):
            raise ValueError("A must be symmetric")
        values, vectors = np.linalg.eigh((A + A.T) / 2)
        if values[0] <= 1e-14 * values[-1]:
            raise ValueError(
                f"A must be positive definite, got smallest eigenvalue {values[0]:.6g}"
            )
        self.A = (A + A.T) / 2
        self.inverse = (vectors / values) @ vectors.T

    def __repr__(self) -> str:
        return f"QuadraticCost({self.A.tolist()})"

    def cost(self, x: Array) -> Array:
        """Return ``x'Ax / 2``."""
        return (self.gradient(x) * x).sum(-1) / 2

    def conjugate(self, y: Array) -> Array:
        """Return ``y' A^-1 y / 2``."""
        return (self.grad_conjugate(y) * y).sum(-1) / 2

    def grad_conjugate(self, y: Array) -> Array:
        """Return ``A^-1 y``."""
        return y @ _like(self.inverse, y)

    def gradient(self, x: Array) -> Array:
        """Return ``A x``."""
        return x @ _like(self.A, x)


class _OwnCost(ConvexCost):
    """An object of the user; its gradient comes from automatic differentiation."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __repr__(self) -> str:
        return repr(self.own)

    def cost(self, x: Array) -> Array:
        return self._call("cost", x)

    def conjugate(self, y: Array) -> Array:
        return self._call("conjugate", y)

    def grad_conjugate(self, y: Array) -> Array:
        return self._call("grad_conjugate", y)

    def gradient(self, x: Array) -> Array:
        from thalweg._torch import torch

        tensor = is_torch_tensor(x)
        with torch.enable_grad():
            point = (x.detach() if tensor else torch.from_numpy(np.asarray(x))).requires_grad_()
            (gradient,) = torch.autograd.grad(self.own.cost(point).sum(), point)
        return gradient if tensor else gradient.numpy()

    def _call(self, name: str, x: Array) -> Array:
        if is_torch_tensor(x):
            return getattr(self.own, name)(x)
        from thalweg._torch import torch

        return getattr(self.own, name)(torch.from_numpy(np.asarray(x))).detach().numpy()

    def check(self, dim: int) -> None:
        """Raise ValueError unless conjugate and gradient are those of the cost, at random points.

        The points are the same each time.
        """
        rng = np.random.default_rng(0)
        x, y = (
            np.concatenate([s * rng.standard_normal((CHECK_POINTS, dim)) for s in CHECK_SCALES])
            for _ in range(2)
        )
        best = np.asarray(self.grad_conjugate(y))
        if best.shape != y.shape:
            raise ValueError(f"cost.grad_conjugate must keep the shape {y.shape}, got {best.shape}")
        for name, value in (("cost", self.cost(x)), ("conjugate", self.conjugate(y))):
            if np.shape(value) != (len(x),):
                raise ValueError(
                    f"cost.{name} must return shape ({len(x)},) for {len(x)} rows, got "
                    f"{np.shape(value)}"
                )
        conjugate = self.conjugate(y)
        size = 1 + np.abs(conjugate) + np.abs(self.cost(best))
        gap = np.abs(self.cost(best) + conjugate - (best * y).sum(1)) / size
        below = ((x * y).sum(1) - self.cost(x) - conjugate) / size
        for what, value in (("c(x) + c*(y) = x.y at x = grad c*(y)", gap),
                            ("c(x) + c*(y) >= x.y", below)):  # fmt: skip
            if not (value <= FENCHEL_YOUNG_TOLERANCE).all():
                worst = float(np.nanmax(value)) if not np.isnan(value).all() else float("nan")
                raise ValueError(
                    f"cost must satisfy {what} (Fenchel-Young) to {FENCHEL_YOUNG_TOLERANCE:g}, got "
                    f"a relative gap of {worst:.3g}"
                )


def _from_pair(pair: Any, dim: int | None) -> ConvexCost:
    if len(pair) != 2 or pair[0] not in ("power", "norm", "quadratic"):
        raise ValueError(
            f"cost must be ('power', p), ('norm', p) or ('quadratic', A), got {tuple(pair)!r}"
        )
    kind, value = pair
    if kind == "quadratic":
        return _fitting(QuadraticCost(value), dim)
    return PowerCost(value) if kind == "power" else NormCost(value)


def _fitting(cost: QuadraticCost, dim: int | None) -> QuadraticCost:
    if dim is not None and len(cost.A) != dim:
        raise ValueError(f"A must have shape ({dim}, {dim}), got {cost.A.shape}")
    return cost


def _exponents(p: float) -> tuple[float, float]:
    p = check_real("p", p, above=1)
    return p, p / (p - 1)


def _sign(x: Array) -> Array:
    return x.sign() if is_torch_tensor(x) else np.sign(x)


def _norm(x: Array) -> Array:
    """Return Euclidean norms (n, 1); the tensor's gradient at 0 is 0."""
    if is_torch_tensor(x):
        return x.norm(dim=-1, keepdim=True)
    return np.linalg.norm(x, axis=-1, keepdims=True)


def _like(matrix: Any, x: Array) -> Array:
    if is_torch_tensor(x):
        from thalweg._torch import torch

        return torch.from_numpy(matrix).to(x)
    return matrix
