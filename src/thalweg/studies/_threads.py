"""How many threads a study's networks are trained with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from thalweg._torch import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: products as small as these lose time to more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
