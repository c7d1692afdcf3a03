"""Claims of a paper and how a measured figure is judged against them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Preset = Literal["quick", "full", "large"]
PRESETS: tuple[Preset, ...] = ("quick", "full", "large")
Verdict = Literal["holds", "fails", "reported", "skipped"]


@dataclass(frozen=True)
class Comparison:
    """An interval that a figure must lie in; without bounds it is reported, not judged.

    Use `at_least`, `at_most`, `between`, `equals` and `reported` to make one.
    """

    lower: float = -math.inf
    upper: float = math.inf
    judged: bool = True

    def holds(self, value: Any) -> bool:
        """Whether every entry of `value` is a number inside the interval."""
        values = np.asarray(value, dtype=float)
        return bool(values.size and np.all((values >= self.lower) & (values <= self.upper)))

    def __str__(self) -> str:
        if not self.judged:
            return "reported"
        if self.lower == self.upper:
            return f"= {self.lower:.6g}"
        if self.upper == math.inf:
            return f">= {self.lower:.6g}"
        if self.lower == -math.inf:
            return f"<= {self.upper:.6g}"
        return f"{self.lower:.6g} to {self.upper:.6g}"


def at_least(bound: float) -> Comparison:
    """Holds when the figure is at least `bound`.

    Examples
    --------
    >>> str(at_least(100)), at_least(100).holds(187.0)
    ('>= 100', True)
    """
    return Comparison(lower=_bound("bound", bound))


def at_most(bound: float) -> Comparison:
    """Holds when the figure is at most `bound`."""
    return Comparison(upper=_bound("bound", bound))


def between(lower: float, upper: float) -> Comparison:
    """Holds when the figure lies in the closed interval."""
    lower, upper = _bound("lower", lower), _bound("upper", upper)
    if lower > upper:
        raise ValueError(f"lower must be <= upper, got {lower} and {upper}")
    return Comparison(lower, upper)


def equals(value: float) -> Comparison:
    """Holds when the figure is exactly `value`: for counts and yes-or-no findings (1 or 0)."""
    return Comparison(_bound("value", value), _bound("value", value))


def reported() -> Comparison:
    """Shows the figure without a verdict."""
    return Comparison(judged=False)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper beside the figure that tests it.

    Parameters
    ----------
    statement : str
        What the paper says, in a reader's words.
    measured : str
        What is measured here.
    key : str
        Name of the figure in the results of the study's `run`: a number or a sequence of them.
    comparison : Comparison
        When it holds.
    preset : {"quick", "full", "large"}, default "quick"
        The smallest preset at which the claim is judged.
    unit : str, default ""
        Unit of the figure.
    data : str or sequence of str, default ()
        Data sets the figure needs; where one is absent, so may be the figure, and the claim is
        skipped.
    """

    statement: str
    measured: str
    key: str
    comparison: Comparison
    preset: Preset = "quick"
    unit: str = ""
    data: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {PRESETS}, got {self.preset!r}")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets the figure needs."""
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)

    def judge(
        self, results: Mapping[str, Any], preset: Preset, missing: Iterable[str] = ()
    ) -> Judgement:
        """Compare the figure in `results` with what the claim asks.

        Raises
        ------
        KeyError
            If the preset measures this claim, its data is there, and the results lack its key.
        """
        if PRESETS.index(preset) < PRESETS.index(self.preset):
            return self._judgement(None, "skipped", f"judged with --preset {self.preset}")
        absent = [name for name in self.datasets if name in set(missing)]
        if self.key not in results:
            if absent:
                return self._judgement(None, "skipped", f"needs the data set {absent[0]}")
            raise KeyError(f"the study's results lack {self.key!r}, which a claim is about")
        value = _plain(results[self.key])
        if not self.comparison.judged:
            return self._judgement(value, "reported", "")
        verdict: Verdict = "holds" if self.comparison.holds(value) else "fails"
        return self._judgement(value, verdict, "")

    def _judgement(self, value: Any, verdict: Verdict, why: str) -> Judgement:
        return Judgement(
            self.statement,
            self.measured,
            self.key,
            str(self.comparison),
            self.preset,
            self.unit,
            value,
            verdict,
            why,
        )


@dataclass(frozen=True)
class Judgement:
    """A claim with its figure and verdict, as a record keeps it."""

    statement: str
    measured: str
    key: str
    comparison: str
    preset: str
    unit: str
    value: float | list[float] | None
    verdict: Verdict
    why: str = ""

    @property
    def figure(self) -> str:
        """The measured figure as text, with its unit.

        Examples
        --------
        >>> at = Claim("fast", "ratio", "ratio", at_least(2))
        >>> at.judge({"ratio": [3.0, 4.5]}, "quick").figure
        '3, 4.5'
        """
        if self.value is None:
            return self.why or "not measured"
        values = self.value if isinstance(self.value, list) else [self.value]
        text = (
            ", ".join(f"{v:.4g}" for v in values)
            if len(values) <= 6
            else f"{min(values):.4g} to {max(values):.4g}"
        )
        return f"{text} {self.unit}".rstrip()


def _plain(value: Any) -> float | list[float]:
    array = np.asarray(value, dtype=float)
    return float(array) if array.ndim == 0 else [float(v) for v in array.ravel()]


def _bound(name: str, value: float) -> float:
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number
