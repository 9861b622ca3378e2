"""A cohort in native space becomes one in MNI space; registration itself is stood in for."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import natives
import nibabel as nib
import numpy as np
import pytest
from natives import native
from volumes import head, save

import atlaslib
from atlaslib.__main__ import main
from atlaslib.data import standardise
from atlaslib.data.registration import Registration
from atlaslib.data.standardise import register_cohort, registered, registered_t1
from atlaslib.data.volumes import Image, read_scan

SCAN = native(shape=(90, 112, 96), zooms=(2, 2, 2))
STEP = natives.moved((6, -4, 9), (5, 0, -8))  # from the session of the T1w to that of the T2w
OTHER = native(STEP @ natives.USUAL, (80, 100, 50), (2, 2, 4))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people: the mask of one is on the T1w, that of the other on a T2w of another session."""
    top = tmp_path_factory.mktemp("bids") / "raw"
    t1, ball = head(), natives.ball()
    for subject in ("A", "B"):
        anat = top / f"sub-{subject}" / "ses-1" / "anat"
        SCAN.write(anat / f"sub-{subject}_ses-1_T1w.nii.gz", t1 + (subject == "B"))
    mask = (SCAN.image(ball) > 0.5).astype(np.uint8)
    save(top / "sub-A/ses-1/anat/sub-A_ses-1_desc-lesion_mask.nii.gz", mask, SCAN.affine)
    anat = top / "sub-B" / "ses-9" / "anat"
    OTHER.write(anat / "sub-B_ses-9_T2w.nii.gz", 100 - t1)
    mask = (OTHER.image(ball) > 0.5).astype(np.uint8)
    save(anat / "sub-B_ses-9_T2w_desc-lesion_mask.nii.gz", mask, OTHER.affine)
    (top / "participants.tsv").write_text("participant_id\tage\nsub-A\t50\nsub-B\t60\n")
    return top


def test_another_choice_is_not_mixed_with_the_first(tree, known, tmp_path):
    own, out = Path(shutil.copytree(tree, tmp_path / "raw")), tmp_path / "out"
    anat = own / "sub-A" / "ses-1" / "anat"
    for run in (1, 2):
        shutil.copy(anat / "sub-A_ses-1_T1w.nii.gz", anat / f"sub-A_ses-1_run-{run}_T1w.nii.gz")
    (anat / "sub-A_ses-1_T1w.nii.gz").unlink()
    first = atlaslib.load_cohort(own, choose="run-1")
    register_cohort(first, out, workers=1, progress=False)
    second = atlaslib.load_cohort(own, choose="run-2")
    with pytest.raises(atlaslib.DataError, match="run-1.*registered before"):
        register_cohort(second, out, workers=1, progress=False)


def test_a_corrected_table_replaces_its_copy(tree, known, tmp_path):
    own, out = Path(shutil.copytree(tree, tmp_path / "raw")), tmp_path / "out"
    for age in (50, 51):
        (own / "participants.tsv").write_text(f"participant_id\tage\nsub-A\t{age}\n")
        register_cohort(atlaslib.load_cohort(own), out, workers=1, progress=False)
        assert atlaslib.load_cohort(out).table().age[0] == age
    cohort = atlaslib.load_cohort(own)
    (own / "participants.tsv").unlink()
    with pytest.warns(UserWarning, match="no such file"):
        register_cohort(cohort, out, workers=1, progress=False)


def test_scans_that_a_chapter_loses_are_counted(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    lost = {"sub-A"}

    def register(image: Image) -> Registration:
        similarity = 0.1 if image.path.name[:5] in lost else 0.8
        return Registration(natives.USUAL, similarity, 0.7, 0.9)

    monkeypatch.setattr(standardise, "register", register)
    monkeypatch.setattr(standardise, "register_within", lambda *_: (STEP, 0.7))
    quick = partial(register_cohort, workers=1, progress=False)
    monkeypatch.setattr("atlaslib.synthetic.cohort.register_cohort", quick)
    with pytest.warns(UserWarning, match="1 of 2 scans could not be registered"):
        assert atlaslib.open_cohort(tree).subjects == ("sub-B",)
    lost.add("sub-B")
    shutil.rmtree(tmp_path / "registered")
    with pytest.raises(atlaslib.DataError, match="no scan could be registered"):
        atlaslib.open_cohort(tree)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Registration gives the maps by which the images were made; the names of the images."""
    seen = []

    def register(image: Image) -> Registration:
        seen.append(image.path.name)
        return Registration(natives.USUAL, 0.8, 0.7, 0.9)

    def register_within(image: Image, other: Image, found: Registration):
        return STEP, 0.7

    monkeypatch.setattr(standardise, "register", register)
    monkeypatch.setattr(standardise, "register_within", register_within)
    return seen


def test_a_registered_cohort_is_a_cohort_in_mni_space(tree, known, tmp_path):
    cohort = atlaslib.load_cohort(tree)
    table = register_cohort(cohort, tmp_path / "out", workers=1, progress=False)
    assert table.similarity.tolist() == [0.8, 0.8]
    assert table.problem.tolist() == ["", ""]
    made = atlaslib.load_cohort(tmp_path / "out")
    assert [(s.name, s.space, len(s.masks), s.drawn_on) for s in made] == [
        ("sub-A-ses-1", "MNI", 1, None),
        ("sub-B-ses-1", "MNI", 1, None),
    ]
    assert made.source == "raw, registered"
    ball = natives.ball() > 0
    for scan in made:  # each mask is where it was drawn, also through the other session's T2w
        mask = read_scan(scan).mask
        assert 2 * (mask & ball).sum() / (mask.sum() + ball.sum()) > 0.93
    joined = made.table()
    assert joined.age.tolist() == [50, 60]
    assert joined.Similarity.tolist() == [0.8, 0.8]
    assert len(atlaslib.SliceDataset(made, progress=False)) == 2 * 189


def test_it_goes_on_where_it_was_cut_off(tree, known, tmp_path, monkeypatch):
    own = Path(shutil.copytree(tree, tmp_path / "raw"))
    cohort, out = atlaslib.load_cohort(own), tmp_path / "out"
    register_cohort(cohort[:1], out, workers=1, progress=False)
    assert len(register_cohort(cohort, out, workers=1, progress=False)) == 2
    assert known == ["sub-A_ses-1_T1w.nii.gz", "sub-B_ses-1_T1w.nii.gz"]
    mask = next(own.rglob("sub-A*mask.nii.gz"))  # a corrected mask is not overlooked
    save(mask, np.zeros(SCAN.shape, np.uint8), SCAN.affine)
    assert registered(cohort[0], out) is None
    assert registered(cohort[1], out) is not None
    monkeypatch.setattr(
        standardise, "register", lambda _: Registration(natives.USUAL, 0.1, 0.7, 0.9)
    )
    table = register_cohort(cohort, out, workers=1, progress=False)
    assert ["failed" in problem for problem in table.problem] == [True, False]
    assert atlaslib.load_cohort(out).subjects == ("sub-B",)  # what is out of date is not left


def test_without_the_extra_a_cohort_gets_one_line(tree, tmp_path, monkeypatch, capsys):
    def missing(image: Image) -> Registration:
        raise atlaslib.DataError("to register it, install antspyx", "not installed")

    monkeypatch.setattr(standardise, "register", missing)
    assert main(["register", str(tree), str(tmp_path / "out"), "--workers", "1"]) == 1
    printed = capsys.readouterr().err
    assert [line for line in printed.splitlines() if "antspyx" in line] == [
        "atlaslib: to register it, install antspyx"
    ]


def test_a_scan_that_fails_leaves_no_image_and_an_exit_code(
    tree, known, tmp_path, monkeypatch, capsys
):
    """The other scan is registered all the same, and is on the contact sheet."""

    def register(image: Image) -> Registration:
        return Registration(natives.USUAL, 0.21 if "sub-A" in image.path.name else 0.8, 0.7, 0.9)

    monkeypatch.setattr(standardise, "register", register)
    out = tmp_path / "out"
    assert main(["register", str(tree), str(out), "--workers", "1"]) == 1
    printed = capsys.readouterr()
    (line,) = [text for text in printed.err.splitlines() if text.startswith("atlaslib: ")]
    assert line.endswith(
        "sub-A_ses-1_T1w.nii.gz: registration failed: similarity 0.21, at least 0.45 is needed"
    )
    assert "1 of 2 scans registered, similarity 0.80 to 0.80" in printed.out
    assert atlaslib.load_cohort(out).subjects == ("sub-B",)
    assert not (out / "sub-A").exists()
    assert (out / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_json_file_of_a_registered_scan_is_one_line(tree, known, tmp_path):
    cohort, out = atlaslib.load_cohort(tree)[:1], tmp_path / "out"
    register_cohort(cohort, out, workers=1, progress=False)
    path = registered_t1(cohort[0], out)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**about, "Affine": [1, 2]}))
    with pytest.raises(atlaslib.DataError, match=r"desc-affine_T1w.json: damaged"):
        registered(cohort[0], out)


def test_a_cohort_in_mni_space_is_refused(cohort, tmp_path):
    with pytest.raises(atlaslib.DataError, match="is in MNI space already"):
        register_cohort(cohort, tmp_path / "out")
    assert nib.load(cohort[0].t1).shape == (197, 233, 189)


def test_a_chapter_on_a_folder_in_native_space_works_on_the_registered_scans(
    tree, known, monkeypatch
):
    alone = partial(register_cohort, workers=1, progress=False)
    monkeypatch.setattr("atlaslib.synthetic.cohort.register_cohort", alone)
    for _ in range(2):
        cohort = atlaslib.open_cohort(tree)
        assert cohort.subjects == ("sub-A", "sub-B")
        assert all(scan.space == "MNI" and scan.masks for scan in cohort)
        assert cohort.source == "raw, registered"
        assert known == ["sub-A_ses-1_T1w.nii.gz", "sub-B_ses-1_T1w.nii.gz"]  # once each
    assert atlaslib.SliceDataset(cohort, progress=False).table.lesion_pixels.sum() > 1000


def test_another_cohort_in_the_folder_is_left_alone(tree, known, tmp_path, monkeypatch):
    out = tmp_path / "out"
    register_cohort(atlaslib.load_cohort(tree), out, workers=1, progress=False)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*.*"))}
    other = atlaslib.load_cohort(shutil.copytree(tree, tmp_path / "other"))
    with pytest.raises(atlaslib.DataError, match='out: holds the dataset "raw, registered"'):
        register_cohort(other, out, workers=1, progress=False)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.*"))} == before


@pytest.mark.parametrize("place", ["", "mni"])
def test_registered_scans_are_not_mixed_with_their_sources(place, tree, known, tmp_path):
    own = Path(shutil.copytree(tree, tmp_path / "raw"))
    cohort = atlaslib.load_cohort(own)
    with pytest.raises(atlaslib.DataError, match='write to another one, or to its "derivatives"'):
        register_cohort(cohort, own / place, workers=1, progress=False)
    register_cohort(cohort, own / "derivatives" / "mni", workers=1, progress=False)
    assert {scan.space for scan in atlaslib.load_cohort(own)} == {"native"}


@pytest.mark.parametrize("lost", ["desc-affine_T1w", "desc-lesion_mask"])
def test_a_registered_image_that_was_lost_is_made_again(lost, tree, known, tmp_path):
    cohort, out = atlaslib.load_cohort(tree), tmp_path / "out"
    register_cohort(cohort, out, workers=1, progress=False)
    path = next(out.rglob(f"sub-B*{lost}.nii.gz"))
    content = path.read_bytes()
    path.unlink()
    table = register_cohort(cohort, out, workers=1, progress=False)
    assert table.problem.tolist() == ["", ""]
    assert path.read_bytes() == content
    assert len(known) == 3
