"""Scans and cohorts: which files of a data folder make up a scan, and how scans are split.

Nothing here opens voxel data. A :class:`Scan` holds the paths of one T1-weighted image and of
all its lesion masks; a :class:`Cohort` is a sequence of scans.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd

from atlaslib.data.metadata import join_metadata, join_sidecars, read_tables
from atlaslib.files import DataError, file_digest

METADATA = "ATLAS_Meta-Data_Release_1.1_standard_mni.csv"
SYNTHETIC_MARK = "synthetic.json"  # written by make_cohort; ATLAS has no such file
EXACT = "_exact_stx.nii.gz"  # suffix of the file with a synthetic scan's exact lesion mask


@dataclass(frozen=True)
class Scan:
    """One T1-weighted image with its lesion masks (one file per lesion in release 1.x).

    Attributes
    ----------
    subject, session, site : str
        As the release names them: "090012", "t01", "Site2" or "sub-r001s001", "ses-1", "R001".
        Session and site are empty in a BIDS folder that does not tell them.
    t1 : Path
    masks : tuple of Path
        The scan's target is the union of all; none if it is hidden.
    space : str
        "MNI" or "native", the scanner's own space.
    drawn_on : Path, optional
        The image whose voxels the masks have, if not the T1: a T2w, for instance.
    """

    subject: str
    session: str
    site: str
    t1: Path
    masks: tuple[Path, ...]
    space: str = "MNI"
    drawn_on: Path | None = None

    @property
    def name(self) -> str:
        """Subject and session, such as ``"090012-t01"``, unique within a cohort."""
        return f"{self.subject}-{self.session}" if self.session else self.subject

    @property
    def files(self) -> tuple[Path, ...]:
        """The T1, the masks, and the image that the masks were drawn on if it is not the T1."""
        return (self.t1, *self.masks, *([self.drawn_on] if self.drawn_on else []))


@dataclass(frozen=True)
class Cohort(Sequence[Scan]):
    """An ordered collection of scans from one folder.

    Attributes
    ----------
    root : Path
    scans : tuple of Scan
    release : str
        "R1.1", "R1.2", "R2.0", "synthetic" or "BIDS".
    metadata : Path, optional
        The release's table of subjects, if one was found.
    title : str
        What a BIDS folder calls itself.
    """

    root: Path
    scans: tuple[Scan, ...]
    release: str = "R1.1"
    metadata: Path | None = None
    title: str = ""

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
        """The same cohort, restricted to these scans."""
        return dataclasses.replace(self, scans=tuple(scans))

    @property
    def labelled(self) -> Cohort:
        """The scans that have a lesion mask, without those whose masks are hidden."""
        return self.only([scan for scan in self.scans if scan.masks])

    @property
    def synthetic(self) -> bool:
        """True for a cohort made by :func:`atlaslib.make_cohort`, False for anything else."""
        return self.release == "synthetic"

    @property
    def source(self) -> str:
        """Origin of the scans as titles and tables show it, such as "ATLAS R1.1"."""
        if self.title:
            return self.title
        return "synthetic cohort" if self.synthetic else f"ATLAS {self.release}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects, each once, in order of appearance."""
        return tuple(dict.fromkeys(scan.subject for scan in self.scans))

    def table(self) -> pd.DataFrame:
        """One row per scan, joined with the release's own metadata if there is any.

        Returns
        -------
        DataFrame
            subject, session, site, number of masks, the T1's path relative to the root; then the
            columns of the metadata under their own names, empty for scans that it does not list;
            in a BIDS folder also what the T1's JSON file says in single values.
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
        if self.release == "BIDS":
            table = join_sidecars(table, [scan.t1 for scan in self.scans])
        if self.metadata is None:
            return table
        try:
            return join_metadata(table, read_tables(self.metadata))
        except DataError:
            raise
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
            Shares of the units (subjects, sites or scans), rounded; each part gets at least one.
        seed : int
            The same seed gives the same split on every machine.
        by : {"subject", "site", "scan"}
            What must stay together. By "scan", two sessions of one person may end up in training
            and test, which inflates the scores: meant only for showing that effect.

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
        if len(fractions) != 3 or not min(fractions) > 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(f"split needs three positive fractions that sum to 1, not {fractions}")
        if not isinstance(seed, int | np.integer):
            raise ValueError(f"seed: expected a whole number, got {seed!r}")
        scans = self.labelled.scans
        # sorted, so that the split depends only on the names, not on the order of the scans
        names = [scan.name if by == "scan" else getattr(scan, by) for scan in scans]
        units = sorted(set(names))
        if len(units) < 3:
            raise DataError(f"{self.root}: a split needs at least 3 {by}s, found {len(units)}")
        order = np.random.default_rng(seed).permutation(len(units))
        held_out = [max(1, round(fraction * len(units))) for fraction in fractions[1:]]
        training = len(units) - sum(held_out)
        if training < 1:
            raise DataError(f"{self.root}: {len(units)} {by}s are too few for {fractions}")
        edges = (0, training, training + held_out[0], len(units))
        parts = []
        for start, end in itertools.pairwise(edges):
            chosen = {units[i] for i in order[start:end]}
            kept = [scan for scan, name in zip(scans, names, strict=True) if name in chosen]
            parts.append(self.only(kept))
        return parts[0], parts[1], parts[2]

    def folds(self, count: int, seed: int = 0, by: str = "subject") -> list[Cohort]:
        """Divide the labelled scans into folds, balanced by the volume of the lesions.

        Subjects are sorted by lesion volume; of every `count` in a row, each goes to another fold
        at random. Reads the masks.

        Parameters
        ----------
        count : int
        seed : int
            The same seed gives the same folds on every machine.
        by : {"subject", "site"}
            What must stay together.

        Returns
        -------
        list of Cohort
            The scans to test with each fold: disjoint, and together all of them.

        Raises
        ------
        DataError
            If there are fewer subjects (sites) than folds.
        ValueError
            If an argument is invalid.
        """
        from atlaslib.data.splits import make_folds  # which reads masks, as nothing here does

        return make_folds(self, count, seed, by)

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any scan's name or any file's bytes do."""
        digest = hashlib.sha256()
        for scan in self.scans:
            digest.update(f"{scan.name} {scan.site} {scan_digest(scan)}\n".encode())
        return digest.hexdigest()[:12]


def scan_digest(scan: Scan) -> str:
    """SHA-256 of the bytes of a scan's files, independent of their paths and dates."""
    digest = hashlib.sha256()
    for path in scan.files:
        digest.update(file_digest(path).encode())
    return digest.hexdigest()
