"""Several processes train one model, as a single process would."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkpoint import newest
from safetensors.torch import load_file

from atlaslib import Cohort, Recipe, Run, load_run, recipe, train
from atlaslib.training.checkpoints import save_checkpoint
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingError, TrainingSession

# without dropout, which differs between processes
CHANGES = {"width": 2, "dropout": 0.0, "epochs": 2}
CHOSEN = recipe("baseline", "smoke", **CHANGES)

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def compare(pair: Run, chosen: Recipe, cohort: Cohort, folder: Path) -> None:
    """The run of two processes has the result of one process."""
    alone = train(chosen, cohort, out=folder, progress=False)
    assert pair.recipe == chosen
    assert pair.provenance["processes"] == 2
    columns = ["loss", "validation_loss", "validation_dice"]
    pd.testing.assert_frame_equal(pair.history[columns], alone.history[columns], rtol=1e-2)
    weights = load_file(pair.folder / "weights.safetensors")
    for name, value in load_file(alone.folder / "weights.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3)


def test_two_processes_give_the_result_of_one(cohort, tmp_path):
    """Each accumulates the gradients of two halves of its share."""
    chosen = dataclasses.replace(CHOSEN, micro_batch=2)
    command = [*RUN, "-m", "atlaslib", "train", "baseline", "--profile", "smoke"]
    command += ["--data", str(cohort.root), "--out", str(tmp_path / "two")]
    for name in (*CHANGES, "micro_batch"):
        command += ["--set", f"{name}={getattr(chosen, name)}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compare(load_run(tmp_path / "two"), chosen, cohort, tmp_path / "one")
    assert done.stdout.count("baseline 2/2: loss") == 1  # only the main process reports


def test_a_batch_that_cannot_be_shared_is_refused(cohort):
    chosen = dataclasses.replace(CHOSEN, batch_size=5)
    says = "a batch of 5 slices cannot be shared evenly by 2 processes"
    with pytest.raises(TrainingError, match=says):
        TrainingSession(chosen, cohort, None, DistributedContext(1, 2), False)


TWICE = f"""
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
atlaslib.train(atlaslib.recipe("baseline", "smoke", **{CHANGES}), cohort,
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
    compare(load_run(tmp_path / "b"), CHOSEN, cohort, tmp_path / "one")


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
