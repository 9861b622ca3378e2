"""Finding the scans of a folder: a release of ATLAS, a BIDS folder, the synthetic cohort.

Every file is known by its own name and the folders above it. So any folder of an unpacked release
will do, and its parts may be merged in any way.
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
from dataclasses import dataclass
from pathlib import Path

from atlaslib.data import atlas, bids
from atlaslib.data.cohort import EXACT, SYNTHETIC_MARK, Cohort, Scan
from atlaslib.data.metadata import HIDDEN, find_table, is_table, read_json, subject_key
from atlaslib.files import DataError, expect, open_error, user_path

_SYSTEM = ("lost+found", "$RECYCLE.BIN", "System Volume Information")  # folders of a disk itself
_ARCHIVE = (".tgz", ".tar.gz", ".tar", ".zip", ".enc", ".aes")


@dataclass
class Survey:
    """What a folder contains: its scans, and the faults in its file names."""

    root: Path
    scans: list[Scan]
    faults: list[DataError]
    release: str = ""
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
    out = Survey(root, [], [])
    files: dict[atlas.ScanName, dict[str, list[Path]]] = defaultdict(lambda: {"t1": [], "mask": []})
    tables, others = [], []
    marked = [up for up in [*_above(root)][1:4] if (up / SYNTHETIC_MARK).is_file()]
    for path in _walk(root, out.faults):
        if path.name == SYNTHETIC_MARK:  # a folder's own files come before those of its subfolders
            marked.append(path.parent)
        elif is_table(path.name):
            tables.append(path)
        elif (known := atlas.parse(path)) is not None:
            name, part = known
            if any(folder in (*path.parents, *_above(root)) for folder in marked):
                name = dataclasses.replace(name, release="synthetic")
            files[name][part].append(path)
        elif (image := bids.parse(path, root)) is not None:
            others.append(image)
        elif _is_image(path):
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
    out: Survey, files: dict[atlas.ScanName, dict[str, list[Path]]], others: list[bids.BidsFile]
) -> None:
    """Add the scans of a release of ATLAS; `others` are images that are named as in BIDS."""
    out.release = atlas.only_release(files, out.faults)
    # beside a T1 in MNI space, R2.0 may have the same scan in native space; nobody else may
    foreign = [image for image in others if image.is_t1 and out.release != "R2.0"]
    for image in foreign[:1]:
        text = f"a BIDS folder within ATLAS {out.release}; choose one of them"
        out.faults.append(DataError(f"{image.path}: {text}", "two releases"))
    if any(name.space == "MNI" for name in files):
        files = {name: parts for name, parts in files.items() if name.space == "MNI"}
    for name, parts in sorted(files.items()):
        scan = atlas.scan_of(name, parts["t1"], parts["mask"], out.faults)
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
    return [path for path in _walk(root, []) if _is_image(path) and not atlas.parse(path)]


def _is_image(path: Path) -> bool:
    """Whether a name ends as that of a NIfTI file, and is not that of an exact mask."""
    return bool(re.search(f"{atlas.END}$", path.name)) and not path.name.endswith(EXACT)


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


def _no_scans_error(root: Path) -> DataError:
    names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    found = "found " + ", ".join(names[:4]) if names else "it is empty"
    if any(name.endswith(_ARCHIVE) for name in names):
        found += "; unpack the archive first: atlaslib unpack"
    return DataError(f"{root}: no ATLAS scans here; expected {atlas.EXPECTED}; {found}", "no scans")


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
