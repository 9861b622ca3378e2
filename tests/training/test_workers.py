"""Many trainings at once: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cluster import dask_cluster
from filelock import FileLock

from atlaslib import DataError, home
from atlaslib.training import workers
from atlaslib.training.workers import run_parallel


def where(number):
    return number, os.getpid(), torch.get_num_threads()


def fail_on(number):
    if number == 1:
        raise DataError("scan 1 is damaged")
    return number


def end(number):
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out


def test_calls_are_made_in_processes_of_one_thread():
    found = list(run_parallel(where, [(number,) for number in range(4)]))
    assert {number for number, _, _ in found} == set(range(4))
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {1}


def test_an_error_in_a_worker_arrives_as_it_is():
    with pytest.raises(DataError, match="scan 1 is damaged"):
        list(run_parallel(fail_on, [(0,), (1,)]))


def test_a_call_takes_a_gpu_that_no_other_uses(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    properties = [SimpleNamespace(uuid=name) for name in ("GPU-a", "GPU-b")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)

    def within(depth: int) -> int:
        """Call again while the first call goes on."""
        return 1 + workers._call(within, (depth - 1,)) if depth else 0

    assert workers._call(within, (1,)) == 1
    assert taken == [0, 1]
    with pytest.raises(DataError, match="scan 1 is damaged"):
        workers._call(fail_on, (1,))
    assert workers._call(abs, (-3,)) == 3
    assert taken == [0, 1, 0, 0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # of two, this worker sees the other
    with FileLock(home() / "gpus" / "GPU-a.lock"):
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties[1:].__getitem__)
        assert workers._call(abs, (-4,)) == 4


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_one_line(address, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the cluster needs Dask")
    client = distributed.Client
    impatient = partial(client, timeout=0.5)
    monkeypatch.setattr(distributed, "Client", lambda *a, timeout, **more: impatient(*a, **more))
    with pytest.raises(DataError, match="no Dask scheduler answers") as error:
        list(run_parallel(abs, [(1,)], address))
    assert "\n" not in str(error.value)


def test_without_dask_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DataError, match="pip install distributed"):
        list(run_parallel(abs, [(1,)], "tcp://127.0.0.1:1"))


def test_workers_of_several_threads_are_refused(tmp_path):
    with dask_cluster(tmp_path) as cluster:
        cluster.workers(threads=2)
        with pytest.raises(DataError, match=r"one thread each, found 1 workers of \[2\] threads"):
            list(run_parallel(abs, [(1,)], cluster.address))


def test_a_call_that_ends_its_workers_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with dask_cluster(tmp_path) as cluster:
        cluster.workers(threads=1, count=2)
        with pytest.raises(DataError, match="died while running it") as error:
            list(run_parallel(end, [(1,)], cluster.address))
    assert "\n" not in str(error.value)
