"""Every release of ATLAS in every state of unpacking, and what is said of the wrong ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
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


# --- metadata -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "Site8"])
def test_metadata_of_1_1_is_joined_by_subject_and_session(inside, tmp_path):
    table = (
        load_cohort(trees.release_1_1(tmp_path) / inside).table().set_index(["subject", "session"])
    )
    kinds = table["Stroke type"].to_dict()
    assert kinds["000123", "t01"] == "Lacunar"
    assert kinds["000123", "t02"] == "Later"
    assert kinds["090012", "t01"] != kinds["090012", "t01"]  # not mentioned: empty
    assert inside or kinds["031844", "t01"] == "Embolic"
    assert len(table) == (3 if inside else 4)


@pytest.mark.parametrize(
    "columns",
    [
        {"Subject ID": ["sub-r001s001", "sub-r009s003"], "Session": ["ses-1", "ses-1"]},
        {"BIDS_ID": ["r009s003 ", "R001S001"][::-1]},
        {"participant": ["sub-r001s001", "sub-r009s003"], "Sessions": [1, 1]},
    ],
)
def test_metadata_of_2_0_is_joined_from_a_workbook(columns, tmp_path):
    top = trees.release_2_0(tmp_path)
    trees.workbook(top / "20200101_ATLAS_2.0_MetaData.xlsx", {**columns, "Days": [100, 2000]})
    for root in (tmp_path, top, top / "Training"):
        days = load_cohort(root).table().set_index("subject").Days
        assert days["sub-r001s001"] == 100
        assert days["sub-r009s003"] == 2000
        assert np.isnan(days["sub-r001s002"])


@pytest.mark.parametrize(
    "columns",
    [
        {"Subject": ["c0003s0002", "c0003s0002", "c0010s0001"], "Session": [" t01", "t02", "t01"]},
        {"INDI ID": ["C0003s0002", "c0003s0002", "c0010s0001"], "Visit": ["t01", "t02", "t01"]},
        {"Scan": ["c0003s0002t01", "c0003s0002t02", "c0010s0001t01"]},
    ],
)
def test_metadata_of_1_2_is_joined_from_whichever_sheet_holds_it(columns, tmp_path):
    top = trees.release_1_2(tmp_path)
    with pd.ExcelWriter(top / "ATLAS_Meta-Data_Release_1.2.xlsx") as book:
        pd.DataFrame({"Legend": ["LH: left hemisphere"]}).to_excel(book, sheet_name="read me")
        data = pd.DataFrame({**columns, "Lesions": [1, 2, 3]})
        data.to_excel(book, sheet_name="data", index=False)
    table = load_cohort(top).table().set_index(["subject", "session"])
    assert table.Lesions.dropna().to_dict() == {
        ("c0003s0002", "t01"): 1, ("c0003s0002", "t02"): 2, ("c0010s0001", "t01"): 3,
    }  # fmt: skip
    assert len(table) == 4


@pytest.mark.parametrize("separator", [";", "\t"])
def test_metadata_may_be_separated_as_other_countries_do(separator, tmp_path):
    top = trees.release_1_1(tmp_path)
    path = next(top.glob("*.csv"))
    path.write_text(path.read_text().replace(",", separator))
    assert list(load_cohort(top).table()["Stroke type"].dropna()) == ["Embolic", "Lacunar", "Later"]


def test_metadata_of_other_people_is_left_alone(tmp_path):
    top = trees.release_2_0(tmp_path)
    trees.workbook(top / "metadata.xlsx", {"Subject ID": ["x", "y"], "Days": [1, 2]})
    assert list(load_cohort(top).table()) == ["subject", "session", "site", "masks", "t1"]


def test_a_damaged_workbook_is_one_line(tmp_path):
    top = trees.release_2_0(tmp_path)
    (top / "metadata.xlsx").write_bytes(b"no workbook")
    cohort = load_cohort(top)
    with pytest.raises(DataError, match=r"metadata.xlsx: not a readable table") as error:
        cohort.table()
    assert "\n" not in str(error.value)


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
