"""What `thalweg.linalg.square_root` computes, on stacks of shape (batch, d, d).

Functions take arrays and what computes with them (`thalweg.linalg._backends`: NumPy or torch), and
know nothing of users.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.linalg.root_approximants import (
    inverse_root_fractions,
    pade_coefficients,
    root_fractions,
    taylor_coefficients,
)

LARGEST_POWER_BASIS = 8


def root(
    a: Any, method: str, degree: int, inverse: bool, backend: Any, check: bool
) -> tuple[Any, ...]:
    """Return the root; with "eigh" also its eigenvalues and eigenvectors."""
    x, scale, norm = scaled((a + a.swapaxes(-1, -2)) / 2, backend)
    size = scale**0.5 * norm**0.5
    size = 1 / size if inverse else size
    if method == "eigh":
        values, vectors = _root_of_eigenvalues(x, inverse, backend, check)
        values = size[..., 0] * values
        y = (vectors * values[..., None, :]) @ vectors.swapaxes(-1, -2)
        return (y + y.swapaxes(-1, -2)) / 2, values, vectors
    evaluate = {"taylor": _taylor, "pade": _pade, "newton-schulz": _newton_schulz}[method]
    y = evaluate(x, degree, inverse, backend, check)
    return (size / 2 * (y + y.swapaxes(-1, -2)),)


def scaled(a: Any, backend: Any) -> tuple[Any, Any, Any]:
    """Return A over its Frobenius norm, and that norm as two factors that cannot overflow."""
    scale = backend.or_one(backend.largest(a))
    a = a / scale
    norm = backend.frobenius(a)
    return a / norm, scale, norm


def check_positive_definite(x: Any, backend: Any) -> None:
    """Raise numpy's LinAlgError unless a Cholesky factorisation succeeds."""
    try:
        _cholesky((x + x.swapaxes(-1, -2)) / 2, backend, check=True)
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError(
            "a must be positive definite: its Cholesky factorisation fails"
        ) from None


def sign_lyapunov(
    b: Any, c: Any, n_iter: int, tol: float | None, backend: Any, symmetric: bool
) -> Any:
    """Return X with ``B X + X B = C``, by the sign iteration of ``[[B, C], [0, -B]]``.

    ``c <- (c (3 I - b^2) - b^2 c + b c b) / 2`` with the old b, then ``b <- b (3 I - b^2) / 2``. A
    symmetric c has c b = (b c)', and stays symmetric to the last bit: rounding that is not would
    double at each step.
    """
    b, scale, norm = scaled(b, backend)
    c = c / scale / norm
    for step in range(n_iter):
        bc = b @ c
        if symmetric:
            half = b @ (bc - 0.5 * bc.swapaxes(-1, -2))
            c = 1.5 * c - 0.5 * (half + half.swapaxes(-1, -2))
        else:
            cb = c @ b
            c = 1.5 * c - 0.5 * (b @ (bc - cb) + cb @ b)
        if step + 1 == n_iter:
            break
        b = backend.add_product(-0.5, b, b @ b, 1.5, b)
        if tol is not None:
            distance = backend.plain(backend.frobenius(b - backend.identity(b)))
            if distance.max(initial=0.0) <= tol:
                break
    return c / 2


def symmetric_lyapunov_exact(values: Any, vectors: Any, c: Any, backend: Any) -> Any:
    """The same from the eigenvalues and eigenvectors of B; zero between two null vectors."""
    sums = values[..., :, None] + values[..., None, :]
    turned = vectors.swapaxes(-1, -2) @ c @ vectors / backend.or_one(sums)
    return vectors @ (turned * (sums > 0)) @ vectors.swapaxes(-1, -2)


def _taylor(x: Any, degree: int, inverse: bool, backend: Any, check: bool) -> Any:
    z = backend.identity(x) - x
    return _polynomials(z, [taylor_coefficients(degree, inverse)], backend)[0]


def _pade(x: Any, degree: int, inverse: bool, backend: Any, check: bool) -> Any:
    z = backend.identity(x) - x
    if degree > LARGEST_POWER_BASIS:
        sum_up = _pade_inverse_fractions if inverse else _pade_fractions
        return sum_up(x, z, degree, backend, check)
    p, q = _polynomials(z, pade_coefficients(degree), backend)
    return _solve(p, q, backend, check) if inverse else _solve(q, p, backend, check)


def _pade_fractions(x: Any, z: Any, degree: int, backend: Any, check: bool) -> Any:
    identity = backend.identity(x)
    total = identity
    for weight, pole in root_fractions(degree):
        total = total - weight * _solve(identity - pole * z, z, backend, check)
    return total


def _pade_inverse_fractions(x: Any, z: Any, degree: int, backend: Any, check: bool) -> Any:
    identity = backend.identity(x)
    constant, terms = inverse_root_fractions(degree)
    total = constant * identity
    for weight, shift in terms:
        total = total + weight * _solve(x + shift * identity, identity, backend, check)
    return total


def _newton_schulz(x: Any, steps: int, inverse: bool, backend: Any, check: bool) -> Any:
    """T = (3 I - Z Y) / 2, Y <- Y T, Z <- T Z, from Y = x and Z = I.

    Products with the first Z, and those for the factor that is not returned, are left out.
    """
    three = 1.5 * backend.identity(x)
    y, z = x, None
    for step in range(1, steps + 1):
        t = three - 0.5 * (y if z is None else z @ y)
        if step < steps or not inverse:
            y = y @ t
        if step < steps or inverse:
            z = t if z is None else t @ z
    return z if inverse else y


def _root_of_eigenvalues(x: Any, inverse: bool, backend: Any, check: bool) -> tuple[Any, Any]:
    linalg = backend.torch.linalg if hasattr(backend, "torch") else np.linalg
    values, vectors = linalg.eigh(x)
    if check:
        least = backend.plain(values).min(initial=1.0)
        rounding = x.shape[-1] * backend.epsilon
        if least < (rounding if inverse else -rounding):
            raise np.linalg.LinAlgError(
                f"a must be positive definite, got an eigenvalue of {least:.3g} of its norm"
            )
    return values.clip(min=0) ** (-0.5 if inverse else 0.5), vectors


def _polynomials(z: Any, tables: Any, backend: Any) -> list[Any]:
    """Polynomials of one degree in z, which share powers up to a block (Paterson-Stockmeyer)."""
    degree = len(tables[0]) - 1
    blocks = range(min(2, degree), degree + 1)
    block = min(blocks, key=lambda s: s - 1 + _products(degree, s) * len(tables))
    powers = [z]
    for _ in range(block - 1):
        powers.append(powers[-1] @ z)
    identity = backend.identity(z)

    def part(coefficients: Any) -> Any:
        total = float(coefficients[0]) * identity
        for coefficient, power in zip(coefficients[1:], powers, strict=False):
            total = total + float(coefficient) * power
        return total

    values = []
    for table in tables:
        start = (degree - 1) // block * block
        total = part(table[start:])
        while start > 0:
            start -= block
            constant = part(table[start : start + block])
            total = backend.add_product(1.0, total, powers[-1], 1.0, constant)
        values.append(total)
    return values


def _products(degree: int, block: int) -> int:
    """Products that a polynomial takes once its powers up to `block` are there."""
    return (degree - 1) // block


def _solve(a: Any, b: Any, backend: Any, check: bool) -> Any:
    """``B A^-1`` for a positive definite A that commutes with B."""
    if not hasattr(backend, "torch"):
        return np.linalg.solve(a, b)
    lower = _cholesky(a, backend, check)
    triangular = backend.torch.linalg.solve_triangular
    half = triangular(lower.mT, b, upper=True, left=False)
    return triangular(lower, half, upper=False, left=False)


def _cholesky(a: Any, backend: Any, check: bool) -> Any:
    if not hasattr(backend, "torch"):
        return np.linalg.cholesky(a)
    linalg = backend.torch.linalg
    try:
        return linalg.cholesky_ex(a, check_errors=check)[0]
    except linalg.LinAlgError:
        raise np.linalg.LinAlgError("a must be positive definite: a solve broke down") from None
