"""Density of a cloud of points, and the map that makes it normal, by an autoregressive flow.

Each block shifts and scales every feature by what the features before it say, so that its Jacobian
is triangular and its determinant a sum. One masked network gives all shifts and scales at once; the
way back finds the features one after another, and fills in the hidden units as their inputs become
known, so that it costs the arithmetic of one pass.

Source: "Transforming Simulation to Data Without Pairing" (2025), arXiv 2504.12343; "Masked
Autoregressive Flow for Density Estimation" (2017), arXiv 1705.07057; "MADE: Masked Autoencoder for
Distribution Estimation" (2015), arXiv 1502.03509.
"""

from __future__ import annotations

import math
from typing import Any

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count

nn, functional = torch.nn, torch.nn.functional

LARGEST_LOG_SCALE = 3.0
"""Bound of a block's log scale; chosen here."""


class MaskedAutoregressiveFlow(nn.Module):
    r"""Invertible map to standard normal features, given a condition: masked autoregressive flow.

    A block takes x to :math:`u_i = (x_i - \mu_i) e^{-a_i}`, where :math:`\mu_i` and :math:`a_i`
    are functions of the features before i and of the condition; every other block goes through the
    features in reverse. The flow starts as the identity.

    Parameters
    ----------
    dim : int
        Features d.
    cond_dim : int, default 0
        Columns of the condition. It enters the first layer of each block's network and, linearly,
        its result.
    n_blocks : int, default 4
        Blocks.
    hidden : int, default 64
        Units of each of the two hidden layers of a block.
    rng : None, int or torch.Generator
        Source of the initial weights, a generator of the CPU; no global state is touched.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not as stated.

    Notes
    -----
    Log scales are kept within (-3, 3) by ``3 tanh(a / 3)``. Hidden units that see the condition
    alone let it act on the first feature of a block nonlinearly too.

    References
    ----------
    "Transforming Simulation to Data Without Pairing" (2025), arXiv 2504.12343. "Masked
    Autoregressive Flow for Density Estimation" (2017), arXiv 1705.07057, eqs. (3) to (5). "MADE:
    Masked Autoencoder for Distribution Estimation" (2015), arXiv 1502.03509, section 4.

    Examples
    --------
    >>> import torch
    >>> flow = MaskedAutoregressiveFlow(3, cond_dim=1, rng=0)
    >>> x, cond = torch.ones(5, 3), torch.zeros(5, 1)
    >>> u, log_det = flow(x, cond)
    >>> u.shape, log_det.shape
    (torch.Size([5, 3]), torch.Size([5]))
    >>> torch.allclose(flow.inverse(u, cond), x)
    True
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        n_blocks: int = 4,
        hidden: int = 64,
        *,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim = check_count("dim", dim)
        self.cond_dim = check_count("cond_dim", cond_dim, at_least=0)
        n_blocks, hidden = check_count("n_blocks", n_blocks), check_count("hidden", hidden)
        generator = torch_generator(rng)
        self.blocks = nn.ModuleList(
            _Block(self.dim, self.cond_dim, hidden, reverse=k % 2 == 1, generator=generator)
            for k in range(n_blocks)
        )

    def forward(
        self, x: torch.Tensor, cond: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normal features of points.

        Parameters
        ----------
        x : tensor (n, dim)
            Points.
        cond : tensor (n, cond_dim), optional
            Their conditions, where the flow has them.

        Returns
        -------
        u : tensor (n, dim)
        log_det : tensor (n,)
            Log of the absolute determinant of the Jacobian of u in x.
        """
        self._check("x", x, cond)
        log_det = torch.zeros_like(x[:, 0])
        for block in self.blocks:
            x, more = block(x, cond)
            log_det = log_det + more
        return x, log_det

    def inverse(self, u: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
        """Return the points (n, dim) of normal features `u` (n, dim); gradients pass through."""
        self._check("u", u, cond)
        block: Any
        for block in reversed(self.blocks):
            u = block.inverse(u, cond)
        return u

    def log_prob(self, x: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log density (n,) of points given their conditions, in nats."""
        u, log_det = self(x, cond)
        return log_det - 0.5 * (u.square().sum(1) + self.dim * math.log(2 * math.pi))

    def sample(
        self,
        n: int | None = None,
        cond: torch.Tensor | None = None,
        *,
        rng: int | torch.Generator | None = None,
    ) -> torch.Tensor:
        """Draw `n` points, or one for each row of `cond`, without gradients.

        Parameters
        ----------
        n : int, optional
            How many; left out where there is a condition.
        cond : tensor (n, cond_dim), optional
            Conditions, where the flow has them.
        rng : None, int or torch.Generator
            Source of the normal features, on the device of the flow.

        Returns
        -------
        tensor (n, dim)
        """
        if (n is None) == (cond is None):
            raise ValueError(
                "n must be given where cond is not, and left out where it is, got "
                f"n={n!r} and {'no cond' if cond is None else 'cond'}"
            )
        rows = check_count("n", n) if cond is None else len(cond)
        weight = next(self.parameters())
        generator = torch_generator(rng, weight.device)
        shape, device = (rows, self.dim), weight.device
        u = torch.randn(shape, dtype=weight.dtype, device=device, generator=generator)
        with torch.no_grad():
            return self.inverse(u, cond)

    def _check(self, name: str, x: torch.Tensor, cond: torch.Tensor | None) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"{name} must have shape (n, {self.dim}), got {tuple(x.shape)}")
        if (cond is None) != (self.cond_dim == 0):
            raise ValueError(
                f"cond must be a tensor (n, {self.cond_dim})"
                if cond is None
                else "cond must be None for a flow with cond_dim=0"
            )
        if cond is not None and cond.shape != (len(x), self.cond_dim):
            raise ValueError(
                f"cond must have shape ({len(x)}, {self.cond_dim}), got {tuple(cond.shape)}"
            )


class _Block(nn.Module):
    """One autoregressive step: a masked network of two hidden layers gives shifts and log scales.

    A feature's rank is its place in the order, from 1; a hidden unit of degree m sees the features
    of rank m and below, and acts on those above. Units are sorted by degree.
    """

    input_mask: torch.Tensor
    hidden_mask: torch.Tensor
    output_mask: torch.Tensor

    def __init__(
        self, dim: int, cond_dim: int, hidden: int, *, reverse: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        order = list(reversed(range(dim))) if reverse else list(range(dim))
        lowest = 0 if cond_dim or dim == 1 else 1
        degrees = lowest + torch.arange(hidden) * (dim - lowest) // hidden
        ranks = torch.empty(dim, dtype=torch.long)
        ranks[order] = torch.arange(1, dim + 1)
        self.order = order
        counts = torch.bincount(degrees, minlength=dim).cumsum(0).tolist()
        self.units = [slice(a, b) for a, b in zip([0, *counts], counts, strict=False)]
        for name, mask in (
            ("input_mask", degrees[:, None] >= ranks),
            ("hidden_mask", degrees[:, None] >= degrees),
            ("output_mask", (ranks[:, None] > degrees).repeat(2, 1)),
        ):
            self.register_buffer(name, mask.float(), persistent=False)
        self.first = _uniform(hidden, dim, dim + cond_dim, generator)
        self.first_bias = _uniform(hidden, None, dim + cond_dim, generator)
        self.second = _uniform(hidden, hidden, hidden, generator)
        self.second_bias = _uniform(hidden, None, hidden, generator)
        self.last = nn.Parameter(torch.zeros(2 * dim, hidden))
        self.last_bias = nn.Parameter(torch.zeros(2 * dim))
        if cond_dim:
            self.first_cond = _uniform(hidden, cond_dim, dim + cond_dim, generator)
            self.last_cond = nn.Parameter(torch.zeros(2 * dim, cond_dim))

    def forward(
        self, x: torch.Tensor, cond: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        inside, result = self._of_condition(cond)
        inside = inside + functional.linear(x, self.first * self.input_mask)
        layer = functional.linear(
            functional.silu(inside), self.second * self.hidden_mask, self.second_bias
        )
        result = result + functional.linear(functional.silu(layer), self.last * self.output_mask)
        shift, log_scale = _shift_and_log_scale(result)
        return (x - shift) * torch.exp(-log_scale), -log_scale.sum(1)

    def inverse(self, u: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        """Find the features in order; a hidden unit is evaluated once all that it sees is known."""
        inside, result = self._of_condition(cond)
        inside, result = (part.expand(len(u), -1) for part in (inside, result))
        layer = self.second_bias.expand(len(u), -1)
        columns: dict[int, torch.Tensor] = {}
        dim = len(self.order)
        for feature, units in zip(self.order, self.units, strict=True):
            if units.start < units.stop:
                known = functional.silu(inside[:, units])
                layer = torch.addmm(layer, known, self.second[:, units].T)
                known = functional.silu(layer[:, units])
                result = torch.addmm(result, known, self.last[:, units].T)
            shift, log_scale = _shift_and_log_scale(result[:, feature::dim])
            column = shift + u[:, feature : feature + 1] * torch.exp(log_scale)
            columns[feature] = column
            inside = torch.addmm(inside, column, self.first[:, feature : feature + 1].T)
        return torch.cat([columns[i] for i in range(dim)], 1)

    def _of_condition(self, cond: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the condition and the biases give the first layer and the result."""
        if cond is None:
            return self.first_bias, self.last_bias
        return (
            functional.linear(cond, self.first_cond, self.first_bias),
            functional.linear(cond, self.last_cond, self.last_bias),
        )


def _shift_and_log_scale(result: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shift, raw = result.chunk(2, 1)
    return shift, LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)


def _uniform(
    rows: int, columns: int | None, fan_in: int, generator: torch.Generator
) -> nn.Parameter:
    """Return weights of PyTorch's default law for a linear layer, drawn from this generator."""
    shape = (rows,) if columns is None else (rows, columns)
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
