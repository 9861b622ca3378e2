"""A cohort in native space, aligned scan by scan, and written as a cohort in MNI space."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort, Scan
from atlaslib.data.derivatives import (
    MNI_SPACE,
    derivative_path,
    describe,
    sidecar_path,
    write_derivative,
)
from atlaslib.data.metadata import read_json
from atlaslib.data.registration import (
    MNI_AFFINE,
    Registration,
    check_registration,
    check_within,
    register,
    register_within,
    to_mni,
)
from atlaslib.data.volumes import Image, read_lesion, read_t1
from atlaslib.files import DataError, atomic_write, file_digest, make_folder, read_bytes

TABLE = "registration.csv"
COLUMNS = ["subject", "session", "similarity", "contrast", "size", "problem"]
_T1 = f"space-{MNI_SPACE}_desc-affine_T1w"
_MASK = f"space-{MNI_SPACE}_desc-lesion_mask"


@dataclass(frozen=True)
class Alignment:
    """How a scan's images lie in MNI space."""

    t1: Image  # in native space
    found: Registration  # of the T1
    reference: Image  # the image whose voxels the masks have: the T1, or a T2w, ...
    mask_affine: NDArray[Any]  # (4, 4), mm in MNI space to mm in the space of the masks


def align(scan: Scan) -> Alignment:
    """Register a scan's T1, and with it the image that its masks were drawn on.

    Raises
    ------
    DataError
        If an image is unreadable or a registration fails.
    """
    t1 = read_t1(scan.t1, "native")
    found = register(t1)
    check_registration(found, str(scan.t1))
    if scan.drawn_on is None:
        return Alignment(t1, found, t1, found.affine)
    other = read_t1(scan.drawn_on, "native")
    within, fit = register_within(t1, other, found)
    check_within(fit, str(scan.drawn_on))
    return Alignment(t1, found, other, within @ found.affine)


def register_cohort(
    cohort: Cohort, out: Path, workers: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Align every scan of a cohort in native space, and write them as a cohort in MNI space.

    The folder is a derivative of BIDS that :func:`atlaslib.load_cohort` reads. Beside each image, a
    JSON file has its map to the scan that it was made from. A scan that is there already is not
    registered again; one that fails has a line in the table, and no image.

    Parameters
    ----------
    cohort : Cohort
    out : Path
    workers : int, optional
        Scans registered at once; by default, as many as there are processors.
    progress : bool

    Returns
    -------
    DataFrame
        One row per scan, also in ``registration.csv``: subject, session, similarity, contrast and
        size as in :class:`atlaslib.data.template.Registration`, problem ("" if there is none).

    Raises
    ------
    DataError
        If scans are in MNI space already, two would have the same name, `out` is among the scans or
        holds another dataset, or antspyx is missing.
    """
    import joblib  # slow to import, and only this function needs it

    root, place = cohort.root.resolve(), out.resolve()
    if place.is_relative_to(root) and "derivatives" not in place.relative_to(root).parts:
        text = 'in the folder of the scans: write to another one, or to its "derivatives"'
        raise DataError(f"{out}: {text}", "another dataset")
    for scan in cohort:
        if scan.space == "MNI":
            raise DataError(f"{scan.t1}: is in MNI space already", "MNI space")
    paths = [derivative_path(out, scan, _T1) for scan in cohort]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise DataError(f"{twice.name}: two scans would have this name", "same name")
    for path in paths:
        for other in sorted(path.parent.glob(f"[!.]*_{_T1}.nii.gz")):
            if other not in paths:
                text = "another T1 of this session was registered before: delete it first"
                raise DataError(f"{other}: {text}", "another T1")
    make_folder(out)
    describe(out, f"{cohort.source}, registered")
    if cohort.metadata is not None:
        _copy_table(cohort.metadata, out / cohort.metadata.name)
    jobs = (joblib.delayed(_register)(scan, out) for scan in cohort)
    pool = joblib.Parallel(n_jobs=workers or joblib.cpu_count(), return_as="generator")
    rows = list(tqdm(pool(jobs), total=len(cohort), unit="scan", disable=not progress))
    table = pd.DataFrame(rows, columns=COLUMNS)
    atomic_write(out / TABLE, lambda name: table.to_csv(name, index=False))
    return table


def _copy_table(table: Path, target: Path) -> None:
    """Copy the table of subjects; without it, the scans can be registered all the same."""
    try:
        content = read_bytes(table)
    except DataError as fault:
        warnings.warn(str(fault), stacklevel=3)
    else:
        atomic_write(target, lambda name: Path(name).write_bytes(content))


def _register(scan: Scan, out: Path) -> dict[str, Any]:
    """Register one scan and write its images, unless they are there; the row of the table."""
    row = {"subject": scan.subject, "session": scan.session, "problem": ""}
    try:
        about = registered(scan, out) or _write(scan, out)
    except Exception as error:  # one scan must not stop the others
        if isinstance(error, DataError) and error.kind == "not installed":
            raise
        return {**row, "problem": str(error) or type(error).__name__}
    return {**row, **{name.lower(): about[name] for name in ("Similarity", "Contrast", "Size")}}


def registered(scan: Scan, out: Path) -> dict[str, Any] | None:
    """What the JSON file of a registered T1 says; None if this scan has not been registered yet."""
    images = [derivative_path(out, scan, name) for name in ((_T1, _MASK) if scan.masks else (_T1,))]
    path = sidecar_path(images[0])
    if not all(each.exists() for each in (path, *images)):
        return None
    about = read_json(path)
    try:
        if about["SourceSHA256"] != _digests(scan):
            return None
        for name in ("Affine", "MaskAffine"):
            about[name] = np.array(about[name], dtype=float).reshape(4, 4)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error})", "damaged") from None
    return about


def _digests(scan: Scan) -> list[str]:
    return [file_digest(path) for path in scan.files]


def _write(scan: Scan, out: Path) -> dict[str, Any]:
    """Register a scan, write its T1 and its mask, and return what is said of them."""
    paths = [derivative_path(out, scan, name) for name in (_T1, _MASK)]
    for path in (sidecar_path(paths[0]), *paths):  # of other files: not left if this one fails
        path.unlink(missing_ok=True)
    aligned = align(scan)
    found = aligned.found
    source = {"Sources": [f"bids:raw:{scan.t1.name}"]}
    if scan.masks:
        lesion = read_lesion(scan, aligned.reference)
        mask = to_mni(lesion.voxels, lesion.affine, aligned.mask_affine) > 0.5
        image = nib.Nifti1Image(mask.astype(np.uint8), MNI_AFFINE)
        path = derivative_path(out, scan, _MASK)
        write_derivative(path, image, {"Type": "Lesion"})
    t1 = to_mni(aligned.t1.voxels, aligned.t1.affine, found.affine)
    about = {
        **source,
        "SourceSHA256": _digests(scan),
        "Affine": found.affine.tolist(),
        "MaskAffine": aligned.mask_affine.tolist(),
        "Similarity": round(found.similarity, 4),
        "Contrast": round(found.contrast, 4),
        "Size": round(found.size, 4),
    }
    write_derivative(
        derivative_path(out, scan, _T1), nib.Nifti1Image(t1.astype(np.float32), MNI_AFFINE), about
    )
    return about


def registered_t1(scan: Scan, out: Path) -> Path:
    """The file of a registered T1."""
    return derivative_path(out, scan, _T1)
