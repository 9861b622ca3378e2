"""Figures of models, their training and their masks show what they are given."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drawings import (
    HISTORY,
    IMAGE,
    MASK,
    PROBABILITY,
    drawn,
    line,
    outlined,
    points,
)
from matplotlib.colors import same_color, to_hex

from atlaslib import figures


def test_images_are_side_by_side_under_their_names():
    axes = drawn("plot_images")
    assert [axis.get_title() for axis in axes] == ["slice", "lesion"]
    for axis, image in zip(axes, (IMAGE, MASK), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), image)
        assert axis.images[0].get_clim() == (image.min(), image.max())


def test_a_receptive_field_is_framed_to_the_pixel():
    (axis,) = drawn("plot_receptive_field")
    (frame,) = axis.patches
    assert frame.get_xy() == (3.5, 0.5)  # pixel edges lie at halves
    assert (frame.get_width(), frame.get_height()) == (3, 2)
    assert frame.get_label() == "conv1: 2 × 3 pixels"
    np.testing.assert_array_equal(axis.images[0].get_array(), IMAGE)


def test_blocks_are_as_high_as_the_slice_and_wider_with_more_channels():
    (axis,) = drawn("plot_layers")
    blocks = axis.patches[:4]
    assert [block.get_height() for block in blocks] == [80, 40, 40, 2]
    assert [bool(block.get_hatch()) for block in blocks] == [False, True, False, False]
    widths = [block.get_width() for block in blocks]
    assert widths[0] == widths[1] < widths[2] < widths[3]
    for left, right in pairwise(blocks):
        assert left.get_x() + left.get_width() < right.get_x()
    texts = [text.get_text() for text in axis.texts]
    assert texts[:8] == ["4", "conv1", "4", "pool1", "16", "conv2", "64", "dense"]
    (skip,) = axis.texts[8:]
    assert skip.xyann[0] == pytest.approx(blocks[0].get_x() + widths[0] / 2)
    assert skip.xy[0] == pytest.approx(blocks[2].get_x() + widths[2] / 2)


def test_training_history_is_solid_and_validation_dashed():
    loss, dice = drawn("plot_history")
    assert points(loss, "baseline, training") == [[1, 0.5], [2, 0.2], [3, 0.1]]
    assert points(loss, "baseline, validation") == [[1, 0.6], [2, 0.4], [3, 0.3]]
    assert dice.get_lines()[0].get_xydata().tolist() == [[1, 0], [2, 0.3], [3, 0.25]]
    names = [text.get_text() for text in loss.figure.legends[0].get_texts()]
    assert names == ["baseline, training", "baseline, validation", "resnet, training",
                     "resnet, validation", "a constant"]  # fmt: skip
    assert points(loss, "resnet, training") == [[0.5, 0.25], [1, 0.1], [1.5, 0.05]]
    assert set(line(loss, "a constant").get_ydata()) == {0.7}
    assert line(loss, "baseline, training").get_linestyle() == "-"
    assert line(loss, "baseline, validation").get_linestyle() == "--"
    assert "(nats)" in loss.get_ylabel()
    assert len(figures.plot_history({"mine": HISTORY}).axes[0].get_lines()) == 2
    named = figures.plot_history({"mine": HISTORY}, 0.7, "zero").axes[0]
    assert set(line(named, "zero").get_ydata()) == {0.7}


def test_predictions_are_outlined_above_one_half():
    bare, truth, probability, predicted, bar = drawn("plot_predictions")
    assert bare.get_title() == "scan 1"
    assert not outlined(bare).any()
    np.testing.assert_array_equal(outlined(truth), MASK)
    assert truth.get_title() == "truth"
    np.testing.assert_array_equal(probability.images[0].get_array(), PROBABILITY)
    assert probability.images[0].get_clim() == (0, 1)  # the same shade in every figure
    np.testing.assert_array_equal(outlined(predicted), MASK)
    assert bar.get_xlabel() == "probability"
    colours = [to_hex(axis.collections[0].get_edgecolor()[0]) for axis in (truth, predicted)]
    assert colours == [to_hex(figures.COLOURS[name]) for name in ("lesion", "resnet")]
    assert predicted.get_title() == "resnet: above 0.5"
    faint = figures.plot_predictions([("scan 1", IMAGE, MASK, PROBABILITY / 2)], "resnet").axes[3]
    assert faint.get_title() == "resnet: nothing above 0.5"


def test_the_units_differ_in_order_and_in_where_the_shortcut_leaves():
    paper, tensorflow = drawn("plot_units")
    for axis, steps, passed in (
        (paper, "leaky ReLU, batch norm, 3×3 convolution, batch norm, 3×3 convolution", 1),
        (tensorflow, "batch norm, leaky ReLU, 3×3 convolution, " * 2, 0),
    ):
        boxes = [text for text in axis.texts if text.get_text() not in ("", "+", "shortcut")]
        boxes.sort(key=lambda text: -text.get_position()[1])
        assert [text.get_text() for text in boxes] == steps.removesuffix(", ").split(", ")
        leaves = axis.get_lines()[0].get_ydata()[0]
        assert sum(text.get_position()[1] > leaves for text in boxes) == passed


def test_curves_are_drawn_against_their_index():
    (axis,) = drawn("plot_curves")
    assert points(axis, "slow") == [[0, 4], [1, 2]]
    assert points(axis, "fast") == [[0, 4], [1, 1], [2, 0.5]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "error (mm)")
    assert not same_color(line(axis, "slow").get_color(), line(axis, "fast").get_color())
    (legend,) = axis.figure.legends
    axis.figure.draw_without_rendering()
    assert legend.get_window_extent().y0 > axis.get_window_extent().y1
    log = figures.plot_curves({"a": np.ones(2)}, "x", "y", yscale="log").axes[0]
    assert (log.get_xscale(), log.get_yscale()) == ("linear", "log")


def test_a_split_shows_scans_as_rows_and_training_slices_in_blue():
    axes = drawn("plot_split")
    for axis, name, trains in zip(axes, ("by slice", "by subject"), (MASK, ~MASK), strict=True):
        assert axis.get_title() == name
        np.testing.assert_array_equal(axis.images[0].get_array(), trains)
    assert axes[0].get_ylabel() == "scan"
    # also where every slice is a training slice
    alone = figures.plot_split({"all train": np.ones((2, 3), bool)}).axes[0].images[0]
    for picture in (axes[0].images[0], alone):
        shade = picture.to_rgba(picture.get_array())[picture.get_array() == 1][0]
        assert same_color(shade, figures.COLOURS["baseline"])


def test_ringing_counts_every_pixel_that_is_not_black():
    soft = np.where(MASK, 1.0, 0.0)
    soft[0, 4:7] = 0.0001
    true, shaded, counted = figures.plot_ringing(MASK, soft).axes
    np.testing.assert_array_equal(true.images[0].get_array(), MASK)
    np.testing.assert_allclose(shaded.images[0].get_array() ** 4, soft, atol=1e-6)
    assert counted.images[0].get_array().sum() == 9
    titles = [axis.get_title().split("\n")[1] for axis in (true, shaded, counted)]
    assert titles == ["6 pixels", "9 pixels", "9 pixels"]
    for axis in (true, shaded, counted):
        assert axis.images[0].get_clim() == (0, 1)
        np.testing.assert_array_equal(outlined(axis), MASK)


def test_a_ceiling_is_drawn_against_the_area():
    (axis,) = drawn("plot_ceiling")
    assert axis.collections[0].get_offsets().tolist() == [[5, 0.3], [50, 0.6], [500, 0.9]]
    assert points(axis, "discs") == [[10, 0.4], [100, 0.8]]
    assert "mm²" in axis.get_xlabel()
