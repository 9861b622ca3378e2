"""From a model and slices to masks, and from masks to one table row per scan."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.cohort import Cohort, DataError, Scan
from atlaslib.metrics import bootstrap_mean, dice_by_slice, pooled_dice
from atlaslib.recipes import Recipe
from atlaslib.runs import Run
from atlaslib.slices import SLICE, SliceDataset, normalise, to_slices, to_volume
from atlaslib.volumes import read_t1

THRESHOLD = 0.5  # on the probability, as in the original code
VOXEL_ML = 0.001  # a voxel is 1 mm3
_AT_ONCE = 27  # slices per forward pass: 189 is 7 x 27


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_layout(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, channels last in memory: two to three times as fast on a CPU."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def half_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the GPU has it, else float16; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


# First row and column of the recipe's window of 184 x 152 pixels: it holds the MNI152 brain, which
# spans rows 25 to 205 and columns 26 to 170.
WINDOW = (23, 22)
NO_LESION = -20.0  # the logit given to what lies outside the window


def shrink(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """(N, 1, 232, 196) to what the recipe's model sees, ``(N, 1, *recipe.input_size())``.

    The window is cut out, padded with zeros at the bottom and right, and blocks of
    that many pixels square are averaged.
    """
    if recipe.window:
        (above, left), (height, width) = WINDOW, recipe.field_of_view()
        images = images[..., above : above + height, left : left + width]
    rows, columns = (n * recipe.downsample for n in recipe.input_size())
    padded = F.pad(images, (0, columns - images.shape[-1], 0, rows - images.shape[-2]))
    return F.avg_pool2d(padded, recipe.downsample)


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


@torch.inference_mode()
def slice_logits(model: nn.Module, images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Logits of a scan at full resolution.

    Parameters
    ----------
    model : torch.nn.Module in evaluation mode, on the device of ``images``
    images : (n, 232, 196) uint8
    recipe : Recipe, for the window and the resolution that the model sees

    Returns
    -------
    (n, 232, 196) float32 on the same device
    """
    parts = []
    for batch in images.split(_AT_ONCE):
        x = shrink(batch.unsqueeze(1).float() / 255, recipe)
        parts.append(grow(model(x).float(), recipe).squeeze(1))
    return torch.cat(parts)


def score(logits: torch.Tensor, masks: torch.Tensor, pos_weight: float) -> dict[str, float]:
    """Dice, volumes in mL and losses of one scan, counted on the device of the tensors.

    Parameters
    ----------
    logits : (189, 232, 196) float32
    masks : (189, 232, 196) uint8
    pos_weight : float
        Of lesion pixels in ``loss``; ``cross_entropy`` has weight 1.
    """
    predicted, true = logits > 0, masks > 0  # a logit of 0 is a probability of 0.5
    both, p, t = ((predicted & true).sum(), predicted.sum(), true.sum())
    # cross entropy is softplus(logit) on background, softplus(-logit) on lesion
    missed = F.softplus(-logits[true]).sum()
    wrong = F.softplus(logits).sum() - F.softplus(logits[true]).sum()
    counts = torch.stack([both, p, t]).tolist()
    return {
        "dice": 2 * counts[0] / (counts[1] + counts[2]) if counts[1] + counts[2] else float("nan"),
        "volume_ml": counts[2] * VOXEL_ML,
        "predicted_ml": counts[1] * VOXEL_ML,
        "intersection_ml": counts[0] * VOXEL_ML,
        "cross_entropy": float((missed + wrong) / logits.numel()),
        "loss": float((pos_weight * missed + wrong) / logits.numel()),
    }


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
    device = best_device()
    model = fast_layout(run.model(), device)
    slices = SliceDataset(cohort, progress=progress)
    parts = {s: part for part, names in run.provenance["split"].items() for s in names}
    rows = []
    for position, scan in enumerate(cohort):
        images, masks = (x.to(device) for x in slices.scan(position))
        logits = slice_logits(model, images, run.recipe)
        row = {"subject": scan.subject, "session": scan.session, "site": scan.site}
        row["part"] = parts.get(scan.subject, "new")
        values = score(logits, masks, run.recipe.pos_weight)
        by_slice = dice_by_slice((logits > 0).cpu().numpy(), masks.cpu().numpy())
        rows.append(row | values | {"dice_per_slice": by_slice})
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
    path = scan.t1 if isinstance(scan, Scan) else Path(scan)
    try:
        levels = normalise(read_t1(path).voxels)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
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
    path = t1.t1 if isinstance(t1, Scan) else Path(t1)
    mask = to_volume((probabilities(run, path) > THRESHOLD).astype(np.uint8))
    original = nib.Nifti1Image.from_filename(path)
    # from RAS back to the axes of the file, so that a viewer lays one over the other
    orientation = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(original.affine)
    )
    turned = nib.orientations.apply_orientation(mask, orientation)
    return nib.Nifti1Image(np.ascontiguousarray(turned), original.affine)
