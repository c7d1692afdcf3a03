"""The gradient of a matrix root: one Lyapunov equation, however the root was computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thalweg._torch import torch
from thalweg.linalg._root_forward import sign_lyapunov, symmetric_lyapunov_exact


def differentiable_root(
    a: torch.Tensor,
    evaluate: Callable[[Any], tuple[Any, ...]],
    inverse: bool,
    options: dict[str, Any],
    backend: Any,
) -> torch.Tensor:
    """Return ``evaluate(a)[0]``, with the gradient that ``options["backward"]`` names."""
    if options["backward"] == "autograd":
        return evaluate(a)[0]
    root: torch.Tensor = _Root.apply(a, evaluate, inverse, options, backend)
    return root


class _Root(torch.autograd.Function):
    """Y = A^(1/2) has ``Y X + X Y = G`` for X = dl/dA and G = dl/dY; the inverse, -Y Y G Y Y.

    No iterate of the forward pass is kept. The backward pass is made of differentiable steps from
    Y, so that second derivatives come of themselves.
    """

    @staticmethod
    def forward(ctx: Any, a: Any, evaluate: Any, inverse: Any, options: Any, backend: Any) -> Any:
        found = evaluate(a)
        ctx.save_for_backward(*found)
        ctx.settings = inverse, options, backend
        return found[0]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        root, *eigen = ctx.saved_tensors
        inverse, options, backend = ctx.settings
        with torch.autocast(grad.device.type, enabled=False):
            right = (grad + grad.mT) / 2
            if inverse:
                square = root @ root
                right = -square @ right @ square
                right = (right + right.mT) / 2
            if options["backward"] == "lyapunov":
                steps, tol = options["n_lyapunov"], options["tol"]
                x = sign_lyapunov(root, right, steps, tol, backend, symmetric=True)
            else:
                known = len(eigen) == 2 and not torch.is_grad_enabled()
                values, vectors = eigen if known else torch.linalg.eigh(root)
                x = symmetric_lyapunov_exact(values, vectors, right, backend)
        return x, None, None, None, None
