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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from tqdm.auto import tqdm

from atlaslib import infarcts, phantom
from atlaslib.cohort import METADATA, SYNTHETIC_MARK, Cohort, DataError, home, load_cohort
from atlaslib.infarcts import Carved, Infarct
from atlaslib.phantom import Float, Scanner

GENERATOR = 1  # raised whenever the same seed would give other voxels
SUBJECTS = {"smoke": 8, "quick": 80, "paper": 220}
# subjects per site of R1.1; the shares of the sites here
SITE_SUBJECTS = (55, 34, 27, 12, 27, 14, 11, 26, 14)
REPEAT_SITE = "Site8"  # in R1.1 all second sessions are from this site
REPEAT_SHARE = 9 / 220  # of the subjects
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


@dataclass(frozen=True)
class Person:
    """One synthetic subject, fully determined: everything but the voxels."""

    subject: str
    site: int  # 1 to 9
    sessions: tuple[str, ...]
    lesions: tuple[Infarct, ...]
    atrophy: float  # 0..1
    small_vessel: float  # 0..1
    seed: np.random.SeedSequence

    def stream(self, key: int) -> np.random.Generator:
        """An independent random stream; the same key always gives the same numbers."""
        return np.random.default_rng(
            np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, key))
        )

    def folder(self, session: str) -> Path:
        """Of one session, relative to the cohort's root."""
        return Path(f"Site{self.site}") / self.subject / session


def make_cohort(
    root: str | os.PathLike[str],
    subjects: int,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
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
        workers make them.
    workers : int, optional
        Scans made at the same time; by default as many as there are processors, at most eight.
    progress : bool, default=True
        Show a progress bar.

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
    settings = {"generator": GENERATOR, "subjects": subjects, "seed": seed}
    people = draw_people(subjects, seed)
    jobs = [(person, session) for person in people for session in person.sessions]
    _claim(root, settings)
    missing = [job for job in jobs if not (root / job[0].folder(job[1])).is_dir()]
    if missing:
        _make_scans(root, missing, len(jobs), workers, progress)
    _write_aside(root / METADATA, metadata(people).to_csv(index=False).encode())
    _write_aside(root / SYNTHETIC_MARK, _mark(settings, complete=True))
    return load_cohort(root)


def open_cohort(data_dir: str | os.PathLike[str] = "", profile: str = "quick") -> Cohort:
    """The scans that a chapter works on: a folder of ATLAS if given, else the synthetic cohort.

    Parameters
    ----------
    data_dir : path, default=""
        A folder in the tree of ATLAS R1.1. Empty: the synthetic cohort, made on first use.
    profile : {"smoke", "quick", "paper"}
        How many synthetic subjects: 8, 80 or 220.
    """
    if str(data_dir):
        return load_cohort(data_dir)
    if profile not in SUBJECTS:
        raise ValueError(f"profile must be one of {', '.join(SUBJECTS)}, not {profile!r}")
    return make_cohort(home() / "synthetic" / profile, SUBJECTS[profile])


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def _mark(settings: dict[str, int], complete: bool) -> bytes:
    return (json.dumps({**settings, "complete": complete}, indent=1) + "\n").encode()


def _claim(root: Path, settings: dict[str, int]) -> None:
    """Make the folder ours, or refuse one that holds something else."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: is a file; a synthetic cohort needs a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    mark = root / SYNTHETIC_MARK
    if not mark.exists():
        if found := sorted(os.listdir(root)):
            raise DataError(
                f"{root}: holds {', '.join(found[:3])}; "
                "a synthetic cohort needs a new or empty folder"
            )
        _write_aside(mark, _mark(settings, complete=False))
        return
    try:
        known = dict(json.loads(mark.read_text()))
    except (ValueError, TypeError):
        raise DataError(f"{mark}: not the mark of a synthetic cohort; delete the folder") from None
    known.pop("complete", None)
    if known != settings:
        raise DataError(f"{root}: holds a synthetic cohort of {known}, asked for {settings}")
    ours = {SYNTHETIC_MARK, METADATA, *(f"Site{i}" for i in range(1, 10))}
    strange = sorted(n for n in os.listdir(root) if n not in ours and not n.startswith("."))
    if strange:
        raise DataError(f"{root}: holds {', '.join(strange[:3])} beside the synthetic cohort")


def _make_scans(
    root: Path, jobs: Sequence[tuple[Person, str]], total: int, workers: int, progress: bool
) -> None:
    """Make what is missing. Threads: nearly all the time passes in code that frees the GIL."""
    phantom.template()  # before the threads, so that it is built once
    phantom.texture(4), phantom.texture(8)
    bar = tqdm(
        total=total, initial=total - len(jobs), desc="synthetic cohort", unit="scan",
        disable=not progress,
    )
    with bar, ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_write_scan, root, person, session) for person, session in jobs]
        try:
            for future in futures:
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def draw_people(subjects: int, seed: int) -> list[Person]:
    """Everyone in the cohort. Volumes are stratified, so they depend on the cohort's size."""
    seeds = np.random.SeedSequence(seed).spawn(subjects + 1)
    rng = np.random.default_rng(seeds[0])
    totals = infarcts.volumes(rng, subjects)
    numbers = infarcts.numbers(rng, totals)
    sides = np.where(np.arange(subjects) + 0.5 < infarcts.LEFT_SHARE * subjects, -1, 1)
    sides = rng.permutation(sides)
    names = 90_000 + rng.choice(10_000, subjects, replace=False)  # ATLAS has none of these
    sites = _sites(subjects)
    repeated = _repeated(rng, sites)
    people = []
    for i in range(subjects):
        own = np.random.default_rng(seeds[i + 1])
        people.append(
            Person(
                subject=f"{names[i]:06d}",
                site=int(sites[i]),
                sessions=("t01", "t02") if i in repeated else ("t01",),
                lesions=infarcts.plan(own, int(totals[i]), int(numbers[i]), int(sides[i])),
                atrophy=float(own.beta(1.6, 2.0)),
                small_vessel=float(own.beta(1.2, 2.0)),
                seed=seeds[i + 1],
            )
        )
    return people


def _sites(subjects: int) -> NDArray[np.int64]:
    """The site of each subject: R1.1's shares, rounded by largest remainder."""
    exact = np.array(SITE_SUBJECTS) / sum(SITE_SUBJECTS) * subjects
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: subjects - counts.sum()]] += 1
    return np.repeat(np.arange(1, 10), counts)


def _repeated(rng: np.random.Generator, sites: NDArray[np.int64]) -> set[int]:
    """Who comes back for a second session: of one site, as in R1.1, as far as it reaches."""
    wanted = round(REPEAT_SHARE * len(sites)) or int(len(sites) >= 8)
    order = rng.permutation(len(sites))
    first = [i for i in order if f"Site{sites[i]}" == REPEAT_SITE]
    rest = [i for i in order if f"Site{sites[i]}" != REPEAT_SITE]
    return {int(i) for i in (first + rest)[:wanted]}


def carve_lesions(person: Person, session: str) -> tuple[Float, list[tuple[Infarct, Carved]]]:
    """A session's displacement field and its lesions, fitted into the anatomy; no image.

    The second session shows the same head and lesions a little later and differently laid.
    """
    later = session != "t01"
    lesions = [infarcts.again(x, 1.04) for x in person.lesions] if later else person.lesions
    widening = [0.0, 0.0]
    for lesion in lesions:
        if lesion.kind in ("subcortical", "territory", "cortical"):
            widening[lesion.side > 0] += 0.16 * lesion.radius
    left, right = (min(w, 6.5) * (1.08 if later else 1) for w in widening)
    field = phantom.bend(person.stream(1), person.atrophy, (left, right))
    for lesion in lesions:
        if lesion.radius > 6:
            middle = infarcts.centre_in_subject(field, lesion.centre)
            phantom.pull(field, middle, lesion.radius, 0.10)
    if later:
        shift = person.stream(9).normal(0, 0.4, 3)
        field += shift.astype(np.float32)[:, None, None, None]
    taken = np.zeros(phantom.SHAPE, bool)
    out = []
    for i, lesion in enumerate(lesions):
        carved = infarcts.carve(person.stream(100 + i), lesion, field, taken)
        grown = ndimage.binary_dilation(np.pad(carved.mask, 0), iterations=3)
        taken[carved.box] |= grown
        out.append((lesion, carved))
    return field, out


def paint(person: Person, session: str) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """The T1 (197, 233, 189) and one mask per lesion."""
    site = SCANNERS[person.site - 1]
    field, lesions = carve_lesions(person, session)
    own = person.stream(2)
    tissue = phantom.Tissue.draw(own, site)
    image = phantom.head(own, tissue, person.atrophy, person.small_vessel)
    image = phantom.warp(image, field)
    masks = []
    for i, (lesion, carved) in enumerate(lesions):
        infarcts.stain(person.stream(200 + i), image, lesion, carved, tissue.fluid + 2)
        mask = np.zeros(phantom.SHAPE, bool)
        mask[carved.box] = carved.mask
        masks.append(mask)
    key = 3 + 1000 * int(session[1:])
    return phantom.picture(person.stream(key), image, site), masks


def _write_scan(root: Path, person: Person, session: str) -> None:
    """Write one session's folder aside and rename it, so that it is there whole or not at all."""
    target = root / person.folder(session)
    t1, masks = paint(person, session)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=root))
    try:
        value = np.uint8(SCANNERS[person.site - 1].mask_value)
        _write_nifti(aside / f"{person.subject}_t1w_deface_stx.nii.gz", t1)
        for i, mask in enumerate(masks):
            number = f"_{i}" if i else ""
            name = f"{person.subject}_LesionSmooth{number}_stx.nii.gz"
            _write_nifti(aside / name, mask * value)
        aside.chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_nifti(path: Path, voxels: NDArray[np.uint8]) -> None:
    """Compressed without name and time in the gzip header: the same voxels, the same bytes."""
    affine = np.eye(4)
    affine[:3, 3] = phantom.ORIGIN
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=4)  # MNI152
    image.set_qform(affine, code=4)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _write_aside(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


def metadata(people: Sequence[Person]) -> pd.DataFrame:
    """The cohort's table with the columns of R1.1 and their quirks, one row per scan."""
    rows = []
    for person in people:
        main = person.lesions[0]
        where = _location(main)
        side = "brainstem" if main.kind == "brainstem" else ("Left", "Right")[main.side > 0]
        for session in person.sessions:
            rows.append(
                {
                    "INDI Site ID": f"Site{person.site}",
                    "INDI Subject ID": int(person.subject),  # no leading zero, as in R1.1
                    "Session": f" {session}",  # leading space, as in R1.1
                    **_strokes(person.lesions),
                    "Stroke type": "Embolic" if where == "Cortical" else "Unknown",
                    "Primary Stroke Location": where,
                    "Primary Stroke Location Hemisphere": side,
                    "Vascular territory": _artery(main),
                    "PVH": int(3 * person.small_vessel + 0.5),
                    "DWMH": int(3 * person.small_vessel),
                    "Notes": "synthetic",
                }
            )
    return pd.DataFrame(rows)


def _location(lesion: Infarct) -> str:
    if lesion.kind in ("brainstem", "cerebellum"):
        return lesion.kind.capitalize()
    return "Cortical" if lesion.kind == "cortical" else "Subcortical"


def _strokes(lesions: Sequence[Infarct]) -> dict[str, int]:
    def count(where: str, side: int) -> int:
        return sum(_location(x) == where and x.side == side for x in lesions)

    return {
        "# Strokes LH Cortical": count("Cortical", -1),
        "# Strokes LH subcortical": count("Subcortical", -1),
        "# Strokes RH Cortical": count("Cortical", 1),
        "# Strokes RH subcortical": count("Subcortical", 1),
        "Other Location": sum(x.kind in ("brainstem", "cerebellum") for x in lesions),
    }


def _artery(lesion: Infarct) -> str:
    named = {"cortical": "MCA", "territory": "MCA", "cerebellum": "Cerebellar", "brainstem": "Basilar"}
    return named.get(lesion.kind, "Lacunar" if lesion.volume < 3_000 else "MCA")
