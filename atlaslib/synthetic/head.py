"""A healthy synthetic head, before it is scanned: arrays, no files.

It is painted in the template's space (tissue contrast, skull and scalp, lesion mimics) and warped
once into the subject's space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.synthetic.anatomy import (
    CORTEX,
    ORIGIN,
    SHAPE,
    TILE,
    Float,
    slabs,
    template,
    template_coordinates,
    texture,
)
from atlaslib.synthetic.scanner import Scanner


@dataclass(frozen=True)
class Tissue:
    """One subject's intensities at one site, 0..100."""

    fluid: float
    grey: float
    white: float

    @classmethod
    def draw(cls, rng: np.random.Generator, site: Scanner) -> Tissue:
        """Draw intensities that vary a little around the site's contrast."""
        white, fluid = rng.uniform(82, 94), rng.uniform(14, 21)
        share = site.grey + rng.uniform(-0.03, 0.03)
        return cls(fluid, fluid + (white - fluid) * share, white)


def healthy_head(
    rng: np.random.Generator, tissue: Tissue, atrophy: float, small_vessel: float
) -> Float:
    """A healthy head in the template's space, (197, 233, 189), before any blur or noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    tissue : Tissue
    atrophy, small_vessel : float
        0 to 1: widening of the sulci; perivascular spaces and white-matter hyperintensities.
    """
    maps = template()
    fluid, grey, white = tissue.fluid, tissue.grey, tissue.white
    sulcus = 0.43 + 0.09 * atrophy  # below this template value everything is fluid
    knots = [0, 0.27, sulcus, 0.66, 0.87, 1.0]
    levels = [fluid, fluid, fluid + 8, grey, white, white + 7]
    curve = np.interp(np.arange(256) / 255, knots, levels).astype(np.float32)
    grain = _tiled(rng)  # the template is a mean of many people: restore some detail in the folds
    image = np.zeros(SHAPE, np.float32)
    flat, brain, around = image.reshape(-1), maps.within, maps.around
    folds = 14 * grain[brain] * (maps.region.ravel()[brain] == CORTEX)
    flat[brain] = curve[np.clip(maps.t1.ravel()[brain] + folds, 0, 255).astype(np.uint8)]
    layers = _layers(rng, fluid, atrophy)[maps.shell.ravel()[around]]
    flat[around] = layers * (1 + np.float32(0.07) * grain[around])
    _hyperintensities(rng, image, grain, small_vessel, grey - 9)
    _perivascular(rng, image, small_vessel, fluid)
    return image


def _tiled(rng: np.random.Generator) -> Float:
    """The texture tiled over the whole grid from a random start, flattened."""
    start = rng.integers(0, TILE, 3)
    index = [(np.arange(size) + first) % TILE for size, first in zip(SHAPE, start, strict=True)]
    return texture(4)[np.ix_(*index)].ravel()


def _layers(rng: np.random.Generator, fluid: float, atrophy: float) -> Float:
    """Intensity per quarter mm outside the brain: fluid, skull, marrow, skull, fat, skin, air."""
    widths = rng.uniform([0.8, 1.2, 2.0, 1.2, 3.0, 1.0], [1.8, 2.0, 4.0, 2.0, 6.0, 1.8])
    widths[0] += 1.5 * atrophy
    levels = [fluid, 5, rng.uniform(35, 65), 5, rng.uniform(88, 112), 45]
    ends = np.cumsum(widths)
    starts = np.concatenate([[0], ends[:-1]])
    knots = np.stack([starts + 0.3, ends - 0.3], axis=1).ravel()
    values = np.repeat(levels, 2)
    layer = np.interp(np.arange(256) / 4, [*knots, ends[-1] + 0.4], [*values, 0.0])
    layer[255] = 0
    return layer.astype(np.float32)


def _hyperintensities(
    rng: np.random.Generator, image: Float, grain: Float, amount: float, level: float
) -> None:
    """Rarefied white matter at the ventricles' horns, on both sides: dark on T1."""
    maps = template()
    where = np.flatnonzero(maps.lining > 20)
    rough = np.float32(0.4 + 2.4 * amount) * (1 + np.float32(0.3) * grain[where])
    weight = np.clip(maps.lining.ravel()[where] / np.float32(255) * rough - 0.2, 0, 0.8)
    flat = image.reshape(-1)
    flat[where] += weight * np.minimum(np.float32(level) - flat[where], 0)
    for _ in range(rng.poisson(6 * amount)):
        spot = np.array([rng.uniform(20, 34), rng.uniform(-45, 40), rng.uniform(18, 38)])
        for side in (-1, 1):
            centre = spot * (side, 1, 1) + rng.normal(0, 2.0, 3)
            tube(image, centre, centre + rng.normal(0, 1.5, 3), rng.uniform(0.8, 2.0), level, 0.6)


def _perivascular(rng: np.random.Generator, image: Float, amount: float, level: float) -> None:
    """Fluid-filled spaces around small arteries: dark tubes, mostly in the basal ganglia."""
    for _ in range(2 + rng.poisson(24 * amount)):
        side = rng.choice([-1, 1])
        start = np.array([side * rng.uniform(15, 29), rng.uniform(-8, 14), rng.uniform(-8, 2)])
        if rng.random() < 0.25:  # some in the white matter above
            start = np.array(
                [side * rng.uniform(18, 32), rng.uniform(-35, 30), rng.uniform(24, 36)]
            )
        direction = np.array([side * rng.uniform(-0.2, 0.5), rng.normal(0, 0.25), 1.0])
        end = start + direction * rng.uniform(3, 11)
        tube(image, start, end, rng.uniform(0.45, 0.95), level, rng.uniform(0.5, 0.9))


def tube(
    image: Float,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    radius: float,
    level: float,
    strength: float,
) -> None:
    """Blend a soft-edged tube (mm, template's space) of intensity `level` into the image."""
    ends = np.stack([start, end]) - ORIGIN
    low = np.maximum(np.floor(ends.min(0) - radius - 2), 0).astype(int)
    high = np.minimum(np.ceil(ends.max(0) + radius + 3), SHAPE).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(*[np.arange(r.start, r.stop) for r in box], indexing="ij"), -1)
    axis = ends[1] - ends[0]
    share = np.clip(((grid - ends[0]) @ axis) / max(float(axis @ axis), 1e-6), 0, 1)
    distance = np.sqrt((((grid - ends[0]) - share[..., None] * axis) ** 2).sum(-1))
    weight = (strength * np.clip(radius + 0.5 - distance, 0, 1)).astype(np.float32)
    image[box] += weight * np.minimum(np.float32(level) - image[box], 0)


def warp(image: Float, field: Float) -> Float:
    """The image warped into the subject's space."""
    out = np.zeros(SHAPE, np.float32)
    found = ndimage.find_objects((image > 0).view(np.uint8), max_label=1)[0]
    reach = int(np.ceil(np.abs(field).max())) + 1
    x, y, z = (
        slice(max(0, r.start - reach), min(size, r.stop + reach))
        for r, size in zip(found, SHAPE, strict=True)
    )
    for slab in slabs((x, y, z)):
        out[slab] = ndimage.map_coordinates(
            image, template_coordinates(field, slab), order=1, output=np.float32, prefilter=False
        )
    return out
