"""What the 2018 starter code did to its data, re-enacted so that the book can audit it.

Nothing in the library trains on these: they exist to be measured (chapter 6). The code in
question is the TensorFlow starter of the course in which the paper was written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 95  # of the starter's JPEG files
TRAINING_SHARE = 0.3  # meant as the share of the development set; see slice_split


def jpeg_image(image: NDArray[Any], quality: int = QUALITY) -> NDArray[np.uint8]:
    """One slice as the starter stored it: stretched to 0..255 on its own, then through JPEG.

    The stretch uses the minimum and maximum of this slice alone, so that the same tissue gets
    different values in neighbouring slices.

    Parameters
    ----------
    image : array (rows, columns), any real dtype
    quality : int, default=95
        JPEG quality as Pillow understands it.

    Returns
    -------
    array (rows, columns), uint8
        What comes back when the file is read. A constant slice comes back as zeros.
    """
    low, high = float(np.min(image)), float(np.max(image))
    scale = 255.0 / (high - low) if high > low else 0.0
    stretched = np.rint((np.asarray(image, dtype=np.float64) - low) * scale).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(stretched).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as file:
        return np.asarray(file, dtype=np.uint8)


def jpeg_mask(masks: Sequence[NDArray[np.bool_]], quality: int = QUALITY) -> NDArray[np.float32]:
    """A slice's target as the starter read it: one JPEG per lesion, summed, clipped to 1.

    JPEG rings around sharp edges: pixels up to seven away from the lesion, inside the same 8 x 8
    block, become small positive numbers.

    Parameters
    ----------
    masks : sequence of bool arrays (rows, columns)
        One per lesion file of the scan.
    quality : int, default=95

    Returns
    -------
    array (rows, columns), float32 in 0..1
        Soft: ``> 0`` holds more pixels than the lesion does, ``> 0.5`` exactly the lesion.
    """
    if not masks:
        raise ValueError("jpeg_mask needs at least one mask, got none")
    total = sum(jpeg_image(mask, quality).astype(np.float32) / 255 for mask in masks)
    return np.minimum(total, 1).astype(np.float32)


def slice_split(
    slices: int, share: float = TRAINING_SHARE, inverted: bool = True, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The starter's split ``by_slice``: slices of all scans shuffled together, then cut.

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
        Our addition: the starter drew without a seed, so that no two runs shared a split.

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
