"""Scores of masks agree with cases worked by hand and with distances from scipy."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy import ndimage

from atlaslib.evaluation.mask_scores import METRICS, mask_scores


def cubes(*corners, size=4, shape=(40, 40, 40)):
    mask = np.zeros(shape, bool)
    for x, y, z in corners:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


def test_lesions_are_counted_as_in_the_challenge():
    """Two true lesions, one of them touched; two predicted ones, one of them a false alarm."""
    target = cubes((2, 2, 2), (20, 20, 20))
    prediction = cubes((5, 5, 5), (30, 2, 2))
    found = mask_scores(prediction, target, ("lesion_f1", "lesion_count", "volume", "dice"))
    assert found == {
        "lesion_f1": 1 / (1 + (1 + 1) / 2),
        "lesion_count_difference": 0,
        "volume_difference_ml": 0,
        "dice": 2 * 1 / (128 + 128),
    }
    assert list(found) == ["lesion_f1", "lesion_count_difference", "volume_difference_ml", "dice"]


def test_one_prediction_over_two_lesions_finds_both():
    target = cubes((2, 2, 2), (12, 2, 2))
    prediction = cubes((2, 2, 2), size=16)
    found = mask_scores(prediction, target, ("lesion_f1", "lesion_count"))
    assert found == {"lesion_f1": 1.0, "lesion_count_difference": 1}


def test_corners_that_touch_are_one_lesion():
    target = cubes((2, 2, 2), (6, 6, 6))
    assert mask_scores(target, cubes((2, 2, 2)), ["lesion_count"])["lesion_count_difference"] == 0


def test_volume_counts_the_size_of_a_voxel():
    found = mask_scores(cubes((2, 2, 2)), cubes((2, 2, 2), (20, 20, 20)), ["volume"], (2, 1, 0.5))
    assert found["volume_difference_ml"] == pytest.approx(0.064)


def surface(mask):
    return mask & ~ndimage.binary_erosion(mask)


def test_distances_agree_with_scipys_distance_transform():
    rng = np.random.default_rng(0)
    masks = [ndimage.gaussian_filter(rng.normal(size=(30, 30, 30)), 3) > 0.02 for _ in range(2)]
    spacing = (1.0, 2.0, 1.5)
    edges = [surface(mask) for mask in masks]
    ways = [
        ndimage.distance_transform_edt(~edges[1 - k], sampling=spacing)[edges[k]] for k in range(2)
    ]
    found = mask_scores(*masks, ("hd95", "assd"), spacing)
    assert found["hd95_mm"] == pytest.approx(max(np.percentile(way, 95) for way in ways), abs=0.05)
    assert found["assd_mm"] == pytest.approx(np.concatenate(ways).mean(), abs=0.02)


def test_empty_surroundings_change_no_score():
    """Masks that touch every face of their volume, and the same masks inside a larger one."""
    rng = np.random.default_rng(0)
    masks = [ndimage.gaussian_filter(rng.normal(size=(30, 30, 30)), 3) > 0.02 for _ in range(2)]
    wider = [np.pad(mask, ((3, 9), (0, 5), (7, 0))) for mask in masks]
    assert mask_scores(*wider) == mask_scores(*masks)


def test_empty_masks_follow_the_stated_rules():
    none, some = cubes(), cubes((2, 2, 2))
    both = mask_scores(none, none)
    assert math.isnan(both["dice"])
    assert both["lesion_f1"] == 1
    assert both["volume_difference_ml"] == both["lesion_count_difference"] == 0
    assert math.isnan(both["hd95_mm"])
    assert math.isnan(both["assd_mm"])
    for pair in ((none, some), (some, none)):
        one = mask_scores(*pair)
        assert (one["dice"], one["lesion_f1"], one["lesion_count_difference"]) == (0, 0, 1)
        assert one["volume_difference_ml"] == pytest.approx(0.064)
        assert math.isnan(one["hd95_mm"])


def test_invalid_input_is_refused(monkeypatch):
    some = cubes((2, 2, 2))
    with pytest.raises(ValueError, match=r"no metric 'iou'; choose from dice, volume"):
        mask_scores(some, some, ["iou"])
    with pytest.raises(ValueError, match="the same three axes"):
        mask_scores(some, some[1:])
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(ValueError, match="hd95 needs MONAI"):
        mask_scores(some, some, ["hd95"])
    assert list(mask_scores(some, some, ["dice"])) == ["dice"]
    assert len(METRICS) == 6
