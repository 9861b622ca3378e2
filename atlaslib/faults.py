"""Every fault of a data folder in one pass: what the library would stumble over, and more."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from atlaslib.cohort import Cohort, DataError, Scan
from atlaslib.releases import Survey, survey
from atlaslib.slices import normalise
from atlaslib.volumes import HALF_A_VOXEL, ORIGIN, Image, brain_mask, read_mask, read_t1

OUTSIDE = 0.5  # share of a mask's voxels outside of the brain from which it is worth a look
COVERED = 1 / 3  # share of the brain that a mask covers, likewise; R2.0's largest takes a quarter
_LEAST = 3  # subjects with lesion: one to train on, one to validate, one to test
COLUMNS = ["kind", "blocks", "message"]


def check(root: str | os.PathLike[str], progress: bool = True) -> tuple[Survey, pd.DataFrame]:
    """Look at every file of a folder of ATLAS, on all processors, without stopping at a fault.

    Parameters
    ----------
    root : path
        As for :func:`atlaslib.load_cohort`.
    progress : bool

    Returns
    -------
    Survey
        The release and the scans that were found.
    DataFrame
        One row per fault, those that block first: ``kind``, in a word or two; ``blocks``, True
        if training cannot start before it is mended; ``message``, the line that the rest of the
        library raises as :class:`atlaslib.DataError` when it meets the fault.

    Raises
    ------
    DataError
        If there is no such folder, or nothing of ATLAS in it.
    """
    found = survey(root)
    faults = [*found.faults, *_too_few(found), *_doubts_about_metadata(found)]
    marked: set[str] = set()  # subjects with lesion
    names: dict[str, Path] = {}  # of voxel data, by its digest
    brain_mask()  # once, before the threads ask for it together
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=len(found.scans), desc="check", unit="scan", disable=not progress)
        with bar:
            looked_at = pool.map(_faults_of, found.scans)
            for scan, (own, digests) in zip(found.scans, looked_at, strict=True):
                faults += own
                marked |= {scan.subject for _, path in digests if path in scan.masks}
                faults += _repeated(digests, names)
                bar.update()
    if len(marked) < _LEAST and any(fault.kind == "empty mask" for fault in faults):
        text = f"masks of {len(marked)} subjects mark a lesion; training needs {_LEAST}"
        faults.append(DataError(f"{found.root}: {text}", "empty masks"))
    rows = [(fault.kind, fault.blocks, str(fault)) for fault in faults]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"blocks": bool})
    return found, table.sort_values("blocks", ascending=False, kind="stable", ignore_index=True)


def _too_few(found: Survey) -> Iterator[DataError]:
    native = [scan for scan in found.scans if scan.space != "MNI"]
    if native:
        text = f"{len(native)} scans in native space; training needs the standard-space release"
        yield DataError(f"{found.root}: {text}", "native space")
    subjects = {scan.subject for scan in found.scans if scan.masks}
    if len(subjects) < _LEAST:
        text = f"training needs masks of at least {_LEAST} subjects, found {len(subjects)}"
        yield DataError(f"{found.root}: {text}", "too few")


def _doubts_about_metadata(found: Survey) -> Iterator[DataError]:
    if found.metadata is None:
        return
    cohort = Cohort(found.root, tuple(found.scans), found.release, found.metadata)
    try:
        alone = dataclasses.replace(cohort, metadata=None).table()
        joined = len(cohort.table().columns) > len(alone.columns)
    except DataError as error:
        yield DataError(str(error), error.kind, blocks=False)
    else:
        if not joined:
            text = "describes none of these scans: no column holds their subjects"
            yield DataError(f"{found.metadata}: {text}", "metadata", blocks=False)


def _repeated(digests: list[tuple[str, Path]], names: dict[str, Path]) -> Iterator[DataError]:
    """Copies of one image on both sides of a split would be a leak."""
    for digest, path in digests:
        other = names.setdefault(digest, path)
        if other != path:
            yield DataError(f"{path}: the same voxels as {other}", "same voxels", blocks=False)


def _faults_of(scan: Scan) -> tuple[list[DataError], list[tuple[str, Path]]]:
    """One scan's faults, and the digests of its images' voxels."""
    faults: list[DataError] = []
    digests: list[tuple[str, Path]] = []
    t1 = None
    try:
        t1 = read_t1(scan.t1, scan.space)
        faults += _doubts_about_t1(t1, scan.space)
        digests.append((_digest(t1.voxels), scan.t1))
    except Exception as error:
        faults.append(_fault(scan.t1, error))
    for path in scan.masks:
        try:
            mask = read_mask(path, t1, scan.space)
            faults += _doubts_about_mask(mask, scan.space)
            if mask.voxels.any():
                digests.append((_digest(mask.voxels > 0), path))
        except Exception as error:
            faults.append(_fault(path, error))
    return faults, digests


def _fault(path: Path, error: Exception) -> DataError:
    """What reading says of a file; whatever a header can do to a reader, the other files go on."""
    if isinstance(error, DataError):
        return error
    return DataError(f"{path}: not readable ({type(error).__name__}: {error})", "unreadable")


def _digest(voxels: np.ndarray) -> str:
    """Of the values, in whatever type a file stores them."""
    return hashlib.sha256(np.ascontiguousarray(voxels.T, np.float32).data).hexdigest()


def _doubts_about_t1(t1: Image, space: str) -> Iterator[DataError]:
    if not t1.oriented:
        text = "the header has no orientation; read as LAS, which may mirror the head"
        yield DataError(f"{t1.path}: {text}", "orientation", blocks=False)
    if space != "MNI":
        return
    if np.abs(t1.affine[:3, 3] - ORIGIN).max() > HALF_A_VOXEL:
        places = [" ".join(f"{mm:g}" for mm in place) for place in (ORIGIN, t1.affine[:3, 3])]
        text = f"expected the first voxel at {places[0]} mm (MNI152), found {places[1]} mm"
        yield DataError(f"{t1.path}: {text}", "origin", blocks=False)
    try:
        normalise(t1.voxels)
    except DataError as fault:
        yield DataError(f"{t1.path}: {fault}", fault.kind)


def _doubts_about_mask(mask: Image, space: str) -> Iterator[DataError]:
    lesion = mask.voxels > 0
    values = np.unique(mask.voxels[lesion])
    if not len(values):
        yield DataError(f"{mask.path}: an empty mask", "empty mask", blocks=False)
        return
    whole = (values == np.round(values)).all()  # a smoothed mask has all values between 0 and 1
    if whole and (len(values) > 1 or values[0] not in (1, 255)):
        listed = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        text = f"expected 1 for lesion, found {listed}; all count as lesion"
        yield DataError(f"{mask.path}: {text}", "mask values", blocks=False)
    if space == "MNI":
        inside = brain_mask()[lesion].sum()
        covered = inside / brain_mask().sum()
        if covered > COVERED:
            text = f"the mask covers {covered:.0%} of the brain: all above 0 counts as lesion"
            yield DataError(f"{mask.path}: {text}", "large mask", blocks=False)
        outside = 1 - inside / lesion.sum()
        if outside > OUTSIDE:
            text = f"{outside:.0%} of the mask lies outside of the brain"
            yield DataError(f"{mask.path}: {text}", "outside the brain", blocks=False)
