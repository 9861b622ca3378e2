"""The synthetic cohort: files, determinism, refusals, and a subject's second session."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from folders import contents

from atlaslib.data.cohort import EXACT, METADATA, SYNTHETIC_MARK, Cohort
from atlaslib.data.releases import load_cohort, survey
from atlaslib.data.volumes import read_lesion
from atlaslib.files import DataError
from atlaslib.synthetic import anatomy
from atlaslib.synthetic import cohort as synthetic
from atlaslib.synthetic.cohort import fit_lesions, make_cohort, make_scan, open_cohort
from atlaslib.synthetic.people import Person, draw_people
from atlaslib.synthetic.scanner import SCANNERS

SUBJECTS = 2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("made") / "with a space"
    return make_cohort(root, SUBJECTS, seed=5, workers=2, progress=False)


@pytest.fixture
def other(cohort: Cohort, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may damage."""
    return Path(shutil.copytree(cohort.root, tmp_path / "copy"))


def test_the_same_seed_gives_the_same_bytes_with_one_worker(cohort, tmp_path):
    again = make_cohort(tmp_path / "b", SUBJECTS, seed=5, workers=1, progress=False)
    assert contents(again.root) == contents(cohort.root)
    assert again.fingerprint() == cohort.fingerprint()


def test_shifted_scanners_image_the_same_people(cohort, tmp_path, monkeypatch):
    person, ours = draw_people(SUBJECTS, seed=5)[1], cohort[1]
    theirs = make_scan(person, "t01", shifted=True)
    assert person.subject == ours.subject
    np.testing.assert_array_equal(read_lesion(ours).voxels, np.any(theirs.masks, axis=0))
    assert not np.array_equal(np.asarray(nib.load(ours.t1).dataobj), theirs.t1)
    asked = []

    def make(person: Person, session: str, shifted: bool) -> object:
        asked.append((person.subject, shifted))
        return dataclasses.replace(theirs, masks=theirs.masks[: len(person.lesions)])

    monkeypatch.setattr(synthetic, "make_scan", make)
    unseen = make_cohort(tmp_path / "b", SUBJECTS, seed=5, progress=False, shifted=True)
    assert sorted(asked) == sorted((scan.subject, True) for scan in unseen)


def test_an_unfinished_cohort_is_refused(other):
    mark = json.loads((other / SYNTHETIC_MARK).read_text())
    (other / SYNTHETIC_MARK).write_text(json.dumps({**mark, "complete": False, "files": 0}))
    with pytest.raises(DataError, match="unfinished"):
        load_cohort(other)


def test_a_session_that_another_process_made_is_left(other):
    person = draw_people(SUBJECTS, seed=5)[0]
    before = (other / person.folder("t01")).stat().st_ino
    synthetic._write_scan(other, person, "t01", False)
    assert (other / person.folder("t01")).stat().st_ino == before


def test_the_folder_layout_is_that_of_release_1_1(cohort):
    assert cohort.synthetic
    assert len(cohort) == SUBJECTS
    assert load_cohort(cohort.root).scans == cohort.scans
    for scan in cohort:
        folder = cohort.root / scan.site / scan.subject / scan.session
        assert scan.t1 == folder / f"{scan.subject}_t1w_deface_stx.nii.gz"
        names = ["", *(f"_{i}" for i in range(1, len(scan.masks)))]
        expected = {f"{scan.subject}_LesionSmooth{name}_stx.nii.gz" for name in names}
        assert {path.name for path in scan.masks} == expected
        assert {path.name for path in folder.iterdir()} == expected | {
            scan.t1.name,
            f"{scan.subject}{EXACT}",
        }
    assert not survey(cohort.root).faults
    assert not [name for name in contents(cohort.root) if "/." in name or name.startswith(".")]


def test_every_file_lies_on_the_grid_of_the_template(cohort):
    expected = np.array([[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
    for scan in cohort:
        for path in (scan.t1, *scan.masks):
            image = nib.load(path)
            assert image.shape == (197, 233, 189)
            assert image.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(image.affine, expected)
            np.testing.assert_array_equal(image.get_qform(), expected)
            # flags 0: no name in the header; then four bytes of time
            assert path.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def test_masks_hold_one_value_and_do_not_overlap(cohort):
    for scan in cohort:
        total = np.zeros((197, 233, 189), int)
        for path in scan.masks:
            voxels = np.asarray(nib.load(path).dataobj)
            assert set(np.unique(voxels)) in ({0, 1}, {0, 255})
            total += voxels > 0
        assert total.max() == 1
    values = {scanner.mask_value for scanner in SCANNERS}
    assert values == {1, 255}


def test_lesions_are_darker_than_the_brain_around_them(cohort):
    for scan in cohort:
        t1 = np.asarray(nib.load(scan.t1).dataobj).astype(float)
        brain = t1[70:127, 90:140, 85:110]
        assert brain.min() > 0
        for path in scan.masks:
            lesion = t1[np.asarray(nib.load(path).dataobj) > 0]
            assert lesion.mean() < 0.8 * np.median(brain)
        assert 60 < np.percentile(t1[t1 > 0], 90) < 180


def test_the_metadata_has_the_columns_and_quirks_of_release_1_1(cohort):
    table = pd.read_csv(cohort.root / METADATA, dtype=str, keep_default_na=False)
    assert list(table.columns) == [
        "INDI Site ID",
        "INDI Subject ID",
        "Session",
        "# Strokes LH Cortical",
        "# Strokes LH subcortical",
        "# Strokes RH Cortical",
        "# Strokes RH subcortical",
        "Other Location",
        "Stroke type",
        "Primary Stroke Location",
        "Primary Stroke Location Hemisphere",
        "Vascular territory",
        "PVH",
        "DWMH",
        "Notes",
    ]
    assert list(table["INDI Subject ID"]) == [scan.subject for scan in cohort]
    assert set(table["Session"]) == {" t01"}
    counts = table.iloc[:, 3:8].astype(int).sum(axis=1)
    assert list(counts) == [len(scan.masks) for scan in cohort]


def test_a_finished_cohort_is_loaded_not_made_again(cohort, monkeypatch):
    monkeypatch.setattr(synthetic, "draw_people", None)
    again = make_cohort(cohort.root, SUBJECTS, seed=5, progress=False)
    assert again.scans == cohort.scans


@pytest.mark.parametrize("lost", ["session", "mask"])
def test_an_interrupted_cohort_is_continued(lost, cohort, other, monkeypatch):
    scan = load_cohort(other).scans[1]
    if lost == "session":
        shutil.rmtree(scan.t1.parent)
    else:
        scan.masks[0].unlink()
    (other / METADATA).unlink()
    (other / ".making-killed").mkdir()
    mark = json.loads((other / SYNTHETIC_MARK).read_text())
    (other / SYNTHETIC_MARK).write_text(json.dumps({**mark, "complete": False, "files": 0}))
    made = []
    write = synthetic._write_scan
    monkeypatch.setattr(synthetic, "_write_scan", lambda *job: made.append(job) or write(*job))
    make_cohort(other, SUBJECTS, seed=5, progress=False)
    assert [job[1].subject for job in made] == [scan.subject]
    assert contents(other) == contents(cohort.root)


def test_a_failure_leaves_no_partial_files(tmp_path, monkeypatch):
    def full(path: Path, voxels: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "_write_nifti", full)
    with pytest.raises(OSError, match="No space"):
        make_cohort(tmp_path / "c", 1, progress=False)
    assert set(contents(tmp_path / "c")) == {SYNTHETIC_MARK}
    assert json.loads((tmp_path / "c" / SYNTHETIC_MARK).read_text())["complete"] is False


def test_a_folder_with_other_content_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.txt") as error:
        make_cohort(tmp_path, 1, progress=False)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_cohort_with_unexpected_files_or_other_settings_is_refused(other):
    with pytest.raises(DataError, match="subjects 3"):
        make_cohort(other, 3, seed=5, progress=False)
    with pytest.raises(DataError, match="seed 6"):
        make_cohort(other, SUBJECTS, seed=6, progress=False)
    (other / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        make_cohort(other, SUBJECTS, seed=5, progress=False)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{"])
def test_a_damaged_marker_file_is_refused(tmp_path, content):
    (tmp_path / SYNTHETIC_MARK).write_text(content)
    with pytest.raises(DataError, match=r"synthetic\.json"):
        make_cohort(tmp_path, 1, progress=False)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        make_cohort(tmp_path / "file", 1, progress=False)


@pytest.mark.parametrize(
    "arguments",
    [{"subjects": 0}, {"subjects": -3}, {"subjects": 2.5}, {"subjects": True}, {"subjects": 10_000},
     {"seed": -1}, {"seed": "a"}, {"workers": 0}],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))) as error:
        make_cohort(tmp_path / "new", **{"subjects": 1, **arguments})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_open_cohort_takes_a_folder_or_a_profile(cohort, tmp_path, monkeypatch):
    assert open_cohort(cohort.root).scans == cohort.scans
    with pytest.raises(ValueError, match="smoke, quick, colab, paper"):
        open_cohort(profile="large")
    asked = []
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic, "make_cohort", lambda *given: asked.append(given))
    open_cohort(profile="quick")
    assert asked == [(tmp_path / "synthetic" / f"64-subjects-{synthetic.GENERATOR}", 64)]


def test_a_second_session_shows_the_same_lesions_a_little_changed():
    person = next(p for p in draw_people(40, seed=0) if len(p.sessions) == 2)
    first, second = (fit_lesions(person, session)[1] for session in person.sessions)
    masks = np.zeros((2, *anatomy.SHAPE), bool)
    for session, lesions in enumerate((first, second)):
        for _, fitted in lesions:
            masks[session][fitted.box] |= fitted.mask
    assert 1.0 < masks[1].sum() / masks[0].sum() < 1.1
    dice = 2 * (masks[0] & masks[1]).sum() / masks.sum()
    assert 0.6 < dice < 1


def test_gzip_reads_the_files(cohort):
    raw = gzip.decompress(cohort[0].t1.read_bytes())
    assert len(raw) == 352 + 197 * 233 * 189
