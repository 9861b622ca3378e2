"""Finding scans on disk: which subjects, sessions and sites a folder of ATLAS holds.

Nothing here opens voxel data. A :class:`Scan` names the files of one T1-weighted image and of
all its lesion masks; a :class:`Cohort` is a sequence of scans.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd

METADATA = "ATLAS_Meta-Data_Release_1.1_standard_mni.csv"
_T1 = re.compile(r"^(?P<subject>\d+)_t1w_deface_stx\.nii(\.gz)?$")
_MASK = re.compile(r"^(?P<subject>\d+)_LesionSmooth(_\d+)?_stx\.nii(\.gz)?$")


class DataError(ValueError):
    """A data folder or file is not what it should be; the message is one clear line."""


@dataclass(frozen=True)
class Scan:
    """One T1-weighted image with its lesion masks (one file per lesion in release 1.x)."""

    subject: str  # as in the folder's name, leading zeros kept: "090012"
    session: str  # "t01" or "t02"
    site: str  # "Site2"
    t1: Path
    masks: tuple[Path, ...]  # the scan's target is the union of all of them

    @property
    def name(self) -> str:
        """Subject and session, such as ``"090012-t01"``, unique within a cohort."""
        return f"{self.subject}-{self.session}"


@dataclass(frozen=True)
class Cohort(Sequence[Scan]):
    """An ordered collection of scans from one folder."""

    root: Path
    scans: tuple[Scan, ...]

    def __len__(self) -> int:
        return len(self.scans)

    @overload
    def __getitem__(self, index: int) -> Scan: ...
    @overload
    def __getitem__(self, index: slice) -> Cohort: ...
    def __getitem__(self, index: int | slice) -> Scan | Cohort:
        if isinstance(index, slice):
            return Cohort(self.root, self.scans[index])
        return self.scans[index]

    def __iter__(self) -> Iterator[Scan]:
        return iter(self.scans)

    @property
    def synthetic(self) -> bool:
        """True for a cohort made by :func:`atlaslib.make_cohort`, False for anything else."""
        return (self.root / SYNTHETIC_MARK).is_file()

    @property
    def source(self) -> str:
        """Origin of the scans, for titles and tables, "synthetic cohort" or "ATLAS"."""
        return "synthetic cohort" if self.synthetic else "ATLAS"

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects, each once, in order of appearance."""
        return tuple(dict.fromkeys(scan.subject for scan in self.scans))

    def table(self) -> pd.DataFrame:
        """One row per scan: subject, session, site, number of masks, and the T1's path."""
        rows = [
            {
                "subject": scan.subject,
                "session": scan.session,
                "site": scan.site,
                "masks": len(scan.masks),
                "t1": str(scan.t1.relative_to(self.root)),
            }
            for scan in self.scans
        ]
        return pd.DataFrame(rows, columns=["subject", "session", "site", "masks", "t1"])

    def split(
        self,
        fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        by: str = "subject",
    ) -> tuple[Cohort, Cohort, Cohort]:
        """Divide at random into training, validation and test cohorts.

        Parameters
        ----------
        fractions : three numbers that sum to 1
            Shares of the units (subjects or sites), rounded, each part getting at least one.
        seed : int
            The same seed gives the same split on every machine.
        by : {"subject", "site"}
            What must stay together. Two sessions of one person are never separated.

        Returns
        -------
        (Cohort, Cohort, Cohort)
            Training, validation, test; scans keep their order.

        Raises
        ------
        ValueError
            If the fractions do not sum to 1, or there are fewer than three units.
        """
        if by not in ("subject", "site"):
            raise ValueError(f"split by 'subject' or 'site', not by {by!r}")
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(f"split needs three positive fractions that sum to 1, not {fractions}")
        # sorted: the split depends on the names alone, not on the order of the folder
        units = sorted({getattr(scan, by) for scan in self.scans})
        if len(units) < 3:
            raise DataError(f"{self.root}: a split needs at least 3 {by}s, found {len(units)}")
        order = np.random.default_rng(seed).permutation(len(units))
        held = [max(1, round(fraction * len(units))) for fraction in fractions[1:]]
        first = len(units) - sum(held)
        if first < 1:
            raise DataError(f"{self.root}: {len(units)} {by}s are too few for {fractions}")
        edges = (0, first, first + held[0], len(units))
        parts = []
        for start, end in itertools.pairwise(edges):
            chosen = {units[i] for i in order[start:end]}
            kept = tuple(scan for scan in self.scans if getattr(scan, by) in chosen)
            parts.append(Cohort(self.root, kept))
        return parts[0], parts[1], parts[2]

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any scan's name or any file's bytes do."""
        digest = hashlib.sha256()
        for scan in self.scans:
            digest.update(f"{scan.name} {scan.site} {scan_digest(scan)}\n".encode())
        return digest.hexdigest()[:12]


SYNTHETIC_MARK = "synthetic.json"  # written by make_cohort; ATLAS has no such file


def load_cohort(root: str | os.PathLike[str]) -> Cohort:
    """Find the scans of a folder in the tree of ATLAS R1.1, or of the synthetic cohort.

    Parameters
    ----------
    root : path
        The folder that holds ``Site1``, ``Site2``, ...; a session's folder, such as
        ``Site2/090012/t01``, holds ``090012_t1w_deface_stx.nii.gz`` and, for each lesion,
        ``090012_LesionSmooth_stx.nii.gz``, ``090012_LesionSmooth_1_stx.nii.gz``, ...
        Files may be compressed or not.

    Returns
    -------
    Cohort
        Scans ordered by site, subject and session.

    Raises
    ------
    DataError
        If the folder is missing, empty or holds something else; if a scan has no mask, or a
        folder has a mask but no scan. The message names the file.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise DataError(f"{root}: no such folder; expected one that holds Site1, Site2, ...")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; expected the folder that holds Site1, Site2, ...")
    scans = []
    for folder in sorted(root.glob("Site*/*/*/")):
        scan = _scan_of(folder)
        if scan is not None:
            scans.append(scan)
    if not scans:
        empty = not any(root.iterdir())
        found = "it is empty" if empty else "found " + ", ".join(sorted(os.listdir(root))[:4])
        raise DataError(
            f"{root}: no ATLAS scans here; expected "
            f"Site1/SUBJECT/t01/SUBJECT_t1w_deface_stx.nii.gz, {found}"
        )
    _refuse_twins(scans)
    return Cohort(root, tuple(scans))


def _scan_of(folder: Path) -> Scan | None:
    """The scan in one session's folder; None if the folder holds no image at all."""
    subject = folder.parent.name
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    t1s = [path for path in files if _T1.match(path.name)]
    masks = tuple(path for path in files if _MASK.match(path.name))
    if not t1s and not masks:
        return None
    if not t1s:
        raise DataError(
            f"{masks[0]}: a lesion mask without a scan; expected "
            f"{subject}_t1w_deface_stx.nii.gz beside it"
        )
    if len(t1s) > 1:
        raise DataError(f"{t1s[1]}: a second T1 in one session, beside {t1s[0].name}")
    if not masks:
        raise DataError(
            f"{t1s[0]}: a scan without a lesion mask; expected "
            f"{subject}_LesionSmooth_stx.nii.gz beside it"
        )
    for path in (t1s[0], *masks):
        if not path.name.startswith(f"{subject}_"):
            raise DataError(f"{path}: belongs to another subject than its folder {subject}")
    return Scan(subject, folder.name, folder.parent.parent.name, t1s[0], masks)


def _refuse_twins(scans: list[Scan]) -> None:
    """Two scans of one name would be one scan to every table and split."""
    seen: dict[str, list[Path]] = defaultdict(list)
    for scan in scans:
        seen[scan.name].append(scan.t1)
    for paths in seen.values():
        if len(paths) > 1:
            raise DataError(f"{paths[1]}: the same subject and session as {paths[0]}")


def scan_digest(scan: Scan) -> str:
    """SHA-256 over the bytes of a scan's files: the scan's identity, whatever its path or date."""
    digest = hashlib.sha256()
    for path in (scan.t1, *scan.masks):
        stat = path.stat()
        digest.update(_file_digest(path, stat.st_mtime_ns, stat.st_size).encode())
    return digest.hexdigest()


@cache
def _file_digest(path: Path, mtime_ns: int, size: int) -> str:
    """Time and size are in the key, so that a file changed in this process is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home() -> Path:
    """Where made data, slices and runs are kept.

    The environment variable ``ATLASLIB_HOME`` if set; in a checkout of the repository its
    ``data`` folder; else ``~/.cache/atlaslib``.
    """
    if chosen := os.environ.get("ATLASLIB_HOME"):
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "_toc.yml").is_file():
        return checkout / "data"
    return Path.home() / ".cache" / "atlaslib"


def write_aside(path: Path, write: Callable[[str], object]) -> None:
    """Write a file through ``write(name)`` under another name, then rename it into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        write(name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
