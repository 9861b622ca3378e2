"""Which scans and slices a run trains on, chooses its weights by, and is tested on.

By subject nothing more is to say than :meth:`atlaslib.Cohort.split` says. By slice, as the code of
2018 did it, every part holds every scan, and each of its slices belongs to one part.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd

from atlaslib.cohort import Cohort
from atlaslib.recipes import Recipe
from atlaslib.slices import GRID

#: The parts of a split.
TRAIN, VALIDATION, TEST = range(3)
# Shares of the slices. Inverted: what the code's comment calls the dev set's share was trained on.
_BY_SLICE = {"slice": (0.7, 0.15, 0.15), "slice inverted": (0.3, 0.35, 0.35)}


def divide(cohort: Cohort, recipe: Recipe) -> tuple[Cohort, Cohort, Cohort]:
    """The scans for training, validation and test; by slice, all of them three times."""
    if recipe.split in _BY_SLICE:
        return (cohort.labelled,) * 3
    return cohort.split(seed=recipe.split_seed, by=recipe.split)


def own_slices(table: pd.DataFrame, recipe: Recipe, part: int) -> np.ndarray:
    """Which rows of ``SliceDataset.table`` belong to a part: all, unless the split is by slice.

    Drawn from the scan's name, so that a run is tested on the slices that it has not seen however
    the cohort is cut.
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
