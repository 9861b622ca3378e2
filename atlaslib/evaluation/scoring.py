"""Tables of scores, with one row per scan or one row per model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.data.cohort import Cohort
from atlaslib.data.slices import GRID, SliceDataset
from atlaslib.data.splits import BY_SLICE, TEST, slices_of_part
from atlaslib.evaluation.inference import (
    Member,
    is_lesion,
    load_members,
    logit_chunks,
    slices_per_pass,
)
from atlaslib.evaluation.mask_scores import check_metrics, mask_scores
from atlaslib.evaluation.metrics import bootstrap_mean, dice_of, mean_slice_dice, pooled_dice
from atlaslib.evaluation.native import evaluate_native
from atlaslib.evaluation.predictor import Networks, Trained, members
from atlaslib.files import DataError, expect
from atlaslib.recipes import Recipe
from atlaslib.runs import Run

VOXEL_ML = 0.001  # a voxel is 1 mm3


def slice_counts(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Count, for each slice, what all scores are computed from, on the device of the tensors.

    Parameters
    ----------
    logits : (n, 232, 196) float32
    masks : (n, 232, 196) uint8

    Returns
    -------
    (n, 6) float32
        Voxels in both masks, predicted, true, all; sums of cross entropy over lesion, background.
    """
    predicted, true = is_lesion(logits), masks > 0
    # cross entropy is softplus(logit) on background, softplus(logit) - logit on lesion
    rest = F.softplus(logits)
    on_lesion = torch.where(true, rest, 0).sum((1, 2))
    missed = on_lesion - torch.where(true, logits, 0).sum((1, 2))
    voxels = [mask.sum((1, 2)).float() for mask in (predicted & true, predicted, true)]
    voxels.append(torch.full_like(voxels[0], logits[0].numel()))
    return torch.stack([*voxels, missed, rest.sum((1, 2)) - on_lesion], dim=1)


def scan_scores(found: np.ndarray, pos_weight: float) -> dict[str, float]:
    """One scan's Dice, volumes in mL and losses.

    Parameters
    ----------
    found : (n, 6)
        From :func:`slice_counts`, for the slices to score.
    pos_weight : float
        Weight of lesion pixels in ``loss``; in ``cross_entropy`` it is 1.
    """
    both, predicted, true, voxels, missed, wrong = found.sum(0, dtype=np.float64)
    return {
        "dice": dice_of(both, predicted, true),
        "dice_per_slice": mean_slice_dice(*found[:, :3].T),
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
    brain_only: bool = True,
    metrics: Sequence[str] = (),
) -> list[dict[str, float]]:
    """Segment scans and compare them with their masks: one :func:`scan_scores` row per scan.

    Parameters
    ----------
    model : torch.nn.Module
    slices : SliceDataset
    recipe : Recipe
    part : int
        If the split is by slice, the part to score: :data:`atlaslib.data.splits.TEST`, ...
    positions : sequence of int, optional
        Positions of the scans in the cohort. None: all.
    brain_only : bool, default=True
        As in :func:`atlaslib.predict`.
    metrics : sequence of str
        Further scores, of :func:`atlaslib.evaluation.mask_scores.mask_scores`.
    """
    return _score([(model.eval(), recipe)], slices, part, positions, brain_only, metrics)


@torch.inference_mode()
def _score(
    ensemble: Sequence[Member],
    slices: SliceDataset,
    part: int,
    positions: Sequence[int] | None,
    brain_only: bool,
    metrics: Sequence[str],
) -> list[dict[str, float]]:
    """As :func:`validate`, of an ensemble."""
    device = next(ensemble[0][0].parameters()).device
    recipes = [recipe for _, recipe in ensemble]
    weights = {recipe.pos_weight for recipe in recipes}
    pos_weight = weights.pop() if len(weights) == 1 else float("nan")
    positions = range(len(slices.cohort)) if positions is None else positions
    found, more = [], []
    for position in positions:
        images, masks = (x.to(device, non_blocking=True) for x in slices.scan(position))
        logits = logit_chunks(ensemble, images, np.arange(len(images)), brain_only)
        # chunk by chunk, while the logits are still in the CPU's cache
        chunks = zip(logits, masks.split(slices_per_pass(device, *recipes)), strict=True)
        counts, predicted = [], []
        for each, mask in chunks:
            counts.append(slice_counts(each, mask))
            if metrics:
                predicted.append(is_lesion(each).cpu().numpy())
        found.append(torch.cat(counts))
        more.append(
            mask_scores(np.concatenate(predicted), masks.cpu().numpy(), metrics) if metrics else {}
        )
    # of one network; an ensemble is never split by slice
    own = slices_of_part(slices.table, recipes[0], part).reshape(-1, GRID[2])
    return [  # copied to the CPU at the end, so that a GPU need not wait between scans
        scan_scores(values.cpu().numpy()[own[position]], pos_weight) | others
        for position, values, others in zip(positions, found, more, strict=True)
    ]


def evaluate(
    run: Networks,
    cohort: Cohort,
    progress: bool = True,
    brain_only: bool = True,
    metrics: Iterable[str] = (),
    space: str = "MNI",
) -> pd.DataFrame:
    """Segment every scan of a cohort and compare it with its masks.

    Parameters
    ----------
    run : Run, Predictor or list of them
        A list is an ensemble, whose probabilities are averaged as in :func:`atlaslib.predict`.
    cohort : Cohort
        Usually the test part of ``cohort.split``: the column ``part`` tells which subjects the
        run has seen before.
    progress : bool
    brain_only : bool, default=True
        Nothing is marked outside the MNI152 template's brain and 4 mm around it, as by
        :func:`atlaslib.predict`. True lesion voxels count wherever they are. In the losses, a voxel
        out there adds almost nothing if it is background and 20 nats if it is lesion, like one
        outside the window.
    metrics : iterable of {"volume", "hd95", "assd", "lesion_f1", "lesion_count"}
        Further columns, as in :func:`atlaslib.evaluation.mask_scores.mask_scores`. Those of
        distances need MONAI and take about a second a scan.
    space : {"MNI", "native"}
        Where to compare. "native", for a cohort in native space: the table is that of
        :func:`atlaslib.evaluation.native.evaluate_native`, without further metrics.

    Returns
    -------
    DataFrame
        One row per scan: subject, session, site, part, dice, dice_per_slice, volume_ml,
        predicted_ml, intersection_ml, cross_entropy (per pixel, weight 1), loss (with the recipe's
        positive weight; NaN if those of an ensemble differ). All are computed at full resolution
        over all 189 slices, or over the test slices of a run that was split by slice.

        ``part`` is the first of "train", "validation" and "test" in which any of the runs has the
        subject, or "new" if none has it, as for every scan of a Predictor. Of a run that was split
        by slice, it is "test".

    Raises
    ------
    DataError
        If the cohort is empty, or a scan has no mask or cannot be read.
    ValueError
        If ``run`` is none of these or an empty list; if one of several runs was split by slice, or
        if further metrics are asked for of one that was.
    """
    given = members(run)
    expect("cohort", cohort, Cohort)
    if not len(cohort):
        raise DataError(f"{cohort.root}: no scan to evaluate")
    if space not in ("MNI", "native"):
        raise ValueError(f"space: expected 'MNI' or 'native', not {space!r}")
    if space == "native":
        if check_metrics(metrics):
            raise ValueError("metrics: only Dice and volumes are computed in native space")
        return evaluate_native(run, cohort, progress=progress, brain_only=brain_only)
    names = [name for name in check_metrics(metrics) if name != "dice"]
    if names and given[0].recipe.split in BY_SLICE:
        raise ValueError(f"{names[0]}: needs whole scans, but this run was split by slice")
    ensemble = load_members(given)
    slices = SliceDataset(cohort, progress=progress)
    parts = _parts(given)
    trained = [scan for scan in cohort if parts.get(scan.subject) == "train"]
    if trained and given[0].recipe.split not in BY_SLICE:
        text = f"{len(trained)} of {len(cohort)} scans are of people who were trained on"
        warnings.warn(f"{text}: run.unseen(cohort) leaves them out", stacklevel=2)
    rows = [
        {"subject": scan.subject, "session": scan.session, "site": scan.site,
         "part": parts.get(scan.subject, "new")}
        for scan in cohort
    ]  # fmt: skip
    scores = _score(ensemble, slices, TEST, None, brain_only, names)
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(scores)], axis=1)


def _parts(given: Sequence[Trained]) -> dict[str, str]:
    """Each subject's part of the split; if runs differ, "train" before "validation", "test"."""
    by_slice = given[0].recipe.split in BY_SLICE  # every part has all subjects; "test" is scored
    found: dict[str, str] = {}
    for part in ("train", "validation", "test") if by_slice else ("test", "validation", "train"):
        for run in given:
            if isinstance(run, Run):
                found |= dict.fromkeys(run.provenance["split"][part], part)
    return found


def summary(tables: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """One row per model from the tables of :func:`evaluate`.

    Parameters
    ----------
    tables : dict from a model's name to its table
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        model, scans, subjects, dice (mean per scan), low, high (95 % bootstrap interval over
        subjects), pooled_dice, loss, cross_entropy (both NaN for a table without losses, such as
        that of :func:`evaluate_masks`).
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
                **table.reindex(columns=["loss", "cross_entropy"]).mean(),
            }
        )
    return pd.DataFrame(rows)
