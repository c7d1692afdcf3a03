"""A visual autoregressive model: token maps predicted from coarse to fine, a whole map at a time.

The tokens of map r are drawn at once, each from the interpolated map r - 1 at its place and from
all coarser maps by attention. A final map of n x n has O(n^2) tokens before it, so that exact
attention costs O(n^4), and everything else O(n^2); attention by polynomials makes the whole almost
quadratic where the logits allow it.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A
Fine-Grained Complexity Analysis" (2025), arXiv 2501.04377, the three stages of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option, check_real
from thalweg.language.upsampling import bicubic_upsample, check_sides
from thalweg.linalg import attention_flops_per_token, exact_attention, polynomial_attention

nn, F = torch.nn, torch.nn.functional

EMBEDDING_SCALE = 0.5
EXPANSION = 4
KERNEL_TAPS = 9
CUBIC_TAPS = 4


class NextScaleTransformer(nn.Module):
    """A transformer that predicts the codes of each token map from the coarser maps.

    Parameters
    ----------
    sides : sequence of int, default (1, 2, 4, 8)
        Sides of the square token maps, increasing.
    codebook : int, default 64
        Codes of a scale.
    width : int, default 32
        Length of the hidden vectors, a multiple of `heads`.
    heads : int, default 8
        Attention heads of a block, of ``d = width / heads`` entries.
    layers : int, default 2
        Blocks.
    attention : {"exact", "polynomial"}, default "exact"
        `thalweg.linalg.exact_attention` or `polynomial_attention`; an attribute, free to change.
    eps : float, default 1e-3
        Relative error of the weights of polynomial attention.
    radius : float, optional
        R: entries x of queries and keys become ``R tanh(x / R)``, so that logits are at most R^2
        and the rank is known before training. None leaves them as they are, and training is free
        to make them larger than the polynomials can follow.
    rng : None, int or torch.Generator, optional
        Draws the initial weights.

    Attributes
    ----------
    blocks : nn.ModuleList
        Hidden vectors to hidden vectors; attention has the scale 1/d.
    head : nn.Module
        Norm and linear map to logits.

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, token-map generation.

    Examples
    --------
    >>> model = NextScaleTransformer(codebook=16, rng=0)
    >>> codes = model.sample(2, rng=1)
    >>> codes.shape, model(codes).shape
    (torch.Size([2, 85]), torch.Size([2, 85, 16]))
    >>> exact = model(codes)
    >>> model.attention = "polynomial"
    >>> bool((model(codes) - exact).abs().max() < 1e-3)
    True
    """

    def __init__(
        self,
        sides: Sequence[int] = (1, 2, 4, 8),
        codebook: int = 64,
        width: int = 32,
        heads: int = 8,
        layers: int = 2,
        attention: str = "exact",
        eps: float = 1e-3,
        *,
        radius: float | None = None,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sides = check_sides(sides)
        self.codebook = check_count("codebook", codebook)
        self.width, heads = check_count("width", width), check_count("heads", heads)
        if self.width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.attention = check_option("attention", attention, ("exact", "polynomial"))
        self.eps = check_real("eps", eps, above=0, below=1)
        layers = check_count("layers", layers)
        radius = None if radius is None else check_real("radius", radius, above=0)
        self.counts = [side * side for side in self.sides]
        self.embed = nn.utils.skip_init(nn.Embedding, len(self.sides) * self.codebook, self.width)
        self.position = nn.utils.skip_init(nn.Embedding, sum(self.counts), self.width)
        self.blocks = nn.ModuleList(
            NextScaleBlock(self.width, heads, radius) for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(self.width), _linear(self.width, self.codebook))
        _initialize(self, layers, torch_generator(rng))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits of every token whose coarser maps are given.

        Parameters
        ----------
        codes : torch.Tensor of int64 of shape (batch, tokens)
            Codes of all maps, or of the first few; (batch, 0) is none.

        Returns
        -------
        torch.Tensor of shape (batch, L, codebook)
            L counts the tokens of the maps given and of the next one, where there is one.

        Raises
        ------
        ValueError
            If the number of tokens is not that of some first maps, or a code is out of range.
        """
        hidden = self.inputs(codes)
        blocks = self.counts[: self.maps_given(codes) + 1]
        for block in self.blocks:
            hidden = block(hidden, blocks, self.attention, self.eps)
        return self.head(hidden)

    @torch.no_grad()
    def sample(self, n: int, rng: int | torch.Generator | None = None) -> torch.Tensor:
        """Draw the codes of `n` images, a map at a time.

        Parameters
        ----------
        n : int
            How many.
        rng : None, int or torch.Generator, optional
            Draws them.

        Returns
        -------
        torch.Tensor of int64 of shape (n, L)
            Codes of all maps, from coarse to fine.
        """
        n = check_count("n", n)
        device = self.position.weight.device
        generator = torch_generator(rng, device)
        codes = torch.empty((n, 0), dtype=torch.int64, device=device)
        for count in self.counts:
            chances = self(codes)[:, -count:].softmax(-1).flatten(0, 1)
            drawn = torch.multinomial(chances, 1, generator=generator).view(n, count)
            codes = torch.cat((codes, drawn), dim=1)
        return codes

    def inputs(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the hidden vectors before the first block: each map from the coarser one."""
        given = self.maps_given(codes)
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook:
            raise ValueError(f"codes must be integers from 0 to {self.codebook - 1}")
        parts = [self.position.weight.new_zeros((len(codes), 1, self.width))]
        if self.sides[0] > 1:
            parts[0] = parts[0].expand(-1, self.counts[0], -1)
        start = 0
        for r in range(min(given, len(self.sides) - 1)):
            ids = codes[:, start : start + self.counts[r]] + r * self.codebook
            maps = self.embed(ids).mT.unflatten(-1, (self.sides[r], self.sides[r]))
            parts.append(bicubic_upsample(maps, self.sides[r + 1]).flatten(2).mT)
            start += self.counts[r]
        hidden = torch.cat(parts, dim=1)
        return hidden + self.position.weight[: hidden.shape[1]]

    def maps_given(self, codes: torch.Tensor) -> int:
        """Return how many maps the codes fill; ValueError if they end inside one."""
        stops = [sum(self.counts[:r]) for r in range(len(self.counts) + 1)]
        if codes.ndim != 2 or codes.shape[1] not in stops:
            raise ValueError(
                f"codes must have shape (batch, one of {stops}), got {tuple(codes.shape)}"
            )
        return stops.index(codes.shape[1])


class NextScaleBlock(nn.Module):
    """A pre-norm block of attention and perceptron; `attend` is attention before its output map."""

    def __init__(self, width: int, heads: int, radius: float | None = None) -> None:
        super().__init__()
        self.heads, self.radius = heads, radius
        self.attention_norm = nn.LayerNorm(width)
        self.query = _linear(width, width)
        self.key = _linear(width, width)
        self.value = _linear(width, width)
        self.attention_out = _linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron_in = _linear(width, EXPANSION * width)
        self.perceptron_out = _linear(EXPANSION * width, width)

    def forward(
        self, hidden: torch.Tensor, blocks: Sequence[int] | None, attention: str, eps: float
    ) -> torch.Tensor:
        """Return the hidden vectors of shape (batch, L, width) after this block."""
        mixed, _ = attend(*self.split(hidden), blocks, attention, eps)
        return self.finish(hidden, mixed)

    def split(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values, each of shape (batch, heads, L, d)."""
        x = self.attention_norm(hidden)
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.radius is not None:
            q, k = (self.radius * torch.tanh(y / self.radius) for y in (q, k))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return q, k, v

    def finish(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Add what attention of shape (batch, heads, L, d) gives, and then the perceptron."""
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        inner = F.gelu(self.perceptron_in(self.perceptron_norm(hidden)))
        return hidden + self.perceptron_out(inner)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: Sequence[int] | None,
    attention: str,
    eps: float,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return attention of the kind named, and what polynomial attention says of itself."""
    if check_option("attention", attention, ("exact", "polynomial")) == "exact":
        return exact_attention(q, k, v, blocks=blocks), {}
    return polynomial_attention(q, k, v, eps=eps, blocks=blocks)


def count_flops(
    sides: Sequence[int],
    width: int,
    rank: int | None = None,
    *,
    heads: int = 8,
    layers: int = 1,
) -> dict[str, int]:
    """Count the operations that one image costs, by part.

    Parameters
    ----------
    sides : sequence of int
        Sides of the token maps.
    width : int
        Length of the hidden vectors, a multiple of `heads`.
    rank : int, optional
        Rank of polynomial attention; None is exact attention.
    heads, layers : int
        Attention heads; blocks.

    Returns
    -------
    dict of int
        ``"tokens"`` L; ``"pairs"`` that see each other; and the additions and multiplications of
        ``"attention"``, of the ``"projections"`` to queries, keys, values and back, of the
        ``"perceptron"``, of ``"upsampling"`` between scales, of the ``"feature_map"`` (each scale
        interpolated to n x n, convolved 3 x 3 and summed), and their ``"total"``. Exponentials
        are not counted.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a positive integer or `width` is no multiple of `heads`.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377: exact attention O(n^4), everything else O(n^2).

    Examples
    --------
    >>> exact, fast = count_flops((1, 2, 4, 8), 32), count_flops((1, 2, 4, 8), 32, rank=70)
    >>> exact["tokens"], exact["pairs"], exact["attention"], fast["attention"]
    (85, 5797, 742016, 1047200)
    """
    sides = check_sides(sides)
    width, heads, layers = (
        check_count(name, value)
        for name, value in (("width", width), ("heads", heads), ("layers", layers))
    )
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    counts = [side * side for side in sides]
    tokens, n = sum(counts), sides[-1]
    pairs = sum(count * sum(counts[: r + 1]) for r, count in enumerate(counts))
    if rank is None:
        attention = layers * 4 * width * pairs
    else:
        per_token = attention_flops_per_token(check_count("rank", rank), width // heads)
        attention = layers * heads * 2 * tokens * per_token
    parts = {
        "attention": attention,
        "projections": layers * 8 * tokens * width**2,
        "perceptron": layers * 4 * EXPANSION * tokens * width**2,
        "upsampling": sum(_cubic_flops(a, b, width) for a, b in pairwise(sides)),
        "feature_map": sum(
            _cubic_flops(side, n, width) + 2 * KERNEL_TAPS * (n * width) ** 2 for side in sides
        ),
    }
    return {"tokens": tokens, "pairs": pairs, **parts, "total": sum(parts.values())}


def _cubic_flops(old: int, new: int, width: int) -> int:
    return 2 * CUBIC_TAPS * width * (new * old + new * new)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, inputs, outputs)


@torch.no_grad()
def _initialize(model: nn.Module, layers: int, generator: torch.Generator) -> None:
    """Weights of variance 1/inputs, less where a block adds to the stream and at the head."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0, EMBEDDING_SCALE, generator=generator)
        elif isinstance(module, nn.Linear):
            share = 2 * layers if name.endswith("_out") else 1
            scale = 0.02 if name.startswith("head") else (module.in_features * share) ** -0.5
            module.weight.normal_(0, scale, generator=generator)
            module.bias.zero_()
