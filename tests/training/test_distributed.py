"""Several processes train one model, as a single process would."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pandas as pd
import pytest
import torch
from checkpoint import newest
from safetensors.torch import load_file
from sessions import new_session, new_state

from atlaslib import evaluate, load_run, recipe, train
from atlaslib.training.checkpoints import save_checkpoint
from atlaslib.training.custom import Custom
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingError, TrainingSession

# without dropout, which differs between processes
CHANGES = {"width": 2, "dropout": 0.0, "epochs": 2, "micro_batch": 2}
CHOSEN = recipe("baseline", "smoke", **CHANGES)

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


SCRIPT = """
import sys, torch, atlaslib
from atlaslib.__main__ import main
torch.set_num_threads(1)
folder, out, *command = sys.argv[1:]
chosen = atlaslib.recipe("resnet", "smoke", width=2, epochs=2)
for _ in range(2):  # the second time it is finished, and only read
    cohort = atlaslib.load_cohort(folder)
    atlaslib.train(chosen, cohort, out=out, progress=False, max_minutes=1e-6)  # a single epoch
sys.exit(main(command))
"""


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    """The folder of two runs of one script in two processes, and what was printed.

    For the second run, each process accumulates the gradients of two halves of its share.
    """
    folder = tmp_path_factory.mktemp("trained")
    (folder / "script.py").write_text(SCRIPT)
    command = [*RUN, str(folder / "script.py"), str(cohort.root), str(folder / "resnet")]
    command += ["train", "baseline", "--profile", "smoke", "--data", str(cohort.root)]
    command += ["--out", str(folder / "baseline")]
    for name, value in CHANGES.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_processes_give_the_result_of_one(cohort, trained, tmp_path):
    folder, printed = trained
    pair = load_run(folder / "baseline")
    alone = train(CHOSEN, cohort, tmp_path / "one", progress=False)
    assert pair.recipe == CHOSEN
    assert pair.provenance["processes"] == 2
    columns = ["loss", "validation_loss", "validation_dice"]
    pd.testing.assert_frame_equal(pair.history[columns], alone.history[columns], rtol=1e-2)
    weights = load_file(pair.folder / "weights.safetensors")
    for name, value in load_file(alone.folder / "weights.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3)
    assert printed.count("baseline 2/2: loss") == 1  # only the main process reports


def test_all_processes_validate_the_same_model(cohort, trained):
    """Processes see different slices, so their batch normalisation has different running means; the
    scores are nevertheless those of the weights that are kept."""
    run = load_run(trained[0] / "resnet")
    assert run.provenance["ended"] == "max_minutes"
    validation = cohort.split(seed=run.recipe.split_seed)[1]
    found = evaluate(run, validation, progress=False)
    assert found.loss.mean() == pytest.approx(run.history.validation_loss[0], abs=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused(cohort):
    chosen = dataclasses.replace(CHOSEN, batch_size=5)
    says = "a batch of 5 slices cannot be shared evenly by 2 processes"
    with pytest.raises(TrainingError, match=says):
        TrainingSession(chosen, cohort, Custom(), DistributedContext(1, 2), False)


def test_each_process_gets_its_own_random_numbers_back(cohort, tmp_path):
    session = new_session(recipe("baseline", "smoke", width=2), cohort)
    new_state(tmp_path, session).save()
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
