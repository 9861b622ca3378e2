"""Several processes train one model, as a single process would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkpoint import newest
from safetensors.torch import load_file

import atlaslib
from atlaslib import recipe, train
from atlaslib.training.checkpoints import save_checkpoint
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingSession

# without dropout, which differs between processes
CHANGES = {"width": 2, "dropout": 0.0, "epochs": 2}


RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def torchrun(cohort: atlaslib.Cohort, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*RUN, "-m", "atlaslib", "train", "baseline", "--profile", "smoke"]
    command += ["--data", str(cohort.root), "--out", str(folder), *more]
    for name, value in CHANGES.items():
        command += ["--set", f"{name}={value}"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("more", [[], ["--set", "micro_batch=2"]])
def test_two_processes_give_the_result_of_one(more, cohort, tmp_path):
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
    assert done.stdout.count("baseline 2/2: loss") == 1  # only the main process reports


def test_a_batch_that_cannot_be_shared_is_refused(cohort, tmp_path):
    done = torchrun(cohort, tmp_path / "two", "--set", "batch_size=5")
    assert done.returncode != 0
    assert "a batch of 5 slices cannot be shared evenly by 2 processes" in done.stderr


TWICE = """
import sys, time, torch, atlaslib
torch.set_num_threads(1)
cohort = atlaslib.load_cohort(sys.argv[1])
chosen = atlaslib.recipe("resnet", "smoke", width=2, epochs=1)
run = atlaslib.train(chosen, cohort, out=sys.argv[2] + "/a", progress=False)
validation = cohort.split(seed=chosen.split_seed)[1]
found = atlaslib.evaluate(run, validation, progress=False)
row = run.history.iloc[0]
assert abs(found.loss.mean() - row.validation_loss) < 1e-6, (found.loss.mean(), row.validation_loss)
atlaslib.train(chosen, cohort, out=sys.argv[2] + "/a", progress=False)  # finished: only read
atlaslib.train(atlaslib.recipe("baseline", "smoke", width=2, epochs=1), cohort,
               out=sys.argv[2] + "/b", progress=False)
"""


def test_a_script_may_train_twice_and_all_processes_validate_the_same_model(cohort, tmp_path):
    """Processes see different slices, so their batch normalisation has different running means; the
    scores are nevertheless those of the weights that are kept."""
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    command = [*RUN, str(script), str(cohort.root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert atlaslib.load_run(tmp_path / "b").provenance["processes"] == 2


def test_each_process_gets_its_own_random_numbers_back(cohort, tmp_path):
    session = TrainingSession(
        recipe("baseline", "smoke", width=2), cohort, None, DistributedContext(), False
    )
    state = TrainingState(tmp_path, session, DistributedContext())
    state.save()
    content = newest(tmp_path)
    mine = torch.Generator().manual_seed(5).get_state()
    content["random"] = [content["random"][0], [mine]]  # as two processes save it
    save_checkpoint(tmp_path, content)
    TrainingState(tmp_path, session, DistributedContext(rank=1, size=2)).resume()
    assert torch.equal(torch.get_rng_state(), mine)
    torch.manual_seed(7)
    # another number of processes than before
    TrainingState(tmp_path, session, DistributedContext(rank=2, size=3)).resume()
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(7).get_state())


def test_a_single_process_is_the_main_process():
    context = DistributedContext()
    assert context.is_main
    assert context.gather([1, 2]) == [1, 2]
    assert context.mean(torch.tensor(3.0)) == 3.0
    context.barrier()
