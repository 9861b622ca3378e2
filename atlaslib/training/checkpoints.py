"""Checkpoints that survive a crash, the lock on a run's folder, and requests to stop."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen
from filelock import FileLock, Timeout
from pydantic import AfterValidator, FiniteFloat, InstanceOf
from typing_extensions import TypedDict

from atlaslib.files import Content, DataError, atomic_write, one_line
from atlaslib.runs import CHECKPOINT, PREVIOUS_CHECKPOINT

_DIGEST = 32  # bytes of the SHA-256 that follows the content


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(tensor).all():
        raise ValueError("NaN or infinite")
    return tensor


def _not_negative(tensor: torch.Tensor) -> torch.Tensor:
    if (tensor < 0).any():
        raise ValueError("negative")
    return tensor


def _scalar(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim():
        raise ValueError("not a single number")
    return tensor


def _dice(value: float) -> float:
    if value < 0 or value > 1:  # NaN if no scan has a lesion, true or predicted
        raise ValueError("not from 0 to 1")
    return value


_Tensor = InstanceOf[torch.Tensor]
_FiniteTensor = Annotated[_Tensor, AfterValidator(_finite)]
_NonNegativeTensor = Annotated[_FiniteTensor, AfterValidator(_not_negative)]
_Scalar = Annotated[_FiniteTensor, AfterValidator(_scalar)]
_NonNegativeFloat = Annotated[FiniteFloat, Ge(0)]
_NonNegativeInt = Annotated[int, Ge(0)]


class _Moments(TypedDict):
    """Adam's state of one parameter."""

    step: _NonNegativeTensor
    exp_avg: _FiniteTensor
    exp_avg_sq: _NonNegativeTensor


class _Optimiser(TypedDict):
    state: dict[int, _Moments]  # by position; a parameter never used has no entry


class _Scaler(TypedDict, total=False):
    """The state of a gradient scaler; empty if it is disabled."""

    scale: _NonNegativeFloat
    growth_factor: _NonNegativeFloat
    backoff_factor: _NonNegativeFloat
    growth_interval: _NonNegativeInt
    _growth_tracker: _NonNegativeInt


def _whole(state: _Scaler) -> _Scaler:
    if 0 < len(state) < len(_Scaler.__annotations__):
        raise ValueError("incomplete")
    return state


class _Row(TypedDict):
    """One epoch of a history."""

    epoch: int
    loss: FiniteFloat
    validation_loss: FiniteFloat
    validation_cross_entropy: FiniteFloat
    validation_dice: Annotated[float, AfterValidator(_dice)]
    seconds: _NonNegativeFloat


class Checkpoint(TypedDict):
    """What a checkpoint holds."""

    experiment: str
    model: dict[str, _Tensor]
    optimiser: _Optimiser
    scaler: Annotated[_Scaler, AfterValidator(_whole)]
    random: Annotated[list[Annotated[list[_Tensor], MinLen(1)]], MinLen(1)]  # one per process
    history: list[_Row]
    weights: dict[str, _Tensor]  # the best so far
    step: _NonNegativeInt  # steps taken in this epoch
    total: _Scalar  # sum of this epoch's losses
    seconds: _NonNegativeFloat  # that this epoch has taken


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint and keep the previous one beside it.

    One of the two is intact at every moment: the current one is copied first, and then replaced
    atomically.

    Raises
    ------
    DataError
        If the disk is full; the current checkpoint is kept.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).digest()

    def write(name: str) -> None:
        with open(name, "wb") as file:
            file.write(buffer.getbuffer())
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())  # so that a power cut cannot leave a renamed but empty file

    current = folder / CHECKPOINT
    if current.is_file():
        atomic_write(folder / PREVIOUS_CHECKPOINT, lambda name: shutil.copyfile(current, name))
    atomic_write(current, write)


def load_checkpoint(
    folder: Path, device: torch.device, check: Callable[[dict[str, Any]], Content]
) -> Content | None:
    """The newest intact checkpoint; None if there is none. Warns of each damaged one.

    ``check`` takes a checkpoint's content and returns what is to be restored from it; any error
    that it raises means that the checkpoint is damaged.
    """
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        path = folder / name
        if not path.is_file():
            continue
        data = path.read_bytes()
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        try:
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("its digest is wrong")
            return check(torch.load(io.BytesIO(content), map_location=device, weights_only=True))
        except Exception as error:  # a damaged file can raise anything
            why = one_line(error)
        then = "resuming from the previous one" if name == CHECKPOINT else "starting from scratch"
        warnings.warn(f"{path}: damaged checkpoint ({why:.80}); {then}", stacklevel=2)
    return None


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished run."""
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder; the lock of a killed process is released with it.

    Temporary files that a killed process left behind are removed.

    Raises
    ------
    DataError
        If another process is training in the folder.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{folder}: another process is training in this folder", "locked") from None
    try:
        for unfinished in folder.glob(f".*.{8 * '?'}.part"):
            unfinished.unlink()
        yield
    finally:
        lock.release()


class StopRequest:
    """A request to stop, from Ctrl-C, a notebook's stop button or a cluster's SIGTERM.

    The first request only sets ``asked``, so that training can save a checkpoint and end after the
    current step; a second one stops at once. Several processes wait for each other, so none may
    save and end alone: with ``alone`` False, signals keep their usual effect.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.asked = False

    def __enter__(self) -> StopRequest:
        self._previous_handlers: dict[int, Any] = {}
        # Python lets only the main thread set signal handlers
        if self.alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
