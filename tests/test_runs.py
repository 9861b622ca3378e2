"""Runs: a folder made by hand is read, what is damaged is refused, and keys tell runs apart."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import atlaslib
from atlaslib import Cohort, DataError, load_run, recipe, runs
from atlaslib.models import build_model
from atlaslib.runs import experiment_key, run_folder, start, write_json

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
    start(made, RECIPE, "0123456789ab")
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


def test_damaged_weights_are_refused_when_the_model_is_wanted(folder):
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    run = load_run(folder)
    for spoil in (
        lambda: weights.write_bytes(whole[:-1]),
        lambda: save_file({"other": torch.zeros(1)}, weights),
        weights.unlink,
    ):
        spoil()
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


def test_unseen_leaves_out_what_trained_or_chose_the_weights(folder, cohort):
    run = load_run(folder)
    left = run.unseen(cohort)
    assert left.root == cohort.root
    assert left.subjects == ("031842", "031844", "031845", "031846")  # of no split: unseen too
    known = [scan for scan in cohort if scan.subject in ("031840", "031841")]
    assert len(known) == 3  # one of them came twice
    with pytest.raises(DataError, match="trained on all of its subjects"):
        run.unseen(Cohort(cohort.root, tuple(known)))


def test_the_key_follows_recipe_data_code_and_module(cohort, monkeypatch):
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
    monkeypatch.setattr(runs, "code_fingerprint", lambda: "of a corrected model")
    assert len(keys | {experiment_key(RECIPE, cohort)}) == 6


def test_runs_are_kept_at_home_under_their_key(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    folder = run_folder(RECIPE, cohort)
    assert folder == tmp_path / "runs" / f"zero-smoke-{experiment_key(RECIPE, cohort)}"
    assert not folder.exists()
    assert run_folder(dataclasses.replace(RECIPE, seed=4), cohort) != folder


@pytest.mark.parametrize("name", ["training.py", "slices.py", "models/resnet.py"])
def test_the_code_counts_and_its_comments_do_not(name, tmp_path, monkeypatch):
    package = tmp_path / "atlaslib"
    shutil.copytree(Path(runs.__file__).parent, package)
    monkeypatch.setattr(atlaslib.cohort, "__file__", str(package / "cohort.py"))

    def fingerprint():  # past what is remembered of the real package
        return atlaslib.cohort.source_fingerprint.__wrapped__(*runs._CODE)

    before = fingerprint()
    text = (package / name).read_text()
    (package / name).write_text(f"# a remark\n\n{text}\n# another\n")
    assert fingerprint() == before
    (package / name).write_text(f"{text}\nLEAST = 1\n")
    assert fingerprint() != before
    (package / name).write_text(text)
    (package / "viewer.py").write_text("")  # has no say in any weight
    assert fingerprint() == before


def test_a_start_is_taken_up_by_the_same_experiment_only(tmp_path):
    folder = tmp_path / "deep" / "run"
    start(folder, RECIPE, "0123456789ab")
    made = contents(folder)
    assert json.loads(made["recipe.json"]) == dataclasses.asdict(RECIPE)
    start(folder, RECIPE, "0123456789ab")
    with pytest.raises(DataError, match="another recipe, cohort or version") as error:
        start(folder, recipe("baseline"), "ba9876543210")
    assert str(folder) in str(error.value)
    assert contents(folder) == made


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds no run") as error:
        start(tmp_path, RECIPE, "0123456789ab")
    assert str(tmp_path) in str(error.value)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "provenance.json"
    content = {"site": "Zürich", "split": {"train": ["031840"]}, "seconds": 1.5, "none": None}
    write_json(path, content)
    assert json.loads(path.read_text()) == content
    with pytest.raises(TypeError):
        write_json(path, {"whole": 1, "array": np.zeros(2)})
    assert json.loads(path.read_text()) == content
    write_json(path, {"again": 1})
    assert contents(tmp_path) == {"provenance.json": b'{\n  "again": 1\n}\n'}


def test_provenance_names_what_computes():
    found = runs.packages()
    assert found["numpy"] == np.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"3\.\d+\.\d+.*", found["python"])
