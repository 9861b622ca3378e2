"""Pictures of masks in native space: where the planes are cut, and what is drawn on them."""

from __future__ import annotations

import numpy as np
import pytest

from atlaslib.data.volumes import GRID, brain_mask
from atlaslib.figures import plot_contact_sheet, plot_outlines
from atlaslib.figures.native import sheet_cuts

IMAGE = np.arange(20 * 30 * 10, dtype=float).reshape(20, 30, 10)


def test_the_planes_go_through_the_lesion():
    mask = np.zeros(IMAGE.shape, bool)
    mask[4:7, 20:24, 2] = True
    mask[5, 21, 2:5] = True
    axes = plot_outlines(IMAGE, mask, (1, 1, 3)).axes
    assert [axis.get_title() for axis in axes] == ["axial", "coronal", "sagittal"]
    cuts = [np.rot90(IMAGE[:, :, 2]), np.rot90(IMAGE[:, 21]), np.rot90(IMAGE[5])]
    for axis, cut in zip(axes, cuts, strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), cut)
        assert len(axis.collections) == 1  # the outline
    # slices are 3 mm apart: a pixel of the coronal and sagittal plane is three times as high
    assert [axis.get_aspect() for axis in axes] == [1, 3, 3]


def test_an_outline_at_the_edge_is_closed():
    mask = np.ones(IMAGE.shape, bool)
    for axis in plot_outlines(IMAGE, mask, (1, 1, 1)).axes:
        (path,) = axis.collections[0].get_paths()
        np.testing.assert_array_equal(path.vertices[0], path.vertices[-1])


def test_without_a_lesion_the_middle_is_shown():
    axes = plot_outlines(IMAGE, np.zeros(IMAGE.shape, bool), (1, 1, 1), "no lesion").axes
    np.testing.assert_array_equal(axes[0].images[0].get_array(), np.rot90(IMAGE[:, :, 5]))
    assert not axes[0].collections


@pytest.mark.parametrize("count", [1, 5])
def test_a_contact_sheet_shows_every_scan(count):
    cuts = sheet_cuts(np.arange(GRID[2], dtype=np.float32) * np.ones(GRID, np.float32))
    assert [cut.shape for cut, _ in cuts] == [(233, 197), (189, 233)]
    np.testing.assert_array_equal(cuts[1][1], np.rot90(brain_mask()[78]))
    figure = plot_contact_sheet({f"scan {n}": cuts for n in range(count)})
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 2 * count
    assert [a.get_title(loc="left") for a in shown[::2]] == [f"scan {n}" for n in range(count)]
