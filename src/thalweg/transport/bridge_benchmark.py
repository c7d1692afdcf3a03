"""Pairs of laws on token sequences whose Schrödinger bridge is known, to measure a solver against.

`CategoricalBenchmark` picks a source law and a potential, and lets the target law be what the
potential makes of the source. Whatever the source, the plan is then the Schrödinger bridge of the
two, and with a potential that is a sum of products it can be drawn from exactly, also in many
dimensions: what a solver returns is compared with the truth.

Source: "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from thalweg._validation import check_count, check_option, check_real
from thalweg.transport._cp_potential import CPPotential, Floats, Tokens, generator, normal_cores
from thalweg.transport.bridge_scores import (
    conditional_scores,
    shape_score,
    trajectory_kl,
    trend_score,
    two_sample_score,
)
from thalweg.transport.categorical import CategoricalReference, check_tokens
from thalweg.transport.categorical_kernels import gaussian_kernel, uniform_kernel

KERNELS = {"gaussian": gaussian_kernel, "uniform": uniform_kernel}
STD, STD_CATEGORIES = 2.0, 50
"""Standard deviation of a component, in categories, and the S at which it is that."""
SEPARATION, TRIES = 2.5, 100
MEAN_RANGE, SOURCE_RANGE, UNIFORM_RANGE = 5.0, 7.0, 3.0
"""Half widths: of what the means' coordinates are quantised from, likewise the source's, and of
the uniform source."""
METRICS = (
    "shape",
    "trend",
    "conditional_shape",
    "conditional_trend",
    "c2st",
    "trajectory_kl",
    "reverse_trajectory_kl",
    "kl_gap",
)


class CategoricalBenchmark:
    """A pair of laws on token sequences with a known Schrödinger bridge.

    The defaults are a published setting; others are `dim` 16 and 64, `alpha` 0.05, the uniform
    kernel with `alpha` 0.005 and 0.01, and ``n_inner=63``.

    Parameters
    ----------
    dim : int, default 2
        Tokens D of a sequence.
    n_categories : int, default 50
        Categories S, at least 2.
    kernel : {"gaussian", "uniform"}, default "gaussian"
        Kernel of the reference process.
    alpha : float, default 0.02
        Its strength, for one of `total_steps`.
    n_inner : int, default 15
        Inner times N; a step between times is ``total_steps / (N + 1)`` steps of the kernel.
    total_steps : int, default 128
        Steps of the kernel from end to end, a multiple of N + 1.
    n_components : int, default 5
        Products K of the potential, of equal weight.
    potential : {"gaussian", "uniform"}, default "gaussian"
        Products of normal densities with means on a sphere, or ``log r ~ U[0, 1]``.
    source : {"gaussian", "uniform"} or array_like of int (m, D), default "gaussian"
        N(0, 1) or U[-3, 3] in each coordinate, quantised evenly from [-7, 7]; or rows to draw from.
    radius : float, default 5.0
        Radius of the sphere, whose coordinates are quantised evenly from [-5, 5]. A mean nearer
        than 2.5 `std` (at S = 50) to an earlier one is drawn again, up to 100 times.
    std : float, optional
        Standard deviation of the normal densities, in categories; 2 S / 50 if None.
    reverse : bool, default False
        Swap the ends. The bridge is the same, but its laws given an end are then not in closed
        form: `sample_plan`, `sample_path`, `transition_probs`, `log_potential` and
        `log_normalizer` raise NotImplementedError, and `evaluate` has shape, trend and C2ST only.
    rng : None, int or Generator, default None
        Source of the potential; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    reference : CategoricalReference
        The process.
    log_weights : array (K,)
        log beta.
    log_cores : array (K, D, S)
        log r.

    Raises
    ------
    ValueError
        If an argument is not as stated.

    References
    ----------
    "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348.

    Examples
    --------
    >>> benchmark = CategoricalBenchmark(2, 20, alpha=0.08, n_inner=3, total_steps=16, rng=0)
    >>> X, Y = benchmark.sample_source(500, rng=1), benchmark.sample_target(500, rng=2)
    >>> scores = benchmark.evaluate(benchmark, n=500, n_conditional=20, metrics=["shape", "kl_gap"])
    >>> bool(scores["shape"] > 0.8), scores["kl_gap"]
    (True, 0.0)
    """

    def __init__(
        self,
        dim: int = 2,
        n_categories: int = 50,
        *,
        kernel: str = "gaussian",
        alpha: float = 0.02,
        n_inner: int = 15,
        total_steps: int = 128,
        n_components: int = 5,
        potential: str = "gaussian",
        source: str | ArrayLike = "gaussian",
        radius: float = 5.0,
        std: float | None = None,
        reverse: bool = False,
        rng: Any = None,
    ) -> None:
        self.dim = check_count("dim", dim)
        self.n_categories = check_count("n_categories", n_categories, at_least=2)
        check_option("kernel", kernel, KERNELS)
        n_inner = check_count("n_inner", n_inner)
        total_steps = check_count("total_steps", total_steps)
        if total_steps % (n_inner + 1):
            raise ValueError(
                f"total_steps must be a multiple of n_inner + 1 = {n_inner + 1}, got {total_steps}"
            )
        K = check_count("n_components", n_components)
        check_option("potential", potential, ["gaussian", "uniform"])
        radius = check_real("radius", radius, above=0)
        if std is None:
            std = STD * self.n_categories / STD_CATEGORIES
        std = check_real("std", std, above=0)
        if not isinstance(reverse, (bool, np.bool_)):
            raise TypeError(f"reverse must be True or False, got {reverse!r}")
        self.reverse, self._source = bool(reverse), self._check_source(source)
        self._rng = np.random.default_rng(rng)
        skip = total_steps // (n_inner + 1)
        self.reference = CategoricalReference(
            KERNELS[kernel](self.n_categories, alpha, skip), n_inner
        )
        self.log_weights = np.full(K, -np.log(K))
        if potential == "uniform":
            self.log_cores = self._rng.random((K, self.dim, self.n_categories))
        else:
            means = self._means(K, radius, std).astype(float)
            self.log_cores = normal_cores(means, std, self.n_categories)
        self._potential = CPPotential(self.reference, self.log_weights, self.log_cores)

    def sample_source(self, n: int, rng: Any = None) -> Tokens:
        """Draw n sequences of the source law, shape (n, D)."""
        n, rng = check_count("n", n), generator(rng, self._rng)
        return self._push(self._draw(n, rng), rng) if self.reverse else self._draw(n, rng)

    def sample_target(self, n: int, rng: Any = None) -> Tokens:
        """Draw n sequences of the target law, shape (n, D)."""
        n, rng = check_count("n", n), generator(rng, self._rng)
        return self._draw(n, rng) if self.reverse else self._push(self._draw(n, rng), rng)

    def sample_pairs(self, n: int, rng: Any = None) -> tuple[Tokens, Tokens]:
        """Draw n pairs of source and target of the bridge, each of shape (n, D)."""
        n, rng = check_count("n", n), generator(rng, self._rng)
        start = self._draw(n, rng)
        pair = start, self._push(start, rng)
        return pair[::-1] if self.reverse else pair

    def sample_plan(self, X: ArrayLike, rng: Any = None) -> Tokens:
        """Draw one target given each row of `X`, shape (n, D)."""
        return self._push(self._tokens("X", X), generator(rng, self._rng))

    def transform(self, X: ArrayLike, rng: Any = None) -> Tokens:
        """Draw one target given each row of `X`: `sample_plan`, so that the truth is a model."""
        return self.sample_plan(X, rng)

    def sample_path(self, X: ArrayLike, rng: Any = None) -> Tokens:
        """Draw the bridge from the rows of `X` at times 0, 1, ..., N+1, shape (N+2, n, D)."""
        x, times = self._tokens("X", X), list(range(1, self._potential.n_steps + 1))
        return np.stack([x, *self._potential.sample(x, 0, times, generator(rng, self._rng))])

    def transition_probs(self, x: ArrayLike, n: int) -> Floats:
        """Return the law of the next token at each place (batch, D, S), at time n in 0..N."""
        tokens = self._tokens("x", x)
        n = check_count("n", n, at_least=0, at_most=self._potential.n_steps - 1)
        return self._potential.token_probs(tokens, n, n + 1)

    def end_probs(self, X: ArrayLike) -> Floats:
        """Return the law of the target's token at each place given each row of `X`, (n, D, S)."""
        return self._potential.token_probs(self._tokens("X", X), 0, self._potential.n_steps)

    def log_potential(self, Y: ArrayLike) -> Floats:
        """Return log v(y) of each row."""
        return self._potential.log_value(self._tokens("Y", Y), self._potential.n_steps)

    def log_normalizer(self, X: ArrayLike) -> Floats:
        """Return log c(x) of each row."""
        return self._potential.log_value(self._tokens("X", X), 0)

    def loss(self, X: ArrayLike, Y: ArrayLike) -> float:
        """Return ``mean log c(X) - mean log v(Y)``."""
        return float(self.log_normalizer(X).mean() - self.log_potential(Y).mean())

    def source_probs(self) -> Floats:
        """Return the law (S,) of each coordinate of the forward source, which are independent.

        Raises
        ------
        NotImplementedError
            If the source is an array.
        """
        if not isinstance(self._source, str):
            raise NotImplementedError("a source given as rows has dependent coordinates")
        edges = np.linspace(-SOURCE_RANGE, SOURCE_RANGE, self.n_categories + 1)
        if self._source == "gaussian":
            below = ndtr(edges)
        else:
            below = np.clip((edges + UNIFORM_RANGE) / (2 * UNIFORM_RANGE), 0, 1)
        below[0], below[-1] = 0.0, 1.0
        return np.diff(below)

    def evaluate(
        self,
        model: Any,
        *,
        n: int = 4096,
        n_conditional: int = 100,
        draws: int = 100,
        metrics: Iterable[str] | None = None,
        executor: Executor | None = None,
        rng: Any = None,
    ) -> dict[str, float]:
        """Measure a model that takes the source to the target.

        Parameters
        ----------
        model : object
            With ``transform(X, rng=int)``; `sample_path` and `transition_probs` add the trajectory
            divergences, `log_potential` and `log_normalizer` the gap of the loss.
        n : int, default 4096
            Sequences for the unconditional scores, the classifier and the gap; the trajectory
            divergences use the first `n_conditional`.
        n_conditional, draws : int, default 100
            Sources that targets are drawn for again and again, and draws for each.
        metrics : iterable of str, optional
            Which of those below; all if None.
        executor : concurrent.futures.Executor, optional
            Where the scores of the drawn tables are computed; here if None.
        rng : None, int or Generator
            Source of the draws.

        Returns
        -------
        dict
            ``shape``, ``trend``, ``conditional_shape``, ``conditional_trend``, ``c2st``,
            ``trajectory_kl``, ``reverse_trajectory_kl`` (nats) and ``kl_gap`` (nats, the divergence
            from the true plan). What the model, or a benchmark with its ends swapped, cannot give
            is absent.

        Raises
        ------
        ValueError
            If a size or a metric is not as stated, or the model returns no such tokens.
        """
        wanted = METRICS if metrics is None else tuple(metrics)
        for name in wanted:
            check_option("metrics", name, METRICS)
        n, draws = check_count("n", n, at_least=2), check_count("draws", draws)
        n_conditional = check_count("n_conditional", n_conditional)
        rng = generator(rng, self._rng)
        S = self.n_categories
        x, y = self.sample_pairs(n, rng)
        work: list[tuple[tuple[str, ...], Callable[..., Any], tuple[Any, ...]]] = []
        tables = {"shape": shape_score, "trend": trend_score, "c2st": two_sample_score}
        if any(name in wanted for name in tables):
            made = self._made(model, self.sample_source(n, rng), rng)
            for name, score in tables.items():
                if name in wanted:
                    work.append(((name,), score, (y, made, S)))
        conditional = ("conditional_shape", "conditional_trend")
        if not self.reverse and any(name in wanted for name in conditional):
            starts = np.repeat(self.sample_source(n_conditional, rng), draws, axis=0)
            shape = (n_conditional, draws, self.dim)
            true = self.sample_plan(starts, rng).reshape(shape)
            made = self._made(model, starts, rng).reshape(shape)
            work.append((conditional, conditional_scores, (true, made, S)))
        scores: dict[str, float] = {}
        if not self.reverse:
            scores = self._exact_scores(model, wanted, x, y, n_conditional, rng)
        for (names, _, _), result in zip(work, _done(work, executor, rng), strict=True):
            scores.update(zip(names, np.atleast_1d(result).tolist(), strict=True))
        return {name: scores[name] for name in METRICS if name in wanted and name in scores}

    def _exact_scores(
        self,
        model: Any,
        wanted: tuple[str, ...],
        x: Tokens,
        y: Tokens,
        n_paths: int,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        scores = {}
        if hasattr(model, "transition_probs"):
            for name, reverse in (("trajectory_kl", False), ("reverse_trajectory_kl", True)):
                if name in wanted and (not reverse or hasattr(model, "sample_path")):
                    scores[name] = trajectory_kl(self, model, x[:n_paths], reverse=reverse, rng=rng)
        if "kl_gap" in wanted and hasattr(model, "log_potential"):
            theirs = model.log_normalizer(x).mean() - model.log_potential(y).mean()
            scores["kl_gap"] = float(theirs) - self.loss(x, y)
        return scores

    def _made(self, model: Any, x: Tokens, rng: np.random.Generator) -> Tokens:
        made = model.transform(x, rng=int(rng.integers(2**31)))
        tokens = check_tokens("model.transform(X)", made, self.n_categories, n_tokens=self.dim)
        if len(tokens) != len(x):
            raise ValueError(f"model.transform(X) must have {len(x)} rows, got {len(tokens)}")
        return tokens

    def _draw(self, n: int, rng: np.random.Generator) -> Tokens:
        """Draw from the law that the potential is applied to."""
        if not isinstance(self._source, str):
            return self._source[rng.integers(len(self._source), size=n)]
        if self._source == "gaussian":
            z = rng.standard_normal((n, self.dim))
        else:
            z = rng.uniform(-UNIFORM_RANGE, UNIFORM_RANGE, (n, self.dim))
        return _quantised(z, SOURCE_RANGE, self.n_categories)

    def _push(self, x: Tokens, rng: np.random.Generator) -> Tokens:
        return self._potential.sample(x, 0, [self._potential.n_steps], rng)[0]

    def _means(self, K: int, radius: float, std: float) -> Tokens:
        least = SEPARATION * std * STD_CATEGORIES / self.n_categories
        means = np.empty((K, self.dim))
        for k in range(K):
            for _ in range(TRIES):
                direction = self._rng.standard_normal(self.dim)
                means[k] = radius * direction / np.linalg.norm(direction)
                if (np.linalg.norm(means[:k] - means[k], axis=1) >= least).all():
                    break
        return _quantised(means, MEAN_RANGE, self.n_categories)

    def _check_source(self, source: str | ArrayLike) -> str | Tokens:
        if isinstance(source, str):
            return str(check_option("source", source, ["gaussian", "uniform"]))
        rows = check_tokens("source", source, self.n_categories, n_tokens=self.dim)
        if not len(rows):
            raise ValueError(f"source must hold at least one sequence, got {rows.shape}")
        return rows

    def _tokens(self, name: str, value: ArrayLike) -> Tokens:
        if self.reverse:
            raise NotImplementedError(
                "with reverse=True the laws given an end are not in closed form; use sample_pairs"
            )
        return check_tokens(name, value, self.n_categories, n_tokens=self.dim)


def _quantised(z: Floats, half_width: float, n_categories: int) -> Tokens:
    levels = np.floor((z + half_width) / (2 * half_width) * n_categories)
    return np.clip(levels, 0, n_categories - 1).astype(np.int64)


def _done(
    work: list[tuple[tuple[str, ...], Callable[..., Any], tuple[Any, ...]]],
    executor: Executor | None,
    rng: np.random.Generator,
) -> list[Any]:
    options = [
        {"rng": int(rng.integers(2**31))} if score is two_sample_score else {}
        for _, score, _ in work
    ]
    jobs = zip(work, options, strict=True)
    if executor is None:
        return [score(*arguments, **extra) for (_, score, arguments), extra in jobs]
    futures = [executor.submit(score, *arguments, **extra) for (_, score, arguments), extra in jobs]
    return [future.result() for future in futures]
