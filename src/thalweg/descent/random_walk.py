"""Draw evenly from a convex body, by walking along random lines through it.

From any point inside, hit-and-run takes a random direction and moves to an even draw from the chord
of the body along it. It mixes in a number of steps that is polynomial in the dimension, and needs
only the chord: by the constraints of a polytope, or by asking whether a point lies inside.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._oracle import check_callable
from thalweg.descent._polytopes import way_out

Floats = NDArray[np.float64]

BURN_IN = 50
"""Steps before the first draw, a dimension."""

BLOCK = 2**18
"""Largest number of entries of the directions and slopes that are held at once."""

REFRESH = 64
"""Steps after which the distances to the constraints are computed afresh."""

BEYOND = 1e-6
"""How far outside the ball of `hit_and_run_oracle` the body is sought, relative to its radius."""


def hit_and_run(
    A: ArrayLike,
    b: ArrayLike,
    x0: ArrayLike,
    *,
    n_samples: int,
    burn_in: int | None = None,
    thin: int = 1,
    rng: int | np.random.Generator | None = None,
) -> Floats:
    """Draw points from the polytope Ax <= b.

    Parameters
    ----------
    A : array_like, shape (m, n)
        Outward normals of the constraints, of any length.
    b : array_like, shape (m,)
        Right-hand sides.
    x0 : array_like, shape (n,)
        Start, strictly inside.
    n_samples : int
        Number of draws.
    burn_in : int, optional
        Steps before the first draw; 50 n by default.
    thin : int, default 1
        Steps from one draw to the next.
    rng : None, int or numpy.random.Generator, optional
        Spawns one generator for the directions and one for the places on the chords.

    Returns
    -------
    ndarray, shape (n_samples, n)
        The draws, of one chain: even over the polytope in the limit, and dependent.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, `x0` is not strictly inside, or the polytope has no end.

    See Also
    --------
    hit_and_run_oracle : For a body that is no polytope.

    Notes
    -----
    A step takes m n operations, done for many steps at once, and m + n more. A draw may violate a
    constraint by rounding. The walk is slow in a polytope that is long and thin; scale its
    coordinates first.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.7.

    Examples
    --------
    The triangle x, y >= 0, x + y <= 1, whose mean is (1/3, 1/3):

    >>> A, b = [[-1, 0], [0, -1], [1, 1]], [0, 0, 1]
    >>> hit_and_run(A, b, [0.2, 0.2], n_samples=20_000, rng=0).mean(axis=0).round(1)
    array([0.3, 0.3])
    """
    A = check_array("A", A, ndim=2)
    m, n = A.shape
    if not m or not n:
        raise ValueError(f"A must have a row and a column or more, got shape {A.shape}")
    b = check_array("b", b, shape=(m,))
    x = np.array(check_array("x0", x0, shape=(n,)))
    n_samples, burn_in, thin = _counts(n, n_samples, burn_in, thin)
    sizes = np.abs(A).max(axis=1)
    proper = sizes > 0
    sizes[~proper] = 1
    rows, bounds = A / sizes[:, None], b / sizes
    outside = np.where(proper, rows @ x >= bounds, b < 0)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(
            f"x0 must be strictly inside Ax <= b, got row {i} with A[{i}]·x0 = "
            f"{float(A[i] @ x)!r} and b[{i}] = {float(b[i])!r}"
        )
    lengths = np.linalg.norm(rows[proper], axis=1)
    rows, bounds = rows[proper] / lengths[:, None], bounds[proper] / lengths
    way = way_out(rows, n)
    if way is not None:
        raise ValueError(
            f"Ax <= b must be bounded, got a polytope without end along {way.tolist()}"
        )

    directions, places = np.random.default_rng(rng).spawn(2)
    samples = np.empty((n_samples, n))
    steps = burn_in + n_samples * thin
    size = max(1, BLOCK // (n + len(rows)))
    for start in range(0, steps, size):
        number = min(size, steps - start)
        ways = directions.standard_normal((number, n))
        slopes = ways @ rows.T
        walk(rows, bounds, x, ways, slopes, places.random(number), start - burn_in, thin, samples)
    if not np.isfinite(samples).all():
        raise FloatingPointError("hit_and_run left the finite numbers; scale A and b")
    return samples


def hit_and_run_oracle(
    contains: Callable[[Floats], Any],
    x0: ArrayLike,
    radius: float,
    *,
    n_samples: int,
    burn_in: int | None = None,
    thin: int = 1,
    rng: int | np.random.Generator | None = None,
) -> Floats:
    """Draw points from a convex body that answers whether a point lies inside.

    A place is drawn evenly from a bracket, at first the chord of the ball; one outside the body
    becomes the bracket's end on its side. As the body's chord is an interval, the first place
    inside is an even draw from that chord, with no tolerance.

    Parameters
    ----------
    contains : callable
        ``contains(x) -> bool`` for x of shape (n,); the body must be convex, and the answer the
        same each time.
    x0 : array_like, shape (n,)
        Start, inside.
    radius : float
        Of a ball about `x0` that holds the body. A body that reaches further is cut off there;
        where it does so along a coordinate axis from `x0` it is refused.
    n_samples, burn_in, thin, rng
        As of `hit_and_run`.

    Returns
    -------
    ndarray, shape (n_samples, n)
        The draws, of one chain.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, `contains` does not answer with a single truth value, `x0` is
        not inside, or the body is seen to reach beyond the ball.
    RuntimeError
        If `contains` refuses a point that it had accepted.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.7.

    Examples
    --------
    >>> import numpy as np
    >>> disc = hit_and_run_oracle(lambda x: x @ x <= 1, [0.5, 0.0], 2.0, n_samples=2000, rng=0)
    >>> round(float((disc**2).sum(axis=1).mean()), 1)
    0.5
    """
    check_callable("contains", contains)
    centre = check_array("x0", x0, ndim=1)
    n = centre.size
    if not n:
        raise ValueError(f"x0 must not be empty, got shape {centre.shape}")
    radius = check_real("radius", radius, above=0)
    n_samples, burn_in, thin = _counts(n, n_samples, burn_in, thin)
    if not _inside(contains, centre):
        raise ValueError(f"x0 must be inside, but contains(x0) is false for {centre.tolist()}")
    for axis in range(n):
        for sign in (1.0, -1.0):
            far = centre.copy()
            far[axis] += sign * radius * (1 + BEYOND)
            if _inside(contains, far):
                raise ValueError(
                    f"radius must be that of a ball about x0 that holds the body, got {radius!r}, "
                    f"but {far.tolist()} is inside"
                )

    directions, places = np.random.default_rng(rng).spawn(2)
    samples = np.empty((n_samples, n))
    x = centre.copy()
    for step in range(burn_in + n_samples * thin):
        direction = directions.standard_normal(n)
        direction /= np.linalg.norm(direction)
        x = _place(contains, x, direction, centre, radius, places)
        draw, rest = divmod(step + 1 - burn_in, thin)
        if draw > 0 and rest == 0:
            samples[draw - 1] = x
    return samples


def _counts(n: int, n_samples: int, burn_in: int | None, thin: int) -> tuple[int, int, int]:
    return (
        check_count("n_samples", n_samples),
        BURN_IN * n if burn_in is None else check_count("burn_in", burn_in, at_least=0),
        check_count("thin", thin),
    )


def _place(
    contains: Callable[[Floats], Any],
    x: Floats,
    direction: Floats,
    centre: Floats,
    radius: float,
    places: np.random.Generator,
) -> Floats:
    """Return an even draw from the chord through `x`."""
    offset = x - centre
    middle = -float(offset @ direction)
    half = math.sqrt(max(0.0, middle**2 + radius**2 - float(offset @ offset)))
    low, high = min(0.0, middle - half), max(0.0, middle + half)
    while True:
        t = low + (high - low) * places.random()
        new = x + t * direction
        if _inside(contains, new):
            return new
        if np.array_equal(new, x):
            raise RuntimeError(
                f"contains must be a function of the point, but refused {x.tolist()} that it had "
                "accepted"
            )
        if t > 0:
            high = t
        else:
            low = t


def _inside(contains: Callable[[Floats], Any], x: Floats) -> bool:
    answer = contains(x.copy())
    if np.size(answer) != 1:
        raise ValueError(f"contains must return a truth value, got {answer!r}")
    return bool(np.asarray(answer).reshape(())[()])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def walk(A, b, x, directions, slopes, places, first, thin, samples):
    """Take a step for each direction d from `x`, in place, and keep every `thin`-th.

    `slopes` holds Ad, a row for each direction. Step number `first` + k (from 0, burn-in below) is
    draw (first + k + 1) / thin - 1 of `samples`.
    """
    m, n = A.shape
    distances = np.empty(m)
    for step in range(directions.shape[0]):
        low, high = -math.inf, math.inf
        for i in range(m):
            if step % REFRESH == 0:
                distance = b[i]
                for k in range(n):
                    distance -= A[i, k] * x[k]
                distances[i] = distance
            slope = slopes[step, i]
            if slope > 0.0:
                high = min(high, max(0.0, distances[i]) / slope)
            elif slope < 0.0:
                low = max(low, max(0.0, distances[i]) / slope)
        t = low + places[step] * (high - low)
        for k in range(n):
            x[k] += t * directions[step, k]
        for i in range(m):
            distances[i] -= t * slopes[step, i]
        count = first + step + 1
        if count > 0 and count % thin == 0:
            for k in range(n):
                samples[count // thin - 1, k] = x[k]
