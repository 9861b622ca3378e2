"""The MNI152 template, and how well an image that is laid over it fits.

An image is compared at points of the template, blurred by 2 mm, by a measure that does not depend
on its contrast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.data.volumes import ORIGIN, Image, brain_mask

MNI_AFFINE = nib.affines.from_matvec(np.eye(3), ORIGIN)
AROUND = 4.0  # mm around the brain in which images are compared: within the skull, not the scalp
_DEEP = 5.0  # mm from the brain's surface: where a bright ball has no contrast
FINE = 2.0  # mm: voxels of the images that are compared
_BINS = 24  # of the template's intensities

Floats = NDArray[Any]


@dataclass(frozen=True)
class Registration:
    """Where the template lies in a scan, and how well it fits."""

    affine: Floats  # (4, 4), mm in MNI space (RAS) to mm in the scanner's space (RAS)
    similarity: float  # 0 to 1: mean correlation ratio within the brain and with what is around it
    contrast: float  # correlation of the intensities with the T1 template's, deep in the brain
    size: float  # of the head in proportion to the template's


def similarity(values: Floats, labels: NDArray[np.intp]) -> float:
    """The correlation ratio: the share of an image's variance that the template explains.

    The image may have any contrast: what counts is that it has about the same value wherever the
    template has the same intensity.

    Parameters
    ----------
    values : (n,)
        The image at points of the template.
    labels : (n,)
        The bin of the template's intensity at these points.

    Returns
    -------
    float
        0 to 1; 0 for an image without any contrast.
    """
    count = np.maximum(np.bincount(labels, minlength=_BINS), 1)
    means = np.bincount(labels, values, _BINS) / count
    total = ((values - values.mean()) ** 2).sum()
    return float(1 - ((values - means[labels]) ** 2).sum() / total) if total > 0 else 0.0


@cache
def template() -> Floats:
    """The MNI152 T1 template without its skull, (197, 233, 189) float32."""
    from nilearn.datasets import load_mni152_template

    return np.asarray(load_mni152_template(resolution=1).dataobj, np.float32)


@cache
def region(margin: float) -> NDArray[np.bool_]:
    """The template's brain, wider by a margin in mm, or narrower if it is negative."""
    if margin < 0:
        return ndimage.distance_transform_edt(brain_mask()) > -margin
    return ndimage.distance_transform_edt(~brain_mask()) <= margin


@cache
def points(step: int, margin: float) -> tuple[Floats, Any, Floats]:
    """Points of a region of the template every `step` mm: place in mm (3, n), bin, intensity."""
    index = np.argwhere(region(margin)[::step, ::step, ::step]) * step
    values = ndimage.gaussian_filter(template(), 2.0)[tuple(index.T)]
    return nib.affines.apply_affine(MNI_AFFINE, index).T, _bins(values), values


def _bins(values: Floats) -> NDArray[np.intp]:
    """The bin of each intensity; air is in the lowest, tissue is spread evenly over all."""
    bright = values[values > 0.02 * values.max()]
    return np.searchsorted(np.quantile(bright, np.linspace(0, 1, _BINS)[1:-1]), values)


def values_at(voxels: Floats, affine: Floats, found: Floats, places: Floats) -> Floats:
    """An image at places of the template."""
    index = np.linalg.inv(affine) @ found
    at = index[:3, :3] @ places + index[:3, 3:]
    return ndimage.map_coordinates(voxels, at, order=1, prefilter=False)


def described(found: Floats, voxels: Floats, affine: Floats) -> Registration:
    """How good a registration is, at 2 mm of blur, so that tissue counts more than noise."""
    smooth = ndimage.gaussian_filter(voxels, 1.0)

    def judged(margin: float, judge: Callable[[Floats, Any, Floats], float]) -> float:
        places, labels, intensities = points(3, margin)
        values = values_at(smooth, affine, found, places)
        return _of_better_half(places, judge, values, labels, intensities)

    ratios = [
        judged(margin, lambda values, labels, _: similarity(values, labels))
        for margin in (AROUND, 0)
    ]
    contrast = judged(-_DEEP, lambda values, _, intensities: _correlation(values, intensities))
    size = np.cbrt(abs(np.linalg.det(found[:3, :3])))
    return Registration(found, float(np.mean(ratios)), contrast, float(size))


def agreement(
    one: tuple[Floats, Floats], found: Floats, other: tuple[Floats, Floats], chain: Floats
) -> float:
    """How well two images of one person fit each other: a similarity, as of a registration.

    Parameters
    ----------
    one, other : ((x, y, z), (4, 4))
        Voxels and affine.
    found, chain : (4, 4)
        Mm in MNI space to mm in the space of `one`, and of `other`.

    Returns
    -------
    float
        0 to 1: ``Registration.similarity`` of `other`, with `one` in place of the template.
    """
    ratios = []
    for margin in (AROUND, 0):
        places, _, _ = points(3, margin)
        first, second = (
            values_at(ndimage.gaussian_filter(voxels, 1.0), affine, where, places)
            for (voxels, affine), where in ((one, found), (other, chain))
        )
        ratios.append(_of_better_half(places, similarity, second, _bins(first)))
    return float(np.mean(ratios))


def _of_better_half(places: Floats, judge: Callable[..., float], *values: Floats) -> float:
    """Judge left and right apart: a large lesion leaves the other half as it is."""
    return max(judge(*(each[half] for each in values)) for half in (places[0] < 0, places[0] > 0))


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def clipped_and_resized(image: Image, size: float) -> tuple[Floats, Floats]:
    """:func:`resized` of an image without its darkest and brightest voxels, from 0."""
    low, high = np.percentile(image.voxels, [1, 99.5])
    clipped = np.clip(image.voxels.astype(np.float32), low, max(high, low + 1e-6)) - low
    return resized(clipped, image.affine, size)


def resized(voxels: Floats, affine: Floats, size: float) -> tuple[Floats, Floats]:
    """An image at voxels of `size` mm along its own axes, and its affine."""
    zooms = nib.affines.voxel_sizes(affine)
    smooth = ndimage.gaussian_filter(voxels, np.where(size > zooms, 0.5 * size / zooms, 0))
    shape = np.floor((np.array(voxels.shape) - 1) * zooms / size).astype(int) + 1
    steps = np.diag([*(size / zooms), 1])
    return ndimage.affine_transform(smooth, steps, output_shape=tuple(shape), order=1), (
        affine @ steps
    )
