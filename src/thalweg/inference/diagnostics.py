"""Whether Markov chains can be believed: effective sample size, R-hat, errors, energies.

Draws are compared between and within halves of chains after ranking, so that heavy tails and
differences in spread are seen as well as differences in location.

Source: "Rank-Normalization, Folding, and Localization: An Improved R-hat for Assessing Convergence
of MCMC" (2021), arXiv 1903.08008; energies: "A Conceptual Introduction to Hamiltonian Monte Carlo"
(2017), arXiv 1701.02434, section 6.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import rankdata

from thalweg._validation import check_array, check_option

Floats = NDArray[np.float64]

FEWEST_DRAWS = 4
TAILS = (0.05, 0.95)


def ess(x: ArrayLike, kind: str = "bulk") -> float:
    """Return how many independent draws would be as informative.

    Parameters
    ----------
    x : array_like, shape (chains, draws)
        Draws of one quantity.
    kind : {"bulk", "tail", "mean"}, default "bulk"
        Of ranks (the location of the distribution); the smaller of those of the 5 and 95 %
        quantiles; of the mean of the values themselves.

    Returns
    -------
    float
        The effective sample size. Draws that are all equal count each.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws or x is not finite.

    References
    ----------
    .. [1] "Rank-Normalization, Folding, and Localization" (2021), arXiv 1903.08008, eqs. (10)
       to (14); Geyer's initial monotone sequence ends the sum of autocorrelations.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((4, 1000))
    >>> bool(3000 < ess(x) < 5000)
    True
    """
    draws = _check_draws("x", x)
    halves = _split(draws)
    check_option("kind", kind, ("bulk", "tail", "mean"))
    if kind == "bulk":
        return _ess(_normal_scores(halves))
    if kind == "mean":
        return _ess(halves)
    return min(_ess((halves <= np.quantile(draws, q)).astype(float)) for q in TAILS)


def rhat(x: ArrayLike) -> float:
    """Return how far chains are from having mixed; values above 1.01 are a warning.

    Parameters
    ----------
    x : array_like, shape (chains, draws)
        Draws of one quantity.

    Returns
    -------
    float
        The larger of split R-hat of the ranks and of the folded ranks; infinite if each half chain
        is stuck at a different value, NaN if all draws are equal.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws or x is not finite.

    References
    ----------
    .. [1] "Rank-Normalization, Folding, and Localization" (2021), arXiv 1903.08008, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((4, 1000))
    >>> rhat(x) < 1.01, rhat(x + [[0], [0], [0], [3]]) > 1.2
    (True, True)
    """
    halves = _split(_check_draws("x", x))
    if np.ptp(halves) == 0.0:
        return float("nan")
    folded = np.abs(halves - np.median(halves))
    return max(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))


def mcse(x: ArrayLike) -> float:
    """Return the Monte Carlo standard error of the mean of correlated draws.

    Parameters
    ----------
    x : array_like, shape (chains, draws)
        Draws of one quantity.

    Returns
    -------
    float
        ``sd(x) / sqrt(ess(x, "mean"))``.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws or x is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((4, 2500))
    >>> bool(0.009 < mcse(x) < 0.011)
    True
    """
    draws = _check_draws("x", x)
    return float(draws.std(ddof=1) / np.sqrt(ess(draws, "mean")))


def autocorrelation(x: ArrayLike) -> Floats:
    """Return the autocorrelation of draws at every lag.

    Parameters
    ----------
    x : array_like, shape (..., draws)
        One chain or several.

    Returns
    -------
    ndarray, the shape of x
        Correlation of draws that far apart, 1 at lag 0.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws, or the draws of a chain are all equal.

    Examples
    --------
    >>> autocorrelation([1.0, -1.0, 1.0, -1.0])
    array([ 1.  , -0.75,  0.5 , -0.25])
    """
    draws = check_array("x", x)
    if draws.ndim < 1 or draws.shape[-1] < FEWEST_DRAWS:
        raise ValueError(f"x must hold at least {FEWEST_DRAWS} draws, got shape {draws.shape}")
    covariance = _autocovariance(draws)
    if (np.ptp(draws, axis=-1) == 0).any():
        raise ValueError("x must vary in every chain, got draws that are all equal")
    return covariance / covariance[..., :1]


def ebfmi(energy: ArrayLike) -> Floats:
    """Return the energy Bayesian fraction of missing information of each chain.

    Momenta that are drawn anew change the energy by ``E_n - E_{n-1}``; where those changes are
    small against the spread of the energy, chains cross the target's levels slowly.

    Parameters
    ----------
    energy : array_like, shape (chains, draws)
        Energy at each draw.

    Returns
    -------
    ndarray, shape (chains,)
        ``sum (E_n - E_{n-1})^2 / sum (E_n - mean E)^2``; below 0.3 is a warning.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws, energy is not finite, or it does not vary.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       section 6.1.

    Examples
    --------
    >>> ebfmi([[1.0, 2.0, 1.0, 2.0]])
    array([3.])
    """
    energy = _check_draws("energy", energy)
    spread = ((energy - energy.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    if (np.ptp(energy, axis=1) == 0).any():
        raise ValueError("energy must vary in every chain, got energies that are all equal")
    return (np.diff(energy, axis=1) ** 2).sum(axis=1) / spread


def _check_draws(name: str, x: ArrayLike) -> Floats:
    draws = check_array(name, x, ndim=2)
    if draws.shape[0] < 1 or draws.shape[1] < FEWEST_DRAWS:
        raise ValueError(
            f"{name} must be (chains, draws) with at least {FEWEST_DRAWS} draws, "
            f"got shape {draws.shape}"
        )
    return draws


def _split(draws: Floats) -> Floats:
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(draws: Floats) -> Floats:
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    return ndtri((ranks - 0.375) / (draws.size + 0.25))


def _rhat(draws: Floats) -> float:
    n = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean()
    between = draws.mean(axis=1).var(ddof=1)
    if within == 0.0:
        return float("inf")
    return float(np.sqrt((n - 1) / n + between / within))


def _ess(draws: Floats) -> float:
    chains, n = draws.shape
    if np.ptp(draws) == 0.0:
        return float(draws.size)
    covariance = _autocovariance(draws).mean(axis=0)
    within = covariance[0] * n / (n - 1)
    total = covariance[0]
    if chains > 1:
        total = total + draws.mean(axis=1).var(ddof=1)
    correlation = 1.0 - (within - covariance) / total
    correlation[0] = 1.0
    pairs = correlation[: n - n % 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs[:-1] <= 0.0)
    count = int(ends[0]) if ends.size else len(pairs) - 1
    monotone = np.minimum.accumulate(pairs[:count])
    time = -1.0 + 2.0 * monotone.sum() + max(correlation[2 * count], 0.0)
    return float(draws.size / max(time, 1.0 / np.log10(draws.size)))


def _autocovariance(draws: Floats) -> Floats:
    n = draws.shape[-1]
    centred = draws - draws.mean(axis=-1, keepdims=True)
    length = next_fast_len(2 * n, real=True)
    power = np.abs(rfft(centred, length)) ** 2
    return irfft(power, length)[..., :n] / n
