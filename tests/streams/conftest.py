from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def dask_executor():
    """An executor of a Dask cluster of two worker threads in this process."""
    distributed = pytest.importorskip("dask.distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        yield client.get_executor()
