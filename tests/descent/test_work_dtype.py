"""Where an optimizer works in bfloat16."""

import pytest
import torch

from thalweg.descent import _work_dtype
from thalweg.descent._work_dtype import SMALL_SIDE, work_dtype

LARGE = torch.zeros(SMALL_SIDE + 1, SMALL_SIDE + 1)


@pytest.fixture
def capabilities(monkeypatch):
    """Pretend to run on a processor with these instructions."""
    known = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    _work_dtype.multiplies_bfloat16.cache_clear()
    yield known
    _work_dtype.multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("name", "expected"), [("avx2", torch.float32), ("avx512_bf16", torch.bfloat16)]
)
def test_auto_takes_bfloat16_only_where_the_processor_multiplies_it(capabilities, name, expected):
    capabilities[name] = True
    assert work_dtype(LARGE, "auto") == expected


def test_auto_keeps_float64_and_takes_float32_for_small_matrices(capabilities):
    capabilities["amx_bf16"] = True
    assert work_dtype(LARGE.double(), "auto") == torch.float64
    assert work_dtype(LARGE[:SMALL_SIDE], "auto") == torch.float32
    assert work_dtype(LARGE.bfloat16()[:, :SMALL_SIDE], "auto") == torch.float32
    # a convolution of many small kernels is a wide matrix
    assert work_dtype(torch.zeros(SMALL_SIDE + 1, 64, 3, 3), "auto") == torch.bfloat16


def test_a_stated_type_is_taken_whatever_the_matrix():
    assert work_dtype(LARGE[:2], torch.bfloat16) == torch.bfloat16
    assert work_dtype(LARGE.double(), torch.float32) == torch.float32
