"""Threshold, Dice and loss: what a threshold does to masks, and what the loss knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from scipy.special import expit

from atlaslib.data.cohort import Cohort
from atlaslib.data.slices import SliceDataset, to_slices
from atlaslib.data.volumes import near_brain
from atlaslib.evaluation.inference import predictions
from atlaslib.evaluation.metrics import dice_of_counts
from atlaslib.evaluation.predictor import Trained
from atlaslib.evaluation.starter_code import jpeg_mask
from atlaslib.figures.base import COLOURS, NARROW, panels
from atlaslib.figures.browser.demonstration import (
    SHOWN,
    Demonstration,
    demonstration,
    encoded,
    encoded_bits,
    shown_as,
)

LEVELS = np.arange(-6, 6.25, 0.25)  # thresholds on the logit, and shifts of it
FINE = np.arange(-20, 20, 1 / 32)  # left edges of the bins from which losses are computed
DEFINITIONS = ("2018", "per slice", "per scan", "pooled")  # of Dice
_STYLES = (":", "-.", "-", "--")


def choose_threshold(
    networks: Mapping[str, Trained], validation: Cohort, test: Cohort
) -> Demonstration:
    """Choose a threshold on validation scans, see its effect on the test; shift the logits, too.

    Parameters
    ----------
    networks : mapping from names to Run or Predictor
    validation, test : Cohort
        Every scan is segmented with every network.

    Returns
    -------
    Demonstration
        Masks, four definitions of Dice and the cross entropy at any threshold and shift of the
        logits.
    """
    parts = {"validation": validation, "test": test}
    curves = {
        name: {part: dice_and_loss(network, cohort) for part, cohort in parts.items()}
        for name, network in networks.items()
    }
    pictures = {part: _picture(networks, cohort) for part, cohort in parts.items()}
    data = {
        "levels": LEVELS.tolist(),
        "definitions": DEFINITIONS,
        "lesion": COLOURS["lesion"],
        "overlap": COLOURS["overlap"],
        "networks": [shown_as(name) for name in networks],
        "curves": curves,
        "pictures": {
            part: {
                "image": encoded(picture["image"]),
                "truth": encoded_bits(picture["truth"]),
                "logits": {name: encoded(_bytes(z)) for name, z in picture["logits"].items()},
            }
            for part, picture in pictures.items()
        },
    }
    name = next(iter(networks))
    figure, axes = panels(1, 2, width=NARROW, height=3.7)
    _draw_overlap(axes[0, 0], pictures["validation"], name)
    for definition, style in zip(DEFINITIONS, _STYLES, strict=True):
        values = np.array(curves[name]["validation"]["dice"][definition], dtype=float)
        axes[0, 1].plot(expit(LEVELS), values, style, color="black", label=definition)
    axes[0, 1].set(xlabel="threshold on the probability", ylabel="Dice, validation scans")
    axes[0, 1].set_ylim(0, 1)
    axes[0, 1].set_xticks([0, 0.5, 1])
    axes[0, 1].legend(frameon=False, fontsize=11)
    alt = (
        f"A slice of a validation scan with the mask of {name}, the true mask and their overlap in "
        "colour; beside it, four definitions of Dice against the threshold."
    )
    return demonstration("threshold", figure, alt, data)


def dice_and_loss(network: Trained, cohort: Cohort) -> dict[str, Any]:
    """Four definitions of Dice at each threshold, and the cross entropy at each shift.

    Parameters
    ----------
    network : Run or Predictor
    cohort : Cohort

    Returns
    -------
    dict
        dice: by definition, a list of values for the thresholds ``LEVELS`` on the logit, None where
        it is undefined: "2018" (mean over slices against JPEG masks, then over scans), "per slice"
        (the same against clean masks), "per scan" (mean over scans), "pooled" (all voxels
        together). loss: cross
        entropy per pixel if each of ``LEVELS`` is added to the logits near the brain. zero: cross
        entropy of the share of lesion, the same probability everywhere near the brain.
    """
    brain = to_slices(near_brain())
    found = []
    levels = np.zeros((2, len(FINE)))  # voxels near the brain: background, lesion
    outside, voxels = 0, 0
    for _, logits, true in predictions(network, cohort):
        soft = np.zeros_like(true)
        for z in np.flatnonzero(true.any((1, 2))):
            soft[z] = jpeg_mask([true[z]]) > 0
        found.append(_counts(logits, true, soft))
        for value in (0, 1):
            chosen = logits[brain & (true == value)]
            levels[value] += np.bincount(_fine(chosen), minlength=len(FINE))
        outside += int((true & ~brain).sum())
        voxels += true.size
    counts = np.stack(found)  # (scans, slices, 5, thresholds)
    both, soft_both, predicted, lesion_pixels, soft_pixels = np.moveaxis(counts, 2, 0)
    dice = {
        "2018": _mean(_mean(dice_of_counts(soft_both, predicted, soft_pixels), 1)),
        "per slice": _mean(_mean(dice_of_counts(both, predicted, lesion_pixels), 1)),
        "per scan": _mean(dice_of_counts(both.sum(1), predicted.sum(1), lesion_pixels.sum(1))),
        "pooled": dice_of_counts(*(each.sum((0, 1)) for each in (both, predicted, lesion_pixels))),
    }
    middle = FINE + (FINE[1] - FINE[0]) / 2
    losses = [
        (levels[0] @ np.logaddexp(0, middle + shift) + levels[1] @ np.logaddexp(0, -middle - shift))
        for shift in LEVELS
    ]
    background, lesion = levels.sum(1)
    share = max(lesion, 1) / (background + lesion)
    zero = -lesion * np.log(share) - background * np.log1p(-share)
    certain = 20.0 * outside  # lesion where none is looked for
    return {
        "dice": {
            name: [None if np.isnan(value) else round(float(value), 4) for value in values]
            for name, values in dice.items()
        },
        "loss": [float((loss + certain) / voxels) for loss in losses],
        "zero": float((zero + certain) / voxels),
    }


def _mean(values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Of those that are defined; NaN if there is none."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)


def _counts(
    logits: NDArray[np.float32], true: NDArray[np.bool_], soft: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Voxels above each threshold, (slices, 5, thresholds): in both, in both with the JPEG mask,
    predicted, true, in the JPEG mask.
    """
    depth, bins = len(logits), len(LEVELS) + 1
    inside, slice_of = _inside()
    values = (logits.ravel()[inside] - LEVELS[0]) / (LEVELS[1] - LEVELS[0])
    exceeded = np.clip(np.ceil(values), 0, bins - 1).astype(np.intp)
    place = exceeded + bins * slice_of
    out = np.zeros((depth, 5, len(LEVELS)))
    for row, chosen in ((0, true.ravel()[inside]), (1, soft.ravel()[inside]), (2, slice(None))):
        found = np.bincount(place[chosen], minlength=depth * bins)
        above = found.reshape(depth, bins)[:, ::-1].cumsum(1)[:, ::-1]
        out[:, row] = above[:, 1:]
    out[:, 3] = true.sum((1, 2))[:, None]
    out[:, 4] = soft.sum((1, 2))[:, None]
    return out


@cache
def _inside() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pixels near the brain, where alone a logit can exceed a threshold, and their slices."""
    brain = to_slices(near_brain())
    inside = np.flatnonzero(brain)
    return inside, inside // brain[0].size


def _fine(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.clip(((logits + 20) * 32).astype(np.intp), 0, len(FINE) - 1)


def _picture(networks: Mapping[str, Trained], cohort: Cohort) -> dict[str, Any]:
    """The scan of median lesion volume in its slice with the most lesion, and its logits."""
    data = SliceDataset(cohort, progress=False)
    pixels = data.table.lesion_pixels.to_numpy().reshape(len(cohort), -1)
    position = int(np.argsort(pixels.sum(1))[len(cohort) // 2])
    z = int(pixels[position].argmax())
    images, masks = data.scan(position)
    logits = {}
    for name, network in networks.items():
        ((_, found, _),) = predictions(network, cohort[position : position + 1])
        logits[name] = found[z]
    return {"image": images[z].numpy(), "truth": masks[z].numpy() > 0, "logits": logits}


def _bytes(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Logits from -8 to 8 in steps of 1/16, rounded down: which are above a level stays exact."""
    return np.clip(np.floor((logits + 8) * 16), 0, 255).astype(np.uint8)


def _draw_overlap(axis: Axes, picture: Mapping[str, Any], name: str) -> None:
    top, left, height, width = SHOWN
    window = np.s_[top : top + height, left : left + width]
    shown = np.repeat(picture["image"][window][..., None] / 255, 3, axis=2)
    mask, truth = picture["logits"][name][window] > 0, picture["truth"][window]
    colours = {
        f"P, {shown_as(name)['label']}": (mask & ~truth, str(shown_as(name)["colour"])),
        "T, truth": (truth & ~mask, COLOURS["lesion"]),
        "both": (truth & mask, COLOURS["overlap"]),
    }
    for label, (chosen, tint) in colours.items():
        shown[chosen] = 0.35 * shown[chosen] + 0.65 * np.array(to_rgb(tint))
        axis.plot([], [], "s", color=tint, label=label)
    axis.imshow(shown, interpolation="nearest")
    axis.set_axis_off()
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False, fontsize=11)
