import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.transport import CategoricalReference, categorical_bridge  # noqa: E402
from thalweg.transport._categorical_process import (  # noqa: E402
    CategoricalProcess,
    LearnedChain,
    draw,
)

CPU = torch.device("cpu")
LAZY_WALK = np.array(
    [[0.8, 0.2, 0.0, 0.0], [0.2, 0.6, 0.2, 0.0], [0.0, 0.2, 0.6, 0.2], [0.0, 0.0, 0.2, 0.8]]
)


def skewed(S, n_inner, seed=0):
    kernel = np.random.default_rng(seed).dirichlet(np.ones(S), size=S)
    return CategoricalReference(kernel, n_inner)


def backward_posterior(reference, x, end, n):
    """q(x_{m-1} | x_m = x, x_0 = end) with m = N + 1 - n, from the forward powers."""
    A, m = reference.cumulative, reference.n_inner + 1 - n
    joint = A[m - 1][end] * reference.kernel[:, x]
    return joint / joint.sum()


def posterior(reference, direction, x, end, n):
    if direction == "forward":
        return reference.posterior_probs([[x]], [[end]], n)[0, 0]
    return backward_posterior(reference, x, end, n)


def batch(reference, seed=0, rows=40, D=3):
    """Tokens, ends, times and laws of the end."""
    rng = np.random.default_rng(seed)
    S, N = reference.n_categories, reference.n_inner
    x, end = rng.integers(S, size=(2, rows, D))
    return x, end, rng.integers(N + 1, size=rows), rng.dirichlet(np.ones(S), size=(rows, D))


@pytest.mark.parametrize("parametrization", ["mixture", "d3pm"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_certain_end_gives_the_posterior(direction, parametrization):
    reference = skewed(5, 3)
    process = CategoricalProcess(reference, direction, CPU)
    x, end, n, _ = batch(reference)
    certain = torch.from_numpy(np.log(np.eye(5)[end] + 1e-300))
    x, end, n = map(torch.from_numpy, (x, end, n))
    law = process.transition(certain, x, n, parametrization)
    np.testing.assert_allclose(law, process.posterior(x, end, n), atol=1e-12)
    for row in range(len(x)):
        expected = posterior(reference, direction, int(x[row, 1]), int(end[row, 1]), int(n[row]))
        np.testing.assert_allclose(law[row, 1], expected, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_mixture_averages_the_posteriors(direction):
    reference = skewed(4, 2)
    process = CategoricalProcess(reference, direction, CPU)
    x, _, n, p = batch(reference)
    arguments = torch.from_numpy(np.log(p)), torch.from_numpy(x), torch.from_numpy(n)
    law = process.transition(*arguments, "mixture").numpy()
    for row in range(len(x)):
        for d in range(x.shape[1]):
            ends = [posterior(reference, direction, x[row, d], e, int(n[row])) for e in range(4)]
            np.testing.assert_allclose(law[row, d], p[row, d] @ np.array(ends), atol=1e-12)


def test_d3pm_leaves_out_the_division_except_at_the_end():
    reference = skewed(4, 2)
    process = CategoricalProcess(reference, "forward", CPU)
    x, _, n, p = batch(reference)
    arguments = torch.from_numpy(np.log(p)), torch.from_numpy(x), torch.from_numpy(n)
    law = process.transition(*arguments, "d3pm").numpy()
    assert set(n) == {0, 1, 2}
    for row in range(len(x)):
        left = 2 - n[row]
        expected = reference.kernel[x[row]] * (p[row] @ reference.cumulative[left].T)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(law[row], expected if left else p[row], atol=1e-12)


@pytest.mark.parametrize("parametrization", ["mixture", "d3pm"])
@pytest.mark.parametrize("kernel", [LAZY_WALK, skewed(4, 1).kernel])
def test_one_time_for_all_is_that_time_in_every_row(kernel, parametrization):
    process = CategoricalProcess(CategoricalReference(kernel, 2), "forward", CPU)
    generator = torch.Generator().manual_seed(0)
    x, logits = torch.randint(4, (20, 2), generator=generator), torch.randn(20, 2, 4)
    for n in range(3):
        times = torch.full((20,), n)
        one = process.transition(process.end_log_probs(logits, x, n), x, n, parametrization)
        all_ = process.end_log_probs(logits, x, times)
        each = process.transition(all_, x, times, parametrization)
        torch.testing.assert_close(one, each)


def test_backward_bridge_is_the_forward_one_seen_from_the_other_end():
    """4.5 standard deviations of 40 000 draws."""
    reference, rows = skewed(4, 3), 40_000
    start, end = torch.full((rows, 1), 2), torch.full((rows, 1), 0)
    generator = torch.Generator().manual_seed(0)
    for direction, time in (("forward", 3), ("backward", 1)):
        process = CategoricalProcess(reference, direction, CPU)
        ends = (start, end) if direction == "forward" else (end, start)
        x = process.bridge(*ends, torch.full((rows,), time), generator)
        shares = np.bincount(x[:, 0], minlength=4) / rows
        probs = reference.bridge_probs([[2]], [[0]], 3)[0, 0]
        assert (np.abs(shares - probs) <= 4.5 * np.sqrt(probs * (1 - probs) / rows)).all()


def exact_end_law(coupling, reference, direction):
    """log p(x_end | x_n) of the process with this coupling and the reference's bridges."""
    A, N = reference.cumulative, reference.n_inner
    if direction == "backward":
        A, coupling = A.swapaxes(1, 2), coupling.T
    W = coupling / A[N + 1]
    laws = []
    for n in range(N + 1):
        joint = (A[n].T @ W) * A[N + 1 - n]  # (x_n, x_end)
        laws.append(joint / joint.sum(axis=1, keepdims=True))
    table = torch.from_numpy(np.log(np.stack(laws)))
    return lambda x, n: table[n[:, None], x]


def chain_ends(chain, first_law, S, N):
    ends = np.diag(first_law)
    for n in range(N + 1):
        ends = ends @ chain.step_law(torch.arange(S)[:, None], n)[:, 0].numpy()
    return ends


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_exact_end_law_of_the_bridge_gives_back_the_bridge(direction):
    S, N = 6, 3
    reference = skewed(S, N)
    p0, p1 = np.random.default_rng(1).dirichlet(np.ones(S), size=2)
    bridge = categorical_bridge(p0, p1, reference)
    network = exact_end_law(bridge, reference, direction)
    chain = LearnedChain(network, CategoricalProcess(reference, direction, CPU))
    if direction == "forward":
        np.testing.assert_allclose(chain_ends(chain, p0, S, N), bridge, atol=1e-11)
    else:
        np.testing.assert_allclose(chain_ends(chain, p1, S, N), bridge.T, atol=1e-11)


def test_loss_is_the_weighted_sum_of_its_terms():
    reference = skewed(4, 2)
    x, end, n, p = batch(reference)
    network = torch.from_numpy(np.log(p))
    process = CategoricalProcess(reference, "forward", CPU)
    tensors = [torch.from_numpy(z) for z in (x, end, n)]
    law = process.transition(network, tensors[0], tensors[2], "mixture").numpy()
    target = reference.posterior_probs(x, end, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.nansum(np.where(target > 0, target * np.log(target / law), 0), axis=-1).mean()
    ce = -np.log(np.take_along_axis(p, end[..., None], axis=-1)).mean()
    mse = ((target - law) ** 2).sum(axis=-1).mean()
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 2.0, 3.0)):
        options = dict(zip(("kl", "ce", "mse"), weights, strict=True))
        chain = LearnedChain(lambda x, n: network, process, **options)
        expected = np.dot(weights, (kl, ce, mse))
        assert float(chain.loss(*tensors)) == pytest.approx(expected, rel=1e-10)


def test_impossible_steps_are_never_taken():
    reference = CategoricalReference(LAZY_WALK, 2)
    process = CategoricalProcess(reference, "forward", CPU)
    chain = LearnedChain(lambda x, n: torch.zeros(*x.shape, 4), process)
    path = chain.sample(torch.randint(4, (5000, 2)), torch.Generator().manual_seed(0))
    assert (LAZY_WALK[path[:-1], path[1:]] > 0).all()
    ends = process.end_log_probs(torch.zeros(1, 1, 4), torch.tensor([[0]]), 2).exp()
    np.testing.assert_allclose(ends[0, 0], [0.5, 0.5, 0, 0])


def test_tiny_probabilities_lose_nothing():
    """A spread of 1e-140 between ways to the end, far outside float32."""
    S = 30
    jumps = np.exp(-0.8 * np.subtract.outer(np.arange(S), np.arange(S)) ** 2.0)
    reference = CategoricalReference(jumps / jumps.sum(axis=1, keepdims=True), 1)
    process = CategoricalProcess(reference, "forward", CPU)
    assert 0 < reference.transition.min() < 1e-140
    certain = torch.full((1, 1, S), -torch.inf).double()
    certain[0, 0, -1] = 0.0
    law = process.transition(certain, torch.tensor([[0]]), 0, "mixture")[0, 0]
    np.testing.assert_allclose(
        law, reference.posterior_probs([[0]], [[S - 1]], 0)[0, 0], rtol=1e-9, atol=1e-300
    )
    logits = torch.zeros(1, 1, S, requires_grad=True)
    chain = LearnedChain(lambda x, n: logits, process)
    chain.loss(torch.tensor([[0]]), torch.tensor([[S - 1]]), torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_drawing_never_takes_a_category_without_weight():
    weights = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0]).double().expand(20_000, 5)
    draws = draw(3 * weights, torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {1, 3}
    assert abs(float((draws == 3).double().mean()) - 0.7) <= 4.5 * np.sqrt(0.21 / 20_000)


def test_logits_that_are_not_finite_stop_the_draw():
    process = CategoricalProcess(skewed(3, 2), "forward", CPU)

    def network(x, n):
        return torch.zeros(*x.shape, 3) / (n != 1)[:, None, None]

    chain = LearnedChain(network, process)
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        chain.sample(torch.zeros(2, 1, dtype=torch.long), torch.Generator())
