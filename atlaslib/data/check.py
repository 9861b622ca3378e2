"""Find every fault of a data folder in one pass: whatever the library would fail on, and more."""

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

from atlaslib.data.cohort import Scan
from atlaslib.data.releases import Survey, survey
from atlaslib.data.slices import normalise
from atlaslib.data.volumes import HALF_A_VOXEL, ORIGIN, Image, brain_mask, read_mask, read_t1
from atlaslib.files import DataError

OUTSIDE = 0.5  # share of a mask's voxels outside the brain above which there is a warning
COVERED = 1 / 3  # likewise, share of the brain that a mask covers; the largest in R2.0 covers 1/4
_MIN_SUBJECTS = 3  # with a lesion: one each for training, validation and test
COLUMNS = ["kind", "blocks", "message"]


def check_folder(
    root: str | os.PathLike[str], progress: bool = True
) -> tuple[Survey, pd.DataFrame]:
    """Check every file of a folder of ATLAS, on all processors, without stopping at a fault.

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
        One row per fault, blocking ones first: ``kind``, one or two words; ``blocks``, True if
        training cannot start until it is fixed; ``message``, the text of the
        :class:`atlaslib.DataError` that the rest of the library raises for this fault.

    Raises
    ------
    DataError
        If there is no such folder, or no scan of ATLAS in it.
    """
    found = survey(root)
    faults = [*found.faults, *_check_counts(found), *_check_metadata(found)]
    with_lesion: set[str] = set()  # subjects
    seen: dict[str, Path] = {}  # images by the digest of their voxels
    brain_mask()  # loaded once, before all threads need it
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=len(found.scans), desc="check", unit="scan", disable=not progress)
        with bar:
            results = pool.map(_check_scan, found.scans)
            for scan, (scan_faults, digests) in zip(found.scans, results, strict=True):
                faults += scan_faults
                with_lesion |= {scan.subject for _, path in digests if path in scan.masks}
                faults += _duplicates(digests, seen)
                bar.update()
    if len(with_lesion) < _MIN_SUBJECTS and any(fault.kind == "empty mask" for fault in faults):
        text = f"{len(with_lesion)} subjects have a marked lesion; training needs {_MIN_SUBJECTS}"
        faults.append(DataError(f"{found.root}: {text}", "empty masks"))
    rows = [(fault.kind, fault.blocks, str(fault)) for fault in faults]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"blocks": bool})
    return found, table.sort_values("blocks", ascending=False, kind="stable", ignore_index=True)


def _check_counts(found: Survey) -> Iterator[DataError]:
    native = [scan for scan in found.scans if scan.space != "MNI"]
    if native:
        text = f"{len(native)} scans in native space; training needs MNI space: atlaslib register"
        yield DataError(f"{found.root}: {text}", "native space")
    subjects = {scan.subject for scan in found.scans if scan.masks}
    if len(subjects) < _MIN_SUBJECTS:
        text = f"training needs masks of at least {_MIN_SUBJECTS} subjects, found {len(subjects)}"
        yield DataError(f"{found.root}: {text}", "too few")


def _check_metadata(found: Survey) -> Iterator[DataError]:
    if found.metadata is None:
        return
    cohort = found.cohort()
    try:
        alone = dataclasses.replace(cohort, metadata=None).table()
        joined = len(cohort.table().columns) > len(alone.columns)
    except DataError as error:
        yield DataError(str(error), error.kind, blocks=False)
    else:
        if not joined:
            text = "describes none of these scans: no column lists their subjects"
            yield DataError(f"{found.metadata}: {text}", "metadata", blocks=False)


def _duplicates(digests: list[tuple[str, Path]], seen: dict[str, Path]) -> Iterator[DataError]:
    """Copies of an image in different parts of a split would leak test data into training."""
    for digest, path in digests:
        other = seen.setdefault(digest, path)
        if other != path:
            yield DataError(f"{path}: the same voxels as {other}", "same voxels", blocks=False)


def _check_scan(scan: Scan) -> tuple[list[DataError], list[tuple[str, Path]]]:
    """A scan's faults, and the digests of the voxels of its images."""
    faults: list[DataError] = []
    digests: list[tuple[str, Path]] = []
    t1 = None
    try:
        t1 = read_t1(scan.t1, scan.space)
        faults += _check_t1(t1, scan.space)
        digests.append((_digest(t1.voxels), scan.t1))
    except Exception as error:
        faults.append(_fault(scan.t1, error))
    reference = t1
    if scan.drawn_on:
        try:
            reference = read_t1(scan.drawn_on, scan.space)
        except Exception as error:
            reference = None
            faults.append(_fault(scan.drawn_on, error))
    for path in scan.masks:
        try:
            mask = read_mask(path, reference, scan.space)
            faults += _check_mask(mask, scan.space)
            if mask.voxels.any():
                digests.append((_digest(mask.voxels > 0), path))
        except Exception as error:
            faults.append(_fault(path, error))
    return faults, digests


def _fault(path: Path, error: Exception) -> DataError:
    """The fault for any error on reading a file: one bad header must not stop the whole check."""
    if isinstance(error, DataError):
        return error
    return DataError(f"{path}: cannot be read ({type(error).__name__}: {error})", "unreadable")


def _digest(voxels: np.ndarray) -> str:
    """Digest of the values, independent of the stored data type."""
    return hashlib.sha256(np.ascontiguousarray(voxels.T, np.float32).data).hexdigest()


def geometry_warnings(t1: Image, space: str = "MNI") -> Iterator[DataError]:
    """Warnings of a header that may place the head wrongly without anybody noticing."""
    if not t1.oriented:
        text = "the header has no orientation; read as LAS, which may mirror the head"
        yield DataError(f"{t1.path}: {text}", "orientation", blocks=False)
    if not t1.consistent:
        text = "the header's sform and qform place the voxels differently; the sform is used"
        yield DataError(f"{t1.path}: {text}", "orientation", blocks=False)
    if space == "MNI" and np.abs(t1.affine[:3, 3] - ORIGIN).max() > HALF_A_VOXEL:
        origins = [" ".join(f"{mm:g}" for mm in xyz) for xyz in (ORIGIN, t1.affine[:3, 3])]
        text = f"expected the first voxel at {origins[0]} mm (MNI152), found {origins[1]} mm"
        yield DataError(f"{t1.path}: {text}", "origin", blocks=False)


def _check_t1(t1: Image, space: str) -> Iterator[DataError]:
    yield from geometry_warnings(t1, space)
    if space == "MNI":
        try:
            normalise(t1.voxels)
        except DataError as fault:
            yield DataError(f"{t1.path}: {fault}", fault.kind)


def _check_mask(mask: Image, space: str) -> Iterator[DataError]:
    lesion = mask.voxels > 0
    values = np.unique(mask.voxels[lesion])
    if not len(values):
        yield DataError(f"{mask.path}: an empty mask", "empty mask", blocks=False)
        return
    integers = (values == np.round(values)).all()  # a smoothed mask also has fractions
    if integers and (len(values) > 1 or values[0] not in (1, 255)):
        listed = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        text = f"expected 1 for lesion, found {listed}; all count as lesion"
        yield DataError(f"{mask.path}: {text}", "mask values", blocks=False)
    if space == "MNI":
        inside = brain_mask()[lesion].sum()
        covered = inside / brain_mask().sum()
        if covered > COVERED:
            text = f"covers {covered:.0%} of the brain: every value above 0 counts as lesion"
            yield DataError(f"{mask.path}: {text}", "large mask", blocks=False)
        outside = 1 - inside / lesion.sum()
        if outside > OUTSIDE:
            text = f"{outside:.0%} of the mask lies outside the brain"
            yield DataError(f"{mask.path}: {text}", "outside the brain", blocks=False)
