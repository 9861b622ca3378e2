"""Which scans and slices a run uses for training, validation and test.

:meth:`atlaslib.Cohort.split` makes those by subject or scan. A split by slice, as in the code of
2018, is made here: it has every scan in every part, but each slice in only one.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd

from atlaslib.data.cohort import Cohort
from atlaslib.data.slices import GRID, SliceDataset
from atlaslib.files import DataError
from atlaslib.recipes import Recipe

#: The parts of a split.
TRAIN, VALIDATION, TEST = range(3)
# Shares of the slices. Inverted: training has what a comment in the code gives the dev set.
BY_SLICE = {"slice": (0.7, 0.15, 0.15), "slice inverted": (0.3, 0.35, 0.35)}


def make_folds(cohort: Cohort, count: int, seed: int = 0, by: str = "subject") -> list[Cohort]:
    """As :meth:`atlaslib.Cohort.folds`."""
    if by not in ("subject", "site"):
        raise ValueError(f"folds by 'subject' or 'site', not by {by!r}")
    if not isinstance(count, int | np.integer) or count < 2:
        raise ValueError(f"folds: expected a whole number of at least 2, got {count!r}")
    cohort = cohort.labelled
    table = SliceDataset(cohort, progress=False).table
    # whatever the order of the scans
    volumes = table.groupby(by).lesion_pixels.sum().sort_index()
    if len(volumes) < count:
        text = f"{count} folds need as many {by}s, found {len(volumes)}"
        raise DataError(f"{cohort.root}: {text}")
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
    """The scans of a cohort of whose subjects another one has none."""
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
