"""A search over the hyperparameters that the paper's conclusion names, with Optuna.

Trials are kept in a journal, a file that several processes and machines can share: calling
:func:`search` again, or while another search is running, continues the same study.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.files import DataError, atomic_write, home, write_json
from atlaslib.paper.tuning import short_recipe
from atlaslib.recipes import Recipe
from atlaslib.runs import ENGINE, package_versions
from atlaslib.training.loop import train
from atlaslib.training.workers import run_parallel

if TYPE_CHECKING:
    import optuna

UNITS = (4, 8, 12, 16, 20, 24)  # residual units, each of two convolutions
VECTOR = (8, 16, 32, 64, 128, 256, 512)  # neurons of the last layer
_EPOCHS = 3  # times those of a short run, so that bad trials can be pruned midway
_STARTUP_TRIALS = 4  # never pruned: there is nothing to compare them with yet


class _TakenError(Exception):
    """Another process is already running this trial."""


def trial_recipe(profile: str, units: int, vector: int) -> Recipe:
    """The ResNet of a trial: a short run of section 5.3 with enough epochs to be pruned midway."""
    epochs = _EPOCHS * short_recipe(profile).epochs
    return short_recipe(profile, units=units, vector=vector, epochs=epochs)


def journal(cohort: Cohort, profile: str) -> Path:
    """The file that holds the study of this cohort with this engine version."""
    name = f"{profile}-{cohort.fingerprint()}-{ENGINE}.log"
    return home() / "studies" / name


def open_study(path: Path, seed: int = 0) -> optuna.Study:
    """The study in a journal, created if the file is new; the seed draws further trials.

    Raises
    ------
    DataError
        If Optuna is missing, or the journal is damaged.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise DataError("a study needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials left to others warn
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(path))
    try:
        study = optuna.create_study(
            study_name="units and last layer",
            storage=optuna.storages.JournalStorage(backend),
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS),
        )
    except Exception as error:  # a line that Optuna did not write can raise anything
        text = f"not a journal of trials ({type(error).__name__}: {error})"
        raise DataError(f"{path}: {text}; delete it to start again", "damaged") from None
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return study


def search(
    cohort: Cohort,
    profile: str = "quick",
    trials: int = 20,
    scheduler: str = "",
    progress: bool = True,
) -> optuna.Study:
    """Run more trials of the ResNet's units and last layer, maximising the validation Dice.

    They run in parallel; a trial that another process is already running is left to it, but counts
    towards `trials`.

    Parameters
    ----------
    cohort : Cohort
    profile : {"smoke", "quick", "colab", "paper"}
    trials : int
    scheduler : str
        As in :func:`atlaslib.training.workers.run_parallel`.
    progress : bool
    """
    study = open_study(journal(cohort, profile))  # before any process that could not open it
    # a search that resumes, or joins later, must not draw the first trials again
    first = len(study.trials)
    jobs = [(cohort, profile, first + number) for number in range(trials)]
    results = run_parallel(run_trial, jobs, scheduler)
    for _ in tqdm(results, "trials", trials, disable=not progress, unit="trial"):
        pass
    return study


def run_trial(cohort: Cohort, profile: str, seed: int) -> None:
    """Run one trial of a search, drawn with a seed."""
    study = open_study(journal(cohort, profile), seed)
    import optuna  # after open_study, whose error says how to install it

    def objective(trial: optuna.Trial) -> float:
        units = trial.suggest_categorical("units", UNITS)
        vector = trial.suggest_categorical("vector", VECTOR)

        reported = set()

        def report(row: dict[Any, Any]) -> None:
            step = int(row["epoch"])
            if step in reported:
                return
            reported.add(step)
            trial.report(row["validation_dice"], step)
            if trial.should_prune():
                raise optuna.TrialPruned

        recipe = trial_recipe(profile, units, vector)
        try:
            run = train(recipe, cohort, progress=False, callbacks=[report])
        except DataError as error:
            if error.kind == "locked":
                raise _TakenError from None
            raise
        for row in run.history.to_dict("records"):  # of a run that was finished already
            if (step := int(row["epoch"])) not in reported:
                trial.report(row["validation_dice"], step)
        return float(run.history.validation_dice.max())

    study.optimize(objective, n_trials=1, catch=_TakenError)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row per trial that ended: trial, units, vector, dice (the best reached), epochs, state.

    Of trials with the same values the one with most epochs is kept, of equals the last: a pruned
    one may be drawn again and completed.
    """
    rows = []
    for trial in study.trials:
        reached = trial.intermediate_values
        if trial.state.name in ("COMPLETE", "PRUNED"):
            rows.append({"trial": trial.number, **trial.params, "dice": max(reached.values()),
                         "epochs": len(reached), "state": trial.state.name})  # fmt: skip
    table = pd.DataFrame(rows, columns=["trial", "units", "vector", "dice", "epochs", "state"])
    table = table.sort_values(["epochs", "trial"])
    table = table.drop_duplicates(["units", "vector"], keep="last")
    return table.sort_values("trial", ignore_index=True)


def save(trials: pd.DataFrame, cohort: Cohort, profile: str, folder: Path) -> None:
    """Write a :func:`trials_table` as ``PROFILE_study.csv``, with its provenance beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile}_study.csv"
    atomic_write(path, lambda name: trials.to_csv(name, index=False))
    about = {
        "source": cohort.source,
        "cohort": cohort.fingerprint(),
        "profile": profile,
        "date": datetime.now(UTC).date().isoformat(),
        "engine": ENGINE,
        "packages": package_versions(),
    }
    write_json(path.with_suffix(".json"), about)
