"""The scanners of the synthetic sites, and how each images a head: arrays, no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.synthetic.anatomy import SHAPE, WHOLE, Float, slabs, smooth_field, upsample


@dataclass(frozen=True)
class Scanner:
    """How one site images a head; intensities are on the scale 0..100."""

    noise: float  # standard deviation of each channel of the complex signal
    blur: tuple[float, float, float]  # voxels, standard deviation along x, y, z
    bias: float  # relative amplitude of the smooth shading
    grey: float  # grey matter as a share of the way from fluid to white matter
    mask_value: int  # value of lesion voxels in this site's mask files


SCANNERS = (
    Scanner(1.8, (0.50, 0.50, 0.50), 0.06, 0.66, 255),
    Scanner(2.6, (0.60, 0.60, 0.60), 0.10, 0.62, 1),
    Scanner(1.5, (0.45, 0.45, 0.45), 0.05, 0.68, 255),
    Scanner(3.4, (0.50, 0.50, 0.80), 0.12, 0.60, 255),
    Scanner(2.2, (0.70, 0.55, 0.55), 0.08, 0.64, 1),
    Scanner(2.9, (0.55, 0.55, 0.55), 0.14, 0.69, 255),
    Scanner(1.9, (0.80, 0.80, 0.80), 0.07, 0.63, 1),
    Scanner(2.4, (0.50, 0.50, 0.50), 0.11, 0.67, 255),
    Scanner(3.0, (0.65, 0.65, 0.65), 0.09, 0.61, 1),
)
# Sites unlike any above: noisier, mostly more blurred, three times the shading, grey matter
# darker or brighter than at any of them.
SHIFTED = tuple(
    Scanner(noise, (blur, blur, blur), bias, grey, 1)
    for noise, blur, bias, grey in (
        (4.5, 0.9, 0.30, 0.48),
        (5.5, 0.6, 0.25, 0.80),
        (3.8, 1.1, 0.35, 0.50),
        (6.0, 0.8, 0.28, 0.78),
        (5.0, 1.0, 0.32, 0.45),
        (4.2, 0.7, 0.40, 0.82),
        (5.8, 1.0, 0.26, 0.52),
        (4.8, 1.2, 0.30, 0.76),
        (5.2, 0.9, 0.38, 0.46),
    )
)


def acquire(rng: np.random.Generator, image: Float, site: Scanner) -> NDArray[np.uint8]:
    """The scanner's image of a head: blur, shading, Rician noise, rounded to integers."""
    soft = ndimage.gaussian_filter(image, site.blur, truncate=2.5)
    shading = np.exp(site.bias * smooth_field(rng, 45)[0])
    sigma = np.float32(site.noise)
    out = np.zeros(SHAPE, np.uint8)
    for slab in slabs(WHOLE):
        seen = soft[slab] > 0.5  # air and the removed face are exactly zero in the shared files
        signal = (soft[slab] * upsample(shading, slab))[seen]
        draws = sigma * rng.standard_normal((2, signal.size), dtype=np.float32)
        noisy = np.sqrt((signal + draws[0]) ** 2 + draws[1] ** 2)
        out[slab][seen] = np.minimum(noisy + np.float32(0.5), 255)
    return out
