"""Chronic infarcts of one synthetic subject: their size, place and shape.

The statistics follow the published aggregates of ATLAS (Liew et al. 2018 for release 1.1: number,
side and location of lesions; Liew et al. 2022 for release 2.0: volume).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.anatomy import (
    CORTEX,
    ORIGIN,
    SHAPE,
    Box,
    Float,
)

# lesion volume per scan in mm3, 655 scans of release 2.0 (Liew et al. 2022)
VOLUME_QUANTILES = {
    0.00: 13,
    0.05: 175,
    0.10: 380,
    0.25: 1_170,
    0.50: 5_290,
    0.75: 36_055,
    0.90: 106_089,
    0.95: 152_838,
    1.00: 496_656,
}
NUMBER_SHARES = (0.55, 0.26, 0.10, 0.06, 0.03)  # of scans with 1, 2, ... 5 lesions (R1.1)
LEFT_SHARE = 53 / 92  # of the scans whose lesion is in one hemisphere (R1.1)


@dataclass(frozen=True)
class Infarct:
    """One lesion as planned, before it is fitted into the subject's anatomy."""

    volume: int  # mm3, which equals voxels
    kind: str  # "subcortical", "cortical", "territory", "brainstem" or "cerebellum"
    side: int  # -1 left, +1 right
    centre: tuple[float, float, float]  # template voxels
    axes: tuple[float, float, float]  # relative lengths of the three half-axes
    cavity: float  # 0..1: share of the lesion that is fluid
    solid: bool  # one connected component; if False, there may be islands beside it
    darkness: float = 1  # 0..1: how far its core is on the way from tissue to fluid
    patches: float = 0  # 0..1: how much the darkness varies within it
    laminar: bool = False  # confined to the cortex

    @property
    def radius(self) -> float:
        """Radius of the ball of the same volume, in mm."""
        return float((3 * self.volume / (4 * np.pi)) ** (1 / 3))

    def grown(self, factor: float) -> Infarct:
        """The same lesion, `factor` times as large."""
        return replace(self, volume=max(1, round(self.volume * factor)))


def draw_volumes(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Total lesion volumes of `count` subjects, one from each of `count` strata, shuffled."""
    ranks = (np.arange(count) + rng.uniform(0.3, 0.7, count)) / count
    known = np.log(list(VOLUME_QUANTILES.values()))
    drawn = np.exp(np.interp(ranks, list(VOLUME_QUANTILES), known))
    return np.asarray(rng.permutation(np.rint(drawn)), dtype=np.int64)


def draw_numbers(rng: np.random.Generator, totals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lesions per subject, in the shares of R1.1; a small total is not split into tiny lesions."""
    edges = np.cumsum(NUMBER_SHARES)
    ranks = (np.arange(len(totals)) + 0.5) / len(totals)
    drawn = 1 + np.searchsorted(edges, ranks, side="right")
    return np.asarray(np.minimum(rng.permutation(drawn), np.maximum(totals // 120, 1)))


def plan(rng: np.random.Generator, total: int, number: int, side: int) -> tuple[Infarct, ...]:
    """Divide a subject's lesion volume among lesions, and choose the kind and place of each.

    The first lesion holds most of the volume: 89 % on average over the scans of R2.0.
    """
    shares = np.ones(1)
    if number > 1:
        first = rng.uniform(0.5, 0.95)
        shares = np.append(first, (1 - first) * rng.dirichlet(np.full(number - 1, 3.0)))
    sizes = np.maximum(np.rint(total * shares).astype(int), min(60, total))
    sizes[0] = total - sizes[1:].sum()
    out: list[Infarct] = []
    for i, size in enumerate(sizes):
        other = i > 0 and rng.random() < 0.3
        for _ in range(30):  # attempts to keep clear of the earlier lesions
            lesion = _draw_infarct(rng, int(size), -side if other else side)
            if not any(_too_close(lesion, earlier) for earlier in out):
                break
        out.append(lesion)
    return tuple(out)


def _too_close(a: Infarct, b: Infarct) -> bool:
    distance = float(np.linalg.norm(np.subtract(a.centre, b.centre)))
    return distance < 1.25 * (a.radius + b.radius) + 5


def _draw_infarct(rng: np.random.Generator, volume: int, side: int) -> Infarct:
    kinds = ("subcortical", "cortical", "territory", "brainstem", "cerebellum")
    if volume < 3_000:
        shares = (0.82, 0.07, 0.0, 0.07, 0.04)
    elif volume < 20_000:
        shares = (0.52, 0.33, 0.06, 0.01, 0.08)
    elif volume < 60_000:
        shares = (0.08, 0.17, 0.72, 0.0, 0.03)
    else:
        shares = (0.0, 0.0, 1.0, 0.0, 0.0)
    kind = str(rng.choice(kinds, p=shares))
    if kind == "territory":
        place, axes = _territory(rng, side)
    else:
        candidates = _candidates(kind)
        place = candidates[rng.integers(len(candidates))].astype(float)
        if (place[0] + ORIGIN[0]) * side < 0:
            place[0] = -place[0] - 2 * ORIGIN[0]
        axes = np.array([0.85, 0.95, 1.3])  # along the penetrating arteries and fibres
    axes = axes * np.exp(rng.normal(0, 0.2, 3))
    axes = axes / np.prod(axes) ** (1 / 3)
    cavity = float(np.clip(rng.beta(3, 1.6), 0.1, 1))
    solid = bool(rng.random() < 0.72)
    darkness = float(rng.beta(2.2, 1.0) * 0.65 + 0.35)
    patches = float(rng.uniform(0.2, 0.8) * (rng.random() < 0.5))
    laminar = bool(kind == "cortical" and rng.random() < 0.3)
    return Infarct(
        volume, kind, side, tuple(place), tuple(axes), cavity, solid, darkness, patches, laminar
    )


def _territory(
    rng: np.random.Generator, side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre (voxels) and axes of a large infarct, mostly of the middle cerebral artery."""
    named = (
        (0.37, (44, -6, 10), (0.75, 1.2, 1.25)),  # whole middle cerebral artery
        (0.22, (44, 14, 18), (0.8, 1.05, 1.3)),  # its anterior division
        (0.20, (46, -40, 20), (0.8, 1.1, 1.3)),  # its posterior division
        (0.04, (28, 26, 38), (0.6, 1.8, 0.95)),  # watershed towards the anterior artery
        (0.04, (32, -52, 38), (0.7, 1.7, 0.9)),  # watershed towards the posterior artery
        (0.09, (18, -78, 4), (0.8, 1.2, 1.1)),  # posterior cerebral artery
        (0.04, (10, 34, 28), (0.6, 1.2, 1.3)),  # anterior cerebral artery
    )
    _, centre, axes = named[rng.choice(len(named), p=[entry[0] for entry in named])]
    place = np.array(centre) + rng.normal(0, 5, 3)
    place[0] *= side
    return place - ORIGIN, np.array(axes)


@lru_cache(maxsize=8)
def _candidates(kind: str) -> NDArray[np.int64]:
    """Template voxels where a lesion of this kind may have its centre."""
    maps = anatomy.template()
    x, y, z = anatomy.mni_coordinates()
    side = np.abs(x)
    region, depth = maps.region, maps.depth
    if kind == "subcortical":
        crown = (
            (region == anatomy.WHITE) & (depth > 14) & (side > 14) & (y > -40) & (y < 35) & (z > 0)
        )
        chosen = ((region == anatomy.DEEP) & (side > 8)) | (crown & (z < 36))
    elif kind == "cortical":
        chosen = (region == CORTEX) & (depth > 4) & (depth < 18) & (side > 20) & (z > -15)
    elif kind == "brainstem":
        chosen = (region == anatomy.BRAINSTEM) & (side > 2) & (side < 10) & (z > -45) & (depth > 3)
    else:
        chosen = (region == anatomy.CEREBELLUM) & (side > 10) & (depth > 6)
    return np.argwhere(chosen)


@dataclass(frozen=True)
class FittedLesion:
    """A lesion fitted into the subject's anatomy, within a box around it."""

    box: Box
    mask: NDArray[np.bool_]
    inside: Float  # mm from the outline, positive within the lesion, negative around it
    places: Float  # (3, *box) template voxels
    bed: NDArray[np.bool_]  # tissue of the same hemisphere and part of the brain


def fit_lesion(
    rng: np.random.Generator, lesion: Infarct, field: Float, taken: NDArray[np.bool_]
) -> FittedLesion:
    """Find the lesion's voxels in the subject's space, exactly `lesion.volume` if they fit.

    Parameters
    ----------
    rng : numpy.random.Generator
    lesion : Infarct
    field : ndarray, ``(3, *anatomy.NODES)``
        The subject's displacement.
    taken : ndarray of bool, (197, 233, 189)
        Voxels of this subject's earlier lesions and their surroundings, which it must avoid.
    """
    middle = anatomy.centre_in_subject(field, lesion.centre)
    reach = 1.5 * lesion.radius * max(lesion.axes) + 6
    state = rng.bit_generator.state
    while True:
        rng.bit_generator.state = state  # a larger box must not change the shape
        box = _box(middle, reach)
        where = anatomy.template_coordinates(field, box)
        score, bed = _score(rng, lesion, where)
        free = bed & ~taken[box]
        whole = all(r.stop - r.start == size for r, size in zip(box, SHAPE, strict=True))
        limit = _lowest_voxels(score, free, lesion.volume, lesion.solid)
        edge = _edge_minimum(score, free, box)
        if whole or (limit is not None and limit[0] < edge):
            break
        reach *= 1.35
    level, mask = limit if limit is not None else (float(score[free].max(initial=1)), free)
    inside = (np.float32(level) - score) / np.float32(level) * np.float32(lesion.radius)
    return FittedLesion(box, mask, inside, where, bed)


def _box(middle: NDArray[np.float64], reach: float) -> Box:
    low = np.clip(np.floor(middle - reach), 0, np.array(SHAPE) - 2).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, low + 2, SHAPE).astype(int)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _edge_minimum(score: Float, free: NDArray[np.bool_], box: Box) -> float:
    """The lowest score on those faces of the box that are not faces of the grid."""
    least = np.inf
    for axis, (r, size) in enumerate(zip(box, SHAPE, strict=True)):
        for index, inner in ((0, r.start > 0), (-1, r.stop < size)):
            if inner:
                kept = np.take(free, index, axis=axis)
                least = min(least, np.take(score, index, axis=axis)[kept].min(initial=np.inf))
    return float(least)


def _score(
    rng: np.random.Generator, lesion: Infarct, where: Float
) -> tuple[Float, NDArray[np.bool_]]:
    """An irregular distance from the centre (mm), and the tissue where this lesion may be."""
    nearest = [
        np.clip(np.rint(w), 0, n - 1).astype(np.intp) for w, n in zip(where, SHAPE, strict=True)
    ]
    flat = np.ravel_multi_index(nearest, SHAPE)
    region = anatomy.template().region.ravel()[flat]
    tissue = (region != anatomy.OUTSIDE) & (region != anatomy.VENTRICLE)
    below = (region == anatomy.BRAINSTEM) | (region == anatomy.CEREBELLUM)
    home = {"brainstem": anatomy.BRAINSTEM, "cerebellum": anatomy.CEREBELLUM}.get(lesion.kind)
    free = tissue & (region == home if home is not None else ~below)
    mm = where[0] + np.float32(ORIGIN[0])
    if home != anatomy.BRAINSTEM:
        free &= mm * lesion.side > 1
    turn = np.linalg.qr(np.eye(3) + 0.25 * rng.standard_normal((3, 3)))[0]  # tilted a little
    away = [where[i] - np.float32(lesion.centre[i]) for i in range(3)]
    squared = np.zeros(where.shape[1:], np.float32)
    for i in range(3):
        offset = sum(np.float32(turn[i, j]) * away[j] for j in range(3))
        squared += (offset / np.float32(lesion.axes[i])) ** 2
    size = lesion.radius
    rugged = 0.24 * anatomy.noise_at(rng, where, max(1.2 * size, 4))
    rugged += 0.14 * anatomy.noise_at(rng, where, max(0.5 * size, 3))
    if size > 8:
        rugged += 0.07 * anatomy.noise_at(rng, where, max(0.2 * size, 4))  # about a gyrus wide
    score = np.sqrt(squared) * np.clip(1 + rugged, 0.4, None)
    if lesion.kind in ("cortical", "territory"):
        depth = anatomy.template().depth.ravel()[flat]
        far, slope = (6, 10) if lesion.laminar else (22, 60)
        score *= 1 + np.maximum(depth.astype(np.float32) - far, 0) / slope  # wider at the surface
    if lesion.kind == "subcortical":
        score *= np.where(region == CORTEX, np.float32(1.5), np.float32(1))
    if lesion.kind == "territory" and lesion.centre[1] + ORIGIN[1] > -60:
        medial = np.clip((22 - np.abs(mm)) / 10, 0, 1)  # the other arteries' territories
        score *= 1 + np.float32(0.6) * medial.astype(np.float32)
    return score, free


def _lowest_voxels(
    score: Float, free: NDArray[np.bool_], volume: int, solid: bool
) -> tuple[float, NDArray[np.bool_]] | None:
    """Level and mask of the `volume` voxels that score lowest, in one component if `solid`."""
    values = score[free]
    if len(values) < volume:
        return None
    if not solid:
        order = np.argpartition(values, volume - 1)[:volume]
        mask = np.zeros_like(free)
        mask.ravel()[np.flatnonzero(free)[order]] = True
        return float(values[order].max()), mask
    wanted = volume
    for _ in range(6):
        level = np.partition(values, wanted - 1)[wanted - 1]
        mask = free & (score <= level)
        parts, count = ndimage.label(mask)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        best = int(sizes.argmax())
        missing = volume - int(sizes[best])
        if missing <= 0 or wanted + missing > len(values):
            break
        wanted += missing
    piece = parts == best + 1
    surplus = int(sizes[best]) - volume
    if surplus > 0:
        order = np.argsort(np.where(piece, score, -np.inf), axis=None, kind="stable")
        piece.ravel()[order[-surplus:]] = False
    elif surplus < 0:  # fill up from the other components
        order = np.argsort(np.where(mask & ~piece, score, np.inf), axis=None, kind="stable")
        piece.ravel()[order[:-surplus]] = True
    return float(level), piece
