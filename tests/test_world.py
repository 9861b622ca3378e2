"""Several processes train as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import atlaslib
from atlaslib import recipe, train
from atlaslib.world import World

# no dropout, for each process drops out other activations
CHANGES = {"width": 2, "dropout": 0.0, "epochs": 2}


def torchrun(cohort: atlaslib.Cohort, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "atlaslib", "train", "baseline", "--profile", "smoke"]
    command += ["--data", str(cohort.root), "--out", str(folder), *more]
    for name, value in CHANGES.items():
        command += ["--set", f"{name}={value}"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("more", [[], ["--set", "micro_batch=2"]])
def test_two_processes_end_where_one_does(more, cohort, tmp_path):
    done = torchrun(cohort, tmp_path / "two", *more)
    assert done.returncode == 0, done.stderr
    alone = train(
        recipe("baseline", "smoke", **CHANGES), cohort, out=tmp_path / "one", progress=False
    )
    pair = atlaslib.load_run(tmp_path / "two")
    assert pair.provenance["processes"] == 2
    columns = ["loss", "validation_loss", "validation_dice"]
    pd.testing.assert_frame_equal(pair.history[columns], alone.history[columns], rtol=1e-2)
    weights = load_file(pair.folder / "weights.safetensors")
    for name, value in load_file(alone.folder / "weights.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3)
    assert done.stdout.count("baseline 2/2: loss") == 1  # one process speaks


def test_a_batch_that_cannot_be_shared_is_refused(cohort, tmp_path):
    done = torchrun(cohort, tmp_path / "two", "--set", "batch_size=5")
    assert done.returncode != 0
    assert "a batch of 5 slices cannot be shared evenly by 2 processes" in done.stderr


def test_alone_is_a_world_of_one():
    world = World()
    assert world.first
    assert world.gathered([1, 2]) == [1, 2]
    assert world.mean(torch.tensor(3.0)) == 3.0
    world.wait()
