"""The study of the convex optimisation monograph: its quick run, its helpers, a user's files."""

from __future__ import annotations

import csv
import math
import sys

import networkx as nx
import numpy as np
import pytest
from scipy.optimize import approx_fprime, linprog, minimize

from thalweg._optional import MissingExtraError
from thalweg.descent import _cutting, interior_point, known_rates
from thalweg.studies.descent import _convex_files as files
from thalweg.studies.descent import _convex_large as large
from thalweg.studies.descent import _convex_problems as problems
from thalweg.studies.descent import _convex_runs as runs
from thalweg.studies.descent import convex_optimization as study
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "convex-optimization"


def rng(seed=0):
    return np.random.default_rng(seed)


def test_quick_run_keeps_below_every_bound():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    assert set(outcome.arrays["bounds"]) == set(known_rates())
    assert outcome.record.results["certificates"] == 14
    # Bounds of the right size: some are met to within a factor of three.
    assert np.sum(outcome.arrays["worst_ratios"] > 1 / 3) >= 8
    # Moments are known well enough for four standard errors to mean something.
    assert outcome.record.results["moment_precision"] < 0.03
    assert outcome.png


def test_a_measurement_above_its_bound_is_counted():
    good = runs.run_of("fista", "a problem", [1.0, 0.1, 0.1], L=1.0, radius=1.0)
    bad = runs.run_of("fista", "a problem", [1.0, 0.6, 0.1], L=1.0, radius=1.0)
    noisy = runs.run_of("fista", "a problem", [1.0, 0.6, 0.1], band=0.11, L=1.0, radius=1.0)
    assert [study.judged([run], [])["steps_above_bound"] for run in (good, bad, noisy)] == [0, 1, 0]
    assert bad.ratios.max() == pytest.approx(1.2)
    assert study.judged([good], [])["bounds_without_run"] == len(known_rates()) - 1


def test_a_bound_that_never_falls_below_the_start_tells_nothing():
    short = runs.run_of("fista", "a problem", [0.1, 0.1], L=1.0, radius=1.0)
    long = runs.run_of("fista", "a problem", [0.1] * 9, L=1.0, radius=1.0)
    assert not short.tells
    assert long.tells
    assert study.judged([short], [])["bounds_that_tell_nothing"] == 1
    assert study.judged([short, long], [])["bounds_that_tell_nothing"] == 0


def on_quadratic():
    return runs.gradient_runs(problems.quadratic(20, 1e2, rng()), 1e2, 300)[0]


def on_kinks():
    generator = rng()
    affine, kinks = problems.affine_maximum(5, generator), problems.strong_kinks(6, generator)
    return runs.subgradient_runs(affine, kinks, (30, 100, 1000))


def on_simplex():
    square, absolute = problems.simplex_regression(60, 40, rng())
    return runs.simplex_runs(square, absolute, 400, (30, 1000), 3, rng())[0]


def on_noise():
    return [runs.noisy_smooth_run(problems.quadratic(10, 100.0, rng()), 1.0, (10, 300), 4, rng())]


def on_lasso():
    return runs.lasso_runs(problems.diabetes_lasso(), 400)[0]


def on_game():
    A = rng().uniform(-1, 1, size=(12, 15))
    return runs.game_runs(A, (100, 1600), 3, rng())


def on_coordinates():
    return runs.coordinate_runs(problems.skewed_quadratic(20, rng(), 100.0), 4000, 3, rng())


def on_box():
    return runs.cutting_runs(problems.affine_maximum(2, rng()), 2)[2]


def on_path():
    return [runs.path_run(3, 12, 1e-3, rng())[0]]


def times(factor, *names):
    def change(options):
        return {
            name: factor * np.asarray(value) if name in names else value
            for name, value in options.items()
        }

    return change


WRONG = [
    (on_quadratic, "gradient_descent", times(100, "L"), "-convex -strong"),
    (on_quadratic, "gradient_descent", times(0.01, "step"), "-strong-long"),
    (on_quadratic, "nesterov", times(1000, "L"), "-convex -strong"),
    (on_kinks, "subgradient_method", times(0.001, "radius"), "-convex -decreasing"),
    (on_kinks, "subgradient_method", times(1000, "strong_convexity"), "-strong"),
    (on_simplex, "gradient_descent", times(1000, "L"), "-projected"),
    (on_simplex, "frank_wolfe", times(1000, "L"), ""),
    (on_simplex, "mirror_prox", times(1000, "L"), ""),
    (on_simplex, "mirror_descent", times(0.001, "step"), " -stochastic"),
    (on_simplex, "dual_averaging", times(0.001, "step"), ""),
    (on_noise, "mirror_descent", times(0.001, "step"), "-stochastic-smooth"),
    (on_lasso, "proximal_gradient", times(1000, "L"), ""),
    (on_game, "saddle_mirror_prox", times(1000, "smoothness"), ""),
    (on_game, "saddle_mirror_descent", times(1000, "lipschitz"), ""),
    (on_coordinates, "random_coordinate_descent", times(1000, "L"), "-convex -strong"),
    (on_box, "ellipsoid", times(1e4, "radius"), ""),
]


@pytest.mark.parametrize(("measured", "method", "change", "rates"), WRONG)
def test_a_wrong_step_is_found_out(monkeypatch, measured, method, change, rates):
    """The bound is that of the right step."""
    right = getattr(runs, method)

    def wrong(*args, **options):
        return right(*args, **change(options))

    wrong.__name__ = method
    monkeypatch.setattr(runs, method, wrong)
    above = {run.rate for run in measured() if run.ratios.max() > 1}
    assert above == {method + ending for ending in rates.split(" ")}


def test_a_wrong_step_of_fista_is_found_out(monkeypatch):
    right = runs.fista

    def wrong(*args, **options):
        # The run that finds the minimum stays right.
        return right(
            *args, **(options | {"L": 1000 * options["L"]} if "record" in options else options)
        )

    wrong.__name__ = "fista"
    monkeypatch.setattr(runs, "fista", wrong)
    assert [run.ratios.max() > 1 for run in on_lasso()] == [False, True]


def test_a_wrong_step_of_games_is_found_out(monkeypatch):
    right = runs.matrix_game
    monkeypatch.setattr(runs, "matrix_game", lambda A, **o: right(A, step=1e-4, **o))
    above = {run.rate for run in on_game() if run.ratios.max() > 1}
    assert above == {
        f"matrix_game-{way}" for way in ("mirror-prox", "mirror-descent", "stochastic")
    }


def test_gradients_in_place_of_conjugate_ones_are_found_out(monkeypatch):
    def steepest(H, b, x0, *, record, maxiter):
        return runs.gradient_descent(
            lambda x: 0.5 * x @ H @ x - b @ x, x0, jac=lambda x: H @ x - b, L=1.0,
            record=record, maxiter=maxiter,
        )  # fmt: skip

    monkeypatch.setattr(runs, "conjugate_gradient", steepest)
    assert {r.rate for r in on_quadratic() if r.ratios.max() > 1} == {"conjugate_gradient"}


def test_a_method_that_gives_up_is_no_run_below_its_bound(monkeypatch):
    right, curved = runs.geometric_descent, times(50, "mu")
    monkeypatch.setattr(runs, "geometric_descent", lambda *a, **o: right(*a, **curved(o)))
    with pytest.raises(RuntimeError, match="no ball holds the minimiser"):
        on_quadratic()


def test_shallow_cuts_and_short_paths_are_found_out(monkeypatch):
    right = _cutting.Body.cut

    def shallow(self, g):
        right(self, g)
        self.offsets[-1] = 1.2

    monkeypatch.setattr(_cutting.Body, "cut", shallow)
    assert {r.rate for r in on_box() if r.ratios.max() > 1} == {"centre_of_gravity"}
    monkeypatch.setattr(interior_point, "SHORT", 52.0)
    assert [run.ratios.max() > 1 for run in on_path()] == [True]


def test_certificates_that_are_too_small_are_counted():
    true = np.array([1.0, 0.5])
    assert study.judged([], [(true, true), (true * 2, true)])["certificates_false"] == 0
    assert study.judged([], [(true - [0.0, 1e-6], true)])["certificates_false"] == 1


def test_calls_until_the_target():
    assert study.calls_until(np.array([1.0, 2e-4, 1e-4, 0.0])) == 2
    assert study.calls_until(np.array([1.0, 2e-4])) == -1


PROBLEMS = {
    "affine": lambda: problems.affine_maximum(3, rng()),
    "quadratic": lambda: problems.quadratic(6, 50.0, rng()),
    "kinks": lambda: problems.strong_kinks(4, rng()),
    "least squares": lambda: problems.simplex_regression(20, 6, rng())[0],
    "absolute": lambda: problems.simplex_regression(20, 6, rng())[1],
    "lasso": problems.diabetes_lasso,
    "skewed": lambda: problems.skewed_quadratic(7, rng()),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_of_the_problems_are_derivatives(name):
    problem = PROBLEMS[name]()
    x = problem.x0 + 0.1 * rng(1).normal(size=problem.x0.shape)
    np.testing.assert_allclose(problem.jac(x), approx_fprime(x, problem.fun, 1e-7), atol=1e-4)


@pytest.mark.parametrize("name", ["affine", "quadratic", "kinks", "least squares", "absolute"])
def test_no_feasible_point_is_below_the_minimum(name):
    problem = PROBLEMS[name]()
    assert problem.fun(problem.solution) == pytest.approx(problem.minimum, abs=1e-9)
    n, generator = len(problem.x0), rng(2)
    simplex = name in ("least squares", "absolute")
    for scale in (1e-3, 1e-1, 1.0):
        for _ in range(100):
            other = generator.dirichlet(np.ones(n)) if simplex else generator.uniform(-2, 2, n)
            x = problem.solution + scale * (other - problem.solution)
            assert problem.fun(x) >= problem.minimum - 1e-9


@pytest.mark.parametrize("name", ["quadratic", "least squares", "skewed", "lasso"])
def test_smoothness_is_the_largest_curvature(name):
    problem = PROBLEMS[name]()
    n = len(problem.x0)
    H = np.array([problem.jac(e) - problem.jac(np.zeros(n)) for e in np.eye(n)])
    assert pytest.approx(np.linalg.eigvalsh(H)[-1]) == problem.L
    if name == "skewed":
        np.testing.assert_allclose(problem.more["L"], np.geomspace(1, 1000, n))
        np.testing.assert_allclose(np.diag(H), problem.more["L"])
        for gamma in (0.0, 0.5, 1.0):
            mu = runs.coordinate_convexity(problem, gamma)
            weights = np.diag(problem.more["L"] ** (1 - gamma))
            assert np.linalg.eigvalsh(H - mu * weights)[0] == pytest.approx(0, abs=1e-9)
    if name == "least squares":
        assert problem.more["L_max"] == pytest.approx(np.abs(H).max())


def test_largest_values_and_subgradients_are_bounds():
    affine, kinks = PROBLEMS["affine"](), PROBLEMS["kinks"]()
    absolute = PROBLEMS["absolute"]()
    corners = 5.0 * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    assert max(abs(affine.fun(x)) for x in corners) <= affine.more["bound"]
    noise = problems.one_row(absolute)
    generator, squares = rng(1), []
    for _ in range(300):
        x = generator.uniform(-2, 2, 4)
        assert np.linalg.norm(kinks.jac(x)) <= kinks.lipschitz
        assert np.abs(absolute.jac(generator.dirichlet(np.ones(6)))).max() <= absolute.lipschitz
        squares.append(np.abs(noise(absolute.x0, generator)).max() ** 2)
    assert math.sqrt(np.mean(squares)) == pytest.approx(absolute.more["noise"], rel=0.1)
    mean = np.mean([noise(absolute.x0, generator) for _ in range(20_000)], axis=0)
    np.testing.assert_allclose(mean, absolute.jac(absolute.x0), atol=0.05)


def test_the_box_is_separated_from_what_lies_outside():
    assert problems.outside_box(np.array([5.0, -5.0])) is None
    np.testing.assert_array_equal(problems.outside_box(np.array([5.5, -6.0])), [0, -1])


def test_the_programme_is_bounded_and_its_minimum_is_found():
    c, A, b, best = problems.programme(3, 16, rng())
    assert A.shape == (16, 3)
    assert (b > 0).all()
    peer = minimize(
        lambda x: c @ x, np.zeros(3), constraints={"type": "ineq", "fun": lambda x: b - A @ x},
        method="SLSQP",
    )  # fmt: skip
    assert best == pytest.approx(peer.fun, abs=1e-6)


def test_duality_gaps_are_what_players_could_still_win():
    A = np.array([[0.0, 2.0], [3.0, 1.0]])
    xs, ys = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_allclose(runs.duality_gaps(A, xs, ys), [0.0, 2.0])


def test_graphs_have_twelve_to_sixty_nodes():
    sizes = [len(graph) for graph in problems.graphs(0).values()]
    assert (min(sizes), max(sizes)) == (12, 60)


def test_graphs_without_networkx_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingExtraError, match=r"thalweg\[planning\]"):
        problems.graphs(0)


def test_a_matrix_is_completed_at_a_small_size():
    setup = study.STUDY.preset("quick", {"completion_steps": 60})
    figures, run, pairs = large.completed(setup, rng())
    assert figures["completion_ratio"] <= 1
    assert figures["completion_error"] < 0.5
    assert study.judged([run], pairs)["certificates_false"] == 0


def test_digits_are_told_apart_at_a_small_size(monkeypatch):
    def made(rows):
        X = rng().uniform(size=(rows, 12))
        return X, np.where(X[:, :6].sum(axis=1) > X[:, 6:].sum(axis=1), 1.0, -1.0)

    monkeypatch.setattr(problems, "digit_pair", made)
    setup = study.STUDY.preset("quick", {"svm_steps": 300, "svm_rows": 100})
    figures = large.support_vectors(setup)
    assert 0 <= figures["svm_ratio"] <= 1
    assert 0 <= figures["svm_gap"] < 0.1
    assert figures["svm_test_error"] < 0.3


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_edge_list_is_cut_with_a_certificate_that_can_be_checked(tmp_path):
    graph = nx.gnp_random_graph(10, 0.5, seed=1)
    for k, (_, _, data) in enumerate(graph.edges(data=True)):
        data["weight"] = 1.0 + k % 3
    path = tmp_path / "a.edgelist"
    nx.write_edgelist(graph, path)
    folder, summary = run_on_file(SLUG, path, out=tmp_path / "out")
    rows = rows_of(folder / "sides.csv")
    nodes = [int(row["node"]) for row in rows]
    W = nx.to_numpy_array(graph, nodelist=nodes)
    sides = np.array([int(row["side"]) for row in rows])
    cut = W[np.ix_(sides > 0, sides < 0)].sum()
    assert summary["cut"] == pytest.approx(cut)
    every = 1.0 - 2.0 * ((np.arange(2**9)[:, None] >> np.arange(10)) & 1)
    best = ((W.sum() - np.einsum("ri,ri->r", every @ W, every)) / 4).max()
    assert cut <= best + 1e-9
    assert summary["upper bound"] >= best
    y = np.array([float(row["dual"]) for row in rows])
    least = np.linalg.eigvalsh(W + np.diag(y))[0]
    bound = summary["weight"] / 2 + (y.sum() - 10 * least) / 4
    assert summary["upper bound"] == pytest.approx(bound, rel=1e-9)
    assert (summary["nodes"], summary["edges"]) == (10, graph.number_of_edges())
    assert summary["cut / bound"] == pytest.approx(cut / summary["upper bound"])


def test_lines_of_an_edge_list(tmp_path):
    text = "# a graph\na b\n\nb c 2.5  # heavy\nc a {'weight': 3, 'colour': 'red'}\nb a {}\nc c 9\n"
    nodes, W = files.read_graph(write(tmp_path, "a.edges", text))
    assert nodes == ["a", "b", "c"]
    np.testing.assert_array_equal(W.toarray(), [[0, 2, 3], [2, 0, 2.5], [3, 2.5, 18]])
    _, summary = run_on_file(SLUG, tmp_path / "a.edges", out=tmp_path / "out")
    assert (summary["weight"], summary["cut"], summary["edges"]) == (7.5, 5.5, 3)


def test_a_table_is_a_game(tmp_path):
    A = rng().normal(size=(4, 3))
    text = "a,b,c\n" + "\n".join(",".join(map(repr, map(float, row))) for row in A)
    folder, summary = run_on_file(
        SLUG, write(tmp_path, "game.csv", text), out=tmp_path / "out", overrides={"tol": "1e-3"}
    )
    best = linprog(
        [0, 0, 0, 0, 1], A_ub=np.c_[A.T, -np.ones(3)], b_ub=np.zeros(3),
        A_eq=[[1, 1, 1, 1, 0]], b_eq=[1], bounds=[(0, None)] * 4 + [(None, None)],
    ).fun  # fmt: skip
    assert summary["columns win at least"] <= best <= summary["rows pay at most"]
    assert summary["gap"] <= 1e-3
    x = np.array([float(row["probability"]) for row in rows_of(folder / "rows.csv")])
    y = np.array([float(row["probability"]) for row in rows_of(folder / "columns.csv")])
    assert np.max(A.T @ x) == pytest.approx(summary["rows pay at most"])
    assert np.min(A @ y) == pytest.approx(summary["columns win at least"])
    assert summary["gap"] <= summary["promised gap"]
    assert (summary["rows"], summary["columns"]) == (4, 3)


def test_a_game_of_one_choice(tmp_path):
    _, summary = run_on_file(SLUG, write(tmp_path, "one.csv", "3\n"), out=tmp_path / "out")
    assert summary["value"] == pytest.approx(3.0)
    assert "promised gap" not in summary


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.txt", "a b\n", {}, r"expected a name that ends in .edgelist, .edges \(graph\) or .csv"),
        ("a.edgelist", "# nothing\n", {}, "expected an edge or more"),
        ("a.edgelist", "a b\nc\n", {}, r"line 2: expected 'node node \[weight\]', got 'c'"),
        ("a.edgelist", "a b -1\n", {}, "line 1: weight must be finite and >= 0, got -1.0"),
        ("a.edgelist", "a b 1e999\n", {}, "line 1: weight must be finite"),
        ("a.edgelist", "a b heavy\n", {}, "line 1: expected a weight, got 'heavy'"),
        ("a.edgelist", "a b {'weight': 'x'}\n", {}, "line 1: expected a weight"),
        ("a.edgelist", "a b __import__('os')\n", {}, "line 1: expected a weight"),
        ("a.edgelist", "a b True\n", {}, "line 1: expected a weight"),
        ("a.edgelist", "a b\n", {"rounds": 0}, "rounds must be >= 1"),
        ("a.csv", "", {}, "expected a row of payoffs"),
        ("a.csv", "a,b\n", {}, "expected a row of payoffs"),
        ("a.csv", "1,2\n3,x\n", {}, "not a table of numbers"),
        ("a.csv", "1,2\n3\n", {}, "not a table of numbers"),
        ("a.csv", "1,2\n3,inf\n", {}, "row 1, column 1 is not finite"),
        ("a.csv", "1,2\n", {"method": "chess"}, "method must be one of"),
        ("a.csv", "1,2\n", {"tol": -1.0}, "tol must be"),
    ],
)  # fmt: skip
def test_a_bad_file_or_setting_is_refused(tmp_path, name, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, write(tmp_path, name, text), out=tmp_path / "out", overrides=options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.edgelist", "a.csv"])
def test_bytes_that_are_no_text_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        run_on_file(SLUG, path, out=tmp_path / "out")


def test_graphs_and_tables_that_are_too_large_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_GRAPH", 2)
    monkeypatch.setattr(files, "LARGEST_ENTRIES", 2)
    with pytest.raises(ValueError, match="at most 2 nodes"):
        files.read_graph(write(tmp_path, "a.edgelist", "a b\nb c\n"))
    with pytest.raises(ValueError, match="at most 2 entries, got 3"):
        files.read_payoffs(write(tmp_path, "a.csv", "1,2,3\n"))
