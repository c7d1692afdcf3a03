"""The study of target surrogates: its quick run, its helpers, and a user's file."""

import csv

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.studies.descent import _target_surrogate_imitation as imitation  # noqa: E402
from thalweg.studies.descent import _target_surrogate_learning as learning  # noqa: E402
from thalweg.studies.descent import _target_surrogate_theory as theory  # noqa: E402
from thalweg.study import run_study  # noqa: E402
from thalweg.study.on_file import run_on_file  # noqa: E402

SLUG = "target-surrogates"


def test_the_quick_run_holds():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    results = outcome.record.results
    assert results["benefit_ratio"] < 0.5
    assert results["upper_bound_gap"] > -1e-12
    assert outcome.png


@pytest.fixture
def task():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    return learning.task_of(rows, rows[:, :3].argmax(axis=1), "cross-entropy")


def test_tasks_have_ones_and_losses_of_their_kind(task):
    assert task.X.shape == (30, 5)
    assert bool((task.X[:, -1] == 1).all())
    assert task.value(task.start()) == pytest.approx(np.log(3))
    z = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    y = task.y[:1]
    p = torch.softmax(z, -1)
    assert task.likelihood(p, [0]).item() == pytest.approx(task.loss(z, [0]).item())
    squared = learning.Task(task.X, task.y, "squared")
    wanted = np.eye(3)[int(y)]
    assert squared.loss(z, [0]).item() == pytest.approx(0.5 * np.sum((z.numpy()[0] - wanted) ** 2))
    two = learning.Task(task.X, torch.tensor([1, 0] * 15), "logistic")
    found = two.loss(torch.tensor([2.0, -0.7]), [0, 1]).item()
    assert found == pytest.approx(np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(-0.7))]))
    assert two.start().shape == (5,)


def test_a_pass_of_batches_meets_no_row_twice(task):
    batches = task.batches(12, 0)
    first = torch.cat([next(batches), next(batches)])
    assert len(first.unique()) == 24
    again = task.batches(12, 0)
    assert torch.equal(next(again), first[:12])
    assert len(next(task.batches(100, 0))) == 30


def test_the_task_as_a_finite_sum_has_its_gradients(task):
    problem = learning.TaskSum(task)
    x = np.random.default_rng(1).normal(size=problem.dim)
    idx = np.array([2, 2, 7])
    each = problem.component_gradients(x, idx).mean(axis=0)
    np.testing.assert_allclose(problem.gradient(x, idx), each)
    assert problem.value(x, idx) == pytest.approx(problem.component_values(x, idx).mean())
    v, h = np.random.default_rng(2).normal(size=problem.dim), 1e-6
    slope = (problem.value(x + h * v) - problem.value(x - h * v)) / (2 * h)
    assert problem.gradient(x) @ v == pytest.approx(slope, abs=1e-7)


def test_every_baseline_learns(task):
    curves = learning.best_baselines(task, tuple(learning.RATES), 20, 10, range(1), every=10)
    assert set(curves) == set(learning.RATES)
    for name, curve in curves.items():
        assert len(curve) == (1 if name == "SVRG" else 3)
        assert curve[-1] < np.log(3)


@pytest.mark.parametrize("variant", learning.TARGET_STEPS)
def test_every_variant_learns(task, variant):
    curve = learning.surrogate_curve(
        task, 10, 15, 0, variant=variant, target_step=learning.TARGET_STEPS[variant] / 4
    )
    assert len(curve) == 11
    assert curve[-1] < curve[0]


def test_calls_are_counted_to_the_first_below():
    assert learning.calls_to_reach(np.array([3.0, 1.0, 2.0]), 1.0) == 1
    assert learning.calls_to_reach(np.array([3.0]), 1.0) == np.inf


def test_the_expert_is_the_best_linear_feedback():
    """Its cost from a state, without noise, is the Riccati solution's; other gains cost more."""
    act = imitation.expert()
    gain = -np.array([act(e) for e in np.eye(4)]).T

    def cost(K):
        A, B = imitation.TwoCarts.A, imitation.TwoCarts.B
        x, total = np.array([1.0, -0.5, 0.3, 0.8]), 0.0
        for _ in range(400):
            u = -K @ x
            total += x @ x + u @ u
            x = A @ x + B @ u
        return total

    best = cost(gain)
    for seed in range(5):
        other = gain + 0.05 * np.random.default_rng(seed).normal(size=gain.shape)
        assert cost(other) > best


def test_the_carts_follow_newton():
    environment = imitation.TwoCarts()
    state, _ = environment.reset(seed=3)
    start, noise = state.copy(), np.random.default_rng(3)
    noise.normal(size=4)
    after, reward, _, truncated, _ = environment.step(np.array([1.0, -2.0]))
    kick = imitation.NOISE * noise.normal(size=4)
    dt, push = imitation.INTERVAL, np.array([1.0, -2.0])
    place = start[:2] + dt * start[2:] + dt**2 / 2 * push
    np.testing.assert_allclose(after - kick, [*place, *(start[2:] + dt * push)])
    assert reward == pytest.approx(-(start @ start + 5.0))
    assert not truncated


def test_bounds_and_controls_are_on_their_sides():
    found = theory.majorisation(10)
    assert found["majorisation_ratio"] < 1 < found["majorisation_control"]
    assert found["largest_rise"] < 0


def write(tmp_path, text=None):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = np.where(X[:, 0] > 0, 5, np.where(X[:, 1] > 0, 7, 9))
    rows = "\n".join(",".join(map(str, row)) for row in np.column_stack([X, y]))
    path = tmp_path / "data.csv"
    path.write_text("a,b,c,class\n" + rows if text is None else text, encoding="utf-8")
    return path


def test_a_file_of_classes_is_learned(tmp_path):
    folder, summary = run_on_file(
        SLUG, write(tmp_path), out=tmp_path / "out", overrides={"calls": 8, "batch": 20}
    )
    assert (summary["rows"], summary["columns"], summary["classes"]) == (60, 3, 3)
    with open(folder / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["target_gradients"]) for row in rows] == list(range(9))
    last = [float(rows[-1][f"loss_{m}_updates"]) for m in (1, 10, 100)]
    assert last == [summary[f"loss, {m} updates"] for m in (1, 10, 100)]
    assert np.log(3) > last[0] > last[1] > last[2]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, {"calls": 0}, "calls must be >= 1"),
        (None, {"batch": 0}, "batch must be >= 1"),
        (None, {"target_step": 0.0}, "target_step must be > 0"),
        ("1,2\n3,2\n", {}, "expected 2 to 1000 classes"),
        ("1,x\n3,y\n", {}, "not a table of numbers"),
    ],
)
def test_bad_files_and_settings_are_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, write(tmp_path, text), out=tmp_path / "out", overrides=options)
