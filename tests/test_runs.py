"""Runs: a folder made by hand is read, damaged ones are refused, and keys tell runs apart."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atlaslib import Cohort, DataError, load_run, recipe, runs
from atlaslib.files import write_json
from atlaslib.models import build_model
from atlaslib.runs import create_run_folder, experiment_key, run_folder

RECIPE = recipe("zero", "smoke", seed=3)
HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "loss": [0.5, 0.25], "validation_loss": [0.6, 0.4],
     "validation_dice": [0.0, 0.125], "seconds": [1.5, 1.25]}
)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of the constant predictor."""
    made = tmp_path / "run"
    create_run_folder(made, RECIPE, "0123456789ab")
    model = build_model("zero")
    nn.init.constant_(model.final_bias, -3)
    save_file(model.state_dict(), made / "weights.safetensors")
    HISTORY.to_csv(made / "history.csv", index=False)
    split = {"train": ["031840", "031843"], "validation": ["031841"], "test": ["031842"]}
    write_json(made / "provenance.json", {"source": "by hand", "split": split})
    return made


def test_a_finished_folder_is_read(folder):
    run = load_run(str(folder))
    assert (run.folder, run.recipe) == (folder, RECIPE)
    pd.testing.assert_frame_equal(run.history, HISTORY)
    assert run.provenance["source"] == "by hand"
    model = run.model()
    assert not model.training
    logits = model(torch.rand(2, 1, 8, 8))
    assert torch.equal(logits, torch.full((2, 1, 8, 8), -3.0))


def test_a_missing_or_unfinished_folder_is_refused(folder):
    with pytest.raises(DataError, match="not a run") as error:
        load_run(folder / "nowhere")
    assert str(folder / "nowhere") in str(error.value)
    (folder / "provenance.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        load_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", "{"),
        ("recipe.json", '{"model": "zero", "colour": 1}'),
        ("recipe.json", "[1]"),
        ("provenance.json", ""),
        ("history.csv", ""),
        ("history.csv", None),
    ],
)
def test_a_damaged_folder_is_refused(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match="damaged run") as error:
        load_run(folder)
    assert str(folder) in str(error.value)


def test_damaged_weights_are_refused_when_the_model_is_loaded(folder):
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    run = load_run(folder)
    for damage in (
        lambda: weights.write_bytes(whole[:-1]),
        lambda: save_file({"other": torch.zeros(1)}, weights),
        weights.unlink,
    ):
        damage()
        with pytest.raises(DataError, match=r"weights\.safetensors"):
            run.model()


def test_a_run_of_your_own_module_needs_that_module(folder):
    mine = nn.Conv2d(1, 1, 3, padding=1)
    expected = {name: torch.randn_like(value) for name, value in mine.state_dict().items()}
    save_file(expected, folder / "weights.safetensors")
    read = load_run(folder, mine).model().state_dict()
    assert all(torch.equal(read[name], value) for name, value in expected.items())
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        load_run(folder).model()


def test_unseen_leaves_out_training_and_validation_subjects(folder, cohort):
    run = load_run(folder)
    left = run.unseen(cohort)
    assert left.root == cohort.root
    assert left.subjects == ("031842", "031844", "031845", "031846")  # not split: unseen
    known = [scan for scan in cohort if scan.subject in ("031840", "031841")]
    assert len(known) == 3  # one of them has two sessions
    with pytest.raises(DataError, match="trained on all of its subjects"):
        run.unseen(Cohort(cohort.root, tuple(known)))


def test_the_key_depends_on_recipe_data_engine_and_module(cohort, monkeypatch):
    key = experiment_key(RECIPE, cohort)
    assert re.fullmatch(r"[0-9a-f]{12}", key)
    assert experiment_key(dataclasses.replace(RECIPE, profile="mine"), cohort) == key
    keys = {
        key,
        experiment_key(dataclasses.replace(RECIPE, seed=4), cohort),
        experiment_key(RECIPE, Cohort(cohort.root, cohort.scans[:-1])),
        experiment_key(RECIPE, cohort, nn.Conv2d(1, 1, 3)),
        experiment_key(RECIPE, cohort, nn.Conv2d(1, 1, 5)),
    }
    monkeypatch.setattr(runs, "ENGINE", runs.ENGINE + 1)
    assert len(keys | {experiment_key(RECIPE, cohort)}) == 6


def test_the_default_folder_is_named_by_the_key(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    folder = run_folder(RECIPE, cohort)
    assert folder == tmp_path / "runs" / f"zero-smoke-{experiment_key(RECIPE, cohort)}"
    assert not folder.exists()
    assert run_folder(dataclasses.replace(RECIPE, seed=4), cohort) != folder


def test_only_the_same_experiment_can_reuse_a_folder(tmp_path):
    folder = tmp_path / "deep" / "run"
    create_run_folder(folder, RECIPE, "0123456789ab")
    made = contents(folder)
    assert json.loads(made["recipe.json"]) == dataclasses.asdict(RECIPE)
    create_run_folder(folder, RECIPE, "0123456789ab")
    with pytest.raises(DataError, match="another recipe, cohort or engine") as error:
        create_run_folder(folder, recipe("baseline"), "ba9876543210")
    assert str(folder) in str(error.value)
    assert contents(folder) == made


def test_a_folder_with_other_files_is_refused_and_left_unchanged(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="contains no run") as error:
        create_run_folder(tmp_path, RECIPE, "0123456789ab")
    assert str(tmp_path) in str(error.value)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_provenance_has_the_package_versions():
    found = runs.package_versions()
    assert found["numpy"] == np.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"3\.\d+\.\d+.*", found["python"])
