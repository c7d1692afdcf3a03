"""Backpropagation through a recurrent network by parallel steps.

The gradients with respect to the hidden states obey a recurrence backwards in time, which is
linear: a triangular system. Jacobi's iteration sums paths of one more step each time; where the
network forgets, it has converged long before it has gone through the whole sequence. That is
truncated backpropagation with a depth found by a tolerance.

Source: "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
2002.03629: backpropagation of RNNs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_real
from thalweg.linalg.fixed_point import solve_feedforward

nn = torch.nn


def rnn_adjoint(
    vjp_fn: Callable[[torch.Tensor, Any], torch.Tensor],
    grad_h: torch.Tensor,
    method: str = "jacobi",
    tol: float = 1e-6,
    *,
    block_size: int | None = None,
    max_iter: int | None = None,
    shrink: bool = True,
    callback: Callable[[Any], Any] | None = None,
    full_output: bool = False,
) -> Any:
    """Solve a_t = g_t + J_{t+1}' a_{t+1}, the gradients with respect to all hidden states.

    With them the gradient with respect to a parameter theta is the sum over t of
    ``(d h_t / d theta)' a_t``.

    Parameters
    ----------
    vjp_fn : callable
        ``vjp_fn(a, t)`` returns ``J_t' a`` for several steps at once, J_t the derivative of h_t
        with respect to h_{t-1}: `a` of shape (len(t), B, H), `t` an ascending array of steps from 1
        to T - 1.
    grad_h : torch.Tensor of shape (T, B, H)
        g_t: what the loss gives h_t directly.
    method, block_size, max_iter, shrink
        As in `thalweg.linalg.solve_feedforward`.
    tol : float, default 1e-6
        Stop where no entry changed by more, in units of the largest entry of `grad_h`; 0 for the
        gradient of full backpropagation.
    callback : callable, optional
        As in `solve_feedforward`; row u of its ``x`` is a_{T-1-u}.
    full_output : bool, default False
        Whether to return the result of the solver too. Then nothing is raised for a run without
        success.

    Returns
    -------
    adjoint : torch.Tensor of shape (T, B, H)
        The a_t. Where `max_iter` ended the run they hold paths of fewer than `max_iter` steps.
    result : scipy.optimize.OptimizeResult
        With `full_output`.

    Raises
    ------
    TypeError
        If `grad_h` is not a floating tensor.
    ValueError
        If its shape is not (T, B, H), it is not finite, `vjp_fn` returns another shape, or an
        option is out of range.
    FloatingPointError
        If a gradient becomes infinite or NaN.

    References
    ----------
    "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
    2002.03629: backpropagation of RNNs.

    Examples
    --------
    >>> import torch
    >>> from thalweg.language import rnn_adjoint
    >>> g = torch.zeros(50, 1, 1)
    >>> g[-1] = 1.0
    >>> a = rnn_adjoint(lambda a, t: 0.5 * a, g)
    >>> a[-3:].flatten().tolist()
    [0.25, 0.5, 1.0]
    """
    if not isinstance(grad_h, torch.Tensor) or not grad_h.is_floating_point():
        raise TypeError(f"grad_h must be a floating tensor, got {type(grad_h).__name__}")
    if grad_h.ndim != 3 or 0 in grad_h.shape:
        raise ValueError(f"grad_h must have shape (T, B, H), got {tuple(grad_h.shape)}")
    grad_h = grad_h.detach()
    if not grad_h.isfinite().all():
        raise ValueError("grad_h must be finite, got NaN or infinity")
    last = len(grad_h) - 1

    def update(reversed_adjoint: torch.Tensor, idx: Any) -> torch.Tensor:
        low, high = int(idx[0]), int(idx[-1]) + 1
        values = grad_h[last - high + 1 : last - low + 1].clone()
        later = reversed_adjoint[max(low - 1, 0) : high - 1].flip(0)
        if len(later):
            steps = np.arange(last - high + 2, last - max(low, 1) + 2)
            passed = vjp_fn(later, steps)
            if passed.shape != later.shape:
                raise ValueError(
                    f"vjp_fn must return shape {tuple(later.shape)}, got {tuple(passed.shape)}"
                )
            values[: len(later)] += passed.detach()
        return values.flip(0)

    result = solve_feedforward(
        update,
        torch.zeros_like(grad_h),
        method=method,
        block_size=block_size,
        tol=check_real("tol", tol, at_least=0) * float(grad_h.abs().max()),
        max_iter=max_iter,
        shrink=shrink,
        callback=callback,
    )
    if full_output:
        return result.x.flip(0), result
    if result.status == 2:
        raise FloatingPointError(f"the gradients overflow: {result.message}")
    return result.x.flip(0)


class JacobiBackwardRNN(nn.Module):
    """A tanh recurrent layer whose backward pass is solved by Jacobi iteration.

    Parameters and calls are those of ``torch.nn.RNN`` of one layer, so that a state dict of one
    fits the other.

    Parameters
    ----------
    input_size, hidden_size : int
        Features of an input and of a hidden state.
    tol : float, default 1e-6
        Tolerance of the backward pass, as in `rnn_adjoint`; 0 for full backpropagation.
    rng : None, int or torch.Generator, optional
        Draws the initial weights, uniform within 1 / sqrt(hidden_size).

    Attributes
    ----------
    backward_iterations : int or None
        Parallel iterations of the last backward pass, at most the length of the sequence.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer or `tol` is negative.

    Examples
    --------
    >>> import torch
    >>> from thalweg.language import JacobiBackwardRNN
    >>> layer = JacobiBackwardRNN(3, 8, rng=0)
    >>> output, last = layer(torch.zeros(200, 4, 3))
    >>> output.shape, last.shape
    (torch.Size([200, 4, 8]), torch.Size([1, 4, 8]))
    >>> last.sum().backward()
    >>> layer.backward_iterations < 100
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        tol: float = 1e-6,
        *,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.hidden_size = check_count("hidden_size", hidden_size)
        self.tol = check_real("tol", tol, at_least=0)
        self.backward_iterations: int | None = None
        self.weight_ih_l0 = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(hidden_size))
        generator, bound = torch_generator(rng), self.hidden_size**-0.5
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(
        self, x: torch.Tensor, hx: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all hidden states and the last one.

        Parameters
        ----------
        x : torch.Tensor of shape (T, B, input_size)
            A batch of sequences.
        hx : torch.Tensor of shape (1, B, hidden_size), optional
            Where to start, zeros by default.

        Returns
        -------
        output : torch.Tensor of shape (T, B, hidden_size)
        last : torch.Tensor of shape (1, B, hidden_size)
        """
        if x.ndim != 3 or 0 in x.shape[:2] or x.shape[2] != self.input_size:
            raise ValueError(f"x must have shape (T, B, {self.input_size}), got {tuple(x.shape)}")
        shape = (1, x.shape[1], self.hidden_size)
        if hx is None:
            hx = x.new_zeros(shape)
        elif tuple(hx.shape) != shape:
            raise ValueError(f"hx must have shape {shape}, got {tuple(hx.shape)}")
        inputs = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)
        output = _TanhRecurrence.apply(inputs, hx[0], self.weight_hh_l0, self)
        return output, output[-1:]


class _TanhRecurrence(torch.autograd.Function):
    """h_t = tanh(x_t + W h_{t-1})."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, h0: torch.Tensor, weight: torch.Tensor, owner: Any
    ) -> torch.Tensor:
        states, h = torch.empty_like(inputs), h0
        for t, drive in enumerate(inputs):
            h = torch.tanh(torch.addmm(drive, h, weight.T), out=states[t])
        ctx.save_for_backward(states, h0, weight)
        ctx.owner = owner
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, h0, weight = ctx.saved_tensors
        slope = 1 - states**2
        adjoint, result = rnn_adjoint(
            lambda a, t: (a * slope[int(t[0]) : int(t[-1]) + 1]) @ weight,
            grad,
            tol=ctx.owner.tol,
            full_output=True,
        )
        if not result.success:
            raise FloatingPointError(f"the gradients overflow: {result.message}")
        ctx.owner.backward_iterations = result.nit
        passed = adjoint * slope
        before = torch.cat((h0[None], states[:-1]))
        grad_weight = passed.flatten(0, 1).T @ before.flatten(0, 1)
        return passed, passed[0] @ weight, grad_weight, None
