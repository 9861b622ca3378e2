"""Cohorts: finding the scans of R1.1, splits, and the errors for a wrong folder."""

from __future__ import annotations

import shutil

import pytest

import atlaslib
from atlaslib import DataError, load_cohort


def test_the_scans_of_r1_1_are_found(cohort):
    assert len(cohort) == 8
    assert len(cohort.subjects) == 7
    first = cohort[0]
    assert (first.subject, first.session, first.site) == ("031840", "t01", "Site1")
    assert [path.name for path in first.masks] == [
        "031840_LesionSmooth_1_stx.nii.gz",
        "031840_LesionSmooth_stx.nii.gz",
    ]
    table = cohort.table()
    assert list(table.masks) == [2] * 8
    assert table.site.value_counts().to_dict() == {"Site1": 4, "Site2": 4}
    assert cohort.source == "ATLAS R1.1"


@pytest.mark.parametrize("by", ["subject", "site"])
def test_split_keeps_units_together(cohort, by):
    if by == "site":
        with pytest.raises(DataError, match="at least 3 sites, found 2"):
            cohort.split(by="site")
        return
    parts = cohort.split(seed=3)
    subjects = [set(part.subjects) for part in parts]
    assert set.union(*subjects) == set(cohort.subjects)
    assert sum(map(len, subjects)) == 7  # disjoint
    assert sum(map(len, parts)) == 8


def test_split_depends_on_the_seed_alone(cohort):
    backwards = atlaslib.Cohort(cohort.root, cohort.scans[::-1])
    for part, other in zip(cohort.split(seed=1), backwards.split(seed=1), strict=True):
        assert set(part.subjects) == set(other.subjects)
    tests = {cohort.split(seed=s)[2].subjects for s in range(20)}
    assert len(tests) > 3


def test_split_fractions(cohort):
    sizes = [len(part.subjects) for part in cohort.split(fractions=(0.4, 0.3, 0.3))]
    assert sizes == [3, 2, 2]
    with pytest.raises(ValueError, match="sum to 1"):
        cohort.split(fractions=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "it is empty"),
        (lambda root: root.write_text("x"), "is a file"),
        (lambda root: (root / "holiday").mkdir(parents=True), "found holiday"),
    ],
)
def test_wrong_folder_is_one_line(tmp_path, make, says):
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DataError, match=says) as error:
        load_cohort(root)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_scan_without_mask(scan_writer, tmp_path):
    _, masks = scan_writer()
    for mask in masks:
        mask.unlink()
    with pytest.raises(DataError, match="031844_t1w_deface_stx.nii.gz: a scan without a lesion"):
        load_cohort(tmp_path)


def test_a_scan_may_have_a_hidden_mask_on_request(scan_writer, tmp_path):
    t1, masks = scan_writer()
    scan_writer("031845")
    for mask in masks:
        mask.unlink()
    cohort = load_cohort(tmp_path, unlabelled=True)
    assert [(scan.t1 == t1, len(scan.masks)) for scan in cohort] == [(True, 0), (False, 2)]
    assert cohort.labelled.subjects == ("031845",)
    assert cohort.table().masks.tolist() == [0, 2]
    with pytest.raises(ValueError, match="unlabelled: expected a bool, got str"):
        load_cohort(tmp_path, "yes")


def test_other_faults_than_a_hidden_mask_remain(scan_writer, tmp_path):
    t1, _ = scan_writer()
    t1.unlink()
    with pytest.raises(DataError, match="a lesion mask without a scan"):
        load_cohort(tmp_path, unlabelled=True)


def test_mask_without_scan(scan_writer, tmp_path):
    t1, _ = scan_writer()
    t1.unlink()
    with pytest.raises(DataError, match=r"LesionSmooth_1_stx.nii.gz: a lesion mask without a scan"):
        load_cohort(tmp_path)


def test_same_subject_at_two_sites(scan_writer, tmp_path):
    scan_writer()
    shutil.copytree(tmp_path / "Site1", tmp_path / "Site2")
    with pytest.raises(DataError, match="the same subject and session"):
        load_cohort(tmp_path)


def test_fingerprint_depends_on_content_not_location(scan_writer, tmp_path):
    scan_writer()
    before = load_cohort(tmp_path).fingerprint()
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "Site1", moved / "Site1")
    assert load_cohort(moved).fingerprint() == before
    mask = load_cohort(moved)[0].masks[0]
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert load_cohort(moved).fingerprint() != before
