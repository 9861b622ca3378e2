"""Scanners: contrast, noise and shading."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.head import Tissue
from atlaslib.synthetic.scanner import SCANNERS, Scanner, acquire


def test_every_site_shows_fluid_darker_than_grey_and_grey_darker_than_white():
    for site in SCANNERS:
        for seed in range(20):
            tissue = Tissue.draw(np.random.default_rng(seed), site)
            assert 0 < tissue.fluid < tissue.grey < tissue.white < 100


def test_noise_is_rician():
    """Also where the signal is weak, so that the noise biases it upwards."""
    image = np.zeros(anatomy.SHAPE, np.float32)
    image[20:90, 60:130, 50:120], image[100:170, 60:130, 50:120] = 60, 3
    scanner = Scanner(noise=3, blur=(0.5, 0.5, 0.5), bias=0, grey=0.6, mask_value=1)
    picture = acquire(np.random.default_rng(0), image, scanner)
    assert picture.dtype == np.uint8
    assert picture[:15].max() == 0  # air is exactly zero in the shared files
    for block, signal in ((picture[30:80], 60), (picture[110:160], 3)):
        voxels = block[:, 70:120, 60:110].astype(float)
        rice = stats.rice(signal / 3, scale=3)
        assert voxels.mean() == pytest.approx(rice.mean(), abs=0.05)
        assert voxels.std() == pytest.approx(np.sqrt(rice.var() + 1 / 12), rel=0.02)  # rounded


def test_shading_is_smooth_and_as_strong_as_requested():
    image = np.full(anatomy.SHAPE, 100, np.float32)
    scanner = Scanner(noise=0, blur=(0.0, 0.0, 0.0), bias=0.1, grey=0.6, mask_value=1)
    picture = acquire(np.random.default_rng(0), image, scanner)
    shading = np.log(picture / 100.0)
    assert shading.std() == pytest.approx(0.1, abs=0.02)
    assert max(np.abs(np.diff(shading, axis=axis)).max() for axis in range(3)) < 0.03
