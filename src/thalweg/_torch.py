"""PyTorch, or an error that says how to install it: modules that train networks import it here."""

from __future__ import annotations

from thalweg._optional import MissingExtraError

try:
    import torch as torch
except ImportError as error:
    raise MissingExtraError("torch") from error


def torch_generator(
    rng: int | torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator on `device`: fresh for None, seeded for an int, itself for a generator."""
    if isinstance(rng, torch.Generator):
        return rng
    generator = torch.Generator(device=device)
    if rng is None:
        generator.seed()
    elif isinstance(rng, int) and not isinstance(rng, bool):
        generator.manual_seed(rng)
    else:
        raise TypeError(f"rng must be None, an int or a torch.Generator, got {rng!r}")
    return generator
