"""What the scripts in ``benchmarks`` write and print."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chromium import chromium
from scripts import script
from volumes import save

import atlaslib
from atlaslib.data.cohort import EXACT
from atlaslib.data.volumes import ORIGIN, read_scan
from atlaslib.evaluation.predictor import Predictor
from atlaslib.evaluation.pretrained import model_card
from atlaslib.models import build_model
from atlaslib.networks import forward_gflop
from atlaslib.training import loop


def test_heads_are_scored_and_drawn(
    cohort: atlaslib.Cohort,
    heads_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    heads = script("heads")
    run = atlaslib.train(atlaslib.recipe("zero", "smoke"), cohort, tmp_path / "run", progress=False)
    call = [str(heads_folder), "--run", str(run.folder)]
    table, picture = tmp_path / "heads.csv", tmp_path / "anna.png"
    assert heads.main([*call, "--out", str(table), "--picture", "anna", str(picture)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["network", "head"], ["run", "anna"], ["run", "Site2"]]  # fmt: skip
    written = pd.read_csv(table)
    assert set(written.weights) == {run.digest}
    assert len(written) == 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert heads.main([*call, "--picture", "bert", str(picture)]) == 1
    assert "no head 'bert'; found Site2, anna" in capsys.readouterr().err
    assert heads.main([str(heads_folder), "--pretrained", "vgg"]) == 1
    assert "no pretrained network 'vgg'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        heads.main([str(heads_folder)])


def test_the_best_affine_map_of_a_bent_head_is_found() -> None:
    """Voxels shown are the template's, moved and a little bent: the field is from there to here."""
    registration = script("registration")
    nodes = np.moveaxis(np.indices((50, 59, 48)) * registration.anatomy.STEP, 0, -1)
    scale, shift = np.array([1.1, 0.9, 1.0]), np.array([-9.0, 12.0, 4.0])
    bend = np.sin(nodes / 15)  # of mean about 0
    shown = (nodes + bend - shift) / scale
    found, left = registration.best_affine(np.moveaxis(shown - nodes, -1, 0).astype(np.float32))
    origin = np.array(ORIGIN)
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = np.diag(scale), origin - scale * origin + shift
    assert registration.distance(found, expected) < 0.3
    assert left == pytest.approx(np.linalg.norm(bend, axis=-1).mean(), rel=0.3)
    assert registration.distance(expected, expected) == 0
    moved = expected.copy()
    moved[0, 3] += 5
    assert registration.distance(moved, expected) == pytest.approx(5)


@pytest.mark.slow  # two people are made, and eighteen images registered: five minutes
def test_registrations_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ants", reason="registration needs the extra [native]")
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    registration = script("registration")
    # one worker: another process could not import the script by its name here
    call = ["--people", "2", "--workers", "1", "--out", str(tmp_path / "table.csv")]
    assert registration.main(call) == 0
    table = pd.read_csv(tmp_path / "table.csv").set_index(["of", "variant"])
    assert table.loc["no head"].refused.all()
    found, far = (table.loc["synthetic person", name] for name in ("found", "turned 40 degrees"))
    assert (found.error_mm < 5).all()
    assert far.refused.all()
    printed = capsys.readouterr().out
    before = (tmp_path / "table.csv").read_bytes()
    monkeypatch.setattr(registration, "measure", None)  # nothing is missing
    assert registration.main(call) == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "table.csv").read_bytes() == before


def test_networks_are_timed_in_the_browser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with chromium():
        pass  # or the test is skipped
    browser = script("browser")
    monkeypatch.setattr(browser, "pretrained_names", lambda: ["baseline"])
    browser.main(["--rounds", "1"])
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "baseline"
    assert float(row[-1]) < 1e-3


def test_the_shipped_network_is_cheap() -> None:
    chosen = script("weights").recipe("full")
    assert chosen.model == "residual_unet"
    assert forward_gflop(chosen) <= 0.25


def test_one_command_makes_the_weights(
    cohort: atlaslib.Cohort, heads_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cohorts, which take longest, are replaced."""
    weights = script("weights")
    cohort = atlaslib.load_cohort(shutil.copytree(cohort.root, tmp_path / "cohort"))
    for scan in cohort:  # as if the masks had been drawn without a fault
        save(scan.t1.with_name(scan.subject + EXACT), read_scan(scan).mask.astype(np.uint8))
    made = []

    def make_cohort(folder: Path, subjects: int, seed: int) -> atlaslib.Cohort:
        made.append((folder.name, seed))
        return cohort[len(made) % 2 * 3 :]

    monkeypatch.setattr(atlaslib, "make_cohort", make_cohort)
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path / "home"))
    call = ["--profile", "smoke", "--heads", str(heads_folder), "--out", str(tmp_path / "weights")]
    weights.main(call)
    assert len(set(made)) == 2
    shipped = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train", None)  # the finished run is reused
        patch.setattr(weights, "ship", lambda *given: shipped.append(given))
        weights.main(call)
        weights.main(["--profile", "smoke"])
    (run,) = (tmp_path / "home" / "runs").iterdir()
    assert [given[0].folder for given in shipped] == [run] * 2
    # only the full profile writes to the repository
    assert [given[-1] for given in shipped] == [
        tmp_path / "weights",
        tmp_path / "home" / "weights-smoke",
    ]
    card = model_card("residual_unet", tmp_path / "weights")
    assert card["training data"]["people"] == 5
    assert card["unseen synthetic people"]["people"] == 7
    classes = card["unseen synthetic people"]["by lesion volume"]
    assert [each["lesion, mL"] for each in classes] == [
        "0 to 1", "1 to 10", "10 to 100", "at least 100"]  # fmt: skip
    assert [each["scans"] for each in classes] == [0, 8, 0, 0]
    assert classes[1]["ceiling"] == 1
    assert [each["head"] for each in card["real heads with painted lesions"]] == ["anna", "Site2"]
    assert card["healthy real heads"]["heads"] == 2
    assert "diagnosis" in card["must not be used for"]
    loaded = atlaslib.load_pretrained("residual_unet", tmp_path / "weights")
    assert loaded.recipe == weights.recipe("smoke")


def test_the_papers_networks_are_shipped_with_their_scores(cohort, tmp_path, monkeypatch):
    module = script("paper_weights")
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module.sweep, "people", lambda *_: cohort[:4])
    assert module.main(["--profile", "smoke"]) == 0
    folder = tmp_path / "home" / "weights-smoke"
    for name in ("baseline", "resnet"):
        loaded = atlaslib.load_pretrained(name, folder)
        assert (loaded.recipe.seed, loaded.recipe.downsample) == (0, 6)  # the finer grid
        card = model_card(name, folder)
        assert card["training data"]["seed"] == 200
        scores = card["unseen synthetic people"]
        assert scores["known scanners"]["dice"] == pytest.approx(
            atlaslib.evaluate(loaded, cohort[:4], progress=False).dice.mean(), abs=1e-3
        )


def test_one_slice_is_that_of_most_lesion_and_all_arms(cohort, tmp_path, monkeypatch):
    module = script("one_slice")
    read = module.sweep.read_table
    scores = {"031840": 0.1, "031841": 0.9, "031842": 0.4, "031843": 0.3}
    table = pd.DataFrame({"subject": scores.keys(), "dice": scores.values()})
    table = table.assign(arm="baseline", people="known")
    monkeypatch.setattr(
        module.sweep,
        "read_table",
        lambda folder, name: table if name == "scans" else read(folder, name),
    )
    monkeypatch.setattr(module.sweep, "people", lambda *_: cohort)
    network = Predictor(build_model("zero"), atlaslib.recipe("zero", "smoke"))
    monkeypatch.setattr(atlaslib, "train", lambda recipe, cohort, progress: network)
    files = [tmp_path / "slice.npz", tmp_path / "slice.png"]
    assert module.main(["--out", str(files[0]), "--picture", str(files[1])]) == 0
    assert files[1].read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "slice.npz") as file:
        stored = dict(file)
    about = json.loads(str(stored.pop("about")))
    assert about["subject"] == "031841"  # the best of four: better than three
    scan = next(scan for scan in cohort if scan.subject == "031841")
    by_slice = read_scan(scan).mask.sum((0, 1))
    assert by_slice[about["slice"]] == by_slice.max() == stored.pop("truth").sum()
    assert stored.pop("image").shape == (232, 196)
    assert {"baseline", "resnet", "20 units, U-Net"} <= set(stored)
    assert not any(marked.any() for marked in stored.values())
