"""Reading NIfTI files: the voxels of a scan in RAS orientation, or a one-line error.

The way back to a file's own axes is :func:`atlaslib.predict`.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from atlaslib.data.cohort import Scan
from atlaslib.files import DataError, read_bytes

GRID = (197, 233, 189)  # voxels of 1 mm in MNI space: x to the right, y forward, z up
ORIGIN = (-98.0, -134.0, -72.0)  # mm: the centre of the first voxel, as in nilearn's MNI152
HALF_A_VOXEL = 0.5  # mm: a smaller difference moves no voxel onto another

_HEADER = 352  # bytes before the first voxel
_MOST = 2**32  # bytes: four times an image of 512 x 512 x 512 voxels of eight bytes


@dataclass(frozen=True)
class Image:
    """The voxels of one file in RAS orientation, in the data type of the file."""

    path: Path
    voxels: np.ndarray  # (x, y, z)
    affine: np.ndarray  # (4, 4), voxel indices to mm
    stored_affine: np.ndarray  # the same, for the voxels in the order of the file
    oriented: bool  # False: the header has no orientation, and LAS was assumed
    consistent: bool  # False: the header's sform and qform place the voxels differently


@dataclass(frozen=True)
class Volume:
    """A scan's voxels in RAS orientation: (197, 233, 189) in MNI space."""

    t1: np.ndarray  # float32, the file's own intensities
    mask: np.ndarray  # bool, the union of all lesion masks
    affine: np.ndarray  # (4, 4), voxel indices to mm


def read_image(path: Path, space: str = "MNI") -> Image:
    """Read a NIfTI file, reoriented to RAS.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``; recognised by content, not by name.
    space : {"MNI", "native"}
        In MNI space the voxels must be those of the MNI grid.

    Raises
    ------
    DataError
        If the file is missing, cut short or not a NIfTI image, if its voxels are not
        three-dimensional or not real numbers, if its affine is singular or not finite, or if its
        shape, voxel size or axes differ from those of the MNI grid.
    """
    content = read_bytes(path)
    try:
        if content[:2] == b"\x1f\x8b":
            content = _unzipped(path, content)
        else:
            _check_kind(path, content)
    except DataError:
        raise
    except (OSError, EOFError, ValueError, OverflowError, isal_zlib.IsalError) as error:  # type: ignore[misc]
        raise DataError(f"{path}: damaged or cut short ({error})", "unreadable") from None
    try:
        image = nib.Nifti1Image.from_bytes(content)
        proxy: Any = image.dataobj
        if proxy.offset < image.header.single_vox_offset:
            raise ValueError(f"voxels start at byte {proxy.offset}, within the header")
        image, stored = _without_trailing_axes(image), image.affine
    except Exception as error:  # a broken header can raise almost anything
        text = str(error) or "too short"
        raise DataError(f"{path}: not a readable NIfTI image ({text})", "unreadable") from None
    if 0 in image.shape:
        raise DataError(f"{path}: has no voxels ({_by(image.shape)})", "unreadable")
    if len(image.shape) != 3:
        text = f"expected 3 dimensions, found {_by(image.shape)} voxels"
        raise DataError(f"{path}: {text}", "4-D")
    if (kind := image.get_data_dtype()).kind not in "uif":
        raise DataError(f"{path}: expected real numbers, found voxels of type {kind}", "unreadable")
    if not np.isfinite(stored).all() or np.linalg.matrix_rank(stored[:3, :3]) < 3:
        raise DataError(f"{path}: the header's affine is singular or not finite", "affine")
    oriented = bool(image.header["sform_code"] or image.header["qform_code"])
    try:
        consistent = _forms_agree(image)
        image = _without_copy(image, content)
        image = nib.as_closest_canonical(image)
        voxels = np.asanyarray(image.dataobj)
    except Exception as error:  # likewise
        raise DataError(f"{path}: damaged or cut short ({error})", "unreadable") from None
    if space == "MNI":
        _check_grid(path, voxels.shape, image.affine)
    return Image(path, voxels, image.affine, stored, oriented, consistent)


def _unzipped(path: Path, content: bytes) -> bytes:
    """Decompress a gzip file, but no more bytes than the image's header says that it has."""
    with igzip.open(io.BytesIO(content)) as file:
        head = file.read(_HEADER)
    if len(head) < 348:
        return head
    _check_kind(path, head)
    header = nib.Nifti1Header(head[:348], check=False)  # its extensions lie beyond these bytes
    voxels = math.prod(max(int(n), 1) for n in header["dim"][1 : 1 + min(header["dim"][0], 7)])
    try:
        bits = 8 * header.get_data_dtype().itemsize  # whatever the header's own "bitpix" says
    except KeyError:  # a type that nibabel will name
        bits = int(header["bitpix"])
    size = int(header["vox_offset"]) + voxels * bits // 8
    if not 0 < size <= _MOST:
        text = f"its header promises {size / 1e9:,.1f} GB, at most {_MOST / 1e9:.0f} GB are read"
        raise DataError(f"{path}: {text}", "unreadable")
    with igzip.open(io.BytesIO(content)) as file:
        unzipped = file.read(size)
        file.read(1)  # at the end of the file, gzip verifies its checksum
    return unzipped


def _check_kind(path: Path, head: bytes) -> None:
    """Refuse an image of another format; what is no image at all is left to nibabel."""
    found = ""
    if 540 in (int.from_bytes(head[:4], order) for order in ("little", "big")):
        found = "NIfTI-2"
    elif head[344:348] == b"ni1\0":
        found = "the header of a pair .hdr/.img"
    elif head[344:348] != b"n+1\0":
        known = {b"\0\0\0\x01\0": "MGH (.mgh, .mgz)", b"\x5c\x01\0\0": "Analyze 7.5",
                 b"\0\0\x01\x5c": "Analyze 7.5", b"NRRD": "NRRD", b"\x89HDF": "MINC or HDF5",
                 b"CDF": "MINC", b"PK\x03\x04": "a zip archive"}  # fmt: skip
        found = next((kind for start, kind in known.items() if head.startswith(start)), "")
        found = "DICOM" if head[128:132] == b"DICM" else found
    if found:
        text = f"is {found}; expected NIfTI-1 in one file, .nii or .nii.gz: convert it first"
        raise DataError(f"{path}: {text}", "other format")


def _forms_agree(image: nib.Nifti1Image) -> bool:
    """Whether the sform and the qform, if the header has both, place the voxels alike."""
    header = image.header
    if not (header["sform_code"] and header["qform_code"]):
        return True
    corners = np.array(list(product(*((0, size - 1) for size in image.shape[:3]))))
    with np.errstate(all="ignore"):
        places = [nib.affines.apply_affine(form, corners)
                  for form in (header.get_sform(), header.get_qform())]  # fmt: skip
    return bool(np.abs(places[0] - places[1]).max() <= HALF_A_VOXEL)


def _without_trailing_axes(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Drop trailing axes of length 1, which SPM and FSL write."""
    trailing = image.shape[3:]
    return nib.squeeze_image(image) if trailing and set(trailing) == {1} else image


def _without_copy(image: nib.Nifti1Image, content: bytes) -> nib.Nifti1Image:
    """The image as a view of the bytes already in memory, unless they need scaling."""
    proxy: Any = image.dataobj
    if isinstance(proxy, np.ndarray) or (proxy.slope, proxy.inter) != (1, 0):
        return image
    if len(content) < proxy.offset + proxy.dtype.itemsize * np.prod(proxy.shape):
        raise EOFError("fewer voxels than the header states")
    voxels = np.ndarray(proxy.shape, proxy.dtype, content, proxy.offset, order="F")
    return nib.Nifti1Image(voxels, image.affine, image.header)


def _check_grid(path: Path, shape: Sequence[int], affine: np.ndarray) -> None:
    if tuple(shape) != GRID:
        text = f"expected {_by(GRID)} voxels of 1 mm (MNI space), found {_by(shape)}"
        raise DataError(f"{path}: {text}", "shape")
    shift = np.abs(affine[:3, :3] - np.eye(3)) * GRID  # mm by which the far end is off
    if shift.max() > HALF_A_VOXEL:
        sizes = " x ".join(f"{size:.3g}" for size in nib.affines.voxel_sizes(affine))
        text = f"expected voxels of 1 mm along the axes (MNI space), found {sizes} mm"
        oblique = nib.affines.obliquity(affine).max()
        if oblique > 1e-3:
            text += f", tilted by {np.degrees(oblique):.1f} degrees"
        raise DataError(f"{path}: {text}", "affine")


def on_grid(image: Image) -> bool:
    """Whether an image has the shape and the axes of the MNI grid, wherever its origin is."""
    try:
        _check_grid(image.path, image.voxels.shape, image.affine)
    except DataError:
        return False
    return True


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def read_t1(path: Path, space: str = "MNI") -> Image:
    """Read a T1-weighted image.

    Raises
    ------
    DataError
        As :func:`read_image`, and if voxels are NaN or infinite, or all are equal.
    """
    image = read_image(path, space)
    _check_finite(image)
    low, high = image.voxels.min(), image.voxels.max()
    if low == high:
        text = f"all voxels are {low:g}: nothing to scale"
        raise DataError(f"{path}: {text}", "constant")
    return image


def _check_finite(image: Image) -> None:
    if image.voxels.dtype.kind == "f":
        wrong = image.voxels.size - int(np.isfinite(image.voxels).sum())
        if wrong:
            raise DataError(f"{image.path}: {wrong:,} voxels are NaN or infinite", "not finite")


def read_mask(path: Path, t1: Image | None, space: str = "MNI") -> Image:
    """Read a lesion mask; it must have the geometry of its T1, if one is given.

    Every value above 0 is lesion: releases differ in whether it is stored as 1 or 255, and some
    masks are smoothed.

    Raises
    ------
    DataError
        As :func:`read_image`, and if values are NaN, infinite, negative or above 255, or if the
        mask is not aligned with the T1.
    """
    image = read_image(path, space)
    if image.voxels.dtype != np.uint8:
        _check_finite(image)
        low, high = image.voxels.min(), image.voxels.max()
        if low < 0 or high > 255:
            text = f"expected mask values from 0 to 255, found {low:g} to {high:g}"
            raise DataError(f"{path}: {text}", "mask values")
    if t1 is not None:
        same_shape = image.voxels.shape == t1.voxels.shape
        if not same_shape or np.abs(_corners(image) - _corners(t1)).max() > HALF_A_VOXEL:
            text = f"not aligned with {t1.path.name}: "
            if same_shape:
                places = [" ".join(f"{mm:.4g}" for mm in _corners(i)[0]) for i in (image, t1)]
                text += f"first voxel at {places[0]} mm, expected {places[1]} mm"
            else:
                text += f"{_by(image.voxels.shape)} voxels, expected {_by(t1.voxels.shape)}"
            raise DataError(f"{path}: {text}", "geometry")
    return image


def _corners(image: Image) -> np.ndarray:
    """Positions of the voxels in the corners in mm, (8, 3)."""
    ends = np.array(list(product(*((0, size - 1) for size in image.voxels.shape))))
    return nib.affines.apply_affine(image.affine, ends)


def read_parts(scan: Scan) -> tuple[Image, np.ndarray]:
    """A scan's T1 in its stored data type, and the union of its masks, bool.

    Raises
    ------
    DataError
        As :func:`read_t1` and :func:`read_mask`, and if the masks were drawn on another image.
    """
    if scan.drawn_on:
        text = f"its masks are on the voxels of {scan.drawn_on.name}; first: atlaslib register"
        raise DataError(f"{scan.t1}: {text}", "native space")
    t1 = read_t1(scan.t1, scan.space)
    if not scan.masks:
        return t1, np.zeros(t1.voxels.shape, dtype=bool, order="F")
    return t1, read_lesion(scan, t1).voxels


def read_lesion(scan: Scan, t1: Image | None = None) -> Image:
    """The union of a scan's masks, bool; all must have the geometry of the T1, if one is given.

    Raises
    ------
    DataError
        As :func:`read_mask`.
    """
    first = read_mask(scan.masks[0], t1, scan.space)
    lesion = first.voxels > 0
    for path in scan.masks[1:]:
        lesion |= read_mask(path, t1 or first, scan.space).voxels > 0
    return dataclasses.replace(first, voxels=lesion)


def read_scan(scan: Scan) -> Volume:
    """Read a scan's T1 and the union of its lesion masks, in RAS orientation.

    A scan in native space has its own shape and affine.

    Raises
    ------
    DataError
        As :func:`read_t1` and :func:`read_mask`.
    """
    t1, mask = read_parts(scan)
    return Volume(t1.voxels.astype(np.float32), mask, t1.affine)


def brain_mask() -> np.ndarray:
    """The MNI152 template's brain, (197, 233, 189) bool."""
    return _template("brain")


def near_brain() -> np.ndarray:
    """Where lesions are looked for: the template's brain and 4 mm around it, (197, 233, 189) bool.

    The margin leaves room for heads that are not quite where the template is, and for outlines
    that are drawn a voxel too wide. Of the lesion volume of 100 synthetic people 0.8 % lies outside
    the brain, 0.2 % more than 2 mm outside, and 0.03 % more than 4 mm.
    """
    return _template("near")


@cache
def _template(name: str) -> np.ndarray:
    """A mask of ``brain.npz``, which ``tests/brain.py`` makes from nilearn's template.

    The library's own copy, because importing nilearn takes longer than reading a scan. Of the
    template (ICBM 2009a; Fonov et al. 2011): Copyright (C) 1993-2004 Louis Collins, McConnell Brain
    Imaging Centre, Montreal Neurological Institute, McGill University; see ``data/README.md``.
    """
    with np.load(Path(__file__).with_name("brain.npz")) as file:
        bits = np.unpackbits(file[name], count=math.prod(GRID))
    return bits.view(bool).reshape(GRID, order="F")  # in the order of a volume read from a file
