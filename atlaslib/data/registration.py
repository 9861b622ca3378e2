"""Moving a T1 of any orientation, voxel size and field of view to the MNI grid, and masks back.

A registration is one affine map, as in ATLAS R1.x, from millimetres in MNI space to millimetres in
the scanner's own space. Images are interpolated through it once; a mask comes back through exactly
its inverse.

**Nobody can notice a mirrored head.** Left and right are what the file's header says they are: a
brain is too symmetric for an image to contradict it, so a wrong header gives a mask on the wrong
side, with a similarity as high as any. Only a header without any orientation is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from atlaslib.data.head_search import brain_centre, import_ants, place_map, refined, search
from atlaslib.data.template import (
    FINE,
    MNI_AFFINE,
    Floats,
    Registration,
    agreement,
    clipped_and_resized,
    described,
)
from atlaslib.data.volumes import GRID, Image, on_grid
from atlaslib.files import DataError

# at least; see :func:`check_registration`
SIMILARITY = 0.45
WITHIN = 0.4  # of two images of one person; see :func:`check_within`
CONTRAST = 0.35  # of a T1
SIZE = (0.72, 1.05)  # of the head in proportion to the template, as the mean of three directions
_COARSE = 4.0  # mm: voxels in the search
_SMALLER = 0.85  # of the size that the search has found
_AIR, _OF_AIR = -500.0, 0.05  # below this, no MRI has this share of its voxels; a CT has its air


def space_of(image: Image) -> str:
    """ "MNI" if an image has the shape and voxels of the MNI grid, else "native".

    Programs lose the origin, so another one in the header is only doubtful.
    """
    return "MNI" if on_grid(image) else "native"


def register(image: Image) -> Registration:
    """Find a head in an image and align it with the MNI152 template.

    A coarse search looks for the brain from 270 starts: around the centre of the head, below its
    top and at the header's origin, tilted and scaled. The best are optimised one by one at 4 mm;
    ANTs then refines the best result at 2 mm twice: from itself and from a smaller copy of it,
    since a scalp looks much like the edge of a larger brain. All compare images only in the
    template's brain and 4 mm around it, so that neither scalp, neck and face nor their absence
    matters, and by measures that do not depend on the contrast. Takes 7 to 20 seconds of one
    processor.

    Parameters
    ----------
    image : Image
        From :func:`atlaslib.data.volumes.read_t1` in native space. With or without a skull.

    Returns
    -------
    Registration
        The best that was found, good or not: see :func:`check_registration`.

    Raises
    ------
    DataError
        If the header has no orientation, the image is a CT in Hounsfield units, or antspyx is not
        installed.
    """
    import_ants(image.path)
    if not image.oriented:
        text = "the header has no orientation: left and right cannot be told apart"
        raise DataError(f"{image.path}: {text}", "orientation")
    if np.mean(image.voxels < _AIR) > _OF_AIR:
        text = "a CT in Hounsfield units, by its many voxels of air; a T1 is needed"
        raise DataError(f"{image.path}: {text}", "not a T1")
    coarse, fine = (clipped_and_resized(image, size) for size in (_COARSE, FINE))
    best = search(*coarse)
    # the scalp looks much like the edge of a larger brain: so once more from a smaller one
    smaller = best @ place_map(np.array([*brain_centre(), 0, 0, 0, np.log(_SMALLER)]))
    found = [best, *(refined(start, *fine) for start in (best, smaller))]
    return max((described(affine, *fine) for affine in found), key=lambda one: one.similarity)


def register_within(image: Image, other: Image, found: Registration) -> tuple[Floats, float]:
    """Align another image of the same person, of any contrast, rigidly with a registered one.

    Starts are the two headers, and where the other image is if it is registered by itself.

    Parameters
    ----------
    image : Image
        A T1, say.
    other : Image
        A T2w, perhaps of another session.
    found : Registration
        Of `image`.

    Returns
    -------
    (4, 4) float
        Mm in the space of `image` to mm in that of `other`.
    float
        0 to 1: how well the two images fit each other; see :func:`check_within`.

    Raises
    ------
    DataError
        As :func:`register`.
    """
    apart = register(other).affine @ np.linalg.inv(found.affine)
    rotation, _, turned = np.linalg.svd(apart[:3, :3])
    linear = rotation @ turned
    centre = nib.affines.apply_affine(found.affine, brain_centre())
    shift = nib.affines.apply_affine(apart, centre) - linear @ centre
    fixed, moving = (clipped_and_resized(one, FINE) for one in (image, other))
    maps = [
        refined(start, *moving, fixed, "Rigid")
        for start in (np.eye(4), nib.affines.from_matvec(linear, shift))
    ]
    fits = [agreement(fixed, found.affine, moving, rigid @ found.affine) for rigid in maps]
    best = int(np.argmax(fits))
    return maps[best], fits[best]


def fit_in_place(image: Image) -> Registration:
    """How well an image that is said to be in MNI space fits the template as it is."""
    return described(np.eye(4), *clipped_and_resized(image, FINE))


def check_registration(found: Registration, name: str) -> None:
    """Raise a one-line DataError unless a registration can be trusted.

    **The thresholds** were chosen on synthetic people whose anatomy, like a real person's, differs
    from the template's by several mm, with a look at three real heads. They were then judged by 40
    other people (``data/results/registration.csv``, ``benchmarks/registration.py``): 39 were
    accepted, of which none was off by more than 4 mm; so were the real heads. When these maps were
    shifted by 10 mm or rotated by 20 degrees, none was accepted; scaled by 15 %, one of 92. **What
    is wrong by 5 mm or 10 degrees is mostly not refused**, and shows only in a picture
    (:func:`atlaslib.figures.native.plot_outlines`).

    Nothing here tells a CT from a T1, since fluid is dark in both: :func:`register` refuses a CT by
    its Hounsfield units, and one that is stored in other units may pass.

    The size has limits for headers with wrong voxel sizes: heads had .80 to 1.00 of the template's.

    Parameters
    ----------
    found : Registration
    name : str
        Of the image, for the message.

    Raises
    ------
    DataError
        If the similarity is below ``SIMILARITY``, the size of the head beyond ``SIZE``, or the
        contrast below ``CONTRAST``, which white matter brighter than grey exceeds.
    """
    if found.similarity < SIMILARITY:
        text = f"similarity {found.similarity:.2f}, at least {SIMILARITY} is needed"
        raise DataError(f"{name}: registration failed: {text}", "registration")
    if not SIZE[0] <= found.size <= SIZE[1]:
        text = (
            f"the head is {found.size:.2f} times the template's size, expected {SIZE[0]} to "
            f"{SIZE[1]}: are the header's voxel sizes right?"
        )
        raise DataError(f"{name}: registration failed: {text}", "registration")
    if found.contrast < CONTRAST:
        text = f"correlation with the T1 template {found.contrast:.2f}, at least {CONTRAST} needed"
        raise DataError(f"{name}: not a T1-weighted image of a brain: {text}", "contrast")


def check_within(fit: float, name: str) -> None:
    """Raise a one-line DataError unless another image of a registered person can be trusted.

    In the same trial, T2s were imitated for eight people, with noise of their own: all were
    accepted, with a similarity of .61 to .94 and an error below .1 mm. Moved by 10 mm, seven were
    refused; turned by 20 degrees, all. Real images may be less alike, so the threshold is lower.

    Parameters
    ----------
    fit : float
        From :func:`register_within`.
    name : str
        Of the other image, for the message.

    Raises
    ------
    DataError
        If the two images are less similar than ``WITHIN``.
    """
    if fit < WITHIN:
        text = f"similarity {fit:.2f} to the person's T1, at least {WITHIN} is needed"
        raise DataError(f"{name}: registration failed: {text}", "registration")


def to_mni(voxels: Floats, affine: Floats, found: Floats) -> Floats:
    """An image on the MNI grid, linearly interpolated, 0 outside its field of view.

    Parameters
    ----------
    voxels : (x, y, z)
    affine : (4, 4)
        Of the image: voxel indices to mm.
    found : (4, 4)
        Mm in MNI space to mm in the image's space: ``Registration.affine``, or a product of
        several maps.

    Returns
    -------
    (197, 233, 189) float32
    """
    return _resampled(voxels, np.linalg.inv(affine) @ found @ MNI_AFFINE, GRID)


def from_mni(
    volume: Floats, shape: Sequence[int], affine: Floats, found: Floats, outside: float = 0.0
) -> Floats:
    """A volume on the MNI grid, brought to the voxels of an image by the inverse of `found`.

    Parameters
    ----------
    volume : (197, 233, 189)
        Probabilities, say: a mask that is interpolated must be cut off at one half.
    shape, affine
        Of the image.
    found : (4, 4)
        As for :func:`to_mni`.
    outside : float
        The value beyond the MNI grid.

    Returns
    -------
    (x, y, z) float32
    """
    back = np.linalg.inv(MNI_AFFINE) @ np.linalg.inv(found) @ affine
    return _resampled(volume, back, shape, outside)


def _resampled(voxels: Floats, index: Floats, shape: Sequence[int], outside: float = 0) -> Floats:
    """`index` maps the indices of the result to those of `voxels`."""
    return ndimage.affine_transform(
        np.asarray(voxels, np.float32), index, output_shape=tuple(shape), order=1, cval=outside
    )
