from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from thalweg.study import run_study
from thalweg.study.verify import dask_executor, local_executor, run_many


def test_outcomes_come_from_an_executor(toy):
    with ThreadPoolExecutor(2) as executor:
        outcomes = list(run_many(["toy", "toy"], executor, seed=5))
    assert [o.record.state for o in outcomes] == ["holds", "holds"]
    assert {o.record.seed for o in outcomes} == {5}


def test_a_lost_worker_is_a_failed_record(toy):
    class Broken(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):
            future = Future()
            future.set_exception(RuntimeError("killed"))
            return future

    with Broken(1) as executor:
        (outcome,) = run_many(["toy"], executor)
    assert outcome.record.state == "failed"
    assert "the worker was lost: RuntimeError: killed" in outcome.record.message


def test_local_workers_use_one_thread_and_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with local_executor(1) as executor:
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_dask_cluster_runs_studies(toy):
    from dask.distributed import LocalCluster

    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        dask_executor(cluster.scheduler_address) as executor,
    ):
        outcomes = list(run_many(["toy", "toy"], executor, seed=3))
    assert [o.record.state for o in outcomes] == ["holds", "holds"]
    assert outcomes[0].record.results == run_study("toy", seed=3).record.results


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    def refuse(address, timeout):
        raise OSError("timed out")

    monkeypatch.setattr("dask.distributed.Client", refuse)
    with (
        pytest.raises(ValueError, match=r"no Dask scheduler answers at 'tcp://localhost:1'"),
        dask_executor("tcp://localhost:1"),
    ):
        pass
