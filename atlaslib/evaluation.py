"""From a model and slices to masks, and from masks to one table row per scan."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.cohort import Cohort, DataError, Scan
from atlaslib.metrics import bootstrap_mean, dice_of, dice_original, mean_dice, pooled_dice
from atlaslib.original import jpeg_mask
from atlaslib.recipes import Recipe
from atlaslib.runs import Run
from atlaslib.slices import GRID, SLICE, SliceDataset, normalise, to_slices, to_volume
from atlaslib.splits import TEST, own_slices
from atlaslib.volumes import Image, read_t1

THRESHOLD = 0.5  # on the probability, as in the original code
VOXEL_ML = 0.001  # a voxel is 1 mm3
_AT_ONCE = 27  # slices per forward pass on a CPU, whose cache holds them: 189 is 7 x 27
_ROOM = 50  # slices of a step of training: by the sizes of their tensors, a volume takes no more


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_layout(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, channels last in memory: two to three times as fast on a CPU."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def half_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the GPU computes with it, else float16, as on a T4; None on a CPU."""
    if device.type != "cuda":
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


# First row and column of the recipe's window of 184 x 152 pixels: it holds the MNI152 brain, which
# spans rows 25 to 205 and columns 26 to 170.
WINDOW = (23, 22)
NEIGHBOUR_GAP = 3  # slices, and so mm: a pixel of the quick profile
NO_LESION = -20.0  # the logit given to what lies outside the window


def shrink(
    images: torch.Tensor, recipe: Recipe, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, C, 232, 196) to what the recipe's model sees, ``(N, C, *recipe.input_size())`` float32.

    The means of the blocks of :func:`block_sums`.
    """
    return block_means(block_sums(images, recipe, mirrored), recipe)


def block_means(sums: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Sums over blocks of ``downsample`` pixels square to means, float32."""
    return sums / recipe.downsample**2 if recipe.downsample > 1 else sums.float()


def block_sums(
    images: torch.Tensor, recipe: Recipe, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, C, 232, 196) to ``(N, C, *recipe.input_size())``: as the model sees it, but whole.

    The window is cut out, padded with zeros at the bottom and right, and blocks of ``downsample``
    pixels square are summed; bytes become int16, or stay bytes where a block is one pixel. The
    slices at the positions ``mirrored`` change left and right.
    """
    if recipe.window:  # as far from the left edge as from the right one
        (above, left), (height, width) = WINDOW, recipe.field_of_view()
        images = images[..., above : above + height, left : left + width]
    if mirrored is not None:
        turned = images.index_select(0, mirrored).flip(-1)
        images = images.index_copy(0, mirrored, turned)
    block = recipe.downsample
    rows, columns = (n * block for n in recipe.input_size())
    x = F.pad(images, (0, columns - images.shape[-1], 0, rows - images.shape[-2]))
    if block == 1:
        return x
    if x.dtype == torch.uint8:  # 16 bits hold sums of up to 11 x 11 of them
        x = x.to(torch.int16 if block <= 11 else torch.int32)
    for axis in (-2, -1):
        first, *others = x.unflatten(axis, (-1, block)).unbind(axis)
        x = sum(others, first)
    return x


def grow(logits: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The way back, bilinear, to (N, 1, 232, 196)."""
    if recipe.downsample > 1:
        logits = F.interpolate(
            logits, scale_factor=recipe.downsample, mode="bilinear", align_corners=False
        )
    if not recipe.window:
        return logits[..., : SLICE[0], : SLICE[1]]
    (above, left), (height, width) = WINDOW, recipe.field_of_view()
    below, right = SLICE[0] - above - height, SLICE[1] - left - width
    return F.pad(logits[..., :height, :width], (left, right, above, below), value=NO_LESION)


def with_neighbours(rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Positions of slices, (n,), to those of each and its neighbours, (n, 1 + 2 * neighbours).

    Beyond the first and the last slice of a scan, these are repeated.
    """
    reach = recipe.neighbours * NEIGHBOUR_GAP
    scan, z = np.divmod(np.asarray(rows)[:, None], GRID[2])
    return scan * GRID[2] + np.clip(z + np.arange(-reach, reach + 1, NEIGHBOUR_GAP), 0, GRID[2] - 1)


@torch.inference_mode()
def slice_logits(
    model: nn.Module, images: torch.Tensor, recipe: Recipe, chosen: Sequence[int] | None = None
) -> torch.Tensor:
    """Logits of a scan at full resolution.

    Parameters
    ----------
    model : torch.nn.Module in evaluation mode, on the device of ``images``
    images : (189, 232, 196) uint8
        All slices of a scan, for a model may look at neighbours.
    recipe : Recipe, for what the model sees
    chosen : sequence of int, optional
        Which slices to segment. None: all.

    Returns
    -------
    (n, 232, 196) float32 on the same device
    """
    rows = np.arange(len(images)) if chosen is None else np.asarray(chosen)
    return torch.cat(list(_logit_parts(model, images, recipe, rows)))


def _logit_parts(
    model: nn.Module, images: torch.Tensor, recipe: Recipe, rows: np.ndarray
) -> Iterator[torch.Tensor]:
    """As :func:`slice_logits`, some slices after others."""
    device = images.device
    half = half_precision(device)
    stacks = torch.from_numpy(with_neighbours(rows, recipe)).to(device, non_blocking=True)
    for stack in stacks.split(at_once(device, recipe)):
        x = shrink(images[stack], recipe) / 255
        with torch.autocast(device.type, half, enabled=half is not None):
            logits = model(x).float()
            if recipe.average_mirrored:
                logits = (logits + model(x.flip(3)).float().flip(3)) / 2
        yield grow(logits, recipe).squeeze(1)


def at_once(device: torch.device, recipe: Recipe) -> int:
    """Slices per forward pass: on a GPU a whole volume, if training shows that it has the room."""
    has_room = (recipe.micro_batch or recipe.batch_size) >= _ROOM
    return GRID[2] if device.type == "cuda" and has_room else _AT_ONCE


def counts(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """What every score is computed from, slice by slice, on the device of the tensors.

    Parameters
    ----------
    logits : (n, 232, 196) float32
    masks : (n, 232, 196) uint8

    Returns
    -------
    (n, 6) float32
        Voxels in both masks, predicted, true, all; cross entropy summed over lesion, over the rest.
    """
    predicted, true = logits > 0, masks > 0  # a logit of 0 is a probability of 0.5
    # cross entropy is softplus(logit) on background, softplus(logit) - logit on lesion
    rest = F.softplus(logits)
    on_lesion = torch.where(true, rest, 0).sum((1, 2))
    missed = on_lesion - torch.where(true, logits, 0).sum((1, 2))
    voxels = [mask.sum((1, 2)).float() for mask in (predicted & true, predicted, true)]
    voxels.append(torch.full_like(voxels[0], logits[0].numel()))
    return torch.stack([*voxels, missed, rest.sum((1, 2)) - on_lesion], dim=1)


def score(found: np.ndarray, pos_weight: float) -> dict[str, float]:
    """One scan's Dice, volumes in mL and losses.

    Parameters
    ----------
    found : (n, 6)
        Of :func:`counts`, for the slices that are to be scored.
    pos_weight : float
        Of lesion pixels in ``loss``; ``cross_entropy`` has weight 1.
    """
    both, predicted, true, voxels, missed, wrong = found.sum(0, dtype=np.float64)
    return {
        "dice": dice_of(both, predicted, true),
        "dice_per_slice": mean_dice(*found[:, :3].T),
        "volume_ml": true * VOXEL_ML,
        "predicted_ml": predicted * VOXEL_ML,
        "intersection_ml": both * VOXEL_ML,
        "cross_entropy": (missed + wrong) / voxels,
        "loss": (pos_weight * missed + wrong) / voxels,
    }


@torch.inference_mode()
def validate(
    model: nn.Module,
    slices: SliceDataset,
    recipe: Recipe,
    part: int,
    positions: Sequence[int] | None = None,
) -> list[dict[str, float]]:
    """Segment scans and compare with their masks: one row of :func:`score` for each.

    Parameters
    ----------
    model : torch.nn.Module
    slices : SliceDataset
    recipe : Recipe
    part : int
        Which slices count where the split is by slice: :data:`atlaslib.splits.TEST`, ...
    positions : sequence of int, optional
        Of scans. None: all.
    """
    device = next(model.parameters()).device
    model.eval()
    positions = range(len(slices.cohort)) if positions is None else positions
    found = []
    for position in positions:
        images, masks = (x.to(device, non_blocking=True) for x in slices.scan(position))
        logits = _logit_parts(model, images, recipe, np.arange(len(images)))
        # part by part, while they are in the processor's cache
        parts = zip(logits, masks.split(at_once(device, recipe)), strict=True)
        found.append(torch.cat([counts(*part) for part in parts]))
    own = own_slices(slices.table, recipe, part).reshape(-1, GRID[2])
    return [  # read when all is computed: a GPU need not wait between scans
        score(values.cpu().numpy()[own[position]], recipe.pos_weight)
        for position, values in zip(positions, found, strict=True)
    ]


def evaluate(run: Run, cohort: Cohort, progress: bool = True) -> pd.DataFrame:
    """Segment every scan of a cohort and compare with its masks.

    Parameters
    ----------
    run : Run
    cohort : Cohort
        Give it the test part of ``cohort.split``: the column ``part`` says where the run has
        met a subject before.
    progress : bool

    Returns
    -------
    DataFrame
        One row per scan: subject, session, site, part ("train", "validation", "test" of the
        run's own split, or "new"), dice, dice_per_slice, volume_ml, predicted_ml,
        intersection_ml, cross_entropy (per pixel, weight 1), loss (with the run's positive
        weight). Everything is counted at full resolution over all 189 slices.
    """
    model = fast_layout(run.model(), best_device())
    slices = SliceDataset(cohort, progress=progress)
    parts = {s: part for part, names in run.provenance["split"].items() for s in names}
    rows = [
        {"subject": scan.subject, "session": scan.session, "site": scan.site,
         "part": parts.get(scan.subject, "new")}
        for scan in cohort
    ]  # fmt: skip
    scores = validate(model, slices, run.recipe, TEST)
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(scores)], axis=1)


def predictions(run: Run, cohort: Cohort) -> Iterator[tuple[Scan, np.ndarray, np.ndarray]]:
    """Each scan with a run's logits, float32, and the true mask, bool, both (189, 232, 196)."""
    model = fast_layout(run.model(), best_device())
    slices = SliceDataset(cohort, progress=False)
    for position, scan in enumerate(cohort):
        images, masks = slices.scan(position)
        logits = slice_logits(model, images.to(best_device()), run.recipe)
        yield scan, logits.cpu().numpy(), masks.numpy() > 0


def rescore(run: Run, cohort: Cohort) -> pd.DataFrame:
    """The same masks by the Dice of 2018, against targets that went through JPEG.

    Returns
    -------
    DataFrame
        One row per scan: subject, session, dice_original, and perfect_original, which a mask
        without any error would get. Means over the slices on which prediction and target are not
        both empty.
    """
    rows = []
    for scan, logits, true in predictions(run, cohort):
        soft = np.zeros(true.shape, np.float32)
        for z in np.flatnonzero(true.any((1, 2))):
            soft[z] = jpeg_mask([true[z]])
        scores = [dice_original(mask, soft, len(soft)) for mask in (logits > 0, true)]
        names = {"subject": scan.subject, "session": scan.session}
        rows.append(names | {"dice_original": scores[0], "perfect_original": scores[1]})
    return pd.DataFrame(rows)


def summary(tables: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """One row per model from the tables of :func:`evaluate`.

    Returns
    -------
    DataFrame
        model, scans, subjects, dice (mean per scan), low, high (95 % bootstrap interval over
        subjects), pooled_dice, loss, cross_entropy.
    """
    rows = []
    for name, table in tables.items():
        mean, low, high = bootstrap_mean(table.dice, table.subject, seed=seed)
        rows.append(
            {
                "model": name,
                "scans": len(table),
                "subjects": table.subject.nunique(),
                "dice": mean,
                "low": low,
                "high": high,
                "pooled_dice": pooled_dice(table),
                "loss": table.loss.mean(),
                "cross_entropy": table.cross_entropy.mean(),
            }
        )
    return pd.DataFrame(rows)


def probabilities(run: Run, scan: Scan | str | os.PathLike[str]) -> np.ndarray:
    """The model's probability of lesion in every pixel of a scan.

    Parameters
    ----------
    run : Run
    scan : Scan, or the path of a T1 in MNI space

    Returns
    -------
    (189, 232, 196) float32
    """
    return _probabilities(run, _t1_of(scan))


def _t1_of(scan: Scan | str | os.PathLike[str]) -> Image:
    return read_t1(scan.t1 if isinstance(scan, Scan) else Path(scan))


def _probabilities(run: Run, t1: Image) -> np.ndarray:
    try:
        levels = normalise(t1.voxels)
    except DataError as error:
        raise DataError(f"{t1.path}: {error}", error.kind) from None
    device = best_device()
    images = torch.from_numpy(np.ascontiguousarray(to_slices(levels))).to(device)
    logits = slice_logits(fast_layout(run.model(), device), images, run.recipe)
    return logits.sigmoid().cpu().numpy()


def predict(run: Run, t1: Scan | str | os.PathLike[str]) -> nib.Nifti1Image:
    """Segment a T1 in MNI space.

    Parameters
    ----------
    run : Run
    t1 : Scan, or the path of a NIfTI file of 197 x 233 x 189 voxels in any orientation

    Returns
    -------
    nibabel.Nifti1Image
        The mask, uint8 0 or 1, in the shape, orientation and affine of the file.

    Raises
    ------
    DataError
        If the file is unreadable or not on the MNI grid.
    """
    image = _t1_of(t1)
    mask = to_volume((_probabilities(run, image) > THRESHOLD).astype(np.uint8))
    # from RAS back to the axes of the file, so that a viewer lays one over the other
    orientation = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(image.stored_affine)
    )
    turned = nib.orientations.apply_orientation(mask, orientation)
    return nib.Nifti1Image(np.ascontiguousarray(turned), image.stored_affine)
