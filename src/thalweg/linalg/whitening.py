"""Layers of a network that take a matrix root: ZCA whitening and covariance pooling.

`ZCAWhitening` stands where a batch normalisation would, and makes the channels uncorrelated as
well: its output has covariance near the identity. `CovariancePooling` stands where a mean over
positions would, before the last linear layer: it keeps the second moments, tamed by a square root.

Source: "Fast Differentiable Matrix Square Root" (2022), arXiv 2201.08663, Section 4 (decorrelated
batch normalisation, second-order pooling).
"""

from __future__ import annotations

from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_count, check_real
from thalweg.linalg.square_root import (
    Backward,
    Method,
    checked_options,
    matrix_inv_sqrt,
    matrix_sqrt,
)


class ZCAWhitening(torch.nn.Module):
    """Whitening of channels: ``W (x - mean) weight + bias`` with ``W = (cov + eps I)^(-1/2)``.

    Parameters
    ----------
    num_features : int
        Channels C of the input, of shape (N, C) or (N, C, H, W); any further axes are positions.
    groups : int, default 1
        Number of groups of adjacent channels that are whitened each by itself; it divides C.
    eps : float, default 1e-2
        Added to the diagonal of the covariance (divided by the number of positions), at least 0.
    momentum : float, default 0.1
        Weight of a batch in the running mean and whitening matrix that evaluation uses.
    affine : bool, default True
        Whether each channel has a weight and a bias that are learned.
    method, degree, backward, n_lyapunov, check_finite
        As in `thalweg.linalg.matrix_inv_sqrt`. On a CPU, ``method="eigh"`` with
        ``backward="lyapunov-exact"`` is the fastest.
    process_group : torch.distributed.ProcessGroup, optional
        Ranks over which mean and covariance are taken, positions weighing alike; None is this rank
        alone.

    Attributes
    ----------
    running_mean : tensor of shape (C,)
    running_whitening : tensor of shape (groups, C / groups, C / groups)

    Raises
    ------
    TypeError, ValueError
        If an option is outside its range; in a call, if the input is of another shape or type, or
        training has fewer than two positions.

    Notes
    -----
    What runs along is the whitening matrix itself, as in the paper's experiment, and not the
    covariance. Inside autocast all is computed in float32.

    References
    ----------
    arXiv 2201.08663, Section 4.1.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    >>> y = ZCAWhitening(2, eps=0.0, degree=20)(x)
    >>> bool(torch.allclose(torch.cov(y.T, correction=0), torch.eye(2), atol=1e-4))
    True
    """

    running_mean: torch.Tensor
    running_whitening: torch.Tensor

    def __init__(
        self,
        num_features: int,
        groups: int = 1,
        eps: float = 1e-2,
        momentum: float = 0.1,
        affine: bool = True,
        method: Method = "pade",
        *,
        degree: int | None = None,
        backward: Backward = "lyapunov",
        n_lyapunov: int = 8,
        check_finite: bool = True,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        self.num_features = check_count("num_features", num_features)
        self.groups = check_count("groups", groups)
        if self.num_features % self.groups:
            raise ValueError(f"groups must divide num_features {num_features}, got {groups}")
        self.eps = check_real("eps", eps, at_least=0)
        self.momentum = check_real("momentum", momentum, at_least=0, at_most=1)
        self.options = checked_options(method, degree, backward, n_lyapunov, None)
        self.check_finite = bool(check_finite)
        self.process_group = process_group
        size = self.num_features // self.groups
        self.register_buffer("running_mean", torch.zeros(self.num_features))
        self.register_buffer("running_whitening", torch.eye(size).repeat(self.groups, 1, 1))
        if affine:
            self.weight = torch.nn.Parameter(torch.ones(self.num_features))
            self.bias = torch.nn.Parameter(torch.zeros(self.num_features))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the whitened input, of its shape and type."""
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"x must have shape (N, {self.num_features}, ...), got {tuple(x.shape)}"
            )
        _check_floating(x)
        with torch.autocast(x.device.type, enabled=False):
            channels = x.transpose(0, 1).flatten(1).to(self._work(x))
            if self.training:
                mean, whitening = self._of_batch(channels)
            else:
                mean, whitening = self.running_mean, self.running_whitening
            centred = (channels - mean[:, None]).unflatten(0, (self.groups, -1))
            y = (whitening @ centred).flatten(0, 1)
            if self.weight is not None:
                y = torch.addcmul(self.bias[:, None], self.weight[:, None], y)
        turned = y.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1)
        return turned.to(x.dtype).contiguous()

    def extra_repr(self) -> str:
        """Return the options that `print` shows."""
        return (
            f"{self.num_features}, groups={self.groups}, eps={self.eps}, "
            f"momentum={self.momentum}, affine={self.weight is not None}, "
            f"method={self.options['method']!r}, degree={self.options['degree']}"
        )

    def _of_batch(self, channels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and whitening matrix of the batch, which the running ones follow."""
        sums = torch.cat((channels.sum(1), channels.new_tensor([channels.shape[1]])))
        sums = self._over_ranks(sums)
        count = sums[-1].detach()
        if count < 2:
            raise ValueError(f"x must have at least 2 positions in training, got {int(count)}")
        mean = sums[:-1] / count
        centred = (channels - mean[:, None]).unflatten(0, (self.groups, -1))
        cov = self._over_ranks(centred @ centred.mT) / count
        cov = cov + self.eps * torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
        whitening = matrix_inv_sqrt(cov, **self.options, check_finite=self.check_finite)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            running = self.running_whitening
            running.lerp_(whitening.to(running.dtype), self.momentum)
        return mean, whitening

    def _over_ranks(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.process_group is None else _SumOverRanks.apply(x, self.process_group)

    def _work(self, x: torch.Tensor) -> torch.dtype:
        return torch.promote_types(x.dtype, self.running_mean.dtype)


class CovariancePooling(torch.nn.Module):
    """Square root of the covariance of a sample's tokens: second-order pooling.

    Parameters
    ----------
    method : {"pade", "taylor", "newton-schulz", "eigh"}, default "pade"
        As in `thalweg.linalg.matrix_sqrt`.
    triangle : bool, default True
        Whether the upper triangle is returned as a vector, or the matrix itself.
    eps : float, default 0
        Added to the diagonal. A sample without any variation has no root otherwise.
    degree, backward, n_lyapunov, check_finite
        As in `thalweg.linalg.matrix_sqrt`.

    Raises
    ------
    TypeError, ValueError
        If an option is outside its range; in a call, if the input is not of shape (N, C, T) and
        floating point, or `eps` is 0 and a sample is constant.

    Notes
    -----
    The input has N samples, C channels and T tokens; the covariance is divided by T. The output has
    shape (N, C (C + 1) / 2), row by row, or (N, C, C). Inside autocast all is computed in float32.

    References
    ----------
    arXiv 2201.08663, Section 4.2 (global covariance pooling).

    Examples
    --------
    >>> import torch
    >>> tokens = torch.tensor([[[4.0, -4.0, 0.0, 0.0], [0.0, 0.0, 2.0, -2.0]]])
    >>> CovariancePooling(degree=10)(tokens).round(decimals=3)
    tensor([[2.8280, 0.0000, 1.4140]])
    """

    def __init__(
        self,
        method: Method = "pade",
        triangle: bool = True,
        *,
        eps: float = 0.0,
        degree: int | None = None,
        backward: Backward = "lyapunov",
        n_lyapunov: int = 8,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        self.triangle = bool(triangle)
        self.eps = check_real("eps", eps, at_least=0)
        self.options = checked_options(method, degree, backward, n_lyapunov, None)
        self.check_finite = bool(check_finite)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooled tokens, of the type of `x`."""
        if x.ndim != 3 or x.shape[2] == 0:
            raise ValueError(f"x must have shape (N, C, T), got {tuple(x.shape)}")
        _check_floating(x)
        with torch.autocast(x.device.type, enabled=False):
            tokens = x.to(torch.promote_types(x.dtype, torch.float32))
            centred = tokens - tokens.mean(2, keepdim=True)
            cov = centred @ centred.mT / x.shape[2]
            if self.eps:
                cov = cov + self.eps * torch.eye(x.shape[1], dtype=cov.dtype, device=cov.device)
            root = matrix_sqrt(cov, **self.options, check_finite=self.check_finite).to(x.dtype)
        if not self.triangle:
            return root
        rows, columns = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
        return root[:, rows, columns]

    def extra_repr(self) -> str:
        """Return the options that `print` shows."""
        return (
            f"method={self.options['method']!r}, triangle={self.triangle}, eps={self.eps}, "
            f"degree={self.options['degree']}"
        )


class _SumOverRanks(torch.autograd.Function):
    """A sum over the ranks of a group; each rank's gradient is the sum of all."""

    @staticmethod
    def forward(ctx: Any, x: Any, group: Any) -> Any:
        ctx.group = group
        total = x.clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, None]:
        total = grad.clone()
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


def _check_floating(x: torch.Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be real floating point, got {x.dtype}")
