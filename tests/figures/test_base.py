"""The slices, panels, tables and axes that all figures share."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from drawings import (
    IMAGE,
    MASK,
    outlined,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color

from atlaslib import figures
from atlaslib.figures.base import cropped, plain_log


def test_a_slice_is_drawn_with_its_first_row_at_the_top():
    image = np.zeros((4, 6))
    image[0, 5] = 100  # first row, last column
    figure, axes = figures.panels(1, 1, width=3, height=2)
    figures.show_slice(axes[0, 0], image)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = axes[0, 0].get_window_extent()
    rows = np.asarray(canvas.buffer_rgba())[::-1, :, 0]  # from the bottom, like the box
    inside = rows[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)]
    row, column = np.argwhere(inside > 250).mean(axis=0) / inside.shape
    assert row == pytest.approx(7 / 8, abs=0.02)  # top
    assert column == pytest.approx(11 / 12, abs=0.02)  # right


def test_the_outline_encloses_exactly_the_mask():
    _, axes = figures.panels(1, 3)
    for axis, mask in zip(axes.flat, (MASK, MASK & False, None), strict=True):
        figures.show_slice(axis, IMAGE, mask, colour="#123456", title="a scan")
        np.testing.assert_array_equal(axis.images[0].get_array(), IMAGE)
        np.testing.assert_array_equal(outlined(axis), MASK if mask is MASK else MASK & False)
        assert axis.get_title() == "a scan"
    assert same_color(axes[0, 0].collections[0].get_edgecolor(), "#123456")


def test_panels_are_always_a_two_dimensional_array():
    figure, axes = figures.panels(2, 3, width=6, height=4, sharey=True)
    assert axes.shape == (2, 3)
    assert figures.panels()[1].shape == (1, 1)
    assert figure.get_size_inches().tolist() == [6, 4]
    axes[0, 0].set_ylim(0, 7)
    assert axes[1, 2].get_ylim() == (0, 7)


def test_a_tidy_table_has_three_digits_and_no_index():
    table = pd.DataFrame(
        {
            "method": ["a rather long name", "B"],
            "voxels": [1_234_567.0, -1_000.4],
            "dice": [0.123456, 0.00001234],
            "scans": pd.array([12_345, None], dtype="Int64"),
        },
        index=[41, 42],
    )
    page = figures.tidy(table).to_html()
    first, second = (re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in page.split("<tr>")[2:])
    assert first == ["a rather long name", "1,234,567", "0.123", "12345"]
    assert second == ["B", "-1,000", "1.23e-05", "–"]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", page) == list(table)


@pytest.mark.parametrize(
    ("given", "expected", "ticks"),
    [
        ((2, 4), (0.8**0.5, 80**0.5), "1 3"),
        ((0.01, 100), (0.01, 100), "0.01 0.03 0.1 0.3 1 3 10 30 100"),
    ],
)
def test_a_plain_logarithmic_axis_spans_a_factor_of_ten(given, expected, ticks):
    figure, axes = figures.panels()
    axis = axes[0, 0]
    axis.set(xscale="log", xlim=given)
    plain_log(axis)
    low, high = axis.get_xlim()
    assert (low, high) == pytest.approx(expected)
    figure.draw_without_rendering()
    labels = axis.get_xticklabels(which="both")
    assert len({round(x.get_window_extent().y0, 3) for x in labels if x.get_text()}) == 1
    assert {x.get_text() for x in labels if low <= x.get_position()[0] <= high} == {*ticks.split()}


def test_the_dark_around_a_head_is_cut_off_and_its_mask_alike():
    image, mask = np.full((9, 8), 32), np.arange(72).reshape(9, 8)
    image[2:7, 3:6] = 200
    image[1, 1] = 40  # noise
    shown, outline = cropped(image, mask)
    assert shown.tolist() == [[200] * 3] * 5
    assert outline.tolist() == mask[2:7, 3:6].tolist()


def test_a_slice_without_head_stays_as_it_is():
    assert cropped(np.zeros((4, 3)))[0].shape == (4, 3)
