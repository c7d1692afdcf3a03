"""Conditions on a scalar that a training has to keep: their infeasibility and their terms.

Source: "Constrained Differential Optimization" (1988), Platt and Barr; "Transforming Simulation to
Data Without Pairing" (2025), arXiv 2504.12343.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_option, check_real

KINDS = ("eq", "max", "min", "bound")
PROJECTED_SIGNS = {"max": -1, "min": 1}
SMALLEST_ROOM = 1e-2
"""A slack starts with at least this share of the distance to the limit, since it cannot leave 0."""
SMALLEST_SCALE = 1e-12


class Constraint:
    r"""A condition on a scalar: equal to, at most, at least a value, or between two.

    The infeasibility h is the nearest allowed value minus `fn()`, where "allowed" leaves the room
    of a slack variable s that is trained too:

    ========  =================================  =====================
    kind      h                                  h, ``hard=True``
    ========  =================================  =====================
    "eq"      value - g                          the same
    "max"     value - s² - g                     min(g, value) - g
    "min"     value + s² - g                     max(g, value) - g
    "bound"   low + w² sin²(s / w) - g           clamp(g, low, high) - g
    ========  =================================  =====================

    with w² = high - low. A projected "max" or "min" has no slack: h is value - g, its multiplier
    never leaves the right sign (at most 0 for "max", at least 0 for "min"), and the parameters feel
    nothing where ``multiplier + damping * h`` has the wrong one. That is what minimising the
    damped Lagrangian over the slack gives.

    Parameters
    ----------
    fn : callable
        ``fn() -> tensor`` with one entry and its graph: the constrained quantity g.
    kind : {"eq", "max", "min", "bound"}
        What is asked of it.
    value : float or (float, float)
        The value asked for; (low, high) for "bound".
    scale : float, default 1.0
        Factor of both terms of the constraint in the Lagrangian.
    damping : float, default 1.0
        Weight of ``h² / 2``, not negative. Without it the run circles the solution.
    hard : bool, default False
        Whether there is no slack. The multiplier of a hard inequality never falls: in the end the
        run shuttles across the limit.
    projected : bool, default False
        Whether a "max" or "min" is projected, the form for estimates of g that are noisy: a slack
        that grows while noise has the multiplier's sign wrong takes the limit with it, and a hard
        limit counts the noise on one side alone, whereas here the multiplier adds up h as it is.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as stated.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([3.0])
    >>> Constraint(lambda: x.square().sum(), "max", 4.0)
    Constraint(kind='max', value=4.0, scale=1.0, damping=1.0, hard=False, projected=False)
    """

    def __init__(
        self,
        fn: Callable[[], torch.Tensor],
        kind: str,
        value: Any,
        *,
        scale: float = 1.0,
        damping: float = 1.0,
        hard: bool = False,
        projected: bool = False,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be callable, got {fn!r}")
        self.fn = fn
        self.kind = check_option("kind", kind, KINDS)
        if kind == "bound":
            if not isinstance(value, Sequence) or len(value) != 2:
                raise TypeError(f"value must be a pair (low, high) for 'bound', got {value!r}")
            low = check_real("low", value[0])
            self.value: Any = (low, check_real("high", value[1], above=low))
        else:
            self.value = check_real("value", value)
        self.scale = check_real("scale", scale, above=0)
        self.damping = check_real("damping", damping, at_least=0)
        self.hard = bool(hard)
        self.projected = bool(projected)
        if projected and (hard or kind not in PROJECTED_SIGNS):
            raise ValueError(
                "projected must be False for a hard constraint and for kinds other than "
                f"{', '.join(PROJECTED_SIGNS)}, got kind={kind!r}, hard={hard!r}"
            )

    def __repr__(self) -> str:
        settings = ("kind", "value", "scale", "damping", "hard", "projected")
        return f"Constraint({', '.join(f'{name}={getattr(self, name)!r}' for name in settings)})"

    @property
    def has_slack(self) -> bool:
        """Whether a slack variable belongs to it."""
        return self.kind != "eq" and not self.hard and not self.projected

    def initial_slack(self, g: float) -> float:
        """Return the slack that makes the infeasibility least at a first value, never 0."""
        if self.kind == "bound":
            low, high = self.value
            share = min(max((g - low) / (high - low), SMALLEST_ROOM), 1 - SMALLEST_ROOM)
            return math.sqrt(high - low) * math.asin(math.sqrt(share))
        room = self.value - g if self.kind == "max" else g - self.value
        # At the limit there is no distance to take a share of.
        distance = abs(room) or max(abs(g), SMALLEST_SCALE)
        return math.sqrt(max(room, SMALLEST_ROOM * distance))

    def infeasibility(self, g: torch.Tensor, slack: torch.Tensor | None) -> torch.Tensor:
        """Return h for a value and a slack (None where there is none)."""
        if self.kind == "bound":
            low, high = self.value
            if slack is None:
                return g.clamp(low, high) - g
            width = math.sqrt(high - low)
            return low + (width * torch.sin(slack / width)).square() - g
        if self.kind == "eq" or self.projected:
            return self.value - g
        if slack is None:
            limits = {"max" if self.kind == "max" else "min": self.value}
            return g.clamp(**limits) - g
        room = slack.square()
        return (self.value - room if self.kind == "max" else self.value + room) - g

    def term(self, h: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
        """Return what the constraint adds to the Lagrangian, for an infeasibility."""
        if self.projected:
            pull = float(multiplier.detach()) + self.damping * float(h.detach())
            if pull * PROJECTED_SIGNS[self.kind] < 0:
                return self.scale * multiplier * h.detach()
        return self.scale * (multiplier * h + 0.5 * self.damping * h.square())

    def project(self, multiplier: torch.Tensor) -> None:
        """Take a multiplier of the wrong sign back to 0, where the constraint is projected."""
        if self.projected and multiplier.item() * PROJECTED_SIGNS[self.kind] < 0:
            multiplier.zero_()
