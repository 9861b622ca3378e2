"""Dice of masks, slices and scans, and bootstrap confidence intervals: arrays in, numbers out.

The row of scores of one scan is made in `scoring`.

Dice is ``2 |P and T| / (|P| + |T|)`` for a predicted set P and a true set T of voxels. If both
are empty it is 0/0: every function here returns ``nan`` (undefined) and leaves such cases out of
means, as the original code did and as MONAI does with ``ignore_empty=True``. If only one of the
two is empty, Dice is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def dice(prediction: ArrayLike, target: ArrayLike) -> float:
    """Dice coefficient of two masks of the same shape.

    Parameters
    ----------
    prediction, target : array or tensor
        Voxels above 0 count as lesion.

    Returns
    -------
    float
        Between 0 and 1; ``nan`` if both masks are empty.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dice([1, 1, 0, 0], [0, 1, 1, 0])
    0.5
    """
    p, t = _pair(prediction, target)
    return dice_of(int((p & t).sum()), int(p.sum()), int(t.sum()))


def _pair(prediction: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, t = _marked(prediction), _marked(target)
    if p.shape != t.shape:
        raise ValueError(f"the prediction's shape {p.shape} is not the target's {t.shape}")
    return p, t


def _marked(mask: Any) -> np.ndarray:
    """Where a mask is above 0: an array, or a tensor of any type on any device."""
    marked = mask > 0 if hasattr(mask, "cpu") else np.asarray(mask) > 0
    return marked.cpu().numpy() if hasattr(marked, "cpu") else marked


def dice_of(both: float, predicted: float, true: float) -> float:
    """Dice from voxel counts: in both masks, in the predicted mask, in the true mask."""
    total = predicted + true
    return float(2 * both / total) if total else float("nan")


def dice_per_slice(prediction: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Dice of each slice along the first axis, ``nan`` where both masks are empty.

    Parameters
    ----------
    prediction, target : array of shape (slices, rows, columns)

    Returns
    -------
    array of shape (slices,), float64
    """
    p, t = _pair(prediction, target)
    return dice_of_counts((p & t).sum((1, 2)), p.sum((1, 2)), t.sum((1, 2)))


def dice_of_counts(both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice from arrays of voxel counts, ``nan`` where both masks are empty."""
    with np.errstate(invalid="ignore"):
        return 2 * both / (predicted + true)


def mean_slice_dice(both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over the slices where Dice is defined, from voxel counts per slice, each (slices,).

    A slice without lesion scores 0 if it has any false positive, so in this mean a few wrong
    voxels there cost as much as a large lesion missed on another slice.
    """
    values = dice_of_counts(both, predicted, true)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def pooled_dice(table: pd.DataFrame) -> float:
    """Dice of all voxels of all scans together, so that large lesions weigh more.

    Parameters
    ----------
    table : DataFrame
        One row per scan with the columns intersection_ml, predicted_ml and volume_ml.
    """
    return dice_of(table.intersection_ml.sum(), table.predicted_ml.sum(), table.volume_ml.sum())


def bootstrap_mean(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean with a percentile bootstrap interval.

    Parameters
    ----------
    values : array of shape (n,)
        ``nan`` values are left out.
    groups : array of shape (n,), optional
        Groups that are resampled as a whole, such as subjects, since two scans of one person are
        not independent measurements. None: each value is its own group.
    seed, resamples, level
        Random seed, number of resamples and confidence level of the bootstrap.

    Returns
    -------
    (mean, low, high)

    Raises
    ------
    ValueError
        If no value is finite.
    """
    values = np.asarray(values, dtype=float)
    frame = pd.DataFrame({"value": values, "group": np.arange(len(values))})
    if groups is not None:
        frame["group"] = np.asarray(groups)
    if frame.group.isna().any():
        raise ValueError("a group is NaN: it is unknown what belongs together")
    frame = frame[np.isfinite(values)]
    if frame.empty:
        raise ValueError("no finite value to average")
    sums = frame.groupby("group").value.agg(["sum", "count"]).to_numpy()
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    totals = sums[drawn].sum(1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(frame.value.mean()), float(low), float(high)
