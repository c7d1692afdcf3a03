"""Inner loops of pairwise factorisations.

Columns are kept as rows of C-contiguous arrays, so that a pair is two runs of memory. A step has
the 2 x 2 matrix S; the companion `acc` collects the transposed product of all S, or with
``inverse=True``, for triangular steps, the inverse of their product.
"""

from __future__ import annotations

from math import copysign, hypot, sqrt

from numba import njit

JACOBI, TRIANGULAR, SYMMETRIC = 0, 1, 2
ROTATION_DEFECT = 1e-15


@njit(cache=True, nogil=True)
def transformation(kind, gii, gij, gjj):
    """Return S = [[s00, s01], [s10, s11]] of a class, row by row."""
    if kind == JACOBI:
        if gij == 0.0:
            return 1.0, 0.0, 0.0, 1.0
        difference = gjj - gii
        t = abs(2.0 * gij) / (abs(difference) + hypot(difference, 2.0 * gij))
        if difference != 0.0:
            t *= copysign(1.0, difference) * copysign(1.0, gij)
        c = 1.0 / sqrt(1.0 + t * t)
        return c, c * t, -c * t, c
    if kind == TRIANGULAR:
        return 1.0, -gij / gii, 0.0, 1.0
    a, b = sqrt(gii), sqrt(gjj)
    cosine = gij / a / b
    root = a * b * sqrt((1.0 - cosine) * (1.0 + cosine))
    trace = sqrt(gii + gjj + 2.0 * root)
    s01 = -gij / root / trace
    return (gjj / root + 1.0) / trace, s01, s01, (gii / root + 1.0) / trace


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def inner(x, y):
    """Inner product of two vectors."""
    total = 0.0
    for k in range(x.shape[0]):
        total += x[k] * y[k]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def combine(x, y, s00, s01, s10, s11):
    """Replace the vectors (x, y) by (x, y) S; return their new squared norms."""
    xx, yy = 0.0, 0.0
    for k in range(x.shape[0]):
        u = x[k] * s00 + y[k] * s10
        v = x[k] * s01 + y[k] * s11
        x[k] = u
        y[k] = v
        xx += u * u
        yy += v * v
    return xx, yy


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def subtract(x, y, s01):
    """Replace y by y + s01 x; return its new squared norm."""
    yy = 0.0
    for k in range(x.shape[0]):
        v = y[k] + s01 * x[k]
        y[k] = v
        yy += v * v
    return yy


@njit(cache=True, nogil=True)
def accumulate(acc, i, j, s00, s01, s10, s11, inverse):
    """Carry S over to the companion, or the inverse of a unit upper triangular S."""
    if inverse:
        subtract(acc[j], acc[i], -s01)
    else:
        combine(acc[i], acc[j], s00, s01, s10, s11)


@njit(cache=True, nogil=True)
def apply_to_columns(rows, acc, squares, i, j, s00, s01, s10, s11, inverse):
    """Multiply columns i and j by S; keep their squared norms."""
    if s00 == 1.0 and s11 == 1.0 and s10 == 0.0:
        squares[j] = subtract(rows[i], rows[j], s01)
    else:
        squares[i], squares[j] = combine(rows[i], rows[j], s00, s01, s10, s11)
    accumulate(acc, i, j, s00, s01, s10, s11, inverse)


@njit(cache=True, nogil=True)
def apply_to_gram(g, acc, i, j, s00, s01, s10, s11, inverse):
    """Replace the symmetric matrix g by S'gS with an exact zero at (i, j)."""
    gii, gij, gjj = g[i, i], g[i, j], g[j, j]
    if s00 == s11 and s01 == -s10 and abs(s00 * s11 - s01 * s10 - 1.0) < ROTATION_DEFECT:
        tangent = s01 / s00
        new_ii, new_jj = gii - tangent * gij, gjj + tangent * gij
    else:
        new_ii = s00 * (s00 * gii + s10 * gij) + s10 * (s00 * gij + s10 * gjj)
        new_jj = s01 * (s01 * gii + s11 * gij) + s11 * (s01 * gij + s11 * gjj)
    combine(g[i], g[j], s00, s01, s10, s11)
    g[i, i], g[j, j] = new_ii, new_jj
    g[i, j] = g[j, i] = 0.0
    for k in range(g.shape[0]):
        if k != i and k != j:
            g[k, i] = g[i, k]
            g[k, j] = g[j, k]
    accumulate(acc, i, j, s00, s01, s10, s11, inverse)


@njit(cache=True, nogil=True)
def columns_step(rows, acc, squares, i, j, kind, inverse, skip):
    """Do one step on columns; return False where a squared norm is not positive."""
    gii, gjj = squares[i], squares[j]
    if not (gii > 0.0 and gjj > 0.0):
        return False
    gij = inner(rows[i], rows[j])
    if abs(gij) > skip * sqrt(gii) * sqrt(gjj):
        s00, s01, s10, s11 = transformation(kind, gii, gij, gjj)
        apply_to_columns(rows, acc, squares, i, j, s00, s01, s10, s11, inverse)
    return True


@njit(cache=True, nogil=True)
def gram_step(g, acc, i, j, kind, inverse, skip, floor, definite):
    """Do one step on a symmetric matrix; return False where a pivot is not positive."""
    gii, gij, gjj = g[i, i], g[i, j], g[j, j]
    if definite and not (gii > 0.0 and gjj > 0.0):
        return False
    if abs(gij) > max(skip * sqrt(abs(gii)) * sqrt(abs(gjj)), floor):
        s00, s01, s10, s11 = transformation(kind, gii, gij, gjj)
        apply_to_gram(g, acc, i, j, s00, s01, s10, s11, inverse)
    return True


@njit(cache=True, nogil=True)
def columns_block(rows, acc, squares, pairs, kind, inverse, skip):
    """Do a step for each pair; return whether none broke down."""
    for p in range(pairs.shape[0]):
        if not columns_step(rows, acc, squares, pairs[p, 0], pairs[p, 1], kind, inverse, skip):
            return False
    return True


@njit(cache=True, nogil=True)
def gram_block(g, acc, pairs, kind, inverse, skip, floor, definite):
    """Do a step for each pair; return whether none broke down."""
    for p in range(pairs.shape[0]):
        i, j = pairs[p, 0], pairs[p, 1]
        if not gram_step(g, acc, i, j, kind, inverse, skip, floor, definite):
            return False
    return True


@njit(cache=True, nogil=True)
def largest_pair(g, definite):
    """Return the largest entry above the diagonal, scaled by it if `definite`, and its pair."""
    best, bi, bj = -1.0, 0, 1
    for i in range(g.shape[0]):
        for j in range(i + 1, g.shape[0]):
            size = abs(g[i, j])
            if definite:
                size /= sqrt(g[i, i]) * sqrt(g[j, j])
            if size > best:
                best, bi, bj = size, i, j
    return best, bi, bj


@njit(cache=True, nogil=True)
def update_gram(g, rows, i):
    """Recompute the inner products of column i with all others."""
    for k in range(g.shape[0]):
        g[i, k] = g[k, i] = inner(rows[i], rows[k])


@njit(cache=True, nogil=True)
def greedy_columns(rows, acc, squares, g, steps, kind, inverse, skip, tol):
    """Do up to `steps` steps on the pair with the largest cosine; return how many, and if sound."""
    for p in range(steps):
        size, i, j = largest_pair(g, True)
        if size <= tol:
            return p, True
        if not columns_step(rows, acc, squares, i, j, kind, inverse, skip):
            return p, False
        update_gram(g, rows, i)
        update_gram(g, rows, j)
    return steps, True


@njit(cache=True, nogil=True)
def greedy_gram(g, acc, steps, kind, inverse, skip, floor, definite, tol):
    """Do up to `steps` steps on the pair with the largest entry; return how many, and if sound."""
    for p in range(steps):
        size, i, j = largest_pair(g, definite)
        if size <= tol:
            return p, True
        if not gram_step(g, acc, i, j, kind, inverse, skip, floor, definite):
            return p, False
    return steps, True


@njit(cache=True, nogil=True)
def batch_transformations(gs, i, j, kind, s):
    """Write S for each matrix of a stack; return the first without a positive block, else -1."""
    for b in range(gs.shape[0]):
        gii, gij, gjj = gs[b, i[b], i[b]], gs[b, i[b], j[b]], gs[b, j[b], j[b]]
        positive = gii > 0.0 and gjj > 0.0 and abs(gij) < sqrt(gii) * sqrt(gjj)
        if kind != JACOBI and not positive:
            return b
        s[b, 0, 0], s[b, 0, 1], s[b, 1, 0], s[b, 1, 1] = transformation(kind, gii, gij, gjj)
    return -1


@njit(cache=True, nogil=True)
def batch_apply(gs, i, j, s):
    """Apply one S to each matrix of a stack."""
    nothing = gs[0, :, :0].copy()
    for b in range(gs.shape[0]):
        s00, s01, s10, s11 = s[b, 0, 0], s[b, 0, 1], s[b, 1, 0], s[b, 1, 1]
        apply_to_gram(gs[b], nothing, i[b], j[b], s00, s01, s10, s11, False)
