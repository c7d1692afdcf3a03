"""Networks that say where a token sequence will end: logits of each token, given tokens and a time.

Both are called as ``network(x, n)`` with tokens (batch, D) and steps (batch,) in 0..N, and return
logits (batch, D, S), as `thalweg.transport.CategoricalBridgeMatching` asks. `TokenMLP` suits few
tokens, `TokenTransformer` long sequences.

Source: "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416; one-hot inputs are
chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count
from thalweg.transport.networks import TimeMLP

HEAD_SCALE = 0.02


class TokenMLP(torch.nn.Module):
    """Multilayer perceptron on the one-hot codes of all tokens together.

    Parameters
    ----------
    n_tokens : int
        Tokens D of a sequence.
    n_categories : int
        Categories S.
    n_inner : int
        Inner times N of the process.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers.
    rng : None, int or torch.Generator
        Source of the initial weights, a generator of the CPU.

    Examples
    --------
    >>> import torch
    >>> network = TokenMLP(2, 5, n_inner=3, rng=0)
    >>> network(torch.tensor([[0, 4], [1, 1]]), torch.tensor([0, 3])).shape
    torch.Size([2, 2, 5])
    """

    def __init__(
        self,
        n_tokens: int,
        n_categories: int,
        n_inner: int,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_tokens = check_count("n_tokens", n_tokens)
        self.n_categories = check_count("n_categories", n_categories, at_least=2)
        self.n_inner = check_count("n_inner", n_inner)
        self.mlp = TimeMLP(self.n_tokens * self.n_categories, hidden=hidden, rng=rng)

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, D, S) for tokens (batch, D) at steps (batch,)."""
        dtype = self.mlp.first.weight.dtype
        codes = torch.nn.functional.one_hot(x, self.n_categories).flatten(1).to(dtype)
        logits: torch.Tensor = self.mlp(n.to(dtype) / (self.n_inner + 1), codes)
        return logits.unflatten(1, (self.n_tokens, self.n_categories))


class TokenTransformer(torch.nn.Module):
    """Transformer encoder on token, position and step embeddings.

    Parameters
    ----------
    n_tokens : int
        Tokens D of a sequence.
    n_categories : int
        Categories S.
    n_inner : int
        Inner times N of the process.
    width : int, default 64
        Width of the embeddings; the inner layers are twice as wide.
    n_layers : int, default 2
        Encoder layers.
    n_heads : int, default 4
        Heads of attention, a divisor of `width`.
    rng : None, int or torch.Generator
        Source of the initial weights, a generator of the CPU; no global state is changed.

    Raises
    ------
    ValueError
        If a size is below 1, or `n_heads` does not divide `width`.

    Examples
    --------
    >>> import torch
    >>> network = TokenTransformer(6, 5, n_inner=3, width=16, rng=0)
    >>> network(torch.zeros(2, 6, dtype=torch.long), torch.tensor([0, 3])).shape
    torch.Size([2, 6, 5])
    """

    def __init__(
        self,
        n_tokens: int,
        n_categories: int,
        n_inner: int,
        *,
        width: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_tokens = check_count("n_tokens", n_tokens)
        self.n_categories = check_count("n_categories", n_categories, at_least=2)
        self.n_inner = check_count("n_inner", n_inner)
        width = check_count("width", width)
        if width % check_count("n_heads", n_heads):
            raise ValueError(f"n_heads must divide width = {width}, got {n_heads}")
        n_layers = check_count("n_layers", n_layers)
        seed = int(torch.randint(2**62, (), generator=torch_generator(rng)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = torch.nn.Embedding(self.n_categories, width)
            self.positions = torch.nn.Embedding(self.n_tokens, width)
            self.steps = torch.nn.Embedding(self.n_inner + 1, width)
            layer = torch.nn.TransformerEncoderLayer(
                width, n_heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            self.encoder = torch.nn.TransformerEncoder(
                layer, n_layers, torch.nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.head = torch.nn.Linear(width, self.n_categories)
            torch.nn.init.normal_(self.head.weight, std=HEAD_SCALE)
            torch.nn.init.zeros_(self.head.bias)
            for other in self.encoder.layers[1:]:
                other.linear1.reset_parameters()
                other.linear2.reset_parameters()
                other.self_attn._reset_parameters()

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, D, S) for tokens (batch, D) at steps (batch,)."""
        embedded = self.tokens(x) + self.positions.weight + self.steps(n)[:, None]
        logits: torch.Tensor = self.head(self.encoder(embedded))
        return logits
