"""What a run must not lose, and how it is written so that nothing can take it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout

from atlaslib.cohort import DataError, write_aside

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
_DIGEST = 32  # bytes of SHA-256 after the content


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; the one before is kept beside it.

    At every moment one of the two is whole: the current one is copied first, and then replaced in
    one step.

    Raises
    ------
    DataError
        If the disk is full; the current checkpoint stays.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).digest()

    def write(name: str) -> None:
        with open(name, "wb") as file:
            file.write(buffer.getbuffer())
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a name without its content

    current = folder / CURRENT
    if current.is_file():
        write_aside(folder / PREVIOUS, lambda name: shutil.copyfile(current, name))
    write_aside(current, write)


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None if there is none. A damaged one is warned of."""
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        data = path.read_bytes()
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(content).digest() == digest:
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        rest = "going on from the one before" if name == CURRENT else "starting again"
        warnings.warn(f"{path}: damaged; {rest}", stacklevel=2)
    return None


def drop_checkpoints(folder: Path) -> None:
    """Of a finished run, which needs them no more."""
    for name in (CURRENT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run's folder to this process; the lock of a killed process is gone with it.

    Files that a killed process had not finished are removed.

    Raises
    ------
    DataError
        If another process trains in the folder.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{folder}: another process trains in this folder", "locked") from None
    try:
        for unfinished in folder.glob(".*.part"):
            unfinished.unlink()
        yield
    finally:
        lock.release()


class Stop:
    """A request to stop, from Ctrl-C, a notebook's stop button or a cluster's SIGTERM.

    The first request is noted, so that training can end between two steps and save what it has;
    the second one stops at once. Of several processes that wait for each other, none may end by
    itself: with ``alone`` False the request stops them as it would any program.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.asked = False

    def __enter__(self) -> Stop:
        self._before: dict[int, Any] = {}
        # only the main thread may ask for signals
        if self.alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
