"""The reimplemented 2018 pipeline, against counts known from the code and closed forms."""

import numpy as np
import pytest

from atlaslib import dice
from atlaslib.evaluation.starter_code import (
    dice_original,
    jpeg_image,
    jpeg_mask,
    original_scores,
    slice_split,
)

SHAPE = (233, 197)
CENTRE = (113, 102)  # the position within JPEG's 8 x 8 blocks changes the ringing


def disc(radius: int, centre: tuple[int, int] = CENTRE) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


@pytest.mark.parametrize(
    ("radius", "area", "nonzero"),
    [(2, 13, 78), (4, 49, 125), (8, 197, 325), (16, 797, 969), (30, 2821, 3107)],
)
def test_ringing_enlarges_a_mask(radius: int, area: int, nonzero: int) -> None:
    mask = disc(radius)
    soft = jpeg_mask([mask])
    assert mask.sum() == area
    # encoders round differently, so the count may differ by a pixel or two
    assert abs(int((soft > 0).sum()) - nonzero) <= 3


@pytest.mark.parametrize("radius", [2, 4, 8, 16, 30])
@pytest.mark.parametrize("shift", [(0, 0), (1, 3), (5, 6), (7, 7)])
def test_threshold_restores_the_mask(radius: int, shift: tuple[int, int]) -> None:
    mask = disc(radius, (112 + shift[0], 96 + shift[1]))
    assert np.array_equal(jpeg_mask([mask]) > 0.5, mask)


def test_ringing_stays_inside_the_blocks_that_hold_an_edge() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[80:88, 40:48] = True  # one whole block, so no edge inside a block
    assert np.array_equal(jpeg_mask([mask]) > 0, mask)
    mask[84, 44] = False
    touched = np.argwhere((jpeg_mask([mask]) > 0) & ~mask)
    assert ((touched // 8) == [80 // 8, 40 // 8]).all()


def test_several_masks_are_summed_and_clipped() -> None:
    first, second = disc(8), disc(8, (113, 108))
    both = jpeg_mask([first, second])
    assert both.dtype == np.float32
    expected = np.minimum(jpeg_mask([first]) + jpeg_mask([second]), 1)
    assert np.allclose(both, expected, atol=1e-6)
    assert both.max() == 1
    assert np.all(both[first & second] == 1)


def test_a_slice_without_lesion_stays_empty() -> None:
    assert jpeg_mask([np.zeros(SHAPE, dtype=bool)]).sum() == 0


def test_no_masks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        jpeg_mask([])


def test_image_is_stretched_by_its_own_range() -> None:
    ramp = np.tile(np.linspace(0, 1, SHAPE[1]), (SHAPE[0], 1))
    stored = jpeg_image(ramp)
    assert stored.dtype == np.uint8
    assert stored.shape == SHAPE
    assert stored.min() <= 2
    assert stored.max() >= 253
    # any affine change of intensity is lost (except for rounding): slices are not comparable
    assert np.abs(stored.astype(int) - jpeg_image(40 + 7 * ramp)).max() <= 2
    assert np.abs(stored - 255 * ramp).max() < 4


def test_a_constant_image_is_zero() -> None:
    assert jpeg_image(np.full(SHAPE, 37.0)).max() == 0


def test_slice_split_of_atlas() -> None:
    train, development = slice_split(229 * 189)
    assert (len(train), len(development)) == (12_984, 30_297)
    meant = slice_split(229 * 189, inverted=False)
    assert (len(meant[0]), len(meant[1])) == (30_297, 12_984)


def test_slice_split_is_a_reproducible_partition() -> None:
    train, development = slice_split(1001, seed=3)
    assert np.array_equal(np.sort(np.concatenate([train, development])), np.arange(1001))
    assert np.array_equal(train, slice_split(1001, seed=3)[0])
    assert not np.array_equal(train, slice_split(1001, seed=4)[0])


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_slice_split_refuses_a_share_outside_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        slice_split(10, share=share)


def test_the_original_score_of_a_perfect_mask_is_below_one(run, cohort):
    table = original_scores(run, cohort[:2])
    assert table.perfect_original.between(0.3, 0.99).all()
    assert (table.dice_original <= 1).all()


def test_original_dice_counts_ringing_and_only_the_first_slices():
    mask = np.zeros((3, 1, 4))
    mask[1:, 0, :2] = 1
    soft = mask.copy()
    soft[1, 0, 2] = 0.01  # what JPEG leaves beside an edge
    assert dice_original(mask, soft) == pytest.approx((2 * 2 / (2 + 3) + 1) / 2)
    assert dice_original(mask, soft, count=1) == pytest.approx(0.8)
    assert dice(mask[1], soft[1] > 0.5) == 1
