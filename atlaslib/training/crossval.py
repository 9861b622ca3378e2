"""Cross-validation: a training for each fold, and every labelled scan tested once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.data.splits import make_folds
from atlaslib.evaluation.scoring import evaluate
from atlaslib.files import DataError, atomic_write, make_folder, user_path
from atlaslib.recipes import Recipe
from atlaslib.training.loop import train
from atlaslib.training.workers import run_parallel

SCORES = "scores.csv"


def cross_validate(
    recipe: Recipe,
    cohort: Cohort,
    out: str | os.PathLike[str],
    folds: int = 5,
    scheduler: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model once for each fold of a cohort, and test it on the fold's subjects.

    The folds are those of :meth:`atlaslib.Cohort.folds`; the weights of each are chosen by
    validation subjects among the others. Finished trainings are kept, an interrupted one goes on:
    call it again with the same arguments.

    Parameters
    ----------
    recipe : Recipe
    cohort : Cohort
    out : path
        The runs are its folders ``fold-1``, ``fold-2``, ...; the table is its ``scores.csv``,
        written anew whenever a fold is done.
    folds : int, default=5
    scheduler : str
        Address of a Dask cluster, as in :func:`atlaslib.training.workers.run_parallel`. "": this
        machine, as many folds at once as it has GPUs or, without any, cores.
    progress : bool

    Returns
    -------
    DataFrame
        fold (from 1), then one row per scan as from :func:`atlaslib.evaluate`.

    Raises
    ------
    DataError
        If a folder in ``out`` holds another run or its ``scores.csv`` is another table, there are
        fewer subjects than folds, or a file is unreadable.
    ValueError
        If there are fewer than two folds, or the recipe has folds or a seed of its split, or does
        not split by subject.
    """
    out = user_path(out)
    if recipe.folds is not None or recipe.split_seed:
        raise ValueError("folds: leave the recipe's folds at none and its split_seed at 0")
    make_folds(cohort, folds)  # which refuses what cannot be made
    chosen = [
        dataclasses.replace(recipe, folds=folds, split_seed=number) for number in range(folds)
    ]
    make_folder(out)
    known = _folds_in(out / SCORES)
    done: dict[int, pd.DataFrame] = {}
    results = run_parallel(_fold, [(each, cohort, out) for each in chosen], scheduler)
    for number, rows in tqdm(results, "folds", folds, disable=not progress, unit="fold"):
        done[number] = rows
        if len(done) >= known:  # not a part in place of a whole table
            _write(out / SCORES, done)
    return _joined(done)


def _folds_in(path: Path) -> int:
    """The number of folds in a table that is there already; DataError if it is another table."""
    if not path.exists():
        return 0
    try:
        return int(pd.read_csv(path).fold.nunique())
    except (ValueError, AttributeError):
        text = "exists already and is no table of a cross-validation; it is not overwritten"
        raise DataError(f"{path}: {text}", "exists") from None


def _joined(done: dict[int, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([done[fold] for fold in sorted(done)], ignore_index=True)


def _write(path: Path, done: dict[int, pd.DataFrame]) -> None:
    atomic_write(path, lambda name: _joined(done).to_csv(name, index=False))


def _fold(recipe: Recipe, cohort: Cohort, out: Path) -> tuple[int, pd.DataFrame]:
    """Train and test one fold; its number from 1, and its scores."""
    number = recipe.split_seed + 1
    run = train(recipe, cohort, out=out / f"fold-{number}", progress=False)
    scores = evaluate(run, run.unseen(cohort), progress=False)
    scores.insert(0, "fold", number)
    return number, scores
