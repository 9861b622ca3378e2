"""Every release of ATLAS in every state of unpacking, and what is said of the wrong ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import trees

import atlaslib
from atlaslib import DataError, load_cohort
from atlaslib.releases import survey
from atlaslib.volumes import read_scan

WRITERS = {"R1.1": trees.release_1_1, "R1.2": trees.release_1_2, "R2.0": trees.release_2_0}
WHO = {
    "R1.1": [
        ("Site2", "031844", "t01", 2),
        ("Site8", "000123", "t01", 1),
        ("Site8", "000123", "t02", 1),
        ("Site8", "090012", "t01", 1),
    ],
    "R1.2": [
        ("c0003", "c0003s0002", "t01", 1),
        ("c0003", "c0003s0002", "t02", 1),
        ("c0003", "c0003s0004", "t01", 1),
        ("c0010", "c0010s0001", "t01", 1),
    ],
    "R2.0": [
        ("R001", "sub-r001s001", "ses-1", 1),
        ("R001", "sub-r001s002", "ses-1", 1),
        ("R003", "sub-r003s001", "ses-1", 0),
        ("R009", "sub-r009s003", "ses-1", 1),
    ],
}


@pytest.fixture(params=list(WRITERS))
def release(request):
    return request.param


def who(cohort: atlaslib.Cohort) -> list[tuple[str, str, str, int]]:
    return [(s.site, s.subject, s.session, len(s.masks)) for s in cohort]


@pytest.mark.parametrize("end", [".nii.gz", ".nii"])
def test_a_release_is_recognised_from_its_folder_or_above(release, end, tmp_path):
    top = WRITERS[release](tmp_path / "my downloads", end)
    for root in (top, top.parent):
        cohort = load_cohort(root)
        assert cohort.release == release
        assert cohort.source == f"ATLAS {release}"
        assert who(cohort) == WHO[release]
        assert all(scan.t1.is_file() for scan in cohort)


@pytest.mark.parametrize(
    ("release", "inside"),
    [("R1.1", "Site8"), ("R1.2", "standard_part1/c0003"), ("R2.0", "Training/R001")],
    indirect=["release"],
)
def test_one_site_is_enough(release, inside, tmp_path, monkeypatch):
    top = WRITERS[release](tmp_path)
    whole = load_cohort(top)
    part = load_cohort(top / inside)
    assert 0 < len(part) < len(whole)
    assert set(who(part)) <= set(who(whole))
    monkeypatch.chdir(top / inside)
    assert who(load_cohort(".")) == who(part)


def test_the_fingerprint_does_not_depend_on_where_one_starts(release, tmp_path):
    top = WRITERS[release](tmp_path)
    assert load_cohort(top).fingerprint() == load_cohort(tmp_path).fingerprint()


def test_test_scans_are_listed_and_not_trained_on(tmp_path):
    cohort = load_cohort(trees.release_2_0(tmp_path))
    assert list(cohort.table().masks) == [1, 1, 0, 1]
    assert "sub-r003s001" not in cohort.labelled.subjects
    parts = cohort.split(fractions=(0.4, 0.3, 0.3))
    assert sorted(s for part in parts for s in part.subjects) == sorted(cohort.labelled.subjects)
    with pytest.raises(DataError, match=r"sub-r003s001.*has no lesion mask"):
        atlaslib.SliceDataset(cohort, progress=False)
    only = load_cohort(tmp_path / "ATLAS_2" / "Testing")
    assert len(only) == 1
    with pytest.raises(DataError, match="at least 3 subjects, found 0"):
        only.split()


def test_a_training_scan_without_mask_is_a_fault(tmp_path):
    top = trees.release_2_0(tmp_path)
    next(top.glob("Training/R009/**/*mask*")).unlink()
    with pytest.raises(DataError, match=r"sub-r009s003.*without a lesion mask"):
        load_cohort(top)
    moved = shutil.move(top, tmp_path / "testing" / top.name)  # a folder of somebody's tests
    with pytest.raises(DataError, match=r"sub-r009s003.*without a lesion mask"):
        load_cohort(moved)
    bare = shutil.move(Path(moved) / "Training", tmp_path / "testing" / "mine")
    with pytest.raises(DataError, match=r"sub-r009s003.*without a lesion mask"):
        load_cohort(bare)


def test_native_space_gives_way_to_mni(tmp_path):
    top = trees.release_1_2(tmp_path)
    assert {scan.space for scan in load_cohort(top)} == {"MNI"}
    native = load_cohort(top / "native")
    assert [scan.space for scan in native] == ["native"]


def test_native_space_is_read_in_ras_and_refused_for_training(tmp_path):
    cohort = load_cohort(trees.release_1_2(tmp_path) / "native")
    volume = read_scan(cohort[0])
    stored = np.arange(40 * 50 * 60).reshape(40, 50, 60)
    # the file's axes run to the back, down and right: RAS wants right, forward, up
    np.testing.assert_array_equal(volume.t1, stored.transpose(2, 0, 1)[:, ::-1, ::-1])
    assert volume.mask.sum() == (stored > 119_000).sum()
    np.testing.assert_allclose(np.diag(volume.affine)[:3], [1.2, 1, 1])
    with pytest.raises(DataError, match="in native space; the models expect MNI space"):
        atlaslib.SliceDataset(cohort, progress=False)


def test_two_releases_at_once_are_refused(tmp_path):
    trees.release_1_1(tmp_path)
    trees.release_2_0(tmp_path)
    with pytest.raises(DataError, match=r"holds R1.1 .* and R2.0 .*give one of them"):
        load_cohort(tmp_path)


def test_the_synthetic_cohort_is_never_called_atlas(tmp_path):
    top = trees.release_1_1(tmp_path / "real")
    made = tmp_path / "made"
    shutil.copytree(top, made)
    (made / "synthetic.json").write_text("{}")
    for root in (made, made / "Site8", made / "Site8" / "090012"):
        assert load_cohort(root).source == "synthetic cohort"
    with pytest.raises(DataError, match=r"holds R1.1 .* and synthetic"):
        load_cohort(tmp_path)


@pytest.mark.parametrize(
    ("folder", "site", "session"),
    [
        ("site8/000123/T02", "Site8", "t02"),
        ("Site8_000123_t02", "Site8", "t02"),
        ("t02/Site8/000123", "Site8", "t01"),  # above the site it is the folder of something else
    ],
)
def test_site_and_session_come_from_folders_that_were_renamed(folder, site, session, tmp_path):
    top = trees.release_1_1(tmp_path / "as it was")
    shutil.copytree(top / "Site8/000123/t02", tmp_path / "renamed" / folder)
    assert who(load_cohort(tmp_path / "renamed")) == [(site, "000123", session, 1)]


def test_the_site_of_a_folder_that_is_a_link(tmp_path):
    top = trees.release_1_1(tmp_path)
    (tmp_path / "mine").symlink_to(top / "Site8")
    assert {scan.site for scan in load_cohort(tmp_path / "mine")} == {"Site8"}


def test_links_are_followed_and_rings_do_not_hang(tmp_path):
    top = trees.release_1_1(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ATLAS").symlink_to(top)
    (top / "Site8" / "up").symlink_to(top)
    assert who(load_cohort(tmp_path / "here")) == WHO["R1.1"]


def test_what_macos_leaves_is_ignored(tmp_path):
    top = trees.release_1_1(tmp_path)
    (top / "Site2/031844/t01/._031844_t1w_deface_stx.nii.gz").write_bytes(b"\0\5\x16\7")
    (top / ".DS_Store").write_bytes(b"")
    assert who(load_cohort(top)) == WHO["R1.1"]


# --- what is wrong with names ---------------------------------------------------------------------


def faults(root: Path) -> list[tuple[str, str]]:
    return [(fault.kind, str(fault)) for fault in survey(root).faults]


def test_all_faults_are_listed_not_the_first(tmp_path):
    top = trees.release_1_1(tmp_path)
    assert faults(top) == []
    (top / "Site8/090012/t01/090012_LesionSmooth_stx.nii.gz").unlink()
    (top / "Site8/000123/t01/000123_t1w_deface_stx.nii.gz").unlink()
    folder = top / "Site2/031844/t01"
    trees.write(folder / "031844_t1w_deface_stx.nii", "t1")
    trees.write(folder / "031844_LesionSmooth_stx.nii", "mask")
    shutil.copytree(top / "Site8/000123/t02", top / "Site3/000123/t02")
    trees.write(top / "Site2/011111/t01/022222_t1w_deface_stx.nii.gz", "t1")
    trees.write(top / "Site2/011111/t01/022222_LesionSmooth_stx.nii.gz", "mask")
    found = faults(top)
    assert sorted(kind for kind, _ in found) == sorted(
        ["second T1", "extra mask", "no scan", "no mask", "same name", "misplaced"]
    )
    for _, text in found:
        assert str(top) in text
        assert "\n" not in text


def test_images_of_other_names_are_not_passed_over_in_silence(tmp_path):
    top = trees.release_1_1(tmp_path)
    folder = top / "Site8/090012/t01"
    copy = folder / "090012_LesionSmooth_stx (1).nii.gz"
    shutil.copy(folder / "090012_LesionSmooth_stx.nii.gz", copy)
    assert faults(top) == [("unknown name", f"{copy}: left out: no file of ATLAS has such a name")]
    assert who(load_cohort(top)) == WHO["R1.1"]  # worth a look, and no more


def test_names_that_end_in_capitals_are_known(tmp_path):
    top = trees.release_1_1(tmp_path)
    for path in list(top.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    assert who(load_cohort(top)) == WHO["R1.1"]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has other rights")
def test_a_folder_of_the_disk_itself_is_no_fault(tmp_path, without_rights):
    trees.release_1_1(tmp_path / "disk")
    (tmp_path / "disk" / "lost+found").mkdir()
    with without_rights(tmp_path / "disk" / "lost+found"):
        assert survey(tmp_path / "disk").faults == []
        assert who(load_cohort(tmp_path / "disk")) == WHO["R1.1"]


def test_leading_zeros_make_no_second_person(tmp_path):
    top = trees.release_1_1(tmp_path)
    for part in ("t1w_deface", "LesionSmooth"):
        end = "_stx.nii.gz"
        kind = "t1" if part.startswith("t1") else "mask"
        trees.write(top / "Site1/31844/t01" / f"31844_{part}{end}", kind, 5)
    with pytest.raises(DataError, match="the same subject and session as"):
        load_cohort(top)


def test_an_archive_is_pointed_out(tmp_path):
    (tmp_path / "ATLAS_R2.0_encrypted.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="atlaslib unpack"):
        load_cohort(tmp_path)
    with pytest.raises(DataError, match="atlaslib unpack"):
        load_cohort(tmp_path / "ATLAS_R2.0_encrypted.tar.gz")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has other rights")
def test_a_folder_without_rights_is_a_fault(tmp_path, without_rights):
    top = trees.release_1_1(tmp_path)
    with without_rights(top / "Site2"):
        (fault,) = survey(top).faults
        assert str(fault) == f"{top / 'Site2'}: no right to look into it"
        assert len(survey(top).scans) == 3
