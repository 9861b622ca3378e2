"""How a synthetic infarct looks on T1: a core, a gliotic rim, a halo. Arrays, no files."""

from __future__ import annotations

import numpy as np

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.anatomy import Float
from atlaslib.synthetic.infarcts import FittedLesion, Infarct


def paint_lesion(
    rng: np.random.Generator, image: Float, lesion: Infarct, fitted: FittedLesion, fluid: float
) -> None:
    """Paint the lesion into the (warped, unblurred) image: core, gliotic rim, faint halo."""
    fitted = _trim(fitted, 8)
    radius = np.float32(lesion.radius)
    inside = fitted.inside
    rough = anatomy.noise_at(rng, fitted.places, max(0.4 * float(radius), 2.5))
    fine = anatomy.noise_at(rng, fitted.places, 3.0)
    rim = (1 - np.float32(lesion.cavity)) * radius * 0.75 + np.float32(0.6)
    deep = inside - rim + rough * np.float32(0.16) * radius
    soft = np.float32(rng.uniform(0.8, 2.5))  # mm over which the borders fade
    core = np.clip(0.5 + deep / soft, 0, 1)
    edge = np.clip(0.5 + inside / soft, 0, 1)
    halo = np.exp(-np.maximum(-inside, 0) / np.float32(1.0 + 0.04 * radius))
    middle = np.clip(rng.uniform(0.3, 0.6) + 0.12 * rough + 0.06 * fine, 0.25, 0.8)
    weight = np.where(inside > -0.5, edge * middle, 0)
    weight = np.maximum(weight, np.float32(rng.uniform(0.05, 0.3)) * halo)
    threads = anatomy.noise_at(rng, fitted.places, 9.0)
    # strands of scarred tissue cross the larger cavities
    strands = np.clip(1 - np.abs(threads) / 0.2, 0, 1) * np.clip(radius / 40, 0, 0.35)
    filled = np.float32(0.95) + 0.03 * rough
    if lesion.patches:
        filled += np.float32(lesion.patches) * anatomy.noise_at(rng, fitted.places, 7.0)
    filled = np.float32(lesion.darkness) * (filled - strands)
    weight = np.maximum(weight, core * np.clip(filled, 0.2, 1))
    weight = np.where(fitted.mask, np.maximum(weight, 0.25), np.minimum(weight, 0.3))
    weight = np.where(fitted.bed, weight, 0).astype(np.float32)
    image[fitted.box] += weight * np.minimum(np.float32(fluid) - image[fitted.box], 0)


def _trim(fitted: FittedLesion, margin: int) -> FittedLesion:
    """The same lesion, its box trimmed to the lesion and a margin (voxels) around it."""
    inner = anatomy.box_around(fitted.mask, margin)
    moved = [
        slice(b.start + r.start, b.start + r.stop) for b, r in zip(fitted.box, inner, strict=True)
    ]
    return FittedLesion(
        (moved[0], moved[1], moved[2]),
        fitted.mask[inner],
        fitted.inside[inner],
        fitted.places[:, *inner],
        fitted.bed[inner],
    )
