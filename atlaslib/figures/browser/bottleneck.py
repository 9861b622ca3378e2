"""What a bottleneck carries: the numbers of a slice as bars, and the mask that is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from atlaslib.data.cohort import Cohort
from atlaslib.data.model_input import NO_LESION, to_full_resolution, to_model_input, with_context
from atlaslib.data.slices import SliceDataset, to_slices
from atlaslib.data.volumes import near_brain
from atlaslib.evaluation.inference import is_lesion
from atlaslib.evaluation.metrics import dice
from atlaslib.evaluation.predictor import Trained
from atlaslib.figures.base import COLOURS, panels, show_slice
from atlaslib.figures.browser.demonstration import (
    SHOWN,
    Demonstration,
    demonstration,
    encoded,
    encoded_bits,
    only_still,
    outline,
    shown_as,
)
from atlaslib.figures.browser.narrowest import Bottleneck, bottleneck, tensors
from atlaslib.figures.browser.written import trace, written_trace

LIMIT = 4_000_000  # weights behind the bottleneck that a page can load: 11 MB
SCANS = 3  # that are shown


@dataclass(frozen=True)
class Passage:
    """A slice on its way through the bottleneck.

    Attributes
    ----------
    image : (232, 196) uint8
    truth, brain : (232, 196) bool
    before, vector : float32
        The last map ahead of the bottleneck, (channels, rows, columns), and the bottleneck.
    logits : (232, 196) float32
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    before: NDArray[np.float32]
    vector: NDArray[np.float32]
    logits: NDArray[np.float32]

    @property
    def dice(self) -> float:
        return dice(is_lesion(self.logits), self.truth)


def explore_bottleneck(network: Trained, cohort: Cohort) -> Demonstration:
    """Change the numbers in a network's bottleneck, and see the mask that is made of them.

    Parameters
    ----------
    network : Run or Predictor
        One with a vector that everything passes through, such as the paper's ResNet. Its weights
        are rounded to 16 bits, and mirror images are not averaged in.
    cohort : Cohort
        Scans that it was not trained on. Of up to three of those in which it marks something, the
        slice with the most lesion is shown: first the one with the best Dice, then those whose
        probabilities differ most.

    Returns
    -------
    Demonstration
        What follows the bottleneck runs in the reader's browser. With more than 4 million weights
        it is too large for a page, and only the still picture is shown.

    Raises
    ------
    ValueError
        If the network has no bottleneck, or fewer than two scans have a lesion.
    """
    recipe, model = network.recipe, _rounded(network.model())
    traced = trace(model, recipe)
    place = bottleneck(traced)
    passages = _passages(network, cohort, traced, place)
    shown = _chosen(passages)
    vectors = np.stack([passage.vector.ravel() for passage in passages])
    written = written_trace(traced, recipe, after=place.before)
    key = "bottleneck-" + hashlib.sha256(written["weights"].encode()).hexdigest()[:12]
    data = {
        "networks": [{**shown_as(recipe.model, shipped=True), "name": key}],
        "tensors": {"before": place.before, "vector": place.vector, "after": place.after},
        "shapes": {"before": shown[0].before.shape, "vector": shown[0].vector.shape},
        "centre": vectors.mean(0).tolist(),
        "spread": np.maximum(vectors.std(0), 1e-6).tolist(),
        "lesion": COLOURS["lesion"],
        "slices": [
            {
                "image": encoded(passage.image),
                "truth": encoded_bits(passage.truth),
                "brain": encoded_bits(passage.brain),
                "map": encoded(passage.before),
            }
            for passage in shown
        ],
    }
    label, length = shown_as(recipe.model)["label"], vectors.shape[1]
    weights = sum(int(np.prod(shape)) for _, shape in written["shapes"])
    beside = shown[:2]  # more would be too small on a page
    alt = (
        f"Slices of {len(beside)} scans with the outline of the lesion and the mask of "
        f"{label}; below each, as bars, the {length} numbers from which the mask is made."
    )
    still = _still(beside, vectors, str(shown_as(recipe.model)["colour"]))
    if weights > LIMIT:
        note = f"Only a picture: {weights:,} weights behind the bottleneck are too many for a page."
        return only_still(still, alt, note)
    return demonstration("bottleneck", still, alt, data, {key: written})


def _rounded(model: nn.Module) -> nn.Module:
    """The network with weights of 16 bits, which are half as much to load; where they suffice."""
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            if weight.is_floating_point() and weight.half().isfinite().all():
                weight.copy_(weight.half())
    return model


def _passages(
    network: Trained, cohort: Cohort, traced: torch.export.ExportedProgram, place: Bottleneck
) -> list[Passage]:
    """Of each scan with a lesion, the slice with the most of it."""
    recipe = network.recipe
    slices = SliceDataset(cohort, progress=False)
    pixels = slices.table.lesion_pixels.to_numpy().reshape(len(cohort), -1)
    found = []
    for position in np.flatnonzero(pixels.any(1)):
        z = int(pixels[position].argmax())
        images, masks = slices.scan(position)
        x = to_model_input(images[with_context(np.array([z]), recipe)], recipe) / 255
        kept = tensors(traced, x, {place.before, place.vector})
        brain = to_slices(near_brain())[z]
        logits = to_full_resolution(kept["logits"], recipe)[0, 0].numpy()
        found.append(Passage(
            images[z].numpy(), masks[z].numpy() > 0, brain,
            kept[place.before][0].numpy(), kept[place.vector][0].numpy(),
            np.where(brain, logits, NO_LESION).astype(np.float32),
        ))  # fmt: skip
    if len(found) < 2:
        raise ValueError(f"cohort: expected two scans with a lesion or more, found {len(found)}")
    return found


def _chosen(passages: Sequence[Passage]) -> list[Passage]:
    """The best Dice of those with a mask, and those that differ most from the ones before."""
    marked = [passage for passage in passages if is_lesion(passage.logits).any()]
    rest = sorted(marked if len(marked) > 1 else passages, key=lambda passage: -passage.dice)
    shown = [rest.pop(0)]

    def apart(passage: Passage) -> float:
        differences = (expit(passage.logits) - expit(other.logits) for other in shown)
        return min(float(np.square(difference).sum()) for difference in differences)

    while rest and len(shown) < SCANS:
        shown.append(rest.pop(int(np.argmax([apart(passage) for passage in rest]))))
    return shown


def _still(shown: Sequence[Passage], vectors: NDArray[np.float32], colour: str) -> Figure:
    """The slices with their outlines, above their numbers."""
    figure, axes = panels(2, len(shown), height=5.6, height_ratios=(3, 1), sharey="row")
    top, left, height, width = SHOWN
    window = np.s_[top : top + height, left : left + width]
    centre, spread = vectors.mean(0), np.maximum(vectors.std(0), 1e-6)
    scores = [(passage.vector.ravel() - centre) / spread for passage in shown]
    reach = 1.1 * max(2.5, np.abs(scores).max())
    for column, passage in enumerate(shown):
        axis = axes[0, column]
        title = f"slice of scan {column + 1}\nDice {passage.dice:.2f}"
        show_slice(axis, passage.image[window], title=title)
        outline(axis, is_lesion(passage.logits)[window], colour, "mask")
        outline(axis, passage.truth[window], COLOURS["lesion"], "truth", "--")
        numbers = np.arange(1, len(centre) + 1)
        axes[1, column].bar(numbers, scores[column], color=colour)
        axes[1, column].axhline(0, color="black", linewidth=0.8)
        axes[1, column].set(xlabel="number", xticks=(1, len(numbers)))
    axes[1, 0].set(ylabel="value, in SD", ylim=(-reach, reach), yticks=(-2.5, 0, 2.5))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return figure
