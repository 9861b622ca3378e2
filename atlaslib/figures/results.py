"""Figures of claims, tuning, results and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atlaslib.figures.base import (
    COLOURS,
    NARROW,
    colour,
    cropped,
    in_rows,
    panels,
    plain_log,
    short,
    show_slice,
)


def plot_verdicts(table: pd.DataFrame) -> Figure:
    """The effect of each tested claim with its interval, over an amber band where the claim holds.

    Parameters
    ----------
    table : DataFrame
        From ``atlaslib.paper.claims.verdicts``.
    """
    tested = table[table.value.notna()].iloc[::-1].to_dict("records")
    figure, axes = panels(1, 1, width=NARROW, height=0.8 * len(tested) + 0.8)
    axis, ink = axes[0, 0], COLOURS["ATLAS"]
    shown = [row[end] for row in tested for end in ("low", "high", "margin")]
    shown += [-row["margin"] for row in tested if row["comparison"] == "within"]
    left, right = (1.15 * limit for limit in (min(-0.05, *shown), max(0.05, *shown)))
    for place, row in enumerate(tested):
        fill = "white" if row["verdict"] == "undecided" else ink
        axis.plot([row["low"], row["high"]], [place] * 2, color=ink, lw=2)
        axis.plot(row["value"], place, "o", color=ink, mfc=fill, ms=8)
        margin = row["margin"]
        holds = {
            "above": (margin, right),
            "below": (left, margin),
            "within": (-margin, margin),
        }
        start, end = holds[row["comparison"]]
        ground = {"color": COLOURS["lesion"], "alpha": 0.3, "zorder": 0}
        axis.barh(place, end - start, left=start, height=0.5, **ground)
        name = f"{row['claim']}: {row['statement']} ({row['verdict']})"
        sheet = {"color": "white", "pad": 0.5}  # over the line of zero
        axis.text(left, place + 0.3, name, fontsize=11, va="bottom", bbox=sheet)
    axis.axvline(0, color="#BBBBBB", lw=0.8, zorder=0)
    axis.set(yticks=[], ylim=(-0.4, len(tested) - 0.3), xlim=(left, right))
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("difference in Dice (C2: share of the loss); amber: the claim holds")
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
        style = {"color": colour(name), "marker": "o", "label": name}
        axes[0, 0].plot(table.batch_size, 1000 * table.seconds_per_slice, **style)
        axes[0, 1].plot(table.batch_size, table.memory_mb, **style)
    axes[0, 0].set(xlabel="batch size (slices)", ylabel="time per slice (ms)", ylim=(0, None))
    axes[0, 1].set(xlabel="batch size (slices)", ylabel="memory of a step (MiB)", ylim=(0, None))
    for axis in axes.flat:
        axis.set_xticks(table.batch_size)
    axes[0, 0].legend(frameon=False)
    return figure


def plot_paired(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dice of each scan under each model, joined by a line; scans sorted by the first model's."""
    first = next(iter(tables.values()))
    order = np.argsort(first.dice.to_numpy())
    figure, axes = panels(1, 1, width=7.0, height=3.6)
    axis, place = axes[0, 0], np.arange(1, len(order) + 1)
    values = np.array([table.dice.to_numpy()[order] for table in tables.values()])
    axis.vlines(place, values.min(0), values.max(0), color="#BBBBBB", lw=1, zorder=0)
    for number, (name, dice) in enumerate(zip(tables, values, strict=True)):
        # the first on top, smaller than those below it, so that equal ones are seen
        style: dict[str, Any] = {"ms": 4.5 + 2.5 * number, "zorder": 9 - number}
        axis.plot(place, dice, "o", color=colour(name), label=name, clip_on=False, **style)
    axis.set(xlabel="test scan, from worst to best", ylabel="Dice", ylim=(0, 1))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, loc="upper left")
    return figure


def plot_dice_by_volume(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dice of each scan against its lesion volume, on a logarithmic axis."""
    figure, axes = panels(1, 1, width=NARROW, height=3.2)
    for number, (name, table) in enumerate(tables.items()):
        # the first on top; smaller than those below it, so that equal ones are seen
        style: dict[str, Any] = {"ms": 4.5 + 1.5 * number, "zorder": 9 - number}
        axes[0, 0].plot(table.volume_ml, table.dice, "o", color=colour(name), label=name, **style)
    axes[0, 0].set(xscale="log", xlabel="true lesion volume (mL)", ylabel="Dice", ylim=(-0.03, 1))
    plain_log(axes[0, 0])
    axes[0, 0].legend(frameon=False, loc="upper left")
    return figure


def plot_loss_and_dice(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dice against loss: a small dot per scan, a large diamond for the mean of each model."""
    figure, axes = panels(1, 1, width=NARROW, height=3.4)
    axis = axes[0, 0]
    for number, (name, table) in enumerate(tables.items()):
        axis.plot(table.loss, table.dice, "o", ms=4, alpha=0.4, mew=0, color=colour(name))
        mean = (table.loss.mean(), table.dice.mean())
        # the first on top; smaller than those below it, so that equal ones are seen
        style: dict[str, Any] = {"ms": 8 + 4 * number, "zorder": 9 - number, "mec": "white"}
        axis.plot(*mean, "D", color=colour(name), label=f"{name}, mean", **style)
    axis.set(xscale="log", xlabel="loss per pixel (nats)", ylabel="Dice", ylim=(-0.03, 1))
    plain_log(axis)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def plot_segmentations(
    cases: Sequence[tuple[str, NDArray[Any], NDArray[Any], Mapping[str, NDArray[Any]]]],
) -> Figure:
    """Each case in rows of two: the slice, the true outline, and each model's outline.

    Parameters
    ----------
    cases : sequence of (title, image, mask, predictions)
        Arrays (rows, columns); predictions maps each model's name to its mask.
    """
    shown = 2 + len(cases[0][3])
    places = shown + shown % 2  # every case starts a new row
    figure, axes = in_rows(places * len(cases))
    for number, (title, image, mask, predictions) in enumerate(cases):
        own = axes[places * number : places * (number + 1)]
        image, mask, *found = cropped(image, mask, *predictions.values())
        show_slice(own[0], image, title=title)
        show_slice(own[1], image, mask, COLOURS["lesion"], "truth")
        for axis, name, predicted in zip(own[2:], predictions, found, strict=False):
            title = name if np.any(predicted) else f"{name}: nothing"
            show_slice(axis, image, predicted, colour(name), title)
        for spare in own[shown:]:
            spare.remove()
    return figure


def plot_peers(published: pd.DataFrame, here: pd.DataFrame) -> Figure:
    """Published Dice on ATLAS above; below, this build's, with intervals where there are any.

    Parameters
    ----------
    published : DataFrame
        Columns method, release and dice.
    here : DataFrame
        From ``atlaslib.summary``.
    """
    labels = [*(published.method + ", " + published.release), *(here.model + ", this build")]
    figure, axes = panels(1, 1, width=NARROW, height=0.26 * len(labels) + 0.9)
    axis, place = axes[0, 0], np.arange(len(labels))
    axis.plot(published.dice, place[: len(published)], "s", color=COLOURS["ATLAS"])
    for row, y in zip(here.to_dict("records"), place[len(published) :], strict=True):
        axis.plot([row["low"], row["high"]], [y, y], lw=2, color=colour(row["model"]))
        axis.plot(row["dice"], y, "o", color=colour(row["model"]))
    axis.axhline(len(published) - 0.5, color="#BBBBBB", lw=0.8)
    axis.set(
        yticks=place, yticklabels=labels, xlim=(-0.02, 1), xlabel="Dice as reported by each source"
    )
    axis.invert_yaxis()
    return figure


def plot_benchmark(table: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Bar charts side by side: one panel for each measure, one bar for each program.

    The value stands beside its bar, and a dash where there is none.

    Parameters
    ----------
    table : DataFrame
        reader, measure and value, the library itself first: "atlaslib", or "atlaslib, MODEL".
    measures : mapping
        From a measure in the table to the title of its panel. An axis is logarithmic if its values
        differ by more than a factor of 20.
    """
    readers = list(dict.fromkeys(table.reader))
    rows = (len(measures) + 1) // 2
    height = rows * (0.25 * len(readers) + 0.8)
    figure, axes = panels(rows, 2, width=7.4, height=height, sharey=True)
    for axis, (measure, title) in zip(axes.flat, measures.items(), strict=False):
        values = table[table.measure == measure].set_index("reader").value.reindex(readers)
        least, most = values[values > 0].min(), values.max()
        logarithmic = most > 20 * least
        # the shortest bar begins at the power of ten below its value
        first = 10.0 ** np.floor(np.log10(least) - 0.1) if logarithmic else 0.0
        own = readers[0].split(",")[0]  # the library; its variants' names start the same
        shades = [COLOURS["lesion" if name.startswith(own) else "zero"] for name in readers]
        lengths = (values - first).clip(lower=0).fillna(0)
        bars = axis.barh(readers, lengths, left=first, color=shades)
        axis.bar_label(bars, [short(value) for value in values], padding=3)
        if logarithmic:
            axis.set(xscale="log", xlim=(first, most * 6))
            axis.set_xlabel("logarithmic axis")
            ticks = 10.0 ** np.arange(np.log10(first), np.log10(most))
            ticks = ticks[:: 1 + len(ticks) // 5]  # so that their numbers keep apart
            axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
            axis.minorticks_off()
        else:
            axis.set_xlim(0, most * 1.3)  # room for the numbers
            axis.tick_params(labelbottom=False, bottom=False)
        axis.set_title(title, fontsize=11)
    axes[0, 0].invert_yaxis()
    return figure
