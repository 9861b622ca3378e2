"""Intervals of means over trainings and people, and of differences between two networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from atlaslib.evaluation.metrics import bootstrap_mean

FEWEST = 8  # subjects: an interval over fewer says nothing


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    value: float
    low: float
    high: float


class Effect(NamedTuple):
    """A measured quantity with its interval."""

    value: float
    low: float
    high: float
    subjects: int | None = None  # how many were resampled; None: no model was scored
    seeds: int = 1  # trainings of each arm

    def __str__(self) -> str:
        """As tables show it: ``0.120 [0.051, 0.190]``; a single measurement has no interval."""
        if self.subjects is None and self.seeds == 1:
            return f"{self.value:.2f}"
        text = f"{self.value:.3f} [{self.low:.3f},\N{NO-BREAK SPACE}{self.high:.3f}]"
        return text.replace("-0.000", "0.000").replace("-", "\N{MINUS SIGN}")


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    column: str = "dice",
    relative: bool = False,
    level: float = 0.95,
) -> Effect:
    """Mean of first minus second over the same scans, with its interval.

    Parameters
    ----------
    first, second : DataFrame
        From :func:`atlaslib.evaluate` on the same scans; or several such tables, concatenated,
        with a column seed that tells the trainings (or folds) apart and has the same values in
        both.
    column : str
    relative : bool
        As a share of the mean of `second`, which is uncertain, too.
    level : float
        Of confidence.

    Returns
    -------
    Effect
        Without seeds the interval is a bootstrap over subjects; with seeds it is that of
        :func:`mean_interval`. With fewer than eight subjects its bounds are NaN. Scans without a
        score in either table, such as the distance to an empty mask, do not count.

    Raises
    ------
    ValueError
        If the tables do not hold the same scans, or with seeds a score is missing.
    """
    pairs = _paired(first, second, column, relative)
    subjects = int(pairs.subject[pairs.change.notna()].nunique())
    if "seed" not in pairs:
        found = bootstrap_mean(pairs.change, pairs.subject, level=level)
    else:
        found = mean_interval(pairs, "change", level)
    if subjects < FEWEST:
        found = (found[0], float("nan"), float("nan"))
    return Effect(*found, subjects, int(pairs.seed.nunique()) if "seed" in pairs else 1)


def _paired(
    first: pd.DataFrame, second: pd.DataFrame, column: str = "dice", relative: bool = False
) -> pd.DataFrame:
    """The rows of `first` with the column change: first minus second, scan by scan.

    Parameters and errors are those of :func:`compare`.
    """
    keys = ["subject", "session"] + ["seed"] * ("seed" in first)
    pairs = first.merge(second, on=keys, suffixes=("", "_second"), validate="one_to_one")
    if not len(pairs) == len(first) == len(second):
        raise ValueError(f"{len(first)} and {len(second)} scans, of which {len(pairs)} match")
    change = pairs[column] - pairs[f"{column}_second"]
    base = pairs[f"{column}_second"].where(change.notna())
    return pairs.assign(change=_share(change, base) if relative else change)


def _share(change: pd.Series, base: pd.Series) -> pd.Series:
    """Values whose mean is the mean of `change` as a share of the mean of `base`.

    They vary as the ratio does, to first order: where `change` is a fixed share of `base`, not at
    all.
    """
    ratio = change.mean() / base.mean()
    return ratio + (change - ratio * base) / base.mean()


def mean_interval(table: pd.DataFrame, column: str, level: float = 0.95) -> Interval:
    """The mean over seeds and people, with the interval that the design asks for.

    Two scans of a person count as their mean. If every seed tests the same people, seeds and
    people are crossed random effects; if every person is tested with one seed only, the seeds are
    folds.

    Parameters
    ----------
    table : DataFrame
        seed, subject and `column`: one row per scan and seed.
    column : str
    level : float
        Of confidence.

    Raises
    ------
    ValueError
        If the people of the seeds overlap in part, or a value is missing.
    """
    cells = table.groupby(["seed", "subject"])[column].mean().unstack()
    if min(cells.shape) < 2:
        raise ValueError("an interval over seeds and people needs at least two of each")
    if not cells.isna().any(axis=None):
        return crossed(cells.to_numpy(), level)
    if (cells.notna().sum() == 1).all() and table[column].notna().all():
        return folds(cells.mean(axis=1).to_numpy(), level)
    raise ValueError("neither does every seed test all people, nor is every person tested once")


def contrast(
    scans: pd.DataFrame,
    weights: Mapping[str, float],
    column: str = "dice",
    level: float = 0.95,
    relative_to: str | None = None,
) -> Interval:
    """A weighted sum of arms, person by person, over the seeds that all of them have.

    Parameters
    ----------
    scans : DataFrame
        arm, seed, subject and `column`: one row per scan and training.
    weights : mapping from an arm to its weight
        ``{"baseline": 1, "resnet": -1}`` is a difference. A person without a score somewhere, whose
        masks are both empty, is left out everywhere.
    column : str
    level : float
    relative_to : str, optional
        As a share of the mean of this arm, which is uncertain, too.

    Raises
    ------
    ValueError
        If the arms have no seed in common or were tested on different people, or if the table mixes
        known and unseen scanners.
    """
    parts = scans[scans.arm.isin(weights)]
    if "people" in parts and parts.people.nunique() > 1:
        raise ValueError(f"the table mixes {' and '.join(parts.people.unique())} scans")
    scored = parts.groupby(["arm", "seed", "subject"])[column]
    cells, tested = scored.mean().unstack("arm"), scored.size().unstack("arm")
    by_seed = tested.notna().groupby("seed").any().reindex(columns=list(weights), fill_value=False)
    common = tested.index.get_level_values("seed").isin(by_seed.index[by_seed.all(axis=1)])
    cells, tested = cells[common], tested[common]
    if cells.empty:
        raise ValueError(f"no seed has all of the arms {', '.join(weights)}")
    if tested.isna().any(axis=None):
        raise ValueError(f"{', '.join(weights)}: not tested on the same people")
    people = cells.index.get_level_values("subject")
    cells = cells[~people.isin(people[cells.isna().any(axis=1)])]
    total = (cells * pd.Series(weights)).sum(axis=1)
    if relative_to is not None:
        total = _share(total, cells[relative_to])
    return mean_interval(total.rename("value").reset_index(), "value", level)


def crossed(values: NDArray[np.floating], level: float = 0.95) -> Interval:
    """Mean over seeds and people, two crossed random effects; Satterthwaite's degrees of freedom.

    Parameters
    ----------
    values : (seeds, people)
        At least two of either.
    level : float
    """
    seeds, people = values.shape
    mean = values.mean()
    by_seed, by_person = values.mean(1) - mean, values.mean(0) - mean
    rest = values - mean - by_seed[:, None] - by_person
    free = np.array([seeds - 1, people - 1, (seeds - 1) * (people - 1)])
    squares = [people * np.sum(by_seed**2), seeds * np.sum(by_person**2), np.sum(rest**2)]
    of_seeds, of_people, of_rest = squares / free
    # an estimated variance of seeds or of people below zero counts as zero
    parts = np.array([max(of_seeds, of_rest), max(of_people, of_rest), -of_rest])
    total = parts.sum()
    if not total > 0:  # all values are equal
        return Interval(float(mean), float(mean), float(mean))
    half = stats.t.ppf((1 + level) / 2, total**2 / np.sum(parts**2 / free))
    half *= np.sqrt(total / (seeds * people))
    return Interval(float(mean), float(mean - half), float(mean + half))


def folds(means: NDArray[np.floating], level: float = 0.95) -> Interval:
    """Mean of the folds' means by Nadeau and Bengio (2003), who allow for shared training people.

    Parameters
    ----------
    means : (folds,)
    level : float
    """
    count = len(means)
    return _students(means, 1 / count + 1 / (count - 1), level)


def independent(means: NDArray[np.floating], level: float = 0.95) -> Interval:
    """Mean of values that share neither training nor people; Student's interval.

    Parameters
    ----------
    means : (n,)
    level : float
    """
    return _students(means, 1 / len(means), level)


def _students(means: NDArray[np.floating], factor: float, level: float) -> Interval:
    half = stats.t.ppf((1 + level) / 2, len(means) - 1) * np.sqrt(means.var(ddof=1) * factor)
    mean = float(means.mean())
    return Interval(mean, float(mean - half), float(mean + half))
