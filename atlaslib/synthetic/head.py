"""A healthy synthetic head, before it is scanned: arrays, no files.

It is painted in the template's space (tissue, what surrounds the brain, lesion mimics) and warped
once into the subject's space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from atlaslib.synthetic import face
from atlaslib.synthetic.anatomy import (
    CORTEX,
    DEEP,
    ORIGIN,
    SHAPE,
    TILE,
    WHITE,
    Float,
    box_around,
    repeat,
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
    deep: float  # grey matter inside the brain: brighter than the cortex

    @classmethod
    def draw(cls, rng: np.random.Generator, site: Scanner) -> Tissue:
        """Draw intensities that vary widely around the site's contrast."""
        white, fluid = rng.uniform(80, 96), rng.uniform(5, 28)
        share = np.clip(site.grey + rng.uniform(-0.12, 0.12), 0.35, 0.92)
        grey = fluid + (white - fluid) * share
        return cls(fluid, grey, white, grey + (white - grey) * rng.uniform(0.05, 0.5))


def healthy_head(
    rng: np.random.Generator, tissue: Tissue, atrophy: float, small_vessel: float
) -> Float:
    """A healthy head in the template's space, (197, 233, 189), before any blur or noise.

    The template averages many people, which blurs their folds. Random fields displace its tissue
    maps and sharpen them to the borders of one person.

    Parameters
    ----------
    rng : numpy.random.Generator
    tissue : Tissue
    atrophy, small_vessel : float
        0 to 1: widening of the sulci; perivascular spaces and white-matter hyperintensities.
    """
    maps = template()
    image = np.zeros(SHAPE, np.float32)
    flat, brain = image.reshape(-1), maps.within
    region = maps.region.ravel()[brain]
    fields = [_tiled(rng, feature) for feature in (4, 8)]
    free = np.where(region == DEEP, np.float32(0.4), np.float32(1))  # less varied than the folds
    waves = 0.7 * fields[0][brain] + 0.45 * fields[1][brain]
    fluid = _share(maps.fluid_odds + waves * free + np.float32(0.35 + 0.9 * atrophy))
    waves = 0.6 * _tiled(rng, 4)[brain] - 0.5 * fields[1][brain]
    white = _share(maps.white_odds + waves * free + 1.2 * _below_surface(fluid, region))
    grey = np.where(region == DEEP, np.float32(tissue.deep), np.float32(tissue.grey))
    solid = grey + (np.float32(tissue.white) - grey) * white
    flat[brain] = solid + (np.float32(tissue.fluid) - solid) * fluid
    places, values = face.surroundings(rng, tissue.fluid, atrophy, fields[0])
    flat[places] = values
    _hyperintensities(rng, image, fields[0], small_vessel, tissue.grey - 9)
    _perivascular(rng, image, small_vessel, tissue.fluid)
    return image


def _below_surface(fluid: Float, region: NDArray[np.uint8]) -> Float:
    """Log odds of white matter by the distance from fluid: the cortex is about 3 mm thick."""
    maps = template()
    near = np.ones(SHAPE, np.float32)  # whatever surrounds the brain is fluid here
    near.reshape(-1)[maps.within] = fluid
    near[maps.box] = ndimage.gaussian_filter(near[maps.box], 2, mode="constant", cval=1, truncate=3)
    # 3 mm from an even surface, a Gaussian of 2 mm leaves .07 of it
    odds = -np.log((near.reshape(-1)[maps.within] + np.float32(0.004)) / np.float32(0.07))
    return np.where((region == CORTEX) | (region == WHITE), odds, np.float32(0))


def _share(odds: Float) -> Float:
    """Log odds to a share of 0 to 1, with a border that is sharp as in one person."""
    return np.asarray(special.expit(np.float32(2.2) * odds))


def _tiled(rng: np.random.Generator, feature: int) -> Float:
    """The texture tiled over the whole grid from a random start, mirrored or not; flattened."""
    start, mirrored = rng.integers(0, TILE, 3), rng.random(3) < 0.5
    tile = np.flip(np.roll(texture(feature), start, (0, 1, 2)), tuple(np.flatnonzero(mirrored)))
    return repeat(tile, SHAPE).ravel()


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
    reach = int(np.ceil(np.abs(field).max())) + 1
    for slab in slabs(box_around(image > 0, reach)):
        out[slab] = ndimage.map_coordinates(
            image, template_coordinates(field, slab), order=1, output=np.float32, prefilter=False
        )
    return out
