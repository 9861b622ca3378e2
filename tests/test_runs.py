"""Runs: a folder made by hand is read, damaged ones are refused, and keys tell runs apart."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from folders import contents
from safetensors.torch import save_file
from torch import nn

from atlaslib import Cohort, DataError, load_run, recipe, runs
from atlaslib.files import write_json
from atlaslib.models import build_model
from atlaslib.networks import signature
from atlaslib.runs import create_run_folder, experiment_key, run_folder

RECIPE = recipe("zero", "smoke", seed=3)
HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "loss": [0.5, 0.25], "validation_loss": [0.6, 0.4],
     "validation_cross_entropy": [0.3, 0.2], "validation_dice": [0.0, 0.125],
     "seconds": [1.5, 1.25]}
)  # fmt: skip
PROVENANCE = {
    "source": "by hand", "cohort": "ba9876543210", "engine": runs.ENGINE, "profile": "smoke",
    "custom": "", "parameters": 1, "device": "CPU", "processes": 1, "threads": 2,
    "peak_memory_mb": 10.5, "seconds": 2.75, "packages": {"torch": "2"},
    "signature": [0.0, 1.0],
    "split": {"train": ["031840", "031843"], "validation": ["031841"], "test": ["031842"]},
}  # fmt: skip


def write_run(folder: Path, model: nn.Module, custom: str = "", **provenance: object) -> Path:
    """A finished run, as training writes it."""
    found = signature(copy.deepcopy(model), RECIPE)
    about = PROVENANCE | {"custom": custom, "signature": found} | provenance
    create_run_folder(folder, RECIPE, runs._key(RECIPE, "ba9876543210", runs.ENGINE, custom))
    save_file(model.state_dict(), folder / "weights.safetensors")
    HISTORY.to_csv(folder / "history.csv", index=False)
    write_json(folder / "provenance.json", about)
    runs.seal(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of the constant predictor."""
    model = build_model("zero")
    nn.init.constant_(model.final_bias, -3)
    return write_run(tmp_path / "run", model)


def test_a_finished_folder_is_read(folder):
    run = load_run(str(folder))
    assert (run.folder, run.recipe) == (folder, RECIPE)
    pd.testing.assert_frame_equal(run.history, HISTORY)
    assert run.provenance == PROVENANCE | {"signature": [-3.0, 0.0]}
    model = run.model()
    assert not model.training
    logits = model(torch.rand(2, 1, 8, 8))
    assert torch.equal(logits, torch.full((2, 1, 8, 8), -3.0))


def test_the_seal_is_what_sha256sum_writes(folder):
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder).returncode == 0
    (folder / "history.csv").write_text("")
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode == 1


def test_a_missing_or_unfinished_folder_is_refused(folder):
    with pytest.raises(DataError, match="not a run") as error:
        load_run(folder / "nowhere")
    assert str(folder / "nowhere") in str(error.value)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="not finished"):
        load_run(folder)


def flip(content: bytes) -> bytes:
    """One bit in the middle."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


EDITS = {
    "cut": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "flipped": flip,
    "lengthened": lambda content: content + b"\n",
    "replaced": lambda content: b"\x80\x04N.",  # a pickle
    "not text": lambda content: b"\xff\xfe" * 40,
    "deep": lambda content: b"[" * 100_000,
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", [*runs._SEALED, "SHA256SUMS"])
def test_whatever_was_edited_since_is_one_line(folder, name, edit):
    path = folder / name
    path.write_bytes(EDITS[edit](path.read_bytes()))
    with pytest.raises(DataError) as error:
        load_run(folder).model()
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*runs._SEALED])
def test_a_file_that_is_gone_is_one_line(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match="no such file|not a run"):
        load_run(folder)


def edited(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    """Change JSON as an editor would, and then the seal as a forger would."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    runs.seal(folder)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("recipe.json", lambda c: c.update(seed=4), "not those of its experiment"),
        ("recipe.json", lambda c: c.update(epochs=-1), "epochs: expected a whole number"),
        ("recipe.json", lambda c: c.update(colour=1), "unexpected keyword argument 'colour'"),
        ("recipe.json", lambda c: c.pop("model"), "missing 1 required"),
        ("provenance.json", lambda c: c.update(cohort="000000000000"), "not those of its exp"),
        ("provenance.json", lambda c: c.update(engine=99), "not those of its experiment"),
        ("provenance.json", lambda c: c.pop("split"), "split: Field required"),
        ("provenance.json", lambda c: c["split"].pop("train"), "split.train: Field required"),
        ("provenance.json", lambda c: c["split"].update(train="031840"), "split.train: Input"),
        ("provenance.json", lambda c: c.update(packages=[1]), "packages: Input should be"),
        ("provenance.json", lambda c: c.update(custom="model"), "not those of its experiment"),
    ],
)
def test_a_forged_run_that_contradicts_itself_is_refused(folder, name, change, says):
    edited(folder, name, change)
    with pytest.raises(DataError, match=says):
        load_run(folder)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"other": torch.zeros(1)}, "2 names differ, 'final_bias'"),
        ({"final_bias": torch.zeros(2)}, r"expected \(\(1,\), torch.float32\), found \(\(2,\)"),
        ({"final_bias": torch.zeros(1, dtype=torch.float64)}, "torch.float64"),
        ({"final_bias": torch.tensor([torch.nan])}, "NaN or infinite"),
        ({"final_bias": torch.tensor([torch.inf])}, "NaN or infinite"),
    ],
)
def test_weights_of_another_network_are_refused(folder, weights, says):
    save_file(weights, folder / "weights.safetensors")
    runs.seal(folder)
    with pytest.raises(DataError, match=says):
        load_run(folder).model()


def test_a_run_of_your_own_module_needs_that_module_and_leaves_it_as_it_is(tmp_path):
    mine, trained = (nn.Conv2d(1, 1, 3, padding=1) for _ in "ab")
    before = copy.deepcopy(mine.state_dict())
    folder = write_run(tmp_path / "run", trained, custom="model")
    for given in (mine, lambda: nn.Conv2d(1, 1, 3, padding=1)):
        read = load_run(folder, given).model().state_dict()
        assert all(torch.equal(read[name], value) for name, value in trained.state_dict().items())
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(DataError, match="trained a network of your own"):
        load_run(folder)


def test_your_own_module_may_be_made_on_another_device(tmp_path):
    class Elsewhere(nn.Conv2d):
        """As on a GPU: without values on the CPU before it is moved there."""

        def cpu(self):
            return self.to_empty(device="cpu")

    trained = nn.Conv2d(1, 1, 3, padding=1)
    folder = write_run(tmp_path / "run", trained, custom="model")
    run = load_run(folder, lambda: Elsewhere(1, 1, 3, padding=1, device="meta"))
    assert torch.equal(run.model().weight, trained.weight)


def test_the_weights_are_hashed_once_when_a_run_is_read(folder, monkeypatch):
    read, seen = runs.read_bytes, []
    monkeypatch.setattr(runs, "read_bytes", lambda path: seen.append(path.name) or read(path))
    run = load_run(folder)
    assert seen.count("weights.safetensors") == 1
    assert run.digest == hashlib.sha256(read(folder / "weights.safetensors")).hexdigest()


def test_scans_without_masks_are_not_said_to_be_trained_on(folder, cohort):
    bare = tuple(dataclasses.replace(scan, masks=()) for scan in cohort)
    with pytest.raises(DataError, match="no lesion masks"):
        load_run(folder).unseen(Cohort(cohort.root, bare))


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
        experiment_key(RECIPE, cohort, "model"),
    }
    monkeypatch.setattr(runs, "ENGINE", runs.ENGINE + 1)
    assert len(keys | {experiment_key(RECIPE, cohort)}) == 5


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


@pytest.mark.parametrize("name", ["checkpoint.pt", "weights.safetensors", "SHA256SUMS"])
def test_a_folder_in_the_place_of_a_file_is_known_before_training(name, tmp_path):
    create_run_folder(tmp_path / "run", RECIPE, "0123456789ab")
    (tmp_path / "run" / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: is a folder"):
        create_run_folder(tmp_path / "run", RECIPE, "0123456789ab")


def test_an_unfinished_run_with_an_edited_recipe_is_not_taken_up(tmp_path):
    create_run_folder(tmp_path / "run", RECIPE, "0123456789ab")
    write_json(tmp_path / "run" / "recipe.json", dataclasses.asdict(recipe("zero", "smoke")))
    with pytest.raises(DataError, match=r"recipe\.json: it is not the recipe of this run"):
        create_run_folder(tmp_path / "run", RECIPE, "0123456789ab")


def test_a_run_is_taken_up_whatever_its_profile_is_called(tmp_path):
    create_run_folder(tmp_path / "run", RECIPE, "0123456789ab")
    create_run_folder(tmp_path / "run", dataclasses.replace(RECIPE, profile="mine"), "0123456789ab")


def test_an_unfinished_run_without_its_key_tells_how_to_resume_it(tmp_path):
    folder = tmp_path / "run"
    create_run_folder(folder, RECIPE, "0123456789ab")
    (folder / "checkpoint.pt").write_bytes(b"work")
    key, before = folder / "experiment.txt", contents(folder)
    key.unlink()
    with pytest.raises(DataError, match=r"experiment\.txt: is missing; .*write 0123456789ab into"):
        create_run_folder(folder, RECIPE, "0123456789ab")
    key.write_text("0123456789ab\n")
    create_run_folder(folder, RECIPE, "0123456789ab")
    assert contents(folder) == before


def test_provenance_has_the_package_versions():
    found = runs.package_versions()
    assert found["numpy"] == np.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"3\.\d+\.\d+.*", found["python"])
