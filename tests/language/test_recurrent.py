"""Backpropagation by parallel steps: the gradients of autograd, in fewer iterations."""

import pytest

torch = pytest.importorskip("torch")

from thalweg.language import JacobiBackwardRNN, rnn_adjoint  # noqa: E402

METHODS = ("jacobi", "gauss-seidel", "jacobi-gs", "gs-jacobi")
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def pair(tol=1e-6, hidden=7, inputs=3):
    """Our layer, and torch's with the same weights."""
    ours = JacobiBackwardRNN(inputs, hidden, tol, rng=0)
    theirs = torch.nn.RNN(inputs, hidden)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def sequences(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tol", [1e-6, 0.0])
@pytest.mark.parametrize("whole", [True, False])
def test_layer_agrees_with_torch_and_its_gradients(tol, whole):
    ours, theirs = pair(tol)
    results = []
    for layer in (ours, theirs):
        x = sequences(40, 5, 3).requires_grad_()
        start = sequences(1, 5, 7, seed=2).requires_grad_()
        output, last = layer(x, start)
        loss = (output**3).sum() if whole else (last**2).sum() + last.sum()
        loss.backward()
        results.append(
            [
                output.detach(),
                last.detach(),
                x.grad,
                start.grad,
                *(getattr(layer, n).grad for n in NAMES),
            ]
        )
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=1e-5 * float(exact.abs().max()) + 1e-8)


def test_gradients_pass_a_finite_difference_check():
    layer = JacobiBackwardRNN(2, 3, 0.0, rng=0).double()
    x = sequences(6, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (x,))


def test_a_forgetful_layer_needs_few_iterations():
    ours, _ = pair(hidden=16)
    _, last = ours(sequences(300, 2, 3))
    assert ours.backward_iterations is None
    last.sum().backward()
    assert 5 < ours.backward_iterations < 60


def test_a_looser_tolerance_takes_fewer_iterations():
    counts = []
    for tol in (1e-2, 1e-4, 1e-6):
        layer, _ = pair(tol, hidden=16)
        layer(sequences(200, 2, 3))[1].sum().backward()
        counts.append(layer.backward_iterations)
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("method", METHODS)
def test_adjoint_is_the_recurrence(method):
    """a_t = g_t + J_{t+1}' a_{t+1}, with another matrix for each step and example."""
    jacobians, g = sequences(11, 2, 3, 3) / 2, sequences(11, 2, 3, seed=2)
    expected = g.clone()
    for t in reversed(range(10)):
        expected[t] += torch.einsum("bij,bi->bj", jacobians[t + 1], expected[t + 1])

    def vjp(a, t):
        assert (t[1:] == t[:-1] + 1).all()
        assert t[0] >= 1
        assert t[-1] <= 10
        return torch.einsum("tbij,tbi->tbj", jacobians[t], a)

    adjoint, result = rnn_adjoint(vjp, g, method, 0.0, block_size=4, full_output=True)
    torch.testing.assert_close(adjoint, expected, rtol=1e-5, atol=1e-5)
    assert adjoint.shape == g.shape
    assert result.nit <= 11


def test_iterations_sum_paths_of_growing_length():
    """With a_t = g_t + a_{t+1} / 2, k iterations give the sum of k powers."""
    g = torch.ones(20, 1, 1)
    for k in (1, 2, 5):
        adjoint, result = rnn_adjoint(lambda a, t: a / 2, g, tol=0, max_iter=k, full_output=True)
        assert adjoint[0].item() == pytest.approx(2 - 2.0 ** (1 - k))
        assert adjoint[-1].item() == 1
        assert not result.success


def test_truncated_gradients_are_returned_where_iterations_are_bounded():
    adjoint = rnn_adjoint(lambda a, t: a / 2, torch.ones(20, 1, 1), max_iter=1)
    torch.testing.assert_close(adjoint, torch.ones(20, 1, 1))


def test_tolerance_is_relative_to_the_direct_gradient():
    ones = torch.ones(60, 1, 1, dtype=torch.float64)
    for scale in (1e-12, 1.0, 1e12):
        _, result = rnn_adjoint(lambda a, t: a / 2, scale * ones, tol=1e-3, full_output=True)
        assert result.nit == 11  # 2 ** -10 is the first power not above 1e-3


def test_one_step_has_nothing_to_pass_on():
    def never(a, t):
        raise AssertionError

    g = torch.ones(1, 2, 3)
    torch.testing.assert_close(rnn_adjoint(never, g), g)


def test_exploding_gradients_are_refused():
    with pytest.raises(FloatingPointError, match="the gradients overflow: State"):
        rnn_adjoint(lambda a, t: 1e30 * a, torch.ones(5, 1, 1))
    layer = JacobiBackwardRNN(1, 1, rng=0)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1e30)
        layer.weight_ih_l0.fill_(0)
        layer.bias_ih_l0.fill_(0)
        layer.bias_hh_l0.fill_(0)
    output, _ = layer(torch.zeros(5, 1, 1))
    with pytest.raises(FloatingPointError, match="the gradients overflow"):
        output.sum().backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rnn_adjoint(abs, [1.0]), TypeError, "grad_h must be a floating tensor, got list"),
        (lambda: rnn_adjoint(abs, torch.zeros(2, 3)), ValueError, r"\(T, B, H\), got \(2, 3\)"),
        (lambda: rnn_adjoint(abs, torch.full((1, 1, 1), torch.nan)), ValueError, "must be finite"),
        (lambda: rnn_adjoint(abs, torch.zeros(2, 1, 1), tol=-1), ValueError, "tol must be"),
        (
            lambda: rnn_adjoint(lambda a, t: a[..., :1], torch.ones(3, 1, 2)),
            ValueError,
            r"vjp_fn must return shape \(2, 1, 2\), got \(2, 1, 1\)",
        ),
        (lambda: JacobiBackwardRNN(0, 2), ValueError, "input_size must be"),
        (lambda: JacobiBackwardRNN(2, 2, -1.0), ValueError, "tol must be"),
        (
            lambda: JacobiBackwardRNN(2, 2)(torch.zeros(3, 1, 1)),
            ValueError,
            r"x must have shape \(T, B, 2\), got \(3, 1, 1\)",
        ),
        (
            lambda: JacobiBackwardRNN(2, 2)(torch.zeros(3, 1, 2), torch.zeros(1, 2, 2)),
            ValueError,
            r"hx must have shape \(1, 1, 2\), got \(1, 2, 2\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
