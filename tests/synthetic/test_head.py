"""A healthy synthetic head: tissue contrast, atrophy, tubes, and warping."""

from __future__ import annotations

import numpy as np
import pytest

from atlaslib.synthetic import anatomy, head
from atlaslib.synthetic.head import Tissue

TISSUE = Tissue(fluid=15, grey=58, white=88)


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
    face = head[90:106, 215:, :50]  # removed before ATLAS shared its scans
    assert face.max() == 0
    assert head[98, 10:40, 100].max() > 80  # the scalp at the back of the head is not


def test_atrophy_and_small_vessel_disease_darken_only_the_affected_tissue(heads):
    maps = anatomy.template()
    cortex, lining = maps.region == anatomy.CORTEX, maps.lining > 180
    young = heads["young"]
    assert heads["shrunken"][cortex].mean() < young[cortex].mean() - 2
    assert heads["diseased"][lining].mean() < young[lining].mean() - 10
    assert heads["diseased"][cortex].mean() == pytest.approx(young[cortex].mean(), abs=1)


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
