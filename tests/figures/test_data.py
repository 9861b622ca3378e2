"""Figures of scans, intensities and volumes show what they are given."""

from __future__ import annotations

import numpy as np
import pytest
from drawings import (
    IMAGE,
    MASK,
    drawn,
    line,
    outlined,
    points,
)


def test_planes_are_shown_plain_and_with_an_outline():
    axes = np.reshape(drawn("plot_planes"), (2, 2))
    planes = [("axial", IMAGE, MASK), ("other", IMAGE.T, MASK.T)]
    for (plain, marked), (name, image, mask) in zip(axes, planes, strict=True):
        assert plain.get_title() == name
        for axis in (plain, marked):
            np.testing.assert_array_equal(axis.images[0].get_array(), image)
        assert not outlined(plain).any()
        np.testing.assert_array_equal(outlined(marked), mask)


def test_each_name_points_to_its_place_and_no_lines_cross():
    (axis,) = drawn("plot_anatomy")
    found = {text.get_text(): (text.xy, text.get_position()) for text in axis.texts}
    assert {name: xy for name, (xy, _) in found.items()} == {  # column, row
        "scalp": (40, 60),
        "gyrus": (20, 150),
        "ventricle": (120, 90),
    }
    assert found["scalp"][1][1] < found["gyrus"][1][1]
    assert found["gyrus"][1][0] < 0 < 200 < found["ventricle"][1][0]


def test_an_imitator_lies_in_the_middle_of_its_ring():
    (axis,) = drawn("plot_imitators")
    (ring,) = axis.patches
    assert ring.get_center() == (60, 90)  # column, row
    low, high = sorted(axis.get_ylim())
    assert low < 90 - ring.get_radius() < 90 + ring.get_radius() < high


def test_levels_are_histograms_in_percent_of_the_voxels():
    raw, scaled = drawn("plot_levels")
    for axis, label, places in (
        (raw, "A", [100, 200]),
        (raw, "B", [800]),
        (scaled, "A", [128]),
        (scaled, "B", [64, 255]),
    ):
        x, y = line(axis, label).get_data()
        assert y.sum() == pytest.approx(100, abs=0.01)
        left, right = np.r_[-1, y[:-1]], np.r_[y[1:], -1]
        np.testing.assert_allclose(x[(y > left) & (y >= right) & (y > 0.1)], places, atol=3.2)
    assert [text.get_text() for text in raw.get_legend().get_texts()] == ["A", "B"]


def test_volumes_are_a_cumulative_distribution_in_millilitres():
    (axis,) = drawn("plot_volumes")
    here = "here: ATLAS R1.1"
    assert points(axis, here) == [[1, 25], [3, 50], [4, 75], [20, 100]]
    assert line(axis, here).get_drawstyle() == "steps-post"  # up to and including a volume
    assert points(axis, "ATLAS R2.0, published") == [[0.38, 10], [5.29, 50]]
    assert "(mL)" in axis.get_xlabel()
    assert "(%)" in axis.get_ylabel()
    assert axis.get_xscale() == "log"
