"""Reading BIDS folders: which T1w goes with which mask, and what `check` says of the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bids_trees
import numpy as np
import pytest
import trees
from scipy.spatial.transform import Rotation
from volumes import save

from atlaslib import Cohort, DataError, load_cohort
from atlaslib.data.check import check_folder
from atlaslib.data.releases import survey
from atlaslib.data.volumes import read_lesion, read_scan


def summary(cohort: Cohort) -> list[tuple[str, str, str, int, str]]:
    """Subject, session, name of the T1w, number of masks, name of what they were drawn on."""
    return [
        (s.subject, s.session, s.t1.name.split(".")[0].split("_", 1 + bool(s.session))[-1],
         len(s.masks), s.drawn_on.name.split(".")[0].split("_", 1)[1] if s.drawn_on else "")
        for s in cohort
    ]  # fmt: skip


def faults(root: Path, kind: str) -> list[str]:
    return [str(fault) for fault in survey(root).faults if fault.kind == kind]


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    return bids_trees.aphasia(tmp_path)


def test_masks_on_a_t2w_go_with_the_t1w_of_the_nearest_session(arc):
    cohort = load_cohort(arc)
    assert (cohort.release, cohort.source) == ("BIDS", "Aphasia Recovery Cohort (ARC) Dataset")
    assert summary(cohort) == [
        # day 1253 is nearer to day 1076 than to day 2000
        ("sub-M2001", "ses-1076", "acq-tfl3_run-4_T1w", 1, "ses-1253_acq-spc3_run-3_T2w"),
        ("sub-M2001", "ses-2000", "acq-tfl3_run-2_T1w", 0, ""),
        # run 9 comes before run 10
        ("sub-M2002", "ses-747", "acq-tfl3p2_run-9_T1w", 1, "ses-747_acq-spc3p2_run-4_T2w"),
        # equally near: the earlier
        ("sub-M2003", "ses-100", "acq-tfl3_run-3_T1w", 1, "ses-200_acq-tse3_run-5_T2w"),
        ("sub-M2003", "ses-300", "acq-tflme3p2_run-3_T1w", 0, ""),
        ("sub-M2004", "ses-5", "acq-tfl3p2_run-3_T1w", 0, ""),
    ]
    assert cohort.labelled.subjects == ("sub-M2001", "sub-M2002", "sub-M2003")
    assert {scan.space for scan in cohort} == {"native"}
    assert sorted(s for part in cohort.split(seed=0) for s in part.subjects) == [
        "sub-M2001", "sub-M2002", "sub-M2003"
    ]  # fmt: skip


@pytest.mark.parametrize(("day", "nearest"), [("110", "ses-100"), ("290", "ses-300")])
def test_nearer_is_by_number_before_or_after(day, nearest, arc):
    for path in [p for p in arc.rglob("*M2003_ses-200*") if p.is_file()]:
        if path.suffix == ".json":
            path.write_text(path.read_text().replace("ses-200", f"ses-{day}"))
        target = Path(str(path).replace("ses-200", f"ses-{day}"))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    (scan,) = [s for s in load_cohort(arc).labelled if s.subject == "sub-M2003"]
    assert scan.session == nearest


def test_the_user_chooses_between_runs(arc):
    names = [scan.t1.name for scan in load_cohort(arc, choose="run-10")]
    assert "sub-M2002_ses-747_acq-tfl3p2_run-10_T1w.nii.gz" in names
    assert len(names) == 6  # nobody is lost who has no run 10


def test_a_mask_on_another_image_is_never_laid_over_the_t1w(arc):
    scan = load_cohort(arc)[0]
    assert read_lesion(scan).voxels.sum() == 4 * 3 * 2 + 1
    np.testing.assert_allclose(np.diag(read_lesion(scan).affine), [2, 2, 3, 1])
    with pytest.raises(DataError, match=r"on the voxels of .*T2w.nii.gz; first: atlaslib register"):
        read_scan(scan)


def test_the_fingerprint_depends_on_what_the_masks_were_drawn_on(arc):
    cohort = load_cohort(arc)[:1]
    before = cohort.fingerprint()
    bids_trees.image(cohort[0].drawn_on, 77, bids_trees.T2_AFFINE)
    # digests are kept by the date of a file: the copy has another
    other = shutil.copytree(arc, arc.parent / "copy")
    assert load_cohort(other)[:1].fingerprint() != before


def test_participants_and_json_files_join_the_table(arc):
    table = load_cohort(arc).table().set_index("subject")
    assert table.wab_aq["sub-M2003"].tolist() == [20.4, 20.4]
    assert np.isnan(table.wab_aq["sub-M2002"])
    assert table.wab_type["sub-M2002"] == "Broca"
    assert np.isnan(table.age_at_stroke["sub-M2004"])  # not listed
    assert set(table.MagneticFieldStrength) == {3}
    assert "Echo" not in table  # several values
    (arc / "sub-M2004/ses-5/anat/sub-M2004_ses-5_acq-tfl3p2_run-3_T1w.json").write_text("{")
    with pytest.raises(DataError, match=r"run-3_T1w.json: not readable as JSON"):
        load_cohort(arc).table()


def test_later_releases_of_atlas_are_read_as_bids(tmp_path):
    top = bids_trees.atlas_2_1(tmp_path)
    for root in (tmp_path, top, top / "Training"):
        cohort = load_cohort(root)
        assert [(s.site, *row) for s, row in zip(cohort, summary(cohort), strict=True)] == [
            ("R001", "sub-r001s001", "ses-1", "T1w", 1, ""),
            ("R001", "sub-r001s001", "ses-2", "T1w", 1, ""),
            ("R001", "sub-r001s002", "ses-1", "T1w", 1, ""),
            ("R009", "sub-r009s003", "ses-1", "T1w", 1, ""),
        ]
        assert cohort.release == "BIDS"
    assert read_scan(cohort[0]).mask.sum() == 4 * 3 * 2 + 1


def test_release_2_0_stays_what_it_is(tmp_path):
    top = trees.release_2_0(tmp_path)
    folder = top / "Training/R001/sub-r001s001/ses-1/anat"
    bids_trees.image(folder / "sub-r001s001_ses-1_T1w.nii.gz")  # the same scan in native space
    (top / "participants.tsv").write_text("participant_id\tx\nsub-r001s001\t1\n")
    cohort = load_cohort(top)
    assert (cohort.release, cohort.source, len(cohort)) == ("R2.0", "ATLAS R2.0", 4)
    assert {scan.space for scan in cohort} == {"MNI"}
    assert "x" not in cohort.table()


def test_a_plain_folder_without_sessions(tmp_path):
    cohort = load_cohort(bids_trees.plain(tmp_path))
    assert [(s.name, len(s.masks)) for s in cohort] == [("sub-1", 1), ("sub-10", 1), ("sub-2", 1)]
    assert cohort.source == "mine"
    assert survey(cohort.root).faults == []  # neither the FLAIR nor the brain mask


def test_sites_come_from_participants(tmp_path):
    top = bids_trees.plain(tmp_path)
    (top / "participants.tsv").write_text("participant_id\tSite\nsub-1\tA\nsub-10\tB\n")
    assert [scan.site for scan in load_cohort(top)] == ["A", "B", ""]


def test_atlas_and_a_bids_folder_at_once_are_refused(tmp_path):
    trees.release_1_1(tmp_path)
    bids_trees.plain(tmp_path)
    with pytest.raises(DataError, match=r"sub-1_T1w.nii: a BIDS folder within ATLAS R1.1"):
        load_cohort(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "derivatives/lesions/sub-1/anat/sub-1_space-T1w_label-lesion_mask.nii",
        "derivatives/lesion_masks/sub-1/anat/sub-1_T1w_mask.nii",
        "derivatives/x/sub-1/anat/sub-1_T1w_label-lesion_roi.nii",
        "derivatives/stroke/sub-1/sub-1_msk.nii",
        "sub-1/anat/sub-1_label-L_desc-T1lesion_mask.nii",
    ],
)
def test_masks_are_found_wherever_people_put_them(name, tmp_path):
    top = bids_trees.plain(tmp_path)
    old = top / "sub-1" / "anat" / "sub-1_desc-lesion_mask.nii"
    (top / name).parent.mkdir(parents=True, exist_ok=True)
    old.rename(top / name)
    assert load_cohort(top)[0].masks == (top / name,)


@pytest.mark.parametrize("name", ["sub-1_space-MNI152_desc-lesion_mask.nii", "sub-1_T1w_mask.nii",
                                  "sub-1_desc-brain_mask.nii"])  # fmt: skip
def test_what_is_no_mask_of_this_image_is_not_taken(name, tmp_path):
    top = bids_trees.plain(tmp_path)
    folder = top / "sub-1" / "anat"
    (folder / "sub-1_desc-lesion_mask.nii").rename(folder / name)
    assert load_cohort(top)[0].masks == ()
    assert len(faults(top, "no mask")) == 1


def test_lesions_are_joined_but_not_two_files_of_one_name(tmp_path):
    top = bids_trees.plain(tmp_path)
    bids_trees.mask(top / "sub-1" / "anat" / "sub-1_desc-lesion2_mask.nii")
    bids_trees.mask(top / "derivatives" / "other" / "sub-1" / "sub-1_desc-lesion_mask.nii")
    assert len(load_cohort(top)[0].masks) == 2
    (text,) = faults(top, "several candidates")
    assert "a second mask of this name" in text


# --- what check says ----------------------------------------------------------------------------


def test_check_of_a_good_folder_lists_only_what_it_chose(arc):
    found, table = check_folder(arc, progress=False)
    assert len(found.scans) == 6
    assert table.kind.tolist() == ["native space", "several candidates", "no mask"]
    assert table.blocks.tolist() == [True, False, False]
    assert (
        "run-9_T1w.nii.gz: 2 T1w images in this session; this one is used, not" in table.message[1]
    )
    assert "sub-M2004" in table.message[2]


def test_a_mask_is_checked_against_the_image_that_it_was_drawn_on(arc):
    scan = load_cohort(arc)[0]
    bids_trees.mask(scan.masks[0], bids_trees.T1_AFFINE)
    _, table = check_folder(arc, progress=False)
    assert table.kind.tolist()[:2] == ["native space", "geometry"]
    assert "not aligned with sub-M2001_ses-1253_acq-spc3_run-3_T2w.nii.gz" in table.message[1]


def test_a_mask_without_its_image(arc):
    load_cohort(arc)[0].drawn_on.unlink()
    (text,) = faults(arc, "no scan")
    assert "the image that this mask was drawn on is missing: sub-M2001_ses-1253" in text
    with pytest.raises(DataError, match="is missing: sub-M2001_ses-1253_acq-spc3_run-3_T2w"):
        load_cohort(arc)


def test_a_mask_without_any_t1w(tmp_path):
    top = bids_trees.plain(tmp_path)
    (top / "sub-2" / "anat" / "sub-2_T1w.nii").unlink()
    assert "a lesion mask without its image" in faults(top, "no scan")[0]


def test_masks_of_two_sessions_are_not_mixed(arc):
    place = "sub-M2001/ses-1300/anat/sub-M2001_ses-1300_acq-spc3_run-3_T2w"
    bids_trees.image(arc / f"{place}.nii.gz", 5)
    bids_trees.mask(arc / "derivatives/lesion_masks" / f"{place}_desc-lesion_mask.nii.gz")
    assert summary(load_cohort(arc))[0][3:] == (1, "ses-1253_acq-spc3_run-3_T2w")
    assert any("has another mask, of a nearer image" in text
               for text in faults(arc, "several candidates"))  # fmt: skip


def test_a_clone_without_content_is_one_line(arc, tmp_path):
    whole = shutil.copytree(arc, tmp_path / "whole", symlinks=True)
    bids_trees.empty_clone(arc)
    found, table = check_folder(arc, progress=False)
    assert found.scans == []
    assert table.kind.tolist().count("not downloaded") == 1
    (text,) = faults(arc, "not downloaded")
    assert "the images of 6 of 6 scans are not downloaded" in text
    assert "datalad get" in text
    with pytest.raises(DataError, match="datalad get"):
        load_cohort(arc)
    bids_trees.empty_clone(whole, keep="M2001")
    with pytest.warns(UserWarning, match="the images of 4 of 6 scans are not downloaded"):
        assert load_cohort(whole).subjects == ("sub-M2001",)


def test_pointers_of_an_unlocked_annex(tmp_path):
    """Where links are not possible, a small file of text stands for the image."""
    top = bids_trees.plain(tmp_path)
    path = top / "sub-1" / "anat" / "sub-1_T1w.nii"
    path.write_text("/annex/objects/MD5E-s8--0.nii\n")
    with pytest.warns(UserWarning, match="1 of 3 scans are not downloaded, such as sub-1_T1w.nii"):
        assert len(load_cohort(top)) == 2


def test_a_damaged_json_file_of_a_mask_is_a_warning(arc):
    path = next(arc.glob("derivatives/**/*M2001*.json"))
    path.write_text("[1]")
    assert summary(load_cohort(arc))[0][4] == "ses-1253_acq-spc3_run-3_T2w"  # by its own name
    assert "expected a JSON object" in faults(arc, "metadata")[0]
    path.write_text(json.dumps({"Sources": ["bids::sub-M2001/anat/sub-M2001_gone_T2w.nii.gz"]}))
    assert "is missing: sub-M2001_gone_T2w" in faults(arc, "no scan")[0]


def test_other_tissues_of_a_stroke_study_are_no_lesions(tmp_path):
    top = bids_trees.plain(tmp_path)
    folder = top / "derivatives" / "stroke-pipeline" / "sub-1" / "anat"
    before = load_cohort(top)[0].masks
    for name in ("label-GM_dseg", "label-CSF_mask"):
        bids_trees.mask(folder / f"sub-1_{name}.nii.gz")
    assert load_cohort(top)[0].masks == before
    bids_trees.mask(folder / "sub-1_mask.nii.gz")
    assert len(load_cohort(top)[0].masks) == len(before) + 1


def sidecar_of_a_mask(arc: Path, subject: str, **about: object) -> Path:
    """The JSON file of a subject's mask, written anew; the mask."""
    mask = next(arc.rglob(f"{subject}*mask.nii.gz"))
    mask.with_name(mask.name.replace(".nii.gz", ".json")).write_text(json.dumps(about))
    return mask


def test_a_mask_of_another_person_is_never_joined(arc):
    other = next(arc.rglob("sub-M2002*T2w.nii.gz"))
    mask = sidecar_of_a_mask(arc, "sub-M2001", SpatialReference=f"bids::{other.name}")
    (fault,) = faults(arc, "another subject")
    assert fault == f"{mask}: drawn on {other.name}, an image of another subject"
    with pytest.raises(DataError, match="an image of another subject"):
        load_cohort(arc)


def test_a_mask_on_a_derived_t1_is_not_lost_in_silence(arc):
    folder = arc / "derivatives" / "fmriprep" / "sub-M2001" / "anat"
    derived = bids_trees.image(folder / "sub-M2001_desc-preproc_T1w.nii.gz")
    sidecar_of_a_mask(arc, "sub-M2001", Sources=[f"bids::{derived.name}"])
    with pytest.raises(DataError, match="derived or left out, so the mask has no scan"):
        load_cohort(arc)


@pytest.mark.parametrize("sources", [5, True, None])
def test_a_mask_whose_sources_are_no_names_is_a_warning(sources, arc):
    mask = sidecar_of_a_mask(arc, "sub-M2001", Sources=sources)
    (fault,) = faults(arc, "metadata")
    assert f"{mask.name.split('.')[0]}.json: Sources: expected the names of images" in fault
    assert len(load_cohort(arc)) == 6


def test_the_name_of_a_person_makes_no_lesion(tmp_path):
    anat = tmp_path / "sub-stroke01" / "anat"
    bids_trees.image(anat / "sub-stroke01_T1w.nii.gz")
    lesion = bids_trees.mask(anat / "sub-stroke01_desc-lesion_mask.nii.gz")
    tissues = tmp_path / "derivatives" / "fmriprep" / "sub-stroke01" / "anat"
    bids_trees.mask(tissues / "sub-stroke01_dseg.nii.gz")
    assert load_cohort(tmp_path)[0].masks == (lesion,)


def test_sites_are_found_by_bare_numbers(tmp_path):
    top = bids_trees.plain(tmp_path)
    names = load_cohort(top).subjects
    rows = [f"{name.removeprefix('sub-')}\t{number or ''}" for number, name in enumerate(names)]
    (top / "participants.tsv").write_text("\n".join(["participant_id\tsite", *rows]) + "\n")
    expected = [str(number or "") for number in range(len(names))]
    assert [scan.site for scan in load_cohort(top)] == expected


def test_a_choice_that_no_image_answers_is_refused(arc):
    with pytest.raises(DataError, match="no T1w image has 'rnu-2' in its name"):
        load_cohort(arc, choose="rnu-2")


def test_a_mask_turned_about_the_diagonal_of_its_image_is_noticed(tmp_path):
    """The first and the last voxel stay where they are."""
    path = tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz"
    save(path, np.random.default_rng(0).integers(1, 200, (20, 20, 20)).astype(np.int16), np.eye(4))
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_rotvec(np.full(3, np.radians(30) / np.sqrt(3))).as_matrix()
    mask = path.with_name("sub-1_desc-lesion_mask.nii.gz")
    save(mask, np.ones((20, 20, 20), np.uint8), turned)
    (scan,) = load_cohort(tmp_path)
    with pytest.raises(DataError, match="not aligned with sub-1_T1w.nii.gz"):
        read_scan(scan)
