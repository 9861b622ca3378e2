"""Masks of any program are matched with their scans by name, and scored as a network's are."""

from __future__ import annotations

import dataclasses
import shutil

import nibabel as nib
import numpy as np
import pytest
from volumes import AFFINE, save

from atlaslib import DataError
from atlaslib.data.volumes import GRID, read_scan
from atlaslib.evaluation.masks import evaluate_masks


@pytest.fixture
def submission(cohort, tmp_path):
    """The true masks of three scans of two people, one of them shifted by two voxels."""
    scans = [scan for scan in cohort if scan.subject in ("031840", "031841")]
    for number, scan in enumerate(scans):
        mask = np.roll(read_scan(scan).mask, 2 * (number == 2), axis=0)
        folder = tmp_path / "sub" if number else tmp_path
        save(folder / f"pred_{scan.subject}_{scan.session}.nii.gz", mask.astype(np.uint8))
    return cohort.only(scans), tmp_path


def test_masks_are_scored_scan_by_scan(submission):
    cohort, folder = submission
    table = evaluate_masks(folder, cohort, ("lesion_f1", "volume"), progress=False)
    assert table.subject.tolist() == [scan.subject for scan in cohort]
    assert table.dice[:2].tolist() == [1, 1]
    big, small = 12, 5  # edges of the two cubes of a scan
    shared = (big - 2) * big**2 + (small - 2) * small**2
    assert table.dice[2] == pytest.approx(shared / (big**3 + small**3))
    assert table.volume_ml[2] == pytest.approx((big**3 + small**3) / 1000)
    assert table.lesion_f1.tolist() == [1, 1, 1]
    assert table.volume_difference_ml.tolist() == [0, 0, 0]


def test_a_mask_in_another_orientation_is_the_same_mask(submission):
    cohort, folder = submission
    path = folder / "pred_031840_t01.nii.gz"
    image = nib.load(path)
    flipped = image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    nib.save(flipped, path)
    assert evaluate_masks(folder, cohort, progress=False).dice[0] == 1


@pytest.mark.parametrize("value", [255, 0.999])
def test_lesion_may_be_any_one_value(value, submission):
    cohort, folder = submission
    path = folder / "pred_031840_t01.nii.gz"
    save(path, (np.asarray(nib.load(path).dataobj) > 0).astype(np.float32) * np.float32(value))
    assert evaluate_masks(folder, cohort, progress=False).dice[0] == 1


def test_scans_with_hidden_masks_are_not_scored(submission):
    cohort, folder = submission
    hidden = dataclasses.replace(cohort[0], masks=())
    with pytest.warns(
        UserWarning, match=r"1 of \d files belong to no scan with a true mask: pred_031840"
    ):
        table = evaluate_masks(folder, cohort.only([hidden, *cohort[1:]]), progress=False)
    assert table.session.tolist() == ["t02", "t01"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "pred_031840_t01.nii.gz").unlink(),
         "expected one mask with '031840' and 't01' in its name, found none$"),
        (lambda folder: [path.unlink() for path in folder.rglob("pred_031840*")],
         "'031840' and 't01' in its name, found none; 2 of 3 scans have none"),
        (lambda folder: probabilities(folder / "pred_031840_t01.nii.gz"),
         "pred_031840_t01.nii.gz: expected a mask of 0 and one other value, found 3 others, from "
         "0.2 to 0.9: threshold probabilities first"),
        (lambda folder: shutil.copy(folder / "pred_031840_t01.nii.gz",
                                    folder / "031840-t01.nii.gz"), "031840-t01.nii.gz, pred_0318"),
        (lambda folder: save(folder / "pred_031840_t01.nii.gz", np.zeros((5, 5, 5), np.uint8)),
         "expected 197 x 233 x 189 voxels"),
        (lambda folder: nib.save(nib.Nifti1Image(np.zeros(GRID, np.uint8),
                                                 AFFINE + shift()),
                                 folder / "pred_031840_t01.nii.gz"), "not aligned with 031840_t1w"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(submission, change, says):
    cohort, folder = submission
    change(folder)
    with pytest.raises(DataError, match=says) as error:
        evaluate_masks(folder, cohort, progress=False)
    assert "\n" not in str(error.value)


def probabilities(path):
    volume = np.zeros(GRID, np.float32)
    volume[5, 6, 7:10] = 0.2, 0.5, 0.9
    save(path, volume)


def shift():
    move = np.zeros((4, 4))
    move[0, 3] = 20
    return move


def test_a_longer_number_is_another_subject(submission):
    cohort, folder = submission
    save(folder / "pred_1031840_t01.nii.gz", np.zeros((5, 5, 5), np.uint8))
    with pytest.warns(
        UserWarning, match=r"1 of \d files belong to no scan .*: pred_1031840_t01.nii.gz"
    ):
        assert evaluate_masks(folder, cohort, progress=False).dice[0] == 1
    with pytest.raises(ValueError, match="no metric 'iou'"):
        evaluate_masks(folder, cohort, ["iou"], progress=False)
    with pytest.raises(DataError, match="no such folder"):
        evaluate_masks(folder / "nowhere", cohort)
