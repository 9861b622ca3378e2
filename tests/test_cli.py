"""The command line: whole commands, and what a wrong one prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from archived import packed
from safetensors.torch import save_file
from volumes import save

import atlaslib
from atlaslib.__main__ import main
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import near_brain, read_scan
from atlaslib.evaluation import pretrained
from atlaslib.evaluation.pretrained import publish
from atlaslib.runs import seal
from atlaslib.training import loop


def test_train_evaluate_predict(cohort, tmp_path, monkeypatch, capsys):
    run, csv, out = tmp_path / "run", tmp_path / "dice.csv", tmp_path / "out"
    train = ["train", "baseline", "--profile", "smoke", "--data", str(cohort.root)]
    train += ["--out", str(run), "--set", "epochs=1"]
    assert main(train) == 0
    monkeypatch.setattr(loop, "_train", None)
    assert main(train) == 0  # the finished run is reused
    assert main(["evaluate", str(run), "--data", str(cohort.root), "--csv", str(csv)]) == 0
    assert "1 scans of 1 unseen subjects" in capsys.readouterr().out
    assert len(pd.read_csv(csv)) == 1
    predict = ["predict", str(run), str(cohort[0].t1), "--out", str(out)]
    mask = out / "031840_t1w_deface_stx_lesion.nii.gz"
    assert main(predict) == 0
    assert "1 of 1 scans have masks" in capsys.readouterr().out
    assert nib.load(mask).shape == (197, 233, 189)
    before = mask.stat().st_mtime_ns
    assert main(predict) == 0  # done already
    assert mask.stat().st_mtime_ns == before
    mask.write_bytes(b"mine")
    assert main([*predict, "--csv", str(tmp_path / "other.csv")]) == 1
    assert "exists already, and was not written by this command" in capsys.readouterr().err
    assert mask.read_bytes() == b"mine"
    assert main([*predict, "--csv", str(tmp_path / "no" / "x.csv")]) == 1
    assert "its folder does not exist" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.part"))  # no temporary files are left


def test_importing_the_library_does_not_import_torch():
    code = "import sys, atlaslib, atlaslib.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_dry_run_estimates_and_leaves_no_run(cohort, tmp_path, capsys):
    call = ["train", "baseline", "--profile", "smoke", "--data", str(cohort.root)]
    call += ["--out", str(tmp_path / "run"), "--set", "width=2", "--dry-run"]
    assert main(call) == 0
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert shown >= {"parameters", "steps", "minutes", "memory_mb"}
    assert not (tmp_path / "run").exists()


def test_predict_with_a_pretrained_network(cohort, tmp_path, monkeypatch, capsys):
    """It marks every voxel that it may."""
    run = atlaslib.train(atlaslib.recipe("zero", "smoke"), cohort, tmp_path / "run", progress=False)
    save_file({"final_bias": torch.tensor([3.0])}, run.folder / "weights.safetensors")
    seal(run.folder)
    run = atlaslib.load_run(run.folder)
    publish(run, {}, tmp_path / "weights")
    monkeypatch.setattr(pretrained, "shipped", lambda name: tmp_path / name)
    t1, outs = str(cohort[0].t1), [str(tmp_path / f"out{n}") for n in range(4)]
    assert main(["predict", "--pretrained", "zero", t1, "--out", outs[0]]) == 0
    assert main(["predict", "--out", outs[1], t1, "--pretrained", "zero"]) == 0
    assert main(["predict", str(run.folder), "--whole-head", t1, "--out", outs[2]]) == 0
    masks = [Path(outs[n], "031840_t1w_deface_stx_lesion.nii.gz") for n in range(3)]
    assert masks[0].read_bytes() == masks[1].read_bytes()
    near, everywhere = (to_slices(np.asarray(nib.load(masks[n]).dataobj)) for n in (0, 2))
    np.testing.assert_array_equal(near, to_slices(near_brain()))
    assert everywhere.all()
    capsys.readouterr()
    (tmp_path / "weights" / "zero.json").unlink()
    for call, says in (
        (["predict"], "expected either RUNs or --pretrained NAME, got 0 runs"),
        (["predict", t1], "_t1w_deface_stx.nii.gz: not a run"),
        (["predict", str(run.folder), t1, "--pretrained", "zero"], "NAME, got 1 runs"),
        (["predict", str(run.folder)], "no T1 to segment"),
        (["predict", t1, "--pretrained", "vgg"], "network 'vgg'; found zero"),
        (["predict", t1, "--pretrained", "zero"], "zero.json: no such file"),
    ):
        assert main([*call, "--out", outs[3]]) == 1
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.count("\n") == 1
    assert not Path(outs[3]).exists()


def test_several_runs_segment_a_folder_as_one(cohort, tmp_path, capsys):
    """Of two that mark everything and nothing, the surer one decides."""
    runs, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "masks"
    for run, bias in zip(runs, (2.0, -3.0), strict=True):
        atlaslib.train(atlaslib.recipe("zero", "smoke"), cohort, run, progress=False)
        save_file({"final_bias": torch.tensor([bias])}, run / "weights.safetensors")
        seal(run)
    heads = tmp_path / "heads"
    save(heads / "native.nii", np.ones((3, 4, 5), np.uint8))
    (heads / "good.nii.gz").write_bytes(cohort[0].t1.read_bytes())
    call = ["predict", *map(str, runs), str(heads), "--out", str(out)]
    assert main([*call, "--csv", str(tmp_path / "t.csv")]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 scans have masks, with 0.0 mL" in printed.out
    assert "atlaslib: " + str(heads / "native.nii: ") in printed.err  # no head to register
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert table["mask"].tolist() == ["masks/good_lesion.nii.gz", "masks/native_lesion.nii.gz"]
    assert table.side.tolist() == ["none", ""]
    (heads / "native.nii").unlink()
    assert main(["predict", str(runs[0]), str(heads), "--out", str(tmp_path / "one")]) == 0
    assert "with 0.0 mL" not in capsys.readouterr().out
    scores = ["--data", str(cohort.root), "--csv", str(tmp_path / "scores.csv")]
    assert main(["evaluate", *map(str, runs), *scores]) == 0
    assert "1 scans of 1 unseen subjects" in capsys.readouterr().out


def test_without_safe_extraction_nothing_is_unpacked(tmp_path, monkeypatch, capsys):
    """Python 3.11.2, as in Debian, lacks the filters of tarfile."""
    monkeypatch.delattr("tarfile.data_filter", raising=False)
    assert main(["unpack", str(packed(tmp_path, "tar")), str(tmp_path / "out")]) == 1
    assert "needs Python 3.11.4 or later" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [["--password", "geheim"], ["-kgeheim"], ["geheim"]])
def test_an_argument_that_may_be_the_key_is_not_shown(more, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["unpack", "a.zip", str(tmp_path / "out"), *more])
    assert stop.value.code == 2
    assert "geheim" not in capsys.readouterr().err
    archive = packed(tmp_path, "tar")
    assert main(["unpack", str(archive), str(tmp_path / "out"), "--key-file", "geheim"]) == 0
    (tmp_path / "locked").write_bytes(b"U2FsdGVkX1" + bytes(90))
    assert main(["unpack", str(tmp_path / "locked"), str(tmp_path / "a"), "--key-file", "geheim"])
    assert "geheim" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (["train", "baseline", "--data", "nowhere", "--out", "r"], "nowhere: no such folder"),
        (["train", "vgg", "--data", "nowhere", "--out", "r"], "no recipe 'vgg'"),
        (["train", "baseline", "--data", ".", "--out", "r", "--set", "x=1"], "no field 'x'"),
        (["evaluate", "nowhere", "--data", ".", "--csv", "t.csv"], "nowhere: not a run"),
        (["predict", "nowhere", "a.nii", "--out", "b"], "nowhere: not a run"),
        (["synth", "somewhere", "--subjects", "0"], "subjects"),
        (["synth", "~nouser/x", "--subjects", "3"], "~nouser/x: unknown home folder"),
        (["evaluate", "r", "--data", ".", "--csv", "~nouser/x"], "~nouser/x: unknown home"),
        (["predict", "r", "t1.nii", "--out", "~nouser/x"], "~nouser/x: unknown home folder"),
        (
            ["evaluate", "--data", ".", "--csv", "x"],
            "either RUNs or --pretrained NAME, got 0 runs",
        ),
        (["evaluate", "--data", ".", "--csv", "x", "nowhere"], "nowhere: not a run"),
        (["claims", "--data", "~nouser/x", "--out", "."], "~nouser/x: unknown home folder"),
    ],
)
def test_invalid_input_gives_a_one_line_error(call, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(call) == 1
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_pretrained_network_is_scored_on_all_labelled_scans(
    cohort, tmp_path, monkeypatch, capsys
):
    run = atlaslib.train(atlaslib.recipe("zero", "smoke"), cohort, tmp_path / "run", progress=False)
    publish(run, {}, tmp_path / "weights")
    monkeypatch.setattr(pretrained, "shipped", lambda name: tmp_path / name)
    csv = tmp_path / "dice.csv"
    call = ["evaluate", "--pretrained", "zero", "--data", str(cohort.root), "--csv", str(csv)]
    assert main(call) == 0
    assert "8 scans of 7 subjects (ATLAS R1.1)" in capsys.readouterr().out
    assert len(pd.read_csv(csv)) == 8
    assert main([*call, str(run.folder)]) == 1
    assert "either RUNs or --pretrained NAME, got 1 runs" in capsys.readouterr().err


def test_an_unknown_command_exits_with_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fly"])
    assert stop.value.code == 2


def test_a_key_in_the_command_is_refused_and_not_shown(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["unpack", "a.zip", str(tmp_path / "out"), "--key", "geheim"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "use --key-file or ATLAS_KEY" in printed.err
    assert "geheim" not in printed.err + printed.out


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (["study", "--trials", "-1"], "--trials: expected a whole number of at least 1, not '-1'"),
        (["claims", "--profile", "bogus"], "'bogus'; choose from smoke, quick, colab, paper"),
        (["train", "baseline", "--profile", "", "--data", ".", "--out", "r"], "no profile ''"),
    ],
)
def test_wrong_numbers_and_profiles_are_refused_before_anything_is_made(
    call, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(call)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), AttributeError("a\nb")])
def test_an_error_that_nobody_foresaw_is_one_line_with_the_input(error, monkeypatch, capsys):
    def fail(folder):
        raise error

    monkeypatch.setattr("atlaslib.data.check.check_folder", fail)
    assert main(["check", "some folder"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("atlaslib: some folder: ")
    assert printed.count("\n") == 1
    monkeypatch.setenv("ATLASLIB_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["check", "some folder"])


def test_a_recipe_is_shown_with_unit_range_and_purpose(capsys):
    assert main(["recipe", "resnet", "--profile", "paper", "--set", "epochs=3"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.split()[0] == "epochs"]
    assert "3 epochs" in " ".join(line.split())
    assert "a whole number from 0 to 100000" in line
    assert main(["recipe", "resnet", "--set", "augment=no"]) == 1
    assert "augment: expected true or false, not 'no'" in capsys.readouterr().err


def test_a_table_is_not_written_over_a_file_and_a_doubtful_header_is_told(cohort, tmp_path, capsys):
    run = atlaslib.train(atlaslib.recipe("zero", "smoke"), cohort, tmp_path / "run", progress=False)
    history = run.folder / "history.csv"
    before = history.read_bytes()
    assert main(["evaluate", str(run.folder), "--data", str(cohort.root), "--csv", str(history)])
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert history.read_bytes() == before
    image = nib.load(cohort[0].t1)
    bare = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    bare.header["sform_code"] = bare.header["qform_code"] = 0
    bare.to_filename(tmp_path / "bare.nii")
    bare = str(tmp_path / "bare.nii")
    assert main(["predict", str(run.folder), bare, "--out", str(tmp_path / "out")]) == 0
    assert "warning" in (told := capsys.readouterr().err)
    assert "no orientation" in told


def test_masks_of_any_program_are_scored(cohort, tmp_path, capsys):
    for scan in cohort:
        mask = read_scan(scan).mask.astype(np.uint8)
        save(tmp_path / "masks" / f"{scan.subject}_{scan.session}.nii", mask)
    call = ["score", str(tmp_path / "masks"), "--data", str(cohort.root)]
    assert main([*call, "--csv", str(tmp_path / "scores.csv")]) == 0
    assert "dice 1.000, lesion_f1 1.000" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "scores.csv", dtype={"subject": str})
    assert len(table) == len(cohort)
    assert set(table.lesion_count_difference) == {0}


def test_sigterm_interrupts_a_command_as_ctrl_c_does(tmp_path, monkeypatch, capsys):
    """So that it ends the processes that it has started."""

    def terminated(options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("atlaslib.commands.check", terminated)
    assert main(["check", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
