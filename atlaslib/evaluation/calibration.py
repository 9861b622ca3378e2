"""Calibration of a model's probabilities, and detection of individual lesions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from atlaslib.data.cohort import Cohort
from atlaslib.evaluation.inference import is_lesion, predictions
from atlaslib.evaluation.lesions import SMALLEST
from atlaslib.evaluation.predictor import Trained
from atlaslib.evaluation.scoring import VOXEL_ML

BINS = 10


def calibration_table(run: Trained, cohort: Cohort) -> pd.DataFrame:
    """Compare the predicted probability of lesion with the observed share of lesion voxels.

    Returns
    -------
    DataFrame
        One row per probability bin of width 0.1: low, high, voxels, predicted (the mean
        probability in the bin), observed (the share of its voxels that are lesion).
    """
    edges = np.linspace(0, 1, BINS + 1)
    sums = np.zeros((3, BINS))
    for _, logits, true in predictions(run, cohort):
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        # the last bin includes a probability of exactly 1
        bins = np.minimum((p * BINS).astype(np.intp), BINS - 1).ravel()
        for row, weights in enumerate((None, p.ravel(), true.ravel())):
            sums[row] += np.bincount(bins, weights, BINS)
    voxels = sums[0]
    with np.errstate(invalid="ignore"):
        means = sums[1:] / voxels
    columns = {"low": edges[:-1], "high": edges[1:], "voxels": voxels.astype(np.int64)}
    return pd.DataFrame(columns | {"predicted": means[0], "observed": means[1]})


def detection_table(run: Trained, cohort: Cohort) -> pd.DataFrame:
    """List the connected components of the true and the predicted masks with their overlap.

    Returns
    -------
    DataFrame
        One row per 26-connected component of at least 50 voxels: subject, session, of ("truth" or
        "prediction"), volume_ml, overlap (the share of its voxels that are also in the other
        mask). A true lesion with overlap 0 was missed; a predicted one is a false alarm.
    """
    rows = []
    for scan, logits, true in predictions(run, cohort):
        predicted = is_lesion(logits)
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
    return pd.DataFrame(rows, columns=["subject", "session", "of", "volume_ml", "overlap"])
