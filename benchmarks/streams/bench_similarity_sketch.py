"""One set of 64-bit integers to a sketch, beside MinHash: datasketch's and our own.

datasketch gets 32 bits of each integer as its hash and batches of 1000, with which it is fastest.
"""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.streams import SimilaritySketch, jaccard

WORKLOADS = {
    128: ("sketch of a set of 1 000 000 integers, 128 entries", 1_000_000, 150),
    1024: ("sketch of a set of 200 000 integers, 1024 entries", 200_000, 500),
}
SIMILARITY = 1 / 3
BATCH = 1000


def pair(size):
    """Two sets that share half of their items."""
    items = np.random.default_rng(0).integers(0, 2**63, size + size // 2)
    return items[:size], items[size // 2 :]


@pytest.mark.parametrize("t", WORKLOADS)
@pytest.mark.parametrize("method", ["fast", "minhash"])
def test_thalweg(measure, t, method):
    workload, size, _ = WORKLOADS[t]
    A, B = pair(size)
    sketcher = SimilaritySketch(t, method=method)
    measure(
        lambda: sketcher.transform([A])[0],
        workload=workload,
        entrant="thalweg" if method == "fast" else "MinHash in the same code",
        accuracy=(
            "error of J",
            lambda sketch: abs(jaccard(sketch, sketcher.transform([B])[0]) - SIMILARITY),
        ),
        target=100 if method == "minhash" and t == 1024 else None,
        rounds=7 if method == "fast" else 2,
    )


@pytest.mark.parametrize("t", WORKLOADS)
def test_datasketch(measure, t):
    datasketch = pytest.importorskip("datasketch", reason="missing peer: datasketch ")
    workload, size, target = WORKLOADS[t]
    A, B = pair(size)

    def sketch(items):
        minhash = datasketch.MinHash(num_perm=t, hashfunc=lambda item: int(item) & 0xFFFFFFFF)
        for start in range(0, len(items), BATCH):
            minhash.update_batch(items[start : start + BATCH])
        return minhash

    measure(
        lambda: sketch(A),
        workload=workload,
        entrant="datasketch MinHash",
        accuracy=("error of J", lambda minhash: abs(minhash.jaccard(sketch(B)) - SIMILARITY)),
        peer="datasketch",
        target=target,
        rounds=2,
    )
