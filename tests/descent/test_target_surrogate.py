"""Surrogates in the space of outputs: closed forms, equivalences, and what is counted."""

import copy
import io
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize

torch = pytest.importorskip("torch")

from thalweg.descent import (  # noqa: E402
    SSO,
    StochasticLineSearch,
    majorisation_bound,
    smoothness,
    surrogate_value,
)
from thalweg.descent import _surrogate_construction as construction  # noqa: E402

F = torch.nn.functional
VARIANTS = ("sgd", "line-search", "adagrad", "adagrad-diag", "newton", "mirror")


def table(n=24, p=5, classes=3, seed=0):
    """Inputs and labels of no pattern: the losses have a minimum."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, p, generator=generator, dtype=torch.float64)
    return X, torch.randint(classes, (n,), generator=generator)


def network(p=5, classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(p, 4), torch.nn.Tanh(), torch.nn.Linear(4, classes)
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return model


def plain(lr):
    return partial(torch.optim.SGD, lr=lr)


def likelihood(y):
    """Cross-entropy as a function of probabilities."""
    return lambda p: F.nll_loss(p.log(), y)


def options_of(variant):
    return {"variant": variant, **({"curvature": "cross-entropy"} if variant == "newton" else {})}


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def step_of(model, X, y, variant, **options):
    """One step from the model as it is; return the optimizer and the change."""
    before = flat(model).clone()
    optimizer = SSO(model.parameters(), **{"target_step": 0.5, **options_of(variant), **options})
    loss = likelihood(y) if variant == "mirror" else partial(F.cross_entropy, target=y)
    optimizer.step(lambda: model(X), loss, index=torch.arange(len(X)))
    return optimizer, flat(model) - before


@pytest.mark.parametrize("target_step", [0.5, 1.0])
def test_one_exact_step_on_squares_goes_its_share_of_the_way_to_lstsq(target_step):
    X, _ = table()
    y = X @ torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y += 0.3 * torch.randn(24, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weight = torch.nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))
    optimizer = SSO(
        [weight], target_step=target_step, inner="lbfgs", inner_steps=200, inner_tol=1e-10
    )
    loss = optimizer.step(lambda: X @ weight, lambda z: 0.5 * (z - y).square().sum() / len(z))
    assert loss.item() == pytest.approx(0.5 * y.square().sum().item() / 24)
    expected = np.linalg.lstsq(X.numpy(), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight.detach(), target_step * expected, atol=1e-6)
    assert 0 < optimizer.n_inner <= 200


def test_an_exact_step_is_a_projected_gradient_step_on_the_outputs():
    X, labels = table(classes=2)
    sign = 2.0 * labels - 1
    weight = torch.nn.Parameter(torch.full((5,), 0.3, dtype=torch.float64))
    z, eta = (X @ weight).detach(), 3.0
    SSO(
        [weight], target_step=eta, inner="lbfgs", inner_steps=300, inner_tol=1e-10
    ).step(lambda: X @ weight, lambda z: F.softplus(-sign * z).mean())  # fmt: skip
    # b times the gradient of the mean loss
    aim = z + eta * sign * torch.sigmoid(-sign * z)
    projected = X @ torch.linalg.lstsq(X, aim[:, None]).solution[:, 0]
    torch.testing.assert_close((X @ weight).detach(), projected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_plain_inner_step_is_sgd_on_the_loss(variant):
    """So the gradient of the surrogate where it is built is that of the loss, in any variant."""
    X, y = table()
    ours, theirs = network(), network()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.7)
    F.cross_entropy(theirs(X), y).backward()
    optimizer.step()
    start = flat(network())
    _, change = step_of(ours, X, y, variant, inner=plain(0.7), inner_steps=1)
    torch.testing.assert_close(change, flat(theirs) - start, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_repeating_the_batch_changes_nothing(variant):
    X, y = table()
    once, twice = network(), network()
    options = {**options_of(variant), "target_step": 0.5, "inner": plain(0.3), "inner_steps": 7}
    for model, rows in ((once, torch.arange(24)), (twice, torch.arange(48) % 24)):
        optimizer = SSO(model.parameters(), **options)
        loss = partial(F.cross_entropy, target=y[rows])
        if variant == "mirror":
            loss = likelihood(y[rows])
        for _ in range(3):
            optimizer.step(lambda model=model, rows=rows: model(X[rows]), loss, index=rows)
    torch.testing.assert_close(flat(twice), flat(once), rtol=0, atol=1e-10)
    assert not torch.allclose(flat(once), flat(network()), atol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("inner", ["armijo", "lbfgs", plain(0.1)])
def test_the_loss_is_differentiated_once_a_step(variant, inner):
    X, y = table()
    model, differentiated, looked = network(), [], []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, gradient):
            differentiated.append(1)
            return gradient

    true = likelihood(y) if variant == "mirror" else partial(F.cross_entropy, target=y)

    def loss(z):
        looked.append(torch.is_grad_enabled())
        return true(Counted.apply(z))

    forwards = []

    def forward():
        forwards.append(1)
        return model(X)

    optimizer = SSO(
        model.parameters(), target_step=0.5, inner_steps=4, inner=inner, **options_of(variant)
    )
    for k in range(3):
        optimizer.step(forward, loss, index=torch.arange(24))
        assert optimizer.n_target_grad == len(differentiated) == k + 1
    assert sum(looked) == 3
    assert optimizer.n_target_value == len(looked) - 3
    assert (optimizer.n_target_value > 0) == (variant == "line-search")
    assert optimizer.n_forward == len(forwards)
    assert 3 <= optimizer.n_inner <= 12


def test_an_inner_step_costs_one_forward_and_one_backward():
    X, y = table()
    model = network()
    optimizer, _ = step_of(model, X, y, "sgd", inner=plain(0.1), inner_steps=6)
    assert (optimizer.n_inner, optimizer.n_forward) == (6, 6)


def expected_quadratic_steps(curvature, init, c, shrink, expand, m, reset_at):
    """Armijo on h w² / 2 accepts up to 2 (1 - c) / h."""
    lengths, last = [], init
    for k in range(m):
        last = init if k == reset_at else last
        length = expand * last
        while length > 2 * (1 - c) / curvature:
            length *= shrink
        lengths.append(length)
        last = length
    return lengths


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("expand", [1.0, 1.5])
def test_armijo_steps_are_those_of_the_rule(reset, expand):
    """The surrogate of squares with one output w x, x = 2, and eta = 1/2 has curvature 8."""
    weight = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = SSO(
        [weight], target_step=0.5, inner_steps=3, expand=expand, reset=reset, inner_tol=0.0,
        inner_c=0.4, inner_shrink=0.7,
    )  # fmt: skip
    lengths = expected_quadratic_steps(8.0, 10.0, 0.4, 0.7, expand, 6, 3 if reset else -1)
    point = 3.0
    for outer in range(2):
        aim = 2 * point - 0.5 * 2 * point  # z - eta G, of ½ z²
        optimizer.step(lambda: 2 * weight, lambda z: 0.5 * z.square().mean())
        for length in lengths[3 * outer : 3 * outer + 3]:
            point -= length * 8 * (point - aim / 2)
        assert weight.item() == pytest.approx(point, rel=1e-10)


def test_a_search_that_is_refused_goes_on_from_the_shortest_step():
    """Curvature 2e10 wants a step below 1e-10 / 2: nothing moves. 2e7 wants 1e-7 / 2: it does."""
    for scale, moves in ((1e5, False), (10**3.5, True)):
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = SSO([weight], target_step=0.5, inner_steps=5)
        optimizer.step(lambda s=scale, w=weight: s * w, lambda z: 0.5 * z.square().mean())
        assert (weight.item() != 1.0) == moves
        assert (optimizer.n_inner > 0) == moves


def test_the_inner_minimiser_stops_where_the_gradient_is_small():
    X, y = table()
    optimizer, change = step_of(network(), X, y, "sgd", inner_tol=1e3, inner_steps=9)
    assert optimizer.n_inner == 0
    assert not change.any()
    optimizer, _ = step_of(network(), X, y, "sgd", inner="lbfgs", inner_steps=3)
    assert optimizer.n_inner == 3


@pytest.mark.parametrize(
    ("schedule", "total", "factors"),
    [
        ("constant", None, [1.0] * 4),
        ("sqrt", None, [1.0, 2**-0.5, 3**-0.5, 0.5]),
        ("exponential", 4, [4**-0.25, 4**-0.5, 4**-0.75, 0.25]),
    ],
)
def test_schedules_scale_the_step_of_every_variant(schedule, total, factors):
    X, y = table()
    for variant in VARIANTS:
        steps = []
        for plan in ("constant", schedule):
            model, found = network(), []
            optimizer = SSO(
                model.parameters(), target_step=0.8, schedule=plan, total_steps=total,
                inner=plain(1e-12), **options_of(variant),
            )  # fmt: skip
            loss = likelihood(y) if variant == "mirror" else partial(F.cross_entropy, target=y)
            for _ in range(4):
                optimizer.step(lambda m=model: m(X), loss, index=torch.arange(24))
                found.append(optimizer.last_target_step)
            steps.append(found)
        np.testing.assert_allclose(np.divide(steps[1], steps[0]), factors, rtol=1e-9)


def test_adagrads_step_is_that_of_the_mean_squares():
    X, y = table()
    model = network()
    optimizer = SSO(model.parameters(), target_step=0.8, variant="adagrad", inner=plain(0.2))
    total = 0.0
    for _ in range(3):
        z = model(X).detach()
        G = torch.softmax(z, -1) - F.one_hot(y, 3)
        total += (G**2).sum().item() / 24
        optimizer.step(lambda: model(X), partial(F.cross_entropy, target=y))
        assert optimizer.last_target_step == pytest.approx(0.8 / math.sqrt(total))


def test_diagonal_adagrad_accumulates_by_row_and_clamps():
    G = torch.tensor([[2.0, 0.0], [1.0, 1e4]], dtype=torch.float64)
    first = construction.accumulated(None, torch.tensor([3, 1]), G)
    assert first.tolist() == [[0, 0], [1, 1e5], [0, 0], [4, 1e-5]]
    second = construction.accumulated(first, torch.tensor([3, 5]), G)
    assert second[3].tolist() == [8, 1e-5]
    assert second[1].tolist() == [1, 1e5]
    assert second[5].tolist() == [1, 1e5]
    assert len(second) == 6
    with pytest.raises(ValueError, match="outputs must have the shape"):
        construction.accumulated(first, torch.tensor([0]), G[:1, :1])


def exact_outputs(variant, **options):
    """Outputs after one exact inner solve of free outputs, beside where they began, and G."""
    z = torch.tensor([[0.5, -1.0, 0.2], [1.5, 0.3, -0.4]], dtype=torch.float64)
    y = torch.tensor([2, 0])
    free = torch.nn.Parameter(z.clone())
    optimizer = SSO(
        [free], target_step=0.3, variant=variant, inner="lbfgs", inner_steps=500, inner_tol=1e-11,
        **options,
    )  # fmt: skip
    loss = likelihood(y) if variant == "mirror" else partial(F.cross_entropy, target=y)
    optimizer.step(lambda: free, loss, index=torch.tensor([4, 0]))
    return z, free.detach(), torch.softmax(z, -1) - F.one_hot(y, 3), optimizer, y


def test_free_outputs_take_the_step_of_each_metric():
    for variant in ("sgd", "adagrad"):
        z, reached, G, optimizer, _ = exact_outputs(variant)
        expected = z - optimizer.last_target_step * G
        torch.testing.assert_close(reached, expected, rtol=0, atol=1e-7)
    z, reached, G, _, _ = exact_outputs("adagrad-diag")
    torch.testing.assert_close(reached, z - 0.3 * G / G.abs(), rtol=0, atol=1e-7)
    z, reached, G, _, _ = exact_outputs("newton", curvature="cross-entropy")
    p = torch.softmax(z, -1)
    expected = z - 0.3 * G / (p * (1 - p) + 1e-5)
    torch.testing.assert_close(reached, expected, rtol=0, atol=1e-6)
    z, reached, G, _, _ = exact_outputs("newton", curvature=lambda z: 1 + z.square())
    torch.testing.assert_close(reached, z - 0.3 * G / (1 + z**2), rtol=0, atol=1e-7)


def test_free_probabilities_take_the_step_of_exponentiated_gradients():
    z, reached, _, _, y = exact_outputs("mirror")
    p = torch.softmax(z, -1)
    weights = p * torch.exp(0.3 * F.one_hot(y, 3) / p)
    expected = weights / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(torch.softmax(reached, -1), expected, rtol=0, atol=1e-7)


def test_named_curvatures_are_second_derivatives():
    z = torch.tensor([0.3, -2.0], dtype=torch.float64)
    found = construction.curvature_of("logistic")(z)
    for value, at in zip(found, z, strict=True):
        second = torch.autograd.functional.hessian(F.softplus, at)
        assert value.item() == pytest.approx(second.item() + 1e-5)
    assert construction.curvature_of("squared")(z).tolist() == [1.0, 1.0]
    z = torch.tensor([[0.3, -2.0, 1.0]], dtype=torch.float64)
    full = torch.autograd.functional.hessian(lambda x: torch.logsumexp(x, -1).sum(), z)
    diagonal = torch.diagonal(full.reshape(3, 3)) + 1e-5
    torch.testing.assert_close(construction.curvature_of("cross-entropy")(z)[0], diagonal)


def test_the_line_search_on_targets_accepts_what_armijo_allows():
    """On ½ h z² the rule reads eta <= 2 (1 - c) / h whatever the batch; starts are 1.8 the last."""
    weight = torch.nn.Parameter(torch.full((6,), 2.0, dtype=torch.float64))
    optimizer = SSO([weight], target_step=5.0, variant="line-search", target_c=0.3)
    h, eta, trials = 0.4, 5.0, 0
    for _ in range(3):
        eta *= 1.8
        trials += 1
        while eta > 2 * (1 - 0.3) / h:
            eta *= 0.9
            trials += 1
        optimizer.step(lambda: weight, lambda z: 0.5 * h * z.square().mean())
        assert optimizer.last_target_step == pytest.approx(eta, rel=1e-12)
        assert optimizer.n_target_value == trials


@pytest.mark.parametrize(("h", "step"), [(1e7, 1e-4), (1e-9, 1e4)])
def test_target_steps_are_clipped(h, step):
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    start = 1e-3 if h > 1 else 9e3
    optimizer = SSO([weight], target_step=start, variant="line-search", inner=plain(1e-9))
    optimizer.step(lambda: weight, lambda z: 0.5 * h * z.square().mean())
    assert optimizer.last_target_step == step


def descended(eta, length, steps=40):
    """Losses and gradient norms of full-batch steps, inner gradient steps `length` / beta."""
    X, y = table()
    weight = torch.nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))
    beta = float(torch.linalg.matrix_norm(X, 2)) ** 2 / (24 * eta)
    optimizer = SSO([weight], target_step=eta, inner=plain(length / beta), inner_steps=3)
    losses, squares = [], []
    for _ in range(steps):
        loss = F.cross_entropy(X @ weight, y)
        squares.append(float(torch.autograd.grad(loss, weight)[0].square().sum()))
        losses.append(optimizer.step(lambda: X @ weight, partial(F.cross_entropy, target=y)).item())
    best = minimize(
        lambda w: F.cross_entropy(X @ torch.tensor(w).reshape(5, 3), y).item(), np.zeros(15)
    ).fun
    bounds = [majorisation_bound(beta, losses[0] - best, t + 1) for t in range(steps)]
    return np.array(losses), np.minimum.accumulate(squares), np.array(bounds)


def test_full_batch_steps_descend_under_the_bound():
    losses, least, bounds = descended(1 / smoothness("cross-entropy"), 1.0)
    assert np.diff(losses).max() <= 1e-12
    assert np.all(least <= bounds)


def test_the_bound_fails_on_wrong_steps():
    """Too short inner steps, and too long ones."""
    for length in (1e-3, 2.5):
        losses, least, bounds = descended(1 / smoothness("cross-entropy"), length)
        assert np.any(least > bounds)
        assert length < 1 or np.diff(losses).max() > 1e-6


def test_more_inner_steps_lower_the_surrogate_further():
    X, y = table()
    reached = []
    for m in (1, 4, 16):
        model = network()
        z = model(X).detach()
        G = torch.softmax(z, -1) - F.one_hot(y, 3)
        step_of(model, X, y, "sgd", inner_steps=m)
        reached.append(surrogate_value(model(X), z, G, 0.5).item())
    assert 0 > reached[0] > reached[1] > reached[2]


def test_parameter_groups_share_one_surrogate():
    X, y = table()
    one, two = network(), network()
    first = SSO(one.parameters(), target_step=0.5)
    second = SSO([two[0].weight, two[0].bias], target_step=0.5)
    second.add_param_group({"params": list(two[2].parameters())})
    for optimizer, model in ((first, one), (second, two)):
        optimizer.step(lambda m=model: m(X), partial(F.cross_entropy, target=y))
    torch.testing.assert_close(flat(one), flat(two), rtol=0, atol=0)
    third = SSO([two[0].weight], target_step=0.5)
    with pytest.raises(ValueError, match=r"target_step must be 0.5 in every group, got 0.4"):
        third.add_param_group({"params": [two[2].weight], "target_step": 0.4})
    assert len(third.param_groups) == 1


@pytest.mark.parametrize("variant", ["line-search", "adagrad", "adagrad-diag"])
def test_resuming_equals_not_stopping(variant):
    X, y = table()

    def go(model, optimizer, steps):
        loss = partial(F.cross_entropy, target=y)
        for _ in range(steps):
            optimizer.step(lambda: model(X), loss, index=torch.arange(24))

    def new(model):
        return SSO(
            model.parameters(), target_step=0.5, variant=variant, reset=False, schedule="sqrt"
        )

    through, model = network(), network()
    whole, optimizer = new(through), new(model)
    go(through, whole, 4)
    go(model, optimizer, 2)
    other, other_optimizer = copy.deepcopy((model, optimizer))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = new(model)
    again.load_state_dict(torch.load(file, weights_only=True))
    go(model, again, 2)
    go(other, other_optimizer, 2)
    for reached in (model, other):
        torch.testing.assert_close(flat(reached), flat(through), rtol=0, atol=0)
    assert again.n_target_grad == 4
    assert again.n_forward == whole.n_forward
    with pytest.raises(ValueError, match="surrogate"):
        again.load_state_dict(torch.optim.SGD(model.parameters()).state_dict())


def test_the_line_search_of_the_loss_is_another_method():
    """On squares with unit step the surrogate is the loss, and both searches are the same."""
    X, _ = table()
    y = X.sum(1)
    ours, theirs = (torch.nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    surrogate = SSO([ours], target_step=1.0, inner_steps=1)
    search = StochasticLineSearch([theirs], lr=10.0, c=0.5, shrink=0.9, reset=2)
    for _ in range(5):
        surrogate.step(lambda: X @ ours, lambda z: 0.5 * (z - y).square().mean())
        search.step(lambda: 0.5 * (X @ theirs - y).square().mean())
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_frozen_and_unused_parameters_stay():
    X, y = table()
    model, unused = network(), torch.nn.Parameter(torch.ones(2))
    model[0].weight.requires_grad_(False)
    kept = model[0].weight.clone()
    optimizer = SSO([*model.parameters(), unused], target_step=0.5)
    optimizer.step(lambda: model(X), partial(F.cross_entropy, target=y))
    torch.testing.assert_close(model[0].weight, kept, rtol=0, atol=0)
    assert unused.tolist() == [1, 1]
    assert unused.grad is None


HALF = """
import sys, torch
from functools import partial
from thalweg.descent import SSO
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
)
X, y = torch.load(f"{folder}/data")
X, y = X[rank::2], y[rank::2]
weight = torch.nn.Parameter(torch.zeros(5, 3, dtype=X.dtype))
optimizer = SSO([weight], target_step=1.0, variant="line-search", inner_steps=5)
for _ in range(3):
    optimizer.step(lambda: X @ weight, partial(torch.nn.functional.cross_entropy, target=y))
torch.save(weight.detach(), f"{folder}/weight{rank}")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_two_processes_with_half_the_batch_each_do_what_one_does(tmp_path):
    X, y = table()
    torch.save((X, y), tmp_path / "data")
    command = [sys.executable, "-c", HALF]
    halves = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [half.wait(timeout=120) for half in halves] == [0, 0]
    weight = torch.nn.Parameter(torch.zeros(5, 3, dtype=X.dtype))
    optimizer = SSO([weight], target_step=1.0, variant="line-search", inner_steps=5)
    for _ in range(3):
        optimizer.step(lambda: X @ weight, partial(F.cross_entropy, target=y))
    for rank in range(2):
        reached = torch.load(tmp_path / f"weight{rank}")
        torch.testing.assert_close(reached, weight.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_goes_the_same_way():
    X, y = table()
    here, there = network(), network().cuda()
    _, expected = step_of(here, X, y, "sgd", inner=plain(0.1))
    before = flat(there).clone()
    optimizer = SSO(there.parameters(), target_step=0.5, inner=plain(0.1))
    optimizer.step(lambda: there(X.cuda()), partial(F.cross_entropy, target=y.cuda()))
    torch.testing.assert_close((flat(there) - before).cpu(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_step": 0.0}, "target_step"),
        ({"target_step": math.inf}, "target_step"),
        ({"inner_steps": 0}, "inner_steps"),
        ({"variant": "adam"}, "variant"),
        ({"schedule": "linear"}, "schedule"),
        ({"schedule": "exponential"}, "total_steps"),
        ({"total_steps": 0}, "total_steps"),
        ({"inner": "newton"}, "inner"),
        ({"inner_c": 1.0}, "inner_c"),
        ({"inner_shrink": 1.0}, "inner_shrink"),
        ({"inner_init": 0}, "inner_init"),
        ({"inner_tol": -1}, "inner_tol"),
        ({"expand": 0.5}, "expand"),
        ({"target_c": 0.0}, "target_c"),
        ({"target_expand": 0.9}, "target_expand"),
        ({"variant": "newton"}, "curvature"),
        ({"curvature": "hinge"}, "curvature"),
        ({"reset": 1}, "reset"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SSO(network().parameters(), **{"target_step": 0.5, **options})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"forward": lambda X, m: m(X).detach()}, ValueError, "graph"),
        ({"forward": lambda X, m: m(X).sum()}, ValueError, "first axis"),
        ({"forward": lambda X, m: m(X)[:0]}, ValueError, "first axis"),
        ({"forward": lambda X, m: m(X).T, "index": torch.arange(24)}, ValueError, "first axis"),
        ({"forward": lambda X, m: 1.0}, TypeError, "forward must return"),
        ({"loss": lambda z: z.sum(1)}, ValueError, "one number"),
        ({"loss": lambda z: z.detach().sum()}, ValueError, "depends"),
        ({"loss": lambda z: 2.0}, TypeError, "target_loss must return"),
        ({"loss": None}, TypeError, "target_loss"),
        ({"variant": "adagrad-diag"}, ValueError, "index"),
        ({"index": torch.arange(24) - 1}, ValueError, "index must be >= 0"),
        ({"index": torch.ones(24)}, TypeError, "whole"),
        ({"variant": "mirror", "forward": lambda X, m: m(X)[:, 0]}, ValueError, "classes"),
        ({"curvature": lambda z: z[0]}, ValueError, "curvature must return"),
        ({"curvature": lambda z: -z.abs()}, ValueError, "positive"),
    ],
)
def test_bad_input_of_a_step_is_named_and_nothing_moves(arguments, error, message):
    X, y = table()
    model = network()
    before = flat(model)
    variant = "newton" if "curvature" in arguments else arguments.get("variant", "sgd")
    optimizer = SSO(
        model.parameters(), target_step=0.5, variant=variant, curvature=arguments.get("curvature")
    )
    forward = arguments.get("forward", lambda X, m: m(X))
    loss = arguments.get("loss", partial(F.cross_entropy, target=y))
    with pytest.raises(error, match=message):
        optimizer.step(lambda: forward(X, model), loss, index=arguments.get("index"))
    torch.testing.assert_close(flat(model), before, rtol=0, atol=0)
    assert optimizer.n_inner == 0


def test_numbers_that_are_not_finite_stop_the_step_by_name():
    X, y = table()
    model = network()
    optimizer = SSO(model.parameters(), target_step=0.5)
    optimizer.step(lambda: model(X), partial(F.cross_entropy, target=y))
    before = flat(model)
    with pytest.raises(RuntimeError, match="target gradient must be finite at step 2"):
        optimizer.step(lambda: model(X), lambda z: (z - z.detach()).abs().sqrt().sum())
    with pytest.raises(RuntimeError, match="the loss must be finite at step 3"):
        optimizer.step(lambda: model(X), lambda z: z.sum() + math.inf)
    with pytest.raises(RuntimeError, match="outputs must be finite at step 4"):
        optimizer.step(lambda: model(X) * math.nan, partial(F.cross_entropy, target=y))
    wild = SSO(model.parameters(), target_step=0.5, inner=plain(1e200), inner_steps=3)
    with pytest.raises(RuntimeError, match="the surrogate and its gradient must be finite"):
        wild.step(lambda: model(X), partial(F.cross_entropy, target=y))
    torch.testing.assert_close(flat(model), before, rtol=0, atol=0)


def test_a_sparse_gradient_is_refused():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = SSO(embedding.parameters(), target_step=0.5)
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(lambda: embedding(torch.tensor([1, 2])), lambda z: z.square().mean())
