"""Compiled passes over a cost matrix for `sinkhorn`: scaling sweeps, plan sums, kept entries.

All take potentials and costs divided by epsilon and write into arrays that the caller owns.
"""

import math

import numpy as np
from numba import njit

NEGLIGIBLE = -50.0  # exp of this, times any row length in memory, is below round-off of 1
FLUSH = -230.0  # exp of less stays below 1e-60 whatever two scalings within the limit do to it
SCALING_LIMIT = 1e20
UNDERFLOW = math.log(np.finfo(np.float64).tiny)  # exp of less is denormal, and slow


@njit(cache=True, nogil=True)
def row_scaled_plan(C, inverse, g, a, f, K, columns):
    """K_ij = exp(f_i + g_j - C_ij inverse) with the f that gives its rows the sums a.

    Fills f, K and the column sums of K.
    """
    n, m = C.shape
    columns[:] = 0.0
    for i in range(n):
        row = K[i]
        top = -np.inf
        for j in range(m):
            row[j] = g[j] - C[i, j] * inverse
            top = max(top, row[j])
        total = 0.0
        for j in range(m):
            x = row[j] - top
            row[j] = math.exp(x) if x > FLUSH else 0.0
            total += row[j]
        f[i] = math.log(a[i]) - top - math.log(total)
        scale = a[i] / total
        for j in range(m):
            row[j] *= scale
            columns[j] += row[j]


@njit(cache=True, nogil=True)
def column_scaled_plan(C, inverse, f, b, g, K):
    """K_ij = exp(f_i + g_j - C_ij inverse) with the g that gives its columns the sums b."""
    n, m = C.shape
    column_potentials(C, inverse, f, b, g)
    for i in range(n):
        for j in range(m):
            x = f[i] + g[j] - C[i, j] * inverse
            K[i, j] = math.exp(x) if x > FLUSH else 0.0


@njit(cache=True, nogil=True)
def column_potentials(C, inverse, f, b, g):
    """g_j = log b_j - log sum_i exp(f_i - C_ij inverse): the columns get their sums."""
    n, m = C.shape
    top = np.full(m, -np.inf)
    for i in range(n):
        for j in range(m):
            top[j] = max(top[j], f[i] - C[i, j] * inverse)
    total = np.zeros(m)
    for i in range(n):
        for j in range(m):
            x = f[i] - C[i, j] * inverse - top[j]
            if x > NEGLIGIBLE:
                total[j] += math.exp(x)
    for j in range(m):
        g[j] = math.log(b[j]) - top[j] - math.log(total[j])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def scaling_sweeps(K, a, b, u, v, errors):
    """Scale rows, then columns, of diag(u) K diag(v), `len(errors)` times in one pass each.

    errors[t] is the L1 error of the row sums after sweep t. Returns the number of completed
    sweeps: fewer than asked where a scaling would leave its range; u, v are then those after
    the completed ones.
    """
    n, m = K.shape
    scale = np.empty(n)
    columns = np.empty(m)
    for t in range(errors.shape[0]):
        columns[:] = 0.0
        error = 0.0
        for i in range(n):
            row = K[i]
            total = 0.0
            for j in range(m):
                total += row[j] * v[j]
            error += abs(u[i] * total - a[i])
            if total * SCALING_LIMIT <= a[i] or total >= SCALING_LIMIT * a[i]:
                if t > 0:
                    errors[t - 1] = row_error(K, a, u, v)
                return t
            scale[i] = a[i] / total
            for j in range(m):
                columns[j] += scale[i] * row[j]
        if t > 0:
            errors[t - 1] = error
        for j in range(m):
            if columns[j] * SCALING_LIMIT <= b[j] or columns[j] >= SCALING_LIMIT * b[j]:
                return t
        for j in range(m):
            v[j] = b[j] / columns[j]
        u[:] = scale
    errors[-1] = row_error(K, a, u, v)
    return errors.shape[0]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def row_error(K, a, u, v):
    """L1 error of the row sums of diag(u) K diag(v)."""
    error = 0.0
    for i in range(K.shape[0]):
        row = K[i]
        total = 0.0
        for j in range(K.shape[1]):
            total += row[j] * v[j]
        error += abs(u[i] * total - a[i])
    return error


@njit(cache=True, nogil=True)
def plan_sums(C, inverse, f, g, floor, r, c):
    """Row and column sums of P = exp(f_i + g_j - C_ij inverse), and log max P.

    Entries with a logarithm below `floor` count as 0.
    """
    n, m = C.shape
    c[:] = 0.0
    x = np.empty(m)
    top = -np.inf
    for i in range(n):
        for j in range(m):
            x[j] = f[i] + g[j] - C[i, j] * inverse
        total = 0.0
        for j in range(m):
            if x[j] > floor:
                p = math.exp(x[j])
                total += p
                c[j] += p
                top = max(top, x[j])
        r[i] = total
    return top


@njit(cache=True, nogil=True)
def count_kept(C, inverse, f, g, threshold, indptr):
    """Fill the CSR row pointers of the entries with a logarithm of at least `threshold`."""
    n, m = C.shape
    indptr[0] = 0
    for i in range(n):
        count = 0
        for j in range(m):
            count += f[i] + g[j] - C[i, j] * inverse >= threshold
        indptr[i + 1] = indptr[i] + count


@njit(cache=True, nogil=True)
def fill_kept(C, inverse, f, g, threshold, indices, data):
    """Fill the CSR columns and values of the entries that `count_kept` counted."""
    n, m = C.shape
    at = 0
    for i in range(n):
        for j in range(m):
            x = f[i] + g[j] - C[i, j] * inverse
            if x >= threshold:
                indices[at] = j
                data[at] = math.exp(x)
                at += 1


@njit(cache=True, nogil=True)
def plan(C, inverse, f, g, P):
    """P_ij = exp(f_i + g_j - C_ij inverse); 0 only where that is below the normal numbers."""
    n, m = C.shape
    for i in range(n):
        for j in range(m):
            x = f[i] + g[j] - C[i, j] * inverse
            P[i, j] = math.exp(x) if x > UNDERFLOW else 0.0
