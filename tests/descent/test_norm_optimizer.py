import copy
import io

import numpy as np
import pytest
import scipy.linalg

from thalweg.descent import norm_trust_region

torch = pytest.importorskip("torch")
from thalweg.descent import Muon, NormTrustRegion  # noqa: E402

EXACT = {"orthogonaliser": "svd"}


def tensor(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=dtype)


def parameter(*shape, seed=0, dtype=torch.float64):
    return torch.nn.Parameter(tensor(*shape, seed=seed, dtype=dtype))


def step_with(optimizer, weight, gradient):
    weight.grad = gradient.clone()
    optimizer.step()


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.5, generator=generator)
    return model


def train(model, optimizer, steps, start=0):
    for k in range(start, start + steps):
        x = tensor(8, 5, seed=k, dtype=torch.float32)
        optimizer.zero_grad()
        ((model(x) - x[:, :1]) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"norm": "spectral", **EXACT}, {"norm": "spectral"}),
        ({"norm": "linf"}, {"norm": "linf"}),
        ({"norm": "l2"}, {"norm": "l2"}),
        ({"norm": "spectral", "orthogonalise": "before", **EXACT},
         {"norm": "spectral", "orthogonalise": "before"}),
        ({"norm": "row", "weight_decay": 0.1}, {"norm": "row", "weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_follows_the_minimiser_of_functions(settings, same):
    target = np.random.default_rng(1).normal(size=(4, 3))
    expected = norm_trust_region(
        lambda x: 0.0, np.zeros((4, 3)), jac=lambda x: x - target, radius=0.05, alpha=0.3,
        maxiter=25, **same,
    ).x  # fmt: skip
    weight = torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = NormTrustRegion([weight], 0.05, alpha=0.3, **settings)
    for _ in range(25):
        step_with(optimizer, weight, weight.detach() - torch.tensor(target))
    np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-12)


def test_extrapolation_follows_the_minimiser_and_eval_shows_its_point():
    target = np.random.default_rng(1).normal(size=(4, 3))
    asked = []

    def jac(x):
        asked.append(x.copy())
        return x - target

    expected = norm_trust_region(
        lambda x: 0.0, np.zeros((4, 3)), jac=jac, norm="spectral", radius=0.05, alpha=0.3,
        maxiter=10, weight_decay=0.02, extrapolate=True,
    ).x  # fmt: skip
    weight = torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = NormTrustRegion(
        [weight], 0.05, alpha=0.3, weight_decay=0.02, extrapolate=True, **EXACT
    )
    for point in asked:
        np.testing.assert_allclose(weight.detach().numpy(), point, atol=1e-12)
        step_with(optimizer, weight, weight.detach() - torch.tensor(target))
    ahead = weight.detach().clone()
    optimizer.eval()
    np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-12)
    with pytest.raises(RuntimeError, match="call train"):
        optimizer.step()
    optimizer.train()
    assert torch.equal(weight, ahead)


def test_moves_along_the_direction_of_muon():
    gradients = [tensor(6, 4, seed=k) for k in range(8)]
    ours, theirs = parameter(6, 4), parameter(6, 4)
    optimizer = NormTrustRegion([ours], 0.02, alpha=0.05)
    muon = Muon(
        [theirs],
        lr=0.02 / (6 / 4) ** 0.5,
        momentum=0.95,
        nesterov=False,
        schedule="jordan",
        n_iter=5,
        dtype=torch.float64,
    )
    for k, gradient in enumerate(gradients):
        step_with(muon, theirs, gradient)
        step_with(optimizer, ours, gradient * (0.05 if k == 0 else 1.0))
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=1e-7)


def test_kernel_of_a_convolution_moves_as_a_flat_matrix():
    kernel = parameter(4, 3, 2, 2)
    before = kernel.detach().clone()
    step_with(NormTrustRegion([kernel], 0.1, **EXACT), kernel, tensor(4, 3, 2, 2, seed=1))
    expected = scipy.linalg.polar(tensor(4, 3, 2, 2, seed=1).reshape(4, 12).numpy())[0]
    moved = (before - kernel.detach()).reshape(4, 12).numpy() / 0.1
    np.testing.assert_allclose(moved, expected, atol=1e-10)


def test_vectors_use_the_vector_norm():
    gradient = torch.tensor([3.0, -4.0], dtype=torch.float64)
    for norm, step in (("linf", [-1.0, 1.0]), ("l2", [-0.6, 0.8]), ("l1", [0.0, 1.0])):
        bias = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        step_with(NormTrustRegion([bias], 1.0, vector_norm=norm), bias, gradient)
        np.testing.assert_allclose(bias.detach().numpy(), step, atol=1e-12)


@pytest.mark.parametrize("extrapolate", [False, True])
@pytest.mark.parametrize("orthogonalise", ["after", "before"])
def test_resuming_from_a_saved_state_equals_not_stopping(extrapolate, orthogonalise):
    settings = {"alpha": 0.2, "extrapolate": extrapolate, "orthogonalise": orthogonalise}
    model = network()
    optimizer = NormTrustRegion(model.parameters(), 0.05, **settings)
    train(model, optimizer, 5)
    saved = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), saved)
    train(model, optimizer, 5, start=5)

    saved.seek(0)
    weights, state = torch.load(saved)
    resumed = network(seed=1)
    resumed.load_state_dict(weights)
    other = NormTrustRegion(resumed.parameters(), lr=0.5)
    other.load_state_dict(state)
    train(resumed, other, 5, start=5)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_saved_in_eval_resumes_with_train():
    model = network()
    optimizer = NormTrustRegion(model.parameters(), 0.05, alpha=0.2, extrapolate=True)
    train(model, optimizer, 4)
    optimizer.eval()
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    resumed = network(seed=1)
    resumed.load_state_dict(weights)
    other = NormTrustRegion(resumed.parameters())
    other.load_state_dict(state)
    for model_, optimizer_ in ((model, optimizer), (resumed, other)):
        optimizer_.train()
        train(model_, optimizer_, 3, start=4)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_have_settings_of_their_own():
    a, b = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = NormTrustRegion(
        [{"params": [a], "norm": "linf", "lr": 0.5}, {"params": [b]}], lr=0.1, norm="l2"
    )
    a.grad = b.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    optimizer.step()
    torch.testing.assert_close(a.data, torch.tensor([[-0.5, 0.0], [0.0, -0.5]]))
    torch.testing.assert_close(b.data, torch.tensor([[-0.06, 0.0], [0.0, -0.08]]))


def test_scheduler_sets_the_length_of_the_step():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = NormTrustRegion([weight], 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k)
    positions = []
    for _ in range(3):
        step_with(optimizer, weight, torch.ones(1))
        scheduler.step()
        positions.append(weight.item())
    assert positions == [-1.0, -1.5, -1.75]


def test_closure_is_evaluated_with_gradients_and_its_loss_returned():
    weight = parameter(3, 2)
    optimizer = NormTrustRegion([weight], 0.1)
    before = (weight.detach() ** 2).sum()

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).detach() == before
    assert (weight.detach() ** 2).sum() < before


def test_parameter_without_gradient_stays():
    still, moving = parameter(2, 2), parameter(2, 2)
    before = still.detach().clone()
    optimizer = NormTrustRegion([still, moving], 0.1, weight_decay=0.5)
    step_with(optimizer, moving, tensor(2, 2, seed=1))
    assert torch.equal(still, before)
    assert still not in optimizer.state


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradient_that_is_not_finite_moves_nothing(bad):
    fine, broken = parameter(2, 2), parameter(3)
    before = fine.detach().clone()
    optimizer = NormTrustRegion([fine, broken], 0.1)
    fine.grad, broken.grad = tensor(2, 2), torch.full((3,), bad, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"shape \(3,\) is not finite"):
        optimizer.step()
    assert torch.equal(fine, before)


def test_sparse_gradient_is_refused_by_name():
    table = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = NormTrustRegion(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["spectral", "linf", "l2", "l1", "nuclear", "row"])
def test_low_precision_agrees_with_float64(dtype, norm):
    low, high = parameter(6, 4, dtype=dtype), parameter(6, 4)
    with torch.no_grad():
        high.copy_(low)
    gradient = tensor(6, 4, seed=1).to(dtype)
    for weight in (low, high):
        optimizer = NormTrustRegion([weight], 0.5, norm=norm, **EXACT)
        step_with(optimizer, weight, gradient.to(weight.dtype))
        assert optimizer.state[weight]["momentum"].dtype == weight.dtype
    assert low.dtype == dtype
    error = (low.double() - high).abs().max()
    assert error <= 4 * torch.finfo(dtype).eps * high.abs().max()


def test_polynomials_may_work_in_bfloat16():
    gradient = tensor(16, 16, dtype=torch.float32)
    steps = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.zeros(16, 16))
        step_with(NormTrustRegion([weight], 1.0, dtype=dtype), weight, gradient)
        steps[dtype] = weight.detach()
    difference = (steps[torch.float32] - steps[torch.bfloat16]).abs().max()
    assert steps[torch.bfloat16].dtype == torch.float32
    assert 1e-4 < difference < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"alpha": 1.1}, "alpha must be"),
        ({"weight_decay": 1.0}, "weight_decay must be"),
        ({"norm": "frobenius"}, "norm must be one of"),
        ({"vector_norm": "spectral"}, "vector_norm must be one of"),
        ({"orthogonaliser": "qr"}, "orthogonaliser must be one of"),
        ({"orthogonalise": "never"}, "orthogonalise must be one of"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        NormTrustRegion([parameter(2, 2)], **settings)
    with pytest.raises(ValueError, match=message):
        NormTrustRegion([{"params": [parameter(2, 2)], **settings}])


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match="real floating-point"):
        NormTrustRegion([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
