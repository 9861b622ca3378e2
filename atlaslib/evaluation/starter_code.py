"""The 2018 starter code's JPEG files, split and Dice, reimplemented for the book to audit.

Nothing in the library trains on these: they exist only to be measured (chapter 6). The starter
code is the TensorFlow code of the course in which the paper was written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from atlaslib.data.cohort import Cohort
from atlaslib.evaluation.inference import is_lesion, predictions
from atlaslib.evaluation.metrics import dice_per_slice
from atlaslib.evaluation.predictor import Networks

QUALITY = 95  # of the starter code's JPEG files
TRAINING_SHARE = 0.3  # meant as the share of the development set; see slice_split


def jpeg_image(image: NDArray[Any], quality: int = QUALITY) -> NDArray[np.uint8]:
    """One slice as the starter code stored it: stretched to 0..255, then compressed as JPEG.

    The stretch uses the minimum and maximum of this slice alone, so the same tissue gets different
    values in neighbouring slices.

    Parameters
    ----------
    image : array (rows, columns), any real dtype
    quality : int, default=95
        JPEG quality as Pillow understands it.

    Returns
    -------
    array (rows, columns), uint8
        The pixels read back from the file. A constant slice comes back as zeros.
    """
    low, high = float(np.min(image)), float(np.max(image))
    scale = 255.0 / (high - low) if high > low else 0.0
    stretched = np.rint((np.asarray(image, dtype=np.float64) - low) * scale).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(stretched).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as file:
        return np.asarray(file, dtype=np.uint8)


def jpeg_mask(masks: Sequence[NDArray[np.bool_]], quality: int = QUALITY) -> NDArray[np.float32]:
    """A slice's target as the starter code read it: one JPEG per lesion, summed, clipped to 1.

    JPEG rings around sharp edges: up to seven pixels away from the lesion, within the same 8 x 8
    block, pixels get small positive values.

    Parameters
    ----------
    masks : sequence of bool arrays (rows, columns)
        One per lesion file of the scan.
    quality : int, default=95

    Returns
    -------
    array (rows, columns), float32 in 0..1
        A soft mask: ``> 0`` covers more pixels than the lesion, ``> 0.5`` exactly the lesion.
    """
    if not masks:
        raise ValueError("jpeg_mask needs at least one mask, got none")
    total = sum(jpeg_image(mask, quality).astype(np.float32) / 255 for mask in masks)
    return np.minimum(total, 1).astype(np.float32)


def slice_split(
    slices: int, share: float = TRAINING_SHARE, inverted: bool = True, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The starter code's split ``by_slice``: slices of all scans shuffled together, then cut.

    Parameters
    ----------
    slices : int
        Number of slices in the data set.
    share : float, default=0.3
        floor(share * slices) slices are drawn. They were meant to be the development set.
    inverted : bool, default=True
        True: the drawn slices become the training set, as in the code since 28 April 2018.
        False: they become the development set, as the code's own comment says.
    seed : int
        Our addition: the starter code drew without a seed, so no two runs shared a split.

    Returns
    -------
    (train, development)
        Two sorted arrays of indices, disjoint, together all slices.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    order = np.random.default_rng(seed).permutation(slices)
    cut = int(share * slices)
    drawn, rest = np.sort(order[:cut]), np.sort(order[cut:])
    return (drawn, rest) if inverted else (rest, drawn)


def dice_original(prediction: ArrayLike, soft_target: ArrayLike, count: int = 100) -> float:
    """Dice as the 2018 code computed it: every non-zero pixel of a JPEG mask counts as lesion.

    Parameters
    ----------
    prediction : array of shape (slices, rows, columns)
        Voxels above 0 count as lesion.
    soft_target : array of the same shape, float
        The masks after JPEG compression, in 0..1, with the codec's ringing.
    count : int
        How many slices are averaged: the first ones, in dataset order, for which prediction and
        target are not both empty. 100 in the training log, 1000 in the code's evaluation mode.

    Returns
    -------
    float
    """
    values = dice_per_slice(prediction, soft_target)
    counted = values[np.isfinite(values)][:count]
    return float(counted.mean()) if counted.size else float("nan")


def original_scores(run: Networks, cohort: Cohort) -> pd.DataFrame:
    """Score a run's masks with the Dice of 2018, against targets that went through JPEG.

    Returns
    -------
    DataFrame
        One row per scan: subject, session, dice_original, and perfect_original, the score of a
        mask without any error. Both are means over the slices for which prediction and target are
        not both empty. In 2018 every lesion had a JPEG of its own; here their union has one.
    """
    rows = []
    for scan, logits, true in predictions(run, cohort):
        soft = np.zeros(true.shape, np.float32)
        for z in np.flatnonzero(true.any((1, 2))):
            soft[z] = jpeg_mask([true[z]])
        scores = [dice_original(mask, soft, len(soft)) for mask in (is_lesion(logits), true)]
        names = {"subject": scan.subject, "session": scan.session}
        rows.append(names | {"dice_original": scores[0], "perfect_original": scores[1]})
    return pd.DataFrame(rows)
