"""Which scans and slices a run uses for training, validation and test.

:meth:`atlaslib.Cohort.split` makes those by subject or scan. A split by slice, as in the code of
2018, is made here: it has every scan in every part, but each slice in only one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from atlaslib.data.cohort import Cohort
from atlaslib.data.slices import GRID, SliceDataset
from atlaslib.files import DataError, checked, read_bytes, user_path, write_json
from atlaslib.recipes import Recipe

#: The parts of a split.
TRAIN, VALIDATION, TEST = range(3)
# Shares of the slices. Inverted: training has what a comment in the code gives the dev set.
BY_SLICE = {"slice": (0.7, 0.15, 0.15), "slice inverted": (0.3, 0.35, 0.35)}


class SplitNames(TypedDict):
    """The subjects of each part."""

    train: list[str]
    validation: list[str]
    test: list[str]


@dataclass(frozen=True)
class Split:
    """Which subjects are trained on, which choose the weights, and which are tested.

    Parameters
    ----------
    train, validation : sequence of str
        Subjects as the release names them.
    test : sequence of str, optional
        May be empty.

    Raises
    ------
    ValueError
        If a part is no sequence of names, a subject is named twice, or there is none to train on
        or to validate on.
    """

    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str] = ()

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            names = getattr(self, part)
            listed = isinstance(names, Sequence) and not isinstance(names, str)
            if not listed or not all(isinstance(name, str) for name in names):
                raise ValueError(f"split: expected names of subjects in {part}, got {names!r:.60}")
            object.__setattr__(self, part, tuple(names))
        every = [*self.train, *self.validation, *self.test]
        if twice := [name for name in every if every.count(name) > 1]:
            raise ValueError(f"split: subject {twice[0]} is named twice")
        for part in ("train", "validation"):
            if not getattr(self, part):
                raise ValueError(f"split: no subject in {part}")

    @classmethod
    def of(cls, train: Cohort, validation: Cohort, test: Cohort) -> Split:
        """The split into three cohorts, such as those of :meth:`atlaslib.Cohort.split`."""
        return cls(train.subjects, validation.subjects, test.subjects)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a split from JSON, such as :meth:`save` writes; DataError if it is none."""
        path = user_path(path)
        try:
            return cls(**checked(SplitNames, json.loads(read_bytes(path))))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a split ({error})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON: train, validation and test, each a list of subjects."""
        write_json(user_path(path), dataclasses.asdict(self))

    def digest(self) -> str:
        """Twelve hexadecimal digits that change when any part does, whatever the order in it."""
        parts = [sorted(part) for part in (self.train, self.validation, self.test)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def parts(self, cohort: Cohort) -> tuple[Cohort, Cohort, Cohort]:
        """The scans of a cohort for training, validation and test; others are left out.

        Raises
        ------
        DataError
            If the cohort lacks a subject, or one of those to train or validate on has no mask.
        """
        train, validation, test = (
            cohort.only([scan for scan in cohort if scan.subject in set(names)])
            for names in (self.train, self.validation, self.test)
        )
        found = {*train.labelled.subjects, *validation.labelled.subjects, *test.subjects}
        for name in (*self.train, *self.validation, *self.test):
            if name not in found:
                lacking = "mask for" if name in cohort.subjects else "subject"
                raise DataError(f"{cohort.root}: no {lacking} {name}, which the split names")
        return train.labelled, validation.labelled, test


def make_folds(cohort: Cohort, count: int, seed: int = 0, by: str = "subject") -> list[Cohort]:
    """As :meth:`atlaslib.Cohort.folds`."""
    if by not in ("subject", "site"):
        raise ValueError(f"folds by 'subject' or 'site', not by {by!r}")
    if not isinstance(count, int | np.integer) or count < 2:
        raise ValueError(f"folds: expected a whole number of at least 2, got {count!r}")
    cohort = cohort.labelled
    if (found := len({getattr(scan, by) for scan in cohort})) < count:
        raise DataError(f"{cohort.root}: {count} folds need as many {by}s, found {found}")
    table = SliceDataset(cohort, progress=False).table
    # whatever the order of the scans
    volumes = table.groupby(by).lesion_pixels.sum().sort_index()
    by_volume = volumes.sort_values(kind="stable").index
    generator = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for start in range(0, len(by_volume), count):
        block = by_volume[start : start + count]
        fold_of |= dict(zip(block, generator.permutation(count), strict=False))
    return [
        cohort.only([scan for scan in cohort if fold_of[getattr(scan, by)] == fold])
        for fold in range(count)
    ]


def _without(cohort: Cohort, other: Cohort) -> Cohort:
    """The scans of a cohort whose subjects are not in another one."""
    left_out = set(other.subjects)
    return cohort.only([scan for scan in cohort if scan.subject not in left_out])


def split_cohort(cohort: Cohort, recipe: Recipe) -> tuple[Cohort, Cohort, Cohort]:
    """The scans for training, validation and test; by slice, each part has all of them."""
    if recipe.split in BY_SLICE:
        return (cohort.labelled,) * 3
    held_out = recipe.held_out
    if recipe.folds is not None:
        test = make_folds(cohort, recipe.folds)[recipe.split_seed]
        rest = _without(cohort.labelled, test)
        validation = rest.split((1 - 2 * held_out, held_out, held_out))[1]
        return _without(rest, validation), validation, test
    fractions = (1 - 2 * held_out, held_out, held_out)
    return cohort.split(fractions, seed=recipe.split_seed, by=recipe.split)


def slices_of_part(table: pd.DataFrame, recipe: Recipe, part: int) -> np.ndarray:
    """Which rows of ``SliceDataset.table`` belong to a part: all, unless the split is by slice.

    The draw is seeded by the scan's name, so that a slice belongs to the same part whichever
    scans are in the table, and a run is only tested on slices that it has not seen.
    """
    if recipe.split not in BY_SLICE:
        return np.ones(len(table), bool)
    edges = np.cumsum((0, *BY_SLICE[recipe.split]))
    draws = np.concatenate([
        np.random.default_rng([recipe.split_seed, zlib.crc32(f"{subject} {session}".encode())])
        .permutation(GRID[2]) / GRID[2]
        for subject, session in zip(table.subject[:: GRID[2]], table.session[:: GRID[2]],
                                    strict=True)
    ])  # fmt: skip
    return (draws >= edges[part]) & (draws < edges[part + 1])
