"""Which scans and slices a run uses for training, validation and test.

:meth:`atlaslib.Cohort.split` makes those by subject or scan. A split by slice, as in the code of
2018, is made here: it has every scan in every part, but each slice in only one.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd

from atlaslib.data.cohort import Cohort
from atlaslib.data.slices import GRID
from atlaslib.recipes import Recipe

#: The parts of a split.
TRAIN, VALIDATION, TEST = range(3)
# Shares of the slices. Inverted: training has what a comment in the code gives the dev set.
_BY_SLICE = {"slice": (0.7, 0.15, 0.15), "slice inverted": (0.3, 0.35, 0.35)}


def split_cohort(cohort: Cohort, recipe: Recipe) -> tuple[Cohort, Cohort, Cohort]:
    """The scans for training, validation and test; by slice, each part has all of them."""
    if recipe.split in _BY_SLICE:
        return (cohort.labelled,) * 3
    held_out = recipe.held_out
    fractions = (1 - 2 * held_out, held_out, held_out)
    return cohort.split(fractions, seed=recipe.split_seed, by=recipe.split)


def slices_of_part(table: pd.DataFrame, recipe: Recipe, part: int) -> np.ndarray:
    """Which rows of ``SliceDataset.table`` belong to a part: all, unless the split is by slice.

    The draw is seeded by the scan's name, so that a slice belongs to the same part whichever
    scans are in the table, and a run is only tested on slices that it has not seen.
    """
    if recipe.split not in _BY_SLICE:
        return np.ones(len(table), bool)
    edges = np.cumsum((0, *_BY_SLICE[recipe.split]))
    draws = np.concatenate([
        np.random.default_rng([recipe.split_seed, zlib.crc32(f"{subject} {session}".encode())])
        .permutation(GRID[2]) / GRID[2]
        for subject, session in zip(table.subject[:: GRID[2]], table.session[:: GRID[2]],
                                    strict=True)
    ])  # fmt: skip
    return (draws >= edges[part]) & (draws < edges[part + 1])
