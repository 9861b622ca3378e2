"""Pictures of an idea show what they are given, and the arithmetic on them is right."""

from __future__ import annotations

import numpy as np
import pytest
from drawings import IMAGE, MASK, drawn, line, points
from matplotlib.colors import same_color, to_rgb

from atlaslib import dice, figures
from atlaslib.figures import ideas


def test_grey_levels_are_the_signals_when_the_picture_is_taken():
    curves, levels = drawn("plot_recovery")
    assert points(curves, "fluid") == [[0, -0.5], [1, -0.1], [2, 0.3]]
    assert set(line(curves, "the picture is taken").get_xdata()) == {1}
    assert "(s)" in curves.get_xlabel()
    white, fluid = (to_rgb(box.get_facecolor()) for box in levels.patches)
    assert white == (1, 1, 1)
    np.testing.assert_allclose(fluid, 0.25)  # a scan shows the size of a signal, not its sign
    assert [text.get_text() for text in levels.texts] == ["white matter\n0.40", "fluid\n0.10"]


def test_every_pixel_of_two_masks_has_the_colour_of_its_kind():
    (axis,) = drawn("plot_overlap")
    picture = axis.images[0]
    shades = picture.to_rgba(picture.get_array())
    assert same_color(shades[1, 4], ideas.OVERLAP["both"])
    assert same_color(shades[0, 0], ideas.OVERLAP["P only"])
    assert same_color(shades[5, 7], "white")
    other = figures.plot_overlap({"x": (MASK & False, MASK)}).axes[0].images[0]
    assert same_color(other.to_rgba(other.get_array())[1, 4], ideas.OVERLAP["T only"])


def test_the_dice_under_two_masks_is_worked_out():
    (axis,) = drawn("plot_overlap")
    assert axis.get_xlabel() == "|P| = 9, |T| = 6, both: 6\nDice = 2 × 6 / (9 + 6) = 0.80"
    assert dice(MASK | (IMAGE < 3), MASK) == pytest.approx(0.8)


def test_a_network_is_narrowest_where_the_fewest_numbers_leave_a_layer():
    baseline, resnet, numbers = drawn("plot_networks")
    assert [block.get_height() for block in baseline.patches[:3]] == [80, 40, 40]
    assert resnet.patches[1].get_height() < 3
    hatched = [[bool(block.get_hatch()) for block in axis.patches] for axis in (baseline, resnet)]
    assert hatched == [[False, True, False], [False, True, False, False]]
    for axis, model in ((baseline, "baseline"), (resnet, "resnet")):
        assert same_color(axis.patches[0].get_facecolor(), figures.COLOURS[model])
    curves = numbers.get_lines()
    assert same_color(curves[0].get_color(), figures.COLOURS["baseline"])
    assert same_color(curves[1].get_color(), figures.COLOURS["resnet"])
    assert curves[1].get_label() == "resnet (least at average: 4)"
    sizes = [size for _, size in curves[1].get_xydata().tolist()]
    assert sizes == [80 * 64 * 4, 4, 5120, 80 * 64]
    assert "40 × 32 × 16" in [text.get_text() for text in baseline.texts]


def test_only_a_network_with_skip_connections_has_arcs():
    baseline, resnet, _ = drawn("plot_networks")
    arcs = [sum(text.get_text() == "" for text in axis.texts) for axis in (baseline, resnet)]
    assert arcs == [1, 0]


def test_a_person_drawn_twice_is_twice_as_large_and_moves_the_mean():
    people, means = drawn("plot_bootstrap")
    sizes = [dots.get_sizes() for dots in people.collections]
    assert sizes[0][0] == sizes[0][1] == sizes[0][2] > 0
    assert list(sizes[1] / sizes[0][0]) == [3, 0, 0]
    bars = [bar.get_xdata()[0] for bar in people.get_lines()]
    np.testing.assert_allclose(bars, [0.5, 0.2, 0.9, 0.5])
    assert sum(bar.get_height() for bar in means.patches[:40]) == 4


def test_an_interval_holds_the_middle_of_the_means():
    values = np.arange(101) / 100
    draws = np.arange(101)[:, None]  # every mean once: 0, 0.01, ... 1
    label = figures.plot_bootstrap(values, draws).axes[1].get_legend_handles_labels()[1][0]
    assert label == "the middle 95 %: 0.03 to 0.97"
