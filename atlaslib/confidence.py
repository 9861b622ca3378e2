"""How far a model's probabilities and lesions can be trusted: calibration, and lesion by lesion."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from atlaslib.cohort import Cohort
from atlaslib.evaluation import VOXEL_ML, predictions
from atlaslib.lesions import SMALLEST
from atlaslib.runs import Run

BINS = 10


def calibration(run: Run, cohort: Cohort) -> pd.DataFrame:
    """What share of the voxels to which a model gives a probability is lesion.

    Returns
    -------
    DataFrame
        One row per tenth of the probability: low, high, voxels, predicted (the mean probability
        of these voxels), observed (the share of them that is lesion).
    """
    edges = np.linspace(0, 1, BINS + 1)
    sums = np.zeros((3, BINS))
    for _, logits, true in predictions(run, cohort):
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        # the last bin holds 1 itself
        place = np.minimum((p * BINS).astype(np.intp), BINS - 1).ravel()
        for row, weights in enumerate((None, p.ravel(), true.ravel())):
            sums[row] += np.bincount(place, weights, BINS)
    voxels = sums[0]
    with np.errstate(invalid="ignore"):
        means = sums[1:] / voxels
    columns = {"low": edges[:-1], "high": edges[1:], "voxels": voxels.astype(np.int64)}
    return pd.DataFrame(columns | {"predicted": means[0], "observed": means[1]})


def detection(run: Run, cohort: Cohort) -> pd.DataFrame:
    """Each connected piece of the true masks, and of the predicted ones.

    Returns
    -------
    DataFrame
        One row per piece of at least 50 voxels (corners touch): subject, session, of ("truth" or
        "prediction"), volume_ml, overlap (the share of its voxels that the other mask has, too).
        A lesion with an overlap of 0 is missed; a predicted piece with one of 0 is a false alarm.
    """
    rows = []
    for scan, logits, true in predictions(run, cohort):
        predicted = logits > 0
        for name, mask, other in (("truth", true, predicted), ("prediction", predicted, true)):
            pieces, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())
            shared = np.bincount(pieces.ravel(), other.ravel())
            rows += [
                {"subject": scan.subject, "session": scan.session, "of": name,
                 "volume_ml": size * VOXEL_ML, "overlap": both / size}
                for size, both in zip(sizes[1:], shared[1:], strict=True)
                if size >= SMALLEST
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=["subject", "session", "of", "volume_ml", "overlap"])
