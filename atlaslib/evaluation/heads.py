"""Score networks on real heads: scans with lesions, and the same heads without any.

A folder of heads contains

- ``standard/ATLAS_R1.1/SiteN/SUBJECT/t01/``: scans and masks on the MNI grid, named as in ATLAS
  R1.1; all scans of a site show one head, with a lesion painted in;
- ``native/SUBJECT_T1w.nii.gz`` and ``native/SUBJECT_mask.nii.gz``, optional: the same scans in the
  scanner's own space;
- ``healthy/NAME.nii.gz``: a head on the MNI grid without lesion: all that is marked is false;
- ``heads.csv``, optional: the columns site, name, source and licence. A head that it does not list
  is called after its site.

Heads differ, and so do the sizes of their lesions: scores are given head by head, never pooled.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from atlaslib.data.cohort import Cohort
from atlaslib.data.releases import load_cohort
from atlaslib.data.volumes import read_t1
from atlaslib.evaluation.prediction import predict
from atlaslib.evaluation.predictor import Trained
from atlaslib.evaluation.scoring import VOXEL_ML, evaluate
from atlaslib.files import DataError, file_digest, user_path
from atlaslib.runs import ENGINE

LARGE = 1.0  # mL: smaller lesions are hardly visible at the resolution of a network
_LISTED = ["site", "name", "source", "licence"]
_SCORES = ("volume_ml", "predicted_ml", "intersection_ml", "dice")
COLUMNS = ["network", "weights", "engine", "brain_only", "kind", "head", "source", "licence",
           "scan", "t1_sha256", "masks_sha256", *_SCORES]  # fmt: skip
_BY_HEAD = ["network", "head", "lesions", "large", "dice_large", "native_large", "dice", "found",
            "false_ml"]  # fmt: skip


def open_heads(folder: str | os.PathLike[str]) -> tuple[Cohort, list[Path], pd.DataFrame]:
    """What a folder of heads contains.

    Parameters
    ----------
    folder : path

    Returns
    -------
    Cohort
        The scans with lesions.
    list of Path
        The healthy heads, sorted by name.
    DataFrame
        ``heads.csv``: site, name, source, licence; no row if there is no such file.

    Raises
    ------
    DataError
        If there are no scans with masks, or ``heads.csv`` is not as described above.
    """
    folder = user_path(folder)
    cohort = load_cohort(folder / "standard" / "ATLAS_R1.1").labelled
    healthy = sorted(
        path
        for path in (folder / "healthy").glob("*")
        if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
    )
    path = folder / "heads.csv"
    about = pd.DataFrame(columns=_LISTED, dtype=str)
    if path.exists():
        try:
            about = pd.read_csv(path, dtype=str, keep_default_na=False)[_LISTED]
        except (OSError, ValueError, KeyError) as error:
            expected = f"a table with the columns {', '.join(_LISTED)}"
            raise DataError(f"{path}: expected {expected} ({error})", "metadata") from None
    if about["site"].duplicated().any() or about["name"].duplicated().any():
        raise DataError(f"{path}: a site or a name is listed twice", "metadata")
    return cohort, healthy, about


def score_heads(
    networks: Mapping[str, Trained], folder: str | os.PathLike[str], brain_only: bool = True
) -> pd.DataFrame:
    """Segment every scan of a folder of heads with each network.

    Parameters
    ----------
    networks : mapping from names to Run or Predictor
    folder : path
    brain_only : bool, default=True
        As in :func:`atlaslib.predict`.

    Returns
    -------
    DataFrame
        One row per network and scan: network; weights (SHA-256 of their file); engine (version);
        brain_only; kind ("lesion", "native" for a lesion in native space, or "healthy"); head;
        source, licence (of the head); scan (subject, or the file's name); t1_sha256; masks_sha256
        (one per mask, separated by spaces); volume_ml, predicted_ml, intersection_ml; dice (NaN for
        a healthy head in which nothing is marked, or a scan that cannot be registered).

    Raises
    ------
    DataError
        As :func:`open_heads`, and if a file is unreadable or not on the MNI grid.
    """
    cohort, healthy, about = open_heads(folder)
    rows: list[dict[str, object]] = []
    for name, network in networks.items():
        made = {"network": name, "weights": network.digest, "engine": ENGINE}
        made["brain_only"] = brain_only
        for kind, scans in (("lesion", cohort), ("native", _native(cohort, user_path(folder)))):
            if not scans:
                continue
            space = "native" if kind == "native" else "MNI"
            scores = evaluate(network, scans, progress=False, brain_only=brain_only, space=space)
            for scan, row in zip(scans, scores.to_dict("records"), strict=True):
                masks = " ".join(map(file_digest, scan.masks))
                rows.append({
                    **made, **_about(about, "site", scan.site), "kind": kind,
                    "scan": scan.subject, "t1_sha256": file_digest(scan.t1),
                    "masks_sha256": masks, **{score: row[score] for score in _SCORES},
                })  # fmt: skip
        for path in healthy:
            head = path.name.removesuffix(".gz").removesuffix(".nii")
            read_t1(path)  # one that is not on the MNI grid would be registered first
            marked = np.asarray(predict(network, path, brain_only).dataobj).sum() * VOXEL_ML
            rows.append({
                **made, **_about(about, "name", head), "kind": "healthy", "scan": path.name,
                "t1_sha256": file_digest(path), "masks_sha256": "", "volume_ml": 0.0,
                "predicted_ml": marked, "intersection_ml": 0.0,
                "dice": 0.0 if marked else np.nan,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _native(cohort: Cohort, folder: Path) -> Cohort:
    """The scans of a cohort that the folder also has in native space."""
    found = []
    for scan in cohort:
        t1, mask = (folder / "native" / f"{scan.subject}_{part}.nii.gz" for part in ("T1w", "mask"))
        if t1.is_file() and mask.is_file():
            found.append(dataclasses.replace(scan, t1=t1, masks=(mask,), space="native"))
    return cohort.only(found)


def _about(table: pd.DataFrame, column: str, value: str) -> dict[str, str]:
    """A head's name, source and licence; of one that is not listed, only what it is called."""
    found = table[table[column] == value]
    if found.empty:
        return {"head": value, "source": "", "licence": ""}
    row = found.iloc[0]
    return {"head": row["name"], "source": row.source, "licence": row.licence}


def by_head(table: pd.DataFrame) -> pd.DataFrame:
    """The scores of each network on each head.

    Parameters
    ----------
    table : DataFrame
        From :func:`score_heads`.

    Returns
    -------
    DataFrame
        One row per network and head: network; head; lesions; large (those of at least 1 mL);
        dice_large and dice (means over these and over all lesions); native_large (dice_large in
        native space, NaN if the folder has no such scans); found (lesions of which at
        least one voxel is marked); false_ml (marked in the head without lesion, NaN if there is
        none).
    """
    rows = []
    for (network, head), part in table.groupby(["network", "head"], sort=False):
        lesions, healthy = part[part.kind == "lesion"], part[part.kind == "healthy"]
        large = lesions[lesions.volume_ml >= LARGE]
        native = part[(part.kind == "native") & part.scan.isin(large.scan)]
        rows.append(
            {
                "network": network,
                "head": head,
                "lesions": len(lesions),
                "large": len(large),
                "dice_large": large.dice.mean(),
                "native_large": native.dice.mean(),
                "dice": lesions.dice.mean(),
                "found": int((lesions.intersection_ml > 0).sum()),
                "false_ml": healthy.predicted_ml.mean(),
            }
        )
    return pd.DataFrame(rows, columns=_BY_HEAD)
