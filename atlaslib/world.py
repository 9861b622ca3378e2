"""Who trains: one process, or one of those that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """The processes of a run; alone, there is one of rank 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process goes through the block, then all others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def mean(self, value: torch.Tensor) -> float:
        """A number's mean over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value) / self.size

    def gathered(self, rows: list[Any]) -> list[Any]:
        """Everybody's rows, in the order of the ranks."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]


def join() -> World:
    """The world of this process, found in the variables that ``torchrun`` sets.

    It stays for further runs. No process that fails takes leave of the others, for it would wait
    for them: it ends, and ``torchrun`` ends them.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return World()
    if not dist.is_initialized():
        gpu = None
        if torch.cuda.is_available():
            gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(gpu)
        # others wait for the first one while it makes the store or saves, however long that takes
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1), device_id=gpu)
    return World(dist.get_rank(), size)


def leave() -> None:
    """Part from the other processes, when all has gone well; alone, nothing."""
    if dist.is_initialized():
        dist.destroy_process_group()
