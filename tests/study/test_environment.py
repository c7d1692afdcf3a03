from __future__ import annotations

import numpy as np

from thalweg.study.environment import Meter


def test_the_meter_sees_time_and_memory_of_the_block_only():
    with Meter() as idle:
        pass
    with Meter() as busy:
        block = np.ones(8_000_000)
        total = sum(block[: 10**6].tolist())
    assert total == 10**6
    assert busy.cpu_seconds > idle.cpu_seconds
    assert busy.wall_seconds > idle.wall_seconds
    assert busy.peak_memory_mib > idle.peak_memory_mib + 50
