import numpy as np
import pytest

from thalweg.transport import median_distance, mmd2


def reference(X, Y, bandwidths):
    """The definition, pair by pair."""
    m = median_distance(X, Y) ** 2

    def k(u, v):
        return np.mean([np.exp(-((u - v) ** 2).sum() / (b * m)) for b in bandwidths])

    def within(Z):
        n = len(Z)
        return sum(k(Z[i], Z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    return within(X) + within(Y) - 2 * np.mean([[k(x, y) for y in Y] for x in X])


def test_is_its_definition():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(9, 3)), rng.normal(0.5, 1.5, size=(7, 3))
    for bandwidths in ((0.25, 0.5, 1.0, 2.0, 4.0), (0.7,)):
        assert mmd2(X, Y, bandwidths=bandwidths) == pytest.approx(reference(X, Y, bandwidths))
    assert mmd2(X, Y) == pytest.approx(reference(X, Y, (0.25, 0.5, 1.0, 2.0, 4.0)))


def test_is_zero_on_average_for_one_law():
    rng = np.random.default_rng(0)
    values = [mmd2(*rng.normal(size=(2, 40, 2))) for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5
    assert min(values) < 0


def test_closed_form_of_two_gaussians():
    """E exp(-|u-v|²/h) of a normal difference is (1 + 2 s²/h)^(-d/2) exp(-|mean|²/(h + 2 s²))."""
    rng = np.random.default_rng(1)
    n, d, shift, b = 1500, 2, 1.0, 1.0
    X, Y = rng.normal(size=(n, d)), rng.normal([shift, 0.0], 1.0, size=(n, d))
    h = b * median_distance(X, Y) ** 2
    same = (1 + 4 / h) ** (-d / 2)
    across = same * np.exp(-(shift**2) / (h + 4))
    assert mmd2(X, Y, bandwidths=[b]) == pytest.approx(2 * (same - across), abs=0.01)


def test_tensors_give_the_same_with_gradients_but_through_the_width():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(30, 2)), rng.normal(1.0, 1.0, size=(30, 2))
    x = torch.tensor(X, requires_grad=True)
    value = mmd2(x, torch.tensor(Y))
    assert value.item() == pytest.approx(mmd2(X, Y))
    (slope,) = torch.autograd.grad(value, x)
    assert slope.isfinite().all()
    assert (slope[:, 0].mean() < 0).item()


def test_bad_bandwidths_are_refused():
    X = np.eye(3)
    with pytest.raises(ValueError, match="bandwidths"):
        mmd2(X, X, bandwidths=[0.0])
    with pytest.raises(ValueError, match="bandwidths"):
        mmd2(X, X, bandwidths=[])
