"""The study of the c-rectified flow: its quick run, its parts, and the map of a user's clouds."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

pytest.importorskip("torch")

from thalweg.studies.transport._rectified_flow_exact import (
    SOURCE_MODES,
    TARGET_MODES,
    batch_pairs,
    draw_modes,
    gaussian_cost,
    gaussians,
    least_cost,
)
from thalweg.studies.transport.c_rectified_flow import cells, read_cost
from thalweg.study import load, run_study
from thalweg.transport import convex_cost, gaussian_ot_map

STUDY = load("c-rectified-flow")


def test_quick_run_holds():
    outcome = run_study("c-rectified-flow")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["quarter_turn_ratios"] == "holds"
    assert verdicts["cells_distance"] == "skipped"
    assert outcome.arrays["rotation_paths"].shape == (51, 24, 2)
    assert outcome.arrays["plain_rotation_costs"][0, 0] == pytest.approx(2.0, rel=0.1)
    assert outcome.png


def test_all_parts_run_at_small_sizes(monkeypatch):
    """The mixtures, and their figure, with flows too short to judge."""
    sizes = {
        "pairs": 1,
        "rotation_points": 200,
        "rotation_steps": 5,
        "batch_size": 32,
        "mixture_points": 300,
        "mixture_steps": 5,
    }
    monkeypatch.setattr("thalweg.studies.transport._rectified_flow_exact.ASSIGNED", 60)
    outcome = run_study("c-rectified-flow", overrides=sizes)
    assert not outcome.record.traceback
    results = outcome.arrays
    assert results["mixture_table"].shape == (3, 5)
    assert len(results["mixture_costs_power_3"]) == 4
    table = results["mixture_table"][:, :3]
    assert (np.array(results["diagonal_over_row"]) >= 1).all()
    np.testing.assert_allclose(results["over_assignment"], np.diag(table))
    np.testing.assert_allclose(results["diagonal_over_row"], np.diag(table) / table.min(1))
    assert outcome.png


def test_cells_are_moved_where_they_are(monkeypatch, tmp_path):
    """Stand-ins for both days: the second is the first one moved."""
    rng = np.random.default_rng(0)
    day = rng.normal(size=(1500, 12))
    np.save(tmp_path / "0.npy", day)
    np.save(tmp_path / "1.npy", day + 5.0)
    paths = iter([tmp_path / "0.npy", tmp_path / "1.npy"])
    monkeypatch.setattr("thalweg.data.fetch", lambda name, download: next(paths))
    setup = STUDY.preset("quick", {"cell_steps": 20})
    found = cells(setup, rng)
    assert found["cells_distance"] < 0.2 * found["cells_distance_before"]
    assert found["cells_over_assignment"] == pytest.approx(1.0, rel=0.2)


def test_gaussians_are_measured_against_the_optimum():
    found = gaussians(2, 2, np.random.default_rng(0))
    assert found["excess_2"].shape == (2, 6)
    assert (found["excess_2"] > -1e-9).all()
    assert (found["excess_2"] <= found["plain_excess_2"] + 1e-9).all()
    assert found["bound_share_2"] <= 1
    S0, S1 = np.diag([1.0, 4.0]), np.diag([9.0, 1.0])
    A = gaussian_ot_map(np.zeros(2), S0, np.zeros(2), S1)[0]
    assert gaussian_cost(S0, S1, S0 @ A) == pytest.approx(((1 - 3) ** 2 + (2 - 1) ** 2) / 2)


def test_modes_are_assigned_as_the_figure_says():
    for p, best in ((1.5, [0, 1, 2]), (2.0, [0, 1, 2]), (3.0, [1, 2, 0])):
        c = convex_cost(("power", p))
        costs = np.array([[c.cost((y - x)[None])[0] for y in TARGET_MODES] for x in SOURCE_MODES])
        assert linear_sum_assignment(costs)[1].tolist() == best
        other = [0, 1, 2] if p == 3.0 else [1, 2, 0]
        if p != 2.0:
            rows = np.arange(3)
            assert costs[rows, other].sum() > 1.42 * costs[rows, best].sum()


def test_modes_are_drawn_in_equal_parts():
    points = draw_modes(100 * SOURCE_MODES, 300, np.random.default_rng(0))
    nearest = ((points[:, None] - 100 * SOURCE_MODES) ** 2).sum(2).argmin(1)
    assert np.bincount(nearest).tolist() == [100, 100, 100]


def test_batches_are_paired_at_least_cost():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(600, 2)), rng.normal(size=(600, 2))
    x, y = batch_pairs(X, Y, rng)
    np.testing.assert_array_equal(np.sort(y, axis=0), np.sort(Y, axis=0))
    c = convex_cost("sqeuclidean")
    for part in (slice(0, 250), slice(250, 500), slice(500, 600)):
        found = c.cost(y[part] - x[part]).mean()
        assert found == pytest.approx(least_cost(c, x[part], y[part]))


def test_least_cost_of_three_points():
    c = convex_cost(("power", 3.0))
    x, y = np.array([[0.0], [5.0], [9.0]]), np.array([[9.5], [0.5], [5.5]])
    assert least_cost(c, x, y) == pytest.approx(0.5**3 / 3)


def map_clouds(tmp_path, arrays, **options):
    path = tmp_path / "clouds.npz"
    np.savez(path, **arrays)
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    printed = STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )
    return printed, np.load(tmp_path / "rectified_flow.npz")


@pytest.mark.parametrize("cost", ["rectified", "power:1.5"])
def test_clouds_of_a_file_are_mapped(tmp_path, cost):
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(300, 2)), rng.normal(50.0, 10.0, size=(250, 2))
    printed, written = map_clouds(
        tmp_path, {"source": source, "target": target}, steps=60, cost=cost
    )
    assert written["mapped"].shape == (300, 2)
    assert written["costs"].shape == (3,)
    assert written["losses"].shape == (2,)
    np.testing.assert_allclose(written["mapped"].mean(0), target.mean(0), atol=3.0)
    assert (
        printed["energy_distance_mapped_to_target"]
        < 0.1 * printed["energy_distance_source_to_target"]
    )
    assert printed["cost_after"] == pytest.approx(written["costs"][-1])


def test_costs_are_read_from_the_command_line():
    assert read_cost("rectified") is None
    assert read_cost("sqeuclidean") == "sqeuclidean"
    assert read_cost("norm:3") == ("norm", 3.0)
    for text in ("power", "power:1", "power:x", "cubic", "quadratic:2", ""):
        with pytest.raises(ValueError, match="--set: cost must be"):
            read_cost(text)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"source": np.zeros((3, 2))}, "no array 'target'"),
        ({"source": np.zeros((3, 2)), "target": np.zeros((3, 1))}, "as many columns"),
        ({"source": np.zeros(3), "target": np.zeros((3, 1))}, "source must be numbers"),
        ({"source": np.zeros((3, 1)), "target": np.full((3, 1), np.nan)}, "target must be finite"),
        ({"source": np.array([["a"]]), "target": np.zeros((3, 1))}, "must be numbers"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, arrays, match):
    with pytest.raises(ValueError, match=match) as error:
        map_clouds(tmp_path, arrays)
    assert "\n" not in str(error.value)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "clouds.csv"
    path.write_text("1,2\n")
    setup = type(STUDY.preset("quick"))(**STUDY.on_file.options)
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        STUDY.on_file.run(path, setup, tmp_path, None, None)
