"""The template's anatomy, and the smooth fields that warp it into one person's: arrays, no files.

The maps come from the MNI152 T1 template (Fonov et al. 2011) that nilearn ships. Displacements
point backwards: the subject's voxel p shows the template's voxel p + D(p). They and all other
smooth fields are stored on a coarse grid of nodes, one every 4 voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.data.volumes import GRID as SHAPE
from atlaslib.data.volumes import ORIGIN

Float = NDArray[np.float32]
Box = tuple[slice, slice, slice]

WHOLE = (slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(0, SHAPE[2]))
STEP = 4  # voxels between the nodes of every smooth field
NODES = tuple((size - 1) // STEP + 2 for size in SHAPE)
OUTSIDE, CORTEX, WHITE, DEEP, VENTRICLE, BRAINSTEM, CEREBELLUM = range(7)
TILE = 96  # voxels after which the noise texture repeats


@dataclass(frozen=True)
class Template:
    """Maps of the MNI152 template on its 1 mm grid, except where noted."""

    white_odds: Float  # log odds of white against grey matter, of the voxels in `within`
    fluid_odds: Float  # log odds of fluid against tissue, of the same
    region: NDArray[np.uint8]  # OUTSIDE, CORTEX, ...
    depth: NDArray[np.uint8]  # mm below the brain's outer surface
    shell: NDArray[np.uint8]  # distance from the brain's smooth hull, in quarter mm
    within: NDArray[np.intp]  # flat indices of the brain
    box: Box  # around the brain
    lining: NDArray[np.uint8]  # 0..255: white matter close to the ventricles' horns
    inner: Float  # 1 in the brain, falling to 0 in the scalp, at the nodes
    vent_distance: Float  # signed mm to the lateral ventricles, at the nodes
    vent_normal: Float  # (3, *nodes) unit vectors away from the ventricles


def mni_coordinates() -> tuple[Float, Float, Float]:
    """MNI coordinates of the voxels along x, y and z, shaped to broadcast."""
    x, y, z = (np.arange(n, dtype=np.float32) + o for n, o in zip(SHAPE, ORIGIN, strict=True))
    return x[:, None, None], y[None, :, None], z[None, None, :]


@lru_cache(maxsize=1)
def template() -> Template:
    """The template and all that derives from it alone; takes some seconds, once per process."""
    # imported here: nilearn takes seconds to import and only this function needs it
    from nilearn import datasets

    t1, grey, white, mask = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    brain = mask > 0
    depth = ndimage.distance_transform_edt(brain).astype(np.float32)
    region = _regions(t1, grey >= white, brain, depth)
    signed, normal = _ventricle_field(region == VENTRICLE)
    lining = white * np.exp(-np.maximum(upsample(signed), 0) / 5) * _horns()
    shell = _shell(brain)
    shell[brain] = 0
    either = np.maximum(grey + white, 1e-3)[brain]
    spread = np.maximum(1 - grey - white, 0)[brain]
    nodes = np.ix_(
        *[np.minimum(np.arange(n) * STEP, s - 1) for n, s in zip(NODES, SHAPE, strict=True)]
    )
    return Template(
        white_odds=np.log((white[brain] / either + 0.02) / (grey[brain] / either + 0.02)),
        fluid_odds=np.log((spread + 0.02) / (1.02 - spread)),
        region=region,
        depth=np.minimum(depth, 255).astype(np.uint8),
        shell=shell,
        within=np.flatnonzero(brain),
        box=ndimage.find_objects(brain.view(np.uint8))[0],
        lining=np.rint(np.clip(lining, 0, 1) * 255).astype(np.uint8),
        inner=np.exp(shell[nodes] / np.float32(-20)),
        vent_distance=signed,
        vent_normal=normal,
    )


def _regions(
    t1: Float, greyer: NDArray[np.bool_], brain: NDArray[np.bool_], depth: Float
) -> NDArray[np.uint8]:
    """Coarse anatomy from tissue and MNI coordinates: enough to place a lesion."""
    x, y, z = mni_coordinates()
    side = np.abs(x)
    region = np.where(greyer, CORTEX, WHITE).astype(np.uint8)
    region[(side < 33) & (y > -32) & (y < 24) & (z > -10) & (z < 22) & (depth > 22)] = DEEP
    stem = (side < np.where(z > -20, 15, 18)) & (y > -44) & (y < -12) & (z < -6)
    region[(z < -3 - 0.45 * side) & (y < -34) & ~stem] = CEREBELLUM
    region[stem] = BRAINSTEM
    inner = (side < 34) & (y > -50) & (y < 38) & (z > -14) & (z < 32) & (depth > 12)
    inner = inner & ((side < 25) | (y < -22)) & ~((y < -30) & (z < 6) & (side < 12))
    inner &= ~((side < 5) & (y > 20))  # the fissure in front of the corpus callosum
    fluid = ndimage.binary_closing((t1 < 0.5) & inner, iterations=2)
    parts, count = ndimage.label(fluid)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    region[np.isin(parts, np.flatnonzero(sizes > 300))] = VENTRICLE
    region[~brain] = OUTSIDE
    return region


def _horns() -> Float:
    """Weight of white-matter damage: high at the frontal and occipital horns, 0 at the midline."""
    x, y, _ = mni_coordinates()
    front = np.exp(-(((y - 30) / 12) ** 2))
    back = np.exp(-(((y + 48) / 14) ** 2))
    return np.asarray((0.35 + front + back) * np.clip((np.abs(x) - 8) / 8, 0, 1), dtype=np.float32)


def _ventricle_field(ventricle: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Signed distance to the ventricles and its smoothed gradient, both at the nodes."""
    coarse = ventricle[::2, ::2, ::2]
    signed = ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse)
    smooth = ndimage.gaussian_filter(2 * signed, 1.5)
    gradient = np.stack(np.gradient(smooth, 2.0))
    nodes = [
        np.minimum(np.arange(n) * STEP // 2, s - 1)
        for n, s in zip(NODES, coarse.shape, strict=True)
    ]
    picked = np.ix_(*nodes)
    return smooth[picked].astype(np.float32), gradient[:, *picked].astype(np.float32)


def _shell(brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Distance from the brain's smooth hull: the skull does not follow the sulci."""
    coarse = np.pad(brain[::2, ::2, ::2].astype(np.float32), 12, mode="edge")
    hull = (ndimage.gaussian_filter(coarse, 4) > 0.45) | (coarse > 0)
    distance = ndimage.distance_transform_edt(~hull)[12:-12, 12:-12, 12:-12] * 2.0
    grown = _linear(distance.astype(np.float32), [np.arange(size) / 2 for size in SHAPE])
    return np.minimum(grown * 4, 255).astype(np.uint8)


def _linear(values: Float, places: list[NDArray[np.float64]]) -> Float:
    """Linear interpolation along the last three axes; plain sums, so the result is bit-exact."""
    for axis, place in enumerate(places, start=values.ndim - 3):
        low = np.minimum(place.astype(np.intp), values.shape[axis] - 2)
        shape = [1] * values.ndim
        shape[axis] = -1
        share = (place - low).astype(np.float32).reshape(shape)
        first = np.take(values, low, axis=axis)
        values = first + share * (np.take(values, low + 1, axis=axis) - first)
    return values


def upsample(field: Float, box: Box | None = None) -> Float:
    """A field given at the nodes, ``(..., *NODES)``, at every voxel of the box (or of the grid)."""
    ranges = box or tuple(slice(0, size) for size in SHAPE)
    return _linear(field, [np.arange(r.start, r.stop) / STEP for r in ranges])


def smooth_field(rng: np.random.Generator, width: float, channels: int = 1) -> Float:
    """Gaussian noise ``(channels, *NODES)`` of unit variance, smooth over `width` mm."""
    raw = rng.standard_normal((channels, *NODES), dtype=np.float32)
    sigma = width / STEP
    soft = ndimage.gaussian_filter(raw, (0, sigma, sigma, sigma), mode="wrap", truncate=3)
    return np.asarray(soft / soft.std(), dtype=np.float32)


@lru_cache(maxsize=2)
def texture(feature: int) -> Float:
    """A cube of smooth noise, unit variance, that tiles space; `feature` is in voxels."""
    raw = np.random.default_rng(feature).standard_normal((TILE,) * 3, dtype=np.float32)
    soft = ndimage.gaussian_filter(raw, feature / 2, mode="wrap")
    return np.asarray(soft / soft.std(), dtype=np.float32)


def repeat(tile: Float, sizes: tuple[int, int, int]) -> Float:
    """A tile repeated along each axis as often as these sizes need."""
    more = [(0, size - length) for size, length in zip(sizes, tile.shape, strict=True)]
    return np.pad(tile, more, mode="wrap")


def noise_at(rng: np.random.Generator, places: Float, feature: float) -> Float:
    """Smooth noise of unit variance at `places` (3, ...), with features `feature` voxels wide."""
    start = rng.uniform(0, TILE, 3).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
    turn *= np.float32(8 / feature)
    skip = int(np.clip(feature / 4, 1, 6))  # coarse noise is interpolated from fewer voxels
    nodes = [np.minimum(np.arange(0, size + skip, skip), size - 1) for size in places.shape[1:]]
    picked = places[:, *np.ix_(*nodes)] if skip > 1 else places
    turned = np.stack([sum(turn[i, j] * picked[j] for j in range(3)) + start[i] for i in range(3)])
    out = ndimage.map_coordinates(texture(8), turned, order=1, mode="grid-wrap", prefilter=False)
    if skip == 1:
        return np.asarray(out, dtype=np.float32)
    return _linear(out, [np.arange(size) / skip for size in places.shape[1:]])


def displacement(rng: np.random.Generator, atrophy: float, widening: tuple[float, float]) -> Float:
    """A subject's displacement D, ``(3, *NODES)`` voxels.

    Parameters
    ----------
    rng : numpy.random.Generator
    atrophy : float
        0 to 1: enlarges both lateral ventricles.
    widening : (float, float)
        Further mm by which the left and the right ventricle grow, beside a lesion.
    """
    maps = template()
    field = 3.0 * smooth_field(rng, 26, 3)
    # folds differ more than the skull, which is stiff
    field += maps.inner * (1.8 * smooth_field(rng, 12, 3) + 0.8 * smooth_field(rng, 6, 3))
    centre = np.array([98, 116, 90], dtype=np.float32)
    matrix = (0.03 * rng.standard_normal((3, 3))).astype(np.float32)  # size, tilt and shear
    grid = [np.arange(n, dtype=np.float32) * STEP - c for n, c in zip(NODES, centre, strict=True)]
    offsets = np.meshgrid(*grid, indexing="ij")
    for i in range(3):
        field[i] += sum(matrix[i, j] * offsets[j] for j in range(3))
    field += rng.normal(0, 0.8, 3).astype(np.float32)[:, None, None, None]  # registration error
    x = offsets[0]
    right = np.clip(0.5 + x / 16, 0, 1)
    amount = 2.5 * atrophy + widening[0] * (1 - right) + widening[1] * right
    distance = maps.vent_distance
    # from the ventricle's axis, 5 mm deep, to its new wall the fluid is stretched evenly
    reach = np.clip((5 + distance) / (5 + amount), 0, 1)
    reach *= np.exp(-((np.maximum(distance - amount, 0) / 20) ** 2))
    return unfolded(field - amount * reach * maps.vent_normal)


def unfolded(field: Float) -> Float:
    """The displacement, weakened until it folds nowhere: every volume keeps a fifth at least."""
    while jacobian_determinant(field).min() < 0.2:
        field = field * np.float32(0.9)
    return np.asarray(field, dtype=np.float32)


def jacobian_determinant(field: Float) -> Float:
    """The determinant of the Jacobian of p + D(p) at the nodes; negative where it folds."""
    a, b, c = (np.stack(np.gradient(part, STEP)) for part in field)  # each (3, *NODES)
    a[0] += 1
    b[1] += 1
    c[2] += 1
    return np.asarray((a * np.cross(b, c, axis=0)).sum(0), dtype=np.float32)


def contract(field: Float, centre: NDArray[np.float64], radius: float, strength: float) -> None:
    """Pull the tissue around a scar towards `centre` (voxels); modifies `field` in place."""
    offsets = [
        (np.arange(n, dtype=np.float32) * STEP - np.float32(c)).reshape(
            [-1 if axis == i else 1 for axis in range(3)]
        )
        for i, (n, c) in enumerate(zip(NODES, centre, strict=True))
    ]
    squared = offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2
    weight = np.float32(strength) * np.exp(-squared / np.float32(2 * (1.4 * radius) ** 2))
    for i in range(3):
        field[i] += weight * offsets[i]


def template_coordinates(field: Float, box: Box) -> Float:
    """The template voxel that each voxel of the box shows: coordinates ``(3, *box)``."""
    out = upsample(field, box)
    for i, r in enumerate(box):
        shape = [1, 1, 1]
        shape[i] = -1
        out[i] += np.arange(r.start, r.stop, dtype=np.float32).reshape(shape)
    return out


def centre_in_subject(field: Float, centre: tuple[float, float, float]) -> NDArray[np.float64]:
    """The subject's voxel that shows the template's voxel `centre`, by fixed-point iteration."""
    goal = np.asarray(centre)
    point = goal.copy()
    for _ in range(4):
        shift = [
            ndimage.map_coordinates(part, (point / STEP)[:, None], order=1, mode="nearest")
            for part in field
        ]
        point = goal - np.ravel(shift)
    return point


def box_around(mask: NDArray[np.bool_], margin: int) -> Box:
    """The smallest box around a mask, with a margin in voxels that ends at the array's edge."""
    found = ndimage.find_objects(mask.view(np.uint8))[0]
    x, y, z = (
        slice(max(0, r.start - margin), min(size, r.stop + margin))
        for r, size in zip(found, mask.shape, strict=True)
    )
    return x, y, z


def slabs(box: Box, thickness: int = 16) -> Iterator[Box]:
    """Cut a box into slabs along x, so that each computation stays in the CPU's cache."""
    for start in range(box[0].start, box[0].stop, thickness):
        yield slice(start, min(start + thickness, box[0].stop)), box[1], box[2]
