"""The decoder of a visual autoregressive model: from a map of features to pixels.

Convolutions, one layer of attention over all cells, and interpolation: the third stage, which has
the same quartic cost in its attention as the first, and the same remedy.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A
Fine-Grained Complexity Analysis" (2025), arXiv 2501.04377, the VQ decoder.
"""

from __future__ import annotations

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option, check_real
from thalweg.language.next_scale import attend
from thalweg.language.upsampling import bicubic_upsample

nn = torch.nn


class MapDecoder(nn.Module):
    """Decode a map of features into a larger image.

    Parameters
    ----------
    channels : int, default 1
        Features of a cell.
    width : int, default 32
        Hidden features, a multiple of `heads`.
    heads : int, default 8
        Attention heads, of ``d = width / heads`` entries, with the scale 1/d.
    factor : int, default 2
        How many times larger the image is.
    out_channels : int, default 1
        Channels of the image.
    attention : {"exact", "polynomial"}, default "exact"
        As in `NextScaleTransformer`.
    eps : float, default 1e-3
        Relative error of the weights of polynomial attention.
    rng : None, int or torch.Generator, optional
        Draws the initial weights.

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, the VQ decoder.

    Examples
    --------
    >>> decoder = MapDecoder(rng=0)
    >>> decoder(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 1, 32, 32])
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        heads: int = 8,
        factor: int = 2,
        out_channels: int = 1,
        attention: str = "exact",
        eps: float = 1e-3,
        *,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels, width = check_count("channels", channels), check_count("width", width)
        self.heads, self.factor = check_count("heads", heads), check_count("factor", factor)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.attention = check_option("attention", attention, ("exact", "polynomial"))
        self.eps = check_real("eps", eps, above=0, below=1)
        out_channels = check_count("out_channels", out_channels)
        self.conv_in = _convolution(channels, width, 3)
        self.query, self.key, self.value, self.attention_out = (
            _convolution(width, width, 1) for _ in range(4)
        )
        self.conv_out = _convolution(width, out_channels, 3)
        generator = torch_generator(rng)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                else:
                    inputs = parameter[0].numel()
                    parameter.normal_(0, inputs**-0.5, generator=generator)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return images of shape (batch, out_channels, factor h, factor w).

        Parameters
        ----------
        features : torch.Tensor of shape (batch, channels, h, w)
            Maps of features.
        """
        if features.ndim != 4:
            raise ValueError(
                f"features must have shape (batch, channels, h, w), got {tuple(features.shape)}"
            )
        hidden = self.conv_in(features)
        mixed, _ = attend(*self.split(hidden), None, self.attention, self.eps)
        return self.finish(hidden, mixed)

    def split(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values, each of shape (batch, heads, cells, d)."""
        q, k, v = (
            linear(hidden).flatten(2).unflatten(1, (self.heads, -1)).mT
            for linear in (self.query, self.key, self.value)
        )
        return q, k, v

    def finish(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Add what attention gives, interpolate, and convolve to pixels."""
        height, width = hidden.shape[-2:]
        mixed = mixed.mT.flatten(1, 2).unflatten(-1, (height, width))
        hidden = hidden + self.attention_out(mixed)
        return self.conv_out(bicubic_upsample(hidden, (self.factor * height, self.factor * width)))


def _convolution(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, padding=size // 2)
