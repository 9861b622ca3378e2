"""A search over the hyperparameters that the paper's conclusion names, with Optuna.

Trials are kept in a journal, a file that several processes and machines may share: whoever calls
:func:`search` again, or beside a search that runs, goes on with the same study.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlaslib.cohort import Cohort, DataError, home, write_aside
from atlaslib.experiments import provenance
from atlaslib.recipes import Recipe
from atlaslib.runs import code_fingerprint, write_json
from atlaslib.training import train
from atlaslib.tuning import short_recipe

if TYPE_CHECKING:
    import optuna

UNITS = (4, 8, 12, 16, 20, 24)  # hidden layers: two convolutions each
VECTOR = (8, 16, 32, 64, 128, 256, 512)  # neurons of the last layer
_EPOCHS = 3  # times the epochs of a short run: validation after each lets bad trials end early
_FIRST = 4  # trials that nothing prunes: there is nothing to compare them with


class _TakenError(Exception):
    """Another process is running this very trial."""


def trial_recipe(profile: str, units: int, vector: int) -> Recipe:
    """The ResNet of a trial: a short run of section 5.3's, long enough to be compared midway."""
    epochs = _EPOCHS * short_recipe(profile).epochs
    return short_recipe(profile, units=units, vector=vector, epochs=epochs)


def journal(cohort: Cohort, profile: str) -> Path:
    """The file of the study of these data by this code."""
    name = f"{profile}-{cohort.fingerprint()}-{code_fingerprint()}.log"
    return home() / "studies" / name


def open_study(path: Path) -> optuna.Study:
    """The study in a journal, made if the file is new.

    Raises
    ------
    DataError
        If Optuna is missing.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise DataError("a study needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial left to others is a warning
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(path))
    study = optuna.create_study(
        study_name="units and last layer",
        storage=optuna.storages.JournalStorage(backend),
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(_FIRST),
    )
    # whoever goes on, or comes in later, must not draw the first trials again
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), multivariate=True)
    return study


def search(
    cohort: Cohort, profile: str = "quick", trials: int = 20, progress: bool = True
) -> optuna.Study:
    """Run so many more trials: the ResNet's units and last layer, by validation Dice.

    A trial that another process is running already counts, and is left to it.

    Parameters
    ----------
    cohort : Cohort
    profile : {"smoke", "quick", "paper"}
    trials : int
    progress : bool
    """
    study = open_study(journal(cohort, profile))
    import optuna  # only now, for the line above says what to do where it is missing

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
            run = train(recipe, cohort, progress=False, after_epoch=report)
        except DataError as error:
            if error.kind == "locked":
                raise _TakenError from None
            raise
        for row in run.history.to_dict("records"):  # of a run that was finished before
            report(row)
        return float(run.history.validation_dice.max())

    study.optimize(objective, n_trials=trials, show_progress_bar=progress, catch=_TakenError)
    return study


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row per trial that ended: trial, units, vector, dice (the best reached), epochs, state.

    Of trials with the same numbers, the last: a search may draw a pruned one again and end it.
    """
    rows = []
    for trial in study.trials:
        reached = trial.intermediate_values
        if trial.state.name in ("COMPLETE", "PRUNED"):
            rows.append({"trial": trial.number, **trial.params, "dice": max(reached.values()),
                         "epochs": len(reached), "state": trial.state.name})  # fmt: skip
    table = pd.DataFrame(rows, columns=["trial", "units", "vector", "dice", "epochs", "state"])
    return table.drop_duplicates(["units", "vector"], keep="last", ignore_index=True)


def save(trials: pd.DataFrame, cohort: Cohort, profile: str, folder: Path) -> None:
    """Write a :func:`trials_table` as ``PROFILE_study.csv``, with its provenance beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile}_study.csv"
    write_aside(path, lambda name: trials.to_csv(name, index=False))
    write_json(path.with_suffix(".json"), provenance(cohort, profile))


def from_table(trials: pd.DataFrame) -> optuna.Study:
    """A study in memory from :func:`trials_table`, for Optuna's own figures."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "units": optuna.distributions.CategoricalDistribution(UNITS),
        "vector": optuna.distributions.CategoricalDistribution(VECTOR),
    }
    for row in trials.to_dict("records"):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: int(row[name]) for name in space},
                distributions=space,
                value=row["dice"] if row["state"] == "COMPLETE" else None,
                intermediate_values={int(row["epochs"]): row["dice"]},
                state=optuna.trial.TrialState[row["state"]],
            )
        )
    return study
