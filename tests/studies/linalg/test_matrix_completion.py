"""The study of matrix completion: its quick run, its baselines, and a user's table."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from thalweg import data
from thalweg.studies.linalg import _completion_baselines as baselines
from thalweg.studies.linalg.matrix_completion import iterations_to, linear_fit
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "matrix-completion"


def test_the_claims_hold_at_quick_size_without_the_football_results(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["football_completion"] == "skipped"
    assert verdicts["cost_over_verification"] == "holds"
    assert outcome.png
    arrays = outcome.arrays
    assert arrays["curve_exact"][-1] < 1e-12
    assert arrays["curve_factor_descent"][-1] < arrays["curve_factor_descent"][0] / 10
    assert arrays["curve_soft_impute"][-1] < arrays["curve_soft_impute"][0]
    # two entries of the sketch, and k (k + 1) for its Gram matrix, are not free
    assert np.all(arrays["operations_sketch"] > arrays["operations_cg"])


def test_a_linear_descent_is_fitted_above_rounding():
    errors = np.maximum(3 * 0.4 ** np.arange(60), 1e-15)
    ratio, r_squared = linear_fit(errors)
    assert ratio == pytest.approx(0.4)
    assert r_squared == pytest.approx(1)
    assert iterations_to(errors, 3 * 0.4**7 * 1.001) == 8
    assert iterations_to(errors, 0.0) == np.inf


def table_with_gaps(share=0.6):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 25))
    return table, rng.random(table.shape) < share


def test_both_baselines_approach_the_table():
    table, observed = table_with_gaps()
    for tables in (
        baselines.soft_impute(table, observed, 300),
        baselines.factor_descent(table, observed, 2, 300),
    ):
        errors = [np.linalg.norm((t - table)[~observed]) for t in tables]
        assert errors[-1] < 0.1 * np.linalg.norm(table[~observed])


def test_held_out_pairs_leave_in_both_directions():
    table, observed = table_with_gaps()
    square = table[:25] - table[:25].T
    square[~(observed[:25] & observed[:25].T)] = np.nan
    rest, (i, j) = baselines.hold_out(square, np.random.default_rng(0))
    assert np.isnan(rest[i, j]).all()
    assert np.isfinite(square[i, j]).all()
    assert set(zip(i, j, strict=True)) == set(zip(j, i, strict=True))
    assert np.isfinite(square).sum() == np.isfinite(rest).sum() + len(i)
    assert 0.1 < len(i) / np.isfinite(square).sum() < 0.3


@pytest.mark.skipif(not data.available("football-results"), reason="needs the football results")
def test_football_goal_differences_are_mirrored_and_better_than_nothing():
    table, teams = baselines.football_table(400)
    assert np.array_equal(table, -table.T, equal_nan=True)
    england, scotland = (teams.tolist().index(team) for team in ("England", "Scotland"))
    assert 0 < table[england, scotland] < 2
    found = baselines.football(600, False, np.random.default_rng(0))
    assert found["football_completion"] < 0.9 * found["football_zero"]
    assert "football_iterative" not in found


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def complete(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    options = {"ranks": (1, 2, 3), "center": False} | options
    return run_on_file(SLUG, path, out=tmp_path / "out", overrides=options)


def test_the_gaps_of_a_csv_with_names_are_filled(tmp_path):
    table, observed = table_with_gaps()
    lines = ["," + ",".join(f"c{j}" for j in range(25))]
    for i, row in enumerate(table):
        cells = (f"{x:.17g}" if seen else "" for x, seen in zip(row, observed[i], strict=True))
        lines.append(f"r{i}," + ",".join(cells))
    folder, summary = complete(tmp_path, "table.csv", "\n".join(lines).encode())
    written = read_csv(folder / "completed.csv")
    assert written[0] == ["", *(f"c{j}" for j in range(25))]
    assert [row[0] for row in written[1:]] == [f"r{i}" for i in range(30)]
    completed = np.array([[float(x) for x in row[1:]] for row in written[1:]])
    assert np.abs(completed - table).max() < 1e-5
    assert summary["rank"] in (2, 3)
    assert summary["observed"] == observed.sum()
    errors = {int(r): float(e) for r, e in read_csv(folder / "error_by_rank.csv")[1:]}
    assert set(errors) == {0, 1, 2, 3}
    assert errors[2] < 0.2 * errors[1]
    assert errors[0] == pytest.approx(np.sqrt(np.mean(table[observed] ** 2)), rel=1e-5)
    assert len(read_csv(folder / "row_factors.csv")) == 31
    assert len(read_csv(folder / "column_factors.csv")) == 26


def test_plain_csv_and_npy_give_the_same(tmp_path):
    table, observed = table_with_gaps()
    gappy = np.where(observed, table, np.nan)
    text = "\n".join(",".join("NA" if np.isnan(x) else repr(float(x)) for x in r) for r in gappy)
    one, _ = complete(tmp_path, "table.csv", text.encode())
    first = read_csv(one / "completed.csv")
    two, _ = complete(tmp_path, "table.npy", gappy)
    assert first == read_csv(two / "completed.csv")
    assert len(first) == 30


def test_triplets_are_completed_to_a_table_of_their_names(tmp_path):
    table, observed = table_with_gaps()
    lines = ["user,item,score"]
    lines += [f"u{i:02},i{j:02},{table[i, j]:.17g}" for i, j in np.argwhere(observed)]
    folder, summary = complete(tmp_path, "t.csv", "\n".join(lines).encode(), triplets=True)
    written = read_csv(folder / "completed.csv")
    assert (summary["rows"], summary["columns"]) == table.shape
    assert written[4][0] == "u03"
    assert written[0][3] == "i02"
    assert float(written[4][3]) == pytest.approx(table[3, 2], abs=1e-5)


def test_zeros_in_triplets_are_values(tmp_path):
    lines = [f"{i},{j},{0 if j else 1}" for i in range(5) for j in range(4) if (i, j) != (2, 3)]
    folder, summary = complete(
        tmp_path, "t.csv", "\n".join(lines).encode(), triplets=True, ranks=(1,)
    )
    assert summary["observed"] == 19
    assert abs(float(read_csv(folder / "completed.csv")[3][4])) < 1e-6


def test_a_table_of_means_is_seen_at_rank_zero(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(20, 1)) + rng.normal(size=20)
    _, summary = complete(tmp_path, "t.npy", table, center=True, ranks=(1,))
    # leaving a fifth out moves the means by about 1 / sqrt(16) of the spread
    assert summary["rmse_of_means_alone"] < 0.5 * table.std()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"1,2", {}, "expected a .csv or .npy file"),
        ("a.npy", b"1,2", {}, "holds no table"),
        ("a.npy", np.zeros(3), {}, "expected a table of real numbers"),
        ("a.npy", np.full((2, 2), np.nan), {}, "the table has no values"),
        ("a.npy", np.array([[1, np.inf], [1, 1]]), {}, "inf in row 0, column 1 is not finite"),
        ("a.npy", np.ones((3, 3)), {"triplets": True}, "expected a .csv file"),
        ("a.csv", b"1,2\n3\n", {}, "lines of the same number of cells"),
        ("a.csv", b"", {}, "lines of the same number of cells"),
        ("a.csv", b"a,b\n1,2\n3,x\n", {}, "got 'x', row 3"),
        ("a.csv", b"1,2\n3,\xff\n", {}, "not a CSV file in UTF-8"),
        ("a.csv", b"a,b,1\na,b,2\n", {"triplets": True}, "is there twice"),
        ("a.csv", b"a,b,1\na,c\n", {"triplets": True}, "in triplet 2"),
        ("a.csv", b"row,column,value\n", {"triplets": True}, "has no triplets"),
        ("a.csv", b"1,2,3\n4,5,6\n", {"ranks": (3,)}, "ranks must be at most 2"),
        ("a.csv", b"1,2,3\n4,5,6\n", {"ranks": (0,)}, "ranks must be"),
        ("a.csv", b"1,2,3\n4,5,6\n", {"folds": 7}, "expected at least 7 values, got 6"),
        ("a.csv", b"1,2,3\n4,5,6\n", {"folds": 1}, "folds must be"),
        ("a.csv", b"1,2,3\n4,5,6\n", {"solver": "lu"}, "solver must be"),
    ],
)
def test_bad_files_and_settings_are_refused(tmp_path, name, content, options, message):
    with pytest.raises(ValueError, match=message):
        complete(tmp_path, name, content, **options)


def test_unreasonable_tables_are_refused_before_they_are_read(tmp_path):
    np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", shape=(50_001, 1000))
    with pytest.raises(ValueError, match="at most 50000000 cells"):
        run_on_file(SLUG, tmp_path / "a.npy", out=tmp_path / "out")
