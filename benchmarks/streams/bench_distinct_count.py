"""Distinct counts of 64-bit integers beside HyperLogLog sketches and an exact count."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.streams import FlajoletMartin

WORKLOAD = "distinct count of 1 000 000 integers, 4096 registers"
INTERVAL = "95 % interval from 4096 registers"
BITS = 12
ITEMS = np.random.default_rng(0).integers(0, 2**63, 1_000_000)
LISTED = ITEMS.tolist()  # Python integers, with which the loops of the peers are fastest
COUNT = len(np.unique(ITEMS))


def accuracy(estimate):
    return "relative error", lambda sketch: abs(estimate(sketch) / COUNT - 1)


def test_thalweg(measure):
    measure(
        lambda: FlajoletMartin(2**BITS).update(ITEMS),
        workload=WORKLOAD,
        entrant="thalweg",
        accuracy=accuracy(lambda sketch: sketch.estimate()),
        rounds=15,
    )


def test_datasketches(measure):
    datasketches = pytest.importorskip("datasketches", reason="missing peer: datasketches ")

    def run():
        sketch = datasketches.hll_sketch(BITS)
        for item in LISTED:
            sketch.update(item)
        return sketch

    measure(
        run,
        workload=WORKLOAD,
        entrant="datasketches hll_sketch, a call an item",
        accuracy=accuracy(lambda sketch: sketch.get_estimate()),
        peer="datasketches",
        target=10,
        rounds=3,
    )


def test_datasketch(measure):
    datasketch = pytest.importorskip("datasketch", reason="missing peer: datasketch ")

    def run():
        sketch = datasketch.HyperLogLogPlusPlus(p=BITS, hashfunc=_scatter)
        for item in LISTED:
            sketch.update(item)
        return sketch

    measure(
        run,
        workload=WORKLOAD,
        entrant="datasketch HyperLogLog++",
        accuracy=accuracy(lambda sketch: sketch.count()),
        peer="datasketch",
        target=300,
        rounds=1,
    )


def test_numpy(measure):
    measure(
        lambda: len(np.unique(ITEMS)),
        workload=WORKLOAD,
        entrant="numpy.unique, exact",
        accuracy=accuracy(float),
        peer="numpy",
        rounds=5,
    )


@pytest.mark.parametrize("base", [None, 2.0])
def test_interval(measure, base):
    sketch = FlajoletMartin(2**BITS, base=base).update(ITEMS)
    measure(
        sketch.interval,
        workload=INTERVAL,
        entrant="thalweg" if base is None else "thalweg, base 2",
        accuracy=("relative width", lambda ends: (ends[1] - ends[0]) / COUNT),
        rounds=10,
    )


def _scatter(item):
    """Spread an integer over 64 bits (the high bits of the golden ratio's multiple)."""
    return item * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
