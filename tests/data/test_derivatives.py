"""Derivatives of BIDS: where masks are written, and that they can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import bids_trees
import nibabel as nib
import numpy as np
import pytest
import trees

from atlaslib import Scan, load_cohort
from atlaslib.data.bids import parse
from atlaslib.data.derivatives import derivative_path, write_mask

NAME = "space-T1w_desc-lesion_mask"


@pytest.mark.parametrize(
    ("subject", "session", "t1", "expected"),
    [
        ("sub-M2001", "ses-1076", "sub-M2001_ses-1076_acq-tfl3_run-4_T1w.nii.gz",
         f"sub-M2001/ses-1076/anat/sub-M2001_ses-1076_acq-tfl3_run-4_{NAME}.nii.gz"),
        ("sub-1", "", "sub-1_T1w.nii", f"sub-1/anat/sub-1_{NAME}.nii.gz"),
        ("c0003s0002", "t01", "c0003s0002t01_t1w.nii.gz",
         f"sub-c0003s0002/ses-t01/anat/sub-c0003s0002_ses-t01_{NAME}.nii.gz"),
        ("my_patient 7", "", "scan.nii", f"sub-mypatient7/anat/sub-mypatient7_{NAME}.nii.gz"),
    ],
)  # fmt: skip
def test_the_names_are_those_of_bids(subject, session, t1, expected):
    scan = Scan(subject, session, "", Path("somewhere", t1), ())
    path = derivative_path(Path("out"), scan, NAME)
    assert path == Path("out", expected)
    known = parse(path, Path("out"))
    assert known is not None
    assert known.is_mask
    assert (known.entities["space"], known.entities["desc"]) == ("T1w", "lesion")


def test_a_mask_that_is_written_belongs_to_its_t1(tmp_path):
    """Put into the dataset, it is found as the mask of the T1w that it was made from."""
    top = bids_trees.plain(tmp_path)
    (top / "sub-1" / "anat" / "sub-1_desc-lesion_mask.nii").unlink()
    scan = load_cohort(top)[0]
    assert scan.masks == ()
    image = nib.load(scan.t1)
    mask = nib.Nifti1Image((np.asarray(image.dataobj) > 100).astype(np.uint8), image.affine)
    out = top / "derivatives" / "atlaslib"
    path = write_mask(out, scan, mask, {"VolumeML": 1.5})
    assert load_cohort(top)[0].masks == (path,)
    np.testing.assert_array_equal(nib.load(path).dataobj, mask.dataobj)
    about = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert about == {"Type": "Lesion", "Sources": ["bids:raw:sub-1_T1w.nii"], "VolumeML": 1.5}
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "atlaslib"
    assert described["GeneratedBy"][0]["Version"]


def test_names_of_atlas_become_names_of_bids(tmp_path):
    for scan in load_cohort(trees.release_1_1(tmp_path)):
        assert derivative_path(tmp_path, scan, NAME).name.startswith(f"sub-{scan.subject}_ses-t0")
