"""A Schrödinger potential of token sequences as a sum of products, and what follows in closed form.

The potential is ``v(y) = sum_k beta_k prod_d r_kd(y_d)`` with positive weights and cores. Seen from
time n it is the same form with cores ``u^n_kd = A_{T-n} r_kd``, so the normaliser, the plan and the
transition probabilities need only matrix products with the powers of the kernel.

Arrays of cores are (S, D, K) here: one product applies a power to all of them, and what belongs to
one token of one coordinate lies together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import logsumexp

from thalweg.transport.categorical import CategoricalReference, sample_categorical

Floats: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = NDArray[np.int64]

TINY = float(np.finfo(np.float64).tiny)
EVEN_TOL = 1e-13
"""Relative spread of a power's entries that count as equal."""
BLOCK_ENTRIES = 2**21
"""Entries, at most, of an array of laws that is worked on at once."""


class Powers:
    """Products with the powers A_0, A_1, ... of a kernel; linear in S for the uniform kernel."""

    def __init__(self, reference: CategoricalReference) -> None:
        self.tables = reference.cumulative
        self._even = [_even_form(A) for A in self.tables]

    def dot(self, n: int, cores: Floats) -> Floats:
        """Return A_n applied to the first axis."""
        return self._apply(self.tables[n], n, cores)

    def transposed_dot(self, n: int, cores: Floats) -> Floats:
        """Return the transpose of A_n applied to the first axis."""
        return self._apply(self.tables[n].T, n, cores)

    def _apply(self, A: Floats, n: int, cores: Floats) -> Floats:
        if n == 0:
            return cores
        even = self._even[n]
        if even is not None:
            stay, move = even
            return (stay - move) * cores + move * cores.sum(0)
        flat = cores.reshape(len(A), -1)
        return np.asarray(A @ flat).reshape(cores.shape)


class CPPotential:
    """Potential with given parameters, and the bridge that it makes of a reference process.

    Parameters
    ----------
    reference : CategoricalReference
        The process, with T = N + 1 steps.
    log_weights : array (K,)
        log beta.
    log_cores : array (K, D, S)
        log r.
    """

    def __init__(
        self, reference: CategoricalReference, log_weights: Floats, log_cores: Floats
    ) -> None:
        self.reference = reference
        self.n_steps = reference.n_inner + 1
        cores = np.ascontiguousarray(log_cores.transpose(2, 1, 0))
        peak = cores.max(0)
        self.log_weights = log_weights + peak.sum(0)
        self._powers = Powers(reference)
        self._tables = {self.n_steps: np.maximum(np.exp(cores - peak), TINY)}
        self._log_cores = cores - peak

    def cores(self, n: int) -> Floats:
        """Return u^n = A_{T-n} r, shape (S, D, K)."""
        if n not in self._tables:
            ahead = self._powers.dot(self.n_steps - n, self._tables[self.n_steps])
            self._tables[n] = np.maximum(ahead, TINY)
        return self._tables[n]

    def log_terms(self, x: Tokens, n: int) -> Floats:
        """Return ``log beta_k + sum_d log u^n_kd(x_d)``, shape (rows, K)."""
        logs = self._log_cores if n == self.n_steps else np.log(self.cores(n))
        return self.log_weights + selection(x, len(logs)) @ logs.reshape(-1, logs.shape[2])

    def log_value(self, x: Tokens, n: int) -> Floats:
        """Return the log of the potential seen from time n: log v at n = T, log c at n = 0."""
        value: Floats = logsumexp(self.log_terms(x, n), axis=1)
        return value

    def component_probs(self, x: Tokens, n: int) -> Floats:
        """Return the probabilities (rows, K) of the components, given the state at time n."""
        terms = self.log_terms(x, n)
        probs: Floats = np.exp(terms - logsumexp(terms, axis=1, keepdims=True))
        return probs

    def token_probs(self, x: Tokens, n: int, m: int) -> Floats:
        """Return the law (rows, D, S) of each token at time m, given the sequence at time n."""
        start, end, A = self.cores(n), self.cores(m), self._powers.tables[m - n]
        probs = np.empty((*x.shape, len(A)))
        for part in _blocks(x, max(start.shape[2], len(A))):
            per_core = self.component_probs(x[part], n)[:, None] / at_tokens(start, x[part])
            mixed = np.matmul(per_core.transpose(1, 0, 2), end.transpose(1, 2, 0))
            probs[part] = A[x[part]] * mixed.transpose(1, 0, 2)
        return probs

    def sample(self, x: Tokens, n: int, times: list[int], rng: np.random.Generator) -> list[Tokens]:
        """Draw the process at increasing times, given that it is in `x` at time n.

        The component is drawn once: given it, the tokens move independently of each other.
        """
        component = sample_categorical(self.component_probs(x, n), rng)
        states = []
        for m in times:
            x = self._move(x, component, n, m, rng)
            states.append(x)
            n = m
        return states

    def _move(
        self, x: Tokens, component: Tokens, n: int, m: int, rng: np.random.Generator
    ) -> Tokens:
        A, end = self._powers.tables[m - n], np.ascontiguousarray(self.cores(m).transpose(2, 1, 0))
        moved = np.empty_like(x)
        for part in _blocks(x, len(A)):
            moved[part] = sample_categorical(A[x[part]] * end[component[part]], rng)
        return moved


def selection(x: Tokens, n_categories: int) -> csr_array:
    """Return the 0-1 matrix (rows, S D) whose product with (S D, K) adds the rows ``[x_d, d]``."""
    return _indicator(x, n_categories, x.shape[1])


def placement(x: Tokens, n_categories: int) -> csr_array:
    """Return the 0-1 matrix (rows D, S D) whose transpose adds (rows D, K) up at ``[x_d, d]``."""
    return _indicator(x, n_categories, 1)


def _indicator(x: Tokens, n_categories: int, ones_a_row: int) -> csr_array:
    D = x.shape[1]
    columns = (x * D + np.arange(D)).ravel()
    starts = np.arange(0, x.size + 1, ones_a_row)
    return csr_array((np.ones(x.size), columns, starts), shape=(len(starts) - 1, n_categories * D))


def at_tokens(cores: Floats, x: Tokens) -> Floats:
    """Return ``cores[x_d, d]``, shape (rows, D, K)."""
    return cores[x, np.arange(x.shape[1])]


def normal_cores(means: Floats, std: float, n_categories: int) -> Floats:
    """Return log densities of normal laws at the categories, (K, D, S), for means (K, D)."""
    levels = np.arange(n_categories)
    exponents: Floats = -((levels - means[:, :, None]) ** 2) / (2 * std**2)
    return exponents - np.log(std * np.sqrt(2 * np.pi))


def generator(rng: Any, own: Any = None) -> np.random.Generator:
    """Return a generator of `rng`, or of the owner's where `rng` is None."""
    return np.random.default_rng(own if rng is None else rng)


def _blocks(x: Tokens, width: int) -> Iterator[slice]:
    rows = max(1, BLOCK_ENTRIES // (x.shape[1] * width))
    return (slice(start, start + rows) for start in range(0, len(x), rows))


def _even_form(A: Floats) -> tuple[float, float] | None:
    """Return diagonal and off-diagonal entry where these are two numbers, else None."""
    apart = A[~np.eye(len(A), dtype=bool)]
    diagonal = A.diagonal()
    if max(np.ptp(apart), np.ptp(diagonal)) > EVEN_TOL * diagonal.max():
        return None
    return float(diagonal.mean()), float(apart.mean())
