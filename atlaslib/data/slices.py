"""From NIfTI volumes to normalised 232 x 196 slices and back, and the cache of these slices.

A volume is read once, normalised, cut into axial slices and written as one file of 8-bit records
with a checksum; every later epoch, run and process maps that file into memory. The file's name
is derived from the contents of the scan's files and from the settings here, so only a changed
scan is processed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from isal import isal_zlib
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort, Scan, scan_digest
from atlaslib.data.volumes import GRID, brain_mask, read_parts
from atlaslib.files import DataError, atomic_write, home, open_error

SLICE = (232, 196)  # rows (anterior up), columns (patient's left on the left)

# In-brain percentiles and the 8-bit levels they are mapped to. The margins keep darker voxels
# (air, fluid-filled cores) and brighter ones (fat) distinguishable from brain.
PERCENTILES = (1.0, 99.0)
LEVELS = (32.0, 224.0)

# A cache file: the number of lesion pixels in each slice, which can be read without any voxels;
# the slices; a checksum.
_COUNTS = np.dtype(("<i4", GRID[2]))
_RECORD = np.dtype(
    [
        ("image", "u1", SLICE),
        ("mask", "u1", (SLICE[0] * SLICE[1] // 8,)),  # one bit per pixel
    ]
)
_BYTES = _COUNTS.itemsize + GRID[2] * _RECORD.itemsize
_CHECKSUM = 4  # bytes of CRC-32
_VERSION = 3  # to be increased when the contents of a cache file change
_WORKERS = min(os.cpu_count() or 1, 6)  # each holds one or two volumes: 6 stay well below 2 GB


def normalise(t1: np.ndarray) -> np.ndarray:
    """Scale a volume to 8 bits by robust percentiles of its brain intensities.

    The 1st percentile of the voxels inside the MNI152 brain becomes level 32 and the 99th
    becomes 224, for the whole volume at once: unlike after the slice-by-slice stretch of the
    original code, the same tissue has the same intensity in every slice.

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
    planes = t1.T  # files are stored with x varying fastest, numpy prefers the last axis to
    levels = np.empty(planes.shape, np.uint8)
    _scale_into(levels, planes, _percentiles(_brain_voxels(planes)))
    return levels.T


def _brain_voxels(planes: np.ndarray) -> np.ndarray:
    return planes.reshape(-1).take(_brain_indices())  # faster than planes[mask]


@cache
def _brain_indices() -> np.ndarray:
    """Flat indices of the brain's voxels, in the memory order of a volume."""
    return np.flatnonzero(brain_mask().T)


def _scale_into(levels: np.ndarray, planes: np.ndarray, limits: np.ndarray) -> None:
    """Scale planes into ``levels``, without the rows and columns that do not fit."""
    low, high = limits
    with np.errstate(all="ignore"):
        factor = (LEVELS[1] - LEVELS[0]) / (high - low)
    if not np.isfinite([*limits, factor]).all() or high <= low:
        text = f"the brain's intensities range from {low:g} to {high:g}: nothing to scale"
        raise DataError(text, "constant")
    table = _to_levels(np.arange(256), low, high)
    pairs = (table[:, None].astype(np.uint16) << 8 | table).ravel()
    rows, columns = levels.shape[1:]
    for plane, target in zip(planes, levels, strict=True):  # planes fit the processor's cache
        if plane.dtype == np.uint8:  # few different values: look them up, two at a time
            scaled = _look_up(plane, table, pairs)
        else:
            scaled = _to_levels(plane, low, high)
        target[:] = scaled[-rows:, :columns]


def _look_up(plane: np.ndarray, table: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Map each byte by ``table``, two at a time by ``pairs``, which maps pairs of bytes."""
    flat = np.ascontiguousarray(plane).reshape(-1)
    mapped = np.empty_like(flat)
    even = flat.size // 2 * 2
    # clip: every index is valid, and with the default, "raise", numpy would buffer the output
    pairs.take(flat[:even].view(np.uint16), out=mapped[:even].view(np.uint16), mode="clip")
    mapped[even:] = table[flat[even:]]
    return mapped.reshape(plane.shape)


def _to_levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    # float32 is exact enough, unless the numbers are huge, tiny or far from 0 for their range
    usual = 1e-30 < high - low < 1e30 and max(abs(low), abs(high)) < 1e4 * (high - low)
    real = np.float32 if usual else np.float64
    scaled: Any = values.astype(real)
    scaled -= real(low)
    scaled *= real((LEVELS[1] - LEVELS[0]) / (high - low))
    scaled += real(LEVELS[0])
    np.rint(scaled, out=scaled)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Like ``np.percentile``, but faster for bytes, from their histogram."""
    if values.dtype != np.uint8:
        return np.percentile(values, PERCENTILES)
    # Pillow counts bytes directly, whereas numpy would first convert each to a 64-bit integer
    counts = Image.frombuffer("L", (len(values), 1), values).histogram()
    cumulative = np.cumsum(counts)
    rank = np.array(PERCENTILES) / 100 * (len(values) - 1)
    below, above = (np.searchsorted(cumulative, f(rank), "right") for f in (np.floor, np.ceil))
    return below + (above - below) * (rank % 1)


def to_slices(volume: np.ndarray) -> np.ndarray:
    """Cut (197, 233, 189) into (189, 232, 196) axial slices, as the original code did.

    Each slice is ``rot90(volume[:, :, z])``, with the front of the head at the top, without its
    last row and last column.
    """
    return np.moveaxis(np.rot90(volume, axes=(0, 1)), 2, 0)[:, : SLICE[0], : SLICE[1]]


def to_volume(slices: np.ndarray) -> np.ndarray:
    """Invert :func:`to_slices`, (189, 232, 196) to (197, 233, 189); dropped voxels become 0."""
    full = np.zeros((GRID[2], GRID[1], GRID[0]), dtype=slices.dtype)
    full[:, : SLICE[0], : SLICE[1]] = slices
    return np.rot90(np.moveaxis(full, 0, 2), k=-1, axes=(0, 1))


def _cache_file(scan: Scan) -> Path:
    """The scan's cache file, built if it is missing or damaged.

    Another process may build the same file at the same time: each writes under a temporary name
    of its own, and all rename the same bytes into place.
    """
    settings = f"{scan_digest(scan)} {_VERSION} {PERCENTILES} {LEVELS}"
    name = hashlib.sha256(settings.encode()).hexdigest()[:24]
    path = home() / "slices" / f"{name}.slices"
    if not _is_intact(path):
        _build(scan, path)
    return path


def _build(scan: Scan, path: Path) -> None:
    """Write a scan's cache file."""
    t1, volume_mask = read_parts(scan)
    content = np.zeros(_BYTES, np.uint8)
    counts, records = _parts(content)
    planes = t1.voxels.T
    try:  # as to_slices(normalise(t1.voxels)), but without an intermediate array
        _scale_into(records["image"][:, ::-1], planes, _percentiles(_brain_voxels(planes)))
    except DataError as error:
        raise DataError(f"{scan.t1}: {error}", error.kind) from None
    with_lesion = np.flatnonzero(volume_mask.any((0, 1)))  # most slices have no lesion to pack
    mask = to_slices(volume_mask)[with_lesion].reshape(len(with_lesion), SLICE[0] * SLICE[1])
    records["mask"][with_lesion] = np.packbits(mask, axis=1)
    counts[with_lesion] = mask.sum(1)

    def save(name: str) -> None:
        with open(name, "wb") as file:
            file.write(content.data)
            file.write(isal_zlib.crc32(content.data).to_bytes(_CHECKSUM, "little"))

    atomic_write(path, save)


def _is_intact(path: Path) -> bool:
    try:
        stat = path.stat()
        return stat.st_size == _BYTES + _CHECKSUM and _has_valid_checksum(path, stat.st_mtime_ns)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise open_error(path, error) from None


@cache
def _has_valid_checksum(path: Path, mtime_ns: int) -> bool:
    """Whether the checksum is right; read once per process, and not by mapping the file."""
    total, left = 0, _BYTES
    with open(path, "rb") as file:
        while left > 0 and (piece := file.read(min(left, 2**20))):
            total, left = isal_zlib.crc32(piece, total), left - len(piece)
        return total == int.from_bytes(file.read(), "little")


def _parts(content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of a file's bytes: the lesion pixels of each slice, and the records of the slices."""
    counts = content[: _COUNTS.itemsize].view(_COUNTS.base)
    return counts, content[_COUNTS.itemsize :].view(_RECORD)


def _map(path: Path) -> np.ndarray:
    """Map the records of a cache file into memory: read on access, shared by all processes.

    Unlike ``np.memmap``, torch keeps no file open, and a cohort may have a thousand.
    """
    content = torch.from_file(str(path), shared=False, size=_BYTES, dtype=torch.uint8)
    return _parts(content.numpy())[1]


def _check_trainable(scan: Scan) -> None:
    if scan.space != "MNI":
        text = "in native space; the models expect MNI space: see atlaslib register"
        raise DataError(f"{scan.t1}: {text}", "native space")
    if not scan.masks:
        text = "has no lesion mask: it can be segmented, but not used for training or scoring"
        raise DataError(f"{scan.t1}: {text}", "no mask")


class SliceDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every axial slice of every scan of a cohort, memory-mapped.

    Item ``i`` is ``(image, mask)``: two float32 tensors of shape (1, 232, 196), the image in
    0..1 and the mask 0 or 1. A :class:`torch.utils.data.DataLoader` can use it directly.

    Parameters
    ----------
    cohort : Cohort
    progress : bool
        Show a progress bar while scans that are not cached yet are processed.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per slice: scan (position in the cohort), subject, session, site, z,
        lesion_pixels, brain_pixels (of the MNI152 brain mask). Slices can be chosen from it
        without reading voxels.

    Raises
    ------
    DataError
        If a file is unreadable, or not on the MNI grid; if a scan is in native space or has no
        mask; if the disk is full.

    Examples
    --------
    A loop of your own, for one pass over the slices with lesion:

    >>> import torch
    >>> from atlaslib import SliceDataset, build_model
    >>> slices = SliceDataset(cohort, progress=False)
    >>> with_lesion = slices.table.index[slices.table.lesion_pixels > 0]
    >>> chosen = torch.utils.data.Subset(slices, with_lesion)
    >>> loader = torch.utils.data.DataLoader(chosen, batch_size=8, shuffle=True)
    >>> model = build_model("baseline", width=2)
    >>> optimiser = torch.optim.Adam(model.parameters())
    >>> for images, masks in loader:
    ...     optimiser.zero_grad()
    ...     loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), masks)
    ...     loss.backward()
    ...     optimiser.step()
    >>> images.shape[1:], masks.shape[1:]
    (torch.Size([1, 232, 196]), torch.Size([1, 232, 196]))
    >>> from atlaslib import Predictor, recipe
    >>> predictor = Predictor(model, recipe("baseline", "paper"))  # it sees whole slices, too
    """

    def __init__(self, cohort: Cohort, progress: bool = True) -> None:
        self.cohort = cohort
        for scan in cohort:
            _check_trainable(scan)
        with ThreadPoolExecutor(_WORKERS) as pool:
            cached = pool.map(_cache_file, cohort)
            self._paths = list(
                tqdm(cached, "slices", len(cohort), disable=not progress, leave=False, unit="scan")
            )
        self._records = [_map(path) for path in self._paths]
        self.table = self._make_table()

    def __getstate__(self) -> dict[str, Any]:
        """For the workers of a data loader: the names of the files, not their contents."""
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._records = [_map(path) for path in self._paths]

    def _make_table(self) -> pd.DataFrame:
        depth = GRID[2]
        brain = to_slices(brain_mask()).sum((1, 2))
        columns = {
            "scan": np.repeat(np.arange(len(self.cohort)), depth),
            "z": np.tile(np.arange(depth), len(self.cohort)),
            "lesion_pixels": np.concatenate(
                [np.fromfile(path, _COUNTS.base, depth) for path in self._paths]
            ),
            "brain_pixels": np.tile(brain, len(self.cohort)),
        }
        table = pd.DataFrame(columns)
        for name in ("subject", "session", "site"):
            table[name] = np.repeat([getattr(scan, name) for scan in self.cohort], depth)
        return table

    def __len__(self) -> int:
        return len(self._records) * GRID[2]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"no slice {index}, there are {len(self)}")
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
        """All 189 slices of one scan as bytes, as from :meth:`gather`."""
        return self.gather(np.arange(GRID[2]) + position * GRID[2])
