"""A causal transformer small enough to train on a laptop core, and text as characters for it.

For trying an optimizer or a training method on a real sequence model in seconds to minutes. The
model is a pre-norm GPT whose embedding, blocks and head are attributes, so that a method can
freeze, split or perturb them one by one; `language_loss` treats models of Hugging Face alike.

Source: the architecture of "Language Models are Unsupervised Multitask Learners" (2019); used as
the stand-in of "ZO-AdaMU Optimizer" (2023), arXiv 2312.15184, and others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count

nn, F = torch.nn, torch.nn.functional


class TinyTransformer(nn.Module):
    """A causal transformer over a small vocabulary.

    Parameters
    ----------
    vocabulary : int
        Number of distinct tokens.
    width : int, default 64
        Length of the hidden vectors, a multiple of `heads`.
    depth : int, default 2
        Number of blocks.
    heads : int, default 4
        Attention heads of a block.
    context : int, default 64
        Longest sequence.
    expansion : int, default 4
        Hidden units of the block's perceptron, as a multiple of `width`.
    rng : None, int or torch.Generator, optional
        Draws the initial weights.

    Attributes
    ----------
    embed : nn.Module
        Ids to hidden vectors: token plus position.
    blocks : nn.ModuleList
        Hidden vectors to hidden vectors.
    head : nn.Module
        Norm and linear map to logits.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer or `width` is no multiple of `heads`.

    Examples
    --------
    >>> model = TinyTransformer(65, rng=0)
    >>> ids = torch.zeros(8, 64, dtype=torch.int64)
    >>> model(ids).shape
    torch.Size([8, 64, 65])
    >>> sum(p.numel() for p in model.parameters())
    112577
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        context: int = 64,
        expansion: int = 4,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        vocabulary = check_count("vocabulary", vocabulary)
        width, heads = check_count("width", width), check_count("heads", heads)
        depth, expansion = check_count("depth", depth), check_count("expansion", expansion)
        self.context = check_count("context", context)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.embed = _Embedding(vocabulary, width, context)
        self.blocks = nn.ModuleList(_Block(width, heads, expansion) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width), _linear(width, vocabulary))
        _initialize(self, depth, torch_generator(rng))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, length, vocabulary) for ids of shape (batch, length)."""
        if ids.ndim != 2 or ids.shape[1] > self.context:
            raise ValueError(
                f"ids must have shape (batch, length <= {self.context}), got {tuple(ids.shape)}"
            )
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


class CharText:
    """A text as a sequence of character ids.

    Parameters
    ----------
    text : str
        The text, not empty.
    vocabulary : str, optional
        Its characters in the order of their ids; by default those of `text`, sorted.

    Attributes
    ----------
    vocabulary : str
        Character number i stands at position i.
    ids : torch.Tensor of int64
        The text encoded.

    Raises
    ------
    ValueError
        If the text is empty, the vocabulary repeats a character, or the text has one outside it.

    Examples
    --------
    >>> text = CharText("to be or not to be")
    >>> text.vocabulary
    ' benort'
    >>> text.decode(text.encode("bone"))
    'bone'
    >>> next(text.batches(batch_size=4, context=8, rng=0)).shape
    torch.Size([4, 9])
    """

    def __init__(self, text: str, *, vocabulary: str | None = None) -> None:
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, got {type(text).__name__}")
        if not text or vocabulary == "":
            raise ValueError(f"text and vocabulary must not be empty, got {text!r}, {vocabulary!r}")
        self.vocabulary = "".join(sorted(set(text))) if vocabulary is None else vocabulary
        codes = _code_points(self.vocabulary)
        self._order = np.argsort(codes)
        self._codes = codes[self._order]
        if (np.diff(self._codes) == 0).any():
            raise ValueError(f"vocabulary must not repeat a character, got {self.vocabulary!r}")
        self.ids = self.encode(text)

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, text: str) -> torch.Tensor:
        """Return the ids of the characters of `text`, int64; ValueError for one not known."""
        codes = _code_points(text)
        found = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        unknown = np.flatnonzero(self._codes[found] != codes)
        if unknown.size:
            character = text[unknown[0]]
            raise ValueError(f"text must be made of the vocabulary's characters, got {character!r}")
        return torch.from_numpy(self._order[found])

    def decode(self, ids: torch.Tensor) -> str:
        """Return the text of a sequence of ids."""
        return "".join(self.vocabulary[int(i)] for i in ids)

    def batches(
        self, batch_size: int, context: int, rng: int | torch.Generator | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield random windows of `context` + 1 characters, for ever.

        Parameters
        ----------
        batch_size : int
            Windows of a batch.
        context : int
            Characters that a model sees; the window has one more to be predicted.
        rng : None, int or torch.Generator, optional
            Draws where the windows begin.

        Yields
        ------
        torch.Tensor of shape (batch_size, context + 1)
            Ids, for `language_loss`.
        """
        batch_size = check_count("batch_size", batch_size)
        windows = self._all_windows(context)
        generator = torch_generator(rng)

        def draw() -> Iterator[torch.Tensor]:
            while True:
                yield windows[torch.randint(len(windows), (batch_size,), generator=generator)]

        return draw()

    def windows(self, context: int) -> torch.Tensor:
        """Return the windows that cover the text once, shape (count, context + 1), to evaluate on.

        The last character of a window is the first of the next; a rest that fills no window is
        left out.
        """
        return self._all_windows(context)[::context]

    def _all_windows(self, context: int) -> torch.Tensor:
        context = check_count("context", context, at_most=len(self) - 1) if len(self) > 1 else 0
        if not context:
            raise ValueError("text must have two characters at least to predict one")
        return self.ids.unfold(0, context + 1, 1)


def language_loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, in nats a token, of predicting each next token.

    Parameters
    ----------
    model : nn.Module
        From ids of shape (batch, length) to logits, or to an object with ``.logits`` as the causal
        models of Hugging Face give.
    batch : torch.Tensor of shape (batch, length + 1)
        Ids; all but the last column are shown, all but the first are predicted.

    Returns
    -------
    torch.Tensor
        A scalar with gradient.

    Raises
    ------
    ValueError
        If a sequence has fewer than two tokens.

    Examples
    --------
    >>> text = CharText("abab" * 20)
    >>> loss = language_loss(TinyTransformer(2, rng=0), text.windows(16))
    >>> 0.5 < loss.item() < 1.0
    True
    """
    if batch.ndim != 2 or batch.shape[1] < 2:
        raise ValueError(f"batch must have shape (batch, 2 or more), got {tuple(batch.shape)}")
    output = model(batch[:, :-1])
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.dtype("<u4"))


class _Embedding(nn.Module):
    def __init__(self, vocabulary: int, width: int, context: int) -> None:
        super().__init__()
        self.token = nn.utils.skip_init(nn.Embedding, vocabulary, width)
        self.position = nn.utils.skip_init(nn.Embedding, context, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.token(ids) + self.position.weight[: ids.shape[1]]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = _linear(width, 3 * width)
        self.attention_out = _linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron_in = _linear(width, expansion * width)
        self.perceptron_out = _linear(expansion * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self._attend(self.attention_norm(hidden))
        inner = F.gelu(self.perceptron_in(self.perceptron_norm(hidden)), approximate="tanh")
        return hidden + self.perceptron_out(inner)

    def _attend(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        split = self.attention_in(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, inputs, outputs)


@torch.no_grad()
def _initialize(model: TinyTransformer, depth: int, generator: torch.Generator) -> None:
    """Weights of variance 1/inputs, less where a block adds to the stream; small at both ends."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0, 0.02, generator=generator)
        elif isinstance(module, nn.Linear):
            share = 2 * depth if name.endswith("_out") else 1
            scale = 0.02 if name.startswith("head") else (module.in_features * share) ** -0.5
            module.weight.normal_(0, scale, generator=generator)
            module.bias.zero_()
