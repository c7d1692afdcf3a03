import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from thalweg.transport import MaskedAutoregressiveFlow  # noqa: E402


def randomised(*args, seed=0, scale=0.3, **options):
    """A flow whose last layers are not zero, in double precision."""
    flow = MaskedAutoregressiveFlow(*args, rng=seed, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise)
    return flow


def points(n, dim, cond_dim=0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    cond = torch.randn(n, cond_dim, generator=generator, dtype=torch.float64)
    return x, cond if cond_dim else None


def jacobian(function, x):
    return torch.autograd.functional.jacobian(function, x)


@pytest.mark.parametrize(("dim", "cond_dim"), [(1, 0), (1, 2), (3, 0), (4, 1), (8, 2)])
def test_inverse_undoes_the_map_both_ways(dim, cond_dim):
    flow = randomised(dim, cond_dim)
    x, cond = points(50, dim, cond_dim)
    u, _ = flow(x, cond)
    assert (u - x).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(u, cond), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow(flow.inverse(x, cond), cond)[0], x, rtol=1e-9, atol=1e-9)


def test_inverse_is_accurate_in_single_precision():
    flow = randomised(6, 2, scale=0.1).float()
    x, cond = (z.float() for z in points(200, 6, 2))
    u, _ = flow(x, cond)
    assert (flow.inverse(u, cond) - x).abs().max() < 1e-4


@pytest.mark.parametrize("cond_dim", [0, 2])
def test_log_determinant_is_that_of_the_jacobian(cond_dim):
    flow = randomised(4, cond_dim)
    x, cond = points(6, 4, cond_dim)
    _, log_det = flow(x, cond)
    for i in range(len(x)):
        c = None if cond is None else cond[i : i + 1]
        J = jacobian(lambda z, c=c: flow(z[None], c)[0][0], x[i])
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(J)[1].item(), abs=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("cond_dim", [0, 3])
def test_blocks_are_triangular_in_alternating_orders(dim, cond_dim):
    flow = randomised(dim, cond_dim, 2)
    x, cond = points(1, dim, cond_dim)
    for k, block in enumerate(flow.blocks):
        J = jacobian(lambda z, block=block: block(z[None], cond)[0][0], x[0])
        J = J if k % 2 == 0 else J.flip(0, 1)
        assert torch.equal(J.triu(1), torch.zeros_like(J))
        assert (J.tril()[torch.tril_indices(dim, dim).unbind()] != 0).all()


def test_a_feature_sees_its_predecessors_and_the_condition_only():
    block = randomised(4, 1, 1).blocks[0]
    x, cond = points(1, 4, 1)
    before = block(x, cond)[0]
    for i in range(4):
        moved = x.clone()
        moved[0, i] += 0.5
        changed = (block(moved, cond)[0] != before)[0]
        assert changed.tolist() == [j >= i for j in range(4)]
    assert (block(x, cond + 0.5)[0] != before).all()


def test_condition_acts_on_the_first_feature_nonlinearly():
    block = randomised(2, 1, 1).blocks[0]
    x = torch.zeros(3, 2, dtype=torch.float64)
    cond = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    shift = torch.special.expit(block(x, cond)[0][:, 0])
    log_scale = -torch.log(block(x + 1, cond)[0][:, 0] - block(x, cond)[0][:, 0])
    for values in (shift, torch.atanh(log_scale / 3)):
        assert abs(values[0] + values[2] - 2 * values[1]) > 1e-3


def test_density_integrates_to_one():
    flow = randomised(2, 1, scale=0.15)
    grid = torch.linspace(-14, 14, 500, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    cond = torch.full((len(x), 1), 0.7, dtype=torch.float64)
    with torch.no_grad():
        total = flow.log_prob(x, cond).exp().sum() * (grid[1] - grid[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-2)


def test_starts_as_the_identity_with_the_normal_density():
    flow = MaskedAutoregressiveFlow(3, 2, rng=0).double()
    x, cond = points(10, 3, 2)
    u, log_det = flow(x, cond)
    assert torch.equal(u, x)
    assert torch.equal(log_det, torch.zeros(10, dtype=torch.float64))
    expected = -0.5 * x.square().sum(1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(x, cond), expected)


def test_log_scales_are_bounded():
    flow = randomised(3, 0, 1, scale=50.0)
    x, _ = points(500, 3)
    _, log_det = flow(x)
    assert log_det.abs().max() <= 9.0
    assert log_det.abs().max() > 2.9


def test_gradients_of_the_inverse_are_right():
    """Implicit differentiation: dx/du is the inverse of du/dx."""
    flow = randomised(3, 1)
    x, cond = points(1, 3, 1)
    u = flow(x, cond)[0].detach()
    forward = jacobian(lambda z: flow(z[None], cond)[0][0], x[0])
    backward = jacobian(lambda z: flow.inverse(z[None], cond)[0], u[0])
    torch.testing.assert_close(backward @ forward, torch.eye(3, dtype=torch.float64))
    weight = flow.blocks[1].second
    (slope,) = torch.autograd.grad(flow.inverse(u, cond).sum(), weight)
    i = divmod(int(slope.abs().argmax()), slope.shape[1])
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight[i] += step
            ends.append(flow.inverse(u, cond).sum().item())
            weight[i] -= step
    assert slope[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    dim=st.integers(1, 6),
    cond_dim=st.integers(0, 2),
    n_blocks=st.integers(1, 3),
    hidden=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
def test_any_size_is_invertible(dim, cond_dim, n_blocks, hidden, seed):
    """More features than hidden units too."""
    flow = randomised(dim, cond_dim, n_blocks, hidden, seed=seed)
    x, cond = points(4, dim, cond_dim, seed)
    u, log_det = flow(x, cond)
    assert log_det.isfinite().all()
    torch.testing.assert_close(flow.inverse(u, cond), x, rtol=1e-6, atol=1e-6)


def test_fit_recovers_a_conditional_gaussian():
    generator = torch.Generator().manual_seed(0)
    cond = torch.randn(4000, 1, generator=generator)
    noise = torch.randn(4000, 2, generator=generator)
    x = torch.stack([2 * cond[:, 0] + noise[:, 0], noise[:, 0] + 0.5 * noise[:, 1]], 1)
    flow = MaskedAutoregressiveFlow(2, 1, 2, 32, rng=0)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 300)
        rows = torch.randint(4000, (256,), generator=generator)
        optimizer.zero_grad()
        (-flow.log_prob(x[rows], cond[rows]).mean()).backward()
        optimizer.step()
    entropy = math.log(2 * math.pi * math.e) + math.log(0.5)
    assert -flow.log_prob(x, cond).mean().item() == pytest.approx(entropy, abs=0.08)
    given_one = flow.sample(cond=torch.ones(4000, 1), rng=0)
    assert given_one.mean(0).tolist() == pytest.approx([2.0, 0.0], abs=0.15)
    expected = torch.tensor([[1.0, 1.0], [1.0, 1.25]])
    torch.testing.assert_close(given_one.T.cov(), expected, atol=0.15, rtol=0)


def test_random_numbers_come_from_the_argument_alone():
    state = torch.get_rng_state()
    one, other = (MaskedAutoregressiveFlow(3, rng=5) for _ in range(2))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.sample(7, rng=1), other.sample(7, rng=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_survive_saving_and_copying():
    flow = randomised(3, 1)
    x, cond = points(5, 3, 1)
    other = MaskedAutoregressiveFlow(3, 1, rng=9).double()
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other(x, cond)[0], flow(x, cond)[0])
    assert torch.equal(copy.deepcopy(flow).inverse(x, cond), flow.inverse(x, cond))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dim": 0}, "dim must be an integer >= 1"),
        ({"dim": 2, "cond_dim": -1}, "cond_dim must be an integer >= 0"),
        ({"dim": 2, "n_blocks": 0}, "n_blocks"),
        ({"dim": 2, "hidden": 0}, "hidden"),
    ],
)
def test_bad_sizes_are_refused_by_name(options, match):
    with pytest.raises(ValueError, match=match):
        MaskedAutoregressiveFlow(**options)


def test_bad_input_is_refused_by_name():
    flow, plain = MaskedAutoregressiveFlow(2, 1, rng=0), MaskedAutoregressiveFlow(2, rng=0)
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"cond must be a tensor \(n, 1\)"):
        flow(x)
    with pytest.raises(ValueError, match="cond must be None"):
        plain.log_prob(x, torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"cond must have shape \(3, 1\)"):
        flow.inverse(x, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\)"):
        plain(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"u must have shape \(n, 2\)"):
        plain.inverse(torch.zeros(2))
    with pytest.raises(ValueError, match="n must be given"):
        plain.sample()
    with pytest.raises(ValueError, match="left out"):
        flow.sample(3, torch.zeros(3, 1))
    with pytest.raises(TypeError, match="rng"):
        MaskedAutoregressiveFlow(2, rng=1.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_runs_on_cuda():
    flow = MaskedAutoregressiveFlow(3, 1, rng=0).cuda()
    x = flow.sample(cond=torch.zeros(10, 1, device="cuda"), rng=0)
    assert x.device.type == "cuda"
    assert flow.log_prob(x, torch.zeros(10, 1, device="cuda")).isfinite().all()
