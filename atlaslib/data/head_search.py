"""Finding a head in an image: a search from many starts, which ANTs then refines."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlaslib.data.template import (
    AROUND,
    FINE,
    MNI_AFFINE,
    Floats,
    points,
    region,
    resized,
    similarity,
    template,
    values_at,
)
from atlaslib.data.volumes import brain_mask
from atlaslib.files import DataError

_HEAD = 150.0  # mm: from the top of the head to its lowest part that is used to find its centre
_STARTS = 3  # from which the search goes on
# how far apart starts must be: mm, radians, logarithm of the scale
_APART = np.array([15, 15, 15, 0.2, 0.2, 0.2, 0.1])
_STEPS = np.array([10, 10, 10, 0.1, 0.1, 0.1, 0.08])  # of the search, likewise


def place_map(parameters: Floats) -> Floats:
    """MNI to image, from the brain's centre (mm), three rotations (radians), the scale's log."""
    cosines, sines = np.cos(parameters[3:6]), np.sin(parameters[3:6])
    linear = np.eye(3) * np.exp(parameters[6])
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = [cosines[axis], -sines[axis], sines[axis], cosines[axis]]
        linear = linear @ turn
    return nib.affines.from_matvec(linear, parameters[:3] - linear @ brain_centre())


@cache
def brain_centre() -> Floats:
    """The centre of the template's brain, in mm."""
    return nib.affines.apply_affine(MNI_AFFINE, np.argwhere(brain_mask()).mean(0))


def _starts(voxels: Floats, affine: Floats) -> list[Floats]:
    """Where the brain may be."""
    head = np.argwhere(voxels > 0.2 * voxels.max())
    places = nib.affines.apply_affine(affine, head) if len(head) else np.zeros((1, 3))
    top = np.quantile(places[:, 2], 0.999)
    upper = places[places[:, 2] > top - _HEAD]  # without neck and shoulders
    below_top = [*np.median(upper[:, :2], axis=0), top - _HEAD / 2]
    centres = [upper.mean(0), np.array(below_top), brain_centre()]
    tilts, scales = np.radians([-25, -12, 0, 12, 25]), np.log([0.85, 1.0])
    shifts = [np.array([0, y, z]) for y, z in product((-15, 0, 15), (-20, 0, 20))]
    return [
        np.array([*(centre + shift), tilt, 0, 0, scale])
        for centre, shift, tilt, scale in product(centres, shifts, tilts, scales)
    ]


def search(voxels: Floats, affine: Floats) -> Floats:
    """The best rigid map with a scale, from several starts."""
    from scipy import optimize  # slow to import, and only this function needs it

    places, labels, _ = points(6, AROUND)

    def cost(parameters: Floats) -> float:
        return -similarity(values_at(voxels, affine, place_map(parameters), places), labels)

    chosen: list[Floats] = []
    for start in sorted(_starts(voxels, affine), key=cost):
        if all(np.any(np.abs(start - other) > _APART) for other in chosen):
            chosen.append(start)
        if len(chosen) == _STARTS:
            break
    ends = []
    for start in chosen:
        end = optimize.minimize(
            lambda steps, start=start: cost(start + steps * _STEPS),
            np.zeros(len(start)),
            method="Powell",
            options={"maxfev": 500, "xtol": 0.02, "ftol": 1e-3},
        )
        ends.append((float(end.fun), start + end.x * _STEPS))
    return place_map(min(ends, key=lambda end: end[0])[1])


# --- ANTs, which counts mm to the left and to the back --------------------------------------------

_LPS = np.diag([-1.0, -1, 1, 1])


def import_ants(path: Path) -> Any:
    """The package antspyx; a DataError that names the image if it is not installed."""
    # so that the same image always gives the same result; ants.registration ignores a seed
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    os.environ.setdefault("ANTS_RANDOM_SEED", "1")
    try:
        import ants
    except ImportError:
        text = "not in MNI space; registering it needs antspyx: pip install antspyx"
        raise DataError(f"{path}: {text}", "not installed") from None
    return ants


def _as_ants(voxels: Floats, affine: Floats) -> Any:
    import ants

    lps = _LPS @ affine
    spacing = nib.affines.voxel_sizes(lps)
    return ants.from_numpy(
        np.ascontiguousarray(voxels, np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=lps[:3, :3] / spacing,
    )


@cache
def _goal() -> tuple[Floats, Floats, Floats]:
    """The template at 2 mm, the region in which images are compared, and the affine of both."""
    brain, affine = resized(template(), MNI_AFFINE, FINE)
    near, _ = resized(region(AROUND).astype(np.float32), MNI_AFFINE, FINE)
    return brain, near > 0.5, affine


def refined(
    start: Floats, voxels: Floats, affine: Floats, fixed: Any = None, kind: str = "Affine"
) -> Floats:
    """Improve a map by mutual information, for the template in the brain and around it.

    `fixed` is another image, with its affine, to align with in place of the template.
    """
    import ants

    brain, near, affine_of_both = _goal()
    goal, goal_affine = fixed or (brain, affine_of_both)
    where = {}
    if fixed is None:
        where = {"mask": _as_ants(near, goal_affine), "mask_all_stages": True}
    with tempfile.TemporaryDirectory() as folder:
        initial = os.path.join(folder, "start.mat")
        linear, shift = nib.affines.to_matvec(_LPS @ start @ _LPS)
        ants.write_transform(
            ants.create_ants_transform(
                "AffineTransform" if kind == "Affine" else "Euler3DTransform",
                dimension=3,
                matrix=linear,
                offset=shift,
            ),
            initial,
        )
        found = ants.registration(
            _as_ants(goal, goal_affine),
            _as_ants(voxels, affine),
            kind,
            initial_transform=[initial],
            outprefix=os.path.join(folder, "found"),
            aff_iterations=(100, 50),
            aff_shrink_factors=(2, 1),
            aff_smoothing_sigmas=(1, 0),
            aff_random_sampling_rate=0.1,
            **where,
        )
        (name,) = found["fwdtransforms"]
        return _as_matrix(ants.read_transform(name))


def _as_matrix(transform: Any) -> Floats:
    """A linear transform of ANTs as a map of mm in RAS, from where it takes four points."""
    corners = np.vstack([np.zeros(3), 100 * np.eye(3)])
    ends = np.array([transform.apply_to_point(tuple(corner)) for corner in corners])
    linear = (ends[1:] - ends[0]).T / 100
    return _LPS @ nib.affines.from_matvec(linear, ends[0]) @ _LPS
