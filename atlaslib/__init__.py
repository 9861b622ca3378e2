"""Stroke lesion segmentation on ATLAS: the library of the executable textbook.

The names below are the public API; they are imported on first use, so that ``import atlaslib``
does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlaslib.data.cohort import Cohort, Scan
    from atlaslib.data.releases import load_cohort
    from atlaslib.data.slices import SliceDataset
    from atlaslib.data.splits import Split
    from atlaslib.evaluation.intervals import compare
    from atlaslib.evaluation.masks import evaluate_masks
    from atlaslib.evaluation.metrics import dice
    from atlaslib.evaluation.prediction import predict
    from atlaslib.evaluation.predictor import Predictor
    from atlaslib.evaluation.pretrained import load_pretrained
    from atlaslib.evaluation.scoring import evaluate, summary
    from atlaslib.files import DataError, home
    from atlaslib.models import build_model
    from atlaslib.profiles import recipe
    from atlaslib.recipes import Recipe
    from atlaslib.runs import Run, load_run
    from atlaslib.synthetic.cohort import make_cohort, open_cohort
    from atlaslib.training.loop import train

_PUBLIC = {
    "data.cohort": ("Cohort", "Scan"),
    "data.releases": ("load_cohort",),
    "data.slices": ("SliceDataset",),
    "data.splits": ("Split",),
    "evaluation.intervals": ("compare",),
    "evaluation.masks": ("evaluate_masks",),
    "evaluation.metrics": ("dice",),
    "evaluation.prediction": ("predict",),
    "evaluation.predictor": ("Predictor",),
    "evaluation.pretrained": ("load_pretrained",),
    "evaluation.scoring": ("evaluate", "summary"),
    "files": ("DataError", "home"),
    "models": ("build_model",),
    "profiles": ("recipe",),
    "recipes": ("Recipe",),
    "runs": ("Run", "load_run"),
    "synthetic.cohort": ("make_cohort", "open_cohort"),
    "training.loop": ("train",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "Cohort",
    "DataError",
    "Predictor",
    "Recipe",
    "Run",
    "Scan",
    "SliceDataset",
    "Split",
    "build_model",
    "compare",
    "dice",
    "evaluate",
    "evaluate_masks",
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
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'atlaslib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"atlaslib.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
