"""Run the protocol's trainings; their rows are added to tables on disk as each one ends.

A training whose rows are in the tables counts as done on every machine, so that an interrupted
sweep goes on with what is missing, there or elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.data.releases import load_cohort
from atlaslib.data.splits import TEST, split_cohort
from atlaslib.evaluation.calibration import calibration_and_detection
from atlaslib.evaluation.scoring import evaluate
from atlaslib.evaluation.starter_code import original_scores
from atlaslib.files import DataError, atomic_write, home, make_folder, shipped
from atlaslib.models.device import full_precision
from atlaslib.networks import forward_gflop
from atlaslib.paper import protocol
from atlaslib.paper.protocol import PLANS, Job
from atlaslib.runs import ENGINE, Run
from atlaslib.synthetic.cohort import GENERATOR, make_cohort
from atlaslib.training.loop import train
from atlaslib.training.workers import run_parallel

RESCORED = ("baseline", "resnet")  # arms also scored with the original code's Dice
CALIBRATED = ("baseline", "resnet", "residual_unet", "dynunet")
_TABLES = ("runs", "scans", "history", "calibration", "detection")
_SCANS = ["people", "subject", "session", "dice", "dice_per_slice", "volume_ml", "predicted_ml",
          "intersection_ml", "cross_entropy", "loss", "dice_original",
          "perfect_original"]  # fmt: skip
_DIGITS = "%.5g"  # kept in the tables
_TEXT = dict.fromkeys(("subject", "recipe", "data", "protocol"), str)  # also if only of digits


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """One of the tables in a folder; empty if there is none yet.

    Parameters
    ----------
    folder : path
    name : {"runs", "scans", "history", "calibration", "detection", "repeated"}
        Each begins with arm and seed.

        - runs: one row per training: recipe (its key), engine, data, protocol, date, source,
          device, threads, torch, parameters, gflop (forward, one slice), passes, seconds.
        - scans: one row per scan and training, as of :func:`atlaslib.evaluate`; people are "known"
          or "unseen" (scanners), "fold", or "own" or "other" (for the leak).
        - history: one row per pass, as in :class:`atlaslib.Run`.
        - calibration, detection: of :mod:`atlaslib.evaluation.calibration`, for some arms.
        - repeated: trainings made a second time on another device, which enter no analysis; dice
          and loss are means over the people (known scanners). Not written here.
    """
    path = folder / f"{name}.csv"
    return pd.read_csv(path, dtype=_TEXT) if path.is_file() else pd.DataFrame()


def add_rows(folder: Path, job: Job, tables: Mapping[str, pd.DataFrame]) -> None:
    """Add the rows of a training to the tables, in place of older ones of the same arm and seed.

    The table of runs is written last, since a training that it lists counts as done.
    """
    for name in sorted(tables, key=lambda table: table == "runs"):
        known = read_table(folder, name)
        if len(known):
            known = known[(known.arm != job.arm) | (known.seed != job.seed)]
        new = tables[name].copy()
        new.insert(0, "arm", job.arm)
        new.insert(1, "seed", job.seed)
        table = pd.concat([part for part in (known, new) if len(part)], ignore_index=True)
        _write(folder, name, table)


def _write(folder: Path, name: str, table: pd.DataFrame) -> None:
    def write(path: str) -> None:
        table.to_csv(path, index=False, float_format=_DIGITS)

    atomic_write(folder / f"{name}.csv", write)


def drop_rows(folder: Path, jobs: list[Job]) -> None:
    """Remove what the tables hold of trainings that are to be run, in part or by another version.

    An arm is then never a mixture of versions.
    """
    pairs = {(job.arm, job.seed) for job in jobs}
    for name in _TABLES:
        table = read_table(folder, name)
        if table.empty:
            continue
        old = pd.MultiIndex.from_frame(table[["arm", "seed"]]).isin(pairs)
        if old.any():
            _write(folder, name, table[~old])


def missing(listed: list[Job], runs: pd.DataFrame, data: str) -> list[Job]:
    """The trainings whose rows are not in the table of runs, or are of another version."""
    if runs.empty:
        return list(dict.fromkeys(listed))
    current = runs[(runs.engine == ENGINE) & (runs.data == data)]
    done = set(zip(current.arm, current.seed, current.recipe, strict=True))
    keys = {(job.arm, job.seed, job.recipe.key()): job for job in listed}
    return [job for key, job in keys.items() if key not in done]


def outdated(runs: pd.DataFrame) -> list[str]:
    """Why the tables are out of date; empty if they are not."""
    reasons = []
    if len(found := set(runs.engine) - {ENGINE}):
        reasons.append(f"made by engine version {min(found)}, now it is {ENGINE}")
    synthetic = runs[runs.source == "synthetic cohort"].data
    if len(found := set(synthetic) - {_generator()}):
        reasons.append(f"cohort made by {min(found)}, now it is {_generator()}")
    if set(runs.protocol) != {protocol.digest()}:
        reasons.append("the protocol has changed since")
    return reasons


def _generator() -> str:
    return f"generator {GENERATOR}"


def people(profile: str, seed: int, count: int, shifted: bool = False) -> Cohort:
    """A synthetic cohort of the protocol, made on first use."""
    name = f"protocol-{profile}-{seed}{'-unseen' if shifted else ''}-{GENERATOR}"
    folder = home() / "synthetic" / name
    return make_cohort(folder, count, seed, progress=False, shifted=shifted)


def _cohort_of(job: Job, root: Path | None) -> Cohort:
    """The people of a training."""
    if root is not None:
        return load_cohort(root).labelled
    profile = job.recipe.profile
    start = protocol.PILOT_PEOPLE if job.pilot else protocol.MAIN_PEOPLE
    return people(profile, start + job.seed, PLANS[profile].people)


def _tests(job: Job, cohort: Cohort) -> Iterator[tuple[str, Cohort]]:
    """The scans that a training is scored on, with a name for them."""
    profile, plan = job.recipe.profile, PLANS[job.recipe.profile]
    if job.pilot:
        return
    if job.recipe.folds is not None:
        yield "fold", split_cohort(cohort, job.recipe)[TEST]
    elif job.recipe.split == "slice":
        yield "own", cohort
        next_seed = (job.seed + 1) % plan.secondary
        yield "other", people(profile, protocol.MAIN_PEOPLE + next_seed, plan.people)
    else:
        for name in ("known", "unseen"):
            yield name, people(profile, protocol.TEST_PEOPLE, plan.test_people, name == "unseen")


def run_job(job: Job, root: Path | None = None) -> dict[str, pd.DataFrame]:
    """Train, or find or resume the training, and score it.

    Parameters
    ----------
    job : Job
    root : path, optional
        A folder of real data. None: the synthetic people of the protocol.

    Returns
    -------
    dict
        Rows for the tables of :func:`read_table`.
    """
    cohort = _cohort_of(job, root)
    run = train(job.recipe, cohort, progress=False)
    tables = {"runs": _facts(run, job, cohort), "history": run.history}
    scans = []
    for name, test in _tests(job, cohort):
        table = evaluate(run, test, progress=False)
        if name in ("known", "fold"):
            if job.arm in RESCORED:
                table = table.merge(original_scores(run, test), on=["subject", "session"])
            if job.arm in CALIBRATED:
                found = calibration_and_detection(run, test)
                tables["calibration"], tables["detection"] = found
        scans.append(table.assign(people=name))
    if scans:
        tables["scans"] = pd.concat(scans, ignore_index=True).reindex(columns=_SCANS)
    return tables


def _facts(run: Run, job: Job, cohort: Cohort) -> pd.DataFrame:
    about = run.provenance
    row = {
        "recipe": job.recipe.key(),
        "engine": ENGINE,
        "data": _data_key(cohort),
        "protocol": protocol.digest(),
        "date": datetime.now(UTC).date().isoformat(),
        "source": cohort.source,
        "device": about["device"],
        "threads": about["threads"],
        "torch": about["packages"]["torch"],
        "parameters": about["parameters"],
        "gflop": forward_gflop(job.recipe),
        "passes": len(run.history),
        "seconds": about["seconds"],
    }
    return pd.DataFrame([row])


def _data_key(cohort: Cohort) -> str:
    return _generator() if cohort.synthetic else cohort.fingerprint()


def run_all(
    profile: str,
    folder: Path,
    root: Path | None = None,
    scheduler: str = "",
    progress: bool = True,
) -> None:
    """Run all missing trainings in parallel.

    First the pilot, whose results choose the learning rates and the length, then the rest.

    Parameters
    ----------
    profile : {"smoke", "quick", "colab", "paper"}
    folder : path
        Where the tables are; created if it does not exist.
    root : path, optional
        A folder of real data. None: the synthetic people of the protocol.
    scheduler : str
        As in :func:`atlaslib.training.workers.run_parallel`.
    progress : bool

    Raises
    ------
    TrainingError
        If a training fails; the rows of those that ended are kept.
    DataError
        If the folder is among those that come with the book and `root` is given, or holds tables
        of other people.
    """
    cohort = None if root is None else load_cohort(root).labelled
    data = _generator() if cohort is None else _data_key(cohort)
    if cohort and folder.resolve().is_relative_to(shipped("results").resolve()):
        text = "for synthetic people only, since its tables are published; choose another folder"
        raise DataError(f"{folder}: {text}")
    known = read_table(folder, "runs")
    synthetic = cohort is None or cohort.synthetic
    if len(known) and ((known.source == "synthetic cohort") != synthetic).any():
        text = f"holds tables of other people ({known.source.iloc[0]}); choose another folder"
        raise DataError(f"{folder}: {text}")
    make_folder(folder)

    def run(jobs: list[Job]) -> pd.DataFrame:
        listed = jobs if root is None else protocol.in_folds(jobs)
        _run_missing(listed, folder, root, data, scheduler, progress)
        return read_table(folder, "history")

    rates = protocol.choose_rates(profile, run(protocol.pilot_jobs(profile)))
    choice = protocol.choose(profile, run(protocol.length_jobs(profile, rates)))
    run(protocol.jobs(profile, choice))


def _run_missing(
    listed: list[Job],
    folder: Path,
    root: Path | None,
    data: str,
    scheduler: str,
    progress: bool,
) -> None:
    left = missing(listed, read_table(folder, "runs"), data)
    drop_rows(folder, left)
    results = run_parallel(_work, [(job, root) for job in left], scheduler)
    done = len(set(listed)) - len(left)
    for job, tables in tqdm(
        results, total=done + len(left), initial=done, disable=not progress, unit="run"
    ):
        add_rows(folder, job, tables)


def _work(job: Job, root: Path | None) -> tuple[Job, dict[str, pd.DataFrame]]:
    # of synthetic people, rows of GPUs and of CPUs stand in one table
    with full_precision() if root is None else contextlib.nullcontext():
        return job, run_job(job, root)
