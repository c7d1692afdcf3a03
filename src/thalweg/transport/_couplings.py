"""Pairs of points of two clouds, and times, drawn batch by batch for bridges and flows to learn."""

from __future__ import annotations

from scipy.optimize import linear_sum_assignment

from thalweg._torch import torch

COUPLINGS = ("independent", "minibatch-ot", "paired")


def draw_pairs(
    X: torch.Tensor, Y: torch.Tensor, n: int, coupling: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n rows of each cloud, (n, d) and (n, d).

    ``"independent"`` draws both apart, ``"paired"`` takes the same rows of both, and
    ``"minibatch-ot"`` assigns the rows of an independent draw to each other at least total squared
    distance.
    """
    rows = torch.randint(len(X), (n,), generator=generator, device=X.device)
    x = X[rows]
    if coupling == "paired":
        return x, Y[rows]
    y = Y[torch.randint(len(Y), (n,), generator=generator, device=Y.device)]
    if coupling == "minibatch-ot":
        costs = torch.cdist(x, y).square()
        _, columns = linear_sum_assignment(costs.cpu().numpy())
        y = y[torch.from_numpy(columns).to(y.device)]
    return x, y


def stratified_times(
    n: int, last: float, generator: torch.Generator, like: torch.Tensor
) -> torch.Tensor:
    """Return one uniform time in each of n equal parts of [0, last]; a batch then covers all."""
    offsets = torch.rand(n, generator=generator, dtype=like.dtype, device=like.device)
    return (torch.arange(n, dtype=like.dtype, device=like.device) + offsets) * (last / n)


def some_rows(Z: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return n rows drawn without repetition, or all where there are no more."""
    if len(Z) <= n:
        return Z
    return Z[torch.randperm(len(Z), generator=generator, device=Z.device)[:n]]
