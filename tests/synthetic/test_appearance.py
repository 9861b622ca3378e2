"""How infarcts look: dark inside the mask, faint around it, as dark as planned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from infarct import NO_WARP, striatal
from scipy import ndimage

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.appearance import paint_lesion
from atlaslib.synthetic.infarcts import fit_lesion


def test_a_stain_is_dark_inside_the_mask_and_faint_around_it():
    lesion = striatal()
    fitted = fit_lesion(np.random.default_rng(0), lesion, NO_WARP, np.zeros(anatomy.SHAPE, bool))
    image = np.full(anatomy.SHAPE, 80, np.float32)
    image[fitted.box][~fitted.bed] = 10  # fluid, air and the other hemisphere
    image[:, :, 80] = 10  # a sulcus through the lesion
    before = image.copy()
    paint_lesion(np.random.default_rng(1), image, lesion, fitted, 20)
    mask = np.zeros(anatomy.SHAPE, bool)
    mask[fitted.box] = fitted.mask
    near = (slice(85, 165), slice(96, 176), slice(40, 120))
    image, before, mask = image[near], before[near], mask[near]
    tissue = before == 80
    assert image[mask & tissue].max() < 65.1  # at least 25 % of the way from tissue to fluid
    assert image[~mask & tissue].min() > 61.9
    np.testing.assert_array_equal(image[~tissue], 10)  # nothing dark is lightened
    far = ndimage.distance_transform_edt(~mask) > 15
    assert (before - image)[far].mean() < 0.01
    core = ndimage.distance_transform_edt(mask) > 5
    assert np.median(image[core & tissue]) < 30


def test_lesions_are_as_dark_as_planned_and_those_with_patches_vary():
    nothing = np.zeros(anatomy.SHAPE, bool)
    cores = {}
    for name, changes in {
        "dark": {},
        "half": {"darkness": 0.5},
        "patchy": {"darkness": 0.5, "patches": 0.8},
    }.items():
        lesion = replace(striatal(8_000), **changes)
        fitted = fit_lesion(np.random.default_rng(0), lesion, NO_WARP, nothing)
        image = np.full(anatomy.SHAPE, 80, np.float32)
        paint_lesion(np.random.default_rng(1), image, lesion, fitted, 20)
        inside = ndimage.distance_transform_edt(fitted.mask) > 5
        cores[name] = image[fitted.box][inside]
    assert np.median(cores["dark"]) < 30
    assert np.median(cores["half"]) == pytest.approx(50, abs=6)
    assert cores["patchy"].std() > 1.25 * cores["half"].std()
