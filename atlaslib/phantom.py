"""The healthy head of one synthetic subject, and the scanner that pictures it: arrays, no files.

Everything starts from the MNI152 T1 template (Fonov et al. 2011) that nilearn ships. A head is
painted in the template's space (tissue contrast, skull and scalp, what imitates lesions), bent
once by a smooth displacement into the subject's space, and pictured with blur, bias field and
noise. Displacements pull back: the subject's voxel p shows the template's voxel p + D(p).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float32]
Box = tuple[slice, slice, slice]

SHAPE = (197, 233, 189)
ORIGIN = (-98, -134, -72)  # mm of voxel (0, 0, 0): the grid is 1 mm, RAS
STEP = 4  # voxels between the nodes of every smooth field
NODES = tuple((size - 1) // STEP + 2 for size in SHAPE)
OUTSIDE, CORTEX, WHITE, DEEP, VENTRICLE, BRAINSTEM, CEREBELLUM = range(7)
TILE = 96  # voxels after which the noise texture repeats


@dataclass(frozen=True)
class Template:
    """Maps of the MNI152 template on its 1 mm grid, except where noted."""

    t1: NDArray[np.uint8]  # 0..255, zero outside the brain
    region: NDArray[np.uint8]  # OUTSIDE, CORTEX, ...
    depth: NDArray[np.uint8]  # mm below the brain's outer surface
    shell: NDArray[np.uint8]  # quarter mm outside the smoothed brain; 255 is air
    lining: NDArray[np.uint8]  # 0..255: white matter close to the ventricles' horns
    inner: Float  # 1 in the brain, falling to 0 in the scalp, at the nodes
    vent_distance: Float  # signed mm to the lateral ventricles, at the nodes
    vent_normal: Float  # (3, *nodes) unit vectors away from the ventricles


@dataclass(frozen=True)
class Scanner:
    """How one site pictures a head; intensities are on the scale 0..100."""

    noise: float  # standard deviation of each channel of the complex signal
    blur: tuple[float, float, float]  # voxels, standard deviation along x, y, z
    bias: float  # relative amplitude of the smooth shading
    grey: float  # grey matter as a share of the way from fluid to white matter
    mask_value: int  # what this site's lesion files hold inside a lesion


@dataclass(frozen=True)
class Tissue:
    """One subject's intensities at one site, 0..100."""

    fluid: float
    grey: float
    white: float

    @classmethod
    def draw(cls, rng: np.random.Generator, site: Scanner) -> Tissue:
        """Vary a little around the site's contrast."""
        white, fluid = rng.uniform(82, 94), rng.uniform(14, 21)
        share = site.grey + rng.uniform(-0.03, 0.03)
        return cls(fluid, fluid + (white - fluid) * share, white)


def millimetres() -> tuple[Float, Float, Float]:
    """MNI coordinates of the voxels' rows along x, y and z, shaped to broadcast."""
    x, y, z = (
        np.arange(n, dtype=np.float32) + o for n, o in zip(SHAPE, ORIGIN, strict=True)
    )
    return x[:, None, None], y[None, :, None], z[None, None, :]


@lru_cache(maxsize=1)
def template() -> Template:
    """The template and what follows from it alone; some seconds, once per process."""
    # here, not above: nilearn takes seconds to import and only this function needs it
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
    lining = white * np.exp(-np.maximum(spread(signed), 0) / 5) * _horns()
    shell = _shell(brain)
    nodes = np.ix_(*[np.minimum(np.arange(n) * STEP, s - 1) for n, s in zip(NODES, SHAPE)])
    return Template(
        t1=np.rint(t1 * 255).astype(np.uint8) * brain,
        region=region,
        depth=np.minimum(depth, 255).astype(np.uint8),
        shell=shell,
        lining=np.rint(np.clip(lining, 0, 1) * 255).astype(np.uint8),
        inner=np.exp(shell[nodes] / np.float32(-20)),
        vent_distance=signed,
        vent_normal=normal,
    )


def _regions(
    t1: Float, greyer: NDArray[np.bool_], brain: NDArray[np.bool_], depth: Float
) -> NDArray[np.uint8]:
    """Coarse anatomy from tissue and MNI coordinates: enough to place a lesion."""
    x, y, z = millimetres()
    side = np.abs(x)
    region = np.where(greyer, CORTEX, WHITE).astype(np.uint8)
    region[(side < 33) & (y > -32) & (y < 24) & (z > -10) & (z < 22) & (depth > 22)] = DEEP
    stem = (side < np.where(z > -20, 15, 18)) & (y > -44) & (y < -12) & (z < -6)
    region[(z < -3 - 0.45 * side) & (y < -34) & ~stem] = CEREBELLUM
    region[stem] = BRAINSTEM
    inner = (side < 34) & (y > -50) & (y < 38) & (z > -14) & (z < 32) & (depth > 12)
    inner = inner & ((side < 25) | (y < -22)) & ~((y < -30) & (z < 6) & (side < 12))
    fluid = (t1 < 0.45) & inner
    parts, count = ndimage.label(fluid)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    region[np.isin(parts, np.flatnonzero(sizes > 300))] = VENTRICLE
    region[~brain] = OUTSIDE
    return region


def _horns() -> Float:
    """Weight along y: white matter suffers most at the frontal and occipital horns."""
    _, y, _ = millimetres()
    front = np.exp(-(((y - 30) / 12) ** 2))
    back = np.exp(-(((y + 48) / 14) ** 2))
    return np.asarray(0.35 + front + back, dtype=np.float32)


def _ventricle_field(ventricle: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Signed distance to the ventricles and its smoothed gradient, both at the nodes."""
    coarse = ventricle[::2, ::2, ::2]
    signed = ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse)
    smooth = ndimage.gaussian_filter(2 * signed, 1.5)
    gradient = np.stack(np.gradient(smooth, 2.0))
    nodes = [np.minimum(np.arange(n) * STEP // 2, s - 1) for n, s in zip(NODES, coarse.shape)]
    picked = np.ix_(*nodes)
    return smooth[picked].astype(np.float32), gradient[:, *picked].astype(np.float32)


def _shell(brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Distance outside the brain's smooth hull: skulls do not follow the sulci."""
    coarse = np.pad(brain[::2, ::2, ::2].astype(np.float32), 12, mode="edge")
    hull = (ndimage.gaussian_filter(coarse, 4) > 0.45) | (coarse > 0)
    distance = ndimage.distance_transform_edt(~hull)[12:-12, 12:-12, 12:-12] * 2.0
    grown = _linear(distance.astype(np.float32), [np.arange(size) / 2 for size in SHAPE])
    return np.minimum(grown * 4, 255).astype(np.uint8)


def _linear(values: Float, places: list[NDArray[np.float64]]) -> Float:
    """Linear interpolation along the last three axes; plain sums, so the bits never vary."""
    for axis, place in enumerate(places, start=values.ndim - 3):
        low = np.minimum(place.astype(np.intp), values.shape[axis] - 2)
        shape = [1] * values.ndim
        shape[axis] = -1
        share = (place - low).astype(np.float32).reshape(shape)
        first = np.take(values, low, axis=axis)
        values = first + share * (np.take(values, low + 1, axis=axis) - first)
    return values


def spread(field: Float, box: Box | None = None) -> Float:
    """A field given at the nodes, (..., *NODES), at every voxel of the box (or of the grid)."""
    ranges = box or tuple(slice(0, size) for size in SHAPE)
    return _linear(field, [np.arange(r.start, r.stop) / STEP for r in ranges])


def smooth_field(rng: np.random.Generator, width: float, channels: int = 1) -> Float:
    """Gaussian noise of unit variance at the nodes, smooth over `width` mm: (channels, *NODES)."""
    raw = rng.standard_normal((channels, *NODES), dtype=np.float32)
    sigma = width / STEP
    soft = ndimage.gaussian_filter(raw, (0, sigma, sigma, sigma), mode="wrap", truncate=3)
    return np.asarray(soft / soft.std(), dtype=np.float32)


@lru_cache(maxsize=2)
def texture(feature: int) -> Float:
    """A cube of smooth noise, unit variance, that tiles space; `feature` is in its voxels."""
    raw = np.random.default_rng(feature).standard_normal((TILE,) * 3, dtype=np.float32)
    soft = ndimage.gaussian_filter(raw, feature / 2, mode="wrap")
    return np.asarray(soft / soft.std(), dtype=np.float32)


def noise_at(rng: np.random.Generator, places: Float, feature: float) -> Float:
    """Smooth noise of unit variance at `places` (3, ...), its features `feature` voxels wide."""
    start = rng.uniform(0, TILE, 3).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32) * np.float32(8 / feature)
    turned = [
        start[i] + turn[i, 0] * places[0] + turn[i, 1] * places[1] + turn[i, 2] * places[2]
        for i in range(3)
    ]
    out = ndimage.map_coordinates(texture(8), turned, order=1, mode="grid-wrap", prefilter=False)
    return np.asarray(out, dtype=np.float32)


def bend(
    rng: np.random.Generator, atrophy: float, widening: tuple[float, float]
) -> Float:
    """A subject's displacement D, (3, *NODES) voxels.

    Parameters
    ----------
    rng : numpy.random.Generator
    atrophy : float
        0 to 1: both lateral ventricles grow with it.
    widening : (float, float)
        mm by which the left and the right ventricle grow beyond that, beside a lesion.
    """
    maps = template()
    field = 1.6 * smooth_field(rng, 22, 3) + 0.9 * maps.inner * smooth_field(rng, 8, 3)
    centre = np.array([98, 116, 90], dtype=np.float32)
    matrix = (0.018 * rng.standard_normal((3, 3))).astype(np.float32)
    grid = [np.arange(n, dtype=np.float32) * STEP - c for n, c in zip(NODES, centre, strict=True)]
    arms = np.meshgrid(*grid, indexing="ij")
    for i in range(3):
        field[i] += sum(matrix[i, j] * arms[j] for j in range(3))
    x = arms[0]
    right = np.clip(0.5 + x / 16, 0, 1)
    amount = 2.5 * atrophy + widening[0] * (1 - right) + widening[1] * right
    distance = maps.vent_distance
    reach = np.where(distance > 0, np.exp(-((distance / 20) ** 2)), np.clip(1 + distance / 5, 0, 1))
    return np.asarray(field - amount * reach * maps.vent_normal, dtype=np.float32)


def pull(field: Float, centre: NDArray[np.float64], radius: float, strength: float) -> None:
    """Draw the tissue around a scar towards `centre` (voxels); changes `field` in place."""
    arms = [
        (np.arange(n, dtype=np.float32) * STEP - np.float32(c)).reshape(
            [-1 if axis == i else 1 for axis in range(3)]
        )
        for i, (n, c) in enumerate(zip(NODES, centre, strict=True))
    ]
    squared = arms[0] ** 2 + arms[1] ** 2 + arms[2] ** 2
    weight = np.float32(strength) * np.exp(-squared / np.float32(2 * (1.4 * radius) ** 2))
    for i in range(3):
        field[i] += weight * arms[i]


def places(field: Float, box: Box) -> Float:
    """Where in the template each voxel of the box comes from: (3, *box) voxels."""
    out = spread(field, box)
    for i, r in enumerate(box):
        shape = [1, 1, 1]
        shape[i] = -1
        out[i] += np.arange(r.start, r.stop, dtype=np.float32).reshape(shape)
    return out


def head(
    rng: np.random.Generator, tissue: Tissue, atrophy: float, small_vessel: float
) -> Float:
    """A healthy head in the template's space, (197, 233, 189), before any blur or noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    tissue : Tissue
    atrophy, small_vessel : float
        0 to 1: wide sulci; perivascular spaces and white-matter hyperintensities.
    """
    maps = template()
    fluid, grey, white = tissue.fluid, tissue.grey, tissue.white
    sulcus = 0.43 + 0.09 * atrophy  # below this template value everything is fluid
    knots = [0, 0.27, sulcus, 0.66, 0.87, 1.0]
    levels = [fluid, fluid, fluid + 8, grey, white, white + 7]
    curve = np.interp(np.arange(256) / 255, knots, levels).astype(np.float32)
    grain = _tiled(rng)  # the template is a mean of many people: give the folds back some detail
    folded = np.clip(maps.t1 + 14 * grain * (maps.region == CORTEX), 0, 255)
    image = curve[folded.astype(np.uint8)]
    outside = maps.region == OUTSIDE
    layers = _layers(rng, fluid, atrophy)
    image[outside] = layers[maps.shell[outside]] * (1 + np.float32(0.07) * grain[outside])
    _hyperintensities(rng, image, grain, small_vessel, grey - 9)
    _perivascular(rng, image, small_vessel, fluid)
    _deface(image, outside)
    return image


def _tiled(rng: np.random.Generator) -> Float:
    """The texture from a random start on, over the whole grid."""
    start = rng.integers(0, TILE, 3)
    index = [(np.arange(size) + first) % TILE for size, first in zip(SHAPE, start, strict=True)]
    return texture(4)[np.ix_(*index)]


def _layers(rng: np.random.Generator, fluid: float, atrophy: float) -> Float:
    """Intensity by quarter mm outside the brain: fluid, skull, marrow, skull, fat, skin, air."""
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


def _deface(image: Float, outside: NDArray[np.bool_]) -> None:
    """Remove the face, as ATLAS did before sharing its scans."""
    _, y, z = millimetres()
    image[outside & (z < -24 + 0.6 * (y - 45)) & (y > -20)] = 0


def _hyperintensities(
    rng: np.random.Generator, image: Float, grain: Float, amount: float, level: float
) -> None:
    """Rarefied white matter at the ventricles' horns, on both sides: dark on T1."""
    maps = template()
    where = np.flatnonzero(maps.lining > 20)
    rough = np.float32(0.25 + 1.5 * amount) * (1 + np.float32(0.3) * grain.ravel()[where])
    weight = np.clip(maps.lining.ravel()[where] / np.float32(255) * rough - 0.15, 0, 0.8)
    flat = image.reshape(-1)
    flat[where] += weight * np.minimum(np.float32(level) - flat[where], 0)
    for _ in range(rng.poisson(6 * amount)):
        spot = np.array([rng.uniform(20, 34), rng.uniform(-45, 40), rng.uniform(18, 38)])
        for side in (-1, 1):
            centre = spot * (side, 1, 1) + rng.normal(0, 2.0, 3)
            tube(image, centre, centre + rng.normal(0, 1.5, 3), rng.uniform(0.8, 2.0), level, 0.6)


def _perivascular(rng: np.random.Generator, image: Float, amount: float, level: float) -> None:
    """Fluid-filled sleeves of small arteries: dark tubes in the basal ganglia."""
    for _ in range(2 + rng.poisson(24 * amount)):
        side = rng.choice([-1, 1])
        start = np.array([side * rng.uniform(15, 29), rng.uniform(-8, 14), rng.uniform(-8, 2)])
        if rng.random() < 0.25:  # some in the white matter above
            start = np.array([side * rng.uniform(18, 32), rng.uniform(-35, 30), rng.uniform(24, 36)])
        way = np.array([side * rng.uniform(-0.2, 0.5), rng.normal(0, 0.25), 1.0])
        end = start + way * rng.uniform(3, 11)
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


def warp(image: Float, field: Float, slab: int = 16) -> Float:
    """The image bent into the subject's space; in slabs, so that the coordinates stay in cache."""
    out = np.empty(SHAPE, np.float32)
    for start in range(0, SHAPE[0], slab):
        box = (slice(start, min(start + slab, SHAPE[0])), slice(0, SHAPE[1]), slice(0, SHAPE[2]))
        ndimage.map_coordinates(
            image, places(field, box), order=1, output=out[box[0]], prefilter=False
        )
    return out


def picture(rng: np.random.Generator, image: Float, site: Scanner) -> NDArray[np.uint8]:
    """What the scanner makes of a head: blur, shading, Rician noise, whole numbers."""
    soft = ndimage.gaussian_filter(image, site.blur, truncate=2.5)
    shading = np.exp(site.bias * smooth_field(rng, 45)[0])
    sigma = np.float32(site.noise)
    out = np.empty(SHAPE, np.uint8)
    for start in range(0, SHAPE[0], 16):
        box = (slice(start, min(start + 16, SHAPE[0])), slice(0, SHAPE[1]), slice(0, SHAPE[2]))
        part = soft[box[0]]
        signal = part * spread(shading, box)
        draws = rng.standard_normal((2, *part.shape), dtype=np.float32)
        noisy = np.sqrt((signal + sigma * draws[0]) ** 2 + (sigma * draws[1]) ** 2)
        # air and the removed face are exactly zero in the shared files
        out[box[0]] = np.where(part > 0.5, np.minimum(noisy + np.float32(0.5), 255), 0)
    return out
