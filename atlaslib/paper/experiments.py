"""Tables behind chapter 9 and parts of 8, made before the protocol: five seeds, short trainings.

:mod:`atlaslib.paper.sweep` makes those of the protocol, which will replace them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from atlaslib.data.cohort import Cohort
from atlaslib.files import DataError, shipped
from atlaslib.paper.arms import arms
from atlaslib.runs import ENGINE, package_versions
from atlaslib.synthetic.cohort import GENERATOR


class Results(NamedTuple):
    """The contents of ``data/results/claims`` for a profile; every table starts with arm and seed.

    - scans: one row per test scan of each training: subject, session, site, dice, dice_per_slice,
      volume_ml, predicted_ml, intersection_ml, cross_entropy, loss; for two arms also those of
      :func:`atlaslib.evaluation.starter_code.original_scores`.
    - new_people: the same for some arms on synthetic subjects who are in no other cohort, once
      with scanners "known" and once with "unseen".
    - calibration, detection: from :mod:`atlaslib.evaluation.calibration`, for the same arms.
    - history: one row per epoch of each training, as in :class:`atlaslib.Run`.
    - runs: one row per training: recipe (its key), parameters, gflop (forward, one slice),
      seconds, device.
    - provenance: where the tables come from.
    """

    scans: pd.DataFrame
    new_people: pd.DataFrame
    calibration: pd.DataFrame
    detection: pd.DataFrame
    history: pd.DataFrame
    runs: pd.DataFrame
    provenance: dict[str, Any]


_TABLES = Results._fields[:-1]


def provenance(cohort: Cohort, profile: str) -> dict[str, Any]:
    """Where results come from: data, engine version, generator version, package versions."""
    return {
        "source": cohort.source,
        "profile": profile,
        "date": datetime.now(UTC).date().isoformat(),
        "engine": ENGINE,
        **({"generator": GENERATOR} if cohort.synthetic else {"cohort": cohort.fingerprint()}),
        "subjects": len(cohort.subjects),
        "cores": os.cpu_count(),
        "packages": package_versions(),
    }


def outdated_versions(about: dict[str, Any]) -> list[str]:
    """Why results with this :func:`provenance` are out of date; empty if they are not."""
    reasons = []
    if about.get("engine") != ENGINE:
        reasons.append(f"made by engine version {about.get('engine')}, now it is {ENGINE}")
    if about["source"] == "synthetic cohort" and about.get("generator") != GENERATOR:
        made = about.get("generator")
        reasons.append(f"cohort made by generator version {made}, now it is {GENERATOR}")
    return reasons


def load(profile: str | None = None, folder: Path | None = None) -> Results:
    """Read the tables.

    Parameters
    ----------
    profile : str, optional
        None: "paper" if the folder has its results, else "quick".
    folder : path, optional
        None: the tables that come with the book.

    Raises
    ------
    DataError
        If there are no results.
    """
    folder = shipped("results") / "claims" if folder is None else folder
    if profile is None:
        profile = "paper" if (folder / "paper.json").is_file() else "quick"
    if not (folder / f"{profile}.json").is_file():
        raise DataError(f"{folder}: no results of the {profile} profile")
    about = json.loads((folder / f"{profile}.json").read_text())
    tables = {
        name: pd.read_csv(path, dtype={"subject": str}) if path.is_file() else pd.DataFrame()
        for name in _TABLES
        for path in [folder / f"{profile}_{name}.csv"]
    }
    return Results(**tables, provenance=about)


def stale(results: Results) -> list[str]:
    """Why results are out of date; empty if they are not."""
    reasons = outdated_versions(results.provenance)
    now = arms(results.provenance["profile"])
    for arm, seed, known in results.runs[["arm", "seed", "recipe"]].to_numpy():
        seeded = dataclasses.replace(now[arm], seed=seed, split_seed=seed) if arm in now else None
        if seeded is None or seeded.key() != known:
            reasons.append(f"the recipe of {arm!r} has changed")
    return list(dict.fromkeys(reasons))
