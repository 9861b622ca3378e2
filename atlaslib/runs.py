"""A run's folder: recipe, history, weights and provenance, and finding a finished run again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from atlaslib.cohort import Cohort, DataError, home, source_fingerprint, write_aside
from atlaslib.models import build_model
from atlaslib.recipes import Recipe

# The modules whose code decides what weights a run ends with. Runs made by other code are other
# runs: a corrected model must not find the numbers of the faulty one.
_CODE = (
    "volumes.py",
    "slices.py",
    "splits.py",
    "batches.py",
    "augment.py",
    "steps.py",
    "state.py",
    "training.py",
    "evaluation.py",
    "metrics.py",
    "models",
)


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder.

    Attributes
    ----------
    folder : Path
    recipe : Recipe
    history : pandas.DataFrame
        One row per epoch: epoch, loss, validation_loss, validation_cross_entropy,
        validation_dice, seconds.
    provenance : dict
        Device, seconds, peak_memory_mb, packages, code, cohort and its source, and the subjects
        of each part of the split.
    """

    folder: Path
    recipe: Recipe
    history: pd.DataFrame
    provenance: dict[str, Any]
    custom: nn.Module | None = None  # the user's own module, which no name can build

    def model(self) -> nn.Module:
        """The trained model, in evaluation mode, on the CPU."""
        model = self.custom
        if model is None:
            model = build_model(self.recipe.model, **self.recipe.model_options())
        path = self.folder / "weights.safetensors"
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise DataError(f"{path}: not the weights of this run's model ({error})") from None
        return model.cpu().eval()

    def unseen(self, cohort: Cohort) -> Cohort:
        """The scans of subjects that were neither trained on nor used to choose the weights.

        Raises
        ------
        DataError
            If none is left.
        """
        seen = {*self.provenance["split"]["train"], *self.provenance["split"]["validation"]}
        left = [scan for scan in cohort.labelled if scan.subject not in seen]
        if not left:
            raise DataError(f"{cohort.root}: this run was trained on all of its subjects")
        return cohort.only(left)


def load_run(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Run:
    """Read a finished run.

    Parameters
    ----------
    folder : path
    model : torch.nn.Module, optional
        Needed for a run that trained your own module.

    Raises
    ------
    DataError
        If the folder is missing, unfinished or damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.json").is_file():
        raise DataError(f"{folder}: not a run; expected recipe.json in it")
    if not (folder / "provenance.json").is_file():
        raise DataError(f"{folder}: this run is not finished; train it again and it goes on")
    try:
        chosen = Recipe(**json.loads((folder / "recipe.json").read_text()))
        provenance = json.loads((folder / "provenance.json").read_text())
        history = pd.read_csv(folder / "history.csv")
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"{folder}: damaged run ({error})") from None
    if not isinstance(provenance, dict):
        raise DataError(f"{folder}: damaged run (provenance.json holds no object)")
    return Run(folder, chosen, history, provenance, model)


def run_folder(recipe: Recipe, cohort: Cohort, model: nn.Module | None = None) -> Path:
    """Where the run of this recipe on this cohort is kept when no other folder is named."""
    key = experiment_key(recipe, cohort, model)
    return home() / "runs" / f"{recipe.model}-{recipe.profile}-{key}"


def experiment_key(recipe: Recipe, cohort: Cohort, model: nn.Module | None = None) -> str:
    """Twelve hexadecimal digits of recipe, data, code and, if there is one, the user's module."""
    parts = [recipe.fingerprint(), cohort.fingerprint(), code_fingerprint()]
    if model is not None:
        parts.append(repr(model))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def code_fingerprint() -> str:
    """Twelve hexadecimal digits of the code that computes weights; comments do not count."""
    return source_fingerprint(*_CODE)


def packages() -> dict[str, str]:
    """Versions of what computes, for provenance."""
    found = {"python": platform.python_version()}
    for name in ("atlaslib", "torch", "numpy", "nibabel", "nilearn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from source"
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON aside and rename."""
    text = json.dumps(content, indent=2) + "\n"
    write_aside(path, lambda name: Path(name).write_text(text))


def start(folder: Path, recipe: Recipe, key: str) -> None:
    """Make a run's folder, or make sure that an existing one is of the same experiment.

    Raises
    ------
    DataError
        If the folder holds another experiment or anything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "experiment.txt"
    if mark.is_file():
        if mark.read_text().strip() != key:
            raise DataError(
                f"{folder}: holds a run of another recipe, cohort or version of the code"
            )
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise DataError(f"{folder}: is not empty and holds no run; choose another folder")
    # the mark first: a process killed here must not leave a folder that is refused from then on
    write_aside(mark, lambda name: Path(name).write_text(key + "\n"))
    if not (folder / "recipe.json").is_file():
        write_json(folder / "recipe.json", dataclasses.asdict(recipe))
