"""A Dask scheduler and its workers on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Cluster:
    """A Dask scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard")
        self.address, end = "", time.monotonic() + 60
        while not self.address:
            assert self.processes[0].poll() is None, "the scheduler has ended"
            assert time.monotonic() < end, "the scheduler does not start"
            time.sleep(0.1)
            with contextlib.suppress(FileNotFoundError, ValueError):  # not yet, or not yet whole
                self.address = json.loads(self.file.read_text())["address"]

    def start(self, module: str, *options: str) -> None:
        """Start the scheduler or a worker."""
        paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        command = [sys.executable, "-m", module, "--scheduler-file", str(self.file), *options]
        self.processes.append(
            subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths},
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )  # fmt: skip

    def workers(self, threads: int, count: int = 1) -> None:
        """Start workers and wait for them."""
        from distributed import Client

        for _ in range(count):
            self.start("distributed.cli.dask_worker", "--nthreads", str(threads), "--no-nanny",
                       "--no-dashboard")  # fmt: skip
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)


@contextmanager
def dask_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that ends with the context; the test is skipped where Dask is missing."""
    pytest.importorskip("distributed", reason="the cluster needs Dask")
    made = Cluster(folder)
    try:
        yield made
    finally:
        for process in made.processes:
            process.kill()
            process.wait()
