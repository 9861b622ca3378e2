"""Apply trained networks to scans: logits, probabilities, and the mask of a T1."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.data.cohort import Cohort, Scan
from atlaslib.data.model_input import (
    NO_LESION,
    to_full_resolution,
    to_model_input,
    with_context,
)
from atlaslib.data.slices import GRID, SliceDataset, normalise, to_slices, to_volume
from atlaslib.data.volumes import Image, near_brain, read_t1
from atlaslib.evaluation.predictor import Networks, members
from atlaslib.files import DataError, user_path
from atlaslib.models.device import best_device, fast_layout, half_precision
from atlaslib.networks import checked_logits
from atlaslib.recipes import Recipe

_CPU_SLICES = 27  # per forward pass on a CPU, so that they fit its cache; 189 = 7 x 27
_WHOLE_VOLUME = 50  # slices in a training step that takes as much memory as segmenting a volume

#: A network in evaluation mode, on the device of the images, with its recipe.
Member = tuple[nn.Module, Recipe]


def is_lesion(logits: Any) -> Any:
    """The mask of logits, array or tensor: a probability above one half, as in the original code.

    Masks and scores both follow this rule.
    """
    return logits > 0


@torch.inference_mode()
def slice_logits(
    model: nn.Module,
    images: torch.Tensor,
    recipe: Recipe,
    chosen: Sequence[int] | None = None,
    brain_only: bool = True,
) -> torch.Tensor:
    """Logits of a scan at full resolution.

    Parameters
    ----------
    model : torch.nn.Module, in evaluation mode and on the device of ``images``
    images : (189, 232, 196) uint8
        All slices of the scan, because a model with context_slices also sees their neighbours.
    recipe : Recipe that the model was trained with
    chosen : sequence of int, optional
        Slices to segment. None: all.
    brain_only : bool, default=True
        Outside :func:`atlaslib.data.volumes.near_brain`, where no lesion is looked for, every logit
        is ``NO_LESION``. False: the network's own everywhere.

    Returns
    -------
    (n, 232, 196) float32 on the same device
    """
    rows = np.arange(len(images)) if chosen is None else np.asarray(chosen)
    return torch.cat(list(logit_chunks([(model, recipe)], images, rows, brain_only)))


def logit_chunks(
    ensemble: Sequence[Member], images: torch.Tensor, rows: np.ndarray, brain_only: bool = True
) -> Iterator[torch.Tensor]:
    """Like :func:`slice_logits` of an ensemble, but yield :func:`slices_per_pass` slices at a time.

    Only at full resolution can networks be averaged whose recipes differ in grid and context.
    """
    size = slices_per_pass(images.device, *(recipe for _, recipe in ensemble))
    each = [_chunks(member, images, rows, brain_only, size) for member in ensemble]
    for logits in zip(*each, strict=True):
        yield mean_probability(torch.stack(logits)) if len(logits) > 1 else logits[0]


def mean_probability(logits: torch.Tensor) -> torch.Tensor:
    """The logits of the mean of several probabilities, (networks, ...) to (...).

    With log p and log (1 - p), since p itself is rounded to 1 for logits above 17.
    """
    lesion, background = (F.logsigmoid(sign * logits).logsumexp(0) for sign in (1, -1))
    return lesion - background


def _chunks(
    member: Member, images: torch.Tensor, rows: np.ndarray, brain_only: bool, size: int
) -> Iterator[torch.Tensor]:
    """The logits of one network."""
    (model, recipe), device = member, images.device
    half = half_precision(device)
    stacks = torch.from_numpy(with_context(rows, recipe)).to(device, non_blocking=True)
    for stack in stacks.split(size):
        x = to_model_input(images[stack], recipe) / 255
        with torch.autocast(device.type, half, enabled=half is not None):
            mirrored = x.flip(3) if recipe.flip_tta else None  # before a model may change x
            logits = checked_logits(model, x).float()
            if mirrored is not None:
                logits = (logits + checked_logits(model, mirrored).float().flip(3)) / 2
        if not torch.isfinite(logits).all():
            text = (
                "the network's logits are NaN or infinite: it is damaged, or its training diverged"
            )
            raise DataError(text, "not finite")
        logits = to_full_resolution(logits, recipe).squeeze(1)
        if brain_only:
            own = stack[:, recipe.context_slices]  # without the neighbours
            logits = logits.masked_fill(_no_lesion(device)[own], NO_LESION)
        yield logits


@cache
def _no_lesion(device: torch.device) -> torch.Tensor:
    """Pixels where no lesion is looked for, (189, 232, 196) bool on a device."""
    return torch.from_numpy(np.ascontiguousarray(to_slices(~near_brain()))).to(device)


def slices_per_pass(device: torch.device, *recipes: Recipe) -> int:
    """Slices per forward pass: a volume on a GPU if all training batches show that it fits."""
    batches = [recipe.micro_batch or recipe.batch_size for recipe in recipes]
    fits = min(batches) >= _WHOLE_VOLUME
    return GRID[2] if device.type == "cuda" and fits else _CPU_SLICES


def load_members(run: Networks) -> list[Member]:
    """The networks of a run or an ensemble, on the device for computing."""
    device = best_device()
    return [(fast_layout(each.model(), device), each.recipe) for each in members(run)]


@torch.inference_mode()
def _scan_logits(
    ensemble: Sequence[Member], images: torch.Tensor, brain_only: bool = True
) -> torch.Tensor:
    """Logits of all slices of a scan, on the CPU."""
    images = images.to(best_device())
    rows = np.arange(len(images))
    return torch.cat(list(logit_chunks(ensemble, images, rows, brain_only))).cpu()


def predictions(run: Networks, cohort: Cohort) -> Iterator[tuple[Scan, np.ndarray, np.ndarray]]:
    """Yield each scan, its logits (float32) and true mask (bool), both (189, 232, 196)."""
    ensemble = load_members(run)
    slices = SliceDataset(cohort, progress=False)
    for position, scan in enumerate(cohort):
        images, masks = slices.scan(position)
        yield scan, _scan_logits(ensemble, images).numpy(), masks.numpy() > 0


def probabilities(
    run: Networks, scan: Scan | str | os.PathLike[str], brain_only: bool = True
) -> np.ndarray:
    """The probability of lesion for every pixel of a scan's slices.

    Parameters
    ----------
    run : Run, Predictor or list of them
        Of a list, an ensemble, the mean of the probabilities of its networks. Their recipes may
        differ in resolution, window and context.
    scan : Scan, or the path of a T1 in MNI space
    brain_only : bool, default=True
        Practically 0 outside the template's brain and 4 mm around it; False: the network's own.

    Returns
    -------
    (189, 232, 196) float32
    """
    t1 = read_t1(scan.t1 if isinstance(scan, Scan) else user_path(scan))
    return _logits(load_members(run), t1, brain_only).sigmoid().numpy()


def volume_probability(
    ensemble: Sequence[Member], t1: Image, brain_only: bool = True
) -> np.ndarray:
    """The probability of lesion for each voxel of a T1 on the MNI grid, (197, 233, 189)."""
    return to_volume(_logits(ensemble, t1, brain_only).sigmoid().numpy())


def _logits(ensemble: Sequence[Member], t1: Image, brain_only: bool) -> torch.Tensor:
    """Logits of all slices of a T1 on the MNI grid, (189, 232, 196) on the CPU."""
    try:
        levels = normalise(t1.voxels)
    except DataError as error:
        raise DataError(f"{t1.path}: {error}", error.kind) from None
    images = torch.from_numpy(np.ascontiguousarray(to_slices(levels)))
    return _scan_logits(ensemble, images, brain_only)
