"""Making a synthetic cohort: real NIfTI files in the tree of ATLAS R1.1, no person's data.

The heads come from :mod:`atlaslib.phantom`, the lesions from :mod:`atlaslib.infarcts`; this file
decides who is in the cohort and puts it on disk.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm.auto import tqdm

from atlaslib import anatomy, infarcts, phantom
from atlaslib.anatomy import Float
from atlaslib.cohort import (
    METADATA,
    SYNTHETIC_MARK,
    Cohort,
    DataError,
    home,
    source_fingerprint,
    write_aside,
)
from atlaslib.infarcts import Carved, Infarct
from atlaslib.people import Person, draw_people, metadata
from atlaslib.phantom import Scanner
from atlaslib.releases import load_cohort

# What decides the voxels.
_CODE = ("synthetic.py", "people.py", "phantom.py", "infarcts.py", "anatomy.py")
_ASIDE = (".making-", f".{SYNTHETIC_MARK}")  # what an interrupted run may leave behind
GENERATOR = 1  # raised whenever the same seed would give other voxels
SUBJECTS = {"smoke": 8, "quick": 100, "paper": 220}
SCANNERS = (
    Scanner(1.8, (0.50, 0.50, 0.50), 0.06, 0.66, 255),
    Scanner(2.6, (0.60, 0.60, 0.60), 0.10, 0.62, 1),
    Scanner(1.5, (0.45, 0.45, 0.45), 0.05, 0.68, 255),
    Scanner(3.4, (0.50, 0.50, 0.80), 0.12, 0.60, 255),
    Scanner(2.2, (0.70, 0.55, 0.55), 0.08, 0.64, 1),
    Scanner(2.9, (0.55, 0.55, 0.55), 0.14, 0.69, 255),
    Scanner(1.9, (0.80, 0.80, 0.80), 0.07, 0.63, 1),
    Scanner(2.4, (0.50, 0.50, 0.50), 0.11, 0.67, 255),
    Scanner(3.0, (0.65, 0.65, 0.65), 0.09, 0.61, 1),
)
# Sites as no cohort above has them: noisier, more blurred, three times the shading, grey matter
# darker or brighter than any of theirs.
SHIFTED = tuple(
    Scanner(noise, (blur, blur, blur), bias, grey, 1)
    for noise, blur, bias, grey in (
        (4.5, 0.9, 0.30, 0.48),
        (5.5, 0.6, 0.25, 0.80),
        (3.8, 1.1, 0.35, 0.50),
        (6.0, 0.8, 0.28, 0.78),
        (5.0, 1.0, 0.32, 0.45),
        (4.2, 0.7, 0.40, 0.82),
        (5.8, 1.0, 0.26, 0.52),
        (4.8, 1.2, 0.30, 0.76),
        (5.2, 0.9, 0.38, 0.46),
    )
)


def make_cohort(
    root: str | os.PathLike[str],
    subjects: int,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    shifted: bool = False,
) -> Cohort:
    """Make a synthetic cohort in the tree of ATLAS R1.1, or load it if it is there already.

    Parameters
    ----------
    root : path
        A new or empty folder, or one that holds this very cohort, finished or interrupted.
    subjects : int
        1 to 9999. About 4 % of them have a second session.
    seed : int, default=0
        The same seed and number of subjects give the same files, byte for byte, however many
        workers make them (with the same versions of the packages).
    workers : int, optional
        Scans made at the same time; by default as many as there are processors, at most eight.
    progress : bool, default=True
        Show a progress bar.
    shifted : bool, default=False
        The same people, seen by scanners of other noise, blur, shading and contrast: a test for
        networks that were trained on the usual ones.

    Returns
    -------
    Cohort
        Its ``synthetic`` is True.

    Raises
    ------
    DataError
        If the folder holds anything else, or a cohort made with other settings.
    ValueError
        If an argument is out of range.
    """
    root = Path(root).expanduser()
    _check_whole("subjects", subjects, 1, 9_999)
    _check_whole("seed", seed, 0, 2**63)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    workers = min(processors, 8) if workers is None else workers
    _check_whole("workers", workers, 1, 256)
    settings = {"generator": GENERATOR, "subjects": int(subjects), "seed": int(seed)}
    settings["shifted"] = int(shifted)
    files = _claim(root, settings)
    if files and sum(1 for _ in root.glob("Site*/*/*/*.nii.gz")) == files:
        return load_cohort(root)
    people = draw_people(subjects, seed)
    jobs = [(person, session) for person in people for session in person.sessions]
    missing = [job for job in jobs if not _is_whole(root, *job)]
    if missing:
        _make_scans(root, missing, len(jobs), workers, progress, shifted)
    files = sum(len(_file_names(person)) for person, _ in jobs)
    write_aside(root / METADATA, lambda name: metadata(people).to_csv(name, index=False))
    write_aside(root / SYNTHETIC_MARK, lambda name: Path(name).write_bytes(_mark(settings, files)))
    return load_cohort(root)


def data_fingerprint() -> str:
    """Twelve hexadecimal digits of the code that makes the cohort; comments do not count."""
    return source_fingerprint(*_CODE)


def open_cohort(data_dir: str | os.PathLike[str] = "", profile: str = "quick") -> Cohort:
    """The scans that a chapter works on: a folder of ATLAS if given, else the synthetic cohort.

    Parameters
    ----------
    data_dir : path, default=""
        A folder of ATLAS, of which the scans with masks are given. Empty: the synthetic cohort,
        made on first use.
    profile : {"smoke", "quick", "paper"}
        How many synthetic subjects: 8, 100 or 220.
    """
    if str(data_dir):
        return load_cohort(data_dir).labelled
    if profile not in SUBJECTS:
        raise ValueError(f"profile must be one of {', '.join(SUBJECTS)}, not {profile!r}")
    return make_cohort(home() / "synthetic" / f"{profile}-{GENERATOR}", SUBJECTS[profile])


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def _mark(settings: dict[str, int], files: int) -> bytes:
    """What identifies our folder; 0 files while it is being made."""
    content = {**settings, "complete": files > 0, "files": files}
    return (json.dumps(content, indent=1) + "\n").encode()


def _claim(root: Path, settings: dict[str, int]) -> int:
    """Make the folder ours, or refuse one that holds something else; files if it is finished."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: is a file; a synthetic cohort needs a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    mark = root / SYNTHETIC_MARK
    expected = {SYNTHETIC_MARK, METADATA, ".DS_Store", *(f"Site{i}" for i in range(1, 10))}
    found = sorted(n for n in os.listdir(root) if not n.startswith((f".{METADATA}", *_ASIDE)))
    if not mark.exists():
        if found:
            raise DataError(
                f"{root}: holds {', '.join(found[:3])}; "
                "a synthetic cohort needs a new or empty folder"
            )
        write_aside(mark, lambda name: Path(name).write_bytes(_mark(settings, files=0)))
        return 0
    if strange := [name for name in found if name not in expected]:
        raise DataError(f"{root}: holds {', '.join(strange[:3])} beside the synthetic cohort")
    known = _read_mark(mark)
    if any(known.get(name, 0) != value for name, value in settings.items()):
        listed = [", ".join(f"{n} {part.get(n)}" for n in settings) for part in (known, settings)]
        raise DataError(
            f"{root}: holds the synthetic cohort of {listed[0]}, asked for {listed[1]}; "
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
        raise DataError(f"{mark}: not the mark of a synthetic cohort; choose another folder")
    return known


def _file_names(person: Person) -> list[str]:
    """The files of a session: the T1, then the lesions, numbered from the second on."""
    numbers = ["", *(f"_{i}" for i in range(1, len(person.lesions)))]
    masks = [f"{person.subject}_LesionSmooth{number}_stx.nii.gz" for number in numbers]
    return [f"{person.subject}_t1w_deface_stx.nii.gz", *masks]


def _is_whole(root: Path, person: Person, session: str) -> bool:
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
    """Make what is missing. Threads: nearly all the time passes in code that frees the GIL."""
    anatomy.template()  # before the threads, so that it is built once
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
    for left in root.glob(f"{_ASIDE[0]}*"):
        if time.time() - left.stat().st_mtime > 120:  # no scan takes as long: a killed run's
            shutil.rmtree(left, ignore_errors=True)


def lay(person: Person, session: str) -> tuple[Float, list[Infarct]]:
    """A session's displacement ``(3, *anatomy.NODES)`` and lesions, not yet fitted into it.

    The second session shows the same head and lesions a little later and differently laid.
    """
    later = session != "t01"
    lesions = [lesion.grown(1.04) if later else lesion for lesion in person.lesions]
    widening = [0.0, 0.0]  # mm, left and right
    for lesion in lesions:
        if lesion.kind in ("subcortical", "territory", "cortical"):
            widening[lesion.side > 0] += 0.16 * lesion.radius
    left, right = (min(w, 6.5) * (1.08 if later else 1) for w in widening)
    field = anatomy.bend(person.stream(1), person.atrophy, (left, right))
    for lesion in lesions:
        if lesion.radius > 6:
            middle = anatomy.centre_in_subject(field, lesion.centre)
            anatomy.pull(field, middle, lesion.radius, 0.10)
    if later:
        shift = person.stream(9).normal(0, 0.4, 3)
        field += shift.astype(np.float32)[:, None, None, None]
    return field, lesions


def carve_lesions(person: Person, session: str) -> tuple[Float, list[tuple[Infarct, Carved]]]:
    """A session's displacement and its lesions, fitted into the anatomy; no image."""
    field, lesions = lay(person, session)
    taken = np.zeros(anatomy.SHAPE, bool)
    out = []
    for i, lesion in enumerate(lesions):
        carved = infarcts.carve(person.stream(100 + i), lesion, field, taken)
        taken[carved.box] |= ndimage.binary_dilation(carved.mask, iterations=3)
        out.append((lesion, carved))
    return field, out


def paint(
    person: Person, session: str, shifted: bool = False
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """The T1 (197, 233, 189) and one mask per lesion."""
    site = (SHIFTED if shifted else SCANNERS)[person.site - 1]
    field, lesions = carve_lesions(person, session)
    own = person.stream(2)
    tissue = phantom.Tissue.draw(own, site)
    image = phantom.head(own, tissue, person.atrophy, person.small_vessel)
    image = phantom.warp(image, field)
    masks = []
    for i, (lesion, carved) in enumerate(lesions):
        infarcts.stain(person.stream(200 + i), image, lesion, carved, tissue.fluid + 2)
        mask = np.zeros(anatomy.SHAPE, bool)
        mask[carved.box] = carved.mask
        masks.append(mask)
    key = 3 + 1000 * int(session[1:])
    return phantom.picture(person.stream(key), image, site), masks


def _write_scan(root: Path, person: Person, session: str, shifted: bool) -> None:
    """Write one session's folder aside and rename it, so that it is there whole or not at all."""
    target = root / person.folder(session)
    t1, masks = paint(person, session, shifted)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE[0], dir=root))
    try:
        value = np.uint8(SCANNERS[person.site - 1].mask_value)
        for name, voxels in zip(
            _file_names(person), [t1, *(mask * value for mask in masks)], strict=True
        ):
            _write_nifti(aside / name, voxels)
        aside.chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # a session that has lost a file
        aside.rename(target)
    except OSError:
        if not _is_whole(root, person, session):  # else another process was faster
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_nifti(path: Path, voxels: NDArray[np.uint8]) -> None:
    """Compressed without name and time in the gzip header: the same voxels, the same bytes."""
    affine = np.eye(4)
    affine[:3, 3] = anatomy.ORIGIN
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=4)  # MNI152
    image.set_qform(affine, code=4)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
