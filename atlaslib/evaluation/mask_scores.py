"""Scores of one mask against another: volume, surface and lesion by lesion.

Volume difference, lesion-wise F1 and lesion count are those of the ATLAS and ISLES challenges
(Hernandez Petzsche et al. 2022, doi:10.1038/s41597-022-01875-5), in which the Dice of two empty
masks is 1; here it is undefined. Distances are MONAI's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage

from atlaslib.evaluation.metrics import dice

#: What can be asked for, and the column that it gives.
METRICS = {
    "dice": "dice",
    "volume": "volume_difference_ml",
    "hd95": "hd95_mm",
    "assd": "assd_mm",
    "lesion_f1": "lesion_f1",
    "lesion_count": "lesion_count_difference",
}
_NEIGHBOURS = np.ones((3, 3, 3))  # of a voxel: 26, as in the challenges


def check_metrics(metrics: Iterable[str]) -> list[str]:
    """The names of metrics as a list; ValueError if one is unknown."""
    names = list(dict.fromkeys(metrics))
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"no metric {unknown[0]!a:.60}; choose from {', '.join(METRICS)}")
    return names


def mask_scores(
    prediction: ArrayLike,
    target: ArrayLike,
    metrics: Iterable[str] = tuple(METRICS),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, float]:
    """Compare two masks of the same shape.

    Parameters
    ----------
    prediction, target : (x, y, z) arrays
        Voxels above 0 count as lesion.
    metrics : iterable of {"dice", "volume", "hd95", "assd", "lesion_f1", "lesion_count"}
    spacing : three float
        Size of a voxel in mm.

    Returns
    -------
    dict
        In the order asked for:

        - dice: NaN if both masks are empty, 0 if one is.
        - volume_difference_ml: absolute.
        - hd95_mm, assd_mm: 95th percentile of the distances between the surfaces, the larger of
          the two directions; and their mean over both. NaN if either mask is empty.
        - lesion_f1: of connected components (26 neighbours). A true one is found if the prediction
          shares a voxel with it; a predicted one that shares none with the truth is a false alarm.
          1 if both masks are empty, 0 if one is.
        - lesion_count_difference: absolute, of the numbers of components.

    Raises
    ------
    ValueError
        If the shapes differ or a metric is unknown; if a distance is asked for without MONAI.
    """
    names = check_metrics(metrics)
    p, t = np.asarray(prediction) > 0, np.asarray(target) > 0
    if p.shape != t.shape or p.ndim != 3:
        raise ValueError(f"expected two masks of the same three axes, got {p.shape} and {t.shape}")
    if box := ndimage.find_objects((p | t).view(np.uint8)):  # a lesion fills little of a volume
        p, t = p[box[0]], t[box[0]]
    found = {}
    for name in names:
        if name == "dice":
            value = dice(p, t)
        elif name == "volume":
            value = abs(int(p.sum()) - int(t.sum())) * float(np.prod(spacing)) / 1000
        elif name == "lesion_f1":
            value = _lesion_f1(p, t)
        elif name == "lesion_count":
            value = float(abs(_components(p)[1] - _components(t)[1]))
        else:
            value = _distance(name, p, t, spacing)
        found[METRICS[name]] = value
    return found


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, structure=_NEIGHBOURS)


def _lesion_f1(prediction: np.ndarray, target: np.ndarray) -> float:
    both = prediction & target
    hits, counts = [], []
    for mask in (target, prediction):
        labels, count = _components(mask)
        hits.append(len(np.unique(labels[both])))
        counts.append(count)
    wrong = (counts[0] - hits[0]) + (counts[1] - hits[1])  # missed, and false alarms
    return hits[0] / (hits[0] + wrong / 2) if sum(counts) else 1.0


def _distance(
    name: str, prediction: np.ndarray, target: np.ndarray, spacing: tuple[float, float, float]
) -> float:
    try:
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
    except ImportError:
        raise ValueError(f"{name} needs MONAI: pip install monai") from None
    if not (prediction.any() and target.any()):
        return float("nan")
    first, second = (torch.from_numpy(mask[None, None]).float() for mask in (prediction, target))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # MONAI's own calls
        warnings.filterwarnings("ignore", category=FutureWarning)
        if name == "hd95":
            found = compute_hausdorff_distance(
                first, second, include_background=True, percentile=95, spacing=spacing
            )
        else:
            found = compute_average_surface_distance(
                first, second, include_background=True, symmetric=True, spacing=spacing
            )
    return float(found)
