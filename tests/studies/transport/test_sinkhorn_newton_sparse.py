"""The study of sparse Newton steps: its quick run, and the plan of a user's file."""

import numpy as np
import pytest
from scipy.sparse import load_npz

from thalweg import data
from thalweg.study import load, run_study
from thalweg.transport import sinkhorn

STUDY = load("sinkhorn-newton-sparse")


def test_quick_run_holds_without_data_sets(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    outcome = run_study("sinkhorn-newton-sparse")
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert outcome.record.state == "holds", outcome.record.traceback
    assert verdicts.pop("tail_orders") == verdicts.pop("w1_sweep_ratios") == "skipped"
    assert verdicts.pop("step_slope") == verdicts.pop("pot_stabilised_error") == "skipped"
    assert set(verdicts.values()) == {"holds"}
    assert len(outcome.arrays["sweep_ratios"]) == 3
    assert min(outcome.arrays["sweep_ratios"]) > 50
    # The bound is on the side of the measurement at every eta, and reached by an assignment.
    assert (outcome.arrays["share_measured"] <= outcome.arrays["share_bound"] + 1e-12).all()
    assert outcome.arrays["share_measured"][-1] == pytest.approx(1 / 40, abs=0.01)


@pytest.mark.skipif(
    not all(data.available(name) for name in ("mnist-t10k-images", "mnist-t10k-labels")),
    reason="needs MNIST",
)
def test_digits_are_measured_where_they_are():
    outcome = run_study(
        "sinkhorn-newton-sparse",
        overrides={
            "epsilons": (0.1,),
            "square_points": 50,
            "bound_runs": 1,
            "step_sizes": (20, 30),
        },
    )
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["w1_sweep_ratios"] == "holds", outcome.record.traceback
    assert len(outcome.arrays["sweep_ratios"]) == 5


def solve(tmp_path, arrays, **options):
    path = tmp_path / "problem.npz"
    np.savez(path, **arrays)
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    printed = STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )
    return printed, load_npz(tmp_path / "plan.npz").toarray(), np.load(tmp_path / "potentials.npz")


def test_a_file_with_costs_is_solved(tmp_path):
    rng = np.random.default_rng(0)
    a, b, C = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4)), rng.random((6, 4))
    printed, plan, potentials = solve(tmp_path, {"C": C, "a": a, "b": b}, epsilon=0.1)
    expected = sinkhorn(a, b, C, 0.1)
    np.testing.assert_allclose(plan, expected.plan, atol=1e-8)
    assert printed["cost"] == pytest.approx(expected.cost, abs=1e-8)
    np.testing.assert_allclose(potentials["f"], expected.f, atol=1e-7)


def test_a_file_with_points_is_solved_at_the_chosen_cost(tmp_path):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(5, 2)), rng.normal(size=(7, 2))
    _, plan, _ = solve(tmp_path, {"X": X, "Y": Y}, epsilon=0.5, cost="cityblock")
    C = np.abs(X[:, None] - Y).sum(axis=-1)
    expected = sinkhorn(np.full(5, 1 / 5), np.full(7, 1 / 7), C, 0.5).plan
    np.testing.assert_allclose(plan, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((2, 2))}, "must hold C, or X and Y; it has: X"),
        ({"C": np.ones(3)}, "C must be a matrix"),
        ({"C": np.ones((2, 2)), "a": [1.0, 1.0], "b": [1.0, 2.0]}, "b must sum to 2"),
        ({"C": np.array([["a", "b"]])}, "C must hold real numbers, got <U1"),
        ({"C": np.array([[None]], dtype=object)}, "not an .npz file of plain arrays"),
    ],
)
def test_bad_arrays_of_a_file_are_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        solve(tmp_path, arrays)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "problem.npz"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        STUDY.on_file.run(path, STUDY.preset("quick"), tmp_path, None, None)
