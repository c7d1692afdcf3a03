from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from thalweg.streams import SimilaritySketch, jaccard, union_sketch
from thalweg.streams._hashing import derive_seeds, tabulation_tables

EMPTY = 2**64 - 1
METHODS = ("fast", "minhash", "oph")
HASHES = ("mix64", "mixed_tabulation")

sets_of_keys = st.lists(st.integers(0, 2**64 - 1), max_size=40)


def finalise(z):
    z = (z ^ (z >> 33)) * 0xFF51AFD7ED558CCD % 2**64
    z = (z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53 % 2**64
    return z ^ (z >> 33)


def hash_functions(hash, seed, n):
    """The rounds' hash functions, in plain Python integers."""
    if hash == "mix64":
        seeds = derive_seeds(seed, n).tolist()
        return [lambda a, s=s: finalise(finalise(a ^ s)) for s in seeds]
    first, derived, second = (table.tolist() for table in tabulation_tables(seed))

    def tabulate(a, i):
        characters = list(enumerate([*a.to_bytes(8, "little"), *i.to_bytes(3, "little")]))
        word = middle = 0
        for j, c in characters:
            word ^= first[j][c]
            middle ^= derived[j][c]
        for j, c in enumerate(middle.to_bytes(4, "little")):
            word ^= second[j][c]
        return word

    return [lambda a, i=i: tabulate(a, i) for i in range(n)]


def algorithm_1(items, t, hash="mix64", seed=0):
    """The paper's pseudocode: all 2 t rounds, never stopping early; later rounds are larger."""
    sketch = [EMPTY] * t
    for i, h in enumerate(hash_functions(hash, seed, 2 * t)):
        for a in items:
            word = h(a)
            b = ((word >> 32) * t) >> 32 if i < t else i - t
            sketch[b] = min(sketch[b], (i << 32) | (word & (2**32 - 1)))
    return sketch


@pytest.mark.parametrize("hash", HASHES)
@pytest.mark.parametrize(("t", "size"), [(1, 3), (2, 1), (7, 1), (8, 3), (16, 20), (5, 200)])
def test_a_sketch_is_that_of_the_papers_algorithm(t, size, hash):
    items = np.random.default_rng(size).integers(0, 2**63, size)
    got = SimilaritySketch(t, hash=hash, rng=9).transform([items])[0]
    assert got.tolist() == algorithm_1(items.tolist(), t, hash, 9)


def test_the_last_rounds_fill_a_bin_each():
    # With one item and t bins, some bin is missed by all t throws but for t of very few.
    sketches = SimilaritySketch(64).transform([[n] for n in range(20)])
    rounds = sketches >> np.uint64(32)
    assert np.all(sketches != EMPTY)
    late = rounds >= 64
    assert late.any()
    np.testing.assert_array_equal(rounds[late], 64 + np.nonzero(late)[1])


def test_minhash_keeps_the_smallest_value_of_each_function():
    items = [3, 1 << 60, 77]
    for hash in HASHES:
        functions = hash_functions(hash, 4, 5)
        got = SimilaritySketch(5, method="minhash", hash=hash, rng=4).transform([items])[0]
        assert got.tolist() == [min(map(h, items)) for h in functions]


def test_one_permutation_hashing_borrows_from_the_nearest_full_bin():
    t = 16
    for hash in HASHES:
        h = hash_functions(hash, 0, 1)[0]
        got = SimilaritySketch(t, method="oph", hash=hash).transform([[5, 6, 7]])[0].tolist()
        own = {}
        for a in (5, 6, 7):
            b = ((h(a) >> 32) * t) >> 32
            own[b] = min(own.get(b, EMPTY), h(a) & (2**32 - 1))
        directions = set()
        for b, value in enumerate(got):
            distance = value >> 32
            options = [
                side
                for side in (1, -1)
                if (b + side * distance) % t in own
                and value & (2**32 - 1) == own[(b + side * distance) % t]
                and not any((b + side * d) % t in own for d in range(distance))
            ]
            assert options
            directions |= set(options) if len(options) == 1 and distance else set()
        assert directions == {1, -1}


@pytest.mark.parametrize("method", METHODS)
@given(items=sets_of_keys, more=sets_of_keys, t=st.integers(1, 24))
@settings(max_examples=40)
def test_order_repeats_and_updates_change_nothing(method, items, more, t):
    sketcher = SimilaritySketch(t, method=method)
    whole, empty, begun, backwards = sketcher.transform(
        [items + more, [], items, (items + more + items)[::-1]]
    )
    np.testing.assert_array_equal(backwards, whole)
    np.testing.assert_array_equal(sketcher.update(begun, more), whole)
    for item in items + more:
        sketcher.update(empty, [item])
    np.testing.assert_array_equal(empty, whole)


@pytest.mark.parametrize("method", ["fast", "minhash"])
@given(a=sets_of_keys, b=sets_of_keys, c=sets_of_keys, t=st.integers(1, 24))
@settings(max_examples=40)
def test_the_minimum_of_sketches_is_the_sketch_of_the_union(method, a, b, c, t):
    A, B, C, union = SimilaritySketch(t, method=method).transform([a, b, c, a + b + c])
    np.testing.assert_array_equal(union_sketch(A, union_sketch(B, C)), union)
    np.testing.assert_array_equal(union_sketch(union_sketch(C, A), B), union)
    np.testing.assert_array_equal(union_sketch(np.array([B, C, A])), union)


def test_the_union_law_holds_for_large_sets_of_many_blocks():
    items = np.random.default_rng(0).integers(0, 2**63, 200_000)
    sketcher = SimilaritySketch(4096)
    parts = sketcher.transform([items[:3], items[3:150_000], items[100_000:]])
    np.testing.assert_array_equal(union_sketch(parts), sketcher.transform([items])[0])


@pytest.mark.parametrize("hash", HASHES)
@pytest.mark.parametrize("method", METHODS)
def test_equal_entries_are_as_frequent_as_sets_are_similar(method, hash):
    # 400 pairs of J = 1/3: the mean of 400 x 32 entries, six standard errors of the widest method.
    rng = np.random.default_rng(3)
    items = rng.integers(0, 2**63, (400, 30))
    sketcher = SimilaritySketch(32, method=method, hash=hash)
    S, T = sketcher.transform(items[:, :20]), sketcher.transform(items[:, 10:])
    matches = (S == T).mean(axis=1)
    assert abs(matches.mean() - 1 / 3) < 6 * matches.std() / 20
    assert matches.std() > 0


@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(0, 1))
@settings(max_examples=30)
def test_the_estimate_is_within_five_sigma(start, size, part):
    shared = round(part * size)
    sets = [range(start, start + size), range(start + size - shared, start + 2 * size - shared)]
    J = shared / (2 * size - shared)
    sigma = np.sqrt(J * (1 - J) / 2048)
    estimate = jaccard(*SimilaritySketch(2048).transform(sets))
    assert abs(estimate - J) <= 5 * sigma + 1e-12


@pytest.mark.parametrize("hash", HASHES)
def test_two_single_items_agree_in_no_entry(hash):
    sketches = SimilaritySketch(256, hash=hash).transform([[n] for n in range(30)])
    assert jaccard(sketches).sum() == 30


def test_rounds_beyond_sixteen_bits_are_different_hash_functions():
    # A single item in 2^18 bins needs the rounds beyond 2^16; equal rounds would repeat fractions.
    t = 2**17
    sketch = SimilaritySketch(t, hash="mixed_tabulation").transform([[1]])[0]
    late = sketch[sketch >> np.uint64(32) >= t] & np.uint64(2**32 - 1)
    assert len(late) > 2**14
    assert len(np.unique(late)) > 0.99 * len(late)


def test_an_empty_set_is_like_itself_only():
    for method in METHODS:
        sketches = SimilaritySketch(16, method=method).transform([[], [], [1]])
        assert np.all(sketches[0] == EMPTY)
        assert jaccard(sketches).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


GOLDEN = {
    ("fast", "mix64"): [
        [17424250804, 3573457120, 4228713711, 895591825],
        [17326267327, 2243952084, 7590419449, 5944360324],
        [8803847, 27397942, 1763744, 37866704],
    ],
    ("minhash", "mix64"): [
        [6632667928057520352, 9022657589411582193, 9306842625670850974, 7936115949137670200],
        [5002933837412433364, 12350940690789473273, 16413526029045595428, 9236532655168466015],
        [74684583079527856, 3172477574195831, 15729451266681673, 43687527990721539],
    ],
    ("oph", "mix64"): [
        [7868424416, 3573457120, 4228713711, 895591825],
        [6538919380, 2243952084, 15128853972, 10833886676],
        [8803847, 27397942, 1763744, 37866704],
    ],
    ("fast", "mixed_tabulation"): [
        [346779994, 3007307430, 26456906248, 5688832945],
        [3140456940, 11835078586, 2001273325, 9073875278],
        [7200957, 17539169, 31869180, 31957146],
    ],
}


@pytest.mark.parametrize(("method", "hash"), GOLDEN)
def test_sketches_stay_comparable_between_versions(method, hash):
    sets = [[1, 2, 3], ["thalweg", "river"], range(1000)]
    got = SimilaritySketch(4, method=method, hash=hash, rng=42).transform(sets)
    assert got.tolist() == GOLDEN[method, hash]


def test_rows_of_a_sparse_array_are_sets_of_columns():
    X = np.array([[0, 1, 5, 0], [0, 0, 0, 0], [2, 0, 0, -1]])
    expected = SimilaritySketch(32).transform([[1, 2], [], [0, 3]])
    for kind in (sparse.csr_array, sparse.csc_array, sparse.coo_matrix):
        np.testing.assert_array_equal(SimilaritySketch(32).transform(kind(X)), expected)


def test_stored_zeros_are_not_in_the_set():
    X = sparse.csr_array((np.array([1.0, 0.0, 2.0]), [0, 1, 2], [0, 3]), shape=(1, 3))
    expected = SimilaritySketch(8).transform([[0, 2]])
    np.testing.assert_array_equal(SimilaritySketch(8).transform(X), expected)
    assert X.nnz == 3


def test_sets_come_as_arrays_texts_and_files(tmp_path):
    (tmp_path / "set.txt").write_text("a\nb\na\n")
    sketcher = SimilaritySketch(32)
    got = sketcher.transform([tmp_path / "set.txt", ["a", "b"], np.array(["b", "a"]), {b"a", b"b"}])
    assert np.all(got == got[0])
    assert sketcher.transform(iter([])).shape == (0, 32)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_changes_nothing(pool):
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 1000, size) for size in (5, 70_000, 0, 3, 70_000, 10)] * 3
    X = sparse.random_array((3000, 50), density=0.1, rng=rng, format="csr")
    sketcher = SimilaritySketch(16)
    with pool(2) as executor:
        np.testing.assert_array_equal(
            sketcher.transform(sets, executor=executor), sketcher.transform(sets)
        )
        np.testing.assert_array_equal(
            sketcher.transform(X, executor=executor), sketcher.transform(X)
        )


def test_eight_partitions_on_dask_give_the_sketch_of_one_pass(dask_executor):
    items = np.random.default_rng(1).integers(0, 2**63, 80_000)
    sketcher = SimilaritySketch(256)
    parts = sketcher.transform(np.split(items, 8), executor=dask_executor)
    assert parts.shape == (8, 256)
    np.testing.assert_array_equal(union_sketch(parts), sketcher.transform([items])[0])


@given(sets=st.lists(sets_of_keys, max_size=3), method=st.sampled_from(METHODS))
@settings(max_examples=20)
def test_bytes_give_back_the_sketches_and_their_maker(sets, method):
    sketcher = SimilaritySketch(8, method=method, hash="mixed_tabulation", rng=2**64 - 1)
    sketches = sketcher.transform(sets)
    again, restored = SimilaritySketch.from_bytes(sketcher.to_bytes(sketches))
    np.testing.assert_array_equal(restored, sketches)
    assert again.get_params() == sketcher.get_params()


def test_damaged_bytes_are_refused():
    sketcher = SimilaritySketch(8)
    data = bytearray(sketcher.to_bytes(sketcher.transform([[1]])))
    with pytest.raises(ValueError, match="corrupted or truncated"):
        SimilaritySketch.from_bytes(bytes(data[:-1]))
    data[30] ^= 1
    with pytest.raises(ValueError, match="corrupted or truncated"):
        SimilaritySketch.from_bytes(bytes(data))


def test_it_is_a_scikit_learn_transformer():
    sketcher = SimilaritySketch(16, rng=3)
    assert clone(sketcher).get_params() == sketcher.get_params()
    sets = [[1, 2], [3]]
    np.testing.assert_array_equal(
        make_pipeline(sketcher).fit_transform(sets), sketcher.fit(sets).transform(sets)
    )


@pytest.mark.parametrize(
    ("parameters", "error", "what"),
    [
        ({"n_components": 0}, ValueError, "n_components must be an integer >= 1"),
        ({"n_components": 2**20 + 1}, ValueError, "n_components must be an integer >= 1 and <="),
        ({"method": "slow"}, ValueError, "method must be one of 'fast', 'minhash', 'oph'"),
        ({"hash": "md5"}, ValueError, "hash must be one of 'mix64', 'mixed_tabulation'"),
        ({"rng": None}, TypeError, "rng must be an integer"),
        ({"rng": np.random.default_rng(0)}, TypeError, "rng must be an integer"),
        ({"rng": -1}, ValueError, "rng must be an integer >= 0"),
    ],
)
def test_bad_parameters_are_refused_by_name(parameters, error, what):
    with pytest.raises(error, match=what):
        SimilaritySketch(**parameters).fit()
    with pytest.raises(error, match=what):
        SimilaritySketch(**parameters).transform([[1]])


def test_bad_items_are_refused_with_their_set():
    with pytest.raises(ValueError, match=r"X\[1\] must be integers >= 0, got -3"):
        SimilaritySketch(8).transform([np.array([1]), np.array([-3])])
    with pytest.raises(ValueError, match=r"X\[0\] must be .* got float"):
        SimilaritySketch(8).transform([[0.5]])
    with pytest.raises(TypeError, match=r"X\[0\] must be a collection, got a single str"):
        SimilaritySketch(8).transform(["text"])
    for X in ("text", 5, None):
        with pytest.raises(TypeError, match="X must be a sparse array or an iterable of sets"):
            SimilaritySketch(8).transform(X)


def test_a_refused_item_leaves_the_sketch_as_it_was():
    sketcher = SimilaritySketch(8)
    sketch = sketcher.transform([[1]])[0]
    items = itertools.chain(range(100_000), [-1])
    with pytest.raises(ValueError, match="got -1"):
        sketcher.update(sketch, items)
    np.testing.assert_array_equal(sketch, sketcher.transform([[1]])[0])


@pytest.mark.parametrize(
    ("sketch", "error"),
    [
        (np.zeros(7, dtype=np.uint64), ValueError),
        (np.zeros(8), ValueError),
        (np.zeros((1, 8), dtype=np.uint64), ValueError),
        ([0] * 8, TypeError),
    ],
)
def test_only_a_sketch_of_this_size_is_updated(sketch, error):
    with pytest.raises(error, match="sketch must"):
        SimilaritySketch(8).update(sketch, [1])
