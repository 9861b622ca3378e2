"""How raters outline lesions: as far apart as people are, and of the right volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from atlaslib.synthetic import anatomy, raters
from atlaslib.synthetic.cohort import fit_lesions
from atlaslib.synthetic.infarcts import FittedLesion
from atlaslib.synthetic.people import draw_people


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def ball(radius: float, island: float = 0) -> FittedLesion:
    """A round lesion, and a smaller one beside it."""
    box = (slice(60, 120), slice(100, 160), slice(60, 120))
    still = np.zeros((3, *anatomy.NODES), np.float32)
    places = anatomy.template_coordinates(still, box)
    grid = np.indices((60, 60, 60))
    mask = np.sqrt(((grid - 25) ** 2).sum(0)) < radius
    mask |= np.sqrt(((grid - 50) ** 2).sum(0)) < island
    return FittedLesion(box, mask, mask.astype(np.float32), places, np.ones_like(mask))


def test_two_raters_agree_as_people_do():
    """A mean Dice of .73 between people (Lo et al. 2023)."""
    found = []
    for person in draw_people(12, seed=4):
        masks = np.zeros((2, *anatomy.SHAPE), bool)
        for i, (_, fitted) in enumerate(fit_lesions(person, "t01")[1]):
            for rater in range(2):
                rng = np.random.default_rng([i, rater])
                masks[rater][fitted.box] |= raters.outline(rng, fitted)
        found.append(dice(*masks))
    assert np.mean(found) == pytest.approx(0.73, abs=0.05)
    assert max(found) < 0.97


def test_volumes_are_right_on_average_and_outlines_about_a_voxel_off():
    lesion = ball(12)
    outlines = [raters.outline(np.random.default_rng(seed), lesion) for seed in range(40)]
    volumes = np.array([mask.sum() for mask in outlines])
    assert np.median(volumes) == pytest.approx(lesion.mask.sum(), rel=0.1)
    assert 0.15 < np.log(volumes).std() < 0.35
    edge = np.abs(
        ndimage.distance_transform_edt(lesion.mask) - ndimage.distance_transform_edt(~lesion.mask)
    )
    off = np.mean([edge[mask != lesion.mask].mean() for mask in outlines])
    assert 0.8 < off < 2


def test_some_small_parts_are_missed_and_large_ones_never():
    small = [raters.outline(np.random.default_rng(s), ball(12, 3))[45:].any() for s in range(20)]
    large = [raters.outline(np.random.default_rng(s), ball(12, 8))[45:].any() for s in range(20)]
    assert 4 <= sum(small) <= 16
    assert all(large)


def test_nothing_is_outlined_where_no_tissue_is():
    lesion = ball(12)
    lesion.bed[:25] = False
    assert not raters.outline(np.random.default_rng(0), lesion)[:25].any()


def test_the_smallest_lesions_are_outlined_too():
    for seed in range(10):
        assert raters.outline(np.random.default_rng(seed), ball(1.2)).any()
