"""Runs that are killed or interrupted, started twice, or find their checkpoint damaged."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import process
import pytest
import torch
from checkpoint import assert_same, newest
from process import exit_code, running, signalled, wait_until
from safetensors.torch import load_file

from atlaslib import Cohort, DataError, Recipe, load_run, recipe, train
from atlaslib.training import checkpoints, state
from atlaslib.training.checkpoints import (
    CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    StopRequest,
    locked,
    save_checkpoint,
)
from atlaslib.training.step import TrainingError

KILLED = recipe("baseline", "smoke", epochs=3, width=2, dropout=0.3)
RECIPE = recipe("baseline", "smoke", epochs=2, width=2)
# where runs are stopped: before a step is counted, and before a checkpoint replaces its copy
STEP, SYNC = "atlaslib.training.state.TrainingState.record_step", "os.fsync"


def modified_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def train_alone(chosen: Recipe, cohort: Cohort, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing interrupts, with one thread as in the other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(chosen, cohort, out=folder, progress=False)
    finally:
        torch.set_num_threads(threads)
    return load_file(folder / "weights.safetensors")


def kill(chosen: Recipe, cohort: Cohort, folder: Path, kills: int) -> None:
    """Start a run and kill it several times, each at a random moment after some progress."""
    moments = random.Random(kills)
    for _ in range(kills):
        before = modified_at(folder / CHECKPOINT)
        with running(process.train, chosen, cohort, folder) as run:
            wait_until(lambda before=before: modified_at(folder / CHECKPOINT) != before, run)
            time.sleep(moments.uniform(0, 0.15))
            assert run.is_alive(), "the run ended before it could be killed: give it more steps"
        assert not (folder / "provenance.json").exists()


@pytest.fixture(scope="module")
def uninterrupted(cohort, tmp_path_factory):
    """The weights of an uninterrupted run."""
    return train_alone(KILLED, cohort, tmp_path_factory.mktemp("uninterrupted") / "run")


def test_a_killed_run_ends_with_the_same_weights(cohort, uninterrupted, tmp_path):
    """SIGKILL leaves the process no chance to clean up.

    The second one comes when a checkpoint's copy is made, but the new one has not replaced it.
    """
    for moment, call, epochs, step in ((STEP, 5, 0, 4), (SYNC, 6, 0, 9), (STEP, 12, 1, 6)):
        job = (moment, call, process.train, KILLED, cohort, tmp_path / "run")
        assert exit_code(signalled, signal.SIGKILL, *job) == -signal.SIGKILL
        content = newest(tmp_path / "run")
        assert (len(content["history"]), content["step"]) == (epochs, step)
        unfinished = [path for path in (tmp_path / "run").iterdir() if path.suffix == ".part"]
        assert len(unfinished) == (moment == SYNC)
    assert_same(train_alone(KILLED, cohort, tmp_path / "run"), uninterrupted)
    run = load_run(tmp_path / "run")
    assert list(run.history.epoch) == list(range(1, KILLED.epochs + 1))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {CHECKPOINT, PREVIOUS_CHECKPOINT} & left
    assert not [name for name in left if name.endswith(".part")]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_weights(cohort, tmp_path):
    """A minute: so many kills need a long run."""
    chosen = dataclasses.replace(KILLED, epochs=10)
    kill(chosen, cohort, tmp_path / "run", 20)
    whole = train_alone(chosen, cohort, tmp_path / "whole")
    assert_same(train_alone(chosen, cohort, tmp_path / "run"), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_saves_a_checkpoint_first(number, cohort, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    job = (partial(train, progress=False), KILLED, cohort, folder)
    assert exit_code(signalled, number, STEP, 5, *job) == 1  # not killed by the signal
    with pytest.raises(DataError, match="not finished"):
        load_run(folder)
    assert newest(folder)["step"] == 5
    assert_same(train_alone(KILLED, cohort, folder), uninterrupted)


def test_a_run_stopped_in_a_notebook_can_be_resumed(cohort, tmp_path, monkeypatch):
    """A notebook's stop button sends SIGINT to the process that trains."""
    record_step, handler = state.TrainingState.record_step, signal.getsignal(signal.SIGINT)

    def interrupted(self, loss):
        record_step(self, loss)
        if len(self.history) == 1 and self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(state.TrainingState, "record_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, cohort, out=tmp_path / "run", progress=False)
    monkeypatch.setattr(state.TrainingState, "record_step", record_step)
    content = newest(tmp_path / "run")
    assert (len(content["history"]), content["step"]) == (1, 2)
    epochs = []
    train(RECIPE, cohort, out=tmp_path / "run", progress=False,
          callbacks=[lambda row: epochs.append(row["epoch"])])  # fmt: skip
    assert epochs == [2]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- checkpoint files ---------------------------------------------------------------------------


def saved(folder: Path, *values: int) -> Path:
    for value in values:
        save_checkpoint(folder, {"value": value, "tensor": torch.arange(1000)})
    return folder


def value_in(folder: Path) -> int | None:
    content = newest(folder)
    return content and content["value"]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:500] + b"x" + b[501:], lambda b: b""]
)
def test_a_damaged_checkpoint_falls_back_to_the_previous_one_with_a_warning(damage, tmp_path):
    path = saved(tmp_path, 1, 2) / CHECKPOINT
    assert value_in(tmp_path) == 2
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint.pt: damaged .* resuming from the previous"):
        assert value_in(tmp_path) == 1
    (tmp_path / PREVIOUS_CHECKPOINT).write_bytes(b"damaged, too")
    with pytest.warns(UserWarning, match="starting from scratch"):
        assert value_in(tmp_path) is None


class Marks:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_is_not_unpickled(tmp_path):
    saved(tmp_path, 1)
    save_checkpoint(tmp_path, {"value": Marks(tmp_path / "ran")})
    with pytest.warns(UserWarning, match="resuming from the previous one"):
        assert value_in(tmp_path) == 1
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(DataError, match=r"checkpoint.pt: not written, the disk is full"):
        saved(tmp_path, 2)
    assert value_in(tmp_path) == 1
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_second_process_is_refused(cohort, tmp_path):
    folder = tmp_path / "run"
    job = (process.train, KILLED, cohort, folder)
    with running(signalled, signal.SIGSTOP, STEP, 2, *job) as first:
        wait_until((folder / CHECKPOINT).is_file, first)
        with pytest.raises(DataError, match="another process is training"), locked(folder):
            pass
    with locked(folder):  # the lock was released when its process died
        pass


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_checkpoint(
    cohort, tmp_path, monkeypatch
):
    monkeypatch.setattr(state, "CHECKPOINT_SECONDS", 0)
    record_step = state.TrainingState.record_step

    def record_nan(self, loss):
        record_step(self, loss * np.nan if (len(self.history), self.step) == (1, 2) else loss)

    monkeypatch.setattr(state.TrainingState, "record_step", record_nan)
    with pytest.raises(TrainingError, match="step 3 of epoch 2 is not finite"):
        train(RECIPE, cohort, out=tmp_path / "run", progress=False)
    content = newest(tmp_path / "run")
    assert (len(content["history"]), content["step"]) == (1, 2)
    assert all(torch.isfinite(value).all() for value in content["model"].values())
