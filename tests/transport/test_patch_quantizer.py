import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from thalweg.transport import PatchQuantizer


@pytest.fixture
def images():
    return np.random.default_rng(0).random((30, 6, 9))


def test_images_made_of_codes_come_back_unchanged(images):
    quantizer = PatchQuantizer(3, 7, rng=0).fit(images)
    tokens = np.random.default_rng(1).integers(7, size=(12, 6))
    decoded = quantizer.inverse_transform(tokens)
    assert decoded.shape == (12, 6, 9)
    np.testing.assert_array_equal(quantizer.transform(decoded), tokens)


def test_patches_are_in_reading_order(images):
    quantizer = PatchQuantizer(3, 7, rng=0).fit(images)
    decoded = quantizer.inverse_transform(np.arange(6)[None])
    for d in range(6):
        row, column = divmod(d, 3)
        block = decoded[0, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        np.testing.assert_array_equal(block.ravel(), quantizer.centroids_[d])


def test_every_patch_gets_its_nearest_code(images):
    quantizer = PatchQuantizer(3, 7, rng=0).fit(images)
    tokens = quantizer.transform(images)
    assert tokens.shape == (30, 6)
    patch = images[4, 3:6, 6:9].ravel()
    distances = cdist(patch[None], quantizer.centroids_)[0]
    assert tokens[4, 5] == distances.argmin()


def test_codes_are_found_and_sorted_by_brightness():
    levels = np.array([0.9, 0.1, 0.5])
    images = levels[np.random.default_rng(0).integers(3, size=(200, 1, 1))] * np.ones((1, 2, 2))
    quantizer = PatchQuantizer(2, 3, rng=0).fit(images)
    np.testing.assert_allclose(quantizer.centroids_, np.sort(levels)[:, None] * np.ones(4))


def test_seed_decides(images):
    tokens = [PatchQuantizer(3, 5, rng=1).fit_transform(images) for _ in range(2)]
    np.testing.assert_array_equal(*tokens)
    assert clone(PatchQuantizer(3, 5, rng=1)).get_params() == {"patch": 3, "n_codes": 5, "rng": 1}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda X: PatchQuantizer(4).fit(X), r"X must have sides that 4 divides, got .*30, 6, 9"),
        (lambda X: PatchQuantizer(3, 181).fit(X), "n_codes must be at most the 180 patches"),
        (lambda X: PatchQuantizer(0).fit(X), "patch must be an integer >= 1, got 0"),
        (lambda X: PatchQuantizer(3, 1).fit(X), "n_codes must be an integer >= 2, got 1"),
        (lambda X: PatchQuantizer(3).fit(X[0]), "X must have 3 axes"),
        (lambda X: PatchQuantizer(3, 5).fit(X * np.nan), "X must be finite"),
        (lambda X: PatchQuantizer(3, 5).fit(X).transform(X[:, :3]), "X must have shape"),
        (
            lambda X: PatchQuantizer(3, 5).fit(X).inverse_transform([[0, 1]]),
            r"X must have shape \(n, 6\)",
        ),
        (
            lambda X: PatchQuantizer(3, 5).fit(X).inverse_transform([[5] * 6]),
            r"X must be whole numbers in 0\.\.4, got 5",
        ),
    ],
)
def test_bad_input_is_refused_by_name(images, call, match):
    with pytest.raises(ValueError, match=match):
        call(images)


def test_transform_needs_a_fit(images):
    with pytest.raises(NotFittedError):
        PatchQuantizer().transform(images)
