"""Count distinct users, words, k-mers or flows in one pass, a few kB and with proved intervals.

Each item is hashed to a uniform number, and registers keep maxima, which do not care for repeats or
order: sketches of parts merge into that of the whole. The registers' mean gives the count, their
exact law an interval (see `thalweg.streams.chernoff_interval`).

Source: "Analytical confidence intervals for the number of different objects in data streams"
(2019), arXiv 1909.11564.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm

from thalweg._validation import check_count, check_option, check_real
from thalweg.streams._blocks import key_blocks, map_blocks
from thalweg.streams._distinct_kernels import fill_all, fill_one
from thalweg.streams._hashing import Keys, check_seed, derive_seeds
from thalweg.streams._serialise import pack, unpack
from thalweg.streams.flajolet_martin import (
    AVERAGING,
    GUMBEL_SD,
    chernoff_interval,
    count_of_mean,
)

_PARAMETERS = ("n_registers", "averaging", "base", "rng")
_LARGEST_SKETCH = 2**26
_INDEPENDENT_BITS = 63


class FlajoletMartin:
    r"""A sketch of the number of distinct items of a stream.

    Parameters
    ----------
    n_registers : int, default 1024
        Registers of 8 bytes, L; a power of two with stochastic averaging. The relative standard
        deviation of the estimate is :math:`1.28 / \sqrt{L}`; see `required_registers`.
    averaging : {"stochastic", "independent"}, default "stochastic"
        Each item updates one register, or all by L hash functions (L times the time).
    base : float, optional
        b > 1: registers are read as whole multiples of log b, 2 being Flajolet and Martin's count
        of zeros. None reads them as continuous, which says most.
    rng : int, default 0
        Seed of the hash function, in [0, 2^64); the same int gives the same sketch everywhere.

    Attributes
    ----------
    registers_ : ndarray of uint64, shape (n_registers,)
        One more than the largest hash value seen; 0 where a register is empty.

    Notes
    -----
    Hash values have 64 - log2(L) bits (63 with independent averaging); counts should stay well
    below 2 to that power times L.

    References
    ----------
    "Analytical confidence intervals for the number of different objects in data streams", 2019,
    arXiv 1909.11564.

    Examples
    --------
    >>> sketch = FlajoletMartin(4096).update(range(50_000)).update(["also", "words", "words"])
    >>> 49_000 < sketch.estimate() < 51_000
    True
    >>> low, high = sketch.interval()
    >>> low < 50_002 < high
    True
    """

    def __init__(
        self,
        n_registers: int = 1024,
        *,
        averaging: str = "stochastic",
        base: float | None = None,
        rng: int = 0,
    ) -> None:
        self.averaging = check_option("averaging", averaging, AVERAGING)
        stochastic = averaging == "stochastic"
        self.n_registers = check_count(
            "n_registers", n_registers, at_least=2 if stochastic else 1, at_most=_LARGEST_SKETCH
        )
        if stochastic and self.n_registers & (self.n_registers - 1):
            raise ValueError(
                "n_registers must be a power of two with averaging='stochastic', "
                f"got {n_registers!r}"
            )
        self.base = None if base is None else check_real("base", base, above=1)
        self.rng = check_seed("rng", rng)
        self.registers_: Keys = np.zeros(self.n_registers, dtype=np.uint64)

    def update(self, items: Any) -> Self:
        """Enter items, any number of times.

        Parameters
        ----------
        items : array, Arrow column, iterable, open file or pathlib.Path
            Integers >= 0, str or bytes. A path or an open file is read by lines in blocks of
            constant memory; ``Path("-")`` is standard input. Missing entries of an Arrow column are
            left out.

        Returns
        -------
        FlajoletMartin
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an item is negative or of a type without a key; nothing has been entered then.
        """
        registers = self.registers_.copy()
        for keys in key_blocks(items):
            self._enter(registers, keys)
        self.registers_ = registers
        return self

    def update_many(self, blocks: Iterable[Any], *, executor: Executor | None = None) -> Self:
        """Enter many blocks, sketched in parallel: the registers are those of one pass.

        Parameters
        ----------
        blocks : iterable
            Each is something that `update` takes: an array, a column, a path.
        executor : concurrent.futures.Executor, optional
            Sketches the blocks; Dask's ``client.get_executor()`` will do. By default they are
            entered one after another.

        Returns
        -------
        FlajoletMartin
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an item is refused; nothing has been entered then.

        Examples
        --------
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> days = [range(0, 600), range(400, 1000)]
        >>> with ThreadPoolExecutor(2) as pool:
        ...     both = FlajoletMartin(256).update_many(days, executor=pool)
        >>> bool((both.registers_ == FlajoletMartin(256).update(range(1000)).registers_).all())
        True
        """
        registers = self.registers_.copy()
        for part in map_blocks(partial(_sketch, self._parameters()), blocks, executor):
            np.maximum(registers, part, out=registers)
        self.registers_ = registers
        return self

    def merge(self, other: FlajoletMartin) -> Self:
        """Become the sketch of both streams.

        Parameters
        ----------
        other : FlajoletMartin
            A sketch with the same parameters and seed.

        Returns
        -------
        FlajoletMartin
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `other` is not such a sketch.
        """
        if not isinstance(other, FlajoletMartin):
            raise TypeError(f"other must be a FlajoletMartin, got {type(other).__name__}")
        if self._parameters() != other._parameters():
            raise ValueError(
                f"other must have the parameters {self._parameters()}, got {other._parameters()}"
            )
        self.registers_ = np.maximum(self.registers_, other.registers_)
        return self

    @property
    def mean_(self) -> float:
        """The mean of the registers as their law reads them, an empty one counting as 0."""
        values = -np.log(self._distance_to_one())
        if self.base is not None:
            values = np.floor(values / math.log(self.base))
        return float(np.where(self.registers_ > 0, values, 0.0).mean())

    def estimate(self, *, estimator: str = "moment") -> float:
        r"""Estimate the number of distinct items.

        Parameters
        ----------
        estimator : {"moment", "gamma"}, default "moment"
            The count at which registers are expected to have this mean; or the order-statistics
            estimator from the gaps :math:`1 - U_{\max}`, relative standard deviation
            :math:`1 / \sqrt{L}` against 1.28, for continuous registers.

        Returns
        -------
        float
            The estimate; 0.0 if nothing was seen.

        Raises
        ------
        ValueError
            If the estimator is unknown or does not apply.
        """
        check_option("estimator", estimator, ("moment", "gamma"))
        if estimator == "gamma":
            self._require_continuous("estimator")
        nonempty = self._nonempty()
        if nonempty == 0:
            return 0.0
        least = nonempty if self.averaging == "stochastic" else 1
        estimate = self._moment_estimate() if estimator == "moment" else self._gamma_estimate()
        return max(float(least), estimate)

    def interval(self, level: float = 0.95, *, method: str = "chernoff") -> tuple[float, float]:
        """Return an interval for the number of distinct items.

        Parameters
        ----------
        level : float, default 0.95
            Its coverage, in (0, 1).
        method : {"chernoff", "gamma", "normal"}, default "chernoff"
            Coverage at least `level` for every count and number of registers; exact, for
            independent continuous registers; or approximate, for many registers and a large count.

        Returns
        -------
        low, high : float
            The ends; (0.0, 0.0) if nothing was seen.

        Raises
        ------
        TypeError, ValueError
            If an argument is malformed or the method does not apply.
        """
        level = check_real("level", level, above=0, below=1)
        check_option("method", method, ("chernoff", "gamma", "normal"))
        if method == "gamma":
            self._require_continuous("method")
            if self.averaging != "independent":
                raise ValueError("method 'gamma' needs averaging='independent', got 'stochastic'")
        nonempty = self._nonempty()
        if nonempty == 0:
            return 0.0, 0.0
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        if method == "chernoff":
            return chernoff_interval(
                self.mean_,
                self.n_registers,
                level,
                averaging=self.averaging,
                base=self.base,
                nonempty=nonempty,
            )
        if method == "gamma":
            low, high = chi2.ppf(tails, 2 * self.n_registers) / (2 * self._gaps().sum())
        else:
            spread = norm.ppf(tails) * GUMBEL_SD / math.sqrt(self.n_registers)
            low, high = self._moment_estimate() * np.exp(spread)
        return float(low), float(high)

    def to_bytes(self) -> bytes:
        """Return the sketch as bytes, for `from_bytes`."""
        return pack("distinct-count", self._parameters(), self.registers_)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the sketch that `to_bytes` kept.

        Raises
        ------
        TypeError, ValueError
            If `data` is not what `to_bytes` returns, or is truncated or corrupted.

        Examples
        --------
        >>> sketch = FlajoletMartin(64, rng=7).update(["a", "b"])
        >>> FlajoletMartin.from_bytes(sketch.to_bytes()).estimate() == sketch.estimate()
        True
        """
        parameters, registers = unpack(data, "distinct-count", _PARAMETERS)
        try:
            sketch = cls(**parameters)
        except TypeError as error:
            raise ValueError(f"data holds parameters that are none: {error}") from None
        if registers.shape != sketch.registers_.shape or np.any(registers > sketch._scale()):
            raise ValueError(f"data holds registers that {sketch!r} cannot have")
        sketch.registers_ = registers
        return sketch

    def __repr__(self) -> str:
        return (
            f"FlajoletMartin({self.n_registers}, averaging={self.averaging!r}, "
            f"base={self.base!r}, rng={self.rng!r})"
        )

    def _parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PARAMETERS}

    def _index_bits(self) -> int:
        return self.n_registers.bit_length() - 1

    def _scale(self) -> int:
        """Return how many hash values there are."""
        if self.averaging == "independent":
            return 2**_INDEPENDENT_BITS
        return 2 ** (64 - self._index_bits())

    def _enter(self, registers: Keys, keys: Keys) -> None:
        if self.averaging == "independent":
            fill_all(registers, keys, derive_seeds(self.rng, self.n_registers))
        else:
            fill_one(registers, keys, derive_seeds(self.rng, 1)[0], self._index_bits())

    def _nonempty(self) -> int:
        return int(np.count_nonzero(self.registers_))

    def _distance_to_one(self) -> NDArray[np.float64]:
        """Return 1 - U of the maxima, from whole numbers: 1 - u would lose what counts."""
        scale = self._scale()
        gap = np.uint64(scale) - self.registers_
        return np.where(self.registers_ > 0, (gap.astype(float) + 0.5) / scale, 1.0)

    def _gaps(self) -> NDArray[np.float64]:
        return np.asarray(-np.log1p(-self._distance_to_one()))

    def _require_continuous(self, name: str) -> None:
        if self.base is not None:
            raise ValueError(f"{name} 'gamma' needs base=None, got base={self.base!r}")

    def _moment_estimate(self) -> float:
        share = 1.0 if self.averaging == "independent" else 1.0 / self.n_registers
        return count_of_mean(self.mean_, share, self.base)

    def _gamma_estimate(self) -> float:
        count = self.n_registers
        if self.averaging == "independent":
            return max(1, count - 1) / float(self._gaps().sum())
        distance = self._distance_to_one()
        if self._nonempty() == count:
            return count * (count - 1) / float(distance.sum())
        return _count_of_distance(float(distance.mean()), count)


def _sketch(parameters: dict[str, Any], items: Any) -> Keys:
    return FlajoletMartin(**parameters).update(items).registers_


def _count_of_distance(mean: float, count: int) -> float:
    """Return the n at which 1 - U_max of a register, 1 if it is empty, is expected to be `mean`."""

    def excess(log_n: float) -> float:
        n = math.exp(log_n)
        return -math.expm1((n + 1) * math.log1p(-1 / count)) * count / (n + 1) - mean

    if excess(0.0) <= 0:
        return 1.0
    return math.exp(brentq(excess, 0.0, math.log(count) + 40.0, xtol=1e-12))
