"""The outer steps of the proxy methods: the rule of a step, what is kept of it, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._oracle import BreakdownError, Oracle, State, largest
from thalweg.descent._proxy_inner import (
    ROUNDING,
    Inner,
    Proxy,
    Subproblem,
    check_solver,
    proximal_point,
)

Floats = NDArray[np.float64]

PROBE = 1e-4
"""Length, relative to the point's, of the move that makes a first estimate of delta."""
EASED, DOUBLINGS = 0.9, 100
"""After a step delta is multiplied by the one; it is doubled at most as often as the other."""


class Target(Oracle):
    """The expensive function, whose gradient the caller knows as `gradient`."""

    def read(self, name: str, value: Any) -> Floats:
        return super().read("gradient" if name == "jac" else name, value)


def unknown(x: Floats) -> float:
    raise AssertionError("the objective is not known")


class Rule:
    """How a step is taken, checked; with an estimated delta, how it changes."""

    def __init__(
        self,
        eta: Any,
        delta: Any,
        theta: Any,
        tol: Any,
        solver: Any,
        maxiter: Any,
        proxy: Proxy,
        rng: np.random.Generator,
    ) -> None:
        if eta is None and delta is None:
            raise ValueError("eta or delta must be given, got None for both")
        self.adaptive = isinstance(delta, str)
        if self.adaptive:
            check_option("delta", delta, ["estimate"])
        self.eta = None if eta is None else check_real("eta", eta, above=0)
        self.delta = None
        if delta is not None and not self.adaptive:
            self.delta = check_real("delta", delta, above=0)
            if self.eta is None:
                self.eta = 1 / (2 * self.delta)
        elif self.eta is not None:
            self.delta = 1 / (2 * self.eta)
        self.theta = check_real("theta", theta, at_least=0, below=1)
        self.tol = check_real("tol", tol, at_least=0)
        self.maxiter = check_count("inner_maxiter", maxiter)
        check_solver(solver, proxy)
        self.solver, self.proxy, self.rng = solver, proxy, rng

    def probe(self, x: Floats, g: Floats, gradient: Callable[[Floats], Floats]) -> None:
        """Make a first estimate of delta by a difference of gradients along g."""
        size = float(np.linalg.norm(g))
        if self.delta is None and size > 0:
            length = PROBE * max(1.0, float(np.linalg.norm(x)))
            ahead = x - (length / size) * g
            change = self._difference(ahead, gradient(ahead)) - self._difference(x, g)
            self.set(max(float(np.linalg.norm(change)) / length, np.finfo(float).tiny ** 0.5))
        elif self.delta is None:
            self.set(1.0)

    def set(self, delta: float) -> None:
        """Take another delta and its step."""
        self.delta, self.eta = delta, 1 / (2 * delta)

    def move(self, x: Floats, g: Floats) -> Inner:
        """Return the step from x."""
        assert self.eta is not None
        sub = Subproblem(self.proxy, x.ravel(), g.ravel(), self.eta, self.theta, self.tol)
        return proximal_point(sub, self.solver, self.maxiter, self.rng)

    def accepts(self, x: Floats, g: Floats, inner: Inner, following: Floats) -> bool:
        """Whether the next gradient agrees with delta."""
        assert self.delta is not None
        d = inner.y - x.ravel()
        slope = self.proxy.both(x.ravel())[1]
        change = (following.ravel() - inner.slope) - (g.ravel() - slope)
        sizes = sum(float(np.linalg.norm(v)) for v in (following, g, inner.slope, slope))
        slack = ROUNDING * sizes * inner.moved
        return abs(float(change @ d)) <= self.delta * inner.moved**2 + slack

    def _difference(self, x: Floats, g: Floats) -> Floats:
        return g.ravel() - self.proxy.both(x.ravel())[1]


@dataclass
class Log:
    """What is kept of the steps, and which point is returned."""

    output: str
    record: bool
    rng: np.random.Generator
    x0: Floats
    points: list[Floats] = field(default_factory=list)
    rows: list[tuple[float, ...]] = field(default_factory=list)
    taken: int = 0
    inexact: int = 0
    certificate: float = np.inf

    def __post_init__(self) -> None:
        self.chosen = self.x0
        self.points.append(self.x0)

    def add(self, x: Floats, inner: Inner, rule: Rule) -> None:
        """Note a step."""
        assert rule.eta is not None
        assert rule.delta is not None
        self.taken += 1
        self.inexact += not inner.met
        certificate = inner.residual + (1 / rule.eta + rule.delta) * inner.moved
        if (
            self.output == "last"
            or (self.output == "best" and certificate < self.certificate)
            or (self.output == "random" and self.rng.random() * self.taken < 1)
        ):
            self.chosen, self.certificate = x, certificate
        if self.record:
            self.points.append(x)
            self.rows.append((inner.residual, rule.proxy.work, certificate, rule.eta, rule.delta))

    def write(
        self,
        result: OptimizeResult,
        oracle: Oracle,
        proxy: Proxy,
        rule: Rule,
        value: Callable[[Floats], float] | None,
    ) -> None:
        """Put the fields into the result."""
        result.update(
            n_target=oracle.njev,
            n_proxy=proxy.work,
            n_inexact=self.inexact,
            certificate=self.certificate,
            eta=rule.eta,
            delta=rule.delta,
        )
        history = result.get("history", {})
        if value is None:
            history = {}
        if self.record:
            # A step after which the run broke down was noted but is not part of it.
            names = ("inner_residual", "n_proxy", "certificate", "eta", "delta")
            columns = np.array(self.rows[: result.nit]).reshape(-1, len(names)).T
            history |= dict(zip(names, columns, strict=True))
            history["n_proxy"] = np.diff(history["n_proxy"], prepend=0.0).astype(int)
            history["x"] = np.array(self.points[: result.nit + 1])
        result.history = history


def proxy_states(
    oracle: Oracle,
    gradient: Callable[[Floats], Floats],
    rule: Rule,
    log: Log,
    *,
    ahead: bool,
    valued: bool = True,
    gtol: float | None = None,
) -> Iterator[State]:
    """Take steps; with `ahead` the gradient is known at each point that is yielded."""
    fun = None if valued else np.nan
    x = oracle.x0
    g = gradient(x) if ahead else None
    yield _state(x, fun, g)
    if rule.adaptive:
        assert g is not None
        rule.probe(x, g, gradient)
    while True:
        g = gradient(x) if g is None else g
        inner = rule.move(x, g)
        following = None
        if ahead:
            following = gradient(inner.y.reshape(x.shape)) if inner.moved > 0 else g
            if rule.adaptive:
                inner, following = _accepted(rule, x, g, inner, following, gradient)
        y = inner.y.reshape(x.shape)
        log.add(y, inner, rule)
        if gtol is not None and inner.moved == 0:
            raise BreakdownError(
                f"the inner solver can improve no more; the largest entry of the gradient is "
                f"{largest(g):.3g}"
            )
        x, g = y, following
        yield _state(x, fun, g)
        if rule.adaptive:
            assert rule.delta is not None
            rule.set(EASED * rule.delta)


def _accepted(
    rule: Rule,
    x: Floats,
    g: Floats,
    inner: Inner,
    following: Floats,
    gradient: Callable[[Floats], Floats],
) -> tuple[Inner, Floats]:
    """Return a step that agrees with delta, and the gradient after it; delta grows until then."""
    for _ in range(DOUBLINGS):
        if rule.accepts(x, g, inner, following):
            return inner, following
        assert rule.delta is not None
        rule.set(2 * rule.delta)
        inner = rule.move(x, g)
        following = gradient(inner.y.reshape(x.shape))
    raise BreakdownError("no delta fits; the gradients seem to be noisy or wrong")


def _state(x: Floats, fun: float | None, g: Floats | None) -> State:
    return State(x, fun=fun, jac=g, residual=None if g is None else largest(g))
