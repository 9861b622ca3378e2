"""How well heads are registered, and whether the check tells good registrations from bad ones.

    python benchmarks/registration.py [--heads FOLDER] [--people N] [--workers N] [--out TABLE.csv]

Synthetic people, each with an anatomy of their own, are moved into native space by known maps, in
several kinds of scan. Since the person's anatomy is known too, so is the affine map that fits it
best: ``error_mm`` is the mean distance to this map over the template's brain, ``floor_mm`` what the
map itself leaves. Then the same for what must be refused: the map that was found, spoilt; images of
no head; headers that are wrong. The real heads of ``benchmarks/heads.py``, with ``--heads``, are
moved by known maps likewise.

The thresholds of :mod:`atlaslib.data.registration` were chosen before, on people of another seed
(103) and with a look at the real heads; the people of this table only judge them. Whoever chooses
again takes another seed for the table.

A table that is there already goes on where it ended. Start anew, by another ``--out``, after a
change of :mod:`atlaslib.data.registration`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

import atlaslib
from atlaslib import DataError
from atlaslib.data.registration import WITHIN, check_registration, register, register_within
from atlaslib.data.template import (
    FINE,
    MNI_AFFINE,
    Registration,
    agreement,
    clipped_and_resized,
    described,
)
from atlaslib.data.volumes import ORIGIN, Image, brain_mask, read_t1
from atlaslib.files import atomic_write, home
from atlaslib.synthetic import anatomy
from atlaslib.synthetic.cohort import GENERATOR, session_plan
from atlaslib.synthetic.people import draw_people

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import natives  # noqa: E402  (how heads are moved, as in the tests)

Array = NDArray[Any]
SEED = 104
KINDS = ["1 mm", "2 mm", "thick slices", "oblique", "shoulders", "brain alone", "tight", "0.8 mm",
         "T2", "T2"]  # fmt: skip
USUAL_FIELD = ((176, 240, 220), (1.0, 1.0, 1.0))
FIELDS = {  # voxels, and their size in mm
    "2 mm": ((90, 112, 96), (2.0, 2.0, 2.0)),
    "thick slices": ((200, 240, 32), (0.9, 0.9, 6.0)),
    "oblique": ((150, 220, 220), (1.25, 1.0, 1.0)),
    "tight": ((170, 200, 150), (1.0, 1.0, 1.0)),
    "0.8 mm": ((220, 280, 240), (0.8, 0.8, 0.8)),
}
COLUMNS = ["of", "case", "kind", "removed", "variant", "error_mm", "floor_mm", "similarity",
           "contrast", "size", "refused", "seconds", "generator"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A head in native space."""

    about: dict[str, Any]  # of, case, kind, removed, floor_mm
    truth: Array  # (4, 4): the best affine map, mm of the template to native mm
    t1: Image
    rng: np.random.Generator
    t2: Image | None = None
    step: Array | None = None  # mm of the T1 to mm of the T2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure registration.")
    parser.add_argument("--heads", type=Path, metavar="FOLDER")
    parser.add_argument("--people", type=int, default=40, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    out = ROOT / "data" / "results" / "registration.csv"
    parser.add_argument("--out", type=Path, default=out, metavar="TABLE.csv")
    args = parser.parse_args(arguments)
    atlaslib.make_cohort(people_folder(args.people), args.people, SEED, args.workers)
    jobs = [("person", str(number), args.people) for number in range(args.people)]
    jobs += [("nothing", str(number), args.people) for number in range(2)]
    if args.heads:
        paths = sorted((args.heads / "healthy").glob("*.nii*"))
        jobs += [("real", f"{path}:{turn}", args.people) for path in paths for turn in range(2)]
    table = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=[*COLUMNS, "job"])
    done = set(table.job)
    work = [job for job in jobs if name_of(job) not in done]
    pool = joblib.Parallel(n_jobs=args.workers, return_as="generator")
    for rows in pool(joblib.delayed(measure)(*job) for job in work):
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        atomic_write(args.out, partial(table.to_csv, index=False, float_format="%.4g"))
    print(summary(pd.read_csv(args.out)).to_string(index=False, float_format="{:.2f}".format))
    return 0


def name_of(job: tuple[str, str, int]) -> str:
    return f"{job[0]} {Path(job[1]).name}"


def people_folder(people: int) -> Path:
    return home() / "synthetic" / f"registration-{SEED}-{GENERATOR}-{people}"


# --- heads in native space ------------------------------------------------------------------------


def person(number: int, people: int) -> Case:
    """A synthetic person, moved."""
    cohort = atlaslib.make_cohort(people_folder(people), people, SEED, 1, False)
    who = draw_people(people, SEED)[number]
    scan = next(s for s in cohort if s.subject == who.subject and s.session == "t01")
    t1 = read_t1(scan.t1).voxels.astype(np.float32)
    rng = np.random.default_rng([SEED, number])
    kind = KINDS[number % len(KINDS)]
    best, floor = best_affine(session_plan(who, "t01")[0])
    move = random_move(rng)
    about = {"of": "synthetic person", "case": who.subject, "kind": kind,
             "removed": who.removed, "floor_mm": floor}  # fmt: skip
    image, truth = scan_of(kind, move, t1), move @ best
    if kind != "T2":
        return Case(about, truth, image, rng)
    step = natives.moved(tuple(rng.uniform(-20, 20, 3)), tuple(rng.uniform(-10, 10, 3)))
    second = natives.native(step @ move, (120, 140, 55), (1.8, 1.8, 4))
    blurred = ndimage.gaussian_filter(natives.like_t2(t1), 0.7)
    noise = rng.normal(0, 0.05 * blurred.max(), t1.shape)  # of its own, not the T1's
    t2 = as_image(second.image(blurred + noise), second.affine)
    return Case(about, truth, image, rng, t2, step)


def real(place: str) -> Case:
    """A real head that was on the MNI grid, moved; its own anatomy is not known."""
    path, turn = place.rsplit(":", 1)
    t1 = np.asarray(nib.load(path).dataobj, np.float32)
    rng = np.random.default_rng([SEED, int(turn), *Path(path).name.encode()])
    move, kind = random_move(rng), ("2 mm", "oblique")[int(turn)]
    about = {"of": "real head", "case": Path(path).name, "kind": kind, "removed": "", "floor_mm": 0}
    return Case(about, move, scan_of(kind, move, t1), rng)


def best_affine(field: Array) -> tuple[Array, float]:
    """The affine map (mm) closest to a person's anatomy, and the mean distance that it leaves."""
    nodes = np.indices(field.shape[1:]).reshape(3, -1).T * anatomy.STEP
    shown = nodes + field.reshape(3, -1).T  # the template's voxel that is seen there
    inside = np.all((shown >= 0) & (shown <= np.array(anatomy.SHAPE) - 1), axis=1)
    nodes, shown = nodes[inside], shown[inside]
    brain = brain_mask()[tuple(np.rint(shown).astype(int).T)]
    there, own = shown[brain] + ORIGIN, nodes[brain] + ORIGIN
    terms = np.column_stack([there, np.ones(len(there))])
    solution = np.linalg.lstsq(terms, own, rcond=None)[0]
    affine = np.vstack([solution.T, [0, 0, 0, 1]])
    return affine, float(np.linalg.norm(terms @ solution - own, axis=1).mean())


def random_move(rng: np.random.Generator) -> Array:
    """Most heads are smaller than the template, and tilted more than they are turned."""
    scale = rng.uniform(0.82, 1.0) * rng.uniform(0.96, 1.04, 3)
    degrees = rng.uniform(-1, 1, 3) * [25, 12, 12]
    return natives.moved(tuple(rng.uniform(-40, 40, 3)), tuple(degrees), tuple(scale))


def scan_of(kind: str, move: Array, t1: Array) -> Image:
    if kind == "shoulders":
        wide = natives.native(move, shape=(400, 230, 360), above=70)
        return as_image(wide.image(*natives.with_shoulders(t1)), wide.affine)
    native = natives.native(move, *FIELDS.get(kind, USUAL_FIELD))
    if kind == "oblique":
        middle = nib.affines.apply_affine(native.affine, (np.array(native.shape) - 1) / 2)
        turn = natives.moved(degrees=(18, 6, -9))[:3, :3]
        affine = nib.affines.from_matvec(turn, middle - turn @ middle) @ native.affine
        native = natives.Native(move, affine, native.shape)
    volume = native.image(natives.extracted(t1) if kind == "brain alone" else t1)
    return as_image(volume, native.affine)


def as_image(voxels: Array, affine: Array) -> Image:
    image = nib.as_closest_canonical(nib.Nifti1Image(voxels.astype(np.float32), affine))
    return Image(Path("head.nii"), np.asarray(image.dataobj), image.affine, affine, True, True)


def no_heads(number: int, people: int) -> Iterator[tuple[str, Image]]:
    """What must be refused: its name, and the image."""
    rng = np.random.default_rng([SEED, 2000 + number])
    yield "noise", as_image(rng.normal(100, 20, (160, 200, 160)), np.eye(4))
    i, j, k = np.indices((180, 220, 180))
    a, b, c = rng.uniform(55, 90, 3)
    radius = ((i - 90) / a) ** 2 + ((j - 110) / b) ** 2 + ((k - 90) / c) ** 2
    for name, volume in (("ball", radius < 1), ("shell", (radius < 1) * (1 + (radius > 0.8)))):
        yield name, as_image(60 * volume + rng.normal(0, 3, radius.shape), np.eye(4))
    cohort = atlaslib.make_cohort(people_folder(people), people, SEED, 1, False)
    t1 = read_t1(cohort[number].t1).voxels.astype(np.float32)
    scan = natives.native(random_move(rng))
    yield "CT", as_image(scan.image(natives.like_ct(t1) + 1000) - 1000, scan.affine)
    yield "voxels of 2 mm", as_image(t1, MNI_AFFINE @ np.diag([2, 2, 2, 1.0]))
    yield "slices twice as far", as_image(t1, MNI_AFFINE @ np.diag([1, 1, 2, 1.0]))
    yield "axes exchanged", as_image(t1, MNI_AFFINE[:, [0, 2, 1, 3]])


# --- what is measured -----------------------------------------------------------------------------


def measure(kind: str, what: str, people: int) -> list[dict[str, Any]]:
    """The rows of one job."""
    rows = []
    if kind == "nothing":
        for name, image in no_heads(int(what), people):
            about = {"of": "no head", "case": name, "kind": name}
            start = time.process_time()
            try:
                scores = judged(register(image))
            except DataError:
                scores = {"refused": True}
            seconds = time.process_time() - start
            rows.append({**about, "variant": "found", "seconds": seconds, **scores})
    else:
        rows = list(of_head(person(int(what), people) if kind == "person" else real(what)))
    return [{**row, "generator": GENERATOR, "job": name_of((kind, what, people))} for row in rows]


def of_head(case: Case) -> Iterator[dict[str, Any]]:
    start = time.process_time()
    found = register(case.t1)
    seconds = time.process_time() - start
    yield row_of(case, "found", found, case.truth, seconds)
    fine = clipped_and_resized(case.t1, FINE)
    for name, move in spoilt(case.rng).items():
        yield row_of(case, name, described(found.affine @ move, *fine), case.truth)
    if case.t2 is None or case.step is None:
        return
    start = time.process_time()
    within, fit = register_within(case.t1, case.t2, found)
    seconds = time.process_time() - start
    one, other = (clipped_and_resized(image, FINE) for image in (case.t1, case.t2))
    truth, chain = case.step @ found.affine, within @ found.affine  # apart from the T1's error
    yield {**case.about, "variant": "T2 found", "error_mm": distance(chain, truth),
           "seconds": seconds, **judged_within(fit)}  # fmt: skip
    for name, move in spoilt(case.rng).items():
        if not name.startswith("scaled"):  # the map is rigid
            fit = agreement(one, found.affine, other, chain @ move)
            error = distance(chain @ move, truth)
            yield {**case.about, "variant": f"T2 {name}", "error_mm": error, **judged_within(fit)}


def row_of(
    case: Case, name: str, found: Registration, truth: Array, seconds: float = np.nan
) -> dict[str, Any]:
    error = distance(found.affine, truth)
    return {**case.about, "variant": name, "error_mm": error, "seconds": seconds, **judged(found)}


def judged_within(fit: float) -> dict[str, Any]:
    return {"similarity": fit, "refused": fit < WITHIN}


def judged(found: Registration) -> dict[str, Any]:
    try:
        check_registration(found, "")
        refused = False
    except DataError:
        refused = True
    return {"similarity": found.similarity, "contrast": found.contrast, "size": found.size,
            "refused": refused}  # fmt: skip


def spoilt(rng: np.random.Generator) -> dict[str, Array]:
    """Maps of the template that make a good registration a bad one; each in a random direction."""
    moves = {f"moved {mm} mm": natives.moved(tuple(axis(rng) * mm)) for mm in (5, 10, 20)}
    for degrees in (10, 20, 40):
        linear = Rotation.from_rotvec(axis(rng) * np.radians(degrees)).as_matrix()
        shift = natives.CENTRE - linear @ natives.CENTRE
        moves[f"turned {degrees} degrees"] = nib.affines.from_matvec(linear, shift)
    for scale in (0.85, 1.15):
        moves[f"scaled {scale}"] = natives.moved(scale=(scale, scale, scale))
    moves["mirrored"] = np.diag([-1.0, 1, 1, 1])
    return moves


def axis(rng: np.random.Generator) -> Array:
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction)


def distance(a: Array, b: Array) -> float:
    """The mean distance of two maps over the template's brain, in mm."""
    places = np.argwhere(brain_mask()[::6, ::6, ::6]) * 6 + np.array(ORIGIN)
    apart = nib.affines.apply_affine(a, places) - nib.affines.apply_affine(b, places)
    return float(np.linalg.norm(apart, axis=1).mean())


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per sort of image and variant: how many are refused, and their similarity."""
    return table.groupby(["of", "variant"], sort=False).agg(
        count=("refused", "size"), refused=("refused", "sum"), error_mm=("error_mm", "mean"),
        worst_mm=("error_mm", "max"), lowest=("similarity", "min"), highest=("similarity", "max"),
    ).reset_index()  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
