"""Pictures of an idea: recovery after a pulse, overlap, a network's waist, an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from atlaslib.figures.base import COLOURS, NARROW, colour, in_rows, panels

INK = COLOURS["ATLAS"]
#: Pixels of the truth only, of the prediction only, of both.
OVERLAP = {
    "T only": COLOURS["lesion"],
    "P only": COLOURS["baseline"],
    "both": COLOURS["overlap"],
}
STYLES = ("-", "--", "-.", ":")
#: A block without weights, pooling or averaging, in a picture of a network.
NO_WEIGHTS: dict[str, Any] = {"fc": "#F0F0F0", "ec": "#999999", "hatch": "////"}


def plot_recovery(times: ArrayLike, curves: Mapping[str, ArrayLike], picture: float) -> Figure:
    """The recovery of magnetisation after a pulse, and the grey levels that the picture gets.

    Parameters
    ----------
    times : array (N,)
        Seconds after the pulse.
    curves : mapping from a tissue's name to an array (N,)
        Magnetisation along the scanner's field, as a share of its equilibrium.
    picture : float
        When the picture is taken, in seconds.
    """
    figure, axes = panels(1, 2, width=7.2, height=3.6, width_ratios=(3, 1))
    left, right = axes[0]
    seconds, signals = np.asarray(times), {}
    for style, (name, values) in zip(STYLES, curves.items(), strict=False):
        left.plot(seconds, values, style, color=INK, lw=1.6, label=name)
        level = float(np.interp(picture, seconds, np.asarray(values)))
        left.plot(picture, level, "o", color=INK)
        signals[name] = abs(level)
    left.axhline(0, color="#999999", lw=0.8)
    left.axvline(picture, color=COLOURS["lesion"], lw=1.6, label="the picture is taken")
    left.set(xlabel="time after the pulse (s)", ylabel="magnetisation (share of equilibrium)")
    left.legend(frameon=False)
    top = max(signals.values())
    for place, (name, signal) in enumerate(signals.items()):
        box = Rectangle((0, -place - 0.4), 1, 0.8, fc=str(signal / top), ec=INK)
        right.add_patch(box)
        text = f"{name}\n{signal:.2f}"
        paint = "black" if signal > 0.5 * top else "white"
        right.text(0.5, -place, text, ha="center", va="center", color=paint)
    right.set(xlim=(-0.05, 1.05), ylim=(-len(signals) + 0.5, 0.5))
    right.set_title("signal, as a grey level", fontsize=11)
    right.set_axis_off()
    return figure


def plot_overlap(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Two masks over each other, pixel by pixel, and their Dice coefficient worked out.

    Parameters
    ----------
    pairs : mapping from a title to (P, T)
        The predicted and the true mask, (rows, columns), of which one has a pixel at least.
    """
    figure, axes = in_rows(len(pairs), height=3.6)
    shades = ListedColormap(["white", *OVERLAP.values()])
    for axis, (title, (predicted, truth)) in zip(axes, pairs.items(), strict=True):
        p, t = np.asarray(predicted) > 0, np.asarray(truth) > 0
        axis.imshow(t + 2 * p, cmap=shades, vmin=0, vmax=3, interpolation="nearest")
        rows, columns = p.shape
        axis.set(xticks=np.arange(-0.5, columns), yticks=np.arange(-0.5, rows))
        axis.set(xticklabels=[], yticklabels=[])
        axis.grid(color="#CCCCCC", lw=0.5)
        axis.tick_params(length=0)
        both, sizes = int((p & t).sum()), (int(p.sum()), int(t.sum()))
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(
            f"|P| = {sizes[0]}, |T| = {sizes[1]}, both: {both}\n"
            f"Dice = 2 × {both} / ({sizes[0]} + {sizes[1]}) = {2 * both / sum(sizes):.2f}",
            fontsize=11,
        )
    handles = [Patch(fc=shade, label=name) for name, shade in OVERLAP.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def plot_networks(
    tables: Mapping[str, pd.DataFrame], skips: Mapping[str, Sequence[tuple[str, str]]]
) -> Figure:
    """Networks as rows of blocks, and below them how many numbers leave each.

    Parameters
    ----------
    tables : mapping from a model's name to a DataFrame
        From :func:`atlaslib.models.layer_table`; each of its rows becomes a block.
    skips : mapping from a model's name to pairs of layers
        Its skip connections.
    """
    ratios = [*[2] * len(tables), 2.6]
    figure, axes = panels(len(ratios), 1, width=7.4, height=2.3 * len(ratios), height_ratios=ratios)
    numbers = axes[-1, 0]
    for axis, (name, table) in zip(axes[:, 0], tables.items(), strict=False):
        draw_blocks(axis, table, skips.get(name, ()), colour(name))
        axis.set_title(name, fontsize=11, loc="left")
        sizes = [int(np.prod(output)) for output in table.output]
        place = np.linspace(0, 1, len(sizes))
        least = int(np.argmin(sizes[:-1]))  # the last layer is the mask
        waist = f"{table.layer.iloc[least].removeprefix('decoder.')}: {sizes[least]:,}"
        label = f"{name} (least at {waist})"
        numbers.plot(place, sizes, "o-", ms=3, color=colour(name), label=label)
    numbers.set(yscale="log", xlabel="from input to output (share of the blocks)")
    numbers.set_ylabel("numbers that leave the block")
    numbers.legend(frameon=False, loc="lower left")
    return figure


def draw_blocks(
    axis: Axes, table: pd.DataFrame, skips: Sequence[tuple[str, str]], paint: str
) -> None:
    """Layers as blocks from left to right: height is rows, width grows with the channels.

    Those without weights are hatched.

    Under a block stands the size of its output, where that is not the one before's.
    """
    left, before = 0.0, None
    ends: dict[str, tuple[float, float]] = {}
    widest = max(output[0] for output in table.output if len(output) == 3)
    for layer, output in zip(table.layer, table.output, strict=True):
        rows, channels = (output[0], output[-1]) if len(output) == 3 else (1, output[0])
        rows = max(rows, widest / 40)  # a vector stays visible
        width = 1.0 + 0.3 * np.log2(channels)
        passive = "pool" in layer or layer == "average"
        look: dict[str, Any] = NO_WEIGHTS if passive else {"fc": paint, "ec": paint}
        axis.add_patch(Rectangle((left, -rows / 2), width, rows, lw=0.5, **look))
        if output != before:
            size = " × ".join(f"{side:,}" for side in output)
            axis.text(left + width / 2, -0.54 * widest, size, rotation=90, fontsize=8,
                      ha="center", va="top")  # fmt: skip
        ends[layer], before = (left + width / 2, rows / 2), output
        left += width + 0.5
    for start, end in skips:
        bend = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.22", "color": INK}
        axis.annotate("", xy=ends[end], xytext=ends[start], arrowprops=bend)
    axis.set(xlim=(-0.5, left), ylim=(-1.05 * widest, 0.95 * widest))
    axis.set_axis_off()


def plot_bootstrap(
    values: ArrayLike, draws: NDArray[np.integer], label: str = "Dice", level: float = 0.95
) -> Figure:
    """How an interval over people arises: people drawn again and again, and the means' spread.

    Parameters
    ----------
    values : array (people,)
    draws : array (resamples, people) of int
        The people of each resample, by index; one may be drawn several times.
    label : str
        What the values are.
    level : float
        Of confidence.
    """
    values = np.asarray(values, dtype=float)
    means = values[draws].mean(axis=1)
    figure, axes = panels(2, 1, width=NARROW, height=4.8, sharex=True, height_ratios=(1.2, 1))
    upper, lower = axes[:, 0]
    shown = [np.arange(len(values)), *draws[:3]]
    apart = 0.09 * (np.argsort(np.argsort(values)) % 5 - 2)  # neighbours keep off each other
    for place, people in enumerate(shown):
        times = np.bincount(people, minlength=len(values))
        upper.scatter(values, apart - place, s=28 * times, color=INK, alpha=0.45, lw=0)
        upper.plot(values[people].mean(), -place, "|", ms=22, mew=2.5, color=COLOURS["lesion"])
    names = ["the people", *(f"drawn again, {k}" for k in range(1, len(shown)))]
    upper.set(yticks=-np.arange(len(shown)), yticklabels=names, ylim=(-len(shown) + 0.4, 0.6))
    upper.set_title(
        "a dot is a person, larger if drawn more often; the bar is the mean", fontsize=11
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    lower.hist(means, bins=40, color="#BBBBBB")
    lower.axvspan(low, high, color=COLOURS["lesion"], alpha=0.25, lw=0,
                  label=f"the middle {100 * level:g} %: {low:.2f} to {high:.2f}")  # fmt: skip
    lower.axvline(values.mean(), color=COLOURS["lesion"], lw=2.5)
    lower.set(xlabel=label, ylabel=f"of {len(means):,} means")
    lower.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=11, frameon=False)
    return figure
