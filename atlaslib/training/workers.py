"""Run many trainings: on this machine's GPUs or cores, or on a Dask cluster."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import joblib
import torch
from filelock import FileLock, Timeout

from atlaslib.files import DataError, home, make_folder, one_line


def run_parallel(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], scheduler: str = ""
) -> Iterator[Any]:
    """Call a function with each of several tuples of arguments; yield results as they come.

    The calls are made in other processes: one at a time on every GPU or, without a GPU, on every
    core, with a single thread. If there is only one, or one call, they are made in this process. An
    error in any of them ends the others.

    Parameters
    ----------
    function : function that other processes can import
    jobs : iterable of tuples
        Arguments, which must be picklable.
    scheduler : str
        Address of a Dask scheduler, such as ``tcp://10.0.0.1:8786``, whose workers run the
        calls instead. They need this version of the library, the same files under the same paths
        and the same ``ATLASLIB_HOME``, and one thread each (``dask worker --nthreads 1``). A call
        whose worker is lost is made again by another one.

    Raises
    ------
    DataError
        If the scheduler cannot be reached, its workers have several threads, or a call has ended
        several of them.
    """
    if scheduler:
        yield from _on_cluster(function, jobs, scheduler)
        return
    calls = [joblib.delayed(_call)(function, job) for job in jobs]
    count = min(torch.cuda.device_count() or joblib.cpu_count(), max(len(calls), 1))
    work = joblib.Parallel(
        n_jobs=count, return_as="generator_unordered", pre_dispatch=count, batch_size=1
    )
    yield from work(calls)


def _call(function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """In a worker process: one call, on one GPU or one core."""
    if not torch.cuda.is_available():
        threads = torch.get_num_threads()  # of the caller, if this is its process
        torch.set_num_threads(1)
        try:
            return function(*job)
        finally:
            torch.set_num_threads(threads)
    with _free_gpu() as gpu:
        torch.cuda.set_device(gpu)
        return function(*job)


@contextlib.contextmanager
def _free_gpu() -> Iterator[int]:
    """A GPU that no other worker is using; waits for one."""
    folder = home() / "gpus"
    make_folder(folder)
    for gpu in itertools.cycle(range(torch.cuda.device_count())):
        # not by its number: workers may see different ones, and machines may share files
        lock = FileLock(folder / f"{torch.cuda.get_device_properties(gpu).uuid}.lock")
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            continue
        try:
            yield gpu
        finally:
            lock.release()
        return


def _on_cluster(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], scheduler: str
) -> Iterator[Any]:
    """The same on the workers of a Dask cluster."""
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError:
        text = "a cluster needs Dask: pip install distributed"
        raise DataError(text, "missing") from None
    try:
        client = Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        text = f"no Dask scheduler answers ({one_line(error)})"
        raise DataError(f"{scheduler}: {text}", "missing") from None
    with client:
        threads = client.nthreads()
        if set(threads.values()) != {1}:
            found = f"{len(threads)} workers of {sorted(set(threads.values()))} threads"
            raise DataError(f"{scheduler}: expected workers of one thread each, found {found}")
        calls = [client.submit(_call, function, job, pure=False) for job in jobs]
        for call in as_completed(calls, loop=client.loop):
            try:
                result = call.result()
            except KilledWorker as error:
                raise DataError(f"{scheduler}: {one_line(error)}", "killed") from None
            yield result
