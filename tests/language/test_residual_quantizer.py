import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

from thalweg.language import ResidualQuantizer, bicubic_upsample

torch = pytest.importorskip("torch")

SIDES = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:400] / 16


@pytest.fixture(scope="module")
def fitted(digits):
    return ResidualQuantizer(SIDES, 12, rng=0).fit(digits)


def decoded_by_torch(quantizer, codes):
    """Look up, interpolate, convolve with edges repeated, and sum."""
    total, start = 0, 0
    for side, book, kernel in zip(
        quantizer.sides, quantizer.codebooks_, quantizer.kernels_, strict=True
    ):
        part = codes[:, start : start + side * side].reshape(-1, side, side)
        start += side * side
        raised = bicubic_upsample(torch.from_numpy(book)[part].permute(0, 3, 1, 2), 8)
        padded = torch.nn.functional.pad(raised, (1, 1, 1, 1), mode="replicate")
        weight = torch.from_numpy(kernel).reshape(3, 3, *kernel.shape[1:]).permute(2, 3, 0, 1)
        total = total + torch.nn.functional.conv2d(padded, weight)
    return total.permute(0, 2, 3, 1).numpy()


def test_every_scale_leaves_less(fitted, digits):
    assert (np.diff(fitted.errors_) < 0).all()
    codes = fitted.transform(digits)
    for r in range(4):
        tokens = sum(side**2 for side in SIDES[: r + 1])
        error = np.mean((fitted.inverse_transform(codes[:, :tokens]) - digits) ** 2)
        assert error == pytest.approx(fitted.errors_[r], rel=1e-9)


def test_no_codes_are_the_zero_map(fitted):
    maps = fitted.inverse_transform(np.zeros((3, 0), dtype=int))
    np.testing.assert_array_equal(maps, np.zeros((3, 8, 8)))


def test_decoding_agrees_with_torch(fitted, digits):
    codes = fitted.transform(digits[:20])
    expected = decoded_by_torch(fitted, codes)[..., 0]
    np.testing.assert_allclose(fitted.inverse_transform(codes), expected, rtol=0, atol=1e-12)


def test_channels_are_mixed_as_by_torch(digits):
    colour = np.stack([digits, digits[::-1], digits * digits[::-1]], axis=-1)
    quantizer = ResidualQuantizer(SIDES, 12, rng=0).fit(colour)
    codes = quantizer.transform(colour)
    found = quantizer.inverse_transform(codes)
    assert found.shape == colour.shape
    np.testing.assert_allclose(found, decoded_by_torch(quantizer, codes), rtol=0, atol=1e-12)
    assert np.mean((found - colour) ** 2) == pytest.approx(quantizer.errors_[-1], rel=1e-9)


def test_codes_are_the_nearest_entries(fitted, digits):
    coarsest = digits.mean(axis=(1, 2))
    nearest = np.abs(coarsest[:, None] - fitted.codebooks_[0][:, 0]).argmin(axis=1)
    np.testing.assert_array_equal(fitted.transform(digits)[:, 0], nearest)


def test_smoothing_is_the_best_of_its_size(fitted, digits):
    """At the first scale: no small change of the kernel lowers the error."""
    codes = fitted.transform(digits)[:, :1]
    rng = np.random.default_rng(0)
    best = np.mean((fitted.inverse_transform(codes) - digits) ** 2)
    kernels = fitted.kernels_.copy()
    try:
        for _ in range(20):
            fitted.kernels_[0] = kernels[0] + 1e-2 * rng.normal(size=kernels[0].shape)
            assert np.mean((fitted.inverse_transform(codes) - digits) ** 2) > best - 1e-9
    finally:
        fitted.kernels_ = kernels


def test_constant_zero_maps_are_kept():
    maps = np.zeros((5, 4, 4))
    quantizer = ResidualQuantizer((2, 4), 2, rng=0).fit(maps)
    np.testing.assert_array_equal(quantizer.inverse_transform(quantizer.transform(maps)), maps)


def test_the_seed_decides(digits):
    first, second, other = (
        ResidualQuantizer(SIDES, 12, samples=300, rng=seed).fit(digits).codebooks_
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_is_a_cloneable_estimator(fitted, digits):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(digits)


X = np.random.default_rng(0).normal(size=(30, 8, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResidualQuantizer((2, 1)).fit(X), "sides must be increasing"),
        (lambda: ResidualQuantizer(codebook=0).fit(X), "codebook must be"),
        (lambda: ResidualQuantizer(n_iter=0).fit(X), "n_iter must be"),
        (lambda: ResidualQuantizer(samples=5).fit(X), "codebook must be at most"),
        (lambda: ResidualQuantizer(codebook=31).fit(X), "got 31 for 30 and 20000"),
        (lambda: ResidualQuantizer(codebook=4).fit(X[:, :7]), r"X must have shape \(maps, 8, 8\)"),
        (lambda: ResidualQuantizer(codebook=4).fit(X[0]), "X must have shape"),
        (lambda: ResidualQuantizer(codebook=4).fit(X * np.nan), "X must be finite"),
    ],
)
def test_bad_input_of_fit_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 3)), r"one of \[0, 1, 5, 21, 85\] tokens, got 3"),
        (np.full((2, 1), 12), "integers from 0 to 11"),
        (np.full((2, 1), -1), "integers from 0 to 11"),
        (np.full((2, 1), 0.5), "integers from 0 to 11"),
    ],
)
def test_bad_codes_are_refused_by_name(fitted, codes, message):
    with pytest.raises(ValueError, match=message):
        fitted.inverse_transform(codes)


def test_other_channels_are_refused(fitted):
    with pytest.raises(ValueError, match="X must have 1 channels, got 2"):
        fitted.transform(np.zeros((3, 8, 8, 2)))
