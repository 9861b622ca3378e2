"""Pictures to look at before a mask in native space, or a registration, is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atlaslib.data.volumes import GRID, brain_mask
from atlaslib.evaluation.prediction import Prediction
from atlaslib.figures.base import COLOURS, Picture, panels

_PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}


def plot_outlines(
    image: NDArray[Any], mask: NDArray[np.bool_], zooms: tuple[float, float, float], title: str = ""
) -> Figure:
    """Three planes of a scan through the middle of its lesion, with the lesion's outline.

    Parameters
    ----------
    image : (x, y, z)
        In RAS orientation: the patient's left is on the left.
    mask : (x, y, z) bool
        If it is empty, the planes go through the middle of the image.
    zooms : three floats
        The voxel's size in mm.
    title : str
    """
    figure, axes = panels(1, 3, width=9.0, height=3.6)
    place = _middle(mask)
    low, high = np.percentile(image, [1, 99.5])
    for axis, (name, plane) in zip(axes.flat, _PLANES.items(), strict=True):
        rows, columns = (size for n, size in reversed(list(enumerate(zooms))) if n != plane)
        cut = np.rot90(np.take(image, place[plane], plane))
        shown = np.rot90(np.take(mask, place[plane], plane))
        _draw(axis, cut, shown, (low, high), rows / columns, COLOURS["prediction"])
        axis.set_title(name, fontsize=11)
    figure.suptitle(title, fontsize=11)
    return figure


def plot_prediction(prediction: Prediction, title: str) -> Figure:
    """:func:`plot_outlines` of a scan and the mask that was predicted for it."""
    t1 = prediction.t1
    zooms = tuple(np.linalg.norm(t1.affine[:3, :3], axis=0))
    return plot_outlines(t1.voxels, prediction.lesion, zooms, title)


def sheet_cuts(image: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """An axial and a sagittal slice of a T1 on the MNI grid, each with the template's brain.

    The sagittal one is beside the middle, where there is cortex and not the fissure.
    """
    places = ((2, GRID[2] * 45 // 100), (0, GRID[0] * 40 // 100))
    return [
        (np.rot90(np.take(image, index, plane)), np.rot90(np.take(brain_mask(), index, plane)))
        for plane, index in places
    ]


def plot_contact_sheet(
    scans: Mapping[str, Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]], across: int = 4
) -> Figure:
    """Every registered scan with the outline of the template's brain.

    Where the outline does not follow the head's own brain, the registration has failed.

    Parameters
    ----------
    scans : mapping from a title to the two pairs of :func:`sheet_cuts`
    across : int
        Scans in one row.
    """
    down = -(-len(scans) // across)
    figure = Picture(figsize=(2.2 * across, 1.4 * down + 0.2), layout="constrained")
    axes = figure.subplots(down, 2 * across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (title, cuts) in enumerate(scans.items()):
        row, column = divmod(number, across)
        for offset, (cut, outline) in enumerate(cuts):
            limits = np.percentile(cut, [1, 99.5])
            _draw(axes[row, 2 * column + offset], cut, outline, limits, 1.0, COLOURS["lesion"])
        axes[row, 2 * column].set_title(title, fontsize=6, loc="left")
    return figure


def _draw(
    axis: Axes, cut: NDArray[Any], mask: NDArray[np.bool_], limits: Any, aspect: float, colour: str
) -> None:
    axis.imshow(cut, cmap="gray", vmin=limits[0], vmax=limits[1], aspect=aspect)
    if mask.any():
        padded = np.pad(mask, 1).astype(float)  # closed at the edge of the image, too
        axis.contour(np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1), padded,
                     levels=[0.5], colors=[colour], linewidths=0.9)  # fmt: skip
    axis.set_axis_off()


def _middle(mask: NDArray[np.bool_]) -> list[int]:
    """In each direction, the plane with most of the mask; the middle of the image without one."""
    if not mask.any():
        return [size // 2 for size in mask.shape]
    return [
        int(mask.sum(axis=tuple(n for n in range(3) if n != plane)).argmax()) for plane in range(3)
    ]
