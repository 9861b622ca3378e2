"""Heads in native space, made from one in MNI space by a known affine map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from volumes import AFFINE, save

from atlaslib.data.template import Registration
from atlaslib.data.volumes import GRID, Image, brain_mask

CENTRE = np.array([0.0, -20, 10])  # mm: about the middle of the brain
BALL = (-38.0, -14, 23)  # mm: the centre of a lesion of 10 mL
Array = NDArray[np.floating]


def moved(
    shift: tuple[float, float, float] = (0, 0, 0),
    degrees: tuple[float, float, float] = (0, 0, 0),
    scale: tuple[float, float, float] = (1, 1, 1),
) -> Array:
    """A map of mm: scaled, turned about x, y and z, and shifted, all around the brain's centre."""
    linear = np.diag(np.array(scale, float))
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = [np.cos(angle), -np.sin(angle), np.sin(angle),
                                            np.cos(angle)]  # fmt: skip
        linear = turn @ linear
    return nib.affines.from_matvec(linear, CENTRE + shift - linear @ CENTRE)


# a head that is smaller than the template, as most are, and not quite straight
USUAL = moved((8, -12, 15), (15, 6, -10), (0.9, 0.92, 0.88))


@dataclass(frozen=True)
class Native:
    """A scan that is moved by a known map."""

    move: Array  # mm in MNI space to mm in native space
    affine: Array
    shape: tuple[int, int, int]

    def image(self, volume: Array, affine: Array = AFFINE) -> Array:
        """A volume in MNI space as the scanner sees it."""
        index = np.linalg.inv(affine) @ np.linalg.inv(self.move) @ self.affine
        return ndimage.affine_transform(volume, index, output_shape=self.shape, order=1)

    def write(self, path: Path, volume: Array, affine: Array = AFFINE) -> Path:
        return save(path, self.image(volume, affine).astype(np.float32), self.affine)


def native(
    move: Array = USUAL,
    shape: tuple[int, int, int] = (176, 220, 190),
    zooms: tuple[float, float, float] = (1, 1, 1),
    las: bool = False,
    above: float = 0,
) -> Native:
    """A field of view around the brain's centre, or further down by `above` mm."""
    affine = np.diag([-zooms[0] if las else zooms[0], *zooms[1:], 1.0])
    middle = nib.affines.apply_affine(move, CENTRE) - [0, 0, above]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Native(move, affine, shape)


def ball(radius: float = 13.4) -> NDArray[np.float32]:
    """A lesion on the MNI grid; by default, of 10 mL."""
    place = (np.array(BALL) - AFFINE[:3, 3])[:, None, None, None]
    return ((((np.indices(GRID) - place) ** 2).sum(0)) < radius**2).astype(np.float32)


def extracted(t1: Array) -> Array:
    """The brain alone, roughly."""
    return np.where(ndimage.binary_dilation(brain_mask(), iterations=2), t1, 0)


def like_t2(t1: Array) -> Array:
    """Fluid bright, white matter dark."""
    inside = ndimage.binary_dilation(brain_mask(), iterations=3)
    return np.where(inside, np.clip(np.percentile(t1, 99.5) - t1, 0, None), 0.4 * t1)


def like_ct(t1: Array) -> Array:
    """In Hounsfield units: skull bright, fluid below white matter below grey matter, air -1000."""
    distance = ndimage.distance_transform_edt(~brain_mask())
    ct = np.where(ndimage.binary_closing(t1 > 15, iterations=3), 30.0, -1000)
    levels = np.percentile(t1[brain_mask()], [2, 15, 50, 85])
    ct = np.where(distance <= 1, np.interp(t1, levels, [6, 20, 37, 29]), ct)
    ct[(distance > 1) & (distance <= 4)] = 10
    ct[(distance > 4) & (distance <= 10)] = 900
    return ndimage.gaussian_filter(ct, 1.0)


def with_shoulders(t1: Array, down: int = 180) -> tuple[Array, Array]:
    """The head on neck and shoulders, that is `down` mm more below and 100 mm more at each side."""
    whole = np.zeros((GRID[0] + 200, GRID[1], GRID[2] + down), np.float32)
    whole[100:-100, :, down:] = t1
    x, y, z = np.ogrid[: whole.shape[0], : whole.shape[1], : down + 1]
    across, along = ((x - whole.shape[0] / 2) / 1.0) ** 2, ((y - whole.shape[1] * 0.45) / 1.0) ** 2
    body = (across / 65**2 + along / 70**2 < 1) | (
        across / 190**2 + along / 105**2 + (z / 100) ** 2 < 1
    )
    part = whole[:, :, : down + 1]
    grain = np.random.default_rng(0).normal(50, 12, part.shape).astype(np.float32)
    part[...] = np.where(body & (part == 0), ndimage.gaussian_filter(grain, 0.7), part)
    affine = AFFINE.copy()
    affine[:3, 3] -= [100, 0, down]
    return whole, affine


def outline_distance(a: NDArray[np.bool_], b: NDArray[np.bool_], zooms: Array) -> float:
    """The mean distance of two masks' surfaces, in mm."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    apart = [ndimage.distance_transform_edt(~edge, zooms) for edge in edges]
    return float((apart[1][edges[0]].mean() + apart[0][edges[1]].mean()) / 2)


#: name: how the scan lies, and what is done to the T1 before
KINDS: dict[str, tuple[Native, Callable[[Array], Array] | None]] = {
    "rotated": (native(moved((8, -12, 15), (25, 8, -12), (0.9, 0.92, 0.88))), None),
    "2 mm": (native(shape=(90, 112, 96), zooms=(2, 2, 2)), None),
    "thick slices": (native(shape=(200, 240, 32), zooms=(0.9, 0.9, 6)), None),
    "LAS": (native(las=True), None),
    "brain alone": (native(), extracted),
    "like T2": (native(), like_t2),
}


def stand_in(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> dict[str, float]:
    """Let a module's `register` give the usual map, of a quality that a test may change."""
    about = {"similarity": 0.8, "contrast": 0.7}

    def register(image: Image) -> Registration:
        return Registration(USUAL, about["similarity"], about["contrast"], 0.9)

    monkeypatch.setattr(module, "register", register)
    return about
