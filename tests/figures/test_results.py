"""Figures of scores, costs and verdicts show what they are given."""

from __future__ import annotations

import numpy as np
from drawings import (
    ARMS,
    EXAMPLES,
    IMAGE,
    MASK,
    RATES,
    SIZES,
    drawn,
    outlined,
    points,
    tick_names,
)
from matplotlib.colors import same_color

from atlaslib.figures import plot_benchmark


def test_verdicts_show_interval_and_where_the_claim_holds_from_top_to_bottom():
    (axis,) = drawn("plot_verdicts")
    assert [text.get_text() for text in axis.texts][::-1] == [
        "C1: It learns. (points to yes)",
        "C2: The losses are similar. (undecided)",
        "C6: Depth does not help. (undecided)",
    ]
    lines = [line.get_data() for line in axis.get_lines()]
    assert ([-0.1, 0.3], [1, 1]) in [(list(x), list(y)) for x, y in lines]  # C2, second from below
    circles = [artist for artist in axis.get_lines() if artist.get_marker() == "o"]
    dots = [artist.get_xydata()[0].tolist() for artist in circles]
    assert dots == [[0, 0], [0.02, 1], [0.3, 2]]
    filled = [not same_color(artist.get_markerfacecolor(), "white") for artist in circles]
    assert filled == [False, False, True]
    left, right = axis.get_xlim()
    assert left < -0.15  # so that every limit is seen
    band = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axis.patches]
    holds = [(left, 0.02), (-0.15, 0.15), (0.1, right)]
    np.testing.assert_allclose(band, holds)  # "below", "within", "above"


def test_arms_have_the_intervals_of_the_table():
    loss, dice = drawn("plot_arms")
    assert loss.get_lines()[0].get_xydata().tolist() == ARMS[["rate", "loss"]].to_numpy().tolist()
    (bars,) = dice.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), ARMS[["rate", "dice"]])
    segments = np.array(bars.lines[2][0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], ARMS[["low", "high"]])
    for axis in (loss, dice):
        assert axis.get_xscale() == "log"
        assert axis.get_xlabel() == "learning rate"
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert "(nats)" in loss.get_ylabel()


def test_costs_are_in_milliseconds_and_mebibytes():
    time, memory = drawn("plot_costs")
    np.testing.assert_allclose(points(time, "baseline"), [[1, 4], [2, 3], [4, 2.5]])
    assert points(memory, "resnet") == [[1, 4], [2, 5], [4, 7]]
    assert "(ms)" in time.get_ylabel()
    assert "(MiB)" in memory.get_ylabel()
    assert time.get_xticks().tolist() == SIZES
    assert time.get_ylim()[0] == memory.get_ylim()[0] == 0


def test_pairs_are_joined_and_sorted_by_the_first_model():
    (axis,) = drawn("plot_paired")
    assert points(axis, "baseline") == [[1, 0.1], [2, 0.5], [3, 0.8]]
    assert points(axis, "resnet") == [[1, 0.3], [2, 0.4], [3, 0.0]]
    joined = np.array(axis.collections[0].get_segments())
    assert joined.tolist() == [[[1, 0.1], [1, 0.3]], [[2, 0.4], [2, 0.5]], [[3, 0.0], [3, 0.8]]]


def test_dice_is_drawn_against_the_volume():
    (axis,) = drawn("plot_dice_by_volume")
    assert points(axis, "resnet") == [[2, 0.4], [0.3, 0.3], [150, 0]]
    assert axis.get_xscale() == "log"
    assert "(mL)" in axis.get_xlabel()
    low, high = axis.get_ylim()
    assert low < 0 < 1 <= high  # a Dice of 0 is not cut off


def test_loss_and_dice_are_drawn_with_their_means():
    (axis,) = drawn("plot_loss_and_dice")
    np.testing.assert_allclose(points(axis, "baseline, mean"), [[0.03, 1.4 / 3]])
    np.testing.assert_allclose(points(axis, "resnet, mean"), [[0.02, 0.7 / 3]])
    dots = [artist for artist in axis.get_lines() if len(artist.get_xdata()) == 3]
    assert dots[0].get_xydata().tolist() == [[0.02, 0.5], [0.05, 0.1], [0.02, 0.8]]


def test_segmentations_say_if_nothing_was_found():
    bare, truth, *models = drawn("plot_segmentations")
    assert [axis.get_title() for axis in models] == ["baseline", "resnet", "zero: nothing"]
    assert (bare.get_title(), truth.get_title()) == ("scan 1", "truth")
    assert not outlined(bare).any()
    np.testing.assert_array_equal(outlined(truth), MASK)
    np.testing.assert_array_equal(outlined(models[0]), MASK)
    assert not models[2].collections
    for axis in (bare, truth, *models):
        np.testing.assert_array_equal(axis.images[0].get_array(), IMAGE)


def test_published_results_are_above_and_this_build_below():
    (axis,) = drawn("plot_peers")
    low, high = axis.get_ylim()
    assert low > high  # the first row is at the top
    assert tick_names(axis) == [
        "U-Net, R1.1", "X-Net, R1.2", "resnet, this build", "baseline, this build",
    ]  # fmt: skip
    squares, *rest = axis.get_lines()
    assert squares.get_xydata().tolist() == [[0.46, 0], [0.49, 1]]
    intervals = [artist.get_xydata().tolist() for artist in rest[:4]]
    assert intervals == [[[0.2, 2], [0.35, 2]], [[0.3, 2]], [[0.1, 3], [0.6, 3]], [[0.4, 3]]]


def test_the_benchmark_has_a_bar_and_a_number_for_each_reader():
    figure = EXAMPLES["plot_benchmark"]()
    time, memory = figure.axes
    ends = [bar.get_x() + bar.get_width() for bar in time.patches]
    np.testing.assert_allclose(ends, [1.5, 60])
    assert [label.get_text() for label in time.get_xticklabels()] == ["1", "10"]
    assert (time.get_xscale(), memory.get_xscale()) == ("log", "linear")
    assert [text.get_text() for text in time.texts] == ["1.5", "60"]
    assert [text.get_text() for text in memory.texts] == ["200", "0"]
    assert time.get_title() == "time (s)"


def test_the_benchmark_has_a_dash_for_what_was_not_measured():
    memory = plot_benchmark(RATES[:3], {"s": "time (s)", "MB": "memory (MB)"}).axes[1]
    assert [text.get_text() for text in memory.texts] == ["200", "–"]
    assert [bar.get_width() for bar in memory.patches] == [200, 0]
