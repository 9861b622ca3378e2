"""A healthy synthetic head: tissue contrast, atrophy, tubes, and warping."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from atlaslib.synthetic import anatomy, face, head
from atlaslib.synthetic.head import Tissue
from atlaslib.synthetic.people import REMOVED

TISSUE = Tissue(fluid=15, grey=58, white=88, deep=64)


@pytest.fixture(scope="module")
def heads() -> dict[str, np.ndarray]:
    changes = {"young": (0.0, 0.0), "shrunken": (1.0, 0.0), "diseased": (0.0, 1.0)}
    return {
        name: head.healthy_head(np.random.default_rng(0), TISSUE, *amounts)
        for name, amounts in changes.items()
    }


def test_a_head_has_the_intensities_of_its_tissues(heads):
    maps, head = anatomy.template(), heads["young"]
    inside = maps.depth > 15
    assert np.median(head[(maps.region == anatomy.WHITE) & inside]) == pytest.approx(88, abs=4)
    assert np.median(head[maps.region == anatomy.CORTEX]) == pytest.approx(58, abs=8)
    assert np.median(head[maps.region == anatomy.VENTRICLE]) == pytest.approx(15, abs=5)
    assert head[0, 0, 188] == 0  # air
    assert head[98, 10:40, 100].max() > 80  # scalp


def test_the_borders_of_tissue_are_sharp_and_differ_between_people(heads):
    """The template, a mean of many people, has a quarter of its cortex between two tissues."""
    cortex = anatomy.template().region == anatomy.CORTEX
    shares = (heads["young"][cortex] - TISSUE.fluid) / (TISSUE.white - TISSUE.fluid)
    grey = (TISSUE.grey - TISSUE.fluid) / (TISSUE.white - TISSUE.fluid)
    clear = [np.mean(np.abs(shares - level) < 0.1) for level in (0, grey, 1)]
    assert min(clear) > 0.03
    assert sum(clear) > 0.6
    other = head.healthy_head(np.random.default_rng(1), TISSUE, 0.0, 0.0)
    assert np.corrcoef(heads["young"][cortex], other[cortex])[0, 1] < 0.8


def test_cortex_is_a_ribbon_of_a_few_millimetres_below_fluid(heads):
    maps, image = anatomy.template(), heads["young"]
    brain = maps.region > 0
    fluid = ~brain | (image < 35)
    distance = ndimage.distance_transform_edt(~fluid)
    folds = (maps.region == anatomy.CORTEX) | (maps.region == anatomy.WHITE)
    white = image > 73
    near, far = (folds & (distance > a) & (distance < b) for a, b in ((1, 2.5), (4, 7)))
    assert white[near].mean() < 0.2
    assert white[far].mean() > 0.7


def test_atrophy_and_small_vessel_disease_darken_only_the_affected_tissue(heads):
    maps = anatomy.template()
    cortex, lining = maps.region == anatomy.CORTEX, maps.lining > 180
    young = heads["young"]
    assert heads["shrunken"][cortex].mean() < young[cortex].mean() - 2
    assert heads["diseased"][lining].mean() < young[lining].mean() - 10
    assert heads["diseased"][cortex].mean() == pytest.approx(young[cortex].mean(), abs=1)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_removed_of_a_head_is_gone_and_the_rest_is_not(heads, seed):
    maps = anatomy.template()
    outward = maps.shell / 4.0
    left = {}
    for how in REMOVED:
        image = heads["young"].copy()
        face.remove(np.random.default_rng(seed), image, how)
        left[how] = image
    np.testing.assert_array_equal(left["nothing"], heads["young"])
    nose = (slice(90, 106), slice(190, 225), slice(5, 40))
    assert left["nothing"][nose].any()
    assert not left["face"][nose].any()
    brain = maps.region > 0
    np.testing.assert_array_equal(left["face"][brain], heads["young"][brain])
    clean, rough = left["all but the brain"], left["roughly all but the brain"]
    assert not clean[outward > 6].any()
    assert (clean[maps.depth > 4] > 0).mean() > 0.999
    assert (rough > 0)[brain].mean() > 0.85
    assert not rough[outward > 20].any()


def test_fluid_fills_what_the_skull_encloses_besides_the_brain(heads):
    maps = anatomy.template()
    enclosed = (maps.shell == 0) & (maps.region == anatomy.OUTSIDE)  # cisterns and fissures
    assert enclosed.sum() > 10_000
    np.testing.assert_allclose(heads["young"][enclosed], TISSUE.fluid, atol=5)


def test_nearly_every_head_has_its_whole_scalp():
    reach = 4 * face._VAULT
    levels = np.full(12, 50, np.float32)
    ends = [face._layers(np.random.default_rng(seed), levels, 15, 0.5)[1][reach] == 0
            for seed in range(200)]  # fmt: skip
    assert np.mean(ends) > 0.95


def test_a_face_has_dark_eyes_in_bright_fat_and_hollow_sinuses():
    part, _ = face.parts()
    for side in (-1, 1):
        at = {
            face.EYE: (33, 60, -36),
            face.FAT: (33, 30, -34),
            face.HOLLOW: (29, 46, -58),
            face.MUSCLE: (56, 15, -40),
        }
        for code, (x, y, z) in at.items():
            assert part[98 + side * x, 134 + y, 72 + z] == code
    dark, bright = face.LEVELS[face.EYE], face.LEVELS[face.FAT]
    assert max(dark) < min(bright)
    assert not (part[anatomy.template().region > 0]).any()


def test_a_tube_has_its_volume_place_and_strength():
    image = np.full(anatomy.SHAPE, 100, np.float32)
    image[150:] = 10
    start, end = np.array([-20.0, -10.0, 0.0]), np.array([0.0, 20.0, 20.0])
    head.tube(image, start, end, radius=4, level=20, strength=0.5)
    assert image[88, 139, 82] == pytest.approx(60)  # half-way to the tube's level, in its middle
    length = np.sqrt(20**2 + 30**2 + 20**2)
    capsule = np.pi * 4**2 * length + 4 / 3 * np.pi * 4**3
    assert ((100 - image[:150]) / 40).sum() == pytest.approx(capsule, rel=0.03)
    middle = [side.mean() for side in np.nonzero(image[:150] < 100)]
    np.testing.assert_allclose(middle, [88, 139, 82], atol=0.1)
    dark = image.copy()
    head.tube(dark, np.array([60.0, 0, 0]), np.array([70.0, 0, 0]), 4, 20, 0.5)
    np.testing.assert_array_equal(dark, image)  # a tube never lightens


def test_warp_shows_the_voxel_that_the_field_points_to():
    image = np.zeros(anatomy.SHAPE, np.float32)
    image[80:120, 90:130, 70:110] = np.random.default_rng(0).random((40, 40, 40)) + 0.1
    field = np.zeros((3, *anatomy.NODES), np.float32)
    np.testing.assert_array_equal(head.warp(image, field), image)
    field += np.array([7, -3, 2], np.float32)[:, None, None, None]
    expected = np.roll(image, (-7, 3, -2), axis=(0, 1, 2))
    np.testing.assert_allclose(head.warp(image, field), expected, atol=1e-6)
