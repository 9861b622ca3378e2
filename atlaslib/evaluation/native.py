"""Scores of scans in native space, on the voxels on which the truth was drawn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort, Scan
from atlaslib.data.registration import from_mni, to_mni
from atlaslib.data.standardise import align, registered, registered_t1
from atlaslib.data.volumes import read_lesion, read_t1
from atlaslib.evaluation.inference import Member, load_members, volume_probability
from atlaslib.evaluation.metrics import dice_of
from atlaslib.evaluation.prediction import volume_ml
from atlaslib.evaluation.predictor import Networks
from atlaslib.files import DataError, expect, user_path

_SCORES = ["dice", "volume_ml", "predicted_ml", "intersection_ml", "similarity", "problem"]
NATIVE_COLUMNS = ["subject", "session", "site", *_SCORES]


def evaluate_native(
    run: Networks,
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
    run : Run, Predictor or list of them
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
    ensemble = load_members(run)
    expect("cohort", cohort, Cohort)
    folder = user_path(registered_folder) if str(registered_folder) else None
    rows = []
    for scan in tqdm(cohort.labelled, disable=not progress, unit="scan"):
        row = {"subject": scan.subject, "session": scan.session, "site": scan.site}
        try:
            rows.append(
                {**row, **_native_scores(ensemble, scan, folder, brain_only), "problem": ""}
            )
        except DataError as error:
            if error.kind == "not installed":
                raise
            rows.append({**row, "problem": str(error)})
    return pd.DataFrame(rows, columns=NATIVE_COLUMNS)


def _native_scores(
    ensemble: Sequence[Member], scan: Scan, folder: Path | None, brain_only: bool
) -> dict[str, float]:
    if folder is None:
        aligned = align(scan)
        voxels = to_mni(aligned.t1.voxels, aligned.t1.affine, aligned.found.affine)
        standard = dataclasses.replace(aligned.t1, voxels=voxels)
        reference = aligned.reference
        found, similarity = aligned.mask_affine, aligned.found.similarity
    else:
        about = registered(scan, folder)
        if about is None:
            raise DataError(f"{scan.t1}: not in {folder}; first: atlaslib register", "missing")
        standard = read_t1(registered_t1(scan, folder))
        reference = read_t1(scan.drawn_on or scan.t1, "native")
        found, similarity = about["MaskAffine"], about["Similarity"]
    true = read_lesion(scan, reference)
    probability = volume_probability(ensemble, standard, brain_only)
    marked = from_mni(probability, true.voxels.shape, true.affine, found) > 0.5
    both = marked & true.voxels
    volumes = [volume_ml(mask, true.affine) for mask in (both, marked, true.voxels)]
    return {
        "dice": dice_of(*(int(mask.sum()) for mask in (both, marked, true.voxels))),
        "intersection_ml": volumes[0],
        "predicted_ml": volumes[1],
        "volume_ml": volumes[2],
        "similarity": similarity,
    }
