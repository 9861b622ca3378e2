"""The scanners of the synthetic sites, and how each images a head: arrays, no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from atlaslib.synthetic.anatomy import (
    SHAPE,
    TILE,
    WHOLE,
    Float,
    repeat,
    slabs,
    smooth_field,
    upsample,
)


@dataclass(frozen=True)
class Scanner:
    """How one site images heads, on average; intensities are on the scale 0..100."""

    noise: float  # standard deviation of each channel of the complex signal
    blur: float  # voxels, standard deviation along each axis
    bias: float  # relative amplitude of the smooth shading
    grey: float  # grey matter as a share of the way from fluid to white matter
    mask_value: int  # value of lesion voxels in this site's mask files
    thickness: float = 1  # of its slices, in mm; they lie across an axis of each scan's own
    ghost: float = 0  # share of the signal that motion moves by half the field of view


SCANNERS = (
    Scanner(1.8, 0.50, 0.10, 0.66, 255),
    Scanner(2.6, 0.60, 0.14, 0.62, 1, thickness=2),
    Scanner(1.5, 0.45, 0.08, 0.68, 255),
    Scanner(3.4, 0.50, 0.18, 0.60, 255, thickness=1.5),
    Scanner(2.2, 0.70, 0.12, 0.64, 1),
    Scanner(2.9, 0.55, 0.20, 0.69, 255),
    Scanner(1.9, 0.80, 0.10, 0.63, 1, thickness=3),
    Scanner(2.4, 0.50, 0.15, 0.67, 255),
    Scanner(3.0, 0.65, 0.12, 0.61, 1),
)
# Sites unlike any above, as a hospital's 2-D spin echo is unlike a study's 3-D gradient echo: thick
# slices, ghosts of motion, and hardly any contrast between grey and white matter.
SHIFTED = (
    Scanner(4.5, 0.8, 0.30, 0.86, 1, 5, 0.06),
    Scanner(5.5, 0.6, 0.25, 0.90, 255, 6, 0.10),
    Scanner(3.8, 0.9, 0.35, 0.85, 1, 5, 0.12),
    Scanner(6.0, 0.7, 0.28, 0.92, 1, 6, 0.08),
    Scanner(5.0, 0.9, 0.32, 0.88, 255, 5, 0.14),
    Scanner(4.2, 0.7, 0.40, 0.84, 1, 6, 0.07),
    Scanner(5.8, 0.8, 0.26, 0.91, 255, 5, 0.11),
    Scanner(4.8, 1.0, 0.30, 0.87, 1, 6, 0.09),
    Scanner(5.2, 0.8, 0.38, 0.89, 255, 5, 0.13),
)


def acquire(rng: np.random.Generator, image: Float, site: Scanner) -> NDArray[np.uint8]:
    """The scanner's image of a head: blur, thick slices, ringing, ghosts, shading, noise.

    Each scan departs from its site's average.
    """
    soft = ndimage.gaussian_filter(image, site.blur * rng.uniform(0.7, 1.4, 3), truncate=2.5)
    axis = int(rng.integers(3))
    thickness = round(site.thickness * rng.uniform(0.6, 1.4))
    if thickness > 1:
        soft = ndimage.uniform_filter1d(soft, thickness, axis=axis)
    if rng.random() < 0.3:
        soft = _ringing(soft, int(rng.integers(3)), rng.uniform(0.5, 0.8))
    if site.ghost:
        soft += np.float32(site.ghost) * np.roll(soft, SHAPE[1] // 2, axis=1)
    amplitude = site.bias * rng.uniform(0.4, 1.6)
    shading = smooth_field(rng, rng.uniform(25, 60))[0]
    shading = np.exp(amplitude * (shading - shading.mean()))
    sigma = site.noise * rng.uniform(0.5, 1.7)
    width = rng.uniform(0, 0.8)
    real, imaginary = (_noise(rng, sigma, width) for _ in range(2))
    out = np.zeros(SHAPE, np.uint8)
    for slab in slabs(WHOLE):
        signal = soft[slab] * upsample(shading, slab)
        noisy = np.hypot(signal + _rows(real, slab[0]), _rows(imaginary, slab[0]))
        # what was removed, and air, is exactly zero in the shared files
        out[slab] = np.where(image[slab] > 0.5, np.minimum(noisy + np.float32(0.5), 255), 0)
    return out


def _ringing(image: Float, axis: int, kept: float) -> Float:
    """Gibbs ringing along an axis: only the lower share `kept` of the frequencies is measured."""
    spectrum = fft.rfft(image, axis=axis)
    low = int(kept * spectrum.shape[axis])
    np.moveaxis(spectrum, axis, 0)[low:] = 0
    return np.asarray(np.abs(fft.irfft(spectrum, SHAPE[axis], axis=axis)), dtype=np.float32)


def _noise(rng: np.random.Generator, sigma: float, width: float) -> tuple[Float, Float]:
    """Two tiles of noise, smooth over `width` voxels, whose sum has the standard deviation `sigma`.

    A scan is resampled to the grid, which makes its noise smooth. The tiles' sizes differ, so that
    their sum does not repeat within a head. They are repeated along y and z, not yet along x.
    """

    def tile(size: int) -> Float:
        raw = rng.standard_normal((size,) * 3, dtype=np.float32)
        soft = ndimage.gaussian_filter(raw, width, mode="wrap") if width > 0.2 else raw
        soft = soft * np.float32(sigma / np.sqrt(2) / soft.std())
        return repeat(soft, (size, *SHAPE[1:]))

    return tile(TILE), tile(TILE - 13)


def _rows(tiles: tuple[Float, Float], rows: slice) -> Float:
    """The sum of both tiles at some rows along x."""
    first, second = (tile[np.arange(rows.start, rows.stop) % len(tile)] for tile in tiles)
    return first + second
