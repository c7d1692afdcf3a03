"""The family of gradient drifts ``-grad phi(x)``, phi a small network: cells that roll downhill.

Source: "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
2408.06277, section 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option, check_real
from thalweg.transport.drift_families import DriftFamily
from thalweg.transport.networks import ACTIVATIONS, train

Floats: TypeAlias = NDArray[np.float64]


class GradientField(DriftFamily):
    """Drifts ``-grad phi(x)`` with a multilayer perceptron as potential, fitted by Adam.

    Parameters are the weights of the network, as one vector; the last layer starts as zero, so
    that the drift does.

    Parameters
    ----------
    dim : int
        Columns of `x`.
    hidden : sequence of int, default (128, 64, 64)
        Widths of the hidden layers.
    activation : str, default "relu"
        Nonlinearity, one of those of `TimeMLP`. With ``"relu"``, as published, the drift is
        constant in pieces.
    n_epochs : int, default 20
        Passes over the rows in each fit.
    learning_rate : float, default 1e-2
        Rate of Adam at the start of each fit; it falls to a hundredth along a cosine.
    batch_size : int, default 1024
        Rows a step.
    device : str or torch.device, default "cpu"
        Where the network is fitted and evaluated.
    rng : int, default 0
        Seed of the initial weights and the batches.

    Examples
    --------
    >>> import numpy as np
    >>> family = GradientField(2, hidden=(16,), rng=0)
    >>> float(np.abs(family.drift(family.init(), 0.0, np.ones((1, 2)))).max())
    0.0
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (128, 64, 64),
        *,
        activation: str = "relu",
        n_epochs: int = 20,
        learning_rate: float = 1e-2,
        batch_size: int = 1024,
        device: Any = "cpu",
        rng: int = 0,
    ) -> None:
        self.dim = check_count("dim", dim)
        self.hidden = tuple(check_count("hidden", width) for width in hidden)
        self.activation = check_option("activation", activation, ACTIVATIONS)
        self.n_epochs = check_count("n_epochs", n_epochs)
        self.learning_rate = check_real("learning_rate", learning_rate, above=0)
        self.batch_size = check_count("batch_size", batch_size)
        self.device, self.rng = torch.device(device), check_count("rng", rng, at_least=0)
        self._network = self._new_network()
        self._loaded = self.init()
        self.names = tuple(f"weight[{i}]" for i in range(len(self._loaded)))

    def init(self) -> Floats:
        """Return the initial weights, with zeros in the last layer."""
        return _vector(self._new_network())

    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return ``-grad phi(x)``, (n, d)."""
        self._load(params)
        points = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        return _downhill(self._network, points).detach().cpu().numpy().astype(np.float64)

    def _fit_rows(self, t: Floats, x: Floats, velocity: Floats, root: Floats, start: Floats) -> Any:
        self._load(start)
        network, rows = self._network, min(self.batch_size, len(x))
        points, wanted, weights = (
            torch.as_tensor(array, dtype=torch.float32, device=self.device)
            for array in (x, velocity, root**2 / np.mean(root**2))
        )

        def loss(generator: torch.Generator) -> torch.Tensor:
            batch = torch.randint(len(points), (rows,), generator=generator, device=self.device)
            gap = _downhill(network, points[batch], keep=True) - wanted[batch]
            return (weights[batch] * gap**2).sum(1).mean()

        n_steps = self.n_epochs * math.ceil(len(x) / rows)
        train(network, loss, n_steps=n_steps, lr=self.learning_rate, rng=self.rng)
        self._loaded = _vector(network)
        return self._loaded.copy()

    def _new_network(self) -> torch.nn.Sequential:
        generator, widths = torch_generator(self.rng), [self.dim or 1, *self.hidden, 1]
        layers: list[Any] = []
        for m, n in pairwise(widths):
            layer = torch.nn.utils.skip_init(torch.nn.Linear, m, n)
            with torch.no_grad():
                for weight in layer.parameters():
                    weight.uniform_(-1 / math.sqrt(m), 1 / math.sqrt(m), generator=generator)
            layers += [layer, ACTIVATIONS[self.activation]()]
        torch.nn.init.zeros_(layers[-2].weight)
        return torch.nn.Sequential(*layers[:-1]).to(self.device)

    def _load(self, params: Floats) -> None:
        if not np.array_equal(params, self._loaded):
            vector = torch.as_tensor(params, dtype=torch.float32, device=self.device)
            torch.nn.utils.vector_to_parameters(vector, self._network.parameters())
            self._loaded = np.array(params)


def _downhill(
    network: torch.nn.Module, points: torch.Tensor, *, keep: bool = False
) -> torch.Tensor:
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        height = network(points).sum()
        (gradient,) = torch.autograd.grad(height, points, create_graph=keep)
    return -gradient


def _vector(network: torch.nn.Module) -> Floats:
    flat = torch.nn.utils.parameters_to_vector(network.parameters())
    return flat.detach().cpu().numpy().astype(np.float64)
