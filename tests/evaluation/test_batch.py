"""A folder of scans becomes a folder of masks and a table; what is done is not done again."""

from __future__ import annotations

import json
import shutil

import bids_trees
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from folders import contents
from scipy import ndimage
from threshold import threshold
from volumes import AFFINE, box, head, save

from atlaslib import (
    DataError,
    Predictor,
    build_model,
    evaluate_masks,
    load_cohort,
    predict,
    recipe,
)
from atlaslib.data.registration import Registration
from atlaslib.data.volumes import GRID
from atlaslib.evaluation import batch
from atlaslib.evaluation.batch import find_inputs, predict_files
from atlaslib.evaluation.prediction import Prediction
from atlaslib.figures.native import plot_prediction

BRIGHT = {"gain": -40.0, "window": True, "downsample": 4}
NETWORK, OTHER = threshold(0.95, **BRIGHT), threshold(0.97, **BRIGHT)


@pytest.fixture
def scans(tmp_path):
    """A folder with a head with two lesions, a damaged file and one in another space."""
    t1 = head(1)
    t1[(box((50, 100, 80), 16) + box((120, 100, 80), 12)) > 0] = 90
    folder = tmp_path / "scans"
    save(folder / "a_good.nii", t1.astype(np.uint8))
    (folder / "b_broken.nii").write_bytes((folder / "a_good.nii").read_bytes()[:5000])
    save(folder / "c_native.nii", np.ones((30, 31, 32), np.uint8))
    save(folder / "a_good_lesion_mask.nii", np.zeros(GRID, np.uint8))  # no input
    return folder


@pytest.fixture
def segmented(monkeypatch):
    """The files that are segmented, and a file at which to be interrupted."""
    done, stop = [], []

    def segment(networks, t1, brain_only):
        if t1.path.name in stop:
            raise KeyboardInterrupt
        done.append(t1.path.name)
        return original(networks, t1, brain_only)

    original = batch.segment
    monkeypatch.setattr(batch, "segment", segment)
    return done, stop


def run(scans, network=NETWORK, **options):
    return predict_files(network, [scans], scans.parent / "masks", progress=False, **options)


def test_one_row_for_each_scan_and_a_failure_stops_no_other(scans):
    table = run(scans)
    assert [name.split("/")[-1] for name in table.file] == [
        "a_good.nii", "b_broken.nii", "c_native.nii"
    ]  # fmt: skip
    good, broken, native = table.itertuples()
    expected = np.asarray(predict(NETWORK, scans / "a_good.nii").dataobj)
    mask = nib.load(scans.parent / "masks" / good.mask)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
    np.testing.assert_array_equal(mask.affine, AFFINE)
    labels, _ = ndimage.label(expected, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    assert good.predicted_ml == pytest.approx(expected.sum() / 1000)
    assert good.lesions == (sizes >= 50).sum() > 1
    assert (good.side, good.error) == ("both", "")
    assert "b_broken.nii: damaged or cut short" in broken.error
    assert "c_native.nii: " in native.error  # no head that could be registered
    assert np.isnan(native.predicted_ml)
    assert pd.isna(native.lesions)
    assert sorted(contents(scans.parent / "masks")) == ["a_good_lesion.nii.gz", "volumes.csv"]
    read = pd.read_csv(scans.parent / "masks" / "volumes.csv", keep_default_na=False)
    assert read.error.tolist() == table.error.tolist()


def test_what_is_done_is_not_done_again(scans, segmented):
    first, before = run(scans), contents(scans.parent / "masks")
    (scans / "b_broken.nii").unlink()
    second = run(scans)
    assert segmented[0] == ["a_good.nii"]
    pd.testing.assert_frame_equal(first.iloc[[0, 2]].reset_index(drop=True), second)
    assert contents(scans.parent / "masks") == before  # the row of the other scan stays, too


def test_an_interruption_loses_only_the_scan_in_the_middle(scans, segmented):
    done, stop = segmented
    for name in "de":
        shutil.copy(scans / "a_good.nii", scans / f"{name}.nii")
    stop.append("d.nii")
    with pytest.raises(KeyboardInterrupt):
        run(scans)
    assert len(pd.read_csv(scans.parent / "masks" / "volumes.csv")) == 3
    stop.clear()
    table = run(scans)
    assert done == ["a_good.nii", "d.nii", "e.nii"]
    assert (table.error == "").sum() == 3
    assert not list(scans.parent.rglob("*.part"))


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_process_may_be_killed_at_any_write(write, after, scans, monkeypatch):
    """When a scan has changed, of which there is an older mask."""
    for name in ("b_broken.nii", "c_native.nii"):
        (scans / name).unlink()
    run(scans)
    t1 = head(2)
    t1[box((60, 90, 80), 10) > 0] = 90
    save(scans / "a_good.nii", t1.astype(np.uint8))
    original, left = batch.atomic_write, [write]

    def killed(path, content):
        left[0] -= 1
        if left[0] > 0 or after:
            original(path, content)
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(batch, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(scans)
    monkeypatch.undo()
    assert run(scans).error.tolist() == [""]
    mask = np.asarray(nib.load(scans.parent / "masks" / "a_good_lesion.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, np.asarray(predict(NETWORK, scans / "a_good.nii").dataobj))


def test_a_changed_scan_or_another_network_is_done_again(scans, segmented):
    for name in ("b_broken.nii", "c_native.nii"):
        (scans / name).unlink()
    volumes = [run(scans).predicted_ml[0]]
    changes = [lambda: save(scans / "a_good.nii", head(2).astype(np.uint8)), lambda: None]
    for change, network in zip(changes, (NETWORK, [OTHER, NETWORK]), strict=True):
        change()
        volumes.append(run(scans, network).predicted_ml[0])
    assert volumes[0] > volumes[1] == volumes[2] == 0
    assert len(segmented[0]) == 3
    run(scans, [NETWORK, OTHER])  # the same ensemble
    assert len(segmented[0]) == 3
    run(scans, [NETWORK, OTHER], brain_only=False)
    assert len(segmented[0]) == 4


def test_no_mask_of_somebody_else_is_overwritten(scans, segmented):
    mine = scans.parent / "masks" / "a_good_lesion.nii.gz"
    save(mine, box((1, 2, 3), 4))
    before = mine.read_bytes()
    assert "not written by this command" in run(scans).error[0]
    assert mine.read_bytes() == before
    mine.unlink()
    assert run(scans).error[0] == ""
    mine.write_bytes(before)  # corrected by hand
    assert "or was changed since" in run(scans).error[0]
    assert mine.read_bytes() == before
    assert len(segmented[0]) == 1


def test_an_older_mask_is_replaced_once_its_scan_can_be_read_again(scans):
    good = (scans / "a_good.nii").read_bytes()
    run(scans)
    (scans / "a_good.nii").write_bytes(b"")
    assert run(scans).error[0]
    (scans / "a_good.nii").write_bytes(good)
    assert run(scans, OTHER).error[0] == ""


def test_the_side_is_the_patients_even_if_the_header_has_another_origin(tmp_path):
    t1 = head(1)
    t1[box((50, 100, 80), 20) > 0] = 90
    moved = AFFINE.copy()
    moved[0, 3] = 0
    save(tmp_path / "left.nii", t1.astype(np.uint8))
    save(tmp_path / "moved.nii", t1.astype(np.uint8), moved)
    turned = nib.Nifti1Image(t1.astype(np.uint8), AFFINE).as_reoriented([[0, -1], [2, 1], [1, 1]])
    turned.to_filename(tmp_path / "turned.nii")
    save(tmp_path / "empty.nii", head(1).astype(np.uint8))
    table = predict_files(NETWORK, [tmp_path], tmp_path / "out", progress=False)
    found = dict(zip(table.file.str.split("/").str[-1], table.side, strict=True))
    assert found == {
        "empty.nii": "none", "left.nii": "left", "moved.nii": "left", "turned.nii": "left"
    }  # fmt: skip
    assert [bool(text) for text in table.warnings] == [False, False, True, False]
    assert "expected the first voxel at -98 -134 -72 mm" in table.warnings[2]


def test_masks_of_a_cohort_are_named_so_that_they_can_be_scored(cohort, tmp_path):
    part = cohort.only([scan for scan in cohort if scan.subject == "031840"])
    folder = tmp_path / "Site1"
    shutil.copytree(cohort.root / "Site1" / "031840", folder / "031840")
    for mask in folder.glob("031840/t02/*Lesion*"):
        mask.unlink()  # hidden
    save(folder / "more" / "anna.nii", head(1).astype(np.uint8))
    out = tmp_path / "out"
    table = predict_files(NETWORK, [folder], out, out / "my.csv", progress=False)
    assert table["mask"].tolist() == [
        "031840-t01_lesion.nii.gz", "031840-t02_lesion.nii.gz", "more/anna_lesion.nii.gz"
    ]  # fmt: skip
    with pytest.warns(UserWarning, match=r"1 of \d files belong to no scan .* anna_lesion.nii.gz"):
        scores = evaluate_masks(out, part, progress=False)
    assert scores.predicted_ml.tolist() == pytest.approx(table.predicted_ml[:2].tolist())


def test_inputs_are_found_by_rule(tmp_path):
    for name in ("p1/T1.nii.gz", "p2/T1.NII", "p2/T1_Lesion.nii", "p2/brainmask.nii.gz",
                 "p2/aseg.nii", "p2/label.nii", ".hidden.nii", "notes.txt"):  # fmt: skip
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).touch()
    x = tmp_path / "x"
    given = x / "p2" / "T1_Lesion.nii"  # whoever names a file means it
    assert find_inputs([x, given, x / "p1" / "T1.nii.gz"]) == {
        "p1/T1_lesion.nii.gz": x / "p1/T1.nii.gz",
        "p2/T1_lesion.nii.gz": x / "p2/T1.NII",
        "T1_Lesion_lesion.nii.gz": given,
    }
    (tmp_path / "empty").mkdir()
    for wrong, says in (
        ([x / "p1", x / "p2"], r"T1.nii.gz and .*T1.NII: would have masks of the same name"),
        ([x, tmp_path / "nowhere"], "nowhere: no such file or folder"),
        ([tmp_path / "empty"], "empty: no T1 in it"),
        ([], "no T1 to segment"),
    ):
        with pytest.raises(DataError, match=says):
            find_inputs(wrong)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"'])
def test_a_table_of_another_kind_is_not_overwritten(scans, content):
    csv = scans.parent / "mine.csv"
    csv.write_text(content)
    with pytest.raises(DataError, match="mine.csv: (exists already|not a readable table)"):
        run(scans, csv=csv)
    assert csv.read_text() == content
    with pytest.raises(DataError, match="its folder does not exist"):
        run(scans, csv=scans.parent / "no" / "x.csv")


def test_the_mask_of_a_bids_folder_is_a_derivative_and_no_truth(tmp_path, monkeypatch):
    """Put into the dataset, it is not taken for a mask of its T1w."""
    top = bids_trees.plain(tmp_path)
    (top / "sub-1" / "anat" / "sub-1_desc-lesion_mask.nii").unlink()
    found = Registration(np.eye(4), 0.61, 0.7, 0.9)
    monkeypatch.setattr(
        batch, "segment", lambda run, image, _: Prediction(image, image.voxels > 100, found)
    )
    monkeypatch.setattr(batch, "doubts", lambda image: [])
    out = top / "derivatives" / "atlaslib"
    network = Predictor(build_model("zero"), recipe("zero", "smoke"))
    table = predict_files(network, [top], out, draw=plot_prediction, progress=False)
    row = table[table["mask"].str.contains("sub-1_")].iloc[0]
    assert (row.space, row.similarity, row.error) == ("native", 0.61, "")
    scan = load_cohort(top)[0]
    assert scan.masks == ()
    image = nib.load(scan.t1)
    mask = nib.load(out / row["mask"])
    np.testing.assert_array_equal(mask.dataobj, np.asarray(image.dataobj) > 100)
    voxel = abs(np.linalg.det(image.affine[:3, :3]))
    assert row.predicted_ml == pytest.approx((np.asarray(image.dataobj) > 100).sum() * voxel / 1000,
                                             abs=1e-3)  # fmt: skip
    stem = out / row["mask"].removesuffix(".nii.gz")
    about = json.loads(stem.with_suffix(".json").read_text())
    assert about == {"Type": "Lesion", "Sources": [f"bids:raw:{scan.t1.name}"]}
    assert stem.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "atlaslib"
    assert described["GeneratedBy"][0]["Version"]


def test_masks_are_not_written_among_the_images_of_a_dataset(tmp_path):
    top = bids_trees.plain(tmp_path)
    bids_trees.describe(top, "Our patients")
    before = sorted(top.rglob("*"))
    network = Predictor(build_model("zero"), recipe("zero", "smoke"))
    with pytest.raises(DataError, match='holds the dataset "Our patients"; write to another'):
        predict_files(network, [top], top, progress=False)
    assert sorted(top.rglob("*")) == before


def test_a_picture_that_could_not_be_drawn_is_drawn_the_next_time(scans):
    only, out = scans / "a_good.nii", scans.parent / "masks"
    (out / "a_good_lesion.png").mkdir(parents=True)
    first = predict_files(NETWORK, only, out, draw=plot_prediction, progress=False)
    assert "a_good.nii" in first.error[0]
    (out / "a_good_lesion.png").rmdir()
    for _ in range(2):
        table = predict_files(NETWORK, only, out, draw=plot_prediction, progress=False)
        assert table.error[0] == ""
        (out / "a_good_lesion.png").unlink()  # drawn again if it is lost
