"""The book's figures: each function takes tables or arrays and returns a Figure.

No function here reads a file or calls ``show``. The figures are not known to pyplot: in a
notebook the last line of a cell shows one once. Sorted by chapter.
"""

from __future__ import annotations

import io
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
from pandas.io.formats.style import Styler
from scipy import ndimage

# Okabe and Ito's palette: told apart with every common kind of colour blindness
COLOURS = {
    "baseline": "#0072B2",
    "resnet": "#D55E00",
    "zero": "#7F7F7F",
    "lesion": "#E69F00",
    "prediction": "#56B4E9",
    "ATLAS": "#333333",
    "synthetic": "#009E73",
}
DPI = 110


class Picture(Figure):
    """A figure that a notebook shows without pyplot, whatever the backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        return buffer.getvalue()


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
    figure = Picture(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def show_slice(
    axis: Axes,
    image: NDArray[Any],
    mask: NDArray[Any] | None = None,
    colour: str = COLOURS["lesion"],
    title: str = "",
) -> None:
    """A grey slice (rows, columns) without ticks; the outline of `mask`, if it has any pixel."""
    axis.imshow(image, cmap="gray", interpolation="nearest")
    if mask is not None and np.any(mask) and not np.all(mask):
        axis.contour(np.asarray(mask, dtype=float), levels=[0.5], colors=[colour], linewidths=1.2)
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)


# Chapter 1: the data


def plot_planes(cuts: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """Cuts through a scan: bare above, with the lesion's outline below.

    Parameters
    ----------
    cuts : mapping of a plane's name to (image, mask)
        Arrays (rows, columns).
    """
    figure, axes = panels(2, len(cuts), width=2.5 * len(cuts), height=5.6)
    for column, (name, (image, mask)) in enumerate(cuts.items()):
        show_slice(axes[0, column], image, title=name)
        show_slice(axes[1, column], image, mask)
    return figure


def plot_levels(raw: Mapping[str, NDArray[Any]], scaled: Mapping[str, NDArray[Any]]) -> Figure:
    """Smoothed histograms of the brain's voxels by scan, before and after scaling to 8 bits."""
    figure, axes = panels(1, 2, width=7.2, height=2.9)
    names = ("intensity in the file", "level after scaling (0 to 255)")
    for axis, name, values in zip(axes.flat, names, (raw, scaled), strict=True):
        top = max(float(np.max(voxels)) for voxels in values.values())
        for shade, (scan, voxels) in zip(("#CC79A7", "#333333"), values.items(), strict=False):
            counts, edges = np.histogram(voxels, bins=256, range=(0, top))
            # whole numbers fall unevenly into bins: without smoothing the curve is a comb
            smooth = ndimage.gaussian_filter1d(100 * counts / counts.sum(), sigma=5)
            axis.plot(edges[:-1], smooth, color=shade, label=scan)
        axis.set(xlabel=name, ylabel="brain voxels (% per bin)", ylim=(0, None))
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def plot_volumes(table: pd.DataFrame, published: Mapping[float, float], source: str) -> Figure:
    """How large lesions are: share of scans up to a volume, beside published percentiles.

    Parameters
    ----------
    table : DataFrame
        Of :func:`atlaslib.lesions.lesion_table`.
    published : mapping of a share (0 to 1) to a volume in mm3
        Of ATLAS R2.0.
    source : str
        Where the scans of `table` come from.
    """
    figure, axes = panels(1, 1, width=6.0, height=3.4)
    axis = axes[0, 0]
    volumes = np.sort(table["volume_mm3"].to_numpy(dtype=float)) / 1000
    shares = 100 * np.arange(1, len(volumes) + 1) / len(volumes)
    axis.step(volumes, shares, where="post", color=COLOURS["synthetic"], label=f"here: {source}")
    known = np.array(list(published.values())) / 1000, 100 * np.array(list(published))
    axis.plot(*known, "o--", color=COLOURS["ATLAS"], ms=4, lw=0.8, label="ATLAS R2.0, published")
    axis.set(xscale="log", xlabel="lesion volume of a scan (mL)", ylabel="scans up to this (%)")
    _plain_log(axis)
    axis.legend(frameon=False, fontsize=8)
    return figure


# Chapters 2, 3 and 6: the models and the paper against its code


def plot_images(
    images: Mapping[str, NDArray[Any]], colour_map: str = "gray", height: float = 3.0
) -> Figure:
    """Arrays (rows, columns) side by side, each under its name and on its own grey scale."""
    figure, axes = panels(1, len(images), width=2.3 * len(images), height=height)
    for axis, (name, image) in zip(axes.flat, images.items(), strict=True):
        axis.imshow(image, cmap=colour_map, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    return figure


def plot_receptive_field(image: NDArray[Any], gradients: Mapping[str, NDArray[Any]]) -> Figure:
    """The slice around one pixel, with the square of pixels that each output depends on.

    Parameters
    ----------
    image : array (rows, columns)
    gradients : mapping of a layer's name to an array (rows, columns)
        Non-zero where the layer's output at one pixel depends on the input.
    """
    figure, axes = panels(1, 1, width=4.6, height=4.2)
    axis = axes[0, 0]
    axis.imshow(image, cmap="gray", interpolation="nearest")
    shades = ["#F0E442", COLOURS["lesion"], COLOURS["resnet"], "#CC79A7", COLOURS["prediction"]]
    for shade, (name, gradient) in zip(shades, gradients.items(), strict=False):
        rows, columns = (np.flatnonzero(np.any(gradient, axis=1 - k)) for k in (0, 1))
        corner = (columns[0] - 0.5, rows[0] - 0.5)
        size = (len(columns), len(rows))
        label = f"{name}: {size[1]} × {size[0]} pixels"
        axis.add_patch(Rectangle(corner, *size, fill=False, ec=shade, lw=1.8, label=label))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=8, ncols=2, frameon=False)
    axis.set_axis_off()
    return figure


def plot_layers(
    table: pd.DataFrame, skips: Sequence[tuple[str, str]] = (), colour: str = COLOURS["baseline"]
) -> Figure:
    """A model as a row of blocks: height is the slice's rows, width grows with the channels.

    Parameters
    ----------
    table : DataFrame
        Of :func:`atlaslib.models.layer_table`.
    skips : sequence of (layer, layer)
        Drawn as arcs over the blocks.
    """
    figure, axes = panels(1, 1, width=8.2, height=3.4)
    axis, left, centre = axes[0, 0], 0.0, {}
    for layer, output in zip(table.layer, table.output, strict=True):
        rows, channels = (output[0], output[-1]) if len(output) == 3 else (2, output[0])
        width = 1.0 + 0.3 * np.log2(channels)
        paint = "#BBBBBB" if "pool" in layer else colour
        axis.add_patch(Rectangle((left, -rows / 2), width, rows, fc=paint, ec="white"))
        axis.text(left + width / 2, -rows / 2 - 8, channels, ha="center", va="top", fontsize=8)
        axis.text(left + width / 2, -172, layer, ha="center", va="top", fontsize=8, rotation=90)
        centre[layer] = (left + width / 2, rows / 2)
        left += width + 0.5
    for start, end in skips:
        bend = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.22", "color": "#333333"}
        axis.annotate("", xy=centre[end], xytext=centre[start], arrowprops=bend)
    axis.set(xlim=(-0.5, left), ylim=(-240, 250))
    axis.set_axis_off()
    return figure


def plot_history(histories: Mapping[str, pd.DataFrame], base_loss: float | None = None) -> Figure:
    """Loss and validation Dice by epoch; solid is training, dashed validation.

    Parameters
    ----------
    histories : mapping of a model's name to a run's ``history``
    base_loss : float, optional
        Loss of the best constant, drawn as a line.
    """
    figure, axes = panels(1, 2, width=7.6, height=3.2)
    for name, history in histories.items():
        style = {"color": COLOURS.get(name, "#333333"), "marker": "o", "markersize": 3}
        axes[0, 0].plot(history.epoch, history.loss, label=f"{name}, training", **style)
        axes[0, 0].plot(
            history.epoch, history.validation_loss, "--", label=f"{name}, validation", **style
        )
        axes[0, 1].plot(history.epoch, history.validation_dice, "--", label=name, **style)
    if base_loss is not None:
        axes[0, 0].axhline(base_loss, color=COLOURS["zero"], lw=1.2, label="best constant")
    axes[0, 0].set(xlabel="epoch", ylabel="loss per pixel (nats)", yscale="log")
    axes[0, 1].set(xlabel="epoch", ylabel="validation Dice, mean over scans", ylim=(-0.02, 1))
    for axis in axes.flat:
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure


def plot_predictions(
    cases: Sequence[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]],
) -> Figure:
    """One row per case: slice with the traced lesion, probability, slice with the prediction.

    Parameters
    ----------
    cases : sequence of (title, image, mask, probability)
        The three arrays (rows, columns).
    """
    figure, axes = panels(len(cases), 3, width=7.0, height=2.7 * len(cases))
    for row, (title, image, mask, probability) in zip(axes, cases, strict=True):
        show_slice(row[0], image, mask, COLOURS["lesion"], f"{title}\ntraced")
        drawn = row[1].imshow(probability, cmap="cividis", vmin=0, vmax=1)
        row[1].set_axis_off()
        row[1].set_title("probability of lesion", fontsize=9)
        show_slice(row[2], image, probability > 0.5, COLOURS["prediction"], "predicted (above 0.5)")
    figure.colorbar(drawn, ax=axes[:, 1].tolist(), shrink=0.7, label="probability")
    return figure


def plot_units() -> Figure:
    """The paper's residual unit beside the one of the TensorFlow model, as flow charts."""
    paper = ["leaky ReLU", "batch norm", "3×3 convolution", "batch norm", "3×3 convolution"]
    other = ["batch norm", "leaky ReLU", "3×3 convolution", "batch norm", "leaky ReLU"]
    figure, axes = panels(1, 2, width=6.6, height=4.6)
    _flow(axes[0, 0], "the paper's unit", paper, leave=1)
    _flow(axes[0, 1], "TensorFlow's unit", [*other, "3×3 convolution"], leave=0)
    return figure


def _flow(axis: Axes, title: str, steps: Sequence[str], leave: int) -> None:
    """Boxes from top to bottom; the shortcut leaves before step `leave` and joins at the sum."""
    arrow = {"arrowstyle": "-|>", "color": "#333333"}
    level = [-(k + 1.0) for k in range(len(steps) + 1)]
    axis.annotate("", xy=(0, -0.7), xytext=(0, 0), arrowprops=arrow)
    for step, y in zip(steps, level, strict=False):
        paint = COLOURS["resnet"] if "conv" in step else COLOURS["zero"]
        box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": paint, "lw": 1.6}
        axis.annotate("", xy=(0, y - 0.75), xytext=(0, y - 0.25), arrowprops=arrow)
        axis.text(0, y, step, ha="center", va="center", fontsize=9, bbox=box)
    start, end = level[0] + 0.55 - leave, level[-1]
    axis.plot([0, 1.5, 1.5], [start, start, end], color="#333333", lw=1)
    axis.annotate("", xy=(0.2, end), xytext=(1.5, end), arrowprops=arrow)
    axis.text(1.55, (start + end) / 2, "shortcut", rotation=270, va="center", fontsize=9)
    axis.text(
        0,
        end,
        "+",
        ha="center",
        va="center",
        fontsize=11,
        bbox={"boxstyle": "circle", "fc": "white"},
    )
    axis.annotate("", xy=(0, end - 0.9), xytext=(0, end - 0.35), arrowprops=arrow)
    axis.set(xlim=(-1.6, 2), ylim=(-8.2, 0.2), title=title)
    axis.set_axis_off()


def plot_numbers(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """How many numbers each layer hands on, from the input's side to the mask's, by model."""
    figure, axes = panels(1, 1, width=7.0, height=3.4)
    for name, table in tables.items():
        numbers = [int(np.prod(output)) for output in table.output]
        place = np.linspace(0, 1, len(numbers))
        axes[0, 0].plot(place, numbers, marker="o", ms=3, color=COLOURS[name], label=name)
    axes[0, 0].set(yscale="log", xlabel="place in the network (0: first layer, 1: last)")
    axes[0, 0].set(ylabel="numbers in the layer's output")
    axes[0, 0].legend(frameon=False)
    return figure


def plot_curves(
    curves: Mapping[str, NDArray[Any]], xlabel: str, ylabel: str, **scales: str
) -> Figure:
    """Named curves over their index; ``scales`` may hold ``xscale`` or ``yscale``."""
    figure, axes = panels(1, 1, width=6.4, height=3.4)
    shades = [*list(COLOURS.values())[:6], "#CC79A7"]
    for shade, (name, values) in zip(shades, curves.items(), strict=False):
        axes[0, 0].plot(np.arange(len(values)), values, color=shade, lw=1.4, label=name)
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel, **scales)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure


def plot_split(parts: Mapping[str, NDArray[Any]]) -> Figure:
    """Which slices train: one picture per split, rows are scans, columns slices from feet to crown.

    Parameters
    ----------
    parts : mapping of a split's name to a bool array (scans, slices)
        True where the slice belongs to the training set.
    """
    figure, axes = panels(1, len(parts), width=3.6 * len(parts), height=2.8, sharey=True)
    colours = ListedColormap(["#DDDDDD", COLOURS["baseline"]])
    for axis, (name, trains) in zip(axes.flat, parts.items(), strict=True):
        axis.imshow(trains, cmap=colours, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
        axis.set(title=name, xlabel="axial slice (z)")
    axes[0, 0].set_ylabel("scan")
    return figure


def plot_ringing(mask: NDArray[np.bool_], soft: NDArray[Any]) -> Figure:
    """A mask, its JPEG, and the pixels that the original metric counts as lesion."""
    figure, axes = panels(1, 3, width=7.4, height=2.9)
    counted = np.asarray(soft) > 0
    names = ("true mask", "after JPEG (shade: fourth root)", "counted as lesion (> 0)")
    for axis, name, image in zip(axes.flat, names, (mask, soft**0.25, counted), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.contour(mask.astype(float), levels=[0.5], colors=[COLOURS["lesion"]], linewidths=1)
        axis.set(xticks=np.arange(-0.5, mask.shape[1], 8), yticks=np.arange(-0.5, mask.shape[0], 8))
        axis.set(xticklabels=[], yticklabels=[])
        axis.grid(color="#777777", lw=0.5)
        axis.set_title(f"{name}\n{np.count_nonzero(image)} pixels", fontsize=9)
    return figure


def plot_ceiling(areas: ArrayLike, ceilings: ArrayLike, worked: pd.DataFrame) -> Figure:
    """The original metric's score of a perfect mask against the lesion's area in the slice.

    Parameters
    ----------
    areas, ceilings : array (slices,)
        Pixels, and the score that the true mask gets.
    worked : DataFrame
        Columns area and dice: the discs of the worked example.
    """
    figure, axes = panels(1, 1, width=6.2, height=3.4)
    axis = axes[0, 0]
    axis.scatter(areas, ceilings, s=6, alpha=0.3, lw=0, color=COLOURS["lesion"], label="slices")
    axis.plot(worked.area, worked.dice, "o-", color="#333333", label="discs")
    axis.axhline(1, color=COLOURS["zero"], lw=1)
    axis.set(xscale="log", xlabel="lesion area in the slice (pixels of 1 mm²)", ylim=(0, 1.05))
    axis.set_ylabel("score of a perfect mask")
    axis.legend(frameon=False)
    return figure


def plot_scores(table: pd.DataFrame, label: str, value: str) -> Figure:
    """Bars of one score by definition, from a table with the columns `label` and `value`."""
    figure, axes = panels(1, 1, width=6.6, height=0.45 * len(table) + 0.9)
    bars = axes[0, 0].barh(table[label][::-1], table[value][::-1], color=COLOURS["baseline"])
    axes[0, 0].bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes[0, 0].set(xlabel=value, xlim=(0, 1))
    return figure


# Preface, chapters 4 and 5: the claims, the tuning and the results


def tidy(table: pd.DataFrame) -> Styler:
    """A table for the page: no index, numbers to three digits, long text wrapped.

    Parameters
    ----------
    table : DataFrame
        Shown whole, so it should be short.
    """
    style = table.style.hide(axis="index").format(_short)
    return style.set_table_attributes('class="dataframe"')


def _short(value: object) -> str:
    if value is None or value is pd.NA:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plot_verdicts(table: pd.DataFrame) -> Figure:
    """The effect of each tested claim with its interval, and the margin of its rule as a bar.

    Parameters
    ----------
    table : DataFrame
        Of ``atlaslib.claims.verdicts``, with the columns margin and comparison.
    """
    tested = table[table.value.notna()].iloc[::-1].to_dict("records")
    figure, axes = panels(1, 1, width=6.6, height=0.5 * len(tested) + 1.0)
    axis, ink = axes[0, 0], COLOURS["ATLAS"]
    for place, row in enumerate(tested):
        fill = "white" if row["verdict"] == "undecided" else ink
        axis.plot([row["low"], row["high"]], [place] * 2, color=ink, lw=2)
        axis.plot(row["value"], place, "o", color=ink, mfc=fill, ms=8)
        sides = (-1, 1) if row["comparison"] == "within" else (1,)
        for edge in (side * row["margin"] for side in sides):
            axis.plot([edge] * 2, [place - 0.3, place + 0.3], color=COLOURS["lesion"], lw=2)
    axis.axvline(0, color="#BBBBBB", lw=0.8, zorder=0)
    names = [f"{row['claim']}: {row['verdict']}" for row in tested]
    axis.set(yticks=range(len(tested)), yticklabels=names, ylim=(-0.6, len(tested) - 0.4))
    axis.set_xlabel("difference (in Dice; C2 and C5a: a share); amber: margin of the rule")
    return figure


def plot_arms(table: pd.DataFrame, field: str, label: str) -> Figure:
    """Validation loss and Dice against a setting on a logarithmic axis.

    Parameters
    ----------
    table : DataFrame
        One row per arm with the columns `field`, loss, dice, low and high.
    field, label : str
        The setting's column, and its name on the axis.
    """
    figure, axes = panels(1, 2, width=7.2, height=3.1)
    bars = [table.dice - table.low, table.high - table.dice]
    style = {"color": COLOURS["resnet"], "marker": "o"}
    axes[0, 0].plot(table[field], table.loss, **style)
    axes[0, 1].errorbar(table[field], table.dice, yerr=bars, capsize=3, **style)
    axes[0, 0].set_ylabel("validation loss per pixel (nats)")
    axes[0, 1].set(ylabel="validation Dice, mean over scans", ylim=(-0.02, None))
    for axis in axes.flat:
        axis.set(xlabel=label, xscale="log")
        axis.set_xticks(table[field], [f"{value:g}" for value in table[field]])
        axis.minorticks_off()
    return figure


def plot_costs(costs: Mapping[str, pd.DataFrame]) -> Figure:
    """Time per slice and memory per step against the batch size, by model."""
    figure, axes = panels(1, 2, width=7.2, height=3.1)
    for name, table in costs.items():
        style = {"color": COLOURS[name], "marker": "o", "label": name}
        axes[0, 0].plot(table.batch_size, 1000 * table.seconds_per_slice, **style)
        axes[0, 1].plot(table.batch_size, table.memory_mb, **style)
    axes[0, 0].set(xlabel="batch size (slices)", ylabel="time per slice (ms)", ylim=(0, None))
    axes[0, 1].set(xlabel="batch size (slices)", ylabel="memory of a step (MiB)", ylim=(0, None))
    for axis in axes.flat:
        axis.set_xticks(table.batch_size)
    axes[0, 0].legend(frameon=False)
    return figure


def plot_paired(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dice of each scan under each model, joined; scans in the order of the first model's."""
    first = next(iter(tables.values()))
    order = np.argsort(first.dice.to_numpy())
    figure, axes = panels(1, 1, width=7.0, height=3.6)
    axis, place = axes[0, 0], np.arange(1, len(order) + 1)
    values = np.array([table.dice.to_numpy()[order] for table in tables.values()])
    axis.vlines(place, values.min(0), values.max(0), color="#BBBBBB", lw=1, zorder=0)
    for name, dice in zip(tables, values, strict=True):
        axis.plot(place, dice, "o", ms=5, color=COLOURS[name], label=name, clip_on=False)
    axis.set(xlabel="test scan, from worst to best", ylabel="Dice", ylim=(0, 1))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, loc="upper left")
    return figure


def plot_dice_by_volume(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dice of each scan against the volume of its lesions, on a logarithmic axis."""
    figure, axes = panels(1, 1, width=6.4, height=3.6)
    for name, table in tables.items():
        axes[0, 0].plot(table.volume_ml, table.dice, "o", ms=5, color=COLOURS[name], label=name)
    axes[0, 0].set(xscale="log", xlabel="true lesion volume (mL)", ylabel="Dice", ylim=(-0.03, 1))
    _plain_log(axes[0, 0])
    axes[0, 0].legend(frameon=False, loc="upper left")
    return figure


def _plain_log(axis: Axes) -> None:
    """At least a factor of ten; ticks at 0.01, 0.03, 0.1, ... written in full."""
    low, high = axis.get_xlim()
    spread = max(1.0, (10 * low / high) ** 0.5)
    axis.set_xlim(low / spread, high * spread)
    axis.xaxis.set_minor_locator(LogLocator(subs=(3,)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")


def plot_loss_and_dice(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss against Dice: a small dot per scan, a large one for the mean of each model."""
    figure, axes = panels(1, 1, width=6.4, height=3.8)
    axis = axes[0, 0]
    for name, table in tables.items():
        axis.plot(table.loss, table.dice, "o", ms=4, alpha=0.4, mew=0, color=COLOURS[name])
        mean = (table.loss.mean(), table.dice.mean())
        axis.plot(*mean, "D", ms=10, color=COLOURS[name], mec="white", label=f"{name}, mean")
    axis.set(xscale="log", xlabel="loss per pixel (nats)", ylabel="Dice", ylim=(-0.03, 1))
    _plain_log(axis)
    axis.legend(frameon=False, loc="upper right")
    return figure


def plot_segmentations(
    cases: Sequence[tuple[str, NDArray[Any], NDArray[Any], Mapping[str, NDArray[Any]]]],
) -> Figure:
    """One row per case: the slice, the true outline, and each model's outline.

    Parameters
    ----------
    cases : sequence of (title, image, mask, predictions)
        Arrays (rows, columns); predictions maps a model's name to a mask.
    """
    columns = 2 + len(cases[0][3])
    figure, axes = panels(len(cases), columns, width=1.9 * columns, height=2.35 * len(cases))
    for row, (title, image, mask, predictions) in zip(axes, cases, strict=True):
        show_slice(row[0], image, title=title)
        show_slice(row[1], image, mask, COLOURS["lesion"], "truth")
        for axis, (name, predicted) in zip(row[2:], predictions.items(), strict=True):
            found = "" if np.any(predicted) else ": nothing"
            show_slice(axis, image, predicted, COLOURS[name], name + found)
    return figure


def plot_peers(published: pd.DataFrame, here: pd.DataFrame) -> Figure:
    """Published Dice on ATLAS above, this build's below, with intervals where there are any.

    Parameters
    ----------
    published : DataFrame
        Columns method, release and dice.
    here : DataFrame
        Of ``atlaslib.summary``.
    """
    labels = [*(published.method + ", " + published.release), *(here.model + ", this build")]
    figure, axes = panels(1, 1, width=6.8, height=0.26 * len(labels) + 0.9)
    axis, place = axes[0, 0], np.arange(len(labels))
    axis.plot(published.dice, place[: len(published)], "s", color=COLOURS["ATLAS"])
    for row, y in zip(here.to_dict("records"), place[len(published) :], strict=True):
        axis.plot([row["low"], row["high"]], [y, y], lw=2, color=COLOURS[row["model"]])
        axis.plot(row["dice"], y, "o", color=COLOURS[row["model"]])
    axis.axhline(len(published) - 0.5, color="#BBBBBB", lw=0.8)
    axis.set(
        yticks=place, yticklabels=labels, xlim=(-0.02, 1), xlabel="Dice as each source reports"
    )
    axis.invert_yaxis()
    return figure
