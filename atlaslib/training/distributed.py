"""The processes that train one model: a single one, or those started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from atlaslib.models.device import best_device


@dataclass(frozen=True)
class DistributedContext:
    """The rank of this process and the number of processes; a single process has rank 0 of 1."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first, then in all others."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors of every process with the values of the main process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a number over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value) / self.size

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all processes, in the order of their ranks."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]


def join_processes() -> DistributedContext:
    """Join the process group described by the environment variables that ``torchrun`` sets.

    The group stays open for further runs. A process that fails does not close it, since closing
    would wait for the others: it exits, and ``torchrun`` stops the rest.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return DistributedContext()
    if not dist.is_initialized():
        gpu = None
        if best_device().type == "cuda":
            rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if rank >= count:
                raise ValueError(f"process {rank} of this machine has no GPU, there are {count}")
            gpu = torch.device("cuda", rank)
            torch.cuda.set_device(gpu)
        # long: the others wait while the main process builds the slice cache or saves a checkpoint
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1), device_id=gpu)
    return DistributedContext(dist.get_rank(), size)


def leave_processes() -> None:
    """Close the process group after a successful run; a single process has none."""
    if dist.is_initialized():
        dist.destroy_process_group()
