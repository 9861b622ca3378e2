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
    for column, (name, image, mask) in enumerate(
        [("axial", IMAGE, MASK), ("other", IMAGE.T, MASK.T)]
    ):
        above, below = axes[:, column]
        assert above.get_title() == name
        for axis in (above, below):
            np.testing.assert_array_equal(axis.images[0].get_array(), image)
        assert not outlined(above).any()
        np.testing.assert_array_equal(outlined(below), mask)


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
