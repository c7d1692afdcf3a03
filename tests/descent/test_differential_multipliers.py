import copy
import functools
import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from thalweg.descent import Constraint, DifferentialMultipliers  # noqa: E402

SGD, ADAM = torch.optim.SGD, torch.optim.Adam
TARGET = torch.tensor([3.0, 4.0], dtype=torch.float64)


def point(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def distance(x):
    return lambda: (x - TARGET).square().sum()


def squared_norm(x):
    return lambda: x.square().sum()


def solve(x, constraints, steps=400, lr=0.05, multiplier_lr=0.2, optimizer=SGD):
    run = DifferentialMultipliers(
        [x], constraints, lr=lr, multiplier_lr=multiplier_lr, optimizer=optimizer
    )
    records = [run.step(distance(x)) for _ in range(steps)]
    return run, records


@pytest.mark.parametrize(("scale", "damping"), [(1.0, 1.0), (2.0, 0.5), (0.5, 4.0)])
def test_nearest_point_of_the_circle_and_its_multiplier(scale, damping):
    """On |x|² = r² the optimum is (|a| - r)², its derivative in r² is 1 - |a| / r."""
    x = point(1.0, 0.0)
    circle = Constraint(squared_norm(x), "eq", 4.0, scale=scale, damping=damping)
    run, records = solve(x, [circle], lr=0.02, steps=600)
    torch.testing.assert_close(x.detach(), TARGET * 2 / 5, rtol=0, atol=1e-6)
    assert scale * run.multipliers[0] == pytest.approx(1 - 5 / 2, abs=1e-5)
    assert records[-1].values[0] == pytest.approx(4.0)
    assert records[-1].infeasibilities[0] == pytest.approx(0.0, abs=1e-5)
    assert records[-1].loss == pytest.approx(9.0)


@pytest.mark.parametrize("start", [(1.0, 0.0), (3.0, 0.0)])
def test_active_maximum_has_the_price_of_the_limit(start):
    x = point(*start)
    run, _ = solve(x, [Constraint(squared_norm(x), "max", 4.0)])
    torch.testing.assert_close(x.detach(), TARGET * 2 / 5, rtol=0, atol=1e-6)
    assert run.multipliers[0] == pytest.approx(-1.5, abs=1e-5)
    assert run.slacks[0] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("start", [(1.0, 0.0), (7.0, 0.0)])
def test_active_minimum_has_the_price_of_the_limit(start):
    x = point(*start)
    run, _ = solve(x, [Constraint(squared_norm(x), "min", 36.0)], lr=0.008, steps=1500)
    torch.testing.assert_close(x.detach(), TARGET * 6 / 5, rtol=0, atol=1e-3)
    assert run.multipliers[0] == pytest.approx(1 - 5 / 6, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "value", "start"),
    [
        ("max", 49.0, (1.0, 0.0)),
        ("max", 49.0, (8.0, 0.0)),
        ("min", 4.0, (5.0, 0.0)),
        ("min", 4.0, (1.0, 0.0)),
        ("bound", (4.0, 49.0), (5.0, 0.0)),
        ("bound", (4.0, 49.0), (1.0, 0.0)),
        ("bound", (4.0, 49.0), (8.0, 0.0)),
    ],
)
def test_inactive_limit_has_no_price_wherever_the_run_starts(kind, value, start):
    """Damped little, so that steps can be long: a slack that starts outside has to grow first."""
    x = point(*start)
    limit = Constraint(squared_norm(x), kind, value, damping=0.1)
    run, _ = solve(x, [limit], lr=0.05, multiplier_lr=0.05, steps=500)
    torch.testing.assert_close(x.detach(), TARGET, rtol=0, atol=1e-4)
    assert run.multipliers[0] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("kind", "value", "price"), [("max", 2.0, -2.0), ("min", 3.5, 1.0)])
@pytest.mark.parametrize("start", [1.0, 7.0])
@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_active_projected_limit_has_its_price(kind, value, price, start, damping):
    """A limit v of x_0, 3 without: the optimum (v - 3)² has the derivative 2 (v - 3)."""
    x = point(start, 0.0)
    limit = Constraint(lambda: x[0], kind, value, projected=True, damping=damping)
    run, records = solve(x, [limit], lr=0.1, multiplier_lr=0.1, steps=250)
    torch.testing.assert_close(x.detach(), torch.tensor([value, 4.0]).double(), rtol=0, atol=1e-4)
    assert run.multipliers[0] == pytest.approx(price, abs=5e-4)
    assert run.slacks == [None]
    assert min(math.copysign(1, price) * record.multipliers[0] for record in records) == 0


@pytest.mark.parametrize(
    ("kind", "value", "start"),
    [("max", 49.0, (8.0, 0.0)), ("min", 4.0, (1.0, 0.0)), ("max", 49.0, (1.0, 0.0))],
)
def test_inactive_projected_limit_is_not_felt(kind, value, start):
    x = point(*start)
    limit = Constraint(squared_norm(x), kind, value, projected=True)
    run, _ = solve(x, [limit], lr=0.02, steps=300)
    torch.testing.assert_close(x.detach(), TARGET, rtol=0, atol=1e-4)
    assert run.multipliers == [0.0]


@pytest.mark.parametrize("multiplier", [-2.0, -0.5])
def test_one_projected_step_is_what_the_formula_says(multiplier):
    """Inside the limit by 4, with damping 0.25: the pull is the multiplier + 1, if negative."""
    x = point(1.0, 2.0)
    limit = Constraint(squared_norm(x), "max", 9.0, scale=3.0, damping=0.25, projected=True)
    run = DifferentialMultipliers([x], [limit], lr=0.1, multiplier_lr=0.05, optimizer=SGD)
    with torch.no_grad():
        run._multipliers[0].fill_(multiplier)
    assert run.step(distance(x)).infeasibilities == (4.0,)
    pull = 3.0 * min(multiplier + 0.25 * 4.0, 0.0)
    at = torch.tensor([1.0, 2.0]).double()
    torch.testing.assert_close(x.detach(), at - 0.1 * (2 * (at - TARGET) - pull * 2 * at))
    assert run.multipliers[0] == pytest.approx(min(multiplier + 0.05 * 3.0 * 4.0, 0.0))


def test_noise_averages_out_of_a_projected_multiplier():
    """Each look at |x|² <= 4 is off by a deviation of 8, and a step of ascent by 0.016.

    Near the price -1.5 a multiplier draws |x|² back by about 50 / 2.5³ = 3.2 a unit, so that its
    own deviation is 8 sqrt(rate / (2 * 3.2)) = 0.14.
    """
    noise = torch.Generator().manual_seed(0)
    x = point(1.0, 0.0)
    limit = Constraint(
        lambda: x.square().sum() + 8 * torch.randn((), generator=noise),
        "max", 4.0, damping=0.0, projected=True,
    )  # fmt: skip
    run = DifferentialMultipliers(
        [x], [limit], lr=0.02, multiplier_lr=2e-3, optimizer=ADAM, multiplier_optimizer=SGD
    )
    records = [run.step(distance(x)) for _ in range(1200)]
    course = [record.multipliers[0] for record in records]
    assert max(course) == 0
    assert course[1] == pytest.approx(min(2e-3 * records[0].infeasibilities[0], 0.0))
    assert course[2] - course[1] == pytest.approx(
        min(2e-3 * records[1].infeasibilities[0], -course[1])
    )
    assert course[-1] == pytest.approx(-1.5, abs=0.14 * 4)
    assert sum(course[-800:]) / 800 == pytest.approx(-1.5, abs=0.14 * 2)


def test_a_step_without_constraints_is_one_of_the_loss_alone():
    x, y = point(1.0, 0.0), point(1.0, 0.0)
    looked = []

    def norm():
        looked.append(True)
        return x.square().sum()

    limits = [Constraint(norm, "max", 4.0), Constraint(norm, "eq", 1.0)]
    run = DifferentialMultipliers([x], limits, lr=0.1)
    plain = ADAM([y], lr=0.1)
    for _ in range(3):
        record = run.step(distance(x), constrained=False)
        plain.zero_grad()
        distance(y)().backward()
        plain.step()
    assert torch.equal(x, y)
    assert not looked
    assert record.values == record.infeasibilities == ()
    assert record.multipliers == (0.0, 0.0)
    assert math.isnan(run.slacks[0])
    run.step(distance(x))
    assert len(looked) == 2
    before, slack = run.multipliers, run.slacks[0]
    assert before[1] != 0
    assert not math.isnan(slack)
    run.step(distance(x), constrained=False)
    assert (run.multipliers, run.slacks[0], run.steps) == (before, slack, 5)


@pytest.mark.parametrize(
    ("value", "radius"), [((1.0, 4.0), 2.0), ((36.0, 49.0), 6.0)], ids=["upper", "lower"]
)
def test_bound_holds_at_either_end(value, radius):
    x = point(2.0, 1.0)
    run, _ = solve(x, [Constraint(squared_norm(x), "bound", value)], lr=0.008, steps=1000)
    torch.testing.assert_close(x.detach(), TARGET * radius / 5, rtol=0, atol=1e-4)
    assert run.multipliers[0] == pytest.approx(1 - 5 / radius, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "value", "radius"),
    [("max", 4.0, 2.0), ("min", 36.0, 6.0), ("bound", (1.0, 4.0), 2.0)],
)
def test_hard_limits_are_kept_to_the_length_of_a_step(kind, value, radius):
    x = point(2.0, 1.0)
    hard = Constraint(squared_norm(x), kind, value, hard=True)
    run, _ = solve(x, [hard], lr=2e-3, multiplier_lr=2e-2, steps=1000)
    assert not hard.has_slack
    assert run.slacks == [None]
    assert x.detach().norm().item() == pytest.approx(radius, abs=0.1)
    assert math.copysign(1, run.multipliers[0]) == math.copysign(1, radius - 5)


def test_multiplier_is_the_derivative_of_the_optimum():
    """Against a finite difference, with a second constraint that is held."""

    def optimum(value):
        x = point(1.0, 1.0)
        limits = [Constraint(squared_norm(x), "max", value), Constraint(lambda: x[0], "eq", 1.0)]
        run, records = solve(x, limits, steps=400)
        return records[-1].loss, run.multipliers

    price = (optimum(4.01)[0] - optimum(3.99)[0]) / 0.02
    assert optimum(4.0)[1][0] == pytest.approx(price, rel=1e-3)


def test_without_damping_the_run_circles():
    """f = 0 under x = 1 is the pure rotation: the error does not fall, with damping it does."""

    def last_errors(damping):
        x = point(0.0)
        limit = Constraint(lambda: x.sum(), "eq", 1.0, damping=damping)
        run = DifferentialMultipliers([x], [limit], lr=0.05, optimizer=SGD)
        errors = [abs(run.step(lambda: 0 * x.sum()).infeasibilities[0]) for _ in range(500)]
        return errors

    assert max(last_errors(0.0)[-130:]) > 0.9
    assert max(last_errors(1.0)[-130:]) < 1e-3


def test_one_step_is_what_the_formula_says():
    """Plain descent in x and s, ascent in lambda, all from the same point."""
    x = point(1.0, 2.0)
    limit = Constraint(squared_norm(x), "max", 9.0, scale=3.0, damping=0.5)
    run = DifferentialMultipliers([x], [limit], lr=0.1, multiplier_lr=0.7, optimizer=SGD)
    with torch.no_grad():
        run._multipliers[0].fill_(0.25)
        run._slacks[0].fill_(1.5)
    h = 9.0 - 1.5**2 - 5.0
    pull = 3.0 * (0.25 + 0.5 * h)
    record = run.step(distance(x))
    assert record.infeasibilities == (h,)
    assert record.multipliers == (0.25,)
    gradient = 2 * (torch.tensor([1.0, 2.0]) - TARGET) - pull * 2 * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 2.0]).double() - 0.1 * gradient)
    assert run.slacks[0] == pytest.approx(1.5 - 0.1 * pull * (-2 * 1.5))
    assert run.multipliers[0] == pytest.approx(0.25 + 0.7 * 3.0 * h)


@given(
    value=st.floats(-5, 5),
    g=st.floats(-5, 5),
    kind=st.sampled_from(["max", "min", "bound"]),
)
@settings(max_examples=60, deadline=None)
def test_first_slack_fits_a_point_that_is_allowed(value, g, kind):
    limit = (value, value + 2.0) if kind == "bound" else value
    constraint = Constraint(lambda: None, kind, limit)
    slack = constraint.initial_slack(g)
    assert slack > 0
    exact = functools.partial(torch.tensor, dtype=torch.float64)
    h = constraint.infeasibility(exact(g), exact(slack)).item()
    low, high = {"max": (-math.inf, value), "min": (value, math.inf)}.get(kind, limit)
    gap = max(low - g, g - high, 0.0)
    least = 0.02 * (2.0 if kind == "bound" else max(gap, abs(value - g), abs(g), 1e-9))
    assert abs(abs(h) - gap) <= least + 1e-9
    hard = Constraint(lambda: None, kind, limit, hard=True)
    assert abs(hard.infeasibility(exact(g), None).item()) == pytest.approx(gap)


@pytest.mark.parametrize("optimizer", [ADAM, functools.partial(SGD, momentum=0.9)])
def test_resuming_equals_not_stopping(optimizer):
    def make():
        x = point(1.0, 0.0)
        limits = [Constraint(squared_norm(x), "max", 4.0), Constraint(lambda: x[0], "eq", 0.5)]
        return x, DifferentialMultipliers([x], limits, lr=0.01, optimizer=optimizer)

    x, run = make()
    for _ in range(20):
        run.step(distance(x))
    saved = io.BytesIO()
    torch.save(run.state_dict(), saved)
    kept = x.detach().clone()
    for _ in range(20):
        record = run.step(distance(x))

    saved.seek(0)
    y, other = make()
    with torch.no_grad():
        y.copy_(kept)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for _ in range(20):
        again = other.step(distance(y))
    assert torch.equal(x, y)
    assert (run.multipliers, run.slacks, run.steps) == (
        other.multipliers, other.slacks, other.steps
    )  # fmt: skip
    assert again == record


def test_state_of_other_constraints_is_refused():
    x = point(1.0, 0.0)
    one = DifferentialMultipliers([x], [Constraint(squared_norm(x), "max", 4.0)])
    none = DifferentialMultipliers([x], [])
    with pytest.raises(ValueError, match="state_dict must have"):
        none.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="state_dict must have"):
        one.load_state_dict(torch.optim.Adam([x]).state_dict())


def test_a_copy_keeps_multipliers_and_goes_on_alone():
    x = point(1.0, 0.0)
    run, _ = solve(x, [Constraint(squared_norm(x), "max", 4.0)], steps=10)
    other = copy.deepcopy(run)
    assert other.multipliers == run.multipliers
    assert other.slacks == run.slacks
    assert other._inner.state is other.state
    run.step(distance(x))
    assert other.multipliers != run.multipliers


def test_without_constraints_it_is_the_inner_optimizer():
    x, y = point(1.0, 0.0), point(1.0, 0.0)
    run, plain = DifferentialMultipliers([x], [], lr=0.1), ADAM([y], lr=0.1)
    for _ in range(5):
        run.step(distance(x))
        plain.zero_grad()
        distance(y)().backward()
        plain.step()
    assert torch.equal(x, y)


def test_groups_have_their_own_rates_and_schedulers_act():
    x, y, z = point(1.0), point(1.0), point(1.0)
    run = DifferentialMultipliers(
        [{"params": [x], "lr": 0.1}, {"params": [y], "weight_decay": 0.5}], [], lr=0.2,
        optimizer=SGD,
    )  # fmt: skip
    run.add_param_group({"params": [z], "lr": 0.0})
    scheduler = torch.optim.lr_scheduler.ExponentialLR(run, 0.5)
    run.step(lambda: x.sum() + y.sum() + z.sum())
    assert [p.item() for p in (x, y, z)] == pytest.approx([0.9, 1 - 0.2 * 1.5, 1.0])
    scheduler.step()
    run.step(lambda: x.sum())
    assert x.item() == pytest.approx(0.85)


def test_multiplier_rate_follows_that_of_the_first_group_unless_given():
    for given_rate, expected in ((None, 0.1), (0.3, 0.3)):
        x = point(1.0)
        run = DifferentialMultipliers(
            [x], [Constraint(lambda x=x: x.sum(), "eq", 3.0)], lr=0.2, multiplier_lr=given_rate,
            optimizer=SGD,
        )  # fmt: skip
        run.param_groups[0]["lr"] = 0.1
        run.step(lambda x=x: 0 * x.sum())
        assert run.multipliers[0] == pytest.approx(expected * 2.0)


def test_weight_decay_leaves_multipliers_alone():
    x = point(1.0)
    decaying = functools.partial(SGD, weight_decay=0.9)
    run = DifferentialMultipliers(
        [x], [Constraint(lambda: 0 * x.sum() + 1.0, "eq", 1.0)], lr=0.5, optimizer=decaying
    )
    with torch.no_grad():
        run._multipliers[0].fill_(2.0)
    run.step(lambda: 0 * x.sum())
    assert run.multipliers[0] == 2.0
    assert x.item() == pytest.approx(0.55)


def test_long_gradients_are_cut():
    x = point(1.0, 2.0)
    run = DifferentialMultipliers([x], [], lr=1.0, optimizer=SGD, grad_clip=0.5)
    before = x.detach().clone()
    run.step(lambda: 100 * x.sum())
    assert (x.detach() - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_by_step_and_moves_nothing():
    x = point(1.0)
    run = DifferentialMultipliers([x], [Constraint(lambda: x.sum(), "eq", 0.0)], lr=0.1)
    run.step(lambda: x.sum())
    before, multipliers = x.item(), run.multipliers
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        run.step(lambda: x.sum() * math.nan)
    run.constraints[0].fn = lambda: x.sum() / 0
    with pytest.raises(FloatingPointError, match="constraint 0 is inf at step 2"):
        run.step(lambda: x.sum())
    run.constraints[0].fn = lambda: x.sum()
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 2"):
        run.step(lambda: torch.sqrt(0 * x.sum()))
    assert x.item() == before
    assert run.multipliers == multipliers


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"kind": "least"}, ValueError, "kind must be one of"),
        ({"damping": -1.0}, ValueError, "damping must be a finite number >= 0"),
        ({"scale": 0.0}, ValueError, "scale"),
        ({"value": math.inf}, ValueError, "value must be a finite number"),
        ({"kind": "bound"}, TypeError, "value must be a pair"),
        ({"kind": "bound", "value": (2.0, 1.0)}, ValueError, "high must be a finite number > 2"),
        ({"fn": 3.0}, TypeError, "fn must be callable"),
        ({"projected": True}, ValueError, "projected must be False for .* kind='eq'"),
        ({"kind": "max", "projected": True, "hard": True}, ValueError, "projected must be False"),
    ],
)
def test_bad_constraints_are_refused_by_name(options, error, match):
    with pytest.raises(error, match=match):
        Constraint(**{"fn": lambda: None, "kind": "eq", "value": 1.0, **options})


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"lr": -1.0}, ValueError, "lr must"),
        ({"multiplier_lr": -1.0}, ValueError, "multiplier_lr must"),
        ({"grad_clip": 0.0}, ValueError, "grad_clip must"),
        ({"constraints": [3]}, TypeError, "constraints must be of type Constraint"),
        ({"optimizer": "adam"}, TypeError, r"optimizer must be a torch\.optim class"),
        ({"multiplier_optimizer": "sgd"}, TypeError, r"multiplier_optimizer must be a torch"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, match):
    with pytest.raises(error, match=match):
        DifferentialMultipliers([point(1.0)], **{"constraints": [], **options})


def test_functions_must_return_one_number_with_a_graph():
    x = point(1.0, 2.0)
    run = DifferentialMultipliers([x], [])
    with pytest.raises(TypeError, match=r"the closure must return .* got shape \(2,\)"):
        run.step(lambda: x)
    with pytest.raises(ValueError, match="with its graph"):
        run.step(lambda: torch.tensor(1.0))
    other = DifferentialMultipliers([x], [Constraint(lambda: 1.0, "eq", 1.0)])
    with pytest.raises(TypeError, match="fn of constraint 0 must return"):
        other.step(lambda: x.sum())


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(5, 2, sparse=True)
    before = table.weight.detach().clone()
    run = DifferentialMultipliers(table.parameters(), [])
    with pytest.raises(ValueError, match="sparse"):
        run.step(lambda: table(torch.tensor([1])).sum())
    assert torch.equal(table.weight, before)


def test_agrees_with_the_package_of_the_method():
    """The peer's minimum has the other sign of h, so an equality and a maximum are compared.

    By plain steps: Adam would enlarge the rounding of an infeasibility that starts at 0.
    """
    mdmm = pytest.importorskip("mdmm")
    x, y = point(1.0, 0.2), point(1.0, 0.2)
    ours = DifferentialMultipliers(
        [x],
        [
            Constraint(squared_norm(x), "max", 9.0, scale=0.7, damping=2.0),
            Constraint(lambda: x[0], "eq", 0.5, damping=3.0),
        ],
        lr=0.01,
        optimizer=SGD,
    )
    theirs = mdmm.MDMM(
        [
            mdmm.MaxConstraint(squared_norm(y), 9.0, scale=0.7, damping=2.0),
            mdmm.EqConstraint(lambda: y[0], 0.5, damping=3.0),
        ]
    )
    optimizer = theirs.make_optimizer([y], lr=0.01, optimizer=SGD)
    for _ in range(200):
        ours.step(distance(x))
        total = theirs(distance(y)())
        optimizer.zero_grad()
        total.value.backward()
        optimizer.step()
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
