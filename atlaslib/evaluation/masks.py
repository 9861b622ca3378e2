"""Score masks that any program wrote, one row per scan as for a network of this library."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.data.volumes import Image, read_mask, read_parts
from atlaslib.evaluation.mask_scores import check_metrics, mask_scores
from atlaslib.evaluation.metrics import dice_of
from atlaslib.evaluation.scoring import VOXEL_ML
from atlaslib.files import DataError, expect, user_path


def evaluate_masks(
    folder: str | os.PathLike[str],
    cohort: Cohort,
    metrics: Iterable[str] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Compare a folder of predicted masks with the true masks of a cohort.

    Parameters
    ----------
    folder : path
        NIfTI files, one per scan, searched with all subfolders. A file belongs to the scan whose
        subject stands in its name, and the session too if the cohort has several of that subject:
        ``sub-r001s001_ses-1_pred.nii.gz``. Its values are 0 and one other, such as 1 or 255. There
        is a warning of files that belong to no scan.
    cohort : Cohort
        In MNI space. Scans without a true mask are left out.
    metrics : iterable of str
        Further columns, as in :func:`atlaslib.evaluation.mask_scores.mask_scores`.
    progress : bool

    Returns
    -------
    DataFrame
        One row per scan: subject, session, site, dice (NaN if both masks are empty, 0 if one is),
        volume_ml, predicted_ml, intersection_ml, and the columns of the metrics.

    Raises
    ------
    DataError
        If a scan has no mask in the folder, or several; if a mask is unreadable, not aligned with
        its T1, or has several values above 0, as probabilities do; if the cohort has no true masks.
    """
    expect("cohort", cohort, Cohort)
    names = [name for name in check_metrics(metrics) if name != "dice"]
    if not cohort.labelled:
        raise DataError(f"{cohort.root}: its scans have no lesion masks to compare with")
    files = _masks_of(user_path(folder), cohort)
    rows = []
    for scan in tqdm(cohort.labelled, disable=not progress, unit="scan"):
        t1, true = read_parts(scan)
        found = _binary(read_mask(files[scan.name], t1))
        volumes = [int(mask.sum()) for mask in (found & true, found, true)]
        both, predicted, actual = (voxels * VOXEL_ML for voxels in volumes)
        rows.append(
            {
                "subject": scan.subject,
                "session": scan.session,
                "site": scan.site,
                "dice": dice_of(*volumes),
                "volume_ml": actual,
                "predicted_ml": predicted,
                "intersection_ml": both,
                **mask_scores(found, true, names),
            }
        )
    return pd.DataFrame(rows)


def _binary(mask: Image) -> np.ndarray:
    """Where a mask is not 0; unlike some of ATLAS, one that is to be scored is not smoothed."""
    lesion = mask.voxels > 0
    values = np.unique(mask.voxels[lesion])
    if len(values) > 1:
        found = f"found {len(values)} others, from {values[0]:g} to {values[-1]:g}"
        text = f"expected a mask of 0 and one other value, {found}: threshold probabilities first"
        raise DataError(f"{mask.path}: {text}", "mask values")
    return lesion


def _masks_of(folder: Path, cohort: Cohort) -> dict[str, Path]:
    """The file of each scan with a true mask, by the scan's name."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", "missing")
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
    ]
    # with those whose true mask is hidden, lest their files pass for another session's
    sessions = Counter(scan.subject for scan in cohort)
    found: dict[str, Path] = {}
    missing = []
    for scan in cohort.labelled:
        parts = [scan.subject, *([scan.session] if sessions[scan.subject] > 1 else [])]
        own = [path for path in files if all(_has(path.name, part) for part in parts)]
        wanted = " and ".join(map(repr, parts))
        if len(own) > 1:
            text = f"expected one mask with {wanted} in its name, found {_listed(own)}"
            raise DataError(f"{folder}: {text}", "ambiguous")
        if own:
            found[scan.name] = own[0]
        else:
            missing.append(wanted)
    if missing:
        others = (
            f"; {len(missing)} of {len(cohort.labelled)} scans have none" if missing[1:] else ""
        )
        text = f"expected one mask with {missing[0]} in its name, found none{others}"
        raise DataError(f"{folder}: {text}", "missing")
    if unused := sorted({*files} - {*found.values()}):
        text = f"{len(unused)} of {len(files)} files belong to no scan with a true mask"
        warnings.warn(f"{folder}: {text}: {_listed(unused)}", stacklevel=3)
    return found


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", ..." if paths[3:] else "")


def _has(name: str, part: str) -> bool:
    """Whether a name contains a part that neither letters nor digits continue."""
    return bool(re.search(rf"(?<![0-9A-Za-z]){re.escape(part)}(?![0-9A-Za-z])", name))
