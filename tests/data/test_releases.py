"""Finding the scans of every release of ATLAS, however it was unpacked, and faults in names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import trees

import atlaslib
from atlaslib import DataError, load_cohort
from atlaslib.data.releases import survey
from atlaslib.data.volumes import read_scan

WRITERS = {"R1.1": trees.release_1_1, "R1.2": trees.release_1_2, "R2.0": trees.release_2_0}
EXPECTED = {
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


def summary(cohort: atlaslib.Cohort) -> list[tuple[str, str, str, int]]:
    return [(s.site, s.subject, s.session, len(s.masks)) for s in cohort]


@pytest.mark.parametrize("end", [".nii.gz", ".nii"])
def test_a_release_is_recognised_from_its_folder_or_above(release, end, tmp_path):
    top = WRITERS[release](tmp_path / "my downloads", end)
    for root in (top, top.parent):
        cohort = load_cohort(root)
        assert cohort.release == release
        assert cohort.source == f"ATLAS {release}"
        assert summary(cohort) == EXPECTED[release]
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
    assert set(summary(part)) <= set(summary(whole))
    monkeypatch.chdir(top / inside)
    assert summary(load_cohort(".")) == summary(part)


def test_the_fingerprint_does_not_depend_on_the_starting_folder(release, tmp_path):
    top = WRITERS[release](tmp_path)
    assert load_cohort(top).fingerprint() == load_cohort(tmp_path).fingerprint()


def test_test_scans_are_listed_but_not_used_for_training(tmp_path):
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
    moved = shutil.move(top, tmp_path / "testing" / top.name)  # "testing" is the user's own folder
    with pytest.raises(DataError, match=r"sub-r009s003.*without a lesion mask"):
        load_cohort(moved)
    bare = shutil.move(Path(moved) / "Training", tmp_path / "testing" / "mine")
    with pytest.raises(DataError, match=r"sub-r009s003.*without a lesion mask"):
        load_cohort(bare)


def test_native_space_is_left_out_if_mni_is_present(tmp_path):
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
    with pytest.raises(DataError, match=r"holds R1.1 .* and R2.0 .*choose one"):
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
        ("t02/Site8/000123", "Site8", "t01"),  # above the site, it is not a session
    ],
)
def test_site_and_session_are_found_in_renamed_folders(folder, site, session, tmp_path):
    top = trees.release_1_1(tmp_path / "as it was")
    shutil.copytree(top / "Site8/000123/t02", tmp_path / "renamed" / folder)
    assert summary(load_cohort(tmp_path / "renamed")) == [(site, "000123", session, 1)]


def test_the_site_is_found_through_a_link(tmp_path):
    top = trees.release_1_1(tmp_path)
    (tmp_path / "mine").symlink_to(top / "Site8")
    assert {scan.site for scan in load_cohort(tmp_path / "mine")} == {"Site8"}


def test_links_are_followed_without_endless_loops(tmp_path):
    top = trees.release_1_1(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ATLAS").symlink_to(top)
    (top / "Site8" / "up").symlink_to(top)
    assert summary(load_cohort(tmp_path / "here")) == EXPECTED["R1.1"]


def test_resource_files_of_macos_are_ignored(tmp_path):
    top = trees.release_1_1(tmp_path)
    (top / "Site2/031844/t01/._031844_t1w_deface_stx.nii.gz").write_bytes(b"\0\5\x16\7")
    (top / ".DS_Store").write_bytes(b"")
    assert summary(load_cohort(top)) == EXPECTED["R1.1"]


# --- faults in names ----------------------------------------------------------------------------


def faults(root: Path) -> list[tuple[str, str]]:
    return [(fault.kind, str(fault)) for fault in survey(root).faults]


def test_all_faults_are_listed_not_just_the_first(tmp_path):
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


def test_images_with_unknown_names_are_reported(tmp_path):
    top = trees.release_1_1(tmp_path)
    folder = top / "Site8/090012/t01"
    copy = folder / "090012_LesionSmooth_stx (1).nii.gz"
    shutil.copy(folder / "090012_LesionSmooth_stx.nii.gz", copy)
    assert faults(top) == [("unknown name", f"{copy}: ignored: not a file name used by ATLAS")]
    assert summary(load_cohort(top)) == EXPECTED["R1.1"]  # only a warning


def test_extensions_in_capitals_are_recognised(tmp_path):
    top = trees.release_1_1(tmp_path)
    for path in list(top.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    assert summary(load_cohort(top)) == EXPECTED["R1.1"]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_system_folders_of_a_disk_are_ignored(tmp_path, unreadable):
    trees.release_1_1(tmp_path / "disk")
    (tmp_path / "disk" / "lost+found").mkdir()
    with unreadable(tmp_path / "disk" / "lost+found"):
        assert survey(tmp_path / "disk").faults == []
        assert summary(load_cohort(tmp_path / "disk")) == EXPECTED["R1.1"]


def test_leading_zeros_do_not_make_another_subject(tmp_path):
    top = trees.release_1_1(tmp_path)
    for part in ("t1w_deface", "LesionSmooth"):
        end = "_stx.nii.gz"
        kind = "t1" if part.startswith("t1") else "mask"
        trees.write(top / "Site1/31844/t01" / f"31844_{part}{end}", kind, 5)
    with pytest.raises(DataError, match="the same subject and session as"):
        load_cohort(top)


def test_an_archive_gives_a_hint_to_unpack_it(tmp_path):
    (tmp_path / "ATLAS_R2.0_encrypted.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="atlaslib unpack"):
        load_cohort(tmp_path)
    with pytest.raises(DataError, match="atlaslib unpack"):
        load_cohort(tmp_path / "ATLAS_R2.0_encrypted.tar.gz")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_an_unreadable_folder_is_a_fault(tmp_path, unreadable):
    top = trees.release_1_1(tmp_path)
    with unreadable(top / "Site2"):
        (fault,) = survey(top).faults
        assert str(fault) == f"{top / 'Site2'}: permission denied"
        assert len(survey(top).scans) == 3
