"""Finding the scans of a folder, whichever release of ATLAS it holds.

A file's name gives the release, the subject and the space; the folders above it give the rest.
So any folder of an unpacked release will do, and its parts may be merged in any way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from atlaslib.data import bids
from atlaslib.data.cohort import EXACT, SYNTHETIC_MARK, Cohort, Scan
from atlaslib.data.metadata import HIDDEN, find_table, is_table, read_json, subject_key
from atlaslib.files import DataError, expect, open_error, user_path

_END = r"(?i:\.nii(\.gz)?)"
_MNI_2 = "_space-MNI152NLin2009aSym"
# per release, names of the T1 and of the masks; whatever they lack comes from the folders
_NAMES = {
    "R1.1": (
        rf"(?P<subject>\d+)_t1w(_deface)?(?P<mni>_stx)?{_END}",
        rf"(?P<subject>\d+)_Lesion(Smooth|Raw)(_\d+)?(?P<mni>_stx)?{_END}",
    ),
    "R1.2": (
        rf"(?P<subject>(?P<site>c\d+)s\d+)(?P<session>t\d+)_t1w(_deface)?(?P<mni>_stx)?{_END}",
        rf"(?P<subject>(?P<site>c\d+)s\d+)(?P<session>t\d+)_Lesion(Smooth|Raw)(_\d+)?"
        rf"(?P<mni>_stx)?{_END}",
    ),
    "R2.0": (
        rf"(?P<subject>sub-(?P<site>r\d+)s\d+)_(?P<session>ses-\d+)(?P<mni>{_MNI_2})_T1w{_END}",
        rf"(?P<subject>sub-(?P<site>r\d+)s\d+)_(?P<session>ses-\d+)(?P<mni>{_MNI_2})"
        rf"_label-L_desc-T1lesion_mask{_END}",
    ),
}
_PATTERNS = [
    (release, part, re.compile(pattern))
    for release, names in _NAMES.items()
    for part, pattern in zip(("t1", "mask"), names, strict=True)
]
_EXPECTED = (
    "Site1/SUBJECT/t01/SUBJECT_t1w_deface_stx.nii.gz (R1.1), "
    "c0001/SUBJECTt01/SUBJECTt01_t1w_stx.nii.gz (R1.2), "
    f"Training/R001/SUBJECT/ses-1/anat/SUBJECT_ses-1{_MNI_2}_T1w.nii.gz (R2.0), "
    "or sub-01/anat/sub-01_T1w.nii.gz (any BIDS folder)"
)
_SYSTEM = ("lost+found", "$RECYCLE.BIN", "System Volume Information")  # folders of a disk itself
_ARCHIVE = (".tgz", ".tar.gz", ".tar", ".zip", ".enc", ".aes")


@dataclass(frozen=True, order=True)
class _Name:
    """What is known of a scan from the names of its files and folders."""

    release: str
    site: str
    subject: str
    session: str
    space: str
    folder: Path


@dataclass
class Survey:
    """What a folder contains: its scans, and the faults in its file names."""

    root: Path
    release: str = ""
    scans: list[Scan] = field(default_factory=list)
    faults: list[DataError] = field(default_factory=list)
    metadata: Path | None = None
    title: str = ""  # of a BIDS folder

    def cohort(self) -> Cohort:
        return Cohort(self.root, tuple(self.scans), self.release, self.metadata, self.title)


def load_cohort(root: str | os.PathLike[str], unlabelled: bool = False, choose: str = "") -> Cohort:
    """Find the scans of a folder: ATLAS R1.1, R1.2 or R2.0, any BIDS folder, the synthetic cohort.

    The release is recognised by its file names (``.nii`` or ``.nii.gz``), so the folder may be
    the unpacked release, its parent, or one site inside it. If a release is present in both
    spaces, the scans in native space are left out. The test scans of R2.0 have no masks: they
    are included, but :attr:`Cohort.labelled` and :meth:`Cohort.split` leave them out.

    Whatever else is named as in BIDS (``sub-01/anat/sub-01_T1w.nii.gz``; ATLAS R2.1 and R3.0, the
    Aphasia Recovery Cohort, ...) is read by the rules of :func:`atlaslib.data.bids.find_scans`.
    Images that ``datalad get`` has not fetched yet are left out, with a warning.

    Parameters
    ----------
    root : path
    unlabelled : bool, default=False
        True: any scan may be without a mask, as if it belonged to the test set of R2.0: for
        subjects whose masks are hidden. False: outside that set, a scan without mask is a fault,
        since a file may have been lost.
    choose : str
        Of a BIDS folder: part of the names of the T1w images to prefer where a session has several,
        such as ``"acq-tfl3p2"`` or ``"run-2"``. Default: the first by name.

    Returns
    -------
    Cohort
        Scans ordered by site, subject and session.

    Raises
    ------
    DataError
        The first blocking fault of :func:`survey`: the folder is missing or empty, or holds two
        releases or none; a scan has no mask, or a mask no scan. The message names the file.
    """
    expect("unlabelled", unlabelled, bool)
    found = survey(root, choose)
    for fault in found.faults:
        if fault.blocks and not (unlabelled and fault.kind == "no mask"):
            raise fault
        if fault.kind == "not downloaded":
            warnings.warn(str(fault), stacklevel=2)
    return found.cohort()


def survey(root: str | os.PathLike[str], choose: str = "") -> Survey:
    """All scans of a folder, and all faults that can be found from names alone.

    Raises
    ------
    DataError
        If there is no such folder, or no scan of ATLAS in it.
    """
    if root == "":
        raise DataError("no folder is named; expected one that holds ATLAS", "missing")
    root = user_path(root)
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        text = "no such folder; expected one that holds ATLAS"
        raise DataError(f"{root}: {text}", "missing") from None
    except OSError as error:
        raise open_error(root, error) from None
    if not is_folder:
        archive = "; unpack it first: atlaslib unpack" if root.name.endswith(_ARCHIVE) else ""
        raise DataError(f"{root}: is a file; expected a folder of ATLAS{archive}", "no folder")
    out = Survey(root)
    files: dict[_Name, dict[str, list[Path]]] = defaultdict(lambda: {"t1": [], "mask": []})
    tables, others = [], []
    marked = [up for up in [*_above(root)][1:4] if (up / SYNTHETIC_MARK).is_file()]
    for path in _walk(root, out.faults):
        if path.name == SYNTHETIC_MARK:  # a folder's own files come before those of its subfolders
            marked.append(path.parent)
        elif is_table(path.name):
            tables.append(path)
        elif (known := _parse(path)) is not None:
            name, part = known
            if any(folder in (*path.parents, *_above(root)) for folder in marked):
                name = dataclasses.replace(name, release="synthetic")
            files[name][part].append(path)
        elif (image := bids.parse(path, root)) is not None:
            others.append(image)
        elif re.search(f"{_END}$", path.name) and not path.name.endswith(EXACT):
            text = "ignored: not a file name used by ATLAS"
            out.faults.append(DataError(f"{path}: {text}", "unknown name", blocks=False))
    out.faults += _unfinished(marked)
    is_bids = any(image.is_t1 for image in others)
    if not files and not is_bids:
        blocking = [fault for fault in out.faults if fault.blocks]
        raise blocking[0] if blocking else _no_scans_error(root)
    if files:
        _add_release(out, files, others)
    else:
        out.release, out.title = bids.RELEASE, bids.title(root)
        out.scans = bids.find_scans(root, others, out.faults, choose)
    out.faults += _name_clashes(out.scans)
    _leave_out_pointers(out)
    out.metadata = find_table(root, tables, participants=out.release == bids.RELEASE)
    return out


def _add_release(
    out: Survey, files: dict[_Name, dict[str, list[Path]]], others: list[bids.BidsFile]
) -> None:
    """Add the scans of a release of ATLAS; `others` are images that are named as in BIDS."""
    out.release = _only_release(files, out.faults)
    # beside a T1 in MNI space, R2.0 may have the same scan in native space; nobody else may
    foreign = [image for image in others if image.is_t1 and out.release != "R2.0"]
    for image in foreign[:1]:
        text = f"a BIDS folder within ATLAS {out.release}; choose one of them"
        out.faults.append(DataError(f"{image.path}: {text}", "two releases"))
    if any(name.space == "MNI" for name in files):
        files = {name: parts for name, parts in files.items() if name.space == "MNI"}
    for name, parts in sorted(files.items()):
        scan = _scan_of(name, parts["t1"], parts["mask"], out.faults)
        if scan is not None:
            out.scans.append(scan)


def _leave_out_pointers(out: Survey) -> None:
    """Leave out scans whose files git-annex has not fetched: one fault for all of them."""
    absent = {
        scan.name: [path for path in scan.files if bids.is_pointer(path)] for scan in out.scans
    }
    files = [path for paths in absent.values() for path in paths]
    if files:
        out.scans, total = [scan for scan in out.scans if not absent[scan.name]], len(out.scans)
        text = (
            f"the images of {total - len(out.scans)} of {total} scans are not downloaded, such as "
            f"{files[0].name}; fetch them with: datalad get"
        )
        blocks = not out.scans
        out.faults.append(DataError(f"{out.root}: {text}", "not downloaded", blocks=blocks))


def other_images(root: Path) -> list[Path]:
    """The NIfTI files of a folder whose names are not those of ATLAS, nor of exact masks."""
    return [
        path
        for path in _walk(root, [])
        if re.search(f"{_END}$", path.name) and not path.name.endswith(EXACT) and not _parse(path)
    ]


def _unfinished(marked: list[Path]) -> Iterator[DataError]:
    """Synthetic cohorts that have not got all of their people yet."""
    for folder in dict.fromkeys(marked):
        mark = {}
        with contextlib.suppress(DataError):
            mark = read_json(folder / SYNTHETIC_MARK)
        if mark.get("complete") is False:
            text = "this synthetic cohort is unfinished: make it again, and the rest is added"
            yield DataError(f"{folder}: {text}", "unfinished")


def _above(path: Path) -> Iterator[Path]:
    """The folder itself and those above it."""
    whole = Path(os.path.abspath(path))
    return iter([whole, *whole.parents])


def _walk(root: Path, faults: list[DataError]) -> Iterator[Path]:
    """Every file below a folder; links are followed, hidden files left out."""

    def refused(error: OSError) -> None:
        faults.append(open_error(Path(error.filename), error))

    seen = set()
    for folder, below, names in os.walk(root, onerror=refused, followlinks=True):
        below[:] = sorted(n for n in below if not n.startswith(".") and n not in _SYSTEM)
        identity = os.path.realpath(folder)
        if identity in seen:  # visited already, through a link
            below.clear()
            continue
        seen.add(identity)
        for name in sorted(names):
            if not name.startswith(HIDDEN):
                yield Path(folder, name)


def _parse(path: Path) -> tuple[_Name, str] | None:
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
            return _Name(release, site, subject, session, space, path.parent), part
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


def _no_scans_error(root: Path) -> DataError:
    names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    found = "found " + ", ".join(names[:4]) if names else "it is empty"
    if any(name.endswith(_ARCHIVE) for name in names):
        found += "; unpack the archive first: atlaslib unpack"
    return DataError(f"{root}: no ATLAS scans here; expected {_EXPECTED}; {found}", "no scans")


def _only_release(files: dict[_Name, dict[str, list[Path]]], faults: list[DataError]) -> str:
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


def _scan_of(
    name: _Name, t1s: list[Path], masks: list[Path], faults: list[DataError]
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


def _is_test(name: _Name) -> bool:
    """Whether a scan belongs to the test set of R2.0: 300 scans, whose masks are withheld."""
    # Testing/R003/SUBJECT/ses-1/anat; a folder further up may happen to be called "testing"
    part = _folder_like(name.folder / "-", "(training|testing)", 5)
    return name.release == "R2.0" and part.casefold() == "testing"


def _name_clashes(scans: list[Scan]) -> Iterator[DataError]:
    """Two scans of one name, or one subject of two names: tables and splits rely on the names."""
    seen: dict[tuple[str, str], Scan] = {}
    known: dict[str, Scan] = {}
    for scan in scans:
        key = subject_key(scan.subject)
        other = seen.setdefault((key, scan.session), scan)
        first = known.setdefault(key, scan)
        if other is not scan:
            text = f"{scan.t1}: the same subject and session as {other.t1}"
            yield DataError(text, "same name")
        elif first.subject != scan.subject:
            text = f"{scan.t1}: subject {scan.subject} is called {first.subject} in {first.t1}"
            yield DataError(text, "same name")
