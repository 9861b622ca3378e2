"""ATLAS as released: what the names of its files say, and the scans that they make up.

A file's name gives the release, the subject and the space; the folders above it give the rest.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from atlaslib.data.cohort import Scan
from atlaslib.files import DataError

#: How the name of a NIfTI file ends.
END = r"(?i:\.nii(\.gz)?)"
_MNI_2 = "_space-MNI152NLin2009aSym"
# per release, names of the T1 and of the masks; whatever they lack comes from the folders
_NAMES = {
    "R1.1": (
        rf"(?P<subject>\d+)_t1w(_deface)?(?P<mni>_stx)?{END}",
        rf"(?P<subject>\d+)_Lesion(Smooth|Raw)(_\d+)?(?P<mni>_stx)?{END}",
    ),
    "R1.2": (
        rf"(?P<subject>(?P<site>c\d+)s\d+)(?P<session>t\d+)_t1w(_deface)?(?P<mni>_stx)?{END}",
        rf"(?P<subject>(?P<site>c\d+)s\d+)(?P<session>t\d+)_Lesion(Smooth|Raw)(_\d+)?"
        rf"(?P<mni>_stx)?{END}",
    ),
    "R2.0": (
        rf"(?P<subject>sub-(?P<site>r\d+)s\d+)_(?P<session>ses-\d+)(?P<mni>{_MNI_2})_T1w{END}",
        rf"(?P<subject>sub-(?P<site>r\d+)s\d+)_(?P<session>ses-\d+)(?P<mni>{_MNI_2})"
        rf"_label-L_desc-T1lesion_mask{END}",
    ),
}
_PATTERNS = [
    (release, part, re.compile(pattern))
    for release, names in _NAMES.items()
    for part, pattern in zip(("t1", "mask"), names, strict=True)
]
#: Examples of names, for messages.
EXPECTED = (
    "Site1/SUBJECT/t01/SUBJECT_t1w_deface_stx.nii.gz (R1.1), "
    "c0001/SUBJECTt01/SUBJECTt01_t1w_stx.nii.gz (R1.2), "
    f"Training/R001/SUBJECT/ses-1/anat/SUBJECT_ses-1{_MNI_2}_T1w.nii.gz (R2.0), "
    "or sub-01/anat/sub-01_T1w.nii.gz (any BIDS folder)"
)


@dataclass(frozen=True, order=True)
class ScanName:
    """What is known of a scan from the names of its files and folders."""

    release: str
    site: str
    subject: str
    session: str
    space: str
    folder: Path


def parse(path: Path) -> tuple[ScanName, str] | None:
    """What a file's name says, and whether it is a "t1" or a "mask"; None if it is neither."""
    for release, part, pattern in _PATTERNS:
        if found := pattern.fullmatch(path.name):
            groups = found.groupdict()
            if release == "R1.1":
                groups["site"] = _folder_like(path, r"(site\d+)(_.*)?").capitalize()
                groups["session"] = _folder_like(path, r"(?:.*_)?(t\d+)", 2).lower() or "t01"
            elif release == "R2.0":
                groups["site"] = groups["site"].upper()
            space = "MNI" if groups["mni"] else "native"
            site, subject, session = groups["site"], groups["subject"], groups["session"]
            return ScanName(release, site, subject, session, space, path.parent), part
    return None


def _folder_like(path: Path, pattern: str, levels: int | None = None) -> str:
    """The pattern's group in the name of the nearest matching folder above a file, or "".

    If no folder matches, links are resolved. ``levels`` limits how many folders are tried.
    """
    for whole in map(Path, (os.path.abspath(path), os.path.realpath(path))):
        for folder in whole.parents[:levels]:
            if found := re.fullmatch(f"(?i:{pattern})", folder.name):
                return found[1]
    return ""


def only_release(files: dict[ScanName, dict[str, list[Path]]], faults: list[DataError]) -> str:
    """Two releases would leak across a split: they have the same people under different names."""
    first: dict[str, Path] = {}
    for name in files:
        first.setdefault(name.release, name.folder)
    releases = sorted(first)
    if len(releases) > 1:
        places = " and ".join(f"{release} ({first[release]})" for release in releases)
        text = f"holds {places}, which have the same people under different names; choose one"
        faults.append(DataError(f"{os.path.commonpath(first.values())}: {text}", "two releases"))
    return releases[-1]


def scan_of(
    name: ScanName, t1s: list[Path], masks: list[Path], faults: list[DataError]
) -> Scan | None:
    """The scan of one session, or None if it has no T1; its faults are appended to ``faults``."""
    if not t1s:
        text = f"a lesion mask without a scan; expected the T1 of {name.subject} beside it"
        faults.append(DataError(f"{masks[0]}: {text}", "no scan"))
        return None
    if len(t1s) > 1:
        text = f"a second T1 in one session, beside {t1s[0].name}"
        faults.append(DataError(f"{t1s[1]}: {text}", "second T1"))
    stems = [path.name.removesuffix(".gz") for path in masks]
    for place, path in enumerate(masks):
        if stems[place] in stems[:place]:
            text = "this mask is present twice, compressed and uncompressed"
            faults.append(DataError(f"{path}: {text}", "extra mask"))
    if not masks and not _is_test(name):
        text = "a scan without a lesion mask; expected one beside it"
        faults.append(DataError(f"{t1s[0]}: {text}", "no mask"))
    own = name.folder.parent.name
    if name.folder.name == name.session and own.isdecimal() and own != name.subject:
        text = f"a file of subject {name.subject} in the folder of subject {own}"
        faults.append(DataError(f"{t1s[0]}: {text}", "misplaced"))
    return Scan(name.subject, name.session, name.site, t1s[0], tuple(masks), name.space)


def _is_test(name: ScanName) -> bool:
    """Whether a scan belongs to the test set of R2.0: 300 scans, whose masks are withheld."""
    # Testing/R003/SUBJECT/ses-1/anat; a folder further up may happen to be called "testing"
    part = _folder_like(name.folder / "-", "(training|testing)", 5)
    return name.release == "R2.0" and part.casefold() == "testing"
