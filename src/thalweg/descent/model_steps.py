r"""Descend without tuning the step: a trial gradient step, corrected by a model where it fails.

A step along the gradient is tried. If the function does not fall enough, the gradient at the trial
point, which a line search would throw away, gives the curvature along the step: a model built from
both gradients corrects length *and* direction at once, block by block of the unknowns.

- `model_building`: the minimiser of functions of NumPy arrays;
- `thalweg.descent.SMB`: the same as a torch optimizer, on batches;
- `model_building_step`: the corrected step alone;
- `model_building_eigenvalue_bounds`, `smb_descent_bound`: what a step guarantees.

Source: "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058,
Algorithm 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real, is_torch_tensor
from thalweg.descent._oracle import inner

Floats = NDArray[np.float64]

ETA = 0.99


def model_building_step(g: Any, s_trial: Any, y: Any, *, eta: float = ETA) -> Any:
    r"""Correct a trial step by the change of the gradient along it.

    The step s is the solution of

    .. math:: (2 \sigma I + s_t y^T + y s_t^T)\, s = -\|s_t\|^2 g, \qquad
              2 \sigma = \|s_t\| (\|y\| + \|g\| / \eta) - y^T s_t,

    where :math:`\sigma` makes :math:`\|s_t\| \|g\| / \eta` the smallest eigenvalue. So
    :math:`\|s\| \le \eta \|s_t\|`, and s is a descent direction. Where the gradient does not change
    (y = 0) and the trial step is one against the gradient, s is eta times the trial step.

    Parameters
    ----------
    g : ndarray or tensor
        Gradient at the point, of any shape.
    s_trial : ndarray or tensor
        Trial step, of the same shape.
    y : ndarray or tensor
        Gradient at the end of the trial step minus `g`, of the same shape.
    eta : float, default 0.99
        Largest length of the step relative to the trial step, in (0, 1).

    Returns
    -------
    ndarray or tensor
        The step, of the shape, kind and floating type of `g`; zero where the trial step or the
        gradient is.

    Raises
    ------
    TypeError, ValueError
        If shapes or kinds differ, entries are not finite, or `eta` is out of range.

    Notes
    -----
    The step costs six inner products and one combination of the three vectors. With Q = ‖y‖ +
    ‖g‖ / eta the determinant of the system in the plane of s_t and y is taken in the form
    ‖s_t‖² (Q² - ‖y‖²) = ‖s_t‖² (‖g‖ / eta) (2 ‖y‖ + ‖g‖ / eta), in which nothing cancels.

    References
    ----------
    "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058,
    section 2.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([1.0, 10.0])
    >>> s_trial = -0.5 * g
    >>> model_building_step(g, s_trial, s_trial * [1.0, 10.0]).round(3)
    array([-0.248, -0.445])
    """
    eta = check_real("eta", eta, above=0, below=1)
    vectors = {"g": g, "s_trial": s_trial, "y": y}
    if any(is_torch_tensor(vector) for vector in vectors.values()):
        return _torch_step(vectors, eta)
    g, s_trial, y = (check_array(name, vector) for name, vector in vectors.items())
    _check_shapes(vectors)
    step = corrected_step(g, s_trial, y, eta)
    kind = np.asarray(vectors["g"]).dtype
    return step.astype(kind) if kind.kind == "f" else step


def model_building_eigenvalue_bounds(
    alpha: float, L: float, *, eta: float = ETA
) -> tuple[float, float]:
    r"""Bound the matrix H of the model step s = -H g after a trial step of length alpha.

    .. math:: l_{min} = \frac{\alpha \eta}{1 + 2 \alpha \eta L} \le eig(H) \le
              \alpha \eta = l_{max}

    for one block of unknowns. For any number of blocks
    :math:`-s^T g \ge l_{min} \|g\|^2` and :math:`\|s\| \le l_{max} \|g\|`.

    Parameters
    ----------
    alpha : float
        Length of the trial step -alpha g, > 0.
    L : float
        Lipschitz constant of the gradient, >= 0.
    eta : float, default 0.99
        As in `model_building_step`.

    Returns
    -------
    lmin, lmax : float
        The two bounds.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Notes
    -----
    With several blocks H can have smaller eigenvalues: the gradient of a small block may change as
    much as the whole one. The mean keeps the bound, since the changes y_p of all blocks share
    sum ‖y_p‖² <= (alpha L ‖g‖)², and alpha ‖g_p‖³ / (2 ‖y_p‖ + ‖g_p‖ / eta), which bounds the part
    of block p in -s·g, is convex and homogeneous in (‖g_p‖², ‖y_p‖²).

    References
    ----------
    "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058: takes the
    place of its bound of the matrices H_k.

    Examples
    --------
    >>> model_building_eigenvalue_bounds(0.5, 2.0, eta=0.5)
    (0.125, 0.25)
    """
    alpha = check_real("alpha", alpha, above=0)
    L = check_real("L", L, at_least=0)
    lmax = alpha * check_real("eta", eta, above=0, below=1)
    return lmax / (1 + 2 * lmax * L), lmax


def smb_descent_bound(g_norm: ArrayLike, alpha: float, L: float, *, eta: float = ETA) -> Any:
    r"""Return how far a function falls at least in a step of model building.

    .. math:: f(x) - f(x + s) \ge (l_{min} - L\, l_{max}^2 / 2) \|g\|^2

    with the bounds of `model_building_eigenvalue_bounds`. It holds for model steps in any blocks,
    and for accepted trial steps if alpha L <= 1 or the bound is negative.

    Parameters
    ----------
    g_norm : array_like
        Norms of the gradient, >= 0.
    alpha, L, eta
        As in `model_building_eigenvalue_bounds`.

    Returns
    -------
    float or ndarray
        The fall for each norm; negative, so that nothing is promised, for long trial steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058.

    Examples
    --------
    >>> round(smb_descent_bound(2.0, 0.25, 1.0), 4)
    0.5397
    """
    norms = check_array("g_norm", g_norm)
    if (norms < 0).any():
        raise ValueError(f"g_norm must be >= 0, got {norms.min():g}")
    lmin, lmax = model_building_eigenvalue_bounds(alpha, L, eta=eta)
    falls = (lmin - L * lmax**2 / 2) * norms**2
    return float(falls) if falls.ndim == 0 else falls


def step_weights(
    s_norm: float,
    y_norm: float,
    g_norm: float,
    ys: float,
    yp: float,
    sp: float,
    eta: float,
) -> tuple[float, float, float]:
    """Return the weights of p, s and y in the model step along -p.

    The matrix is that of the trial step s, the change y and the gradient g; p is g itself, or the
    gradient of another batch. Norms must not be zero but for that of y.
    """
    shift = g_norm / eta
    slope = ys / s_norm
    along = sp / s_norm
    weight_p = -s_norm / (y_norm - slope + shift)
    common = weight_p / ((2 * y_norm + shift) * shift)
    weight_s = common / s_norm * (y_norm * y_norm * along - (y_norm + shift) * yp)
    weight_y = common * (yp - (y_norm + shift) * along)
    return weight_p, weight_s, weight_y


def corrected_step(g: Floats, s: Floats, y: Floats, eta: float) -> Floats:
    """Return the step of `model_building_step`, unchecked."""
    s_norm, y_norm, g_norm = (float(np.linalg.norm(v)) for v in (s, y, g))
    if s_norm == 0 or g_norm == 0:
        return np.zeros_like(g)
    a, b, c = step_weights(s_norm, y_norm, g_norm, inner(y, s), inner(y, g), inner(s, g), eta)
    return a * g + b * s + c * y


def _torch_step(vectors: dict[str, Any], eta: float) -> Any:
    from thalweg._torch import torch

    for name, vector in vectors.items():
        if not is_torch_tensor(vector) or not vector.is_floating_point():
            found = vector.dtype if is_torch_tensor(vector) else type(vector).__name__
            raise TypeError(f"{name} must be a real floating tensor as g is, got {found}")
        if vector.layout != torch.strided:
            raise ValueError(f"{name} must be dense, got layout {vector.layout}")
    _check_shapes(vectors)
    for name, vector in vectors.items():
        if not bool(torch.isfinite(vector).all()):
            raise ValueError(f"{name} must be finite, got a tensor with other entries")
    g = vectors["g"]
    wide = torch.promote_types(g.dtype, torch.float32)
    flat = [v.detach().to(wide).reshape(-1) for v in vectors.values()]
    s_norm, y_norm, g_norm = (float(torch.linalg.vector_norm(flat[i])) for i in (1, 2, 0))
    if s_norm == 0 or g_norm == 0:
        return torch.zeros_like(g)
    ys, yg, sg = (float(torch.dot(flat[i], flat[j])) for i, j in ((2, 1), (2, 0), (1, 0)))
    a, b, c = step_weights(s_norm, y_norm, g_norm, ys, yg, sg, eta)
    return (a * flat[0] + b * flat[1] + c * flat[2]).reshape(g.shape).to(g.dtype)


def _check_shapes(vectors: dict[str, Any]) -> None:
    wanted = tuple(np.shape(vectors["g"]))
    for name, vector in vectors.items():
        if tuple(np.shape(vector)) != wanted:
            raise ValueError(f"{name} must have the shape {wanted} of g, got {np.shape(vector)}")
