"""HeavyBall and StepDecayLR against NumPy, torch's own momentum, and the schedule they share."""

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import (  # noqa: E402
    HeavyBall,
    LeastSquares,
    StepDecayLR,
    step_decay,
    stochastic_heavy_ball,
)

nn = torch.nn


def rows_and_targets(n=20, dim=3):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, dim)) * [1.0, 0.5, 0.2]
    return rows, rows @ np.ones(dim) + 0.1 * rng.normal(size=n)


def minimise(make, steps, lr_at=None):
    """Run an optimizer on least squares with the whole sum; return all points."""
    rows, targets = map(torch.tensor, rows_and_targets())
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = make([w])
    points = []
    for t in range(steps):
        if lr_at is not None:
            optimizer.param_groups[0]["lr"] = lr_at(t)
        optimizer.zero_grad()
        (0.5 * (rows @ w - targets).square().mean()).backward()
        optimizer.step()
        points.append(w.detach().numpy().copy())
    return np.array(points)


def test_agrees_with_the_numpy_method():
    problem = LeastSquares(*rows_and_targets())
    known = problem.curvature()
    L, mu, T = known["L"], known["mu"], 80
    expected = stochastic_heavy_ball(
        problem, np.zeros(3), n_steps=T, L=L, mu=mu, batch_size=20, replace=False, record=True
    )
    found = minimise(
        lambda p: HeavyBall(p, lr=1.0, momentum=expected.momentum),
        T,
        lambda t: expected.steps[t],
    )
    np.testing.assert_allclose(found, expected.history["x"][1:], atol=1e-10)


@pytest.mark.parametrize("lr", [0.25, 0.3])
def test_at_a_constant_rate_it_is_torchs_momentum(lr):
    ours = minimise(lambda p: HeavyBall(p, lr=lr, momentum=0.8), 30)
    theirs = minimise(lambda p: torch.optim.SGD(p, lr=lr, momentum=0.8), 30)
    if lr == 0.25:  # a power of two rounds nowhere
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_when_the_rate_falls_momentum_is_kept_where_torch_cuts_it():
    def rate(t):
        return 0.4 if t < 10 else 1e-9

    ours = minimise(lambda p: HeavyBall(p, lr=0.4, momentum=0.8), 11, rate)
    theirs = minimise(lambda p: torch.optim.SGD(p, lr=0.4, momentum=0.8), 11, rate)
    np.testing.assert_allclose(ours[:10], theirs[:10], atol=1e-12)
    np.testing.assert_allclose(ours[10] - ours[9], 0.8 * (ours[9] - ours[8]), atol=1e-7)
    assert np.linalg.norm(theirs[10] - theirs[9]) < 1e-7


def test_groups_move_at_their_own_rate_and_parameters_without_gradient_stay():
    fast, slow, still = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = HeavyBall(
        [{"params": [fast, still]}, {"params": [slow], "lr": 0.1, "momentum": 0.0}],
        lr=0.5, momentum=0.5,
    )  # fmt: skip
    for _ in range(2):
        fast.grad, slow.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
    torch.testing.assert_close(fast.detach(), torch.full((2,), 1 - 0.5 - 0.75))
    torch.testing.assert_close(slow.detach(), torch.full((2,), 0.8))
    torch.testing.assert_close(still.detach(), torch.ones(2))
    assert still not in optimizer.state


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lr": -1.0}, ValueError),
        ({"lr": "big"}, TypeError),
        ({"momentum": 1.0}, ValueError),
        ({"momentum": -0.1}, ValueError),
    ],
)
def test_bad_options_are_refused_by_name(options, error):
    (name,) = options
    with pytest.raises(error, match=name):
        HeavyBall([nn.Parameter(torch.ones(2))], **options)


@pytest.mark.parametrize("layout", ["sparse", "mixed"])
def test_nothing_moves_when_a_gradient_is_sparse(layout):
    dense, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = HeavyBall([dense, other], lr=0.5)
    dense.grad = torch.ones(2) if layout == "mixed" else torch.ones(2).to_sparse()
    other.grad = torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    torch.testing.assert_close(dense.detach(), torch.ones(2))


def test_the_step_compiles_with_and_without_scheduler():
    def network():
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    def train(compiled):
        model = network()
        optimizer = HeavyBall(model.parameters(), lr=0.25, momentum=0.5)
        scheduler = StepDecayLR(optimizer, total_steps=6, kappa=4.0)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            step()
            scheduler.step()
        return [p.detach() for p in model.parameters()]

    for a, b in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(a, b)


def rates(total, steps, **options):
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = HeavyBall([{"params": [one]}, {"params": [other], "lr": 3.0}], lr=0.5)
    scheduler = StepDecayLR(optimizer, total, **options)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(found)


@pytest.mark.parametrize(
    "options",
    [{"kappa": 100.0}, {"kappa": 7.0, "factor": 2.0}, {"kappa": 7.0, "n_stages": 1}],
)
def test_rates_are_those_of_step_decay_from_each_groups_own(options):
    expected = step_decay(50, L=1.0, **options)
    found = rates(50, 60, **options)
    np.testing.assert_allclose(found[:50], np.outer(expected, [0.5, 3.0]), rtol=1e-12)
    np.testing.assert_array_equal(found[50:], np.tile(found[49], (10, 1)))


def test_a_schedule_resumes_from_its_state():
    def new():
        optimizer = HeavyBall([nn.Parameter(torch.ones(1))], lr=0.5)
        return optimizer, StepDecayLR(optimizer, 20, kappa=9.0)

    def advance(optimizer, scheduler, steps):
        found = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    expected = advance(*new(), 20)
    first, second = new(), new()
    advance(*first, 8)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert advance(*second, 12) == expected[8:]
    optimizer = HeavyBall([nn.Parameter(torch.ones(1))], lr=0.5)
    optimizer.param_groups[0]["initial_lr"] = 0.5
    StepDecayLR(optimizer, 20, kappa=9.0, last_epoch=7)
    assert optimizer.param_groups[0]["lr"] == expected[7]


def test_bad_schedules_are_refused_by_name():
    optimizer = HeavyBall([nn.Parameter(torch.ones(1))])
    for options, name in (
        ({"total_steps": 0, "kappa": 4.0}, "total_steps"),
        ({"total_steps": 2, "kappa": 1e6}, "total_steps must be >= n_stages"),
        ({"total_steps": 9, "kappa": 0.5}, "kappa"),
        ({"total_steps": 9, "kappa": 4.0, "factor": 1.0}, "factor"),
    ):
        with pytest.raises(ValueError, match=name):
            StepDecayLR(optimizer, **options)
