"""Derivatives of BIDS: where masks are written, and that they can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees

from atlaslib import Scan, load_cohort
from atlaslib.data.bids import parse
from atlaslib.data.derivatives import derivative_path

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


def test_names_of_atlas_become_names_of_bids(tmp_path):
    for scan in load_cohort(trees.release_1_1(tmp_path)):
        assert derivative_path(tmp_path, scan, NAME).name.startswith(f"sub-{scan.subject}_ses-t0")
