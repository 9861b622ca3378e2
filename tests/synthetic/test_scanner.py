"""Scanners: contrast, noise and shading."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.head import Tissue
from atlaslib.synthetic.scanner import SCANNERS, SHIFTED, Scanner, acquire


def test_every_site_shows_fluid_darker_than_grey_and_grey_darker_than_white():
    for site in SCANNERS:
        for seed in range(20):
            tissue = Tissue.draw(np.random.default_rng(seed), site)
            assert 0 < tissue.fluid < tissue.grey < tissue.deep < tissue.white < 100


def test_noise_is_rician():
    """Also where the signal is weak, so that the noise biases it upwards.

    How strong it is follows from the strong signal, and is compared between two scanners.
    """
    image = np.zeros(anatomy.SHAPE, np.float32)
    image[20:90, 60:130, 50:120], image[100:170, 60:130, 50:120] = 60, 3
    sigmas = []
    for noise in (2, 4):
        scanner = Scanner(noise, blur=0.5, bias=0, grey=0.6, mask_value=1)
        picture = acquire(np.random.default_rng(0), image, scanner)
        assert picture.dtype == np.uint8
        assert picture[:15].max() == 0  # air is exactly zero in the shared files
        strong, weak = (
            part[:, 70:120, 60:110].astype(float) for part in (picture[30:80], picture[110:160])
        )
        sigma = np.sqrt(strong.var() - 1 / 12)  # intensities are rounded
        assert 0.45 * noise < sigma < 1.75 * noise
        for voxels, signal in ((strong, 60), (weak, 3)):
            rice = stats.rice(signal / sigma, scale=sigma)
            assert voxels.mean() == pytest.approx(rice.mean(), abs=0.1)
        assert weak.std() == pytest.approx(np.sqrt(rice.var() + 1 / 12), rel=0.05)
        sigmas.append(sigma)
    assert sigmas[1] == pytest.approx(2 * sigmas[0], rel=0.02)


def test_shading_is_smooth_and_as_strong_as_requested():
    image = np.full(anatomy.SHAPE, 100, np.float32)
    once, twice = (
        np.log(acquire(np.random.default_rng(0), image, Scanner(0, 0, bias, 0.6, 1)) / 100.0)
        for bias in (0.1, 0.2)
    )
    assert 0.03 < once.std() < 0.18
    np.testing.assert_allclose(twice, 2 * once, atol=0.03)  # intensities are rounded
    assert max(np.abs(np.diff(once, axis=axis)).max() for axis in range(3)) < 0.03


def edge(scanner: Scanner, seed: int) -> np.ndarray:
    """Profiles across the edges of a cube along each axis, as a scanner without noise sees it."""
    image = np.zeros(anatomy.SHAPE, np.float32)
    image[60:140, 60:140, 60:140] = 100
    image += 1  # air outside would be cut off at the edge
    seen = acquire(np.random.default_rng(seed), image, scanner).astype(float)
    return np.array([seen[40:80, 100, 100], seen[100, 40:80, 100], seen[100, 100, 40:80]])


def test_thick_slices_blur_one_axis_of_a_scan():
    still = {"noise": 0, "blur": 0, "bias": 0, "grey": 0.6, "mask_value": 1}
    for seed in range(4):
        widths = [
            ((profile > 15) & (profile < 85)).sum()
            for profile in edge(Scanner(**still, thickness=6), seed)
        ]
        assert sorted(widths)[1] <= 1 < sorted(widths)[2] <= 9


def test_a_ghost_is_a_faint_copy_half_a_field_of_view_away():
    image = np.ones(anatomy.SHAPE, np.float32)
    image[80:120, 20:40, 80:110] = 100
    still = {"noise": 0, "blur": 0, "bias": 0, "grey": 0.6, "mask_value": 1}
    clean, moved = (
        acquire(np.random.default_rng(2), image, Scanner(**still, ghost=share)).astype(float)
        for share in (0.0, 0.1)
    )
    copy = (moved - clean)[90:110, 20 + 116 : 40 + 116, 90:100]
    assert copy.mean() == pytest.approx(10, abs=1.5)
    assert np.abs(moved - clean)[:70].max() <= 1


def test_the_unseen_scanners_lie_outside_of_the_known_ones():
    """Whatever a known scanner draws for a scan, its contrast and slices stay on one side."""
    draws = [np.random.default_rng(seed) for seed in range(30)]
    known = [Tissue.draw(rng, site) for site in SCANNERS for rng in draws]
    contrast = [(t.white - t.grey) / (t.white - t.fluid) for t in known]
    assert max(1 - site.grey for site in SHIFTED) < min(contrast)
    assert min(site.thickness for site in SHIFTED) > max(site.thickness for site in SCANNERS) * 1.4
    assert min(site.ghost for site in SHIFTED) > max(site.ghost for site in SCANNERS) == 0
