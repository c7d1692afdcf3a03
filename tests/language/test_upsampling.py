import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.language import area_downsample, bicubic_upsample
from thalweg.language.upsampling import check_sides, cubic_matrix

torch = pytest.importorskip("torch")

sizes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(0, 9), st.integers(0, 9))


def by_torch(x, size, mode, **options):
    return torch.nn.functional.interpolate(torch.from_numpy(x), size, mode=mode, **options).numpy()


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, 2**32 - 1))
def test_agrees_with_torch_at_its_slope(sizes, seed):
    h, w, more_h, more_w = sizes
    x = np.random.default_rng(seed).normal(size=(2, 3, h, w))
    size = (h + more_h, w + more_w)
    expected = by_torch(x, size, "bicubic", align_corners=False)
    np.testing.assert_allclose(bicubic_upsample(x, size, a=-0.75), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("a", [-0.5, -0.75])
def test_constants_are_kept(a):
    np.testing.assert_allclose(bicubic_upsample(np.full((3, 5), 2.5), (8, 11), a), 2.5, atol=1e-14)


@pytest.mark.parametrize("power", [1, 2])
def test_slope_of_keys_reproduces_linear_and_quadratic_functions_inside(power):
    old, new = 8, 20
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    inside = (centres >= 1) & (centres <= old - 2)
    column = cubic_matrix(old, new) @ np.arange(old) ** float(power)
    np.testing.assert_allclose(column[inside], centres[inside] ** power, rtol=0, atol=1e-12)


def test_kernel_by_hand():
    """A quarter past an entry: W(5/4), W(1/4), W(3/4), W(7/4) of Keys."""
    row = cubic_matrix(6, 12)[5]
    np.testing.assert_allclose(row, [0, -9 / 128, 111 / 128, 29 / 128, -3 / 128, 0], atol=1e-15)


def test_same_size_changes_nothing():
    x = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_allclose(bicubic_upsample(x, (4, 5)), x, rtol=0, atol=1e-15)


def test_axes_are_treated_alike():
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(bicubic_upsample(x.T, (9, 5)), bicubic_upsample(x, (5, 9)).T)


def test_tensors_keep_type_and_gradient():
    x = torch.randn(2, 3, 3, dtype=torch.float32, requires_grad=True)
    out = bicubic_upsample(x, 6)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(
        out.detach().numpy(), bicubic_upsample(x.detach().numpy(), 6), atol=1e-6
    )
    out.sum().backward()
    assert x.grad.sum().item() == pytest.approx(2 * 36, rel=1e-5)


@pytest.mark.parametrize(("old", "new"), [(8, 4), (16, 1), (12, 5), (7, 3), (4, 4)])
def test_areas_partition_the_map(old, new):
    x = np.random.default_rng(0).normal(size=(2, old, old))
    out = area_downsample(x, new)
    np.testing.assert_allclose(out.mean(axis=(1, 2)), x.mean(axis=(1, 2)), atol=1e-14)
    fine = np.repeat(np.repeat(x, new, axis=1), new, axis=2)
    expected = fine.reshape(2, new, old, new, old).mean(axis=(2, 4))
    np.testing.assert_allclose(out, expected, atol=1e-13)


def test_areas_agree_with_torch_where_sides_divide():
    x = np.random.default_rng(0).normal(size=(2, 1, 12, 8))
    np.testing.assert_allclose(area_downsample(x, (4, 2)), by_torch(x, (4, 2), "area"), atol=1e-14)


def test_sides_become_a_tuple():
    assert check_sides([1, 2, 5]) == (1, 2, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bicubic_upsample(np.ones(3), 4), r"x must have shape \(..., h, w\), got \(3,\)"),
        (lambda: bicubic_upsample(np.ones((0, 3)), 4), "x must have shape"),
        (lambda: bicubic_upsample(np.ones((3, 3)), 2), r"size must be at least .* got \(2, 2\)"),
        (lambda: bicubic_upsample(np.ones((2, 3)), (3, 2)), "size must be at least"),
        (lambda: bicubic_upsample(np.ones((2, 2)), (3, 3, 3)), "an integer or two"),
        (lambda: bicubic_upsample(np.ones((2, 2)), 4, a=np.nan), "a must be"),
        (lambda: bicubic_upsample([[np.inf]], 4), "x must be finite"),
        (lambda: bicubic_upsample(torch.full((1, 1), torch.nan), 4), "tensor of finite"),
        (lambda: bicubic_upsample(torch.ones(1, 1, dtype=torch.int64), 4), "got torch.int64"),
        (lambda: area_downsample(np.ones((3, 3)), 4), "size must be at most"),
        (lambda: area_downsample(np.ones((3, 3)), (3, 4)), "size must be at most"),
        (lambda: check_sides([]), "sides must be increasing"),
        (lambda: check_sides([1, 1]), "sides must be increasing"),
        (lambda: check_sides([0, 1]), "sides must be an integer >= 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
