"""Segment many scans: a mask for each, and one table that records what has been done.

A scan is done if its row in the table has the digests of the scan, the networks and the mask that
are there now. A row is written before its mask, so a mask without a row is somebody else's: it is
never overwritten, and neither is one that was changed by hand.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from atlaslib.data.bids import PREDICTED, RELEASE
from atlaslib.data.cohort import Cohort
from atlaslib.data.derivatives import derivative_path, describe, sidecar_path
from atlaslib.data.releases import load_cohort, other_images
from atlaslib.data.template import MNI_AFFINE
from atlaslib.data.volumes import read_t1
from atlaslib.evaluation.inference import Member, load_members
from atlaslib.evaluation.lesions import SMALLEST, component_sizes, hemisphere
from atlaslib.evaluation.prediction import Prediction, doubts, segment
from atlaslib.evaluation.predictor import Networks
from atlaslib.files import (
    DataError,
    atomic_write,
    check_writable,
    file_digest,
    make_folder,
    one_line,
    read_bytes,
    user_path,
    write_json,
)
from atlaslib.runs import ENGINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "volumes.csv"
COLUMNS = ["file", "mask", "space", "similarity", "predicted_ml", "lesions", "side", "warnings",
           "error", "input_sha256", "networks_sha256", "mask_sha256"]  # fmt: skip
_NO_T1 = re.compile("mask|lesion|label|seg", re.IGNORECASE)  # in the name of a file in a folder
_DERIVATIVE = "space-T1w_desc-lesion_mask"  # the mask of a scan of a BIDS folder

Row = dict[str, str]


def predict_files(
    run: Networks,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    csv: str | os.PathLike[str] | None = None,
    brain_only: bool = True,
    draw: Callable[[Prediction, str], Figure] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Segment scans, write their masks to a folder, and keep a table of them.

    The table is written after every scan: called again, this goes on where it was interrupted, and
    segments what failed, what changed since, and what the networks now given have not segmented.
    Rows of other scans stay in the table. Two processes must not write to the same table.

    Parameters
    ----------
    run : Run, Predictor or list of them
        As in :func:`atlaslib.predict`.
    inputs : path or iterable of path
        Files and folders, as in :func:`find_inputs`, which also names the masks.
    out : path
        Folder of the masks, each with the shape, orientation and affine of its scan. It is created
        if it is missing.
    csv : path, optional
        The table. None: ``volumes.csv`` in ``out``.
    brain_only : bool, default=True
        As in :func:`atlaslib.predict`.
    draw : function, optional
        ``draw(prediction, title)`` makes a picture of each mask, which is saved beside it as PNG.
    progress : bool

    Returns
    -------
    DataFrame
        One row per scan of the inputs, as in the table:

        - file: the scan, as it was given; mask: the path of its mask from the table's folder.
        - space: "MNI" if the scan is on the MNI grid, else "native"; similarity: of a native scan's
          registration, from 0 to 1.
        - predicted_ml: volume in mL, on the scan's own voxels.
        - lesions: number of connected components (26 neighbours) of at least 50 mm3.
        - side: "left" or "right", of the patient, if more than 90 % of the volume lies there, else
          "both"; "none" if nothing is marked. The midline is that of the MNI grid.
        - warnings: what may place the mask wrongly, as in
          :func:`atlaslib.evaluation.prediction.doubts`.
        - error: why there is no mask, or "". With an error, volume, lesions and side are empty.
        - input_sha256, networks_sha256, mask_sha256: of the scan's file; of the weights and recipes
          of the networks, the engine and ``brain_only``; of the mask's file.

    Raises
    ------
    DataError
        If an input does not exist, two would have the same mask or there are none; if the table is
        not of this kind, or it or the folder cannot be written; if the folder holds another BIDS
        dataset. A problem with a single scan is not raised, but recorded as its ``error``.
    ValueError
        As :func:`atlaslib.predict`.
    """
    ensemble = load_members(run)
    made_by = _networks_digest(ensemble, brain_only)
    scans = find_inputs([inputs] if isinstance(inputs, str | os.PathLike) else inputs)
    out = user_path(out)
    make_folder(out)
    if any(name.endswith(f"{_DERIVATIVE}.nii.gz") for name in scans):
        describe(out, PREDICTED)  # before the first mask, so that none is taken for the truth
    csv = out / TABLE if csv is None else user_path(csv)
    rows = _read_table(csv)
    names = {name: os.path.relpath(out / name, csv.parent) for name in scans}
    for name, file in tqdm(scans.items(), disable=not progress, unit="scan"):
        mask, target = names[name], out / name
        before = rows.get(mask, dict.fromkeys(COLUMNS, ""))
        row = dict.fromkeys(COLUMNS, "") | {"file": str(file), "mask": mask}
        try:
            digests = {"input_sha256": file_digest(file), "networks_sha256": made_by}
            picture = target.with_name(target.name.removesuffix(".nii.gz") + ".png")
            if _is_done(before, digests, target) and (draw is None or picture.exists()):
                continue
            image = read_t1(file, "native")
            prediction = segment(ensemble, image, brain_only)
            found = _described(prediction) | {"warnings": "; ".join(doubts(image))}
            # the same bytes at any time
            content = gzip.compress(prediction.mask.to_bytes(), 6, mtime=0)
            digests["mask_sha256"] = hashlib.sha256(content).hexdigest()
            target.unlink(missing_ok=True)  # it is this function's own, and out of date
            rows[mask] = row | found | digests
            _write_table(csv, rows)
            atomic_write(target, partial(_write_bytes, content))
            if draw is not None:
                figure = draw(prediction, f"{file.name}: {prediction.volume_ml:.1f} mL")
                atomic_write(picture, partial(figure.savefig, format="png", dpi=150))
            if name.endswith(f"{_DERIVATIVE}.nii.gz"):
                about = {"Type": "Lesion", "Sources": [f"bids:raw:{file.name}"]}
                write_json(sidecar_path(target), about)
        except Exception as error:  # whatever it is, the other scans can be segmented
            # the mask that is there, older or new, remains this function's
            kept = {"mask_sha256": rows.get(mask, before)["mask_sha256"]}
            rows[mask] = row | {"error": _text(file, error)} | kept
            _write_table(csv, rows)
    return _typed([rows[mask] for mask in names.values()])


def find_inputs(inputs: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """The T1 images of files and folders, by the names of their masks.

    Parameters
    ----------
    inputs : iterable of path
        A file is a T1, whatever its name. Of a folder, with all its subfolders, these are: the
        scans of :func:`atlaslib.load_cohort`, with or without masks; and, unless it is a BIDS
        folder, each other ``.nii`` or ``.nii.gz`` whose name contains none of "mask", "lesion",
        "label" and "seg".

    Returns
    -------
    dict
        Keys are relative paths: ``SUBJECT-SESSION_lesion.nii.gz`` for a scan of ATLAS; that of a
        derivative, ``sub-*/[ses-*/]anat/*_space-T1w_desc-lesion_mask.nii.gz``, for one of another
        BIDS folder; ``NAME_lesion.nii.gz`` for any other file, in the subfolder in which the folder
        has it.

    Raises
    ------
    DataError
        If an input does not exist, two files would have the same mask, there is no T1, or
        :func:`atlaslib.load_cohort` finds a fault in a folder of ATLAS.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for given in map(user_path, inputs):
        if not given.exists():
            raise DataError(f"{given}: no such file or folder", "missing")
        single = [(_mask_name(given.name), given)]
        for name, path in _in_folder(given) if given.is_dir() else single:
            if (identity := os.path.abspath(path)) in seen:
                continue
            seen.add(identity)
            other = found.setdefault(name, path)
            if other is not path:
                text = "would have masks of the same name; write them to different folders"
                raise DataError(f"{other} and {path}: {text}", "same name")
    if not found:
        raise DataError("no T1 to segment: name a file or a folder", "missing")
    return found


def _in_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    try:
        cohort = load_cohort(folder, unlabelled=True)
    except DataError as error:
        if error.kind != "no scans":
            raise
        cohort = Cohort(folder, ())
    if cohort.release == RELEASE:
        for scan in cohort:
            yield derivative_path(Path(), scan, _DERIVATIVE).as_posix(), scan.t1
        return
    images = other_images(folder)
    others = [path for path in images if not _NO_T1.search(path.name)]
    if not (cohort or others):
        raise DataError(f"{folder}: no T1 in it, neither .nii nor .nii.gz", "missing")
    if count := len(images) - len(others):
        text = "with mask, lesion, label or seg in their names are not segmented"
        warnings.warn(f"{folder}: {count} files {text}", stacklevel=4)
    yield from ((f"{scan.name}_lesion.nii.gz", scan.t1) for scan in cohort)
    for path in others:
        yield path.relative_to(folder).with_name(_mask_name(path.name)).as_posix(), path


def _mask_name(name: str) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE) + "_lesion.nii.gz"


def _described(prediction: Prediction) -> Row:
    """What the table says of a mask."""
    t1, found = prediction.t1, prediction.registration
    volumes = component_sizes(prediction.lesion) * abs(np.linalg.det(t1.affine[:3, :3]))
    # by the grid on which the networks see the head, not by an origin that may be wrong
    place = MNI_AFFINE if found is None else np.linalg.inv(found.affine) @ t1.affine
    return {
        "space": "MNI" if found is None else "native",
        "similarity": "" if found is None else f"{found.similarity:.2f}",
        "predicted_ml": f"{prediction.volume_ml:.3f}",
        "lesions": str((volumes >= SMALLEST).sum()),
        "side": hemisphere(prediction.lesion, place) or "none",
    }


def _is_done(before: Row, digests: Row, target: Path) -> bool:
    """Whether a mask is up to date; DataError if there is one that may not be overwritten."""
    if not target.exists():
        return False
    if file_digest(target) != before["mask_sha256"]:
        text = "exists already, and was not written by this command or was changed since"
        raise DataError(f"{target}: {text}; it is not overwritten", "exists")
    return not before["error"] and all(before[name] == value for name, value in digests.items())


def _networks_digest(ensemble: Sequence[Member], brain_only: bool) -> str:
    """SHA-256 of all that determines the mask of a scan, whatever the order of the networks."""
    each = []
    for model, recipe in ensemble:
        digest = hashlib.sha256(recipe.key().encode())
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.cpu().double().numpy().tobytes())
        each.append(digest.hexdigest())
    settings = f"engine {ENGINE} brain_only {brain_only}"
    return hashlib.sha256(" ".join([*sorted(each), settings]).encode()).hexdigest()


def _text(file: Path, error: Exception) -> str:
    text = one_line(error)
    if not isinstance(error, ValueError | OSError | RuntimeError):
        text = f"{type(error).__name__}: {text}"
    return text if text.startswith(f"{file}: ") else f"{file}: {text}"


def _read_table(csv: Path) -> dict[str, Row]:
    """The rows of a table by their masks; none if there is no such file yet."""
    if not csv.exists():
        check_writable(csv)
        return {}
    try:
        table = pd.read_csv(io.BytesIO(read_bytes(csv)), dtype=str, keep_default_na=False,
                            encoding_errors="surrogateescape")  # fmt: skip
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{csv}: not a readable table ({error})", "damaged") from None
    if list(table) != COLUMNS:
        text = "exists already, with other columns than a table of predicted volumes"
        raise DataError(f"{csv}: {text}; it is not overwritten", "exists")
    return {row["mask"]: dict(row) for _, row in table.iterrows()}


def _write_bytes(content: bytes, path: str) -> None:
    Path(path).write_bytes(content)


def _write_table(csv: Path, rows: dict[str, Row]) -> None:
    table = pd.DataFrame(rows.values(), columns=COLUMNS)
    atomic_write(csv, lambda part: table.to_csv(part, index=False, errors="surrogateescape"))


def _typed(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table with numbers."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = table[["similarity", "predicted_ml", "lesions"]].apply(pd.to_numeric)
    return table.assign(
        similarity=numbers.similarity,
        predicted_ml=numbers.predicted_ml,
        lesions=numbers.lesions.astype("Int64"),
    )
