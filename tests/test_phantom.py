"""The phantom: tissue contrast, tubes, bending, and the scanner's noise and shading."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atlaslib import anatomy, phantom
from atlaslib.phantom import Scanner, Tissue
from atlaslib.synthetic import SCANNERS

TISSUE = Tissue(fluid=15, grey=58, white=88)


@pytest.fixture(scope="module")
def heads() -> dict[str, np.ndarray]:
    changes = {"young": (0.0, 0.0), "shrunken": (1.0, 0.0), "diseased": (0.0, 1.0)}
    return {
        name: phantom.head(np.random.default_rng(0), TISSUE, *amounts)
        for name, amounts in changes.items()
    }


def test_every_site_shows_fluid_darker_than_grey_and_grey_darker_than_white():
    for site in SCANNERS:
        for seed in range(20):
            tissue = Tissue.draw(np.random.default_rng(seed), site)
            assert 0 < tissue.fluid < tissue.grey < tissue.white < 100


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


def test_atrophy_and_small_vessel_disease_show_where_they_should(heads):
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
    phantom.tube(image, start, end, radius=4, level=20, strength=0.5)
    assert image[88, 139, 82] == pytest.approx(60)  # half of the way, in its middle
    length = np.sqrt(20**2 + 30**2 + 20**2)
    capsule = np.pi * 4**2 * length + 4 / 3 * np.pi * 4**3
    assert ((100 - image[:150]) / 40).sum() == pytest.approx(capsule, rel=0.03)
    middle = [side.mean() for side in np.nonzero(image[:150] < 100)]
    np.testing.assert_allclose(middle, [88, 139, 82], atol=0.1)
    dark = image.copy()
    phantom.tube(dark, np.array([60.0, 0, 0]), np.array([70.0, 0, 0]), 4, 20, 0.5)
    np.testing.assert_array_equal(dark, image)  # it never lightens


def test_slabs_cover_a_box_once():
    seen = np.zeros((50, 8, 8), int)
    for slab in phantom.slabs((slice(3, 45), slice(1, 6), slice(2, 7))):
        seen[slab] += 1
    assert seen[3:45, 1:6, 2:7].min() == seen.max() == 1
    assert seen.sum() == 42 * 5 * 5


def test_warp_shows_the_voxel_that_the_field_points_to():
    image = np.zeros(anatomy.SHAPE, np.float32)
    image[80:120, 90:130, 70:110] = np.random.default_rng(0).random((40, 40, 40)) + 0.1
    field = np.zeros((3, *anatomy.NODES), np.float32)
    np.testing.assert_array_equal(phantom.warp(image, field), image)
    field += np.array([7, -3, 2], np.float32)[:, None, None, None]
    expected = np.roll(image, (-7, 3, -2), axis=(0, 1, 2))
    np.testing.assert_allclose(phantom.warp(image, field), expected, atol=1e-6)


def test_the_noise_of_a_picture_is_rician():
    """Also where the signal is weak, and the noise therefore makes it look stronger."""
    image = np.zeros(anatomy.SHAPE, np.float32)
    image[20:90, 60:130, 50:120], image[100:170, 60:130, 50:120] = 60, 3
    scanner = Scanner(noise=3, blur=(0.5, 0.5, 0.5), bias=0, grey=0.6, mask_value=1)
    picture = phantom.picture(np.random.default_rng(0), image, scanner)
    assert picture.dtype == np.uint8
    assert picture[:15].max() == 0  # air is exactly zero in the shared files
    for block, signal in ((picture[30:80], 60), (picture[110:160], 3)):
        voxels = block[:, 70:120, 60:110].astype(float)
        rice = stats.rice(signal / 3, scale=3)
        assert voxels.mean() == pytest.approx(rice.mean(), abs=0.05)
        assert voxels.std() == pytest.approx(np.sqrt(rice.var() + 1 / 12), rel=0.02)  # rounded


def test_shading_is_smooth_and_as_strong_as_asked():
    image = np.full(anatomy.SHAPE, 100, np.float32)
    scanner = Scanner(noise=0, blur=(0.0, 0.0, 0.0), bias=0.1, grey=0.6, mask_value=1)
    picture = phantom.picture(np.random.default_rng(0), image, scanner)
    shading = np.log(picture / 100.0)
    assert shading.std() == pytest.approx(0.1, abs=0.02)
    assert max(np.abs(np.diff(shading, axis=axis)).max() for axis in range(3)) < 0.03
