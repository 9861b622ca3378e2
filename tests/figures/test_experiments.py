"""Figures of the experiments show what their tables say."""

from __future__ import annotations

import numpy as np
from drawings import drawn, line, points, tick_names

from atlaslib.figures.base import COLOURS


def test_means_are_drawn_with_their_intervals():
    (axis,) = drawn("plot_means")
    assert tick_names(axis) == ["baseline", "resnet, skips"]
    (low, high), _ = axis.get_lines()[2].get_data()
    assert (low, high) == (0.2, 0.45)


def test_crossed_scores_are_ordered_by_person():
    axis, _ = drawn("plot_crossed")  # and the scale of colours
    assert axis.images[0].get_array().tolist() == [[0.0, 0.9], [0.2, 0.7]]
    assert tick_names(axis) == ["3", "4"]


def test_a_factorial_has_a_line_for_each_encoder():
    (axis,) = drawn("plot_factorial")
    names = [label.get_text() for label in axis.get_xticklabels()]
    assert names == ["U-Net", "vector"]
    assert line(axis, "6 convolutions").get_ydata().tolist() == [0.4, 0.1]
    assert line(axis, "20 units").get_ydata().tolist() == [0.5, 0.2]
    (low, high) = axis.collections[1].get_segments()[0][:, 1]
    assert (low, high) == (0.45, 0.55)


def test_a_slice_of_a_factorial_has_the_true_outline_and_that_of_each_network():
    marked, empty = drawn("plot_factorial_slice")
    assert marked.get_title() == "U-Net"
    assert len(marked.collections) == 3
    dashed = [each.get_linestyle()[0][1] is not None for each in marked.collections]
    assert dashed == [False, False, True]
    assert len(empty.collections) == 1  # nothing is marked
    (legend,) = marked.figure.legends
    assert [label.get_text() for label in legend.get_texts()] == ["truth", "plain", "20 units"]


def test_a_ranking_is_drawn_with_its_margin():
    first, second = drawn("plot_ranking")
    assert [first.get_title(), second.get_title()] == ["C3", "depth"]
    assert first.get_lines()[0].get_ydata().tolist() == [0.1, 0.0, -0.1]
    assert first.get_lines()[2].get_ydata()[0] == 0.02


def test_paths_pass_through_every_epoch():
    (axis,) = drawn("plot_paths")
    first, second = axis.get_lines()
    np.testing.assert_allclose(first.get_xydata(), [[0.035, 0.0], [0.02, 0.15]])
    assert first.get_color() == second.get_color() == COLOURS["resnet"]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")


def test_calibration_is_the_mean_over_trainings_and_their_range():
    (axis,) = drawn("plot_calibration")
    np.testing.assert_allclose(points(axis, "baseline"), [[0.15, 0.075], [0.85, 0.7]])
    band = axis.collections[0].get_paths()[0].vertices
    assert {tuple(xy) for xy in band.round(3)} == {(0.15, 0.05), (0.15, 0.1), (0.85, 0.7)}


def test_agreement_is_drawn_as_ratios():
    axes = drawn("plot_agreement")
    for axis in axes:
        low, high = axis.get_xlim()
        assert low <= axis.get_lines()[0].get_xdata().min()
        assert axis.get_lines()[0].get_xdata().max() <= high
    dots = axes[0].get_lines()[0].get_xydata()
    np.testing.assert_allclose(dots[:2, 1], np.log10(2))
    np.testing.assert_allclose(dots[:2, 0], [np.sqrt(2), np.sqrt(200)])
    assert np.isfinite(dots).all()  # even where a prediction is empty


def test_detection_counts_lesions_that_a_prediction_overlaps():
    (axis,) = drawn("plot_detection")
    assert [bar.get_height() for bar in axis.patches] == [0.5, 1.0]


def test_lengths_are_means_over_trainings():
    (axis,) = drawn("plot_lengths")
    np.testing.assert_allclose(points(axis, "baseline"), [[6, 0.15], [12, 0.3]])
