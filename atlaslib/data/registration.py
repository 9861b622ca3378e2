"""Moving a T1 of any orientation, voxel size and field of view to the MNI grid, and masks back.

A registration is one affine map, as in ATLAS R1.x, from millimetres in MNI space to millimetres in
the scanner's own space. Images are interpolated through it once; a mask comes back through exactly
its inverse.

**Nobody can notice a mirrored head.** Left and right are what the file's header says they are: a
brain is too symmetric for an image to contradict it, so a wrong header gives a mask on the wrong
side, with a similarity as high as any. Only a header without any orientation is refused.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from atlaslib.data.volumes import GRID, HALF_A_VOXEL, ORIGIN, Image, brain_mask, on_grid
from atlaslib.files import DataError

MNI_AFFINE = nib.affines.from_matvec(np.eye(3), ORIGIN)
SIMILARITY = 0.5  # at least; see :func:`check_registration`
CONTRAST = 0.2  # likewise
SIZE = (0.72, 1.15)  # of the head in proportion to the template, as the mean of three directions

_AROUND = 8.0  # mm around the brain in which images are compared
_DEEP = 5.0  # mm from the brain's surface: where a bright ball has no contrast
_BINS = 24  # of the template's intensities
_HEAD = 150.0  # mm: from the top of the head to its lowest part that is used to find its centre
_COARSE, _FINE = 4.0, 2.0  # mm: voxels in the search and in the final steps
_STARTS = 3  # from which the search goes on
# how far apart starts must be: mm, radians, logarithm of the scale
_APART = np.array([15, 15, 15, 0.2, 0.2, 0.2, 0.1])
_STEPS = np.array([10, 10, 10, 0.1, 0.1, 0.1, 0.08])  # of the search, likewise

Floats = NDArray[Any]


@dataclass(frozen=True)
class Registration:
    """Where the template lies in a scan, and how well it fits."""

    affine: Floats  # (4, 4), mm in MNI space (RAS) to mm in the scanner's space (RAS)
    similarity: float  # 0 to 1: mean correlation ratio within the brain and with what is around it
    contrast: float  # correlation of the intensities with the T1 template's, deep in the brain
    size: float  # of the head in proportion to the template's


def space_of(image: Image) -> str:
    """ "MNI" if an image has the voxels of the MNI grid, else "native".

    A header without orientation, which is read as LAS, says nothing of the origin.
    """
    at_origin = np.abs(image.affine[:3, 3] - ORIGIN).max() <= HALF_A_VOXEL
    return "MNI" if on_grid(image) and (at_origin or not image.oriented) else "native"


def register(image: Image) -> Registration:
    """Find a head in an image and align it with the MNI152 template.

    A coarse search looks for the brain from 270 starts: around the centre of the head, below its
    top and at the header's origin, tilted and scaled. The best go on by themselves at 4 mm; ANTs
    then refines the best of them at 2 mm. All compare images only in the template's brain and 8 mm
    around it, so that neither neck and face nor their absence matters, and by measures that do not
    depend on the contrast. Takes 10 to 15 seconds on one processor.

    Parameters
    ----------
    image : Image
        From :func:`atlaslib.data.volumes.read_t1` in native space. With or without a skull.

    Returns
    -------
    Registration
        The best that was found, good or not: see :func:`check_registration`.

    Raises
    ------
    DataError
        If the header has no orientation, or antspyx is not installed.
    """
    _import_ants(image.path)
    if not image.oriented:
        text = "the header has no orientation: left and right cannot be told apart"
        raise DataError(f"{image.path}: {text}", "orientation")
    coarse, fine = (_clipped_and_resized(image, size) for size in (_COARSE, _FINE))
    best = _search(*coarse)
    found = [best, _refined(best, *fine)]
    return max((_described(affine, *fine) for affine in found), key=lambda one: one.similarity)


def register_within(image: Image, other: Image, found: Registration) -> tuple[Floats, Registration]:
    """Align another image of the same person, of any contrast, rigidly with a registered one.

    Starts are the two headers, and where the other image is if it is registered by itself.

    Parameters
    ----------
    image : Image
        A T1, say.
    other : Image
        A T2w, perhaps of another session.
    found : Registration
        Of `image`.

    Returns
    -------
    (4, 4) float
        Mm in the space of `image` to mm in that of `other`.
    Registration
        Of `other`, through `image`: how well the whole chain fits the template.

    Raises
    ------
    DataError
        As :func:`register`.
    """
    apart = register(other).affine @ np.linalg.inv(found.affine)
    rotation, _, turned = np.linalg.svd(apart[:3, :3])
    linear = rotation @ turned
    centre = nib.affines.apply_affine(found.affine, _centre())
    shift = nib.affines.apply_affine(apart, centre) - linear @ centre
    fixed, moving = (_clipped_and_resized(one, _FINE) for one in (image, other))
    maps = [
        _refined(start, *moving, fixed, "Rigid")
        for start in (np.eye(4), nib.affines.from_matvec(linear, shift))
    ]
    best = max(
        ((rigid, _described(rigid @ found.affine, *moving)) for rigid in maps),
        key=lambda pair: pair[1].similarity,
    )
    return best


def check_registration(found: Registration, name: str, t1: bool = True) -> None:
    """Raise a one-line DataError unless a registration can be trusted.

    **The threshold** lies between what three real heads (whole at 0.9 and at 2 mm, and a roughly
    extracted brain) give if they are well registered, and if that result is then spoilt: a
    similarity of .64 to .70, the same within .01 with a painted lesion of 49 to 106 mL; .28 to .43
    if it is moved by 10 mm, .25 to .50 if it is scaled by 10 or 25 %, .48 to .56 if it is turned by
    10 degrees, .50 to .59 if it is moved by 5 mm. A bright ball gives .42, noise less. So what is
    grossly wrong is refused; **what is wrong by 5 mm or 10 degrees is not**, and shows in a picture
    only (:func:`atlaslib.figures.plot_outlines`).

    The contrast of the same heads is .44 to .76; that of a T2 or a CT is negative, and that of a
    ball .08.

    Parameters
    ----------
    found : Registration
    name : str
        Of the image, for the message.
    t1 : bool, default=True
        Whether the image must have the contrast of a T1: white matter brighter than grey.

    Raises
    ------
    DataError
        If the similarity is below ``SIMILARITY``, the size of the head beyond ``SIZE``, or the
        contrast below ``CONTRAST``.
    """
    if found.similarity < SIMILARITY:
        text = f"similarity {found.similarity:.2f}, at least {SIMILARITY:.2f} is needed"
        raise DataError(f"{name}: registration failed: {text}", "registration")
    if not SIZE[0] <= found.size <= SIZE[1]:
        text = (
            f"the head is {found.size:.2f} times the template's size, expected {SIZE[0]} to "
            f"{SIZE[1]}: are the header's voxel sizes right?"
        )
        raise DataError(f"{name}: registration failed: {text}", "registration")
    if t1 and found.contrast < CONTRAST:
        text = f"correlation with the T1 template {found.contrast:.2f}, at least {CONTRAST} needed"
        raise DataError(f"{name}: not a T1-weighted image of a brain: {text}", "contrast")


def to_mni(voxels: Floats, affine: Floats, found: Floats) -> Floats:
    """An image on the MNI grid, linearly interpolated, 0 outside its field of view.

    Parameters
    ----------
    voxels : (x, y, z)
    affine : (4, 4)
        Of the image: voxel indices to mm.
    found : (4, 4)
        Mm in MNI space to mm in the image's space: :attr:`Registration.affine`, or a product of
        several maps.

    Returns
    -------
    (197, 233, 189) float32
    """
    return _resampled(voxels, np.linalg.inv(affine) @ found @ MNI_AFFINE, GRID)


def from_mni(
    volume: Floats, shape: Sequence[int], affine: Floats, found: Floats, outside: float = 0.0
) -> Floats:
    """A volume on the MNI grid, brought to the voxels of an image by the inverse of `found`.

    Parameters
    ----------
    volume : (197, 233, 189)
        Probabilities, say: a mask that is interpolated must be cut off at one half.
    shape, affine
        Of the image.
    found : (4, 4)
        As for :func:`to_mni`.
    outside : float
        The value beyond the MNI grid.

    Returns
    -------
    (x, y, z) float32
    """
    back = np.linalg.inv(MNI_AFFINE) @ np.linalg.inv(found) @ affine
    return _resampled(volume, back, shape, outside)


def _resampled(voxels: Floats, index: Floats, shape: Sequence[int], outside: float = 0) -> Floats:
    """`index` maps the indices of the result to those of `voxels`."""
    return ndimage.affine_transform(
        np.asarray(voxels, np.float32), index, output_shape=tuple(shape), order=1, cval=outside
    )


# --- comparing ----------------------------------------------------------------------------------


def similarity(values: Floats, labels: NDArray[np.intp]) -> float:
    """The correlation ratio: the share of an image's variance that the template explains.

    The image may have any contrast: what counts is that it has about the same value wherever the
    template has the same intensity.

    Parameters
    ----------
    values : (n,)
        The image at points of the template.
    labels : (n,)
        The bin of the template's intensity at these points.

    Returns
    -------
    float
        0 to 1; 0 for an image without any contrast.
    """
    count = np.maximum(np.bincount(labels, minlength=_BINS), 1)
    means = np.bincount(labels, values, _BINS) / count
    total = ((values - values.mean()) ** 2).sum()
    return float(1 - ((values - means[labels]) ** 2).sum() / total) if total > 0 else 0.0


@cache
def _template() -> Floats:
    """The MNI152 T1 template without its skull, (197, 233, 189) float32."""
    from nilearn.datasets import load_mni152_template

    return np.asarray(load_mni152_template(resolution=1).dataobj, np.float32)


@cache
def _region(margin: float) -> NDArray[np.bool_]:
    """The template's brain, wider by a margin in mm, or narrower if it is negative."""
    if margin < 0:
        return ndimage.distance_transform_edt(brain_mask()) > -margin
    return ndimage.distance_transform_edt(~brain_mask()) <= margin


@cache
def _points(step: int, margin: float) -> tuple[Floats, Any, Floats]:
    """Points of a region of the template every `step` mm: place in mm (3, n), bin, intensity."""
    index = np.argwhere(_region(margin)[::step, ::step, ::step]) * step
    values = ndimage.gaussian_filter(_template(), 2.0)[tuple(index.T)]
    bright = values[values > 0.02 * values.max()]
    edges = np.quantile(bright, np.linspace(0, 1, _BINS)[1:-1])
    return nib.affines.apply_affine(MNI_AFFINE, index).T, np.searchsorted(edges, values), values


def _values(voxels: Floats, affine: Floats, found: Floats, places: Floats) -> Floats:
    """An image at places of the template."""
    index = np.linalg.inv(affine) @ found
    at = index[:3, :3] @ places + index[:3, 3:]
    return ndimage.map_coordinates(voxels, at, order=1, prefilter=False)


def _described(found: Floats, voxels: Floats, affine: Floats) -> Registration:
    """How good a registration is: blurred by 2 mm, where tissue counts more than noise.

    Left and right are judged apart, and the better half counts: a large lesion leaves the other
    half as it is.
    """
    smooth = ndimage.gaussian_filter(voxels, 1.0)

    def judged(margin: float, judge: Callable[[Floats, Any, Floats], float]) -> float:
        places, labels, intensities = _points(3, margin)
        values = _values(smooth, affine, found, places)
        halves = places[0] < 0, places[0] > 0
        return max(judge(values[half], labels[half], intensities[half]) for half in halves)

    ratios = [
        judged(margin, lambda values, labels, _: similarity(values, labels))
        for margin in (_AROUND, 0)
    ]
    contrast = judged(-_DEEP, lambda values, _, intensities: _correlation(values, intensities))
    size = np.cbrt(abs(np.linalg.det(found[:3, :3])))
    return Registration(found, float(np.mean(ratios)), contrast, float(size))


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


# --- finding ------------------------------------------------------------------------------------


def _clipped_and_resized(image: Image, size: float) -> tuple[Floats, Floats]:
    low, high = np.percentile(image.voxels, [1, 99.5])
    clipped = np.clip(image.voxels.astype(np.float32), low, max(high, low + 1e-6)) - low
    return _resized(clipped, image.affine, size)


def _resized(voxels: Floats, affine: Floats, size: float) -> tuple[Floats, Floats]:
    """An image at voxels of `size` mm along its own axes, and its affine."""
    zooms = nib.affines.voxel_sizes(affine)
    smooth = ndimage.gaussian_filter(voxels, np.where(size > zooms, 0.5 * size / zooms, 0))
    shape = np.floor((np.array(voxels.shape) - 1) * zooms / size).astype(int) + 1
    steps = np.diag([*(size / zooms), 1])
    return ndimage.affine_transform(smooth, steps, output_shape=tuple(shape), order=1), (
        affine @ steps
    )


def _map(parameters: Floats) -> Floats:
    """Where the brain's centre lies (mm), three rotations (radians), the scale's logarithm."""
    cosines, sines = np.cos(parameters[3:6]), np.sin(parameters[3:6])
    linear = np.eye(3) * np.exp(parameters[6])
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = [cosines[axis], -sines[axis], sines[axis], cosines[axis]]
        linear = linear @ turn
    return nib.affines.from_matvec(linear, parameters[:3] - linear @ _centre())


@cache
def _centre() -> Floats:
    """The centre of the template's brain, in mm."""
    return nib.affines.apply_affine(MNI_AFFINE, np.argwhere(brain_mask()).mean(0))


def _starts(voxels: Floats, affine: Floats) -> list[Floats]:
    """Where the brain may be."""
    head = np.argwhere(voxels > 0.2 * voxels.max())
    places = nib.affines.apply_affine(affine, head) if len(head) else np.zeros((1, 3))
    top = np.quantile(places[:, 2], 0.999)
    upper = places[places[:, 2] > top - _HEAD]  # without neck and shoulders
    below_top = [*np.median(upper[:, :2], axis=0), top - _HEAD / 2]
    centres = [upper.mean(0), np.array(below_top), _centre()]
    tilts, scales = np.radians([-25, -12, 0, 12, 25]), np.log([0.85, 1.0])
    shifts = [np.array([0, y, z]) for y, z in product((-15, 0, 15), (-20, 0, 20))]
    return [
        np.array([*(centre + shift), tilt, 0, 0, scale])
        for centre, shift, tilt, scale in product(centres, shifts, tilts, scales)
    ]


def _search(voxels: Floats, affine: Floats) -> Floats:
    """The best rigid map with a scale, from several starts."""
    places, labels, _ = _points(6, _AROUND)

    def cost(parameters: Floats) -> float:
        return -similarity(_values(voxels, affine, _map(parameters), places), labels)

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
    return _map(min(ends, key=lambda end: end[0])[1])


# --- ANTs, which counts mm to the left and to the back --------------------------------------------

_LPS = np.diag([-1.0, -1, 1, 1])


def _import_ants(path: Path) -> Any:
    # one thread, so that the same image always gives the same result; read when ants is imported
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    try:
        import ants
    except ImportError:
        text = 'not in MNI space; to register it, install antspyx: pip install "atlaslib[native]"'
        raise DataError(f"{path}: {text}", "native space") from None
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


def _refined(
    start: Floats, voxels: Floats, affine: Floats, fixed: Any = None, kind: str = "Affine"
) -> Floats:
    """Improve a map by mutual information, for the template in the brain and around it.

    `fixed` is another image, with its affine, to align with in place of the template.
    """
    import ants

    template, template_affine = fixed or _resized(_template(), MNI_AFFINE, _FINE)
    where = {}
    if fixed is None:
        region, _ = _resized(_region(_AROUND).astype(np.float32), MNI_AFFINE, _FINE)
        where = {"mask": _as_ants(region > 0.5, template_affine), "mask_all_stages": True}
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
            _as_ants(template, template_affine),
            _as_ants(voxels, affine),
            kind,
            initial_transform=[initial],
            outprefix=os.path.join(folder, "found"),
            aff_iterations=(100, 50),
            aff_shrink_factors=(2, 1),
            aff_smoothing_sigmas=(1, 0),
            aff_random_sampling_rate=0.1,
            random_seed=1,
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
