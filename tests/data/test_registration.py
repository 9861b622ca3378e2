"""From native space to the MNI grid and back: geometry, and the check that refuses failures."""

from __future__ import annotations

import builtins
import dataclasses
from pathlib import Path

import natives
import nibabel as nib
import numpy as np
import pytest
from natives import native
from volumes import AFFINE, save

import atlaslib
from atlaslib.data import registration, template
from atlaslib.data.head_search import import_ants, refined
from atlaslib.data.registration import (
    CONTRAST,
    SIMILARITY,
    Registration,
    check_registration,
    check_within,
    from_mni,
    register,
    register_within,
    space_of,
    to_mni,
)
from atlaslib.data.volumes import GRID, Image, brain_mask, read_t1
from atlaslib.synthetic.cohort import make_scan
from atlaslib.synthetic.people import draw_people

GOOD = Registration(np.eye(4), 0.7, 0.6, 0.9)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """The template as a noisy, shaded scan: (197, 233, 189) float32."""
    rng = np.random.default_rng(0)
    shade = np.linspace(0.8, 1.2, GRID[0], dtype=np.float32)[:, None, None]
    noise = rng.standard_normal(GRID, dtype=np.float32) * 4
    return np.clip(80 * template.template() * shade + noise, 0, None)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The T1 of a synthetic person, on the MNI grid."""
    root = tmp_path_factory.mktemp("person")
    scan = atlaslib.make_cohort(root, 1, seed=5, progress=False)[0]
    return read_t1(scan.t1).voxels.astype(np.float32)


# --- geometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rotated", "thick slices"])
def test_a_perfect_mask_comes_back_from_mni_space(kind):
    """At least .90 Dice on native voxels, for a lesion of 10 mL."""
    scan, _ = natives.KINDS[kind]
    truth = scan.image(natives.ball()) > 0.5
    standard = to_mni(truth, scan.affine, scan.move) > 0.5
    assert standard.sum() == pytest.approx(10_000, rel=0.06)  # voxels of 1 mm, 10 mL
    back = from_mni(standard, scan.shape, scan.affine, scan.move) > 0.5
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) >= 0.9


def test_the_way_there_puts_each_point_where_the_map_says():
    """A ball at a known place in the scanner is found at its place in MNI space."""
    scan = natives.KINDS["LAS"][0]
    i, j, k = np.rint(
        nib.affines.apply_affine(np.linalg.inv(scan.affine) @ scan.move, natives.BALL)
    ).astype(int)
    volume = np.zeros(scan.shape, np.float32)
    volume[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3] = 1
    found = np.argwhere(to_mni(volume, scan.affine, scan.move) > 0.5).mean(0)
    np.testing.assert_allclose(nib.affines.apply_affine(AFFINE, found), natives.BALL, atol=1)


def test_outside_the_grid_there_is_no_lesion():
    everything = np.ones(GRID, np.float32)
    shape, affine = (20, 20, 20), nib.affines.from_matvec(np.eye(3), [200, 0, 0])
    assert not from_mni(everything, shape, affine, np.eye(4)).any()


def test_the_space_of_an_image_is_noticed(tmp_path):
    save(tmp_path / "mni.nii", np.ones(GRID, np.uint8))
    assert space_of(read_t1_of(tmp_path / "mni.nii")) == "MNI"
    flipped = AFFINE @ np.diag([-1, 1, 1, 1.0])
    flipped[0, 3] = 98  # the same voxels in the order of LAS
    save(tmp_path / "las.nii", np.ones(GRID, np.uint8), flipped)
    assert space_of(read_t1_of(tmp_path / "las.nii")) == "MNI"
    save(tmp_path / "far.nii", np.ones(GRID, np.uint8), moved_origin())
    assert space_of(read_t1_of(tmp_path / "far.nii")) == "MNI"  # and doubtful
    save(tmp_path / "2mm.nii", np.ones(GRID, np.uint8), np.diag([2, 2, 2, 1.0]))
    assert space_of(read_t1_of(tmp_path / "2mm.nii")) == "native"
    save(tmp_path / "native.nii", np.ones((176, 240, 256), np.uint8))
    assert space_of(read_t1_of(tmp_path / "native.nii")) == "native"


def moved_origin() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] = 0
    return affine


def read_t1_of(path: Path) -> Image:
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 0
    save(path, voxels, image.affine)
    return read_t1(path, "native")


# --- the check ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"similarity": 0.21}, "x.nii: registration failed: similarity 0.21, at least 0.45 is"),
        ({"size": 1.8}, "the head is 1.80 times the template's size, expected 0.72 to 1.05"),
        ({"contrast": -0.5}, "not a T1-weighted image of a brain"),
        ({"contrast": 0.1}, "not a T1-weighted image of a brain"),
        ({"similarity": 0.3, "contrast": -0.5}, "similarity 0.30, at least 0.45 is needed"),
    ],
)
def test_a_bad_registration_is_refused_in_one_line(change, says):
    check_registration(GOOD, "x.nii")
    with pytest.raises(atlaslib.DataError, match=says) as error:
        check_registration(dataclasses.replace(GOOD, **change), "x.nii")
    assert "\n" not in str(error.value)


def test_two_images_of_a_person_that_do_not_fit_are_refused_in_one_line():
    check_within(0.5, "T2w.nii")
    says = "T2w.nii: registration failed: similarity 0.21 to the person's T1, at least 0.4 is"
    with pytest.raises(atlaslib.DataError, match=says):
        check_within(0.21, "T2w.nii")


SPOILT = {
    "10 mm to the side": natives.moved((10, 0, 0)),
    "10 mm forward": natives.moved((0, 10, 0)),
    "10 mm up": natives.moved((0, 0, 10)),
    "10 mm down": natives.moved((0, 0, -10)),
    "20 degrees tilted": natives.moved(degrees=(20, 0, 0)),
    "20 degrees turned": natives.moved(degrees=(0, 0, 20)),
    "upside down": natives.moved(degrees=(0, 180, 0)),
    "15 % too small": natives.moved(scale=(0.85, 0.85, 0.85)),
    "15 % too large": natives.moved(scale=(1.15, 1.15, 1.15)),
}


def described(volume: np.ndarray, found: np.ndarray, affine: np.ndarray = AFFINE) -> Registration:
    image = Image(Path("x.nii"), volume, affine, affine, True, True)
    return template.described(found, *template.clipped_and_resized(image, 2.0))


def assert_spoilt_is_refused(image: Image, found: Registration) -> None:
    voxels, affine = template.clipped_and_resized(image, 2.0)
    assert found.similarity > SIMILARITY + 0.1
    assert found.contrast > CONTRAST + 0.1
    passed = {}
    for name, move in SPOILT.items():
        value = template.described(found.affine @ move, voxels, affine).similarity
        if value >= SIMILARITY:
            passed[name] = value
    assert passed == {}


def test_the_threshold_separates_good_from_spoilt(head):
    """As the docstring of `check_registration` reports of real heads."""
    image = Image(Path("x.nii"), head, AFFINE, AFFINE, True, True)
    assert_spoilt_is_refused(image, described(head, np.eye(4)))


def test_the_similarity_does_not_depend_on_the_contrast(head):
    values = [described(volume, np.eye(4)) for volume in (head, 300 - 2 * head)]
    assert values[0].similarity == pytest.approx(values[1].similarity, abs=1e-3)
    assert values[0].contrast == pytest.approx(-values[1].contrast, abs=0.03)


def test_a_large_lesion_does_not_make_a_good_registration_look_bad(head):
    """170 mL, black: more than all but a few in ATLAS."""
    lesion = natives.ball(34.4) > 0
    assert described(np.where(lesion, 5, head), np.eye(4)).similarity > SIMILARITY + 0.05


def test_a_mirrored_head_is_not_noticed(head):
    """Nobody can: the docstring says so, and this says that it is no promise that was forgotten."""
    mirrored = described(head[::-1], np.eye(4))
    check_registration(mirrored, "x.nii")
    assert "mirrored" in registration.__doc__


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    original = builtins.__import__

    def without_ants(name, *rest, **options):
        if name == "ants":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_ants)
    image = read_t1_of(save(tmp_path / "x.nii", np.ones((9, 9, 9), np.uint8)))
    with pytest.raises(atlaslib.DataError, match="x.nii: .*pip install antspyx"):
        register(image)


# --- registering heads --------------------------------------------------------------------------


def as_image(voxels: np.ndarray, affine: np.ndarray) -> Image:
    image = nib.as_closest_canonical(nib.Nifti1Image(voxels.astype(np.float32), affine))
    return Image(Path("head.nii"), np.asarray(image.dataobj), image.affine, affine, True, True)


def scans(person: np.ndarray):
    """Each kind's name, place and image."""
    for name, (scan, change) in natives.KINDS.items():
        yield name, scan, as_image(scan.image(change(person) if change else person), scan.affine)
    wide = native(shape=(400, 230, 360), above=70)
    yield "shoulders", wide, as_image(wide.image(*natives.with_shoulders(person)), wide.affine)


@pytest.mark.slow
def test_heads_of_every_kind_are_registered(person):
    """Seven registrations of about ten seconds each."""
    pytest.importorskip("ants", reason="antspyx, the extra [native], is not installed")
    ball, distances = natives.ball(), {}
    for name, scan, image in scans(person):
        found = register(image)
        if name == "like T2":  # placed well, and still no T1
            with pytest.raises(atlaslib.DataError):
                check_registration(found, name)
        else:
            check_registration(found, name)
        truth = from_mni(ball, image.voxels.shape, image.affine, scan.move) > 0.5
        back = from_mni(ball, image.voxels.shape, image.affine, found.affine) > 0.5
        zooms = nib.affines.voxel_sizes(image.affine)
        distances[name] = natives.outline_distance(truth, back, zooms)
        print(
            f"{name}: similarity {found.similarity:.2f}, contrast {found.contrast:.2f}, "
            f"outline {distances[name]:.2f} mm"
        )
        if name == "rotated":
            assert_spoilt_is_refused(image, found)
    assert np.mean(list(distances.values())) < 1.5, distances
    assert max(distances.values()) < 2.5, distances


@pytest.mark.slow
def test_a_scalp_is_not_taken_for_the_edge_of_a_larger_brain():
    """One person to be made and registered. This head once came out 15 % too large."""
    pytest.importorskip("ants", reason="antspyx, the extra [native], is not installed")
    t1 = make_scan(draw_people(40, 103)[2], "t01").t1.astype(np.float32)
    rng = np.random.default_rng([103, 2])
    scale = rng.uniform(0.82, 1.0) * rng.uniform(0.96, 1.04, 3)
    degrees = rng.uniform(-1, 1, 3) * [25, 12, 12]
    scan = native(natives.moved(tuple(rng.uniform(-40, 40, 3)), tuple(degrees), tuple(scale)),
                  (90, 112, 96), (2, 2, 2))  # fmt: skip
    found = register(as_image(scan.image(t1), scan.affine))
    check_registration(found, "head")
    assert found.size == pytest.approx(np.cbrt(scale.prod()), rel=0.06)


def refused(person: np.ndarray):
    """What must be refused: its name, and the image."""
    rng = np.random.default_rng(0)
    yield "noise", as_image(rng.normal(100, 20, (160, 200, 160)), np.eye(4))
    i, j, k = np.indices((180, 220, 180))
    ellipsoid = ((i - 90) / 62) ** 2 + ((j - 110) / 80) ** 2 + ((k - 90) / 62) ** 2 < 1
    yield "ball", as_image(100 * ellipsoid + rng.normal(0, 3, ellipsoid.shape), np.eye(4))
    yield "warped, with voxels of 2 mm", as_image(person, AFFINE @ np.diag([2, 2, 2, 1.0]))
    yield "warped, with axes exchanged", as_image(person, AFFINE[:, [0, 2, 1, 3]][[0, 1, 2, 3]])


def test_a_ct_is_refused_in_one_line(person):
    """Its similarity to the template is as high as a T1's."""
    pytest.importorskip("ants", reason="antspyx, the extra [native], is not installed")
    scan = native()
    image = as_image(scan.image(natives.like_ct(person) + 1000) - 1000, scan.affine)
    with pytest.raises(atlaslib.DataError, match=r"^[^\n]*: a CT in Hounsfield units[^\n]*$"):
        register(image)


@pytest.mark.slow
def test_what_is_no_head_is_refused_in_one_line(person):
    """Four registrations of about ten seconds each."""
    pytest.importorskip("ants", reason="antspyx, the extra [native], is not installed")
    for name, image in refused(person):
        found = register(image)
        print(f"{name}: {found.similarity:.2f}, {found.contrast:.2f}, {found.size:.2f}")
        with pytest.raises(atlaslib.DataError) as error:
            check_registration(found, name)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_another_contrast_of_another_session_is_aligned_within_the_person(person):
    """Four registrations of about ten seconds each. The person has moved by 3 cm."""
    pytest.importorskip("ants", reason="antspyx, the extra [native], is not installed")
    first = native()
    step = natives.moved((12, -20, 18), (-10, 4, 8))
    second = native(step @ natives.USUAL, (110, 130, 50), (2, 2, 4))
    t1 = as_image(first.image(person), first.affine)
    t2 = as_image(second.image(natives.like_t2(person)), second.affine)
    found = register(t1)
    within, fit = register_within(t1, t2, found)
    check_within(fit, "T2w")
    places = nib.affines.apply_affine(natives.USUAL @ AFFINE, np.argwhere(brain_mask())[::999])
    apart = nib.affines.apply_affine(within, places) - nib.affines.apply_affine(step, places)
    assert np.linalg.norm(apart, axis=1).mean() < 1
    np.testing.assert_allclose(within[:3, :3].T @ within[:3, :3], np.eye(3), atol=1e-5)  # rigid


def test_a_header_without_orientation_is_refused():
    pytest.importorskip("ants", reason="antspyx, the extra [native], is not installed")
    image = dataclasses.replace(as_image(np.ones((9, 9, 9)), np.eye(4)), oriented=False)
    with pytest.raises(atlaslib.DataError, match="left and right cannot be told apart"):
        register(image)


def test_the_same_image_always_gets_the_same_map(tmp_path):
    pytest.importorskip("ants", reason="registration needs antspyx")
    import_ants(tmp_path)  # which sets the seed
    image = template.resized(template.template(), template.MNI_AFFINE, 2.0)
    start = natives.moved((3, -2, 4), (2, 3, -2))
    np.testing.assert_array_equal(refined(start, *image), refined(start, *image))
