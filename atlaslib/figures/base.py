"""Shared by all figures: colours, panels, a slice with its outline, tables."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from pandas.io.formats.style import Styler
from PIL import Image

# Okabe and Ito's palette: distinguishable with every common kind of colour blindness
COLOURS = {
    "baseline": "#0072B2",
    "resnet": "#D55E00",
    "zero": "#7F7F7F",
    "lesion": "#E69F00",
    "overlap": "#CC79A7",  # of a mask and the lesion
    "prediction": "#56B4E9",
    "ATLAS": "#333333",
    "synthetic": "#009E73",
    # from here on Tol's muted palette
    "residual_unet": "#44AA99",
    "dynunet": "#882255",
    "20 units, U-Net": "#332288",
    "4 units, U-Net": "#999933",
    "6 convolutions, norm, U-Net": "#AA4499",
}
OTHERS = ("#117733", "#CC6677", "#661100", "#6699CC")  # for whatever has no colour of its own
DPI = 110
NARROW = 5.2  # inches: of a chart that is still legible when a phone shrinks it


def colour(name: str) -> str:
    """A model's colour, the same in every figure; "model, what differs" has that of the model."""
    model = name if name in COLOURS else name.partition(",")[0]
    return COLOURS.get(model) or OTHERS[zlib.crc32(model.encode()) % len(OTHERS)]


class Picture(Figure):
    """A figure that a notebook shows without pyplot, whatever the backend."""

    def _repr_png_(self) -> bytes:
        return png(self, DPI, bbox_inches="tight")


def png(figure: Figure, dpi: int, **options: Any) -> bytes:
    """A figure as a PNG without transparency, which would make it a tenth larger.

    Options as for ``Figure.savefig``.
    """
    drawn, smaller = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, **options)
    Image.open(drawn).convert("RGB").save(smaller, "png", optimize=True)
    return smaller.getvalue()


def panels(
    rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.6, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A new figure and its axes as a (rows, columns) array.

    Parameters
    ----------
    rows, columns : int, default=1
    width, height : float
        Of the whole figure, in inches.
    **options
        Passed to ``Figure.subplots``, for instance ``sharey=True``.
    """
    between = ConstrainedLayoutEngine(wspace=0.06)  # a y label keeps off the panel to its left
    figure = Picture(figsize=(width, height), layout=between)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def in_rows(
    count: int, across: int = 2, height: float = 4.6, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A new figure of `count` axes in rows of `across`, each row `height` inches high.

    Two brains in a row are more than 300 pixels wide on a page. Options as for :func:`panels`.
    """
    rows = -(-count // across)
    figure, axes = panels(rows, across, width=7.0, height=rows * height, **options)
    figure.set_layout_engine("constrained", wspace=0.02, h_pad=0.08)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def show_slice(
    axis: Axes,
    image: NDArray[Any],
    mask: NDArray[Any] | None = None,
    colour: str = COLOURS["lesion"],
    title: str = "",
) -> None:
    """Draw a slice (rows, columns) in grey, and the outline of `mask` if it is not empty."""
    axis.imshow(image, cmap="gray", interpolation="nearest")
    if mask is not None and np.any(mask) and not np.all(mask):
        axis.contour(np.asarray(mask, dtype=float), levels=[0.5], colors=[colour], linewidths=1.5)
    axis.set_axis_off()
    axis.set_title(title, fontsize=13)


def cropped(image: NDArray[Any], *others: NDArray[Any]) -> list[NDArray[Any]]:
    """A slice (rows, columns) without the dark around the head, and others cut alike."""
    darkest, brightest = np.min(image), np.max(image)
    bright = image > 0.9 * darkest + 0.1 * brightest
    rows, columns = (np.flatnonzero(bright.any(axis=1 - k)) for k in (0, 1))
    if not len(rows):
        return [image, *others]
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return [np.asarray(each)[window] for each in (image, *others)]


def tidy(table: pd.DataFrame) -> Styler:
    """A table styled for the page: no index, numbers to three digits, long text wrapped.

    Parameters
    ----------
    table : DataFrame
        Shown in full, so it should be short.
    """
    style = table.style.hide(axis="index").format(short)
    right: Any = [{"selector": "", "props": "text-align: right"}]
    style.set_table_styles(dict.fromkeys(table.select_dtypes("number").columns, right))
    return style.set_table_attributes('class="dataframe"')


def short(value: object) -> str:
    """A number to three digits, from 1000 on a whole number, and a dash for a missing value."""
    if value is None or value is pd.NA or value != value:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def plain_log(axis: Axes) -> None:
    """Let a logarithmic x axis span a factor of ten or more, with ticks at 0.01, 0.03, 0.1, ..."""
    low, high = axis.get_xlim()
    spread = max(1.0, (10 * low / high) ** 0.5)
    axis.set_xlim(low / spread, high * spread)
    axis.xaxis.set_minor_locator(LogLocator(subs=(3,)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="x", which="both", length=3.5, pad=3.5)  # all labels at one height
