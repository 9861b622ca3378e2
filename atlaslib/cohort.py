"""What a folder of scans holds: scans, cohorts, splits, and where the library keeps things.

Nothing here opens voxel data. A :class:`Scan` names the files of one T1-weighted image and of
all its lesion masks; a :class:`Cohort` is a sequence of scans.
"""

from __future__ import annotations

import ast
import dataclasses
import errno
import hashlib
import itertools
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd

from atlaslib.metadata import joined, read_tables

METADATA = "ATLAS_Meta-Data_Release_1.1_standard_mni.csv"
SYNTHETIC_MARK = "synthetic.json"  # written by make_cohort; ATLAS has no such file


class DataError(ValueError):
    """A data folder or file is not what it should be; the message is one clear line.

    Attributes
    ----------
    kind : str
        The kind of fault in a word or two, for programs: "no mask", "shape", ...
    blocks : bool
        False for what deserves a look, but does not keep training from starting.
    """

    def __init__(self, message: str, kind: str = "data", blocks: bool = True) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
        self.kind = kind
        self.blocks = blocks


@dataclass(frozen=True)
class Scan:
    """One T1-weighted image with its lesion masks (one file per lesion in release 1.x)."""

    subject: str  # as the release names it: "090012", "c0003s0002", "sub-r001s001"
    session: str  # likewise: "t01", "ses-1"
    site: str  # likewise: "Site2", "c0003", "R001"
    t1: Path
    masks: tuple[Path, ...]  # the scan's target is the union of all; none in the test set of R2.0
    space: str = "MNI"  # or "native": as the scanner saw it

    @property
    def name(self) -> str:
        """Subject and session, such as ``"090012-t01"``, unique within a cohort."""
        return f"{self.subject}-{self.session}"


@dataclass(frozen=True)
class Cohort(Sequence[Scan]):
    """An ordered collection of scans from one folder."""

    root: Path
    scans: tuple[Scan, ...]
    release: str = "R1.1"  # "R1.1", "R1.2", "R2.0" or "synthetic"
    metadata: Path | None = None  # the release's table of subjects, if it was found

    def __len__(self) -> int:
        return len(self.scans)

    @overload
    def __getitem__(self, index: int) -> Scan: ...
    @overload
    def __getitem__(self, index: slice) -> Cohort: ...
    def __getitem__(self, index: int | slice) -> Scan | Cohort:
        if isinstance(index, slice):
            return self.only(self.scans[index])
        return self.scans[index]

    def __iter__(self) -> Iterator[Scan]:
        return iter(self.scans)

    def only(self, scans: Sequence[Scan]) -> Cohort:
        """The same cohort with some of its scans."""
        return dataclasses.replace(self, scans=tuple(scans))

    @property
    def labelled(self) -> Cohort:
        """The scans that have a lesion mask: all but the test set of R2.0."""
        return self.only([scan for scan in self.scans if scan.masks])

    @property
    def synthetic(self) -> bool:
        """True for a cohort made by :func:`atlaslib.make_cohort`, False for anything else."""
        return self.release == "synthetic"

    @property
    def source(self) -> str:
        """Origin of the scans, for titles and tables: "synthetic cohort", "ATLAS R1.1", ..."""
        return "synthetic cohort" if self.synthetic else f"ATLAS {self.release}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects, each once, in order of appearance."""
        return tuple(dict.fromkeys(scan.subject for scan in self.scans))

    def table(self) -> pd.DataFrame:
        """One row per scan, with the release's own metadata joined where it was found.

        Returns
        -------
        DataFrame
            subject, session, site, number of masks, the T1's path below the root; then the
            columns of the metadata under their own names, empty for scans it does not mention.
        """
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
        table = pd.DataFrame(rows, columns=["subject", "session", "site", "masks", "t1"])
        if self.metadata is None:
            return table
        try:
            return joined(table, read_tables(self.metadata))
        except OSError as error:
            raise unopened(self.metadata, error) from None
        except ValueError as error:
            text = f"{self.metadata}: not a readable table ({error})"
            raise DataError(text, "metadata") from None

    def split(
        self,
        fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        by: str = "subject",
    ) -> tuple[Cohort, Cohort, Cohort]:
        """Divide the labelled scans at random into training, validation and test cohorts.

        Parameters
        ----------
        fractions : three numbers that sum to 1
            Shares of the units (subjects, sites or scans), rounded, each part getting at least one.
        seed : int
            The same seed gives the same split on every machine.
        by : {"subject", "site", "scan"}
            What must stay together. By "scan", two sessions of one person may be separated, and
            what is learned on one is tested on the other: only to show what that does.

        Returns
        -------
        (Cohort, Cohort, Cohort)
            Training, validation, test; scans keep their order.

        Raises
        ------
        ValueError
            If the fractions do not sum to 1, or there are fewer than three units.
        """
        if by not in ("subject", "site", "scan"):
            raise ValueError(f"split by 'subject', 'site' or 'scan', not by {by!r}")
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(f"split needs three positive fractions that sum to 1, not {fractions}")
        scans = self.labelled.scans
        # sorted: the split depends on the names alone, not on the order of the folder
        names = [scan.name if by == "scan" else getattr(scan, by) for scan in scans]
        units = sorted(set(names))
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
            kept = [scan for scan, name in zip(scans, names, strict=True) if name in chosen]
            parts.append(self.only(kept))
        return parts[0], parts[1], parts[2]

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any scan's name or any file's bytes do."""
        digest = hashlib.sha256()
        for scan in self.scans:
            digest.update(f"{scan.name} {scan.site} {scan_digest(scan)}\n".encode())
        return digest.hexdigest()[:12]


# --- files --------------------------------------------------------------------------------------


def scan_digest(scan: Scan) -> str:
    """SHA-256 over the bytes of a scan's files: the scan's identity, whatever its path or date."""
    digest = hashlib.sha256()
    for path in (scan.t1, *scan.masks):
        try:
            stat = path.stat()
            digest.update(_file_digest(path, stat.st_mtime_ns, stat.st_size).encode())
        except OSError as error:
            raise unopened(path, error) from None
    return digest.hexdigest()


@cache
def _file_digest(path: Path, mtime_ns: int, size: int) -> str:
    """Time and size are in the key, so that a file changed in this process is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file's content; :class:`DataError` if it cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unopened(path, error) from None


def unopened(path: Path, error: OSError) -> DataError:
    """What to say of a file or folder that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file", "missing")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no right to read it", "rights")
    return DataError(f"{path}: cannot be opened ({error.strerror})", "unreadable")


@cache
def source_fingerprint(*names: str) -> str:
    """Twelve hexadecimal digits of modules of this library; comments do not count.

    Parameters
    ----------
    *names : str
        Files or folders of the package.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for name in names:
        path = package / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(_tree(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def _tree(source: str) -> str:
    """Its syntax tree as Python 3.11 writes it; later versions add or leave out what is empty."""
    how: Any = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(ast.parse(source), **how).replace(", type_params=[]", "")


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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_aside(path: Path, write: Callable[[str], object]) -> None:
    """Write a file through ``write(name)`` under another name, then rename it into place.

    Its folder is made if it is missing.

    Raises
    ------
    DataError
        If the disk is full. Nothing is left behind, and a file of that name stays as it was.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)  # with the rights that the user's new files have
        write(str(part))
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise DataError(f"{path}: not written, the disk is full", "disk") from None
        raise
