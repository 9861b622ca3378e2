"""The synthetic cohort: files, determinism, refusals, anatomy and statistics."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from atlaslib import anatomy, infarcts, synthetic
from atlaslib.cohort import METADATA, SYNTHETIC_MARK, Cohort, DataError, load_cohort
from atlaslib.people import Person, draw_people, metadata
from atlaslib.synthetic import carve_lesions, lay, make_cohort, open_cohort

# lesion volume of the 655 public scans of R2.0, in mm3 (Liew et al. 2022)
PUBLISHED = {10: 380, 25: 1_170, 50: 5_290, 75: 36_055, 90: 106_089}
SUBJECTS = 3


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("made") / "with a space"
    return make_cohort(root, SUBJECTS, seed=5, workers=2, progress=False)


@pytest.fixture
def other(cohort: Cohort, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may damage."""
    for name, content in contents(cohort.root).items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "copy"


def test_the_same_seed_gives_the_same_bytes_with_one_worker(cohort, tmp_path):
    again = make_cohort(tmp_path / "b", SUBJECTS, seed=5, workers=1, progress=False)
    assert contents(again.root) == contents(cohort.root)
    assert again.fingerprint() == cohort.fingerprint()


def test_the_tree_is_that_of_release_1_1(cohort):
    assert cohort.synthetic
    assert len(cohort) == SUBJECTS
    assert load_cohort(cohort.root).scans == cohort.scans
    for scan in cohort:
        folder = cohort.root / scan.site / scan.subject / scan.session
        assert scan.t1 == folder / f"{scan.subject}_t1w_deface_stx.nii.gz"
        names = ["", *(f"_{i}" for i in range(1, len(scan.masks)))]
        expected = {f"{scan.subject}_LesionSmooth{name}_stx.nii.gz" for name in names}
        assert {path.name for path in scan.masks} == expected
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
    values = {scanner.mask_value for scanner in synthetic.SCANNERS}
    assert values == {1, 255}


def test_lesions_are_darker_than_the_brain_around_them(cohort):
    for scan in cohort:
        t1 = np.asarray(nib.load(scan.t1).dataobj).astype(float)
        brain = t1[70:127, 90:140, 85:110]
        for path in scan.masks:
            lesion = t1[np.asarray(nib.load(path).dataobj) > 0]
            assert lesion.mean() < 0.8 * np.median(brain)
        assert 75 < np.percentile(t1[t1 > 0], 90) < 125


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
    assert [f"0{name}" for name in table["INDI Subject ID"]] == [scan.subject for scan in cohort]
    assert set(table["Session"]) == {" t01"}
    counts = table.iloc[:, 3:8].astype(int).sum(axis=1)
    assert list(counts) == [len(scan.masks) for scan in cohort]


def test_a_finished_cohort_is_loaded_not_made(cohort, monkeypatch):
    monkeypatch.setattr(synthetic, "draw_people", None)
    again = make_cohort(cohort.root, SUBJECTS, seed=5, progress=False)
    assert again.scans == cohort.scans


def test_an_interrupted_cohort_is_continued(cohort, other, monkeypatch):
    scans = load_cohort(other).scans
    for path in (scans[0].t1, *scans[0].masks):  # never begun
        path.unlink()
    scans[0].t1.parent.rmdir()
    scans[1].masks[0].unlink()  # has lost a file
    (other / METADATA).unlink()
    (other / ".making-killed").mkdir()
    mark = json.loads((other / SYNTHETIC_MARK).read_text())
    (other / SYNTHETIC_MARK).write_text(json.dumps({**mark, "complete": False, "files": 0}))
    made = []
    write = synthetic._write_scan
    monkeypatch.setattr(synthetic, "_write_scan", lambda *job: made.append(job) or write(*job))
    make_cohort(other, SUBJECTS, seed=5, progress=False)
    assert {job[1].subject for job in made} == {scans[0].subject, scans[1].subject}
    assert contents(other) == contents(cohort.root)


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path: Path, voxels: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "_write_nifti", full)
    with pytest.raises(OSError, match="No space"):
        make_cohort(tmp_path / "c", 1, progress=False)
    assert set(contents(tmp_path / "c")) == {SYNTHETIC_MARK}
    assert json.loads((tmp_path / "c" / SYNTHETIC_MARK).read_text())["complete"] is False


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.txt") as error:
        make_cohort(tmp_path, 1, progress=False)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_cohort_with_strangers_or_other_settings_is_refused(other):
    with pytest.raises(DataError, match="subjects 4"):
        make_cohort(other, 4, seed=5, progress=False)
    with pytest.raises(DataError, match="seed 6"):
        make_cohort(other, SUBJECTS, seed=6, progress=False)
    (other / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        make_cohort(other, SUBJECTS, seed=5, progress=False)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{"])
def test_a_damaged_mark_is_refused(tmp_path, content):
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
    with pytest.raises(ValueError, match="smoke, quick, paper"):
        open_cohort(profile="large")
    asked = []
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic, "make_cohort", lambda *given: asked.append(given))
    open_cohort(profile="quick")
    assert asked == [(tmp_path / "synthetic" / f"quick-{synthetic.GENERATOR}", 100)]


# Who is in it


def test_people_are_spread_as_in_release_1_1():
    people = draw_people(220, seed=1)
    counts = Counter(person.site for person in people)
    assert [counts[site] for site in range(1, 10)] == [55, 34, 27, 12, 27, 14, 11, 26, 14]
    repeated = [person for person in people if person.sessions == ("t01", "t02")]
    assert len(repeated) == 9
    assert {person.site for person in repeated} == {8}
    names = [person.subject for person in people]
    assert len(set(names)) == 220
    assert all(len(name) == 6 and name.startswith("09") for name in names)
    assert set(metadata(people)["Session"]) == {" t01", " t02"}


@pytest.mark.parametrize("subjects", [1, 2, 8, 9, 37])
def test_any_number_of_people_can_be_drawn(subjects):
    people = draw_people(subjects, seed=0)
    assert len(people) == subjects
    assert min(lesion.volume for person in people for lesion in person.lesions) >= 13
    assert all(np.isfinite(lesion.centre).all() for p in people for lesion in p.lesions)


def test_people_depend_on_the_seed_alone():
    def lesions(seed: int) -> list[object]:
        return [person.lesions for person in draw_people(20, seed)]

    assert lesions(3) == lesions(3)
    assert lesions(3) != lesions(4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planned_volumes_follow_release_2(seed):
    people = draw_people(200, seed)
    totals = [sum(lesion.volume for lesion in p.lesions) for p in people for _ in p.sessions]
    for percent, published in PUBLISHED.items():
        assert 1 / 1.3 < np.percentile(totals, percent) / published < 1.3, percent
    assert 0.75 < np.mean(totals) / 33_226 < 1.25


def test_planned_numbers_sides_and_sites_follow_release_1_1():
    people = draw_people(220, seed=0)
    numbers = np.bincount([len(person.lesions) for person in people])[1:] / len(people)
    np.testing.assert_allclose(numbers, infarcts.NUMBER_SHARES, atol=0.06)
    left = np.mean([person.lesions[0].side < 0 for person in people])
    assert left == pytest.approx(53 / 92, abs=0.01)
    kinds = Counter(lesion.kind for person in people for lesion in person.lesions)
    share = {kind: count / kinds.total() for kind, count in kinds.items()}
    # R1.1: subcortical 74 %, cortical 18 %, other 8 %; a territory involves both of the first
    assert 0.5 < share["subcortical"] < share["subcortical"] + share["territory"] < 0.85
    assert 0.03 < share["brainstem"] + share["cerebellum"] < 0.15


# Anatomy


def region_at(field: np.ndarray, box: anatomy.Box) -> np.ndarray:
    """The template's regions in the subject's space, by nearest neighbour."""
    index = np.rint(anatomy.places(field, box)).astype(int)
    index = np.clip(index, 0, np.array(anatomy.SHAPE)[:, None, None, None] - 1)
    return anatomy.template().region[tuple(index)]


def test_lesions_lie_in_brain_tissue_and_have_the_planned_volume():
    people = [p for p in draw_people(40, seed=2) if p.lesions[0].volume < 40_000]
    kinds = set()
    for person in people[:10]:
        field, lesions = carve_lesions(person, "t01")
        for lesion, carved in lesions:
            assert int(carved.mask.sum()) == lesion.volume
            found = region_at(field, carved.box)[carved.mask]
            assert not np.isin(found, (anatomy.OUTSIDE, anatomy.VENTRICLE)).any()
            below = np.isin(found, (anatomy.BRAINSTEM, anatomy.CEREBELLUM))
            assert below.all() if lesion.kind in ("brainstem", "cerebellum") else not below.any()
            kinds.add(lesion.kind)
    assert len(kinds) >= 3


def test_the_ventricle_beside_a_large_lesion_is_the_larger_one():
    box = (slice(48, 149), slice(60, 190), slice(45, 115))  # symmetric about x = 0
    people = [p for p in draw_people(40, seed=0) if p.lesions[0].volume > 30_000]
    people = [p for p in people if {lesion.side for lesion in p.lesions} == {p.lesions[0].side}]
    ratios = []
    for person in people:
        ventricle = region_at(lay(person, "t01")[0], box) == anatomy.VENTRICLE
        left, right = int(ventricle[:50].sum()), int(ventricle[51:].sum())
        ratios.append(left / right if person.lesions[0].side < 0 else right / left)
    assert len(ratios) >= 5
    assert min(ratios) > 1.0
    assert np.mean(ratios) > 1.2


def test_a_second_session_shows_the_same_lesions_a_little_changed():
    person = next(p for p in draw_people(40, seed=0) if len(p.sessions) == 2)
    first, second = (carve_lesions(person, session)[1] for session in person.sessions)
    masks = np.zeros((2, *anatomy.SHAPE), bool)
    for session, lesions in enumerate((first, second)):
        for _, carved in lesions:
            masks[session][carved.box] |= carved.mask
    assert 1.0 < masks[1].sum() / masks[0].sum() < 1.1
    dice = 2 * (masks[0] & masks[1]).sum() / masks.sum()
    assert 0.6 < dice < 1


@pytest.mark.slow
def test_volumes_and_slices_of_200_subjects_follow_release_2():
    """Three minutes on two cores: every lesion of 208 scans is fitted into its anatomy."""

    def measure(job: tuple[Person, str]) -> tuple[int, int]:
        mask = np.zeros(anatomy.SHAPE, bool)
        for _, carved in carve_lesions(*job)[1]:
            mask[carved.box] |= carved.mask
        return int(mask.sum()), int(mask.any(axis=(0, 1)).sum())

    anatomy.template()
    jobs = [(person, s) for person in draw_people(200, seed=0) for s in person.sessions]
    with ThreadPoolExecutor(2) as pool:
        volumes, slices = np.array(list(pool.map(measure, jobs))).T
    for percent, published in PUBLISHED.items():
        assert 1 / 1.3 < np.percentile(volumes, percent) / published < 1.3, percent
    assert np.mean(slices) == pytest.approx(50, abs=5)  # R2.0: mean 50, median 45
    assert np.median(slices) == pytest.approx(45, abs=5)


def test_a_fresh_header_is_readable_by_gzip(cohort):
    raw = gzip.decompress(cohort[0].t1.read_bytes())
    assert len(raw) == 352 + 197 * 233 * 189
