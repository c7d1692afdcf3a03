"""Inner loops of alternating minimisation: one small regression for every row of a sparse matrix.

The observed entries are held row by row (CSR). The design A of row i has the rows of the fixed
factor at the observed columns; it is gathered once, as columns, into a buffer that stays in the
cache while all passes of the solver run over it. Designs too large for the buffer are gathered
again in every pass. Rows do not depend on each other, nor on how they are cut into blocks.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from thalweg.streams._hashing import mix64

EXACT, CG, SKETCH, GRADIENT = 0, 1, 2, 3
SIGNS_PER_COLUMN = 2
RIDGE = 1e-12  # times the trace, where the normal matrix has no Cholesky factor
SINGULAR = 1e-14  # a pivot below this part of the trace counts as none
ROUNDING = 1e-15  # an error of A x below this part of ||b|| is not worth a step
BUFFER_ENTRIES = 2**20  # numbers of a design that is held: 8 MB
# Lets sums use vector registers; leaves NaN and infinity alone.
SUMS = {"reassoc", "contract"}


@njit(cache=True, nogil=True)
def set_zero(x, n):
    """Set the first n entries to zero."""
    for k in range(n):
        x[k] = 0.0


@njit(cache=True, nogil=True)
def gather(factor, columns, at, n, buffer, fresh):
    """Return the design (rank, n) of observations at, at + 1, ...; filled if `fresh`."""
    rank = factor.shape[1]
    design = buffer[: rank * n].reshape(rank, n)
    if not fresh:
        return design
    j = 0
    while j + 4 <= n:
        # unsigned, so that no index is taken for one from the end
        r0, r1 = np.uint64(columns[at + j]), np.uint64(columns[at + j + 1])
        r2, r3 = np.uint64(columns[at + j + 2]), np.uint64(columns[at + j + 3])
        for c in range(rank):
            design[c, j] = factor[r0, c]
            design[c, j + 1] = factor[r1, c]
            design[c, j + 2] = factor[r2, c]
            design[c, j + 3] = factor[r3, c]
        j += 4
    while j < n:
        r0 = np.uint64(columns[at + j])
        for c in range(rank):
            design[c, j] = factor[r0, c]
        j += 1
    return design


@njit(cache=True, nogil=True, fastmath=SUMS)
def forward(design, x, out):
    """Add A x to `out`."""
    rank, n = design.shape
    c = 0
    while c + 4 <= rank:
        x0, x1, x2, x3 = x[c], x[c + 1], x[c + 2], x[c + 3]
        for j in range(n):
            out[j] += (x0 * design[c, j] + x1 * design[c + 1, j]) + (
                x2 * design[c + 2, j] + x3 * design[c + 3, j]
            )
        c += 4
    while c < rank:
        x0 = x[c]
        for j in range(n):
            out[j] += x0 * design[c, j]
        c += 1


@njit(cache=True, nogil=True, fastmath=SUMS)
def backward(design, r, out):
    """Add A^T r to `out`."""
    rank, n = design.shape
    c = 0
    while c + 4 <= rank:
        s0 = s1 = s2 = s3 = 0.0
        for j in range(n):
            s0 += design[c, j] * r[j]
            s1 += design[c + 1, j] * r[j]
            s2 += design[c + 2, j] * r[j]
            s3 += design[c + 3, j] * r[j]
        out[c] += s0
        out[c + 1] += s1
        out[c + 2] += s2
        out[c + 3] += s3
        c += 4
    while c < rank:
        s0 = 0.0
        for j in range(n):
            s0 += design[c, j] * r[j]
        out[c] += s0
        c += 1


@njit(cache=True, nogil=True)
def add_gram(rows, out):
    """Add the inner products of all pairs of rows to the lower triangle of `out`."""
    for a in range(rows.shape[0]):
        backward(rows[: a + 1], rows[a], out[a])


@njit(cache=True, nogil=True, fastmath=SUMS)
def cholesky(gram, n, factor):
    """Write the lower Cholesky factor of gram[:n, :n]; return whether there is one."""
    trace = 0.0
    for a in range(n):
        trace += gram[a, a]
    for a in range(n):
        for b in range(a + 1):
            total = gram[a, b]
            for c in range(b):
                total -= factor[a, c] * factor[b, c]
            if b < a:
                factor[a, b] = total / factor[b, b]
            elif total > SINGULAR * trace:
                factor[a, a] = sqrt(total)
            else:
                return False
    return True


@njit(cache=True, nogil=True)
def regular_cholesky(gram, n, factor):
    """Factorise, with a small ridge where the matrix is singular."""
    if cholesky(gram, n, factor):
        return
    trace = 0.0
    for a in range(n):
        trace += gram[a, a]
    ridge = RIDGE * trace if trace > 0.0 else 1.0
    for a in range(n):
        gram[a, a] += ridge
    if not cholesky(gram, n, factor):
        for a in range(n):
            factor[a, a] = np.nan


@njit(cache=True, nogil=True, fastmath=SUMS)
def solve_factored(factor, n, x):
    """Replace x by (L L^T)^{-1} x."""
    for a in range(n):
        total = x[a]
        for b in range(a):
            total -= factor[a, b] * x[b]
        x[a] = total / factor[a, a]
    for a in range(n - 1, -1, -1):
        x[a] /= factor[a, a]
        for b in range(a):
            x[b] -= factor[a, b] * x[a]


@njit(cache=True, nogil=True, fastmath=SUMS)
def inner(x, y, n):
    """Inner product of the first n entries."""
    total = 0.0
    for k in range(n):
        total += x[k] * y[k]
    return total


@njit(cache=True, nogil=True, fastmath=SUMS)
def sketch_design(factor, columns, at, n, key, sketch, out):
    """Write S A, as columns: each observation goes, with random signs, into two of its rows."""
    size, rank = sketch.shape
    scale = 1.0 / sqrt(SIGNS_PER_COLUMN)
    for h in range(size):
        set_zero(sketch[h], rank)
    for j in range(n):
        row = np.uint64(columns[at + j])
        word = mix64(key + np.uint64(j))
        # the upper and the middle 31 bits choose the rows, the lowest two their signs
        first = ((word >> np.uint64(33)) * np.uint64(size)) >> np.uint64(31)
        middle = (word >> np.uint64(2)) & np.uint64(0x7FFFFFFF)
        second = first + np.uint64(1) + ((middle * np.uint64(size - 1)) >> np.uint64(31))
        if second >= np.uint64(size):
            second -= np.uint64(size)
        one = scale if word & np.uint64(1) else -scale
        two = scale if word & np.uint64(2) else -scale
        for c in range(rank):
            sketch[first, c] += one * factor[row, c]
            sketch[second, c] += two * factor[row, c]
    for h in range(size):
        for c in range(rank):
            out[c, h] = sketch[h, c]


@njit(cache=True, nogil=True)
def image_of(factor, columns, at, n, buffer, fresh, x, out):
    """Write A x; return whether the buffer must be filled again for the next pass."""
    width = buffer.size // factor.shape[1]
    set_zero(out, n)
    for done in range(0, n, width):
        part = min(width, n - done)
        design = gather(factor, columns, at + done, part, buffer, fresh)
        forward(design, x, out[done : done + part])
    return n > width


@njit(cache=True, nogil=True)
def gradient_of(factor, columns, at, n, buffer, fresh, r, out, gram, with_gram):
    """Add A^T r to `out`, and A^T A to the lower triangle of `gram` if asked."""
    width = buffer.size // factor.shape[1]
    for done in range(0, n, width):
        part = min(width, n - done)
        design = gather(factor, columns, at + done, part, buffer, fresh)
        backward(design, r[done : done + part], out)
        if with_gram:
            add_gram(design, gram)
    return n > width


@njit(cache=True, nogil=True)
def solve_short_row(factor, columns, at, n, alpha, buffer, gram, root, b, y, x):
    """Least squares of least norm with fewer observations than unknowns: x = A^T (A A^T)^{-1} b."""
    rank = factor.shape[1]
    design = buffer[: n * rank].reshape(n, rank)
    for j in range(n):
        row = np.uint64(columns[at + j])
        for c in range(rank):
            design[j, c] = factor[row, c]
        set_zero(gram[j], n)
        y[j] = b[j]
    add_gram(design, gram)
    for j in range(n):
        gram[j, j] += alpha
    regular_cholesky(gram, n, root)
    solve_factored(root, n, y)
    set_zero(x, rank)
    forward(design, y, x)
    total = 0.0
    for j in range(n):
        residual = b[j] - inner(design[j], x, rank)
        total += residual * residual
    flops = n * (n + 1) * rank + n**3 // 3 + 2 * n * n + 4 * n * rank
    return flops, total


@njit(cache=True, nogil=True)
def solve_rows(
    indptr,
    columns,
    values,
    factor,
    solution,
    kind,
    steps,
    tol,
    sketch_rows,
    alpha,
    seed,
    first_row,
    buffer_entries,
):
    """Minimise ||A x - b||^2 + alpha ||x||^2 for every row, from a start.

    `solution` holds the start and is overwritten. Returns the floating-point operations and
    the sum of all squared residuals. `seed` and the number of the row, counted from
    `first_row`, determine its sketch.
    """
    rank = factor.shape[1]
    n_rows = indptr.size - 1
    longest = 0
    for i in range(n_rows):
        longest = max(longest, indptr[i + 1] - indptr[i])
    buffer = np.empty(rank * max(rank, min(longest, buffer_entries // rank)))
    gram, root = np.empty((rank, rank)), np.empty((rank, rank))
    sketch, sketch_columns = np.empty((sketch_rows, rank)), np.empty((rank, sketch_rows))
    residual, image = np.empty(longest), np.empty(longest)
    gradient, scaled, direction = np.empty(rank), np.empty(rank), np.empty(rank)
    flops, squares = 0.0, 0.0
    for i in range(n_rows):
        lo, n, x = indptr[i], indptr[i + 1] - indptr[i], solution[i]
        norm = 0.0
        for j in range(n):
            residual[j] = values[lo + j]
            norm += residual[j] * residual[j]
        direct = kind == EXACT or (kind != CG and n <= sketch_rows)
        if direct or n == 0:
            set_zero(x, rank)
        if n == 0:
            continue
        if n < rank and steps > 0:
            count, total = solve_short_row(
                factor, columns, lo, n, alpha, buffer, gram, root, residual, image, x
            )
            flops += count
            squares += total
            continue
        one_pass = 2.0 * n * rank
        preconditioned = kind != CG
        fresh = True
        if inner(x, x, rank) > 0.0:
            fresh = image_of(factor, columns, lo, n, buffer, fresh, x, image)
            for j in range(n):
                residual[j] -= image[j]
            flops += one_pass
        if steps == 0:
            squares += inner(residual, residual, n)
            continue

        # Conjugate gradients in the form that keeps the residual b - A x. A direct solution is
        # their first step, preconditioned by A itself.
        most = 1 if direct else steps
        taken, previous = 0, 1.0
        allowed = max(tol, ROUNDING) ** 2 * norm
        if kind == CG:  # A^T A is about n / (rows of the factor) times the identity
            allowed *= n / factor.shape[0]
        while True:
            for c in range(rank):
                gradient[c] = -alpha * x[c]
            build = preconditioned and taken == 0
            if build:
                for c in range(rank):
                    set_zero(gram[c], rank)
            fresh = gradient_of(
                factor, columns, lo, n, buffer, fresh, residual, gradient, gram, build and direct
            )
            flops += one_pass
            if build:
                if direct:
                    flops += n * rank * (rank + 1.0)
                else:
                    key = mix64(seed ^ np.uint64(first_row + i))
                    sketch_design(factor, columns, lo, n, key, sketch, sketch_columns)
                    add_gram(sketch_columns, gram)
                    flops += SIGNS_PER_COLUMN * one_pass + sketch_rows * rank * (rank + 1.0)
                for c in range(rank):
                    gram[c, c] += alpha
                regular_cholesky(gram, rank, root)
                flops += rank**3 / 3.0
            for c in range(rank):
                scaled[c] = gradient[c]
            if preconditioned:
                solve_factored(root, rank, scaled)
                flops += 2.0 * rank * rank
            size = inner(gradient, scaled, rank)
            if not (size < np.inf and norm < np.inf):
                x[0] = np.nan
                break
            if size <= (0.0 if direct else allowed):
                break
            if taken == 0 or kind == GRADIENT:
                set_zero(direction, rank)
            share = size / previous
            for c in range(rank):
                direction[c] = scaled[c] + share * direction[c]
            fresh = image_of(factor, columns, lo, n, buffer, fresh, direction, image)
            flops += one_pass
            length = 1.0
            if not direct:
                steepness = alpha * inner(direction, direction, rank)
                length = size / (inner(image, image, n) + steepness)
            for c in range(rank):
                x[c] += length * direction[c]
            for j in range(n):
                residual[j] -= length * image[j]
            taken, previous = taken + 1, size
            if taken == most:
                break
        squares += inner(residual, residual, n)
    return flops, squares
