"""Make a synthetic cohort: real NIfTI files in the folder layout of ATLAS R1.1, no person's data.

The subjects come from :mod:`atlaslib.synthetic.people`, their heads from `head` and `face`, the
lesions from `infarcts` and `appearance`, the masks from `raters` and the images from `scanner`.
This module puts them together and writes the cohort to disk.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm.auto import tqdm

from atlaslib.data.cohort import EXACT, METADATA, SYNTHETIC_MARK, Cohort
from atlaslib.data.releases import load_cohort
from atlaslib.data.standardise import TABLE, register_cohort
from atlaslib.files import DataError, atomic_write, home, user_path
from atlaslib.synthetic import anatomy, appearance, face, head, infarcts, raters
from atlaslib.synthetic.anatomy import Float
from atlaslib.synthetic.infarcts import FittedLesion, Infarct
from atlaslib.synthetic.people import Person, draw_people, metadata
from atlaslib.synthetic.scanner import SCANNERS, SHIFTED, Scanner, acquire

_TEMPORARY = (".making-", f".{SYNTHETIC_MARK}")  # names that an interrupted run may leave behind
#: Generator version. Raise it when a change alters the voxels that a seed gives: tables made with
#: another version are then reported as out of date.
GENERATOR = 3
SUBJECTS = {"smoke": 8, "quick": 64, "colab": 220, "paper": 220}


def make_cohort(
    root: str | os.PathLike[str],
    subjects: int,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    shifted: bool = False,
) -> Cohort:
    """Make a synthetic cohort in the folder layout of ATLAS R1.1, or load it if it exists already.

    Parameters
    ----------
    root : path
        A new or empty folder, or one that holds this same cohort, finished or interrupted.
    subjects : int
        1 to 9999. About 4 % of them have a second session.
    seed : int, default=0
        The same seed and number of subjects give the same files, byte for byte, for any number
        of workers (with the same versions of the packages).
    workers : int, optional
        Scans made in parallel; by default one per available processor, at most eight.
    progress : bool, default=True
        Show a progress bar.
    shifted : bool, default=False
        The same people on scanners with other noise, blur, shading and contrast: a test for
        networks that were trained on the usual scanners.

    Returns
    -------
    Cohort
        The cohort, with ``synthetic`` True.

    Raises
    ------
    DataError
        If the folder holds anything else, or a cohort made with other settings.
    ValueError
        If an argument is out of range.
    """
    root = user_path(root)
    _check_integer("subjects", subjects, 1, 9_999)
    _check_integer("seed", seed, 0, 2**63)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    workers = min(processors, 8) if workers is None else workers
    _check_integer("workers", workers, 1, 256)
    settings = {"generator": GENERATOR, "subjects": int(subjects), "seed": int(seed)}
    settings["shifted"] = int(shifted)
    files = _claim(root, settings)
    if files and sum(1 for _ in root.glob("Site*/*/*/*.nii.gz")) == files:
        return load_cohort(root)
    people = draw_people(subjects, seed)
    jobs = [(person, session) for person in people for session in person.sessions]
    missing = [job for job in jobs if not _is_complete(root, *job)]
    if missing:
        _make_scans(root, missing, len(jobs), workers, progress, shifted)
    files = sum(len(_file_names(person)) for person, _ in jobs)
    atomic_write(root / METADATA, lambda name: metadata(people).to_csv(name, index=False))
    atomic_write(root / SYNTHETIC_MARK, lambda name: Path(name).write_bytes(_mark(settings, files)))
    return load_cohort(root)


def open_cohort(data_dir: str | os.PathLike[str] = "", profile: str = "quick") -> Cohort:
    """The scans that a chapter works on: those of a folder, or else the synthetic cohort.

    Parameters
    ----------
    data_dir : path, default=""
        A folder that :func:`atlaslib.load_cohort` reads, whose scans with masks are loaded. If they
        are in native space, they are first aligned with MNI space, in a folder of :func:`home`; a
        warning says how many could not be. Empty: the synthetic cohort, made on first use.
    profile : {"smoke", "quick", "colab", "paper"}
        Sets the number of synthetic subjects: 8 for "smoke", 64 for "quick", 220 for the others.

    Returns
    -------
    Cohort
        Scans with masks, in MNI space.

    Raises
    ------
    DataError
        As :func:`atlaslib.load_cohort`, and if no scan could be registered.
    ValueError
        If there is no such profile.
    """
    if str(data_dir):
        return _in_mni_space(load_cohort(data_dir).labelled)
    if profile not in SUBJECTS:
        raise ValueError(f"profile must be one of {', '.join(SUBJECTS)}, not {profile!r}")
    subjects = SUBJECTS[profile]
    return make_cohort(home() / "synthetic" / f"{subjects}-subjects-{GENERATOR}", subjects)


def _in_mni_space(cohort: Cohort) -> Cohort:
    """A cohort, registered if it is in native space."""
    if not any(scan.space == "native" for scan in cohort):
        return cohort
    out = home() / "registered" / cohort.fingerprint()
    table = register_cohort(cohort, out)
    if failed := int((table.problem != "").sum()):
        if failed == len(table):
            text = f"no scan could be registered, such as {table.problem[0]}"
            raise DataError(f"{cohort.root}: {text}", "registration")
        text = f"{failed} of {len(table)} scans could not be registered: {out / TABLE}"
        warnings.warn(f"{cohort.root}: {text}", stacklevel=3)
    return load_cohort(out).labelled


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def _mark(settings: dict[str, int], files: int) -> bytes:
    """Content of the marker file; ``files`` is 0 while the cohort is being made."""
    content = {**settings, "complete": files > 0, "files": files}
    return (json.dumps(content, indent=1) + "\n").encode()


def _claim(root: Path, settings: dict[str, int]) -> int:
    """Create and mark the folder, or refuse one with other content; its files if finished, or 0."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: is a file; a synthetic cohort needs a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    mark = root / SYNTHETIC_MARK
    expected = {SYNTHETIC_MARK, METADATA, ".DS_Store", *(f"Site{i}" for i in range(1, 10))}
    found = sorted(n for n in os.listdir(root) if not n.startswith((f".{METADATA}", *_TEMPORARY)))
    if not mark.exists():
        if found:
            raise DataError(
                f"{root}: holds {', '.join(found[:3])}; "
                "a synthetic cohort needs a new or empty folder"
            )
        atomic_write(mark, lambda name: Path(name).write_bytes(_mark(settings, files=0)))
        return 0
    if strange := [name for name in found if name not in expected]:
        raise DataError(f"{root}: holds {', '.join(strange[:3])} besides the synthetic cohort")
    known = _read_mark(mark)
    if any(known.get(name, 0) != value for name, value in settings.items()):
        listed = [", ".join(f"{n} {part.get(n)}" for n in settings) for part in (known, settings)]
        raise DataError(
            f"{root}: holds a synthetic cohort with {listed[0]}, but {listed[1]} were requested; "
            "delete it or choose another folder"
        )
    files = known.get("files")
    return files if isinstance(files, int) else 0


def _read_mark(mark: Path) -> dict[str, object]:
    try:
        known = json.loads(mark.read_text())
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise DataError(f"{mark}: not the marker file of a synthetic cohort; choose another folder")
    return known


def _file_names(person: Person) -> list[str]:
    """The files of a session: T1, exact outline, raters' lesions, numbered from the second on."""
    numbers = ["", *(f"_{i}" for i in range(1, len(person.lesions)))]
    masks = [f"{person.subject}_LesionSmooth{number}_stx.nii.gz" for number in numbers]
    return [f"{person.subject}_t1w_deface_stx.nii.gz", f"{person.subject}{EXACT}", *masks]


def _is_complete(root: Path, person: Person, session: str) -> bool:
    folder = root / person.folder(session)
    return all((folder / name).is_file() for name in _file_names(person))


def _make_scans(
    root: Path,
    jobs: Sequence[tuple[Person, str]],
    total: int,
    workers: int,
    progress: bool,
    shifted: bool,
) -> None:
    """Make the missing scans, in threads: nearly all the time goes to code that frees the GIL."""
    face.parts()  # before the threads, so that these are built once
    for feature in (4, 8):
        anatomy.texture(feature)
    bar = tqdm(
        total=total,
        initial=total - len(jobs),
        desc="synthetic cohort",
        unit="scan",
        disable=not progress,
    )
    with bar, ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(_write_scan, root, person, session, shifted) for person, session in jobs
        ]
        try:
            for future in futures:
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for leftover in root.glob(f"{_TEMPORARY[0]}*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just used it
            if time.time() - leftover.stat().st_mtime > 120:  # longer than any scan: a killed run's
                shutil.rmtree(leftover, ignore_errors=True)


def session_plan(person: Person, session: str) -> tuple[Float, list[Infarct]]:
    """A session's displacement ``(3, *anatomy.NODES)`` and planned lesions, not yet fitted into it.

    The second session shows the same head and lesions a little later and slightly shifted.
    """
    later = session != "t01"
    lesions = [lesion.grown(1.04) if later else lesion for lesion in person.lesions]
    widening = [0.0, 0.0]  # mm, left and right
    for lesion in lesions:
        if lesion.kind in ("subcortical", "territory", "cortical"):
            widening[lesion.side > 0] += 0.16 * lesion.radius
    left, right = (min(w, 6.5) * (1.08 if later else 1) for w in widening)
    field = anatomy.displacement(person.stream(1), person.atrophy, (left, right))
    for lesion in lesions:
        if lesion.radius > 6:
            middle = anatomy.centre_in_subject(field, lesion.centre)
            anatomy.contract(field, middle, lesion.radius, 0.10)
    if later:
        shift = person.stream(9).normal(0, 0.4, 3)
        field += shift.astype(np.float32)[:, None, None, None]
    return field, lesions


def fit_lesions(person: Person, session: str) -> tuple[Float, list[tuple[Infarct, FittedLesion]]]:
    """A session's displacement and its lesions, fitted into the anatomy; no image."""
    field, lesions = session_plan(person, session)
    taken = np.zeros(anatomy.SHAPE, bool)
    out = []
    for i, lesion in enumerate(lesions):
        fitted = infarcts.fit_lesion(person.stream(100 + i), lesion, field, taken)
        taken[fitted.box] |= ndimage.binary_dilation(fitted.mask, iterations=3)
        out.append((lesion, fitted))
    return field, out


@dataclass(frozen=True)
class SyntheticScan:
    """A synthetic scan: its voxels, each (197, 233, 189), and where it was imaged."""

    t1: NDArray[np.uint8]
    masks: list[NDArray[np.bool_]]  # of the lesions, as a rater outlines them; they do not overlap
    exact: NDArray[np.bool_]  # where the lesions are
    site: Scanner


def make_scan(person: Person, session: str, shifted: bool = False) -> SyntheticScan:
    """Image one session of a person, and outline its lesions."""
    site = (SHIFTED if shifted else SCANNERS)[person.site - 1]
    field, lesions = fit_lesions(person, session)
    own = person.stream(2)
    tissue = head.Tissue.draw(own, site)
    image = head.healthy_head(own, tissue, person.atrophy, person.small_vessel)
    face.remove(own, image, person.removed)
    image = head.warp(image, field)
    exact, outlined = np.zeros((2, *anatomy.SHAPE), bool)
    masks = []
    for i, (lesion, fitted) in enumerate(lesions):
        appearance.paint_lesion(person.stream(200 + i), image, lesion, fitted, tissue.fluid + 2)
        mask = np.zeros(anatomy.SHAPE, bool)
        mask[fitted.box] = raters.outline(person.stream(300 + i), fitted)
        masks.append(mask & ~outlined)
        outlined |= mask
        exact[fitted.box] |= fitted.mask
    key = 3 + 1000 * int(session[1:])
    return SyntheticScan(acquire(person.stream(key), image, site), masks, exact, site)


def _write_scan(root: Path, person: Person, session: str, shifted: bool) -> None:
    """Write one session's folder under a temporary name, then rename it: it is whole or absent."""
    target = root / person.folder(session)
    made = make_scan(person, session, shifted)
    partial = Path(tempfile.mkdtemp(prefix=_TEMPORARY[0], dir=root))
    try:
        masks = [mask * np.uint8(made.site.mask_value) for mask in made.masks]
        volumes = [made.t1, made.exact.astype(np.uint8), *masks]
        for name, voxels in zip(_file_names(person), volumes, strict=True):
            _write_nifti(partial / name, voxels)
        partial.chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _is_complete(root, person, session):  # else another process was first
            shutil.rmtree(target, ignore_errors=True)  # a session with a file missing
        partial.rename(target)
    except OSError:
        if not _is_complete(root, person, session):  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_nifti(path: Path, voxels: NDArray[np.uint8]) -> None:
    """Write no name or time to the gzip header, so that the same voxels give the same bytes."""
    affine = np.eye(4)
    affine[:3, 3] = anatomy.ORIGIN
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=4)  # MNI152
    image.set_qform(affine, code=4)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
