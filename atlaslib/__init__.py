"""Stroke lesion segmentation on ATLAS: the library of the executable textbook.

The names below are the public face; they are loaded on first use, so that ``import atlaslib``
does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlaslib.cohort import Cohort, DataError, Scan, home
    from atlaslib.evaluation import evaluate, predict, summary
    from atlaslib.metrics import dice
    from atlaslib.models import build_model
    from atlaslib.pretrained import load_pretrained
    from atlaslib.recipes import Recipe, recipe
    from atlaslib.releases import load_cohort
    from atlaslib.runs import Run, load_run
    from atlaslib.slices import SliceDataset
    from atlaslib.synthetic import make_cohort, open_cohort
    from atlaslib.training import train

_ROOMS = {
    "cohort": ("Cohort", "DataError", "Scan", "home"),
    "releases": ("load_cohort",),
    "synthetic": ("make_cohort", "open_cohort"),
    "slices": ("SliceDataset",),
    "metrics": ("dice",),
    "models": ("build_model",),
    "recipes": ("Recipe", "recipe"),
    "runs": ("Run", "load_run"),
    "pretrained": ("load_pretrained",),
    "evaluation": ("evaluate", "predict", "summary"),
    "training": ("train",),
}
_HOME_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Cohort",
    "DataError",
    "Recipe",
    "Run",
    "Scan",
    "SliceDataset",
    "build_model",
    "dice",
    "evaluate",
    "home",
    "load_cohort",
    "load_pretrained",
    "load_run",
    "make_cohort",
    "open_cohort",
    "predict",
    "recipe",
    "summary",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"atlaslib.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'atlaslib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"atlaslib.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
