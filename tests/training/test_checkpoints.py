"""Runs that are killed or interrupted, started twice, or find their checkpoint damaged."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint import newest
from safetensors.torch import load_file

import atlaslib
from atlaslib import DataError, load_run, recipe, train
from atlaslib.runs import COLUMNS
from atlaslib.training import checkpoints, state
from atlaslib.training.checkpoints import (
    CURRENT,
    PREVIOUS,
    locked,
    save_checkpoint,
)
from atlaslib.training.step import TrainingError

EPOCHS = 8
# one thread: a second does not speed up so small a network, and test processes share the cores
TRAIN = f"""
import sys, torch, atlaslib
from atlaslib.training import state
torch.set_num_threads(1)
state.CHECKPOINT_SECONDS = 0  # after each step
chosen = atlaslib.recipe("baseline", "smoke", epochs={EPOCHS}, width=2, dropout=0.3)
atlaslib.train(chosen, atlaslib.load_cohort(sys.argv[1]), out=sys.argv[2], progress=False)
"""
RECIPE = recipe("baseline", "smoke", epochs=2, width=2)


def start(cohort: atlaslib.Cohort, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(cohort.root), str(folder)])


def modified_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def kill_and_resume(cohort: atlaslib.Cohort, folder: Path, kills: int) -> dict[str, torch.Tensor]:
    """Kill the run several times, each at a random moment after some progress; then let it end."""
    moments = random.Random(kills)
    for _ in range(kills):
        before = modified_at(folder / CURRENT)
        process = start(cohort, folder)
        while modified_at(folder / CURRENT) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.15))
        assert process.poll() is None, "the run ended before it could be killed: give it more steps"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "provenance.json").exists()
    assert start(cohort, folder).wait() == 0
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(cohort, tmp_path_factory):
    """The weights of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert start(cohort, folder).wait() == 0
    return load_file(folder / "weights.safetensors")


def assert_same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


def test_a_killed_run_ends_with_the_same_weights(cohort, uninterrupted, tmp_path):
    """SIGKILL leaves the process no chance to clean up."""
    assert_same(kill_and_resume(cohort, tmp_path / "run", 3), uninterrupted)
    run = load_run(tmp_path / "run")
    assert list(run.history.epoch) == list(range(1, EPOCHS + 1))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {CURRENT, PREVIOUS} & left
    assert not [name for name in left if name.endswith(".part")]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_weights(cohort, uninterrupted, tmp_path):
    """Two minutes: each time a new process has to import torch."""
    assert_same(kill_and_resume(cohort, tmp_path / "run", 20), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_saves_a_checkpoint_first(number, cohort, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(cohort, folder)
    while not (folder / CURRENT).is_file():
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait() != 0
    with pytest.raises(DataError, match="not finished"):
        load_run(folder)
    assert newest(folder)["step"] > 0
    assert start(cohort, folder).wait() == 0
    assert_same(load_file(folder / "weights.safetensors"), uninterrupted)


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
    run = train(RECIPE, cohort, out=tmp_path / "run", progress=False)
    assert len(run.history) == 2
    assert signal.getsignal(signal.SIGINT) is handler


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
    path = saved(tmp_path, 1, 2) / CURRENT
    assert value_in(tmp_path) == 2
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint.pt: damaged .* resuming from the previous"):
        assert value_in(tmp_path) == 1
    (tmp_path / PREVIOUS).write_bytes(b"damaged, too")
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


def nan_weights(content):
    content["model"]["conv1.weight"].fill_(torch.nan)


def other_network(content):
    content["model"] = {"other": torch.zeros(3)}


CHANGES = {
    "another run": lambda c: c.update(experiment="0123456789ab"),
    "nan": nan_weights,
    "another network": other_network,
    "nothing": lambda c: c.clear(),
    "long history": lambda c: c.update(history=[dict.fromkeys(COLUMNS, 1.0)] * 4),
    "half a step": lambda c: c.update(step=0.5),
    "no optimiser": lambda c: c.update(optimiser={}),
    "words": lambda c: c.update(total="much"),
}  # fmt: skip


SHORT = dataclasses.replace(RECIPE, epochs=1)


@pytest.fixture(scope="module")
def stopped(cohort, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run that ended at its fourth step, and the weights it would have had."""

    class EnoughError(Exception):
        pass

    record_step = state.TrainingState.record_step

    def stop(self, loss):
        if self.step == 3:
            raise EnoughError
        record_step(self, loss)

    folder = tmp_path_factory.mktemp("stopped")
    whole = train(SHORT, cohort, out=folder / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "CHECKPOINT_SECONDS", 0)
        patch.setattr(state.TrainingState, "record_step", stop)
        with pytest.raises(EnoughError):
            train(SHORT, cohort, out=folder / "run", progress=False)
    return folder / "run", whole.model().state_dict()


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_with_a_right_digest_and_another_content_is_damaged(
    change, cohort, stopped, tmp_path
):
    """Of two, the current one is changed; the one before brings the run to the same end."""
    folder = shutil.copytree(stopped[0], tmp_path / "run")
    content, previous = newest(folder), (folder / PREVIOUS).read_bytes()
    CHANGES[change](content)
    save_checkpoint(folder, content)
    (folder / PREVIOUS).write_bytes(previous)
    with pytest.warns(UserWarning, match="damaged checkpoint .* resuming from the previous"):
        run = train(SHORT, cohort, out=folder, progress=False)
    assert_same(run.model().state_dict(), stopped[1])


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
    process = start(cohort, folder)
    while not (folder / CURRENT).is_file():
        time.sleep(0.002)
    with pytest.raises(DataError, match="another process is training"), locked(folder):
        pass
    process.kill()
    process.wait()
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
