from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import LinAlgWarning, lapack

from thalweg.linalg import (
    jacobi_eigh,
    jacobi_svd,
    pair_potential,
    pairwise_cholesky,
    pairwise_factor,
    pairwise_qr,
    scaled_condition,
)
from thalweg.linalg._pair_runs import PIVOTINGS, draw_pairs
from thalweg.linalg._pair_states import KINDS

EPS = np.finfo(float).eps


def eliminate_upwards(gii, gij, gjj):
    return [[1.0, 0.0], [-gij / gjj, 1.0]]


ALL_KINDS = [*KINDS, eliminate_upwards]


def tall(m=40, n=30, seed=0):
    return np.random.default_rng(seed).normal(size=(m, n))


def positive_definite(n=30, seed=0):
    x = tall(n + 10, n, seed)
    return x.T @ x


def graded(n=60, seed=0):
    rng = np.random.default_rng(seed)
    a = np.eye(n) + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
    return a * 10.0 ** rng.uniform(-14, 0, n)


def assert_orthonormal(columns, tol=1e-13):
    assert np.allclose(columns.T @ columns, np.eye(columns.shape[1]), rtol=0, atol=tol)


@pytest.mark.parametrize("pivoting", PIVOTINGS)
class TestEveryOrder:
    def test_singular_values_and_vectors(self, pivoting):
        a = tall()
        done = jacobi_svd(a, pivoting, rng=0)
        assert done.converged
        assert np.allclose(done.s, scipy.linalg.svdvals(a), rtol=1e-12)
        assert np.allclose(done.u * done.s @ done.vt, a, rtol=0, atol=1e-12)
        assert_orthonormal(done.u)
        assert_orthonormal(done.vt)

    def test_eigenvalues_of_a_definite_matrix(self, pivoting):
        g = positive_definite()
        done = jacobi_eigh(g, pivoting, rng=0)
        assert done.converged
        assert np.allclose(done.w, np.linalg.eigvalsh(g), rtol=1e-10)
        assert np.allclose(g @ done.v, done.v * done.w, rtol=0, atol=1e-11)
        assert_orthonormal(done.v)

    def test_eigenvalues_of_an_indefinite_matrix(self, pivoting):
        h = tall(30, 30) + tall(30, 30).T
        done = jacobi_eigh(h, pivoting, rng=0)
        assert done.converged
        assert np.allclose(done.w, np.linalg.eigvalsh(h), rtol=0, atol=1e-12)
        assert np.allclose(h @ done.v, done.v * done.w, rtol=0, atol=1e-12)

    def test_qr_with_a_positive_diagonal(self, pivoting):
        a = tall()
        done = pairwise_qr(a, pivoting, rng=0)
        q, r = np.linalg.qr(a)
        signs = np.sign(np.diag(r))
        assert np.allclose(done.q, q * signs, rtol=0, atol=1e-12)
        assert np.allclose(done.r, signs[:, None] * r, rtol=0, atol=1e-12)
        assert np.array_equal(done.r, np.triu(done.r))

    def test_cholesky(self, pivoting):
        g = positive_definite()
        done = pairwise_cholesky(g, pivoting, rng=0)
        assert np.allclose(done.l, np.linalg.cholesky(g), rtol=0, atol=1e-11)
        assert np.array_equal(done.l, np.tril(done.l))

    @pytest.mark.parametrize("gram", [False, True])
    @pytest.mark.parametrize("kind", ALL_KINDS)
    def test_any_class_makes_the_matrix_diagonal(self, pivoting, kind, gram):
        a = positive_definite(12) if gram else tall(20, 12)
        done = pairwise_factor(a, kind, gram, pivoting, rng=0)
        g = a if gram else a.T @ a
        result = done.transform.T @ g @ done.transform
        root = np.sqrt(np.outer(done.diag, done.diag))
        assert np.allclose(result / root, np.eye(12), rtol=0, atol=1e-11)
        size = np.abs(done.basis).max()
        assert np.allclose(done.basis, a @ done.transform, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_factors_multiply_to_the_matrix_and_keep_the_determinant(kind, gram):
    a = positive_definite(10) if gram else tall(16, 10)
    done = pairwise_factor(a, kind, gram, rng=1)
    assert np.allclose(done.basis @ np.linalg.inv(done.transform), a, rtol=0, atol=1e-12 * 40)
    determinant = np.linalg.det(a if gram else a.T @ a) * np.linalg.det(done.transform) ** 2
    assert determinant == pytest.approx(np.prod(done.diag), rel=1e-11)


@pytest.mark.parametrize("gram", [False, True])
def test_the_symmetric_class_ends_at_the_identity(gram):
    a = np.diag([3.0, 1e-5, 2.0]) if gram else np.diag([3.0, 1e-5, 2.0])[:, [1, 0, 2]]
    done = pairwise_factor(a, "symmetric", gram, rng=0)
    assert np.array_equal(done.diag, np.ones(3))
    g = a if gram else a.T @ a
    assert np.allclose(done.transform.T @ g @ done.transform, np.eye(3), atol=1e-14)


def test_a_class_that_looks_at_absolute_sizes_sees_the_users_own():
    seen = []

    def watch(gii, gij, gjj):
        seen.append((gii, gij, gjj))
        return [[1.0, -gij / gii], [0.0, 1.0]]

    pairwise_factor([[3.0, 1.0], [0.0, 2.0]], watch, rng=0)
    pairwise_factor([[9.0, 3.0], [3.0, 5.0]], watch, gram=True, rng=0)
    assert seen == [(9.0, 3.0, 5.0), (9.0, 3.0, 5.0)]


class TestAccuracy:
    @pytest.mark.parametrize("pivoting", ["random", "cyclic"])
    def test_every_singular_value_of_graded_columns(self, pivoting):
        a = graded()
        values, _, _, scales, _, _ = lapack.dgejsv(a, joba=0, jobr=0, jobp=0)
        reference = values * scales[0] / scales[1]
        assert np.allclose(jacobi_svd(a, pivoting, rng=0).s, reference, rtol=1e-12, atol=0)

    def test_tall_graded_columns_too(self):
        a = np.vstack([graded(20), graded(20, 1)])
        values, _, _, scales, _, _ = lapack.dgejsv(a, joba=0, jobr=0, jobp=0)
        reference = values * scales[0] / scales[1]
        assert np.allclose(jacobi_svd(a, rng=0).s, reference, rtol=1e-12, atol=0)

    def test_every_eigenvalue_of_a_graded_matrix(self):
        # in units of its small corner the large one only shifts it: w1 = g11 - g01^2 / g00
        g = [[1.0, 1e-11, 0.0], [1e-11, 3e-22, 0.0], [0.0, 0.0, 5e-200]]
        assert np.allclose(jacobi_eigh(g).w, [5e-200, 2e-22, 1.0], rtol=1e-13, atol=0)

    def test_columns_of_very_different_sizes(self):
        a = np.array([[1e150, 1e-140], [1e150, -2e-140]])
        # determinant 3e10 over the large value
        expected = [np.sqrt(2) * 1e150, 3e10 / (np.sqrt(2) * 1e150)]
        assert np.allclose(jacobi_svd(a).s, expected, rtol=1e-14, atol=0)

    @pytest.mark.parametrize("scale", [1e-300, 1e300])
    def test_results_scale_with_the_matrix(self, scale):
        a, g = tall(5, 4), positive_definite(4)
        assert np.allclose(jacobi_svd(scale * a, rng=0).s / scale, jacobi_svd(a, rng=0).s)
        assert np.allclose(jacobi_eigh(scale * g, rng=0).w / scale, jacobi_eigh(g, rng=0).w)
        assert np.allclose(pairwise_qr(scale * a, rng=0).r / scale, pairwise_qr(a, rng=0).r)

    def test_negative_definite_matrices_are_as_accurate_as_positive_ones(self):
        g = np.array([[-1.0, 1e-11], [1e-11, -3e-22]])
        done = jacobi_eigh(g)
        assert np.allclose(done.w, [-1.0, -2e-22], rtol=1e-13, atol=0)
        assert done.potential == pytest.approx(pair_potential(-g))

    def test_qr_is_orthogonal_to_rounding_within_sixty_sweeps(self):
        done = pairwise_qr(tall(500, 200), tol=1e-14, max_sweeps=60, rng=0)
        assert done.converged
        assert np.abs(done.q.T @ done.q - np.eye(200)).max() <= 1e-14

    def test_a_very_tall_pair_converges(self):
        assert pairwise_qr(tall(100_000, 2), rng=0).sweeps <= 3


class TestSmallAndDiagonal:
    def test_diagonal_input_is_left_alone(self):
        d = np.diag([3.0, 1.0, 2.0])
        done = jacobi_eigh(d)
        assert (done.steps, done.sweeps, done.converged) == (0, 0, True)
        assert np.array_equal(done.w, [1, 2, 3])
        assert np.array_equal(done.v, np.eye(3)[:, [1, 2, 0]])
        assert jacobi_svd(d).steps == pairwise_qr(d).steps == pairwise_cholesky(d).steps == 0

    def test_one_column(self):
        done = jacobi_svd([[3.0], [4.0]])
        assert np.allclose(done.u.ravel() * done.s * done.vt.item(), [3, 4])
        assert done.s == pytest.approx(5)
        assert jacobi_eigh([[-2.0]]).w == [-2.0]
        assert pairwise_cholesky([[9.0]]).l == [[3.0]]

    def test_two_columns_take_one_step(self):
        assert jacobi_eigh([[2.0, 1.0], [1.0, 3.0]]).steps == 1
        assert pairwise_cholesky([[2.0, 1.0], [1.0, 3.0]]).steps == 1
        assert jacobi_svd([[2.0, 1.0], [1.0, 3.0]]).steps == 1

    @pytest.mark.parametrize("h", [np.zeros((3, 3)), np.ones((3, 3)), [[0.0, 1.0], [1.0, 0.0]]])
    def test_singular_and_hollow_matrices_have_eigenvalues(self, h):
        done = jacobi_eigh(h, rng=0)
        assert done.converged
        assert np.allclose(done.w, np.linalg.eigvalsh(h), rtol=0, atol=1e-15 * 3)
        assert np.isnan(done.potential)

    @pytest.mark.parametrize("n", [10, 12, 14])
    @pytest.mark.parametrize("pivoting", ["random", "greedy"])
    def test_matrices_on_the_edge_of_definite_keep_absolute_accuracy(self, n, pivoting):
        h = scipy.linalg.hilbert(n)
        done = jacobi_eigh(h, pivoting, rng=0)
        assert done.converged
        assert np.allclose(done.w, np.linalg.eigvalsh(h), rtol=0, atol=1e-14)


class TestPairs:
    def test_random_pairs_are_uniform(self):
        pairs = np.concatenate(
            [draw_pairs("random", 5, np.random.default_rng(k)) for k in range(2000)]
        )
        _, counts = np.unique(pairs @ [5, 1], return_counts=True)
        # 20 000 draws of 10 kinds: chi-square with 9 degrees of freedom exceeds 27.9 once in 1000
        assert len(counts) == 10
        assert np.sum((counts - 2000) ** 2 / 2000) < 27.9

    @pytest.mark.parametrize("pivoting", ["cyclic", "random-sweep"])
    def test_sweeps_visit_each_pair_once(self, pivoting):
        pairs = draw_pairs(pivoting, 6, np.random.default_rng(0))
        assert sorted(map(tuple, pairs.tolist())) == list(zip(*np.triu_indices(6, 1), strict=True))

    @pytest.mark.parametrize(("n", "rounds"), [(6, 5), (7, 7)])
    def test_matchings_are_disjoint(self, n, rounds):
        pairs = draw_pairs("matching", n, np.random.default_rng(0)).reshape(rounds, n // 2, 2)
        assert all(len(np.unique(matching)) == 2 * (n // 2) for matching in pairs)
        assert np.all(pairs[..., 0] < pairs[..., 1])

    def test_greedy_takes_the_largest_cosine_first(self):
        seen = []

        def watch(gii, gij, gjj):
            seen.append(round(abs(gij) / np.sqrt(gii * gjj), 12))
            return [[1.0, -gij / gii], [0.0, 1.0]]

        g = positive_definite(5)
        pairwise_factor(g, watch, gram=True, pivoting="greedy")
        cosines = g / np.sqrt(np.outer(np.diag(g), np.diag(g)))
        assert seen[0] == pytest.approx(np.abs(np.triu(cosines, 1)).max(), rel=1e-10)

    def test_greedy_stops_when_nothing_is_left(self):
        a = np.diag([1.0, 2.0, 3.0])
        a[0, 2] = a[2, 0] = 0.5
        for done in (
            jacobi_svd(a, "greedy"),
            jacobi_eigh(a, "greedy"),
            pairwise_factor(a, eliminate_upwards, pivoting="greedy"),
            pairwise_factor(a, eliminate_upwards, gram=True, pivoting="greedy"),
        ):
            assert done.steps == 1

    def test_greedy_needs_fewer_steps_than_random(self):
        g = positive_definite(20)
        assert jacobi_eigh(g, "greedy").steps < jacobi_eigh(g, "random", rng=0).steps / 2

    def test_scaling_leaves_the_potentials_of_triangular_steps(self):
        a, d = tall(12, 8), 10.0 ** np.random.default_rng(3).uniform(-6, 6, 8)
        plain, scaled = (pairwise_qr(x, rng=5, track=True, tol=1e-7).history for x in (a, a * d))
        assert np.allclose(plain.potential, scaled.potential, rtol=1e-10, atol=1e-12)

    def test_the_same_seed_gives_the_same_run(self):
        a = tall()
        assert np.array_equal(jacobi_svd(a, rng=3).u, jacobi_svd(a, rng=3).u)


class TestExecutor:
    @pytest.mark.filterwarnings("ignore:not diagonal after max_sweeps=1")
    @pytest.mark.parametrize("n", [7, 130])
    def test_threads_give_what_one_thread_gives(self, n):
        a = tall(n + 5, n)
        with ThreadPoolExecutor(2) as pool:
            for factorise in (jacobi_svd, pairwise_qr):
                alone = factorise(a, "matching", rng=0, max_sweeps=1)
                shared = factorise(a, "matching", rng=0, max_sweeps=1, executor=pool)
                name = "s" if factorise is jacobi_svd else "r"
                assert np.array_equal(getattr(alone, name), getattr(shared, name))
                assert alone.steps == shared.steps

    def test_tasks_go_to_the_executor(self):
        class Counting(ThreadPoolExecutor):
            tasks = 0

            def submit(self, *arguments):
                self.tasks += 1
                return super().submit(*arguments)

        with Counting(1) as pool:
            done = jacobi_svd(tall(6, 6), "matching", rng=0, executor=pool)
        assert pool.tasks == done.sweeps * 5

    def test_it_needs_matchings(self):
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="pivoting='matching'"):
            jacobi_svd(tall(4, 3), executor=pool)

    @pytest.mark.parametrize(("kind", "gram"), [("jacobi", True), (eliminate_upwards, False)])
    def test_it_serves_columns_and_named_kinds(self, kind, gram):
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="executor serves"):
            pairwise_factor(np.eye(3), kind, gram, "matching", executor=pool)


class TestReports:
    def test_history_starts_with_the_matrix_itself(self):
        a = tall(12, 8)
        done = jacobi_svd(a, rng=0, track=True)
        g = a.T @ a
        cosines = np.abs(g / np.sqrt(np.outer(np.diag(g), np.diag(g)))) - np.eye(8)
        assert done.history.potential[0] == pytest.approx(pair_potential(g), rel=1e-10)
        assert done.history.condition[0] == pytest.approx(scaled_condition(g), rel=1e-10)
        assert done.history.off_diagonal[0] == pytest.approx(cosines.max(), rel=1e-10)
        assert done.potential == done.history.potential[0]
        assert np.array_equal(done.history.steps, 28 * np.arange(done.sweeps + 1))

    def test_history_of_a_gram_matrix_starts_with_it(self):
        g = positive_definite(8)
        done = pairwise_cholesky(g, rng=0, track=True)
        assert done.history.potential[0] == pytest.approx(pair_potential(g), rel=1e-10)
        assert done.history.condition[0] == pytest.approx(scaled_condition(g), rel=1e-10)

    def test_history_of_an_indefinite_matrix_is_its_share_off_the_diagonal(self):
        h = [[1.0, 2.0], [2.0, -3.0]]
        history = jacobi_eigh(h, track=True).history
        assert np.allclose(history.off_diagonal, [np.sqrt(8 / 18), 0])
        assert np.allclose(history.potential, [8 / 18, 0])

    def test_history_is_kept_on_request_only(self):
        assert jacobi_svd(tall(5, 4)).history is None

    def test_callback_can_end_the_run(self):
        def stop(progress):
            if progress.sweep == 2:
                raise StopIteration

        done = jacobi_svd(tall(), rng=0, callback=stop)
        assert (done.sweeps, done.converged, len(done.history.steps)) == (2, False, 3)
        assert np.allclose(done.u * done.s @ done.vt, tall(), atol=1e-12)

    def test_too_few_sweeps_are_reported(self):
        with pytest.warns(LinAlgWarning, match="not diagonal after max_sweeps=1"):
            done = jacobi_svd(tall(), max_sweeps=1, rng=0)
        assert not done.converged

    def test_a_loose_tolerance_saves_sweeps(self):
        a = tall()
        loose = jacobi_svd(a, tol=1e-3, rng=0, track=True)
        assert loose.sweeps < jacobi_svd(a, rng=0).sweeps
        assert loose.history.off_diagonal[-1] <= 1e-3 < loose.history.off_diagonal[-2]


FACTORISATIONS = [
    jacobi_svd,
    jacobi_eigh,
    pairwise_qr,
    pairwise_cholesky,
    lambda a, **options: pairwise_factor(a, "jacobi", **options),
]


class TestRefusals:
    @pytest.mark.parametrize("factorise", FACTORISATIONS)
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"pivoting": "rows"}, ValueError, "pivoting must be one of"),
            ({"tol": 0.0}, ValueError, "tol must be"),
            ({"max_sweeps": 0}, ValueError, "max_sweeps must be"),
            ({"callback": 3}, TypeError, "callback must be callable"),
        ],
    )
    def test_bad_options(self, factorise, options, error, message):
        with pytest.raises(error, match=message):
            factorise(np.eye(3), **options)

    @pytest.mark.parametrize("factorise", FACTORISATIONS)
    @pytest.mark.parametrize(
        ("a", "error", "message"),
        [
            ([[1.0, np.inf], [np.inf, 1.0]], ValueError, "[agh] must be finite"),
            (np.eye(2) * 1j, TypeError, "[agh] must be real"),
            (np.ones(3), ValueError, "[agh] must have 2 axes"),
            (np.zeros((0, 0)), ValueError, "[agh] must be a matrix that is not empty"),
        ],
    )
    def test_bad_matrices(self, factorise, a, error, message):
        with pytest.raises(error, match=message):
            factorise(a)

    @pytest.mark.parametrize("factorise", [jacobi_svd, pairwise_qr])
    @pytest.mark.parametrize(
        ("a", "message"),
        [
            (np.ones((2, 3)), r"at least as many rows as columns, got shape \(2, 3\)"),
            ([[1.0, 0.0], [1.0, 0.0]], "full column rank, got zeros in column 1"),
            ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], "full column rank"),
            (np.add.outer(np.arange(5.0), np.arange(4.0)), "depend on each other to rounding"),
        ],
    )
    def test_matrices_without_full_column_rank(self, factorise, a, message):
        with pytest.raises(ValueError, match=message):
            factorise(a)

    @pytest.mark.parametrize("factorise", [jacobi_eigh, pairwise_cholesky])
    @pytest.mark.parametrize(
        ("h", "message"),
        [(np.ones((2, 3)), "must be square"), ([[1.0, 2.0], [3.0, 9.0]], "must be symmetric")],
    )
    def test_matrices_that_are_not_symmetric(self, factorise, h, message):
        with pytest.raises(ValueError, match=message):
            factorise(h)

    @pytest.mark.parametrize(
        ("g", "pivot"),
        [
            ([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]], 2),
            (np.diag([1.0, -1.0, 1.0]), 1),
            (np.zeros((2, 2)), 0),
        ],
    )
    def test_cholesky_names_the_pivot_that_fails(self, g, pivot):
        with pytest.raises(np.linalg.LinAlgError, match=f"g must be .* its pivot {pivot} is"):
            pairwise_cholesky(g)

    def test_factor_names_its_own_argument(self):
        with pytest.raises(np.linalg.LinAlgError, match="a must be positive definite"):
            pairwise_factor([[1.0, 2.0], [2.0, 1.0]], "jacobi", gram=True)

    def test_unknown_kinds(self):
        with pytest.raises(ValueError, match="kind must be one of 'jacobi'"):
            pairwise_factor(np.eye(2), "givens")

    @pytest.mark.parametrize("gram", [False, True])
    def test_callables_that_leave_the_pair_coupled(self, gram):
        with pytest.raises(ValueError, match="kind must return"):
            pairwise_factor([[2.0, 1.0], [1.0, 2.0]], lambda *_: np.eye(2), gram, "cyclic")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 5), st.integers(0, 10_000), st.floats(-8, 0))
def test_all_factorisations_agree_on_the_determinant(n, extra, seed, decades):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n + extra, n)) * 10.0 ** (decades * rng.random(n))
    _, r = np.linalg.qr(a / np.linalg.norm(a, axis=0))
    assume(np.abs(np.diag(r)).min() >= 1e-3)
    g = a.T @ a
    expected = 2 * np.log(np.abs(np.diag(r)) * np.linalg.norm(a, axis=0)).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logs = [
            2 * np.log(jacobi_svd(a, rng=seed).s).sum(),
            2 * np.log(np.diag(pairwise_qr(a, rng=seed).r)).sum(),
            np.log(jacobi_eigh(g, rng=seed).w).sum(),
            2 * np.log(np.diag(pairwise_cholesky(g, rng=seed).l)).sum(),
        ]
    # forming the Gram matrix costs the squared scaled condition number in units of rounding
    assert np.allclose(logs, expected, rtol=0, atol=1e-8)
