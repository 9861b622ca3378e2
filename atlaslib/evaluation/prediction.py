"""The lesion mask of a T1 in any space, on the voxels of its own file.

A network sees a scan on the MNI grid. A T1 in native space is registered first. Then the
probabilities, not the mask, are interpolated on the way back, through exactly the inverse of the
way there, and cut off at one half on native voxels.

A mirrored head cannot be noticed: see :mod:`atlaslib.data.registration`.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from atlaslib.data.check import geometry_warnings
from atlaslib.data.cohort import Scan
from atlaslib.data.registration import (
    Registration,
    check_registration,
    fit_in_place,
    from_mni,
    register,
    space_of,
    to_mni,
)
from atlaslib.data.volumes import Image, read_t1
from atlaslib.evaluation.inference import Member, load_members, volume_probability
from atlaslib.evaluation.predictor import Networks
from atlaslib.files import user_path

# similarity below which a head on the MNI grid is said to be elsewhere than the template's: seven
# synthetic heads reach .50 to .74, three real ones .57 to .69, and moved by 10 mm .21 to .38
_MISPLACED = 0.4


@dataclass(frozen=True)
class Prediction:
    """The lesion mask of a T1, and how it was found.

    Attributes
    ----------
    t1 : Image
        In RAS orientation.
    lesion : (x, y, z) bool
        On the voxels of ``t1``.
    registration : Registration or None
        None for a T1 that is on the MNI grid already.
    """

    t1: Image
    lesion: NDArray[np.bool_]
    registration: Registration | None

    @property
    def volume_ml(self) -> float:
        """The lesion's volume, counted on the T1's own voxels."""
        return volume_ml(self.lesion, self.t1.affine)

    @property
    def mask(self) -> nib.Nifti1Image:
        """The mask, uint8 0 or 1, with the shape, orientation and affine of the T1's file."""
        way = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(self.t1.stored_affine)
        )
        voxels = nib.orientations.apply_orientation(self.lesion.astype(np.uint8), way)
        return nib.Nifti1Image(np.ascontiguousarray(voxels), self.t1.stored_affine)


def volume_ml(mask: NDArray[np.bool_], affine: NDArray[Any]) -> float:
    """The volume of a mask whose voxels have the size that an affine gives them, in mm."""
    return float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)


def segment(ensemble: Sequence[Member], image: Image, brain_only: bool = True) -> Prediction:
    """Segment a T1; as :func:`predict`, but nothing warns of a doubtful header.

    Parameters
    ----------
    ensemble : from :func:`atlaslib.evaluation.inference.load_members`, once for many scans
    image : Image
        Read with :func:`atlaslib.data.volumes.read_t1` as "native".
    brain_only : bool, default=True
    """
    if space_of(image) == "MNI":
        return Prediction(image, volume_probability(ensemble, image, brain_only) > 0.5, None)
    found = register(image)
    check_registration(found, str(image.path))
    standard = to_mni(image.voxels, image.affine, found.affine)
    seen = dataclasses.replace(image, voxels=standard)
    probability = volume_probability(ensemble, seen, brain_only)
    probability = from_mni(probability, image.voxels.shape, image.affine, found.affine)
    return Prediction(image, probability > 0.5, found)


def doubts(image: Image) -> list[str]:
    """What in a T1 may place its mask wrongly: its header, or a head away from the template's.

    The second takes a third of a second, and some more for the first scan.
    """
    space = space_of(image)
    found = [str(doubt) for doubt in geometry_warnings(image, space)]
    if space == "MNI" and (fit := fit_in_place(image).similarity) < _MISPLACED:
        text = "said to be in MNI space, but the head is not where the template's is"
        found.append(f"{image.path}: {text} (similarity {fit:.2f})")
    return found


def predict(
    run: Networks, t1: Scan | str | os.PathLike[str], brain_only: bool = True
) -> nib.Nifti1Image:
    """Segment a T1 in MNI space or in native space; warns of a doubtful header.

    A T1 that is not on the MNI grid is detected and registered first, which needs the
    extra ``[native]`` and takes 7 to 20 seconds of one processor.

    Parameters
    ----------
    run : Run, Predictor or list of them
        Of a list, an ensemble, the mask is where the mean of their probabilities is above one half.
    t1 : Scan, or the path of a NIfTI file of any orientation, voxel size and field of view
    brain_only : bool, default=True
        Mark nothing outside the MNI152 template's brain and 4 mm around it, since networks
        mistake things in the skull, the scalp and the eyes for lesions. False: the whole head.

    Returns
    -------
    nibabel.Nifti1Image
        The mask, uint8 0 or 1, with the shape, orientation and affine of the file.

    Raises
    ------
    DataError
        If the file is unreadable, the registration fails, the image is not T1-weighted, or
        antspyx is needed and not installed.
    ValueError
        If ``run`` is an empty list, or anything but runs and predictors; if one of several runs was
        split by slice.
    """
    ensemble = load_members(run)  # refused before anything is read
    image = read_t1(t1.t1 if isinstance(t1, Scan) else user_path(t1), "native")
    for doubt in geometry_warnings(image, space_of(image)):
        warnings.warn(str(doubt), stacklevel=2)
    return segment(ensemble, image, brain_only).mask
