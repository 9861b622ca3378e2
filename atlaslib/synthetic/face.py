"""What surrounds a synthetic brain: skull, scalp, face and neck, and what is removed of them.

Arrays in the template's space. The vault is made of layers at their distance from the brain; below
it, parts of simple shapes are placed by their MNI coordinates.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.anatomy import SHAPE, Float

AIR, LAYERS, SKIN, FAT, MUSCLE, BONE, MARROW, HOLLOW, EYE, SOFT, FLUID = range(11)
LEVELS = {  # darkest and brightest intensity of each part; white matter is at about 88
    SKIN: (35, 80),
    FAT: (80, 150),
    MUSCLE: (26, 62),
    BONE: (2, 14),
    MARROW: (35, 110),
    HOLLOW: (0, 9),
    EYE: (8, 26),
    SOFT: (36, 78),
    FLUID: (8, 24),
}
_VAULT = 20  # mm from the brain within which its layers end, except for the temporal muscle
_MUSCLE = (0.4, 1.3)  # thinnest and thickest, as a share of the usual
# part, centre and half-axes of an ellipsoid in mm; those off the midline are mirrored, and later
# ones overwrite earlier ones
_PARTS = (
    (FAT, (48, 45, -66), (16, 20, 14)),  # cheek
    (MUSCLE, (56, 15, -40), (11, 22, 24)),  # temporal muscle
    (MUSCLE, (57, 18, -68), (8, 14, 18)),  # masseter
    (MUSCLE, (34, 15, -60), (13, 14, 14)),  # pterygoids
    (SOFT, (58, -10, -62), (10, 12, 16)),  # parotid gland
    (BONE, (50, 8, -62), (5, 13, 20)),  # jaw
    (MARROW, (50, 8, -62), (3, 11, 18)),
    (BONE, (52, 38, -46), (9, 15, 7)),  # cheekbone
    (MARROW, (52, 38, -46), (6, 12, 4)),
    (BONE, (0, -6, -45), (15, 10, 18)),  # base of the skull
    (MARROW, (0, -6, -46), (11, 7, 14)),
    (BONE, (0, 55, -70), (28, 24, 6)),  # palate
    (BONE, (33, 48, -36), (21, 30, 19)),  # orbit, its fat, and the muscles and nerve within
    (FAT, (33, 51, -36), (19, 27, 17)),
    (MUSCLE, (44, 48, -36), (3, 18, 5)),
    (MUSCLE, (21, 46, -36), (3, 20, 5)),
    (MUSCLE, (33, 47, -25), (5, 19, 3)),
    (MUSCLE, (33, 47, -47), (5, 19, 3)),
    (SOFT, (26, 38, -34), (3, 18, 3)),
    (SOFT, (33, 61, -37), (13.5, 13.5, 13.5)),  # eyeball: coats, vitreous, lens
    (EYE, (33, 61, -37), (12, 12, 12)),
    (SOFT, (33, 71, -37), (4.5, 2.5, 4.5)),
    (SOFT, (0, 62, -48), (15, 28, 24)),  # nose, with its shells and septum
    (HOLLOW, (0, 62, -48), (13, 26, 22)),
    (SOFT, (6, 60, -58), (3, 20, 5)),
    (SOFT, (6, 58, -44), (2.5, 18, 4)),
    (SOFT, (0, 62, -48), (1.2, 26, 22)),
    (HOLLOW, (8, 40, -30), (6, 16, 10)),  # ethmoid cells
    (BONE, (29, 46, -58), (16, 18, 17)),  # maxillary sinus
    (HOLLOW, (29, 46, -58), (14, 16, 15)),
    (BONE, (8, 19, -37), (12, 13, 11)),  # sphenoid sinus
    (HOLLOW, (8, 19, -37), (9, 11, 9)),
    (HOLLOW, (0, 6, -64), (12, 12, 16)),  # throat
    (BONE, (52, -34, -44), (13, 15, 15)),  # mastoid cells
    (HOLLOW, (52, -34, -44), (10, 12, 12)),
    (HOLLOW, (62, -18, -42), (14, 3, 3)),  # ear canal
    (FLUID, (0, -42, -72), (10, 9, 14)),  # spinal canal
    (SOFT, (0, -42, -72), (6, 5, 14)),
)


@lru_cache(maxsize=1)
def parts() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The part at each voxel of the grid, 0 in air and brain; and the muscle of the temples.

    The second is the thickness of the muscle between skull and fat of the vault, in quarter mm.
    """
    x, y, z = anatomy.mni_coordinates()
    shell = anatomy.template().shell
    bulge = ((np.abs(x) - 62) / 16) ** 2 + ((y - 12) / 38) ** 2 + ((z - 2) / 34) ** 2
    temple = np.where(np.abs(x) > 40, 36 * np.clip(1 - bulge, 0, 1), 0)
    part = np.where(shell < 4 * _VAULT + _MUSCLE[1] * temple, np.uint8(LAYERS), np.uint8(AIR))
    below = np.broadcast_to(z < -20 + 0.22 * (y - 40) * (y < 40), SHAPE) & (shell > 10)
    face = ((x / 72) ** 2 + ((y - 30) / 66) ** 2 + ((z + 40) / 75) ** 2) ** 0.5
    nape = ((x / 70) ** 2 + ((y + 30) / 76) ** 2 + ((z + 62) / 70) ** 2) ** 0.5
    surface = 70 * (1 - np.minimum(face, nape))  # about mm below the skin
    for code, deeper_than in ((AIR, -np.inf), (SKIN, 0), (FAT, 2.5), (MUSCLE, 8)):
        part[below & (surface > deeper_than)] = code
    for code, centre, axes in _PARTS:
        for side in (-1, 1) if centre[0] else (1,):
            middle = (side * centre[0], centre[1], centre[2])
            box, inside = _ellipsoid(middle, axes)
            part[box][inside & (shell[box] > 4)] = code
    part[anatomy.template().region != anatomy.OUTSIDE] = AIR  # the brain itself
    return part, np.broadcast_to(temple, SHAPE).astype(np.uint8)


def _ellipsoid(
    centre: tuple[float, ...], axes: tuple[float, ...]
) -> tuple[anatomy.Box, NDArray[np.bool_]]:
    ranges, total = [], np.zeros((1, 1, 1), np.float32)
    for axis, (mid, half) in enumerate(zip(centre, axes, strict=True)):
        place = mid - anatomy.ORIGIN[axis]
        low, high = max(0, int(place - half)), min(SHAPE[axis], int(place + half) + 2)
        shape = [-1 if axis == i else 1 for i in range(3)]
        steps = np.arange(low, high, dtype=np.float32).reshape(shape)
        total = total + ((steps - place) / half) ** 2
        ranges.append(slice(low, high))
    return (ranges[0], ranges[1], ranges[2]), total < 1


def surroundings(
    rng: np.random.Generator, fluid: float, atrophy: float, grain: Float
) -> tuple[NDArray[np.intp], Float]:
    """Flat indices of what surrounds the brain, and its intensities.

    Parameters
    ----------
    rng : numpy.random.Generator
    fluid : float
        Intensity of the fluid between brain and skull.
    atrophy : float
        0 to 1: how much more of that fluid there is.
    grain : (voxels of the grid,) float32, of unit variance
        Texture of muscle, fat and marrow.
    """
    part, temple = parts()
    places = np.flatnonzero(part)
    codes = part.ravel()[places]
    levels = np.zeros(len(LEVELS) + 2, np.float32)
    for code, (dark, bright) in LEVELS.items():
        levels[code] = rng.uniform(dark, bright)
    if rng.random() < 0.2:  # a swollen lining, or fluid, in the sinuses
        levels[HOLLOW] = rng.uniform(20, 50)
    rough = grain[places]
    streaked = rng.uniform(1.2, 2.2)  # fat between the muscles
    codes = np.where((codes == MUSCLE) & (rough > streaked), np.uint8(FAT), codes)
    values = levels[codes] * (1 + np.float32(rng.uniform(0.03, 0.14)) * rough)
    layered = np.flatnonzero(codes == LAYERS)
    skull, table = _layers(rng, levels, fluid, atrophy)
    outward = anatomy.template().shell.ravel()[places[layered]].astype(np.int16)
    muscle = (temple.ravel()[places[layered]] * rng.uniform(*_MUSCLE)).astype(np.int16)
    beyond = outward > skull
    shown = table[np.where(beyond, np.maximum(outward - muscle, skull), outward)]
    shown[beyond & (outward <= skull + muscle)] = levels[MUSCLE]
    values[layered] = shown * (1 + np.float32(0.07) * rough[layered])
    return places, values


def _layers(
    rng: np.random.Generator, levels: Float, fluid: float, atrophy: float
) -> tuple[int, Float]:
    """Where the skull ends, and intensity from the brain outwards, both per quarter mm.

    Fluid, skull, marrow, skull, fat, skin, air.
    """
    widths = rng.uniform([0.6, 1.0, 1.0, 1.0, 2.0, 1.0], [2.2, 2.2, 5.0, 2.2, 7.0, 2.2])
    widths[0] += 2.5 * atrophy
    shown = [fluid, levels[BONE], levels[MARROW], levels[BONE], levels[FAT], levels[SKIN]]
    ends = np.cumsum(widths)
    starts = np.concatenate([[0], ends[:-1]])
    knots = np.stack([starts + 0.3, ends - 0.3], axis=1).ravel()
    table = np.interp(np.arange(256) / 4, [*knots, ends[-1] + 0.4], [*np.repeat(shown, 2), 0.0])
    return int(4 * ends[3]), table.astype(np.float32)


def remove(rng: np.random.Generator, image: Float, how: str) -> None:
    """Remove from a head, in place, what is removed before scans are shared.

    Parameters
    ----------
    rng : numpy.random.Generator
    image : (197, 233, 189) float32
    how : {"nothing", "face", "all but the brain", "roughly all but the brain"}
        The last leaves some of the skull, or takes some of the brain.
    """
    _, y, z = anatomy.mni_coordinates()
    if how == "face":
        slope, height = rng.uniform(0.4, 0.9), rng.uniform(-34, -20)
        gone = np.broadcast_to((z < height + slope * (y - 45)) & (y > rng.uniform(-30, 20)), SHAPE)
        image[gone & (anatomy.template().shell > 8)] = 0
    elif how != "nothing":
        maps = anatomy.template()
        rough = how.startswith("roughly")
        edge, waves = (rng.uniform(0, 4), 2.0) if rough else (rng.uniform(0, 1.5), 0.6)
        limit = edge + waves * anatomy.upsample(anatomy.smooth_field(rng, 9)[0])
        outward = maps.shell.astype(np.float32) / 4 - maps.depth
        image[outward > limit] = 0
