"""The study of the unpaired transfer: its quick run, its helpers, and the map of a user's file."""

import csv

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport._unpaired_flow_baselines import (
    correlation_difference,
    features,
    first_below,
    masses,
    mean_distance,
    multiplier_errors,
    quantile_mapping,
    reweighting,
)
from thalweg.studies.transport._unpaired_flow_file import read_pair, read_samples
from thalweg.studies.transport.unpaired_flow_transfer import compared
from thalweg.study import load, run_study
from thalweg.transport import diphoton_mass, make_diphotons

STUDY = load("unpaired-flow-transfer")


def test_quick_run_holds():
    outcome = run_study("unpaired-flow-transfer")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["distance_ratio"] == "holds"
    assert verdicts["mass_ratio"] == "skipped"
    assert outcome.png


def test_all_methods_run_at_small_sizes():
    sizes = {"events": 300, "judged": 400, "auc_rows": 200, "final_rows": 100, "steps": 6,
             "weights": (0.0, 1.0), "conditional": True, "reweighting": True, "all_features": True,
             "watch_every": 3}  # fmt: skip
    outcome = run_study("unpaired-flow-transfer", overrides=sizes)
    assert not outcome.record.traceback
    assert outcome.arrays["watched_steps_weight_1"].tolist() == [3, 6]
    assert outcome.png


def test_features_and_masses_are_those_of_the_table():
    table = make_diphotons(500, rng=0)
    Z, c = features(table)
    assert Z.shape == (500, 8)
    np.testing.assert_array_equal(c[:, 0], table["pileup"])
    mass = diphoton_mass(table)
    np.testing.assert_allclose(masses(Z), mass[(mass >= 100) & (mass <= 160)])


def test_distances_are_in_deviations_of_the_second():
    Y = np.random.default_rng(0).normal(size=(400, 2)) * [1.0, 10.0]
    shift = Y.std(0) * [0.5, 1.5]
    assert mean_distance(Y + shift, Y) == pytest.approx(1.0)
    flipped = Y * [1.0, -1.0]
    r = np.corrcoef(Y.T)[0, 1]
    assert correlation_difference(flipped, Y) == pytest.approx(2 * abs(r))


def test_quantile_mapping_matches_each_column():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(2000, 2)), rng.exponential(size=(2000, 2))
    moved = quantile_mapping(X, Y, X)
    np.testing.assert_allclose(np.sort(moved, 0), np.sort(Y, 0), atol=0.05)
    np.testing.assert_array_equal(moved.argsort(0), X.argsort(0))


def test_reweighting_draws_what_looks_like_data():
    rng = np.random.default_rng(0)
    X, Y, fresh = (
        rng.normal(size=(1000, 1)),
        rng.normal(0.7, 1, (1000, 1)),
        rng.normal(size=(1000, 1)),
    )
    drawn = reweighting(X, Y, fresh, rng)
    assert fresh[drawn].mean() == pytest.approx(0.7, abs=0.25)


def test_multipliers_are_prices():
    assert multiplier_errors(2, np.random.default_rng(1)).max() < 0.05


def test_first_step_below():
    assert first_below([5, 10, 15], [3.0, 0.9, 2.0], 1.0) == 10
    assert first_below([5, 10], [3.0, 2.0], 1.0) == np.inf


def test_claims_compare_methods_as_they_say():
    results = {"floor": 1.0, "mmd_multiplier": 1.2, "mmd_weight_0": 6.0, "mmd_weight_1": -3.0,
               "distance_multiplier": 1.0, "distance_simulation": 4.0, "mass_multiplier": 1.0,
               "mass_simulation": 2.0, "correlation_quantiles": 0.3,
               "correlation_multiplier": 0.1}  # fmt: skip
    for name, values in (
        ("multiplier", [3, 1, 1]),
        ("weight_0", [9, 9, 9]),
        ("weight_1", [5, 5, 2]),
    ):
        results |= {f"watched_{name}": values, f"watched_steps_{name}": [10, 20, 30]}
    setup = STUDY.preset("quick", {"weights": (0.0, 1.0), "steps": 30, "watch_every": 10})
    found = compared(results, setup)
    assert found["steps_fixed"].tolist() == [40, 30]
    assert found["steps_over_best"] == pytest.approx(20 / 30)
    assert found["steps_over_worst"] == pytest.approx(0.5)
    assert found["fixed_weight_span"] == pytest.approx(60.0)
    assert found["final_over_target"] == 1.2
    assert found["distance_ratio"] == 0.25
    assert found["mass_ratio"] == 0.5
    assert found["quantile_correlation_excess"] == pytest.approx(0.2)


def transfer_file(path, out, **options):
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    return STUDY.on_file.run(path, setup, out, np.random.default_rng(0), lambda *_: None)


def tables(seed=0, n=300):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal([2.0, 0.0, 0.0], size=(n, 3))


def test_arrays_of_a_file_are_transformed(tmp_path):
    source, target = tables()
    np.savez(tmp_path / "in.npz", source=source, target=target, columns=["a", "b", "c"])
    printed = transfer_file(tmp_path / "in.npz", tmp_path, condition="c", steps=80, lr=1e-2)
    with (tmp_path / "transformed.csv").open() as file:
        header, *rows = csv.reader(file)
    after = np.array(rows, dtype=float)
    assert header == ["a", "b", "c"]
    np.testing.assert_allclose(after[:, 2], source[:, 2])
    np.testing.assert_allclose(after.mean(0)[:2], [2.0, 0.0], atol=0.3)
    assert printed["auc_after"] < printed["auc_before"] - 0.1
    with pytest.raises(ValueError, match="condition names"):
        transfer_file(tmp_path / "in.npz", tmp_path, condition="z")
    with pytest.raises(ValueError, match="leave a column"):
        transfer_file(tmp_path / "in.npz", tmp_path, condition="a,b,c")


def test_a_table_with_a_column_of_samples_is_read(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("a,sample,b\n1,source,2\n3,target,4\n5,source,6\n")
    names, (source, target) = read_samples(path)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(source, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(target, [[3, 4]])


def test_two_tables_are_one_pair_with_columns_by_name(tmp_path):
    first, second = tmp_path / "source.csv", tmp_path / "target.csv"
    first.write_text("a,b\n1,2\n5,6\n")
    second.write_text("b,a\n4,3\n")
    names, (source, target) = read_pair(first, second)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(source, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(target, [[3, 4]])
    with pytest.raises(ValueError, match="there is no file"):
        read_pair(first, tmp_path / "none.csv")
    for text, match in (
        ("a,c\n1,2\n", "must have the columns"),
        ("a,b\n1\n", "rows of 2 numbers"),
        ("a,b\n1,2\n3\n", "as many numbers"),
        ("a,b\nx,2\n", "as many numbers"),
        ("a,b\n", "a header"),
        ("", "a header"),
    ):
        second.write_text(text)
        with pytest.raises(ValueError, match=match):
            read_pair(first, second)


def test_two_tables_are_transformed(tmp_path):
    for name, table in zip(("source", "target"), tables(), strict=True):
        np.savetxt(tmp_path / f"{name}.csv", table, delimiter=",", header="a,b,c", comments="")
    printed = transfer_file(
        tmp_path / "source.csv", tmp_path, target=str(tmp_path / "target.csv"), steps=5
    )
    assert printed["auc_before"] > 0.8
    assert (tmp_path / "transformed.csv").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,b\n1,2\n", "column 'sample'"),
        ("a,sample\n1,other\n", "line 2"),
        ("a,sample\nx,source\n", "must hold numbers"),
        ("a,sample\n1,source\n", "rows of source and of target"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, text, match):
    path = tmp_path / "in.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        read_samples(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"source": np.zeros((3, 2))}, "no array 'target'"),
        ({"source": np.zeros((3, 2)), "target": np.zeros((3, 1))}, "must have 2 columns"),
        ({"source": np.zeros(3), "target": np.zeros((3, 1))}, "source must be numbers"),
        ({"source": np.zeros((3, 1)), "target": np.ones((3, 1)), "columns": ["a", "b"]}, "names"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, match):
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match):
        read_samples(path)


def test_too_few_rows_of_a_file_are_refused(tmp_path):
    source, target = tables(n=50)
    np.savez(tmp_path / "in.npz", source=source, target=target)
    with pytest.raises(ValueError, match="--input: source must have at least 200 rows"):
        transfer_file(tmp_path / "in.npz", tmp_path)
