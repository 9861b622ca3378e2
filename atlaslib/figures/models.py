"""Figures of the models, their training and their code."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike, NDArray

from atlaslib.figures.base import (
    COLOURS,
    NARROW,
    OTHERS,
    colour,
    cropped,
    in_rows,
    panels,
    show_slice,
)
from atlaslib.figures.ideas import INK, NO_WEIGHTS


def plot_images(images: Mapping[str, NDArray[Any]], colour_map: str = "gray") -> Figure:
    """Arrays (rows, columns) in rows of two, each under its name and on its own grey scale."""
    figure, axes = in_rows(len(images))
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image, cmap=colour_map, interpolation="nearest")
        axis.set_title(name, fontsize=13)
        axis.set_axis_off()
    return figure


def plot_receptive_field(image: NDArray[Any], gradients: Mapping[str, NDArray[Any]]) -> Figure:
    """The slice around one pixel, with a frame around the pixels that each layer's output sees.

    Parameters
    ----------
    image : array (rows, columns)
    gradients : mapping from a layer's name to an array (rows, columns)
        Non-zero where the layer's output at one pixel depends on the input.
    """
    figure, axes = panels(1, 1, width=NARROW, height=5.2)
    axis = axes[0, 0]
    axis.imshow(image, cmap="gray", interpolation="nearest")
    shades = ["#F0E442", COLOURS["lesion"], COLOURS["resnet"], "#CC79A7", COLOURS["prediction"]]
    for shade, (name, gradient) in zip(shades, gradients.items(), strict=False):
        rows, columns = (np.flatnonzero(np.any(gradient, axis=1 - k)) for k in (0, 1))
        corner = (columns[0] - 0.5, rows[0] - 0.5)
        size = (len(columns), len(rows))
        label = f"{name}: {size[1]} × {size[0]} pixels"
        axis.add_patch(Rectangle(corner, *size, fill=False, ec=shade, lw=1.8, label=label))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    axis.set_axis_off()
    return figure


def plot_layers(
    table: pd.DataFrame, skips: Sequence[tuple[str, str]] = (), colour: str = COLOURS["baseline"]
) -> Figure:
    """A model as a row of blocks: height is the slice's rows, width grows with the channels.

    Pooling is hatched.

    Parameters
    ----------
    table : DataFrame
        From :func:`atlaslib.models.layer_table`.
    skips : sequence of (layer, layer)
        Skip connections, drawn as arcs over the blocks.
    """
    figure, axes = panels(1, 1, width=8.2, height=3.4)
    axis, left, centre = axes[0, 0], 0.0, {}
    for layer, output in zip(table.layer, table.output, strict=True):
        rows, channels = (output[0], output[-1]) if len(output) == 3 else (2, output[0])
        width = 1.0 + 0.3 * np.log2(channels)
        look: dict[str, Any] = NO_WEIGHTS if "pool" in layer else {"fc": colour, "ec": "white"}
        axis.add_patch(Rectangle((left, -rows / 2), width, rows, **look))
        axis.text(left + width / 2, -rows / 2 - 8, channels, ha="center", va="top")
        name = layer.removeprefix("decoder.")
        axis.text(left + width / 2, -172, name, ha="center", va="top", rotation=90)
        centre[layer] = (left + width / 2, rows / 2)
        left += width + 0.5
    for start, end in skips:
        bend = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.22", "color": "#333333"}
        axis.annotate("", xy=centre[end], xytext=centre[start], arrowprops=bend)
    axis.set(xlim=(-0.5, left), ylim=(-240, 250))
    axis.set_axis_off()
    return figure


def plot_history(
    histories: Mapping[str, pd.DataFrame],
    base_loss: float | None = None,
    base_name: str = "a constant",
) -> Figure:
    """Loss and validation Dice by epoch; training is solid, validation dashed.

    Parameters
    ----------
    histories : mapping from a model's name to a run's ``history``
    base_loss : float, optional
        Loss of a constant prediction, drawn as a line.
    base_name : str
        What the line is called.
    """
    figure, axes = panels(1, 2, width=7.6, height=3.2)
    for name, history in histories.items():
        style = {"color": colour(name), "marker": "o", "markersize": 3}
        axes[0, 0].plot(history.epoch, history.loss, label=f"{name}, training", **style)
        axes[0, 0].plot(
            history.epoch, history.validation_loss, "--", label=f"{name}, validation", **style
        )
        axes[0, 1].plot(history.epoch, history.validation_dice, "--", **style)
    if base_loss is not None:
        axes[0, 0].axhline(base_loss, color=COLOURS["zero"], lw=1.2, label=base_name)
    axes[0, 0].set(xlabel="epoch", ylabel="loss per pixel (nats)", yscale="log")
    scale = axes[0, 0].yaxis
    scale.set_minor_locator(LogLocator(subs=(2, 5)))
    scale.set_major_formatter("{x:g}")
    scale.set_minor_formatter("{x:g}")
    axes[0, 1].set(xlabel="epoch", ylabel="validation Dice, mean over scans", ylim=(-0.02, 1))
    for axis in axes.flat:
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    return figure


def plot_predictions(
    cases: Sequence[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]],
    model: str = "prediction",
) -> Figure:
    """Four pictures per case: slice, true outline, probability, and what the model marks.

    Parameters
    ----------
    cases : sequence of (title, image, mask, probability)
        The arrays have the shape (rows, columns).
    model : str
        Whose probabilities they are: its colour is that of the outline.
    """
    figure, axes = in_rows(4 * len(cases))
    rows = np.reshape(np.array(axes, dtype=object), (len(cases), 4))
    for row, (title, *case) in zip(rows, cases, strict=True):
        image, mask, probability = cropped(*case)
        show_slice(row[0], image, title=title)
        show_slice(row[1], image, mask, COLOURS["lesion"], "truth")
        drawn = row[2].imshow(probability, cmap="cividis", vmin=0, vmax=1)
        row[2].set_axis_off()
        row[2].set_title("probability of lesion", fontsize=13)
        marked = probability > 0.5
        found = "above 0.5" if marked.any() else "nothing above 0.5"
        show_slice(row[3], image, marked, colour(model), f"{model}: {found}")
        figure.colorbar(drawn, ax=row[2], shrink=0.7, label="probability", location="bottom")
    return figure


def plot_units() -> Figure:
    """The paper's residual unit beside that of TensorFlow's model, as flow charts."""
    paper = ["leaky ReLU", "batch norm", "3×3 convolution", "batch norm", "3×3 convolution"]
    other = ["batch norm", "leaky ReLU", "3×3 convolution", "batch norm", "leaky ReLU"]
    figure, axes = panels(1, 2, width=NARROW, height=4.4)
    _flow(axes[0, 0], "the paper's unit", paper, leave=1)
    _flow(axes[0, 1], "TensorFlow's unit", [*other, "3×3 convolution"], leave=0)
    return figure


def _flow(axis: Axes, title: str, steps: Sequence[str], leave: int) -> None:
    """Boxes from top to bottom; the shortcut leaves before step `leave` and joins at the sum."""
    arrow = {"arrowstyle": "-|>", "color": "#333333"}
    level = [-(k + 1.0) for k in range(len(steps) + 1)]
    axis.annotate("", xy=(0, -0.7), xytext=(0, 0), arrowprops=arrow)
    for step, y in zip(steps, level, strict=False):
        paint = COLOURS["resnet"] if "conv" in step else INK
        box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": paint, "lw": 1.6}
        axis.annotate("", xy=(0, y - 0.75), xytext=(0, y - 0.25), arrowprops=arrow)
        axis.text(0, y, step, ha="center", va="center", fontsize=11, bbox=box)
    start, end = level[0] + 0.55 - leave, level[-1]
    axis.plot([0, 1.5, 1.5], [start, start, end], color="#333333", lw=1)
    axis.annotate("", xy=(0.2, end), xytext=(1.5, end), arrowprops=arrow)
    axis.text(1.55, (start + end) / 2, "shortcut", rotation=270, va="center", fontsize=11)
    axis.text(
        0,
        end,
        "+",
        ha="center",
        va="center",
        fontsize=13,
        bbox={"boxstyle": "circle", "fc": "white"},
    )
    axis.annotate("", xy=(0, end - 0.9), xytext=(0, end - 0.35), arrowprops=arrow)
    axis.set(xlim=(-1.6, 2), ylim=(-8.2, 0.2), title=title)
    axis.set_axis_off()


def plot_curves(
    curves: Mapping[str, NDArray[Any]], xlabel: str, ylabel: str, **scales: str
) -> Figure:
    """Named curves against their index; ``scales`` may hold ``xscale`` or ``yscale``."""
    figure, axes = panels(1, 1, width=NARROW, height=3.2)
    shades = itertools.cycle(OTHERS)
    for name, values in curves.items():
        shade = COLOURS.get(name) or next(shades)
        axes[0, 0].plot(np.arange(len(values)), values, color=shade, lw=1.4, label=name)
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel, **scales)
    # at the left, where a phone shows it, and above the curves
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


def plot_split(parts: Mapping[str, NDArray[Any]]) -> Figure:
    """The training slices of each split: rows are scans, columns slices from the lowest up.

    Parameters
    ----------
    parts : mapping from a split's name to a bool array (scans, slices)
        True where the slice belongs to the training set.
    """
    figure, axes = panels(1, len(parts), width=2.5 * len(parts), height=2.8, sharey=True)
    colours = ListedColormap(["#DDDDDD", COLOURS["baseline"]])
    for axis, (name, trains) in zip(axes.flat, parts.items(), strict=True):
        axis.imshow(trains, cmap=colours, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
        axis.set(title=name, xlabel="axial slice (z)")
    axes[0, 0].set_ylabel("scan")
    return figure


def plot_ringing(mask: NDArray[np.bool_], soft: NDArray[Any]) -> Figure:
    """A mask, the mask after JPEG, and the pixels that the original metric counts as lesion."""
    figure, axes = panels(1, 3, width=7.4, height=2.9)
    counted = np.asarray(soft) > 0
    names = ("true mask", "after JPEG (shade: fourth root)", "counted as lesion (> 0)")
    for axis, name, image in zip(axes.flat, names, (mask, soft**0.25, counted), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.contour(mask.astype(float), levels=[0.5], colors=[COLOURS["lesion"]], linewidths=1)
        axis.set(xticks=np.arange(-0.5, mask.shape[1], 8), yticks=np.arange(-0.5, mask.shape[0], 8))
        axis.set(xticklabels=[], yticklabels=[])
        axis.grid(color="#777777", lw=0.5)
        axis.set_title(f"{name}\n{np.count_nonzero(image)} pixels", fontsize=11)
    return figure


def plot_ceiling(areas: ArrayLike, ceilings: ArrayLike, worked: pd.DataFrame) -> Figure:
    """The original metric's score for a perfect mask, by the lesion's area in the slice.

    Parameters
    ----------
    areas, ceilings : array (slices,)
        The area in pixels, and the true mask's score.
    worked : DataFrame
        The discs of the worked example, with the columns area and dice.
    """
    figure, axes = panels(1, 1, width=NARROW, height=3.2)
    axis = axes[0, 0]
    axis.scatter(areas, ceilings, s=6, alpha=0.3, lw=0, color=COLOURS["lesion"], label="slices")
    axis.plot(worked.area, worked.dice, "o-", color="#333333", label="discs")
    axis.axhline(1, color=COLOURS["zero"], lw=1)
    axis.set(xscale="log", xlabel="lesion area in the slice (pixels of 1 mm²)", ylim=(0, 1.05))
    axis.set_ylabel("score of a perfect mask")
    axis.legend(frameon=False, markerscale=2)
    return figure
