"""Figures of the data: planes, intensities, volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.figures.base import COLOURS, NARROW, cropped, in_rows, panels, plain_log, show_slice

RING, REACH = 11, 60  # pixels: of a ring its radius, and of a slice what is shown around it


def plot_planes(cuts: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """Cuts through a scan: plain on the left, with the lesion's outline on the right.

    Parameters
    ----------
    cuts : mapping from a plane's name to (image, mask)
        Arrays (rows, columns).
    """
    figure, axes = in_rows(2 * len(cuts), height=4.2)
    for row, (name, (image, mask)) in enumerate(cuts.items()):
        image, mask = cropped(image, mask)
        show_slice(axes[2 * row], image, title=name)
        show_slice(axes[2 * row + 1], image, mask, title="with its lesion")
    return figure


def plot_anatomy(image: NDArray[Any], names: Mapping[str, tuple[int, int]]) -> Figure:
    """A slice with names beside it, and a line from each to its place.

    Parameters
    ----------
    image : array (rows, columns)
    names : mapping from a name to (row, column)
    """
    figure, axes = panels(1, 1, width=7.0, height=4.6)
    axis, middle = axes[0, 0], image.shape[1] / 2
    show_slice(axis, image)
    axis.set_xlim(10, image.shape[1] - 10)  # less of the dark beside the head
    for on_left in (True, False):
        side = {n: at for n, at in names.items() if (at[1] < middle) == on_left}
        heights = np.linspace(0, image.shape[0], len(side) + 2)[1:-1]
        listed = sorted(side.items(), key=lambda entry: entry[1][0])
        for height, (name, (row, column)) in zip(heights, listed, strict=True):
            axis.annotate(
                name,
                xy=(column, row),
                xytext=(-2 if on_left else image.shape[1] + 2, height),
                ha="right" if on_left else "left",
                va="center",
                fontsize=13,
                arrowprops={"arrowstyle": "-", "color": COLOURS["lesion"], "shrinkB": 0},
            )
            axis.plot(column, row, "o", color=COLOURS["lesion"], ms=3)
    return figure


def plot_imitators(marked: Mapping[str, tuple[NDArray[Any], tuple[int, int]]]) -> Figure:
    """Slices, cut off above and below, with a ring around one place in each.

    Parameters
    ----------
    marked : mapping from a title to (image, (row, column))
        The array (rows, columns) and the middle of the ring.
    """
    figure, axes = in_rows(len(marked), height=2.8)
    for axis, (title, (image, (row, column))) in zip(axes, marked.items(), strict=True):
        show_slice(axis, image, title=title)
        axis.set(xlim=(15, image.shape[1] - 15), ylim=(row + REACH, row - REACH))
        ring = Circle((column, row), RING, fill=False, ec=COLOURS["lesion"], lw=1.6)
        axis.add_patch(ring)
    return figure


def plot_levels(raw: Mapping[str, NDArray[Any]], scaled: Mapping[str, NDArray[Any]]) -> Figure:
    """Smoothed histograms of the brain's voxels by scan, before and after scaling to 8 bits."""
    figure, axes = panels(1, 2, width=7.2, height=2.9)
    names = ("intensity in the file", "level after scaling (0 to 255)")
    for axis, name, values in zip(axes.flat, names, (raw, scaled), strict=True):
        top = max(float(np.max(voxels)) for voxels in values.values())
        for shade, (scan, voxels) in zip(("#CC79A7", "#333333"), values.items(), strict=False):
            counts, edges = np.histogram(voxels, bins=256, range=(0, top))
            # integers fall unevenly into bins: without smoothing the curve looks like a comb
            smooth = ndimage.gaussian_filter1d(100 * counts / counts.sum(), sigma=5)
            axis.plot(edges[:-1], smooth, color=shade, label=scan)
        axis.set(xlabel=name, ylabel="brain voxels (% per bin)", ylim=(0, None))
    axes[0, 0].legend(frameon=False)
    return figure


def plot_volumes(table: pd.DataFrame, published: Mapping[float, float], source: str) -> Figure:
    """Cumulative distribution of the scans' lesion volumes, beside published percentiles.

    Parameters
    ----------
    table : DataFrame
        From :func:`atlaslib.evaluation.lesions.lesion_table`.
    published : mapping from a share of scans (0 to 1) to a volume in mm3
        Of ATLAS R2.0.
    source : str
        Where the scans of `table` come from.
    """
    figure, axes = panels(1, 1, width=NARROW, height=3.2)
    axis = axes[0, 0]
    volumes = np.sort(table["volume_mm3"].to_numpy(dtype=float)) / 1000
    shares = 100 * np.arange(1, len(volumes) + 1) / len(volumes)
    axis.step(volumes, shares, where="post", color=COLOURS["synthetic"], label=f"here: {source}")
    known = np.array(list(published.values())) / 1000, 100 * np.array(list(published))
    axis.plot(*known, "o--", color=COLOURS["ATLAS"], ms=4, lw=0.8, label="ATLAS R2.0, published")
    axis.set(xscale="log", xlabel="lesion volume (mL)", ylabel="scans up to this volume (%)")
    plain_log(axis)
    axis.legend(frameon=False)
    return figure
