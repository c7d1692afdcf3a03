"""The study of SMB: its quick run, the helpers that its claims rest on, and a user's file."""

from __future__ import annotations

import csv

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import SMB, Logistic  # noqa: E402
from thalweg.studies.descent import _smb_descent as theory  # noqa: E402
from thalweg.studies.descent import _smb_training as training  # noqa: E402
from thalweg.study import run_study  # noqa: E402
from thalweg.study.on_file import run_on_file  # noqa: E402

SLUG = "smb"


def test_the_quick_run_holds_what_it_claims():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    results = outcome.record.results
    assert results["descent_steps"] == 800
    assert results["descent_smallest"] >= 1
    assert 0.5 < results["model_share"] <= 1
    assert outcome.png


def task(n=40, seed=0):
    X = np.random.default_rng(seed).normal(size=(60, 4))
    return training.split(X, (X[:, 0] > 0) + (X[:, 1] > 1), n, (5,), 8)


def test_rows_keep_their_order_unless_a_seed_is_given():
    X, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
    plain = training.split(X, y, 4, (3,), 2)
    assert plain.rows.tolist() == X[:4].tolist()
    assert plain.test_labels.tolist() == [1, 2]
    assert (plain.widths, plain.batches) == ((2, 3, 3), 2)
    shuffled = training.split(X, y, 4, (3,), 2, seed=1)
    rows = torch.cat([shuffled.rows, shuffled.test_rows])
    labels = torch.cat([shuffled.labels, shuffled.test_labels])
    assert rows[:, 0].tolist() != X[:, 0].tolist()
    assert all(y[int(r) // 2] == v for r, v in zip(rows[:, 0], labels, strict=True))


def test_weights_are_drawn_as_torch_does_and_repeat():
    first, second = (
        training.perceptron((50, 40, 3), torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert [tuple(p.shape) for p in first.parameters()] == [(40, 50), (40,), (3, 40), (3,)]
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
    largest = first[0].weight.abs().max().item()
    assert 0.95 * 50**-0.5 < largest <= 50**-0.5


@pytest.mark.parametrize("method", training.METHODS)
def test_training_lowers_the_loss_and_repeats(method):
    runs = [training.train(task(), method, 0.05, 4, seed=3) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)
    assert runs[0].losses.shape == runs[0].accuracies.shape == (5,)
    assert runs[0].losses[-1] < runs[0].losses[0]
    # all methods start from the same weights
    start = training.train(task(), "SGD", 0.05, 0, seed=3)
    assert runs[0].losses[0] == start.losses[0]


def test_a_loss_that_is_not_a_number_is_the_worst():
    found = training.train(task(), "SGD", 1e30, 2, seed=0)
    assert found.losses[-1] == np.inf
    assert training.worst(np.array([[[3.0, 1.0], [3.0, 2.0]], [[3.0, 0.5], [9.0, 0.1]]])) == 2.0
    assert training.worst(np.array([[found.losses]])) == np.inf


def test_epochs_are_counted_to_the_first_that_is_low_enough():
    assert training.epochs_to(0.5, np.array([2.0, 0.5, 0.7, 0.1]), 9) == 1
    assert training.epochs_to(0.05, np.array([2.0, 0.5]), 9) == 9


def test_the_ratio_of_a_model_step_is_that_of_the_tensors_shares():
    first, second = (torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    optimizer = SMB([first, second], lr=2.0, eta=0.5)
    # alone, each tensor moves by 1 / (1 / eta + 2 lr h) of its trial step
    found = training._model_ratio(optimizer, lambda: (0.5 * first**2 + 5.0 * second**2).sum())
    assert found == [pytest.approx((2 + 2 * 2 * 10) / (2 + 2 * 2 * 1))]
    assert training._model_ratio(optimizer, lambda: (1e-3 * first**2).sum()) == []


def test_falls_and_norms_belong_to_the_same_step():
    problem = Logistic(np.array([[1.0, 2.0], [3.0, -1.0]]), [1.0, -1.0], l2=0.1)
    falls, norms, models = theory.path(problem, 0.1, 0.1, None, 3)
    zero = np.zeros(2)
    g = problem.gradient(zero)
    assert norms[0] == pytest.approx(np.linalg.norm(g))
    assert falls[0] == pytest.approx(problem.value(zero) - problem.value(zero - 0.1 * g))
    assert (len(falls), len(norms), models) == (3, 3, 0)
    assert theory.violations(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.1, 2.9])) == 1


def table(tmp_path, text=None):
    if text is None:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(200, 3))
        y = np.where(X[:, 0] > 0.5, 7, np.where(X[:, 1] > 0, 3, -2))
        rows = np.column_stack([X, y])
        text = "a,b,c,class\n" + "\n".join(",".join(map(str, row)) for row in rows)
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_classifier_is_trained_on_a_file(tmp_path):
    folder, summary = run_on_file(SLUG, table(tmp_path), out=tmp_path / "out")
    assert (summary["rows"], summary["columns"], summary["classes"]) == (200, 3, 3)
    assert summary["test_accuracy"] > 0.8
    with open(folder / "curves.csv", newline="") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 31
    assert float(curves[-1]["training_loss"]) == summary["training_loss"] < 0.3
    with open(folder / "predictions.csv", newline="") as file:
        guesses = list(csv.DictReader(file))
    assert len(guesses) == 40
    right = np.mean([float(row["class"]) == float(row["predicted"]) for row in guesses])
    assert right == pytest.approx(summary["test_accuracy"])
    truth = np.loadtxt(table(tmp_path), delimiter=",", skiprows=1)[:, -1]
    assert all(truth[int(row["row"])] == float(row["class"]) for row in guesses)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1,0\n2,0\n3,0\n4,0\n", {}, "expected 2 to 2 classes"),
        ("1,0.1\n2,0.2\n3,0.3\n4,0.4\n", {}, "expected 2 to 2 classes"),
        (None, {"epochs": 0}, "epochs must be >= 1"),
        (None, {"hidden": 0}, "hidden must be >= 1"),
        (None, {"batch": 0}, "batch must be >= 1"),
        (None, {"lr": 0.0}, "lr must be > 0"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, table(tmp_path, text), out=tmp_path / "out", overrides=options)
