"""Minimal test scans: volumes of full size with very simple content."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from atlaslib.data.volumes import GRID, brain_mask
from atlaslib.synthetic import anatomy

AFFINE = np.array([[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1.0]])


def head(seed: int = 0) -> np.ndarray:
    """A brain of random blocks of intensity 50 to 69, (197, 233, 189) float32."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(50, 70, (50, 59, 48)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    volume = coarse[: GRID[0], : GRID[1], : GRID[2]].astype(np.float32)
    return np.where(brain_mask(), volume, 0).astype(np.float32)


def box(corner: tuple[int, int, int], size: int) -> np.ndarray:
    """A mask with a cube of lesion, (197, 233, 189) uint8."""
    mask = np.zeros(GRID, np.uint8)
    x, y, z = corner
    mask[x : x + size, y : y + size, z : z + size] = 1
    return mask


def save(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(volume, affine).to_filename(path)
    return path


def write_scan(
    root: Path, subject: str, seed: int = 0, site: str = "Site1", session: str = "t01"
) -> tuple[Path, list[Path]]:
    """Write a session as in R1.1, with two masks: one of 0 and 1, one of 0 and 255."""
    folder = root / site / subject / session
    big, small = box((60 + seed, 100, 80), 12), box((110, 120, 90 + seed), 5)
    t1 = head(seed)
    t1[(big + small) > 0] = 20
    save(folder / f"{subject}_t1w_deface_stx.nii.gz", np.rint(t1).astype(np.uint8))
    masks = [
        save(folder / f"{subject}_LesionSmooth_stx.nii.gz", big),
        save(folder / f"{subject}_LesionSmooth_1_stx.nii.gz", small * np.uint8(255)),
    ]
    return folder / f"{subject}_t1w_deface_stx.nii.gz", masks


def region_at(field: np.ndarray, box: anatomy.Box) -> np.ndarray:
    """The template's regions in the subject's space, by nearest neighbour."""
    index = np.rint(anatomy.template_coordinates(field, box)).astype(int)
    index = np.clip(index, 0, np.array(anatomy.SHAPE)[:, None, None, None] - 1)
    return anatomy.template().region[tuple(index)]
