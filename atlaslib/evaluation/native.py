"""Segment T1s in the scanner's own space: registered, segmented, and the mask brought back.

The network sees the scan on the MNI grid. Its probabilities, not its mask, are interpolated on the
way back, through exactly the inverse of the way there, and cut off at one half on native voxels.
A mirrored head cannot be noticed: see :mod:`atlaslib.data.registration`.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from atlaslib.data.check import geometry_warnings
from atlaslib.data.cohort import Cohort, Scan
from atlaslib.data.registration import (
    SIMILARITY_OTHER,
    Registration,
    check_registration,
    fit_in_place,
    from_mni,
    register,
    space_of,
    to_mni,
)
from atlaslib.data.slices import normalise, to_slices, to_volume
from atlaslib.data.standardise import align, registered, registered_t1
from atlaslib.data.volumes import Image, read_lesion, read_t1
from atlaslib.evaluation.inference import slice_logits
from atlaslib.evaluation.metrics import dice_of
from atlaslib.evaluation.predictor import Predictor, Trained
from atlaslib.files import DataError, expect, user_path
from atlaslib.models.device import best_device, fast_layout
from atlaslib.runs import Run

_SCORES = ["dice", "volume_ml", "predicted_ml", "intersection_ml", "similarity", "problem"]
NATIVE_COLUMNS = ["subject", "session", "site", *_SCORES]


@dataclass(frozen=True)
class NativePrediction:
    """The lesion mask of a T1 in any space, and how it was found."""

    t1: Image  # in RAS orientation
    lesion: NDArray[np.bool_]  # on the voxels of ``t1``
    volume_ml: float
    registration: Registration | None  # None for a T1 that is on the MNI grid already

    @property
    def mask(self) -> nib.Nifti1Image:
        """The mask, uint8 0 or 1, with the shape, orientation and affine of the T1's file."""
        way = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(self.t1.stored_affine)
        )
        voxels = nib.orientations.apply_orientation(self.lesion.astype(np.uint8), way)
        return nib.Nifti1Image(np.ascontiguousarray(voxels), self.t1.stored_affine)


def predict_native(
    run: Trained, t1: Scan | str | os.PathLike[str], brain_only: bool = True
) -> NativePrediction:
    """Segment a T1 in native space, or on the MNI grid: which of the two is noticed.

    Warns of a header that may place the head wrongly, and of a head on the MNI grid that is not
    where the template's is.

    Parameters
    ----------
    run : Run or Predictor
    t1 : Scan, or the path of a NIfTI file of any orientation, voxel size and field of view
    brain_only : bool, default=True
        As in :func:`atlaslib.predict`.

    Returns
    -------
    NativePrediction

    Raises
    ------
    DataError
        If the file is unreadable, the registration fails, the image is not T1-weighted, or
        antspyx is needed and not installed.
    """
    expect("run", run, Run, Predictor)
    path = t1.t1 if isinstance(t1, Scan) else user_path(t1)
    image = read_t1(path, "native")
    space = space_of(image)
    for doubt in geometry_warnings(image, space):
        warnings.warn(str(doubt), stacklevel=2)
    if space == "MNI":
        found = None
        if (fit := fit_in_place(image).similarity) < SIMILARITY_OTHER:
            text = "said to be in MNI space, but the head is not where the template's is"
            warnings.warn(f"{path}: {text} (similarity {fit:.2f})", stacklevel=2)
        probability = _probability(run, image.voxels, path, brain_only)
    else:
        found = register(image)
        check_registration(found, str(path))
        standard = to_mni(image.voxels, image.affine, found.affine)
        probability = _probability(run, standard, path, brain_only)
        probability = from_mni(probability, image.voxels.shape, image.affine, found.affine)
    lesion = probability > 0.5
    return NativePrediction(image, lesion, _millilitres(lesion, image.affine), found)


def _millilitres(mask: NDArray[np.bool_], affine: NDArray[Any]) -> float:
    return float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)


def _probability(
    run: Trained, voxels: NDArray[Any], path: Path, brain_only: bool
) -> NDArray[np.float32]:
    """The probability of lesion on the MNI grid, (197, 233, 189)."""
    try:
        levels = normalise(voxels)
    except DataError as error:
        raise DataError(f"{path}: {error}", error.kind) from None
    device = best_device()
    images = torch.from_numpy(np.ascontiguousarray(to_slices(levels))).to(device)
    model = fast_layout(run.model(), device)
    logits = slice_logits(model, images, run.recipe, brain_only=brain_only)
    return to_volume(logits.sigmoid().cpu().numpy())


def evaluate_native(
    run: Trained,
    cohort: Cohort,
    registered_folder: str | os.PathLike[str] = "",
    progress: bool = True,
    brain_only: bool = True,
) -> pd.DataFrame:
    """Segment every labelled scan of a cohort in native space, and score it on native voxels.

    They are the voxels on which the truth was drawn: those of the T1, or of another image of the
    person (``Scan.drawn_on``), to which the probabilities are then brought in one step.

    Parameters
    ----------
    run : Run or Predictor
    cohort : Cohort
    registered_folder : path
        Where :func:`atlaslib.data.standardise.register_cohort` has put this cohort. Default: the
        scans are registered here.
    progress : bool
    brain_only : bool, default=True

    Returns
    -------
    DataFrame
        One row per scan: subject, session, site, dice, volume_ml, predicted_ml, intersection_ml,
        similarity (of the registration), problem. A scan that could not be registered has no
        scores, and the reason in ``problem``.
    """
    expect("run", run, Run, Predictor)
    expect("cohort", cohort, Cohort)
    folder = user_path(registered_folder) if str(registered_folder) else None
    rows = []
    for scan in tqdm(cohort.labelled, disable=not progress, unit="scan"):
        row = {"subject": scan.subject, "session": scan.session, "site": scan.site}
        try:
            rows.append({**row, **_native_scores(run, scan, folder, brain_only), "problem": ""})
        except DataError as error:
            rows.append({**row, "problem": str(error)})
    return pd.DataFrame(rows, columns=NATIVE_COLUMNS)


def _native_scores(
    run: Trained, scan: Scan, folder: Path | None, brain_only: bool
) -> dict[str, float]:
    if folder is None:
        aligned = align(scan)
        standard = to_mni(aligned.t1.voxels, aligned.t1.affine, aligned.found.affine)
        found, similarity = aligned.mask_affine, aligned.found.similarity
    else:
        about = registered(scan, folder)
        if about is None:
            raise DataError(f"{scan.t1}: not in {folder}; first: atlaslib register", "missing")
        standard = read_t1(registered_t1(scan, folder)).voxels
        found, similarity = about["MaskAffine"], about["Similarity"]
    true = read_lesion(scan)
    probability = _probability(run, standard, scan.t1, brain_only)
    marked = from_mni(probability, true.voxels.shape, true.affine, found) > 0.5
    both = marked & true.voxels
    volumes = [_millilitres(mask, true.affine) for mask in (both, marked, true.voxels)]
    return {
        "dice": dice_of(*(int(mask.sum()) for mask in (both, marked, true.voxels))),
        "intersection_ml": volumes[0],
        "predicted_ml": volumes[1],
        "volume_ml": volumes[2],
        "similarity": similarity,
    }
