"""Processes of their own, which a test may kill or stop.

One server imports torch, and each process is a copy of it. They have one thread each: a second
would not speed up so small networks, and test processes share the cores.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pkgutil
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import atlaslib
from atlaslib.data import slices
from atlaslib.training import state

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["atlaslib.training.loop"])


def outcome(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns in a process of its own; what it raises is raised here."""
    home = os.environ["ATLASLIB_HOME"]
    with ProcessPoolExecutor(1, PROCESSES, initializer=_prepare, initargs=(home,)) as pool:
        return pool.submit(function, *given).result()


@contextmanager
def running(function: Callable[..., object], *given: Any) -> Iterator[BaseProcess]:
    """A process that calls a function; killed at the end."""
    given = (os.environ["ATLASLIB_HOME"], function, *given)
    process = PROCESSES.Process(target=_call, args=given)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def exit_code(function: Callable[..., object], *given: Any) -> int | None:
    """How a process that calls a function ends; a signal that ends it is negative."""
    with running(function, *given) as process:
        process.join()
        return process.exitcode


def wait_until(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Wait for something that a running process does."""
    while not condition():
        assert process.is_alive(), "the process ended before"
        time.sleep(0.002)


def _prepare(home: str) -> None:
    os.environ["ATLASLIB_HOME"] = home
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False


def _call(home: str, function: Callable[..., object], *given: Any) -> None:
    _prepare(home)
    function(*given)


# --- what the processes do ----------------------------------------------------------------------


def signalled(
    number: int, name: str, call: int, function: Callable[..., object], *given: Any
) -> None:
    """Call a function; the process sends itself a signal at a certain call of another function."""
    original, calls = pkgutil.resolve_name(name), itertools.count(1)

    def counted(*args: Any, **more: Any) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **more)

    with mock.patch(name, counted):
        function(*given)


def train(recipe: atlaslib.Recipe, cohort: atlaslib.Cohort, folder: Path) -> None:
    """A run that writes a checkpoint after each step."""
    state.CHECKPOINT_SECONDS = 0
    atlaslib.train(recipe, cohort, out=folder, progress=False)


def cache(root: Path) -> int:
    """The lesion pixels of a cohort, from its cache, which is built if there is none."""
    cohort = atlaslib.load_cohort(root)
    return int(atlaslib.SliceDataset(cohort, progress=False).table.lesion_pixels.sum())


def cache_together(barrier: Barrier, root: Path, pixels: int) -> None:
    """The same at the same time as another process, checked."""
    barrier.wait(120)
    assert cache(root) == pixels


def cache_in_turn(root: Path) -> int:
    """The same, one scan after the other."""
    slices._WORKERS = 1
    return cache(root)


def cache_without_space(root: Path) -> int:
    """The same; a limit on file size makes a write fail as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    return cache(root)


def cache_with_few_files(root: Path) -> tuple[int, int]:
    """The same with at most 256 open files, and the peak of the memory in kB."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    pixels = cache(root)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return pixels, int(peak)


def needs_nilearn(root: Path, run: Path) -> bool:
    """Whether reading and segmenting a scan has imported nilearn."""
    cohort = atlaslib.load_cohort(root)
    assert len(atlaslib.SliceDataset(cohort[:1], progress=False)[90]) == 2
    atlaslib.predict(atlaslib.load_run(run), cohort[0])
    return "nilearn" in sys.modules
