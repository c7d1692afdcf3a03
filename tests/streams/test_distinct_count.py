from __future__ import annotations

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from thalweg.streams import FlajoletMartin, chernoff_interval
from thalweg.streams._hashing import derive_seeds
from thalweg.streams._serialise import pack
from thalweg.streams.flajolet_martin import count_of_mean

SETTINGS = [
    {"n_registers": 16, "averaging": "stochastic"},
    {"n_registers": 5, "averaging": "independent", "base": 2.0, "rng": 3},
]

streams = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=3)), max_size=30)


def finalise(z):
    z = (z ^ (z >> 33)) * 0xFF51AFD7ED558CCD % 2**64
    z = (z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53 % 2**64
    return z ^ (z >> 33)


def equal(a, b):
    return a._parameters() == b._parameters() and np.array_equal(a.registers_, b.registers_)


def test_stochastic_registers_are_maxima_of_low_bits_by_high_bits():
    (seed,) = derive_seeds(7, 1).tolist()
    expected = [0] * 8
    items = [0, 1, 2**64 - 1, 12345]
    for item in items:
        h = finalise(finalise(item ^ seed))
        expected[h >> 61] = max(expected[h >> 61], h % 2**61 + 1)
    assert FlajoletMartin(8, rng=7).update(items).registers_.tolist() == expected


def test_independent_registers_are_maxima_of_their_own_hash_functions():
    items = [0, 1, 2**64 - 1, 12345]
    expected = [
        max((finalise(finalise(item ^ seed)) >> 1) + 1 for item in items)
        for seed in derive_seeds(7, 3).tolist()
    ]
    sketch = FlajoletMartin(3, averaging="independent", rng=7).update(items)
    assert sketch.registers_.tolist() == expected


@pytest.mark.parametrize("settings_", SETTINGS)
@given(a=streams, b=streams, c=streams)
@settings(max_examples=40)
def test_sketches_merge_like_sets(settings_, a, b, c):
    def of(*parts):
        return FlajoletMartin(**settings_).update(list(itertools.chain(*parts)))

    assert equal(of(a).merge(of(b)), of(a, b))
    assert equal(of(a).merge(of(b)), of(b).merge(of(a)))
    assert equal(of(a).merge(of(b)).merge(of(c)), of(a).merge(of(b).merge(of(c))))
    assert equal(of(a).merge(of(a)), of(a))
    assert equal(of(a).merge(FlajoletMartin(**settings_)), of(a))


@pytest.mark.parametrize("settings_", SETTINGS)
@given(stream=streams, cut=st.integers(0, 30))
@settings(max_examples=40)
def test_repeats_order_and_calls_change_nothing(settings_, stream, cut):
    whole = FlajoletMartin(**settings_).update(stream)
    pieces = FlajoletMartin(**settings_).update(stream[cut:]).update(stream).update(stream[:cut])
    assert equal(pieces, whole)
    assert equal(FlajoletMartin(**settings_).update(stream[::-1]), whole)


@pytest.mark.parametrize("settings_", SETTINGS)
@given(stream=streams)
@settings(max_examples=20)
def test_bytes_give_back_the_sketch(settings_, stream):
    sketch = FlajoletMartin(**settings_).update(stream)
    again = FlajoletMartin.from_bytes(sketch.to_bytes())
    assert equal(again, sketch)
    assert again.interval() == sketch.interval()


GOLDEN_REGISTERS = [0, 7025538027792376668]


def test_the_same_bytes_are_written_in_every_version():
    data = FlajoletMartin(2, rng=1).update([1]).to_bytes()
    assert data[:5] == b"TLWG\x01"
    header = json.loads(data[9 : 9 + int.from_bytes(data[5:9], "little")])
    assert header == {
        "kind": "distinct-count",
        "shape": [2],
        "n_registers": 2,
        "averaging": "stochastic",
        "base": None,
        "rng": 1,
    }
    registers = np.frombuffer(data[-24:-8], dtype="<u8").tolist()
    assert registers == GOLDEN_REGISTERS


def test_damaged_or_impossible_bytes_are_refused():
    sketch = FlajoletMartin(16).update(range(5))
    data = bytearray(sketch.to_bytes())
    for cut in (0, 3, 20, len(data) - 1):
        with pytest.raises(ValueError, match="data"):
            FlajoletMartin.from_bytes(bytes(data[:cut]))
    data[-20] ^= 4
    with pytest.raises(ValueError, match="corrupted or truncated"):
        FlajoletMartin.from_bytes(bytes(data))
    parameters = sketch._parameters()
    with pytest.raises(ValueError, match="registers that"):
        FlajoletMartin.from_bytes(pack("distinct-count", parameters, sketch.registers_[:8]))
    too_large = np.full(16, 2**61, dtype=np.uint64)
    with pytest.raises(ValueError, match="registers that"):
        FlajoletMartin.from_bytes(pack("distinct-count", parameters, too_large))
    with pytest.raises(ValueError, match="data holds parameters"):
        FlajoletMartin.from_bytes(
            pack("distinct-count", parameters | {"base": "2"}, sketch.registers_)
        )


@pytest.mark.parametrize("settings_", SETTINGS)
def test_blocks_and_executors_give_the_registers_of_one_pass(settings_, tmp_path):
    (tmp_path / "words").write_text("a\nb\n")
    blocks = [np.arange(100), ["a", "c"], tmp_path / "words", range(50, 200)]
    expected = FlajoletMartin(**settings_).update(range(200)).update(["a", "b", "c"])
    assert equal(FlajoletMartin(**settings_).update_many(blocks), expected)
    with ThreadPoolExecutor(2) as pool:
        got = FlajoletMartin(**settings_).update(["b"]).update_many(iter(blocks), executor=pool)
    assert equal(got, expected)


def test_eight_partitions_on_dask_give_the_registers_of_one_pass(dask_executor):
    items = np.random.default_rng(1).integers(0, 2**63, 80_000)
    one_pass = FlajoletMartin(256).update(items)
    parts = FlajoletMartin(256).update_many(np.split(items, 8), executor=dask_executor)
    assert equal(parts, one_pass)


@pytest.mark.parametrize("averaging", ["stochastic", "independent"])
@pytest.mark.parametrize("base", [None, 2.0, 1.1])
@pytest.mark.parametrize("n", [1, 40, 3000, 20_000])
def test_estimates_are_within_five_sigma(averaging, base, n):
    L = 256 if averaging == "independent" else 1024
    sketch = FlajoletMartin(L, averaging=averaging, base=base, rng=n).update(range(n))
    # The share of stochastic registers that saw nothing adds sampling noise 1/sqrt(n).
    sigma = 1.4 / math.sqrt(L) + (1 / math.sqrt(n) if n < L and averaging == "stochastic" else 0)
    assert abs(math.log(sketch.estimate() / n)) < 5 * sigma
    low, high = sketch.interval(0.999)
    assert low <= n <= high
    if base is None:
        assert abs(math.log(sketch.estimate(estimator="gamma") / n)) < 5 * sigma


def test_the_moment_estimate_inverts_the_mean():
    for averaging, share in (("independent", 1.0), ("stochastic", 1 / 64)):
        sketch = FlajoletMartin(64, averaging=averaging).update(range(3000))
        assert sketch.estimate() == pytest.approx(count_of_mean(sketch.mean_, share))


def test_the_mean_reads_registers_through_the_whole_complement():
    sketch = FlajoletMartin(4, base=None)
    scale = 2**62
    sketch.registers_ = np.array([0, 1, scale // 3, scale], dtype=np.uint64)
    values = [0, -math.log((scale - 0.5) / scale), math.log(1.5), math.log(2 * scale)]
    assert sketch.mean_ == pytest.approx(np.mean(values), rel=1e-12)
    sketch.base = 2.0
    assert sketch.mean_ == np.mean([0, 0, 0, 63])
    sketch.registers_ = np.array([0, scale // 2 + 1, 3 * scale // 4 + 1, 0], dtype=np.uint64)
    assert sketch.mean_ == np.mean([0, 1, 2, 0])


def test_the_gamma_estimators_are_those_of_order_statistics():
    sketch = FlajoletMartin(4, averaging="independent").update(range(50))
    U = (sketch.registers_.astype(float) - 0.5) / 2**63
    assert sketch.estimate(estimator="gamma") == pytest.approx(3 / -np.log(U).sum())
    sketch = FlajoletMartin(4).update(range(50))
    U = (sketch.registers_.astype(float) - 0.5) / 2**62
    assert sketch.estimate(estimator="gamma") == pytest.approx(12 / (1 - U).sum())


def test_the_gamma_estimate_counts_empty_registers():
    # Mean over 60 seeds of a count far below the registers; five standard errors.
    estimates = [
        FlajoletMartin(256, rng=seed).update(range(40)).estimate(estimator="gamma")
        for seed in range(60)
    ]
    assert abs(np.mean(estimates) - 40) < 5 * np.std(estimates) / math.sqrt(60)


def test_the_gamma_interval_covers_exactly():
    n, L, level, trials = 12, 6, 0.8, 600
    covered = 0
    for seed in range(trials):
        sketch = FlajoletMartin(L, averaging="independent", rng=seed).update(range(n))
        low, high = sketch.interval(level, method="gamma")
        covered += low <= n <= high
    tail = binom(trials, level)
    assert min(tail.cdf(covered), tail.sf(covered - 1)) > 1e-4


def test_the_comparison_intervals_have_their_closed_forms():
    sketch = FlajoletMartin(16, averaging="independent").update(range(1000))
    U = (sketch.registers_.astype(float) - 0.5) / 2**63
    expected = chi2.ppf([0.05, 0.95], 32) / (2 * -np.log(U).sum())
    np.testing.assert_allclose(sketch.interval(0.9, method="gamma"), expected, rtol=1e-9)
    low, high = sketch.interval(0.95, method="normal")
    assert math.log(high / low) == pytest.approx(2 * 1.959964 * math.pi / math.sqrt(6) / 4)
    assert math.sqrt(low * high) == pytest.approx(sketch.estimate())


def test_the_chernoff_interval_is_that_of_the_law():
    sketch = FlajoletMartin(64).update(range(30))
    nonempty = np.count_nonzero(sketch.registers_)
    expected = chernoff_interval(
        sketch.mean_, 64, 0.9, averaging="stochastic", nonempty=int(nonempty)
    )
    assert sketch.interval(0.9) == expected
    assert expected[0] == nonempty


@pytest.mark.parametrize("settings_", SETTINGS)
def test_nothing_seen_is_a_count_of_zero(settings_):
    sketch = FlajoletMartin(**settings_).update([])
    assert sketch.estimate() == 0.0
    assert sketch.interval() == (0.0, 0.0)
    assert sketch.interval(method="normal") == (0.0, 0.0)


def test_another_seed_is_another_hash_function():
    a, b = (FlajoletMartin(64, rng=rng).update(range(500)) for rng in (0, 1))
    assert np.count_nonzero(a.registers_ == b.registers_) == 0


def test_a_refused_item_leaves_the_sketch_as_it_was():
    sketch = FlajoletMartin(16).update(["a"])
    before = sketch.registers_.copy()
    for call in (
        lambda: sketch.update(itertools.chain(range(100_000), [-1])),
        lambda: sketch.update_many([range(100), [-1]]),
    ):
        with pytest.raises(ValueError, match="got -1"):
            call()
        np.testing.assert_array_equal(sketch.registers_, before)


@pytest.mark.parametrize(
    ("parameters", "error", "what"),
    [
        ({"n_registers": 1}, ValueError, "n_registers must be an integer >= 2"),
        ({"n_registers": 48}, ValueError, "n_registers must be a power of two"),
        ({"n_registers": 0, "averaging": "independent"}, ValueError, "n_registers must be"),
        ({"n_registers": 4.0}, TypeError, "n_registers must be an integer"),
        ({"averaging": "median"}, ValueError, "averaging must be one of"),
        ({"base": 1.0}, ValueError, "base must be a finite number > 1"),
        ({"base": "2"}, TypeError, "base must be a finite number"),
        ({"rng": None}, TypeError, "rng must be an integer"),
        ({"rng": 2**64}, ValueError, "rng must be an integer >= 0"),
    ],
)
def test_bad_parameters_are_refused_by_name(parameters, error, what):
    with pytest.raises(error, match=what):
        FlajoletMartin(**parameters)


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        (lambda s: s.update(np.array([0.5])), ValueError, "items must be integers >= 0"),
        (lambda s: s.update([-1]), ValueError, "items must be integers >= 0"),
        (lambda s: s.update("word"), TypeError, "items must be a collection"),
        (lambda s: s.interval(1.0), ValueError, "level must be"),
        (lambda s: s.interval(method="exact"), ValueError, "method must be one of"),
        (lambda s: s.interval(method="gamma"), ValueError, "needs averaging='independent'"),
        (lambda s: s.estimate(estimator="mode"), ValueError, "estimator must be one of"),
        (lambda s: s.merge(FlajoletMartin(32)), ValueError, "other must have the parameters"),
        (lambda s: s.merge(FlajoletMartin(16, rng=1)), ValueError, "other must have the"),
        (lambda s: s.merge(FlajoletMartin(16, base=2.0)), ValueError, "other must have the"),
        (lambda s: s.merge(s.registers_), TypeError, "other must be a FlajoletMartin"),
        (
            lambda s: FlajoletMartin(16, base=2.0).estimate(estimator="gamma"),
            ValueError,
            "estimator 'gamma' needs base=None",
        ),
    ],
)
def test_bad_calls_are_refused_by_name(call, error, what):
    with pytest.raises(error, match=what):
        call(FlajoletMartin(16))
