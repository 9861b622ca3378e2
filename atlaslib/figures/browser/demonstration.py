"""Puts a demonstration together: a still picture, the scripts, the networks and the data."""

from __future__ import annotations

import base64
import html
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atlaslib.data.model_input import WINDOW
from atlaslib.figures.base import colour, png
from atlaslib.figures.browser.written import network_script, script
from atlaslib.files import atomic_write, user_path
from atlaslib.recipes import Recipe

# first row, first column, rows and columns of what is shown of a slice: all of the brain
SHOWN = (*WINDOW, *Recipe("zero", window=True).field_of_view())
LABELS = {"resnet": "ResNet", "residual_unet": "today's network"}
STILL_DPI = 120


@dataclass(frozen=True)
class Demonstration:
    """Something that answers when touched; shows itself as the last line of a cell.

    It needs neither a kernel nor a network: scripts and data are in its HTML. Until the reader
    starts it, in print, and where there are no scripts, it is a still picture.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page of its own."""
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            '<meta name="color-scheme" content="light dark">'
            f'<title>Demonstration</title><body style="font-family: sans-serif">{self.html}'
        )
        atomic_write(
            user_path(path), lambda target: Path(target).write_text(page, encoding="utf-8")
        )


def demonstration(
    name: str,
    still: Figure,
    alt: str,
    data: Mapping[str, Any],
    written: Mapping[str, dict[str, Any]] | None = None,
) -> Demonstration:
    """Put a demonstration together.

    Parameters
    ----------
    name : str
        Of its script, and of the function in it.
    still : Figure
    alt : str
        What the still picture shows.
    data : mapping
        Plain values for the function. "networks", a list of :func:`shown_as`, names those shown.
    written : mapping from names to written networks, optional
        Those that the browser computes. The pages of a book share one file per name.

    Returns
    -------
    Demonstration
        The builder of the book moves every ``<script data-file=...>`` of it to a file of its own.
    """
    identity = f"atlaslib-{uuid.uuid4().hex[:12]}"
    scripts = [
        f'<script data-file="{file}">\n{script(file)}</script>'
        for file in ("network.js", "demonstration.js", f"{name}.js")
    ]
    scripts += [
        f'<script data-file="network-{key}.js" data-later>\n{network_script(key, network)}</script>'
        for key, network in (written or {}).items()
    ]
    settings = json.dumps({**data, "shown": SHOWN}, separators=(",", ":"))
    live = '<div class="live"></div>'
    return Demonstration(
        _frame(identity, still, alt, live) + "\n".join(scripts) + "\n"
        f'<script>atlaslib.{name}("{identity}", {settings});</script>\n'
    )


def only_still(still: Figure, alt: str, note: str) -> Demonstration:
    """The still picture of a demonstration that cannot run, and a note that says why."""
    below = f'<p class="caption">{html.escape(note)}</p>'
    return Demonstration(_frame(f"atlaslib-{uuid.uuid4().hex[:12]}", still, alt, below))


def _frame(identity: str, still: Figure, alt: str, below: str) -> str:
    picture = base64.b64encode(png(still, STILL_DPI)).decode()
    return (
        f'<div class="atlaslib-demonstration" id="{identity}">\n'
        f"<style>\n{script('demonstration.css')}</style>\n"
        f'<div class="still"><img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
        f"</div>\n{below}\n</div>\n"
    )


def shown_as(name: str, shipped: bool = False) -> dict[str, str | bool]:
    """How a network is shown: name, label, colour; shipped: whether the browser computes it."""
    return {
        "name": name, "label": LABELS.get(name, name), "colour": colour(name), "shipped": shipped
    }  # fmt: skip


def outline(axis: Axes, mask: NDArray[np.bool_], colour: str, label: str, style: str = "-") -> None:
    """Draw the edge of a mask, with an entry for the legend; dashed ("--"): the truth."""
    axis.plot([], [], style, color=colour, label=label)
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5, linestyles=[style])


def encoded(numbers: NDArray[Any]) -> str:
    """The bytes of an array, such as a slice, as base64."""
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode()


def encoded_bits(mask: NDArray[np.bool_]) -> str:
    """A mask as base64, one bit a pixel."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode()
