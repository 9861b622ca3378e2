"""From NIfTI volumes to normalised 232 x 196 slices and back, and the store that keeps them.

A volume is read once, normalised, cut into axial slices and written as one memory-mapped file
of 8-bit records; every later epoch, run and process reads that file. The file's name is derived
from the content of the scan's files and from the settings here, so a changed scan is built
again and nothing else is.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from atlaslib.cohort import Cohort, DataError, Scan, home, scan_digest, write_aside

GRID = (197, 233, 189)  # voxels of 1 mm in MNI space: x to the right, y forward, z up
SLICE = (232, 196)  # rows (anterior up), columns (patient's left on the left)

# In-brain percentiles and the 8-bit levels that they become. The margins keep what is darker
# than brain (air, fluid-filled cores) and brighter (fat) apart from it.
PERCENTILES = (1.0, 99.0)
LEVELS = (32.0, 224.0)

_RECORD = np.dtype(
    [
        ("image", "u1", SLICE),
        ("mask", "u1", (SLICE[0] * SLICE[1] // 8,)),  # one bit a pixel
        ("lesion_pixels", "<i4"),
    ]
)
# What nibabel and zlib raise on a file that is cut short or no image at all.
_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
)
_VERSION = 1  # to be raised when the meaning of a record changes


@dataclass(frozen=True)
class Volume:
    """A scan's voxels in RAS orientation."""

    t1: np.ndarray  # (197, 233, 189) float32, the file's own intensities
    mask: np.ndarray  # (197, 233, 189) bool, the union of all lesion masks
    affine: np.ndarray  # (4, 4), voxel indices to mm


def read_image(path: Path) -> nib.spatialimages.SpatialImage:
    """Open a NIfTI file, reoriented to RAS, and check that it lies on the MNI grid.

    Raises
    ------
    DataError
        If the file is missing, is no NIfTI image, or has another shape than 197 x 233 x 189.
    """
    try:
        image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable NIfTI image ({error})") from None
    if image.shape != GRID:
        raise DataError(
            f"{path}: expected {_by(GRID)} voxels of 1 mm (MNI space), found {_by(image.shape)}"
        )
    return image


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def read_voxels(image: nib.spatialimages.SpatialImage, path: Path) -> np.ndarray:
    """Decompress; a file cut short is found only here."""
    try:
        return np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise DataError(f"{path}: damaged or cut short ({error})") from None


def read_scan(scan: Scan) -> Volume:
    """Read a scan's T1 and the union of its lesion masks.

    Masks are read as ``> 0``: releases differ in whether lesion is stored as 1 or 255, and some
    masks are smoothed.

    Raises
    ------
    DataError
        As :func:`read_image`.
    """
    image = read_image(scan.t1)
    t1 = read_voxels(image, scan.t1).astype(np.float32)
    mask = np.zeros(GRID, dtype=bool)
    for path in scan.masks:
        mask |= read_voxels(read_image(path), path) > 0
    return Volume(t1, mask, image.affine)


@lru_cache(maxsize=1)
def brain_mask() -> np.ndarray:
    """The MNI152 template's brain, (197, 233, 189) bool, as nilearn ships it."""
    from nilearn.datasets import load_mni152_brain_mask  # slow to import

    return np.asarray(load_mni152_brain_mask(resolution=1).dataobj) > 0


def normalise(t1: np.ndarray) -> np.ndarray:
    """Scale a volume to 8 bits by robust percentiles of its brain.

    The 1st percentile of the voxels inside the MNI152 brain becomes level 32 and the 99th
    becomes 224, for the whole volume at once: unlike the original's slice-by-slice stretch,
    equal tissue keeps equal intensity from slice to slice.

    Parameters
    ----------
    t1 : array of shape (197, 233, 189)

    Returns
    -------
    array of the same shape, uint8

    Raises
    ------
    DataError
        If the brain's intensities are constant or not finite.
    """
    low, high = np.percentile(t1[brain_mask()], PERCENTILES)
    if not np.isfinite([low, high]).all() or high <= low:
        raise DataError(f"the brain's intensities run from {low} to {high}: nothing to scale")
    scale = (LEVELS[1] - LEVELS[0]) / (high - low)
    levels = (t1 - np.float32(low)) * np.float32(scale) + np.float32(LEVELS[0])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def to_slices(volume: np.ndarray) -> np.ndarray:
    """Cut (197, 233, 189) into (189, 232, 196) axial slices, as the original code did.

    Each slice is ``rot90(volume[:, :, z])``, 233 rows with the front of the head on top, of
    which the last row and the last column are dropped.
    """
    return np.moveaxis(np.rot90(volume, axes=(0, 1)), 2, 0)[:, : SLICE[0], : SLICE[1]]


def to_volume(slices: np.ndarray) -> np.ndarray:
    """The way back, (189, 232, 196) to (197, 233, 189); the dropped voxels become 0."""
    full = np.zeros((GRID[2], GRID[1], GRID[0]), dtype=slices.dtype)
    full[:, : SLICE[0], : SLICE[1]] = slices
    return np.rot90(np.moveaxis(full, 0, 2), k=-1, axes=(0, 1))


def _build(scan: Scan, target: Path) -> None:
    """Write a scan's records aside, then rename: a file that is there is complete."""
    volume = read_scan(scan)
    try:
        image = normalise(volume.t1)
    except DataError as error:
        raise DataError(f"{scan.t1}: {error}") from None
    mask = to_slices(volume.mask)
    records = np.empty(GRID[2], _RECORD)
    records["image"] = to_slices(image)
    records["mask"] = np.packbits(mask.reshape(GRID[2], -1), axis=1)
    records["lesion_pixels"] = mask.sum((1, 2))
    target.parent.mkdir(parents=True, exist_ok=True)

    def save(name: str) -> None:
        with open(name, "wb") as file:  # given a name, numpy would add a suffix
            np.save(file, records, allow_pickle=False)

    write_aside(target, save)


def _open(scan: Scan) -> np.ndarray:
    """A scan's memory-mapped records, built if they are missing or damaged."""
    settings = f"{scan_digest(scan)} {_VERSION} {PERCENTILES} {LEVELS}"
    name = hashlib.sha256(settings.encode()).hexdigest()[:24]
    path = home() / "slices" / f"{name}.npy"
    for attempt in range(2):
        if attempt or not path.exists():
            _build(scan, path)
        try:
            records = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):
            continue
        if records.shape == (GRID[2],) and records.dtype == _RECORD:
            return records
    raise DataError(f"{path}: cannot be read back after writing; is the disk full?")


class SliceDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every axial slice of every scan of a cohort, memory-mapped.

    Item ``i`` is ``(image, mask)``: two float32 tensors of shape (1, 232, 196), the image in
    0..1 and the mask 0 or 1. It goes into a :class:`torch.utils.data.DataLoader` as it is.

    Parameters
    ----------
    cohort : Cohort
    progress : bool
        Show a bar while scans that are not in the store yet are built.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per slice: scan (position in the cohort), subject, session, site, z,
        lesion_pixels, brain_pixels (of the MNI152 brain mask). Slices can be chosen from it
        without reading voxels.

    Raises
    ------
    DataError
        If a file is unreadable, or not on the MNI grid.
    """

    def __init__(self, cohort: Cohort, progress: bool = True) -> None:
        self.cohort = cohort
        brain_mask()  # once, before the threads ask for it together
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            opened = pool.map(_open, cohort)
            bar = tqdm(
                opened, "slices", len(cohort), disable=not progress, leave=False, unit="scan"
            )
            self._records = list(bar)
        self.table = self._make_table()

    def _make_table(self) -> pd.DataFrame:
        depth = GRID[2]
        brain = to_slices(brain_mask()).sum((1, 2))
        columns = {
            "scan": np.repeat(np.arange(len(self.cohort)), depth),
            "z": np.tile(np.arange(depth), len(self.cohort)),
            "lesion_pixels": np.concatenate([r["lesion_pixels"] for r in self._records]),
            "brain_pixels": np.tile(brain, len(self.cohort)),
        }
        table = pd.DataFrame(columns)
        names = self.cohort.table()[["subject", "session", "site"]]
        return table.join(names, on="scan")

    def __len__(self) -> int:
        return len(self._records) * GRID[2]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        images, masks = self.gather([index % len(self)])
        return images.float() / 255, masks.float()

    def gather(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Several slices as bytes: images and masks, each (n, 232, 196) uint8."""
        images = np.empty((len(indices), *SLICE), np.uint8)
        bits = np.empty((len(indices), _RECORD["mask"].shape[0]), np.uint8)
        for row, index in enumerate(indices):
            scan, z = divmod(int(index), GRID[2])
            record = self._records[scan][z]
            images[row] = record["image"]
            bits[row] = record["mask"]
        masks = np.unpackbits(bits, axis=1).reshape(images.shape)
        return torch.from_numpy(images), torch.from_numpy(masks)

    def scan(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All 189 slices of one scan as bytes, as :meth:`gather`."""
        return self.gather(np.arange(GRID[2]) + position * GRID[2])
