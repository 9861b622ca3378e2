"""Calibration of a model's probabilities, and detection of individual lesions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage, special

from atlaslib.data.cohort import Cohort, Scan
from atlaslib.evaluation.inference import is_lesion, predictions
from atlaslib.evaluation.lesions import SMALLEST
from atlaslib.evaluation.predictor import Networks
from atlaslib.evaluation.scoring import VOXEL_ML

BINS = 10


def calibration_and_detection(run: Networks, cohort: Cohort) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables from segmenting every scan once.

    Returns
    -------
    calibration : DataFrame
        How well predicted probabilities match the observed share of lesion. One row per bin of
        width 0.1: low, high, voxels, predicted (the mean probability in the bin), observed (the
        share of its voxels that are lesion).
    detection : DataFrame
        The 26-connected components of at least 50 voxels of the true and the predicted masks:
        subject, session, of ("truth" or "prediction"), volume_ml, overlap (the share of its voxels
        that are also in the other mask). A true lesion with overlap 0 was missed; a predicted one
        is a false alarm.
    """
    sums, rows = np.zeros((3, BINS)), []
    for scan, logits, true in predictions(run, cohort):
        sums += _bin_sums(logits, true)
        rows += _components(scan, is_lesion(logits), true)
    edges, voxels = np.linspace(0, 1, BINS + 1), sums[0]
    with np.errstate(invalid="ignore"):
        means = sums[1:] / voxels
    columns = {"low": edges[:-1], "high": edges[1:], "voxels": voxels.astype(np.int64)}
    calibration = pd.DataFrame(columns | {"predicted": means[0], "observed": means[1]})
    names = ["subject", "session", "of", "volume_ml", "overlap"]
    return calibration, pd.DataFrame(rows, columns=names)


def _bin_sums(logits: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Of each bin of probability: voxels, sum of probabilities, lesion voxels; (3, BINS)."""
    p = special.expit(logits.astype(np.float64))
    # the last bin includes a probability of exactly 1
    bins = np.minimum((p * BINS).astype(np.intp), BINS - 1).ravel()
    return np.stack(
        [np.bincount(bins, weights, BINS) for weights in (None, p.ravel(), true.ravel())]
    )


def _components(scan: Scan, predicted: np.ndarray, true: np.ndarray) -> list[dict[str, object]]:
    """The rows of a scan in the table of components."""
    rows: list[dict[str, object]] = []
    for name, mask, other in (("truth", true, predicted), ("prediction", predicted, true)):
        labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())
        shared = np.bincount(labels.ravel(), other.ravel())
        rows += [
            {"subject": scan.subject, "session": scan.session, "of": name,
             "volume_ml": size * VOXEL_ML, "overlap": both / size}
            for size, both in zip(sizes[1:], shared[1:], strict=True)
            if size >= SMALLEST
        ]  # fmt: skip
    return rows
