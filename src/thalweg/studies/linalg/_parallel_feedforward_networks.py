"""Networks of the study of parallel feedforward computation, their errors and their images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch, torch_generator
from thalweg.language import MADE, rnn_adjoint

nn, F = torch.nn, torch.nn.functional

IMAGES = "mnist-t10k-images"


class DenseBlock:
    """Layers that each see the outputs of all earlier ones, with He's random weights.

    Batch normalisation is frozen at the statistics of the given images, as in evaluation.

    Parameters
    ----------
    images : torch.Tensor of shape (n, 1, side, side)
        What the block is applied to.
    layers, growth : int
        Number of layers, and of channels that each adds.
    generator : torch.Generator
        Draws the weights.

    Attributes
    ----------
    exact : torch.Tensor of shape (layers, n, growth, side, side)
        Outputs of the layers by the plain loop.
    """

    def __init__(
        self, images: torch.Tensor, layers: int, growth: int, generator: torch.Generator
    ) -> None:
        stem = _he((2 * growth, 1, 3, 3), generator)
        self.stem = F.conv2d(images, stem, padding=1)
        self.kernels = [_he((growth, (t + 2) * growth, 3, 3), generator) for t in range(layers)]
        self.statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.exact = images.new_zeros(layers, len(images), growth, *images.shape[2:])
        for t in range(layers):
            seen = self._seen(self.exact, t)
            self.statistics.append((seen.mean((0, 2, 3)), seen.var((0, 2, 3)) + 1e-5))
            self.exact[t] = self._layer(seen, t)

    def __call__(self, s: torch.Tensor, idx: np.ndarray) -> torch.Tensor:
        """Return the outputs of the layers `idx`, for `solve_feedforward`."""
        return torch.stack([self._layer(self._seen(s, int(t)), int(t)) for t in idx])

    def error(self, s: torch.Tensor) -> float:
        """Return the distance of all outputs from those of the plain loop, relative."""
        return float((s - self.exact).norm() / self.exact.norm())

    def _seen(self, s: torch.Tensor, t: int) -> torch.Tensor:
        return torch.cat((self.stem, *s[:t]), dim=1)

    def _layer(self, seen: torch.Tensor, t: int) -> torch.Tensor:
        mean, variance = self.statistics[t]
        return F.conv2d(F.relu(F.batch_norm(seen, mean, variance)), self.kernels[t], padding=1)


class MaskedConvolutions(nn.Module):
    """An autoregressive model of images: convolutions that see what is above, and to the left.

    Parameters
    ----------
    side : int
        Pixels of an image's side.
    channels : int
        Channels between its three layers.
    generator : torch.Generator
        Draws the weights.
    """

    def __init__(self, side: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.side = side
        widths, sizes = (1, channels, channels, 1), (7, 3, 3)
        self.kernels, self.biases, self.masks = nn.ParameterList(), nn.ParameterList(), []
        for (given, out), size in zip(pairwise(widths), sizes, strict=True):
            mask = torch.ones(size * size)
            mask[size * size // 2 + (given != 1) :] = 0
            kernel = _he((out, given, size, size), generator)
            self.kernels.append(nn.Parameter(kernel))
            self.biases.append(nn.Parameter(torch.zeros(out)))
            self.masks.append(mask.view(size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-odds of shape (n, side * side) for bits of that shape."""
        units = x.view(-1, 1, self.side, self.side)
        for number, mask in enumerate(self.masks):
            units = F.relu(units) if number else units
            kernel = self.kernels[number] * mask
            units = F.conv2d(units, kernel, self.biases[number], padding=mask.shape[0] // 2)
        return units.flatten(1)


def train_on_bits(
    model: nn.Module, bits: torch.Tensor, epochs: float, generator: torch.Generator
) -> None:
    """Fit log-odds to bits by Adam, 2e-3, batches of 128."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    batches = [
        batch
        for _ in range(int(np.ceil(epochs)))
        for batch in torch.randperm(len(bits), generator=generator).split(128)
    ]
    for batch in batches[: round(epochs * len(bits) / 128)]:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(bits[batch]), bits[batch]).backward()
        optimizer.step()


def gradient_errors(layer, head, pixels, labels):
    """Relative errors of the layer's gradient after each iteration, until it is at most 1e-6."""
    inputs = pixels.transpose(0, 1)
    states, _ = layer(inputs)
    loss = F.cross_entropy(head(states[-1]), labels)
    wanted = layer.weight_hh_l0, layer.weight_ih_l0, layer.bias_hh_l0, states
    *parts, direct = torch.autograd.grad(loss, wanted)
    exact = torch.cat([part.flatten() for part in parts])
    with torch.no_grad():
        hidden = states.detach()
        weight, slope = layer.weight_hh_l0, 1 - hidden**2
        before = torch.cat((torch.zeros_like(hidden[:1]), hidden[:-1])).flatten(0, 1)
        errors = []

        def note(state):
            passed = (state.x.flip(0) * slope).flatten(0, 1)
            parts = passed.T @ before, passed.T @ inputs.flatten(0, 1), passed.sum(0)
            gradient = torch.cat([part.flatten() for part in parts])
            errors.append(float((gradient - exact).norm() / exact.norm()))
            if errors[-1] <= 1e-6:
                raise StopIteration

        rnn_adjoint(
            lambda a, t: (a * slope[int(t[0]) : int(t[-1]) + 1]) @ weight,
            direct,
            tol=0,
            callback=note,
            full_output=True,
        )
    return np.array(errors)


def _he(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return scale * torch.randn(shape, generator=generator)


@torch.no_grad()
def sample_by_columns(model: MADE, n: int, rng: int | torch.Generator) -> torch.Tensor:
    """Draw from a MADE of one hidden layer bit by bit, each at the cost of its own column alone.

    The plain loop at its best; the noise is that of `MADE.sample`.
    """
    layers: list[Any] = [*model.layers, model.direct]
    first, last, _ = layers
    weights = [(layer.weight * layer.mask).T.contiguous() for layer in layers]
    threshold = torch.rand(n, model.n_features, generator=torch_generator(rng)).logit()
    units = first.bias.repeat(n, 1)
    log_odds = last.bias.repeat(n, 1)
    bits = torch.empty(n, model.n_features)
    for t in range(model.n_features):
        given = log_odds[:, t] + F.relu(units) @ weights[1][:, t]
        bits[:, t] = threshold[:, t] < given
        units.addr_(bits[:, t], weights[0][t])
        log_odds.addr_(bits[:, t], weights[2][t])
    return bits


def pixels(side):
    """Images as rows of pixels from 0 to 1, at side 14 means of 2 x 2."""
    images = data.read_idx(data.fetch(IMAGES, download=False)) / 255
    step = images.shape[1] // side
    images = images.reshape(len(images), side, step, side, step).mean(axis=(2, 4))
    return images.reshape(len(images), -1)


def bits(side):
    """Images as rows of zeros and ones, a tensor of floats."""
    return torch.tensor(pixels(side) > 0.5).float()
