"""Figures of the experiments with several seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from atlaslib.figures.base import (
    COLOURS,
    NARROW,
    colour,
    in_rows,
    panels,
    plain_log,
    short,
    show_slice,
)

#: Dashes of up to three encoders: a solid, a dashed and a dotted line.
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1.5))


def plot_means(table: pd.DataFrame, label: str = "Dice, mean over test scans") -> Figure:
    """One row for each arm: mean and interval.

    Parameters
    ----------
    table : DataFrame
        From :func:`atlaslib.paper.analysis.arm_means`.
    label : str
        Label of the axis.
    """
    figure, axes = panels(1, 1, width=NARROW, height=0.34 * len(table) + 0.9)
    axis, place = axes[0, 0], np.arange(len(table))
    for y, row in zip(place, table.to_dict("records"), strict=True):
        paint = colour(str(row["arm"]))
        axis.plot([row["low"], row["high"]], [y, y], lw=2, color=paint)
        axis.plot(row["value"], y, "o", color=paint)
    axis.set(
        yticks=place, yticklabels=table.arm, xlabel=label, xlim=(min(0, table.low.min()), None)
    )
    axis.grid(axis="x", color="#EEEEEE")
    axis.set_axisbelow(True)
    axis.set_ylim(len(table) - 0.4, -0.6)
    return figure


def plot_crossed(cells: pd.DataFrame) -> Figure:
    """The Dice of every test person (columns, in order of their means) by every training (rows).

    Parameters
    ----------
    cells : DataFrame
        A row for each seed, a column for each person.
    """
    figure, axes = panels(1, 1, width=7.2, height=2.6)
    axis = axes[0, 0]
    ordered = cells[cells.mean().sort_values().index]
    image = axis.imshow(ordered, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axis.set_yticks(range(len(ordered)), [str(seed) for seed in ordered.index], fontsize=8)
    axis.set(xlabel="test people, in order of their mean", ylabel="seed")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axis, label="Dice")
    return figure


def plot_factorial(table: pd.DataFrame, label: str = "Dice") -> Figure:
    """The cells of a factorial: a line for each encoder across the decoders, with intervals.

    Parameters
    ----------
    table : DataFrame
        encoder, decoder, value, low, high.
    label : str
        Label of the axis.
    """
    figure, axes = panels(1, 1, width=NARROW, height=3.4)
    axis = axes[0, 0]
    decoders = list(dict.fromkeys(table.decoder))
    greys, marks = ("#AAAAAA", "#666666", "#111111"), "osD"  # an encoder is not one model
    shifts = np.linspace(-0.08, 0.08, table.encoder.nunique())  # so that intervals do not overlap
    for number, (name, part) in enumerate(table.groupby("encoder", sort=False)):
        rows = part.set_index("decoder").loc[decoders]
        place = np.arange(len(decoders)) + shifts[number]
        paint, mark = greys[number % len(greys)], marks[number % len(marks)]
        axis.plot(place, rows.value, f"{mark}-", color=paint, label=str(name), lw=1.2)
        axis.vlines(place, rows.low, rows.high, color=paint, lw=2)
    axis.set(xticks=range(len(decoders)), xticklabels=decoders, xlabel="decoder", ylabel=label)
    if table.low.min() >= 0:
        axis.set_ylim(0, None)
    axis.legend(frameon=False)
    return figure


def plot_factorial_slice(
    image: NDArray[Any], truth: NDArray[Any], masks: Mapping[str, Mapping[str, NDArray[Any]]]
) -> Figure:
    """One slice as each network of a factorial marks it: a picture for each decoder.

    Parameters
    ----------
    image : (rows, columns)
    truth : (rows, columns) bool
    masks : mapping from a decoder to one from encoders, at most three, to masks
    """
    figure, axes = in_rows(len(masks), height=3.6)
    lines = {"truth": Line2D([], [], color=COLOURS["lesion"])}
    paint, rim = COLOURS["prediction"], withStroke(linewidth=3.4, foreground="#333333")
    for axis, (decoder, found) in zip(axes, masks.items(), strict=True):
        show_slice(axis, image, truth, COLOURS["lesion"], decoder)
        for (encoder, mask), dashes in zip(found.items(), DASHES, strict=False):
            style = (0, dashes or None)
            look: dict[str, Any] = {"linestyle": style, "linewidth": 2, "path_effects": [rim]}
            lines[encoder] = Line2D([], [], color=paint, **look)
            if np.any(mask):
                axis.contour(mask, levels=[0.5], colors=[paint]).set(**look)
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot_lengths(table: pd.DataFrame) -> Figure:
    """Validation Dice by the number of passes: a line for each arm's means, a dot per training.

    Parameters
    ----------
    table : DataFrame
        From :func:`atlaslib.paper.protocol.tried_lengths`.
    """
    figure, axes = panels(1, 1, width=NARROW, height=3.2)
    axis = axes[0, 0]
    for arm, part in table.groupby("arm", sort=False):
        paint = colour(str(arm))
        means = part.groupby("passes").dice.mean()
        axis.plot(means.index, means, "o-", color=paint, label=str(arm))
        axis.plot(part.passes, part.dice, ".", ms=7, color=paint, alpha=0.5, mew=0)
    lengths = sorted(table.passes.unique())
    axis.set(xscale="log", xlabel="passes over the training slices", ylabel="validation Dice")
    axis.set_xticks(lengths, [str(each) for each in lengths])
    axis.minorticks_off()
    axis.set_ylim(0, None)
    axis.legend(frameon=False)
    return figure


def plot_ranking(tables: Mapping[str, pd.DataFrame], margin: float = 0.0) -> Figure:
    """A difference in Dice after each pass, with its interval: from when on is it a ranking?

    Parameters
    ----------
    tables : mapping from a name to a DataFrame
        passes, value, low, high, as from :func:`atlaslib.paper.analysis.ranking`.
    margin : float
        Drawn as a dashed line.
    """
    columns = min(len(tables), 3)
    figure, axes = in_rows(len(tables), columns, 3.0, sharey=True)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        axis.fill_between(
            table.passes, table.low, table.high, color=COLOURS["prediction"], alpha=0.4
        )
        axis.plot(table.passes, table.value, "o-", color=COLOURS["ATLAS"], ms=3, lw=1.2)
        axis.axhline(0, color="#999999", lw=0.8)
        axis.axhline(margin, color="#999999", lw=0.8, ls="--")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("passes")
    for axis in axes[::columns]:
        axis.set_ylabel("difference in Dice")
    return figure


def plot_paths(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Plain cross entropy and Dice on the validation people, epoch by epoch, means over the seeds.

    A dot is the last epoch.

    Parameters
    ----------
    histories : mapping from a panel's title to a DataFrame
        arm, seed, epoch, validation_cross_entropy, validation_dice. An arm named "model, what
        differs" has the colour of its model, and is dashed if the model itself is in the panel.
    """
    width = NARROW if len(histories) == 1 else 7.2
    figure, axes = panels(1, len(histories), width=width, height=3.4, sharex=True, sharey=True)
    for axis, (title, history) in zip(axes[0], histories.items(), strict=True):
        named = set(history.arm)
        for name, part in history.groupby("arm"):
            dashed = str(name).partition(",")[0] in named - {name}
            style = {"color": colour(str(name)), "ls": "--" if dashed else "-", "marker": "o"}
            means = part.groupby("epoch")[["validation_cross_entropy", "validation_dice"]].mean()
            axis.plot(*means.to_numpy().T, label=str(name), markevery=[-1], lw=1.2, **style)
        axis.set(xlabel="cross entropy per pixel (nats)", title=title)
        axis.legend(frameon=False)
    axes[0, 0].set_ylabel("Dice")
    return figure


def plot_calibration(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed share of lesion by predicted probability; a calibrated model is on the diagonal.

    The line is the mean over trainings, the band reaches from the lowest to the highest.

    Parameters
    ----------
    tables : mapping from a model's name to a DataFrame
        low, predicted, observed, one row per bin and training, as from
        :func:`atlaslib.evaluation.calibration.calibration_and_detection`.
    """
    figure, axes = panels(1, 1, width=4.6, height=4.2)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#BBBBBB", lw=1, zorder=0)
    for name, table in tables.items():
        bins = table.groupby("low")
        mean, ends = bins[["predicted", "observed"]].mean(), bins["observed"].agg(["min", "max"])
        axis.plot(mean.predicted, mean.observed, "o-", ms=3, color=colour(name), label=name)
        axis.fill_between(
            mean.predicted, ends["min"], ends["max"], color=colour(name), alpha=0.15, lw=0
        )
    axis.set(xlabel="predicted probability of lesion", ylabel="share of voxels that are lesion",
             xlim=(0, 1), ylim=(0, 1), aspect="equal")  # fmt: skip
    axis.legend(frameon=False)
    return figure


def plot_agreement(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Bland-Altman plot of volumes on a logarithmic scale: ratio against geometric mean.

    Parameters
    ----------
    tables : mapping from a model's name to a DataFrame
        volume_ml and predicted_ml, one row per scan.
    """
    width = 3.6 * len(tables)
    figure, axes = panels(1, len(tables), width=width, height=3.4, sharex=True, sharey=True)
    floor = 0.01  # mL: an empty prediction would have no logarithm
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        true, found = (np.log10(table[c].clip(lower=floor)) for c in ("volume_ml", "predicted_ml"))
        gap = found - true
        axis.plot(10 ** ((true + found) / 2), gap, "o", ms=4, alpha=0.5, mew=0, color=colour(name))
        for value, style in ((gap.mean(), "-"), (gap.mean() - 1.96 * gap.std(), "--"),
                             (gap.mean() + 1.96 * gap.std(), "--")):  # fmt: skip
            axis.axhline(value, color=COLOURS["ATLAS"], ls=style, lw=1)
        axis.axhline(0, color="#CCCCCC", lw=0.8, zorder=0)
        axis.set(xscale="log", title=name, xlabel="geometric mean volume (mL)")
    for axis in axes[0]:  # not before all is drawn: it fixes the limits, which the panels share
        plain_log(axis)
    ticks = [-2, -1, 0, 1, 2]
    axes[0, 0].set_yticks(ticks, [f"{10.0**t:g}×" for t in ticks])
    axes[0, 0].set_ylabel("predicted / true volume")
    return figure


def plot_detection(tables: Mapping[str, pd.DataFrame], edges: tuple[float, ...]) -> Figure:
    """Share of lesions that the prediction overlaps at all, by the lesion's volume.

    Parameters
    ----------
    tables : mapping from a model's name to a DataFrame
        From :func:`atlaslib.evaluation.calibration.calibration_and_detection`.
    edges : edges of the bins of lesion volume, in mL
    """
    figure, axes = panels(1, 1, width=NARROW, height=3.2)
    axis, width = axes[0, 0], 0.8 / len(tables)
    names = [f"{short(a)} to {short(b)}" for a, b in itertools.pairwise(edges)]
    for number, (name, table) in enumerate(tables.items()):
        lesions = table[table["of"] == "truth"]
        bins = pd.cut(lesions.volume_ml, list(edges), labels=names)
        found = (lesions.overlap > 0).groupby(bins, observed=False).mean()
        place = np.arange(len(names)) + (number - (len(tables) - 1) / 2) * width
        axis.bar(place, found, width, color=colour(name), label=name)
    axis.set(xticks=range(len(names)), xticklabels=names, xlabel="lesion volume (mL)",
             ylabel="share of lesions found", ylim=(0, 1.02))  # fmt: skip
    axis.legend(frameon=False, loc="upper left")
    return figure
