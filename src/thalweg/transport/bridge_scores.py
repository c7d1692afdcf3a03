"""How well a bridge between token sequences is learned: scores of samples and of chains.

`shape_score` and `trend_score` compare two tables of tokens by the laws of one and of two columns,
`conditional_scores` does so for draws given the same source, and `trajectory_kl` compares the
transition probabilities of two chains. For the first two 1 is best; two samples of the same law
stay below 1, since each has noise, so set them beside the score of a second true sample.

Source: "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count
from thalweg.transport.categorical import CategoricalReference, check_tokens
from thalweg.transport.metrics import classifier_two_sample

Floats: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = NDArray[np.int64]

CLASSIFIER_WIDTH, CLASSIFIER_EPOCHS = 64, 30
"""Hidden units and passes over the data of the two-sample classifier; the passes chosen here."""
TINY = float(np.finfo(np.float64).tiny)


class Chain(Protocol):
    """A Markov chain on token sequences with known transition probabilities."""

    reference: CategoricalReference

    def sample_path(self, X: ArrayLike, *, rng: Any = None) -> Tokens:
        """Return the chain (N+2, n, D) from the rows of `X`."""

    def transition_probs(self, x: ArrayLike, n: int) -> Floats:
        """Return the law (n, D, S) of the next token at each place."""


def shape_score(A: ArrayLike, B: ArrayLike, S: int) -> float:
    """Return one less the total variation between the laws of a column, averaged over columns.

    Parameters
    ----------
    A, B : array_like of int (n, D), (m, D)
        Tokens in 0..S-1.
    S : int
        Categories.

    Returns
    -------
    float
        In [0, 1]; 1 where all columns have the same frequencies, 0 where they share no token.

    Raises
    ------
    ValueError
        If an array does not hold such tokens, is empty, or the widths differ.

    References
    ----------
    "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348.

    Examples
    --------
    >>> shape_score([[0, 1], [0, 1]], [[0, 1], [0, 0]], 2)
    0.75
    """
    tokens, weights, S = _signed(A, B, S)
    columns = range(tokens.shape[1])
    return float(np.mean([_agreement(tokens[:, d], weights, S) for d in columns]))


def trend_score(A: ArrayLike, B: ArrayLike, S: int) -> float:
    """Return one less the total variation between the laws of two columns, averaged over pairs.

    All D^2 ordered pairs count, a column with itself too, as published.

    Parameters
    ----------
    A, B : array_like of int (n, D), (m, D)
        Tokens in 0..S-1.
    S : int
        Categories.

    Returns
    -------
    float
        In [0, 1], at most the `shape_score`.

    Raises
    ------
    ValueError
        If an array does not hold such tokens, is empty, or the widths differ.

    References
    ----------
    "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348.

    Examples
    --------
    >>> trend_score([[0, 0], [1, 1]], [[0, 1], [1, 0]], 2)
    0.5
    """
    tokens, weights, S = _signed(A, B, S)
    D = tokens.shape[1]
    total = 0.0
    for i in range(D):
        total += _agreement(tokens[:, i], weights, S)
        for j in range(i):
            total += 2 * _agreement(S * tokens[:, i] + tokens[:, j], weights, S * S)
    return total / D**2


def conditional_scores(true: ArrayLike, model: ArrayLike, S: int) -> tuple[float, float]:
    """Return shape and trend score of draws given the same source, averaged over the sources.

    Parameters
    ----------
    true, model : array_like of int (n, draws, D)
        Draws of the target given each of n sources.
    S : int
        Categories.

    Examples
    --------
    >>> conditional_scores([[[0], [1]], [[2], [2]]], [[[1], [0]], [[2], [0]]], 3)
    (0.75, 0.75)
    """
    truths = check_array("true", true, ndim=3, dtype=None)
    models = check_array("model", model, ndim=3, dtype=None)
    if len(truths) != len(models) or not len(truths):
        raise ValueError(
            f"model must have draws for {len(truths)} sources like true, at least one, got "
            f"{len(models)}"
        )
    pairs = list(zip(truths, models, strict=True))
    shape = np.mean([shape_score(a, b, S) for a, b in pairs])
    trend = np.mean([trend_score(a, b, S) for a, b in pairs])
    return float(shape), float(trend)


def two_sample_score(A: ArrayLike, B: ArrayLike, S: int, *, rng: Any = None) -> float:
    """Return ``1 - 2 |AUC - 1/2|`` of a small network that tells two tables of tokens apart.

    The network has 64 hidden units on one-hot tokens, is trained on one half and judged on the
    other, both ways round.

    Parameters
    ----------
    A, B : array_like of int (n, D), (m, D)
        Tokens in 0..S-1.
    S : int
        Categories.
    rng : None, int or Generator
        Source of the halves and the initial weights.

    Returns
    -------
    float
        1 where it cannot tell, 0 where it always can.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    A, B = check_tokens("A", A, S), check_tokens("B", B, S)
    rng = np.random.default_rng(rng)
    model = make_pipeline(
        OneHotEncoder(categories=[np.arange(S)] * A.shape[1]),
        MLPClassifier(
            (CLASSIFIER_WIDTH,),
            max_iter=CLASSIFIER_EPOCHS,
            random_state=int(rng.integers(2**31)),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        auc = classifier_two_sample(A, B, model=model, cv=2, rng=rng)
    return 1 - 2 * abs(auc - 0.5)


def trajectory_kl(
    benchmark: Chain, model: Chain, X: ArrayLike, *, reverse: bool = False, rng: Any = None
) -> float:
    """Return the divergence between the steps of the true chain and of a model's.

    At each state of a path the laws of the next token, one place at a time, are compared; the
    divergences are summed over places and times, and averaged over the paths. Where the tokens move
    independently given the state, this is the divergence between the laws of the paths.

    Parameters
    ----------
    benchmark : CategoricalBenchmark
        The truth: `sample_path`, `transition_probs` and `reference`.
    model : object
        With `transition_probs`, and `sample_path` for `reverse`.
    X : array_like of int (n, D)
        Where the paths start.
    reverse : bool, default False
        False is KL(true || model) on paths of the truth, True KL(model || true) on paths of the
        model.
    rng : None, int or Generator
        Source of the paths.

    Returns
    -------
    float
        In nats; inf where the one that the path is of makes steps that the other does not.

    References
    ----------
    "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348.

    Examples
    --------
    >>> from thalweg.transport import CategoricalBenchmark
    >>> truth = CategoricalBenchmark(2, 10, alpha=0.1, n_inner=3, total_steps=16, rng=0)
    >>> trajectory_kl(truth, truth, truth.sample_source(20, rng=1), rng=2)
    0.0
    """
    first, second = (model, benchmark) if reverse else (benchmark, model)
    path = first.sample_path(X, rng=int(np.random.default_rng(rng).integers(2**31)))
    total = 0.0
    for n, states in enumerate(path[:-1]):
        p, q = (np.asarray(c.transition_probs(states, n), dtype=float) for c in (first, second))
        missing = (p > TINY) & (q <= 0)
        if missing.any():
            return float("inf")
        shared = p > TINY
        logs = np.log(p, out=np.zeros_like(p), where=shared)
        logs -= np.log(q, out=np.zeros_like(q), where=shared)
        total += float((p * logs).sum())
    return total / path.shape[1]


def _signed(A: ArrayLike, B: ArrayLike, S: int) -> tuple[Tokens, Floats, int]:
    """Return the rows of both and weights whose sums are differences of frequencies."""
    S = check_count("S", S)
    a, b = check_tokens("A", A, S), check_tokens("B", B, S)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"B must have {a.shape[1]} columns like A, got shape {b.shape}")
    for name, tokens in (("A", a), ("B", b)):
        if not len(tokens):
            raise ValueError(f"{name} must hold at least one sequence, got {tokens.shape}")
    weights = np.repeat([1 / len(a), -1 / len(b)], [len(a), len(b)])
    return np.concatenate([a, b]), weights, S


def _agreement(codes: Tokens, weights: Floats, n_codes: int) -> float:
    """Return one less the total variation of two laws, whose difference the weights sum to."""
    return 1 - float(np.abs(np.bincount(codes, weights, minlength=n_codes)).sum()) / 2
