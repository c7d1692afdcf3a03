import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import approx_fprime, minimize

from thalweg.transport import ConvexCost, convex_cost

A = np.array([[2.0, 0.5], [0.5, 1.0]])
SHIPPED = [
    "sqeuclidean",
    ("power", 1.3),
    ("power", 2.0),
    ("power", 4.0),
    ("norm", 1.5),
    ("norm", 3.0),
    ("quadratic", A),
]
VECTORS = arrays(np.float64, (4, 2), elements=st.floats(-5, 5, allow_subnormal=False))


@pytest.mark.parametrize("spec", SHIPPED)
@given(y=VECTORS)
@settings(deadline=None, max_examples=30)
def test_fenchel_young_holds_with_equality_at_the_gradient(spec, y):
    c = convex_cost(spec)
    x = c.grad_conjugate(y)
    product = (x * y).sum(1)
    np.testing.assert_allclose(c.cost(x) + c.conjugate(y), product, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(c.gradient(x), y, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("spec", SHIPPED)
@given(x=VECTORS, y=VECTORS)
@settings(deadline=None, max_examples=30)
def test_fenchel_young_inequality(spec, x, y):
    c = convex_cost(spec)
    assert (c.cost(x) + c.conjugate(y) >= (x * y).sum(1) - 1e-9).all()


@pytest.mark.parametrize("spec", SHIPPED)
def test_conjugate_is_the_largest_difference(spec):
    c, y = convex_cost(spec), np.array([0.7, -1.4])
    found = minimize(lambda x: float(c.cost(x[None])[0] - x @ y), np.ones(2), tol=1e-10)
    assert -found.fun == pytest.approx(float(c.conjugate(y[None])[0]), rel=1e-6)


@pytest.mark.parametrize("spec", SHIPPED)
def test_gradients_are_those_of_the_values(spec):
    c, x = convex_cost(spec), np.array([0.7, -1.4])
    for value, gradient in ((c.cost, c.gradient), (c.conjugate, c.grad_conjugate)):
        slope = approx_fprime(x, lambda z, value=value: float(value(z[None])[0]))
        np.testing.assert_allclose(gradient(x[None])[0], slope, rtol=1e-5)


def test_costs_have_the_values_of_their_formulas():
    x = np.array([[3.0, -4.0]])
    assert convex_cost("sqeuclidean").cost(x)[0] == pytest.approx(12.5)
    assert convex_cost(("power", 3.0)).cost(x)[0] == pytest.approx((27 + 64) / 3)
    assert convex_cost(("norm", 3.0)).cost(x)[0] == pytest.approx(125 / 3)
    assert convex_cost(("quadratic", A)).cost(x)[0] == pytest.approx((18 - 12 + 16) / 2)


@pytest.mark.parametrize("spec", SHIPPED)
def test_tensors_and_arrays_agree_and_the_origin_has_a_gradient(spec):
    torch = pytest.importorskip("torch")
    c = convex_cost(spec)
    x = np.array([[0.3, -2.0], [0.0, 0.0], [0.0, 1.0]])
    tensor = torch.from_numpy(x).requires_grad_()
    for name in ("cost", "conjugate", "grad_conjugate", "gradient"):
        found = getattr(c, name)(tensor)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found.detach(), getattr(c, name)(x), rtol=1e-12, atol=1e-15)
    (slope,) = torch.autograd.grad(c.conjugate(tensor).sum(), tensor)
    np.testing.assert_allclose(slope, c.grad_conjugate(x), rtol=1e-12, atol=1e-15)


class Cosh:
    """``sum cosh(x_i) - 1``, a cost of one's own."""

    factor, wrong_gradient = 1.0, 1.0

    def cost(self, x):
        return (x.cosh() - 1).sum(1)

    def conjugate(self, y):
        return self.factor * (y * y.asinh() - (1 + y * y).sqrt() + 1).sum(1)

    def grad_conjugate(self, y):
        return self.wrong_gradient * y.asinh()


def test_own_cost_is_taken_with_its_gradient():
    pytest.importorskip("torch")
    c = convex_cost(Cosh(), 3)
    assert isinstance(c, ConvexCost)
    assert convex_cost(c, 3) is c
    x = np.array([[0.5, -1.0, 2.0]])
    np.testing.assert_allclose(c.gradient(x), np.sinh(x))
    np.testing.assert_allclose(c.grad_conjugate(np.sinh(x)), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 1.001}, r"c\(x\) \+ c\*\(y\) = x\.y at"),
        ({"wrong_gradient": 0.9}, r"c\(x\) \+ c\*\(y\) = x\.y at"),
        ({"factor": float("nan")}, "Fenchel-Young"),
        ({"conjugate": lambda y: 0 * y.sum(1)}, "Fenchel-Young"),
        ({"conjugate": lambda y: y}, r"cost\.conjugate must return shape \(192,\)"),
        ({"grad_conjugate": lambda y: y.sum(1)}, r"cost\.grad_conjugate must keep the shape"),
    ],
)
def test_own_cost_without_its_conjugate_is_refused(change, message):
    pytest.importorskip("torch")
    cost = Cosh()
    for name, value in change.items():
        setattr(cost, name, value)
    with pytest.raises(ValueError, match=message):
        convex_cost(cost)


class Concave:
    """Satisfies the equality at its gradient, not the inequality."""

    def cost(self, x):
        return -(x * x).sum(1) / 2

    def conjugate(self, y):
        return -(y * y).sum(1) / 2

    def grad_conjugate(self, y):
        return -y


def test_concave_cost_is_refused():
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"c\(x\) \+ c\*\(y\) >= x\.y"):
        convex_cost(Concave())


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("euclidean", ValueError, "cost must be 'sqeuclidean'"),
        (("power", 1.0), ValueError, "p must be a finite number > 1, got 1.0"),
        (("norm", 0.5), ValueError, "p must be a finite number > 1, got 0.5"),
        (("power", "2"), TypeError, "p must be"),
        (("power",), ValueError, r"cost must be \('power', p\)"),
        (("cubic", 3.0), ValueError, r"cost must be \('power', p\)"),
        (("quadratic", [[1.0, 2.0], [2.0, 1.0]]), ValueError, "A must be positive definite"),
        (("quadratic", [[1.0, 0.1], [0.0, 1.0]]), ValueError, "A must be symmetric"),
        (("quadratic", [[1.0, 0.0]]), ValueError, "A must be square"),
        (("quadratic", np.eye(3)), ValueError, r"A must have shape \(2, 2\), got \(3, 3\)"),
        (object(), TypeError, "lacks cost, conjugate, grad_conjugate"),
    ],
)
def test_bad_costs_are_refused_by_name(spec, error, message):
    with pytest.raises(error, match=message):
        convex_cost(spec, 2)
