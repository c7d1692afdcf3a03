"""Find saddle points of convex-concave functions, and with them equilibria of games.

phi(x, y) is convex in x and concave in y; x minimises, y maximises. Both move at once by mirror
steps, each in the geometry of its own set, and the average of the points is what converges.

- `saddle_mirror_descent`: kinks and noise are allowed; error of order 1 / sqrt(t);
- `saddle_mirror_prox`: smooth phi, twice the gradients a step; error of order 1 / t;
- `matrix_game`: both for x·Ay on two simplices, and a third way that sees one row and one column
  of A a step.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.descent._oracle import Oracle, State, check_callable, drive
from thalweg.descent.mirror import _start
from thalweg.descent.mirror_maps import MirrorMap, NegativeEntropy

Floats = NDArray[np.float64]

MAXITER = 1000
GAME_MAXITER = 2000


def saddle_mirror_descent(
    gx: Callable[[Floats, Floats], ArrayLike],
    gy: Callable[[Floats, Floats], ArrayLike],
    x0: ArrayLike,
    y0: ArrayLike,
    *,
    mirror_x: MirrorMap,
    mirror_y: MirrorMap,
    radius: ArrayLike,
    lipschitz: ArrayLike,
    maxiter: int = MAXITER,
    record: bool = False,
) -> OptimizeResult:
    r"""Find a saddle point of a convex-concave function by mirror descent of both players.

    Mirror descent on the field :math:`(\partial_x \varphi, -\partial_y \varphi)` with the map
    :math:`\tfrac{L_X}{R_X} \Phi_X(x) + \tfrac{L_Y}{R_Y} \Phi_Y(y)` and steps
    :math:`\sqrt{2 / \mathrm{maxiter}}`.

    Parameters
    ----------
    gx, gy : callable
        ``gx(x, y)``, a subgradient in x, and ``gy(x, y)``, a supergradient in y.
    x0, y0 : array_like
        Starts, inside the sets.
    mirror_x, mirror_y : MirrorMap
        Geometries. A map with ``rho`` other than 1 has its steps scaled to suit.
    radius : (float, float)
        R_X and R_Y, > 0: roots of sup D(x, x0) and sup D(y, y0) on the sets.
    lipschitz : (float, float)
        L_X and L_Y, > 0: largest dual norms of gx and gy.
    maxiter : int, default 1000
        Steps, all of which are done; their length depends on it.
    record : bool, default False
        Whether ``history`` is kept: ``x`` and ``y``, the averages after each number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``y`` (averages of the points where gradients were taken), ``x_last``, ``y_last``
        (after the last step), ``nit``, ``njev`` (pairs of gradients), ``success`` (all steps were
        done), ``status``, ``message``; with `record` ``history``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or a start is not inside its set.

    See Also
    --------
    rate : "saddle_mirror_descent"; for maps with ``rho`` divide each radius by its root.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent.mirror_maps import NegativeEntropy
    >>> A = np.array([[0.0, 2.0], [3.0, 1.0]])
    >>> result = saddle_mirror_descent(lambda x, y: A @ y, lambda x, y: A.T @ x, [0.5] * 2,
    ...                                [0.5] * 2, mirror_x=NegativeEntropy(),
    ...                                mirror_y=NegativeEntropy(), radius=(0.83, 0.83),
    ...                                lipschitz=(3, 3), maxiter=4000)
    >>> bool(max(A.T @ result.x) - min(A @ result.y) < 0.05)
    True
    """
    problem = _Problem(gx, gy, x0, y0, mirror_x, mirror_y)
    R, L = _positive_pair("radius", radius), _positive_pair("lipschitz", lipschitz)
    maxiter = check_count("maxiter", maxiter, at_least=0)
    # On Phi / rho, which is 1-strongly convex, the radius is R / sqrt(rho).
    eta = math.sqrt(2 / max(maxiter, 1)) * np.sqrt(problem.rho) * R / L
    return problem.result(problem.descent(eta), maxiter, record)


def saddle_mirror_prox(
    gx: Callable[[Floats, Floats], ArrayLike],
    gy: Callable[[Floats, Floats], ArrayLike],
    x0: ArrayLike,
    y0: ArrayLike,
    *,
    mirror_x: MirrorMap,
    mirror_y: MirrorMap,
    radius: ArrayLike,
    smoothness: ArrayLike,
    maxiter: int = MAXITER,
    record: bool = False,
) -> OptimizeResult:
    r"""Find a saddle point of a smooth convex-concave function by mirror prox of both players.

    Mirror prox on the field :math:`(\partial_x \varphi, -\partial_y \varphi)` with the map
    :math:`\Phi_X(x) / R_X^2 + \Phi_Y(y) / R_Y^2` and steps 1 / (2 M), where M is the largest of
    b11 R_X², b22 R_Y², b12 R_X R_Y and b21 R_X R_Y.

    Parameters
    ----------
    gx, gy : callable
        ``gx(x, y)`` and ``gy(x, y)``, gradients in x and in y.
    x0, y0, mirror_x, mirror_y, radius, maxiter, record
        As in `saddle_mirror_descent`; here the steps do not depend on `maxiter`.
    smoothness : (float, float, float, float)
        (b11, b12, b21, b22) >= 0, not all zero: Lipschitz constants of gx in x, gx in y, gy in x
        and gy in y, in the norms of the geometries and their duals.

    Returns
    -------
    OptimizeResult
        As of `saddle_mirror_descent`; ``x`` and ``y`` are the averages of the half-step points,
        and each step takes two pairs of gradients.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or a start is not inside its set.

    See Also
    --------
    rate : "saddle_mirror_prox"; for maps with ``rho`` divide each radius by its root.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent.mirror_maps import NegativeEntropy
    >>> A = np.array([[0.0, 2.0], [3.0, 1.0]])
    >>> result = saddle_mirror_prox(lambda x, y: A @ y, lambda x, y: A.T @ x, [0.5] * 2, [0.5] * 2,
    ...                             mirror_x=NegativeEntropy(), mirror_y=NegativeEntropy(),
    ...                             radius=(0.83, 0.83), smoothness=(0, 3, 3, 0))
    >>> result.x.round(2), result.y.round(2)
    (array([0.5, 0.5]), array([0.25, 0.75]))
    """
    problem = _Problem(gx, gy, x0, y0, mirror_x, mirror_y)
    R = _positive_pair("radius", radius)
    beta = check_array("smoothness", smoothness, shape=(4,))
    if (beta < 0).any() or not beta.any():
        raise ValueError(f"smoothness must be >= 0 and not all zero, got {smoothness!r}")
    scaled = R / np.sqrt(problem.rho)
    most = float(np.max(beta.reshape(2, 2) * np.outer(scaled, scaled)))
    return problem.result(problem.prox(R**2 / (2 * most)), maxiter, record)


def matrix_game(
    A: ArrayLike,
    *,
    method: str = "mirror-prox",
    maxiter: int = GAME_MAXITER,
    tol: float = 1e-6,
    step: float | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
) -> OptimizeResult:
    r"""Play a zero-sum game: :math:`\min_x \max_y x \cdot A y` over mixed strategies.

    Parameters
    ----------
    A : array_like, shape (m, n)
        What the row player, x, pays to the column player, y.
    method : {"mirror-prox", "mirror-descent", "stochastic"}, default "mirror-prox"
        "stochastic" is mirror descent that sees one column, drawn from y, and one row, drawn from
        x: a step costs m + n operations instead of m n.
    maxiter : int, default 2000
        Largest number of steps.
    tol : float, default 1e-6
        Stop when the duality gap is this small. "stochastic" looks at it only as often as keeps the
        work of a step at m + n.
    step : float, optional
        Step length of both players; 1 / max|A| for "mirror-prox", else
        sqrt(2 log(max(m, n)) / maxiter) / max|A|.
    rng : None, int or numpy.random.Generator, optional
        For "stochastic".
    record : bool, default False
        Whether ``history["gap"]`` is kept, one value a step; it costs m n operations each.

    Returns
    -------
    OptimizeResult
        ``x`` (m,), ``y`` (n,), the average strategies; ``gap``, max(Aᵀx) - min(Ay), which bounds
        what either could still win; ``value``, the midpoint of these two, within gap / 2 of the
        game's; ``nit``, ``success``, ``status``, ``message``; with `record` ``history``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "matrix_game-mirror-prox", "matrix_game-mirror-descent", "matrix_game-stochastic".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, sections 5.2.4
    and 6.5.

    Examples
    --------
    >>> game = matrix_game([[0.0, 2.0], [3.0, 1.0]], tol=1e-3)
    >>> game.x.round(2), game.y.round(2), round(game.value, 2), bool(game.gap <= 1e-3)
    (array([0.5, 0.5]), array([0.25, 0.75]), 1.5, True)
    """
    A = check_array("A", A, ndim=2)
    if not A.size:
        raise ValueError(f"A must not be empty, got shape {A.shape}")
    check_option("method", method, ("mirror-prox", "mirror-descent", "stochastic"))
    maxiter = check_count("maxiter", maxiter, at_least=0)
    m, n = A.shape
    scale = float(np.abs(A).max()) or 1.0
    if step is not None:
        eta = check_real("step", step, above=0)
    elif method == "mirror-prox":
        eta = 1 / scale
    else:
        eta = math.sqrt(2 * max(math.log(max(m, n)), 1e-300) / max(maxiter, 1)) / scale
    generator = np.random.default_rng(rng)
    entropy = NegativeEntropy()
    starts = np.full(m, 1 / m), np.full(n, 1 / n)
    if method == "stochastic":
        problem = _Problem(
            lambda x, y: A[:, _draw(y, generator)],
            lambda x, y: A[_draw(x, generator)],
            *starts,
            entropy,
            entropy,
        )
    else:
        problem = _Problem(lambda x, y: A @ y, lambda x, y: A.T @ x, *starts, entropy, entropy)
    runs = problem.prox if method == "mirror-prox" else problem.descent
    look_every = math.ceil(m * n / (m + n)) if method == "stochastic" and not record else 1

    def states() -> Iterator[State]:
        for number, state in enumerate(runs(np.array([eta, eta]))):
            if number % look_every == 0:
                low, high = _sides(A, state.trace["mean_x"], state.trace["mean_y"])
                state.trace["gap"] = state.residual = high - low
            yield state

    result = problem.result(states(), maxiter, record, tol)
    low, high = _sides(A, result.x, result.y)
    result.value, result.gap = (low + high) / 2, high - low
    if method == "stochastic" and result.status == 1 and result.gap <= tol:
        result.success, result.status = True, 0
    return result


class _Problem:
    """The field of a saddle point and the steps of both players."""

    def __init__(
        self, gx: Any, gy: Any, x0: ArrayLike, y0: ArrayLike, mirror_x: Any, mirror_y: Any
    ) -> None:
        check_callable("gx", gx)
        check_callable("gy", gy)
        self.gx, self.gy = gx, gy
        self.mirrors = (mirror_x, mirror_y)
        self.ends = _end("x0", x0, mirror_x), _end("y0", y0, mirror_y)
        self.rho = np.array([float(getattr(mirror, "rho", 1.0)) for mirror in self.mirrors])
        self.pairs = 0

    def descent(self, eta: Floats) -> Iterator[State]:
        """Step along the field; average where it was seen."""
        x, y = mean_x, mean_y = self.ends[0].x0, self.ends[1].x0
        yield self._state(mean_x, mean_y, x, y)
        s = 0
        while True:
            s += 1
            mean_x, mean_y = mean_x + (x - mean_x) / s, mean_y + (y - mean_y) / s
            x, y = self._step(x, y, self._field(x, y), eta)
            yield self._state(mean_x, mean_y, x, y)

    def prox(self, eta: Floats) -> Iterator[State]:
        """Step along the field half a step ahead; average the half steps."""
        x, y = mean_x, mean_y = self.ends[0].x0, self.ends[1].x0
        yield self._state(mean_x, mean_y, x, y)
        s = 0
        while True:
            s += 1
            half_x, half_y = self._step(x, y, self._field(x, y), eta)
            x, y = self._step(x, y, self._field(half_x, half_y), eta)
            mean_x, mean_y = mean_x + (half_x - mean_x) / s, mean_y + (half_y - mean_y) / s
            yield self._state(mean_x, mean_y, x, y)

    def result(
        self, states: Iterator[State], maxiter: int, record: bool, tol: float | None = None
    ) -> OptimizeResult:
        """Run to the end."""
        joint = np.concatenate([end.x0.ravel() for end in self.ends])
        run = drive(
            Oracle(_nothing, joint),
            states,
            maxiter=maxiter,
            tol=tol,
            tol_name="tol",
            measure="the duality gap",
            record=record,
            final_jac=False,
        )
        result = OptimizeResult(
            x=run.mean_x.copy(),
            y=run.mean_y.copy(),
            x_last=run.x_last,
            y_last=run.y_last,
            nit=run.nit,
            njev=self.pairs,
            success=run.success,
            status=run.status,
            message=run.message,
        )
        if record:
            names = {"mean_x": "x", "mean_y": "y", "gap": "gap"}
            history = {names[name]: kept for name, kept in run.history.items() if name in names}
            result.history = history
        return result

    def _field(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the directions that both players leave: (∂_x phi, -∂_y phi)."""
        self.pairs += 1
        up = self.ends[0].read("gx", self.gx(x.copy(), y.copy()))
        down = self.ends[1].read("gy", self.gy(x.copy(), y.copy()))
        return up, -down

    def _step(
        self, x: Floats, y: Floats, field: tuple[Floats, Floats], eta: Floats
    ) -> tuple[Floats, Floats]:
        moved = [
            end.read("mirror.step", mirror.step(point, g, float(length)))
            for end, mirror, point, g, length in zip(
                self.ends, self.mirrors, (x, y), field, eta, strict=True
            )
        ]
        return moved[0], moved[1]

    def _state(self, mean_x: Floats, mean_y: Floats, x: Floats, y: Floats) -> State:
        return State(
            np.concatenate([mean_x.ravel(), mean_y.ravel()]),
            fun=0.0,
            trace={"mean_x": mean_x, "mean_y": mean_y},
            extra={"x_last": x, "y_last": y},
        )


def _end(name: str, start: ArrayLike, mirror: Any) -> Oracle:
    """Return what checks the points of one player."""
    end = Oracle(_nothing, check_array(name, start))
    try:
        _start(end, mirror)
    except ValueError as error:
        raise ValueError(str(error).replace("x0", name)) from error
    return end


def _nothing(x: Floats) -> float:
    return 0.0


def _positive_pair(name: str, value: ArrayLike) -> Floats:
    pair = check_array(name, value, shape=(2,))
    if (pair <= 0).any():
        raise ValueError(f"{name} must hold two numbers > 0, got {value!r}")
    return pair


def _sides(A: Floats, x: Floats, y: Floats) -> tuple[float, float]:
    """Return what y can hold x to at least, and what x can hold y to at most."""
    return float(np.min(A @ y)), float(np.max(A.T @ x))


def _draw(weights: Floats, rng: np.random.Generator) -> int:
    """Draw an index in proportion to weights of sum 1."""
    index = np.searchsorted(np.cumsum(weights), rng.random(), side="right")
    return min(int(index), len(weights) - 1)
