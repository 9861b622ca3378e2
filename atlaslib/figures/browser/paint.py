"""Paint a stroke: a lesion painted into a healthy slice, and what the networks make of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atlaslib.data.model_input import CONTEXT_GAP
from atlaslib.data.slices import normalise, to_slices
from atlaslib.data.volumes import near_brain
from atlaslib.evaluation.inference import is_lesion, slice_logits
from atlaslib.evaluation.predictor import Predictor
from atlaslib.evaluation.pretrained import load_pretrained, pretrained_names
from atlaslib.figures.base import COLOURS, NARROW, panels, show_slice
from atlaslib.figures.browser.demonstration import (
    SHOWN,
    Demonstration,
    demonstration,
    encoded,
    encoded_bits,
    outline,
    shown_as,
)
from atlaslib.figures.browser.written import written_network
from atlaslib.synthetic.cohort import make_scan
from atlaslib.synthetic.people import draw_people

SEED, Z = 8, 97  # of the person, and the slice
MARK = (136.0, 110.0)  # column and row of the first lesion's centre
SIZE, DARKNESS = 18.0, 0.9  # its diameter in mm, and how far it is on the way to fluid
FLUID = 2.0  # percentile of the brain's levels in the slice


def paint_a_stroke(networks: Mapping[str, Predictor] | None = None) -> Demonstration:
    """Paint a lesion into a healthy slice, and watch the networks look for it.

    Parameters
    ----------
    networks : mapping from names to Predictor, optional
        None: all that the library ships.

    Returns
    -------
    Demonstration
        The networks run in the reader's browser.
    """
    if networks is None:
        networks = {name: load_pretrained(name) for name in pretrained_names()}
    images, brain = healthy_slices(), to_slices(near_brain())[Z]
    fluid = float(np.percentile(images[Z][brain], FLUID))
    reach = CONTEXT_GAP * max(network.recipe.context_slices for network in networks.values())
    data = {
        "slices": [encoded(images[z]) for z in range(Z - reach, Z + reach + 1, CONTEXT_GAP)],
        "brain": encoded_bits(brain),
        "fluid": fluid,
        "mark": MARK,
        "lesion": COLOURS["lesion"],
        "networks": [shown_as(name, shipped=True) for name in networks],
    }
    painted, truth = with_lesion(images, brain, fluid)
    masks = {}
    for name, network in networks.items():
        logits = slice_logits(network.model(), torch.from_numpy(painted), network.recipe, [Z])
        masks[name] = is_lesion(logits)[0].numpy()
    found = ", ".join(str(shown_as(name)["label"]) for name in networks)
    alt = (
        "A healthy slice of a synthetic brain, and the same slice with a dark disc painted into "
        f"one hemisphere; its outline in amber, and the outlines that the networks find ({found})."
    )
    written = {
        name: written_network(network.model(), network.recipe) for name, network in networks.items()
    }
    return demonstration(
        "paint", _still(images[Z], painted[Z], {**masks, "lesion": truth}), alt, data, written
    )


def _still(
    healthy: NDArray[np.uint8], painted: NDArray[np.uint8], masks: Mapping[str, NDArray[np.bool_]]
) -> Figure:
    """The healthy slice beside the painted one with the outlines of the masks."""
    figure, axes = panels(1, 2, width=NARROW, height=3.9)
    top, left, height, width = SHOWN
    window = np.s_[top : top + height, left : left + width]
    show_slice(axes[0, 0], healthy[window], title="healthy")
    show_slice(axes[0, 1], painted[window], title="with a painted lesion")
    for name, mask in masks.items():
        entry, style = shown_as(name), "--" if name == "lesion" else "-"
        outline(axes[0, 1], mask[window], str(entry["colour"]), str(entry["label"]), style)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return figure


@cache
def healthy_slices() -> NDArray[np.uint8]:
    """All slices of a synthetic person without lesions, (189, 232, 196) uint8."""
    (person,) = draw_people(1, SEED)
    healthy = dataclasses.replace(
        person, lesions=(), removed="nothing", atrophy=0.3, small_vessel=0.1
    )
    return np.ascontiguousarray(to_slices(normalise(make_scan(healthy, "t01").t1)))


def with_lesion(
    images: NDArray[np.uint8], brain: NDArray[np.bool_], fluid: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The slices with the first lesion, a ball, and its mask in slice ``Z``; as ``paint.js``."""
    painted = images.copy()
    rows, columns = np.indices(brain.shape) + 0.5
    away = np.hypot(columns - MARK[0], rows - MARK[1])
    for z in range(round(Z - SIZE / 2), round(Z + SIZE / 2) + 1):
        radius = max((SIZE / 2) ** 2 - (z - Z) ** 2, 0) ** 0.5
        share = np.clip(radius - away + 0.5, 0, 1) * brain * bool(radius)
        level = images[z] + share * DARKNESS * (fluid - images[z])
        painted[z] = np.floor(level + 0.5).astype(np.uint8)
    return painted, brain & (SIZE / 2 - away >= 0)
