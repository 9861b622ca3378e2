"""Train every arm with every seed, gather the tables of results, and tell when they are stale.

Every worker goes through the same list and takes the jobs that are neither finished nor locked by
another worker, so several processes, on several machines with a shared folder, can split the work.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch.multiprocessing import ProcessRaisedException
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.data.releases import load_cohort
from atlaslib.data.slices import SliceDataset
from atlaslib.data.splits import TEST, split_cohort
from atlaslib.evaluation.calibration import calibration_table, detection_table
from atlaslib.evaluation.scoring import evaluate
from atlaslib.evaluation.starter_code import original_scores
from atlaslib.files import DataError, atomic_write, home, shipped, write_json
from atlaslib.models import build_model
from atlaslib.paper.arms import arms
from atlaslib.paper.claims import SEEDS, Effect, effects_of, repeated
from atlaslib.paper.tuning import saved_by_half
from atlaslib.recipes import Recipe
from atlaslib.runs import ENGINE, load_run, package_versions, run_folder
from atlaslib.synthetic.cohort import GENERATOR, make_cohort
from atlaslib.training.loop import train
from atlaslib.training.step import TrainingError

RESCORED = ("baseline", "resnet")  # arms also scored with the original code's Dice
LOOKED_AT = ("baseline", "resnet", "residual_unet", "dynunet")  # these get further tables
_NEW_SUBJECTS = 24
DONE = "test.csv"  # in a run's folder; written last, so its presence means that all is done
_DIGITS = 5  # significant digits kept in the tables


class Job(NamedTuple):
    """One training: an arm with a seed, which also determines the split."""

    arm: str
    seed: int
    recipe: Recipe


def jobs(profile: str, seeds: int) -> list[Job]:
    """Every training of a profile: arm by arm, each with all seeds."""
    return [
        Job(name, seed, dataclasses.replace(chosen, seed=seed, split_seed=seed))
        for name, chosen in arms(profile).items()
        for seed in range(seeds)
    ]


def is_done(job: Job, cohort: Cohort) -> bool:
    """Whether the job's run is finished and scored."""
    return (run_folder(job.recipe, cohort) / DONE).is_file()


def run_job(job: Job, cohort: Cohort) -> None:
    """Train or resume, score the test scans, and write the tables to the run's folder."""
    run = train(job.recipe, cohort, progress=False)
    test = split_cohort(cohort, job.recipe)[TEST]
    table = evaluate(run, test, progress=False)
    if job.arm in RESCORED:
        table = table.merge(original_scores(run, test), on=["subject", "session"])
    if job.arm in LOOKED_AT:
        _write(calibration_table(run, test), run.folder / "calibration.csv")
        _write(detection_table(run, test), run.folder / "detection.csv")
        if cohort.synthetic:
            tables = [
                evaluate(run, people, progress=False).assign(scanners=scanners)
                for scanners, people in open_new_people().items()
            ]
            _write(pd.concat(tables).drop(columns="part"), run.folder / "new_people.csv")
    _write(table.drop(columns="part"), run.folder / DONE)


def _write(table: pd.DataFrame, path: Path, digits: str | None = None) -> None:
    atomic_write(path, lambda name: table.to_csv(name, index=False, float_format=digits))


def open_new_people() -> dict[str, Cohort]:
    """Synthetic subjects who are in no other cohort, made on first use.

    Returns
    -------
    dict
        "known" and "unseen": the same people, imaged by the usual scanners and by others.
    """
    return {
        scanners: make_cohort(
            home() / "synthetic" / f"new-{scanners}-{GENERATOR}",
            _NEW_SUBJECTS,
            seed=1,
            shifted=scanners == "unseen",
        )
        for scanners in ("known", "unseen")
    }


def _work(rank: int, root: Path, profile: str, seeds: int) -> None:
    """A worker process, on one GPU or one core."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    cohort = load_cohort(root).labelled
    for job in jobs(profile, seeds):
        if is_done(job, cohort):
            continue
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # killed: do not go on alone
            return
        try:
            run_job(job, cohort)
        except DataError as error:
            if error.kind != "locked":  # a locked run belongs to another worker
                raise


def run_all(
    cohort: Cohort, profile: str = "quick", seeds: int = SEEDS, progress: bool = True
) -> None:
    """Run all missing jobs, with a worker on every GPU or, without a GPU, on every core.

    Parameters
    ----------
    cohort : Cohort
    profile : {"smoke", "quick", "paper"}
    seeds : int
        Trainings of each arm, each with its own split by subject.
    progress : bool

    Raises
    ------
    TrainingError
        If a run fails; finished runs are kept.
    """
    cohort = cohort.labelled
    listed = jobs(profile, seeds)
    SliceDataset(cohort, progress=progress)  # fill the cache once, before the workers start
    if cohort.synthetic:
        for people in open_new_people().values():
            SliceDataset(people, progress=progress)
    workers = torch.cuda.device_count() or os.cpu_count() or 1
    args = (cohort.root, profile, seeds)
    context = torch.multiprocessing.spawn(_work, args, nprocs=workers, join=False)
    # run_folder() looks at every file of the cohort: call it once, not at each update of the bar
    tables = [run_folder(job.recipe, cohort) / DONE for job in listed]
    with tqdm(total=len(listed), disable=not progress, unit="run") as bar:
        ended = False
        while not ended:
            try:
                ended = context.join(timeout=5)
            except ProcessRaisedException as error:
                raise TrainingError(str(error).strip().splitlines()[-1]) from None
            bar.update(sum(table.is_file() for table in tables) - bar.n)


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

    def effects(self) -> dict[str, Effect]:
        """The effect of each claim that these results can judge."""
        saved = self.provenance["saved by half a batch"]
        return effects_of(self.scans) | {"C5a": repeated(saved)}


_TABLES = Results._fields[:-1]
_FILES = {"scans": DONE, "new_people": "new_people.csv", "calibration": "calibration.csv",
          "detection": "detection.csv", "history": "history.csv"}  # fmt: skip


def gather(cohort: Cohort, profile: str, seeds: int = SEEDS) -> Results:
    """The tables of all arms whose trainings are finished for every seed.

    Raises
    ------
    DataError
        If there is no such arm.
    """
    cohort = cohort.labelled
    listed = jobs(profile, seeds)
    unfinished = {job.arm for job in listed if not is_done(job, cohort)}
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in _TABLES}
    for job in listed:
        if job.arm in unfinished:
            continue
        run = load_run(run_folder(job.recipe, cohort))
        for name, file in _FILES.items():
            if (run.folder / file).is_file():
                table = pd.read_csv(run.folder / file, dtype={"subject": str})
                parts[name].append(_named(table, job))
        facts = {key: run.provenance[key] for key in ("parameters", "seconds", "device")}
        facts |= {"recipe": job.recipe.key(), "gflop": forward_gflop(job.recipe)}
        parts["runs"].append(_named(pd.DataFrame([facts]), job))
    if not parts["runs"]:
        raise DataError(f"{cohort.root}: no arm has finished all {seeds} seeds yet")
    tables = {
        name: pd.concat(part, ignore_index=True) if part else pd.DataFrame()
        for name, part in parts.items()
    }
    whole = arms(profile)["resnet"]
    saved = {"saved by half a batch": [saved_by_half(whole) for _ in range(seeds)]}
    return Results(**tables, provenance=provenance(cohort, profile) | saved)


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


def _named(table: pd.DataFrame, job: Job) -> pd.DataFrame:
    table.insert(0, "arm", job.arm)
    table.insert(1, "seed", job.seed)
    return table


def forward_gflop(chosen: Recipe) -> float:
    """Operations to segment one slice, in GFLOP (10^9); a multiply-add counts as two."""
    model = build_model(chosen.model, **chosen.model_options()).eval()
    x = torch.zeros(1, 1 + 2 * chosen.context_slices, *chosen.input_size())
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() * (2 if chosen.flip_tta else 1) / 1e9


def save(results: Results, folder: Path) -> None:
    """Write the tables as CSV, rounded, with their provenance beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = results.provenance["profile"]
    for name in _TABLES:
        table = getattr(results, name)
        if len(table):  # on ATLAS there are no new people
            _write(table, folder / f"{profile}_{name}.csv", f"%.{_DIGITS}g")
    write_json(folder / f"{profile}.json", results.provenance)


def load(profile: str | None = None, folder: Path | None = None) -> Results:
    """Read what :func:`save` wrote.

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
        text = "`atlaslib claims` makes them"
        raise DataError(f"{folder}: no results of the {profile} profile; {text}")
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
    now = {
        (job.arm, job.seed): job.recipe.key()
        for job in jobs(results.provenance["profile"], int(results.runs.seed.max()) + 1)
    }
    for arm, seed, known in results.runs[["arm", "seed", "recipe"]].to_numpy():
        if now.get((arm, seed)) != known:
            reasons.append(f"the recipe of {arm!r} has changed")
    return list(dict.fromkeys(reasons))
