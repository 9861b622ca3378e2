"""Running every arm with every seed, in parallel and resumable, and the tables that come of it.

Each worker goes through the same list and takes what is neither finished nor locked by another,
so that several programs, on several machines with a common folder, can share the work.
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

from atlaslib.arms import arms
from atlaslib.claims import SEEDS, Effect, effects_of, repeated
from atlaslib.cohort import Cohort, DataError, home, write_aside
from atlaslib.confidence import calibration, detection
from atlaslib.evaluation import evaluate, rescore
from atlaslib.models import build_model
from atlaslib.recipes import Recipe
from atlaslib.releases import load_cohort
from atlaslib.runs import code_fingerprint, load_run, packages, run_folder, write_json
from atlaslib.slices import SliceDataset
from atlaslib.splits import TEST, divide
from atlaslib.steps import TrainingError
from atlaslib.synthetic import GENERATOR, data_fingerprint, make_cohort
from atlaslib.training import train
from atlaslib.tuning import saved_by_half

_HERE = Path(__file__).resolve().parent
_CLONE = _HERE.parent / "data" / "results"
#: Tables that come with the book: ``data/results`` of a clone, or the copy in an installed library.
RESULTS = _CLONE if _CLONE.is_dir() else _HERE / "results"
RESCORED = ("baseline", "resnet")  # arms whose masks are scored by the original's Dice as well
LOOKED_AT = ("baseline", "resnet", "residual_unet", "dynunet")  # on new people, and more closely
_NEW_SUBJECTS = 24
DONE = "test.csv"  # in a run's folder: written last
_DIGITS = 5  # significant ones that tables keep


class Job(NamedTuple):
    """One training: an arm with a seed, which also draws its split."""

    arm: str
    seed: int
    recipe: Recipe


def jobs(profile: str, seeds: int) -> list[Job]:
    """What there is to run, the first arms with all seeds first."""
    return [
        Job(name, seed, dataclasses.replace(chosen, seed=seed, split_seed=seed))
        for name, chosen in arms(profile).items()
        for seed in range(seeds)
    ]


def is_done(job: Job, cohort: Cohort) -> bool:
    """Whether its run is finished and scored."""
    return (run_folder(job.recipe, cohort) / DONE).is_file()


def run_job(job: Job, cohort: Cohort) -> None:
    """Train, or go on; score the test scans; leave the tables in the run's folder."""
    run = train(job.recipe, cohort, progress=False)
    test = divide(cohort, job.recipe)[TEST]
    table = evaluate(run, test, progress=False)
    if job.arm in RESCORED:
        table = table.merge(rescore(run, test), on=["subject", "session"])
    if job.arm in LOOKED_AT:
        _write(calibration(run, test), run.folder / "calibration.csv")
        _write(detection(run, test), run.folder / "detection.csv")
        if cohort.synthetic:
            tables = [
                evaluate(run, people, progress=False).assign(scanners=scanners)
                for scanners, people in open_new_people().items()
            ]
            _write(pd.concat(tables).drop(columns="part"), run.folder / "new_people.csv")
    _write(table.drop(columns="part"), run.folder / DONE)


def _write(table: pd.DataFrame, path: Path, digits: str | None = None) -> None:
    write_aside(path, lambda name: table.to_csv(name, index=False, float_format=digits))


def open_new_people() -> dict[str, Cohort]:
    """Synthetic subjects that no other cohort has, made on first use.

    Returns
    -------
    dict
        "known" and "unseen": the same people, by the usual scanners and by others.
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
    """A worker: one GPU, or one core."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    cohort = load_cohort(root).labelled
    for job in jobs(profile, seeds):
        if is_done(job, cohort):
            continue
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # killed: nobody waits for the rest
            return
        try:
            run_job(job, cohort)
        except DataError as error:
            if error.kind != "locked":  # else another worker has it
                raise


def run_all(
    cohort: Cohort, profile: str = "quick", seeds: int = SEEDS, progress: bool = True
) -> None:
    """Run what is missing, on every GPU or else on every core.

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
        If a run cannot go on; the others are kept.
    """
    cohort = cohort.labelled
    listed = jobs(profile, seeds)
    SliceDataset(cohort, progress=progress)  # once, before the workers need it
    if cohort.synthetic:
        for people in open_new_people().values():
            SliceDataset(people, progress=progress)
    workers = torch.cuda.device_count() or os.cpu_count() or 1
    given = (cohort.root, profile, seeds)
    context = torch.multiprocessing.spawn(_work, given, nprocs=workers, join=False)
    # the folders' names take a look at every file of the cohort: once, not at every look at the bar
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
    """What ``data/results/claims`` holds of one profile; every table begins with arm and seed.

    - scans: one row per test scan of each training: subject, session, site, dice, dice_per_slice,
      volume_ml, predicted_ml, intersection_ml, cross_entropy, loss; for two arms also
      dice_original and perfect_original of :func:`atlaslib.evaluation.rescore`.
    - new_people: the same for some arms on synthetic subjects of no other cohort, once with
      scanners "known", once "unseen".
    - calibration, detection: of :mod:`atlaslib.confidence`, for the same arms.
    - history: one row per epoch of each training, as that of :class:`atlaslib.Run`.
    - runs: one row per training: recipe (its fingerprint), parameters, gflop (forward, one slice),
      seconds, device.
    - provenance: where they come from.
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
    """The tables of all arms that are finished with all seeds.

    Raises
    ------
    DataError
        If none is.
    """
    cohort = cohort.labelled
    listed = jobs(profile, seeds)
    lacking = {job.arm for job in listed if not is_done(job, cohort)}
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in _TABLES}
    for job in listed:
        if job.arm in lacking:
            continue
        run = load_run(run_folder(job.recipe, cohort))
        for name, file in _FILES.items():
            if (run.folder / file).is_file():
                table = pd.read_csv(run.folder / file, dtype={"subject": str})
                parts[name].append(_named(table, job))
        facts = {key: run.provenance[key] for key in ("parameters", "seconds", "device")}
        facts |= {"recipe": job.recipe.fingerprint(), "gflop": forward_gflop(job.recipe)}
        parts["runs"].append(_named(pd.DataFrame([facts]), job))
    if not parts["runs"]:
        raise DataError(f"{cohort.root}: no arm is finished with {seeds} seeds yet")
    tables = {
        name: pd.concat(part, ignore_index=True) if part else pd.DataFrame()
        for name, part in parts.items()
    }
    whole = arms(profile)["resnet"]
    saved = {"saved by half a batch": [saved_by_half(whole) for _ in range(seeds)]}
    return Results(**tables, provenance=provenance(cohort, profile) | saved)


def provenance(cohort: Cohort, profile: str) -> dict[str, Any]:
    """Of which data and code results are, made here and now."""
    return {
        "source": cohort.source,
        "profile": profile,
        "date": datetime.now(UTC).date().isoformat(),
        "code": code_fingerprint(),
        "data": data_fingerprint() if cohort.synthetic else cohort.fingerprint(),
        "subjects": len(cohort.subjects),
        "cores": os.cpu_count(),
        "packages": packages(),
    }


def outdated(about: dict[str, Any]) -> list[str]:
    """Why results of such a :func:`provenance` are older than this library; empty if not.

    Those of other code are not older if ``benchmarks/same.py`` has shown that it computes the same.
    """
    reasons = []
    if code_fingerprint() not in same_as(about["code"], about["profile"]):
        reasons.append("the code that trains or scores has changed")
    if about["source"] == "synthetic cohort" and about["data"] != data_fingerprint():
        reasons.append("the synthetic cohort is made otherwise")
    return reasons


def same_as(code: str, profile: str, file: Path = RESULTS / "same.json") -> set[str]:
    """Fingerprints of all code that was shown to end with the same weights and scores there."""
    known = {code}
    for record in json.loads(file.read_text()):  # the older ones first
        if record["profile"] == profile and not known.isdisjoint(record["codes"]):
            known.update(record["codes"])
    return known


def _named(table: pd.DataFrame, job: Job) -> pd.DataFrame:
    table.insert(0, "arm", job.arm)
    table.insert(1, "seed", job.seed)
    return table


def forward_gflop(chosen: Recipe) -> float:
    """Thousand million operations, of which a multiply-add is two, to segment one slice."""
    model = build_model(chosen.model, **chosen.model_options()).eval()
    x = torch.zeros(1, 1 + 2 * chosen.neighbours, *chosen.input_size())
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() * (2 if chosen.average_mirrored else 1) / 1e9


def save(results: Results, folder: Path) -> None:
    """Write the tables as CSV, rounded, with their provenance beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = results.provenance["profile"]
    for name in _TABLES:
        table = getattr(results, name)
        if len(table):  # ATLAS has no people to spare
            _write(table, folder / f"{profile}_{name}.csv", f"%.{_DIGITS}g")
    write_json(folder / f"{profile}.json", results.provenance)


def load(profile: str | None = None, folder: Path = RESULTS / "claims") -> Results:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    profile : str, optional
        None: "paper" if there are results of it, else "quick".
    folder : path
        By default those that come with the book.

    Raises
    ------
    DataError
        If there is nothing.
    """
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
    """Why results are older than this library; nothing if they are not."""
    reasons = outdated(results.provenance)
    now = {
        (job.arm, job.seed): job.recipe.fingerprint()
        for job in jobs(results.provenance["profile"], int(results.runs.seed.max()) + 1)
    }
    for arm, seed, known in results.runs[["arm", "seed", "recipe"]].to_numpy():
        if now.get((arm, seed)) != known:
            reasons.append(f"the recipe of {arm!r} has changed")
    return list(dict.fromkeys(reasons))
