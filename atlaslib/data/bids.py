"""Reading a BIDS folder: its T1-weighted images, and which lesion mask belongs to which.

BIDS (the Brain Imaging Data Structure) says in a file's name what the file is:
``sub-01_ses-2_T1w.nii.gz`` is the T1-weighted image of session 2 of subject 01. It does not say
where lesion masks are, nor on which image they were drawn: :func:`find_scans` states our rules.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlaslib.data.cohort import Scan
from atlaslib.data.metadata import PARTICIPANTS, read_json, read_tables, subject_key
from atlaslib.files import DataError

RELEASE = "BIDS"
DESCRIPTION = "dataset_description.json"
PREDICTED = "Predicted lesion masks"  # the name of a folder of masks that a network made
_END = re.compile(r"(?i)\.nii(\.gz)?$")
_WHO = re.compile(r"(?<![a-zA-Z])(?:sub|ses)-[a-zA-Z0-9+]*")  # whose image it is, not of what
_LESION = re.compile(r"(?i)lesion|stroke|infarct|(?<![a-z])label-L(?![a-z])")
_MASKS = ("mask", "msk", "roi", "dseg")
_DRAWN_ON = ("T1w", "T2w", "FLAIR")
# spaces that are the person's own; any other is a template
_OWN_SPACES = ("T1w", "T2w", "FLAIR", "orig", "native", "individual", "scanner")
_SITES = ("site", "site_id", "centre", "center")  # columns of participants.tsv
_POINTER = b"/annex/objects/"  # in the file that git-annex leaves where links are not possible


@dataclass(frozen=True, eq=False)  # each file is itself
class BidsFile:
    """An image of a BIDS folder, and what its name says."""

    path: Path
    entities: dict[str, str]
    suffix: str  # "T1w", "T2w", "mask", ...
    drawn_on: str  # of a mask "sub-01_T2w_desc-lesion_mask", the image "sub-01_T2w"; else ""
    derived: bool  # whether it is in a folder "derivatives"

    @property
    def subject(self) -> str:
        return f"sub-{self.entities['sub']}"

    @property
    def session(self) -> str:
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else ""

    @property
    def template(self) -> str:
        """The template in whose space the image is; "" for the person's own space."""
        space = self.entities.get("space", "")
        return "" if space in _OWN_SPACES else space

    @property
    def in_mni(self) -> bool:
        return self.template.startswith("MNI152")

    @property
    def is_mask(self) -> bool:
        """Whether its name, or its folder below "derivatives", says that it is a lesion mask."""
        folder = str(self.path.parent).rpartition("derivatives")[2] if self.derived else ""
        if "label" in self.entities:  # another tissue, in the derivatives of a stroke study
            folder = ""
        named = any(_LESION.search(_WHO.sub("", text)) for text in (self.path.name, folder))
        return self.suffix in _MASKS and named and self.entities.get("desc") != "brain"

    @property
    def is_t1(self) -> bool:
        return self.suffix == "T1w" and not self.derived


def parse(path: Path, root: Path) -> BidsFile | None:
    """What the name of an image says; None if it is not a name of BIDS."""
    if not (path.name.startswith("sub-") and _END.search(path.name)):
        return None
    stem = _END.sub("", path.name)
    *parts, suffix = stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    # masks may have the whole name of their image in front of their own entities
    drawn_on = next((stem.partition(f"_{kind}_")[0] + f"_{kind}" for kind in _DRAWN_ON
                     if f"_{kind}_" in stem), "")  # fmt: skip
    derived = "derivatives" in path.relative_to(root).parts[:-1]
    return BidsFile(path, entities, suffix, drawn_on, derived) if entities.get("sub") else None


def find_scans(
    root: Path, files: Sequence[BidsFile], faults: list[DataError], choose: str = ""
) -> list[Scan]:
    """The scans of a BIDS folder: one for each session with a T1w image, with the session's masks.

    The rules:

    - An image is ``sub-*_T1w.nii[.gz]`` outside folders called ``derivatives``; if some are in MNI
      space (``space-MNI152...``), the others are left out. A lesion mask is
      any ``*_mask``, ``*_msk``, ``*_roi`` or ``*_dseg`` whose name, or folder of derivatives, says
      "lesion", "stroke", "infarct" or ``label-L`` (if only the folder does, without another
      ``label-``); it may be beside the image or in
      ``derivatives/``. A mask in the space of another template than its image is left out.
    - **A mask belongs to the image that it names**: in its JSON file (``SpatialReference`` or
      ``Sources``), or in its own name (``sub-01_T2w_desc-lesion_mask``); otherwise to the T1w image
      of its session. An image of another subject, or a T1w that is derived or left out, is a fault.
    - **A mask drawn on another image than a T1w** (a T2w, say) goes with the person's T1w image of
      the nearest session by the number in its name, the earlier of two equally near. The scan's
      ``drawn_on`` is that other image.
    - **Of several T1w images of a session** (runs, acquisitions), one is taken: one that a mask
      names; else one whose name contains `choose`; else the first by name, numbers compared as
      numbers. The others are left out, with a warning.
    - **Masks that a network predicted** (those of ``atlaslib predict``, by the description of their
      folder) are no truth, and are left out.
    - Several masks of one image are several lesions: the target is their union, as in ATLAS R1.x.
      If masks of several sessions would go with one T1w image, only the nearest session's do.

    Parameters
    ----------
    root : Path
    files : sequence of BidsFile
        All images of the folder.
    faults : list of DataError
        What is wrong or doubtful is appended.
    choose : str
        Part of a file's name, such as ``"acq-tfl3p2"`` or ``"run-2"``.

    Returns
    -------
    list of Scan
        Sorted by subject and session. ``space`` is "MNI" if the T1w's name says so.
    """
    images = {_END.sub("", file.path.name): file for file in files if not file.is_mask}
    t1s: dict[str, list[BidsFile]] = defaultdict(list)  # of each subject
    standard = any(file.is_t1 and file.in_mni for file in files)
    for file in sorted(files, key=_order):
        if file.is_t1 and (file.in_mni or not standard):
            t1s[file.subject].append(file)
    if choose and not any(choose in file.path.name for own in t1s.values() for file in own):
        text = f"no T1w image has {choose!r} in its name"
        faults.append(DataError(f"{root}: {text}", "no choice"))
    # of each T1w image: its masks, each with the image that it was drawn on, None for the T1w
    found: dict[Path, list[tuple[BidsFile, BidsFile | None]]] = defaultdict(list)
    above = {folder for file in files if file.is_mask for folder in file.path.parents}
    predicted = {folder for folder in above if _name(folder / DESCRIPTION) == PREDICTED}
    truth = [file for file in files if predicted.isdisjoint(file.path.parents)]
    for mask in _masks(truth, faults):
        linked = _linked(mask, images, t1s[mask.subject], choose, faults)
        if linked is not None:
            t1, drawn_on = linked
            found[t1.path].append((mask, drawn_on))
    sites = _sites(root)
    scans = []
    for subject in sorted(t1s):
        own = t1s[subject]
        for session in dict.fromkeys(file.session for file in own):
            candidates = [file for file in own if file.session == session]
            t1 = _choose(candidates, [file for file in candidates if file.path in found], choose)
            _report_others(t1, candidates, faults)
            scans.append(_scan_of(t1, found[t1.path], sites, faults))
        if own and not any(found[file.path] for file in own):
            text = "no lesion mask of this subject; it can be segmented, but not trained on"
            faults.append(DataError(f"{own[0].path}: {text}", "no mask", blocks=False))
    return scans


def _order(file: BidsFile) -> list[tuple[int, str]]:
    """A key that sorts names with the numbers in them as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part)
            for part in re.split(r"(\d+)", file.path.name)]  # fmt: skip


def _masks(files: Sequence[BidsFile], faults: list[DataError]) -> list[BidsFile]:
    """The lesion masks; of several files of one name, in different folders, only the first."""
    kept: dict[str, BidsFile] = {}
    for mask in sorted((file for file in files if file.is_mask), key=lambda file: file.path):
        first = kept.setdefault(_END.sub("", mask.path.name), mask)
        if first is not mask:
            text = f"ignored: a second mask of this name, beside {first.path}"
            faults.append(DataError(f"{mask.path}: {text}", "several candidates", blocks=False))
    return sorted(kept.values(), key=_order)


def _linked(
    mask: BidsFile,
    images: dict[str, BidsFile],
    t1s: list[BidsFile],
    choose: str,
    faults: list[DataError],
) -> tuple[BidsFile, BidsFile | None] | None:
    """A mask's T1w image, and the image that it was drawn on if that is another one."""
    named = _named_image(mask, faults)
    image = images.get(named)
    if named and image is None:
        text = f"the image that this mask was drawn on is missing: {named}"
        faults.append(DataError(f"{mask.path}: {text}", "no scan"))
        return None
    if image is not None and image.subject != mask.subject:
        text = f"drawn on {image.path.name}, an image of another subject"
        faults.append(DataError(f"{mask.path}: {text}", "another subject"))
        return None
    if image is not None and image.suffix == "T1w" and image not in t1s:
        text = f"drawn on {image.path}, which is derived or left out, so the mask has no scan"
        faults.append(DataError(f"{mask.path}: {text}", "no scan"))
        return None
    if image is not None and image.suffix != "T1w":
        if not t1s:
            text = f"drawn on {image.path.name}, but the subject has no T1w image"
            faults.append(DataError(f"{mask.path}: {text}", "no scan"))
            return None
        session = min((t1.session for t1 in t1s), key=lambda other: _distance(mask.session, other))
        return _choose([t1 for t1 in t1s if t1.session == session], [], choose), image
    if image is not None:
        return image, None
    own = [t1 for t1 in t1s if t1.session == mask.session]
    alike = [t1 for t1 in own if t1.template == mask.template]
    if not alike and not own:
        text = "a lesion mask without its image; expected a T1w image of the same session"
        faults.append(DataError(f"{mask.path}: {text}", "no scan"))
    if not alike:  # in the space of a template that its T1w is not in
        return None
    same = {key: mask.entities[key] for key in ("acq", "run", "rec") if key in mask.entities}
    exact = [t1 for t1 in alike if same.items() <= t1.entities.items()] if same else []
    return _choose(exact or alike, [], choose), None


def _named_image(mask: BidsFile, faults: list[DataError]) -> str:
    """The stem of the image that a mask's JSON file or its own name gives; "" if neither does."""
    path = mask.path.with_name(_END.sub("", mask.path.name) + ".json")
    try:
        about = read_json(path) if path.exists() else {}
    except DataError as error:
        faults.append(DataError(str(error), "metadata", blocks=False))
        about = {}
    named: list[Any] = []
    for key in ("SpatialReference", "Sources", "RawSources"):
        value = about.get(key, [])
        if not isinstance(value, str | list | dict):
            text = f"{key}: expected the names of images, found {value!r}"
            faults.append(DataError(f"{path}: {text}", "metadata", blocks=False))
            continue
        if isinstance(value, dict):
            value = list(value.values())
        named += [value] if isinstance(value, str) else value
    for text in map(str, named):
        stem = _END.sub("", re.split(r"[/\\:]", text)[-1])
        if _END.search(text) and stem.endswith(tuple(f"_{kind}" for kind in _DRAWN_ON)):
            return stem
    return mask.drawn_on


def _distance(session: str, other: str) -> tuple[bool, int, int]:
    """How far another session is: by the number in its name, the earlier of two equally near."""
    ours, theirs = (int((re.findall(r"\d+", name) or [0])[0]) for name in (session, other))
    return session != other, abs(ours - theirs), theirs


def _choose(candidates: list[BidsFile], named: list[BidsFile], choose: str) -> BidsFile:
    """One of several T1w images, by the rule of :func:`find_scans`; they are sorted already."""
    wanted = [file for file in candidates if choose and choose in file.path.name]
    return (named or wanted or candidates)[0]


def _report_others(t1: BidsFile, candidates: list[BidsFile], faults: list[DataError]) -> None:
    if len(candidates) > 1:
        others = ", ".join(file.path.name for file in candidates if file is not t1)
        text = f"{len(candidates)} T1w images in this session; this one is used, not {others}"
        faults.append(DataError(f"{t1.path}: {text}", "several candidates", blocks=False))


def _scan_of(
    t1: BidsFile,
    masks: list[tuple[BidsFile, BidsFile | None]],
    sites: dict[str, str],
    faults: list[DataError],
) -> Scan:
    """The scan of a T1w image; of masks drawn on different images, one image's are kept."""
    images = list(dict.fromkeys(image for _, image in masks)) if masks else [None]
    kept = (
        None
        if None in images
        else min(images, key=lambda image: _distance(t1.session, image.session))
    )
    for mask, image in masks:
        if image is not kept:
            text = f"ignored: {t1.path.name} has another mask, of a nearer image"
            faults.append(DataError(f"{mask.path}: {text}", "several candidates", blocks=False))
    own = tuple(mask.path for mask, image in masks if image is kept)
    site = re.fullmatch(r"sub-(r\d+)s\d+", t1.subject)  # as ATLAS names its subjects
    where = site[1].upper() if site else sites.get(subject_key(t1.subject), "")
    space = "MNI" if t1.in_mni else "native"
    drawn_on = kept.path if kept else None
    return Scan(t1.subject, t1.session, where, t1.path, own, space, drawn_on)


def _sites(root: Path) -> dict[str, str]:
    """Each subject's site, if participants.tsv has a column of that name."""
    path = root / PARTICIPANTS
    if not path.is_file():
        return {}
    try:
        tables = read_tables(path)
    except ValueError:  # told when the table is joined to the scans
        return {}
    for table in (table for table in tables if "participant_id" in table):
        for column in (name for name in table if str(name).casefold() in _SITES):
            listed = table.dropna(subset=[column])
            pairs = zip(listed.participant_id, listed[column].astype(str), strict=True)
            return {subject_key(who): where.removesuffix(".0") for who, where in pairs}
    return {}


def title(root: Path) -> str:
    """The name that a BIDS folder gives itself, or else the folder's own."""
    return _name(root / DESCRIPTION) or root.resolve().name


def _name(path: Path) -> str:
    """The name in a ``dataset_description.json``; "" if there is none."""
    with contextlib.suppress(DataError):
        if isinstance(name := read_json(path).get("Name"), str):
            return " ".join(name.split())
    return ""


def is_pointer(path: Path) -> bool:
    """Whether a file is only the place of an image that git-annex has not fetched yet."""
    if path.is_symlink() and not path.exists():
        return "annex/objects" in os.readlink(path)
    try:
        if path.stat().st_size > 1000:
            return False
        return path.read_bytes().startswith(_POINTER)
    except OSError:
        return False
