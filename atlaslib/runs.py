"""A run's folder (recipe, history, weights, provenance), and finding a finished run again."""

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

from atlaslib.data.cohort import Cohort
from atlaslib.files import DataError, atomic_write, home, write_json
from atlaslib.models import build_model
from atlaslib.recipes import Recipe

#: The engine version. Raise it when a change to training or scoring alters the numbers of a run:
#: runs of other versions are not reused, and tables made from them are reported as out of date.
ENGINE = 1


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
        Device, seconds, peak_memory_mb, packages, engine version, cohort and its source, the
        subjects of each part of the split, and more.
    """

    folder: Path
    recipe: Recipe
    history: pd.DataFrame
    provenance: dict[str, Any]
    custom: nn.Module | None = None  # the user's own module, which the recipe cannot build

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
        """The scans of subjects that were used neither for training nor to choose the weights.

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
        Your own module, if the run trained one.

    Raises
    ------
    DataError
        If the folder is missing, unfinished or damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.json").is_file():
        raise DataError(f"{folder}: not a run; it has no recipe.json")
    if not (folder / "provenance.json").is_file():
        raise DataError(f"{folder}: this run is not finished; train it again to resume it")
    try:
        chosen = Recipe(**json.loads((folder / "recipe.json").read_text()))
        provenance = json.loads((folder / "provenance.json").read_text())
        history = pd.read_csv(folder / "history.csv")
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"{folder}: damaged run ({error})") from None
    if not isinstance(provenance, dict):
        raise DataError(f"{folder}: damaged run (provenance.json is not a JSON object)")
    return Run(folder, chosen, history, provenance, model)


def run_folder(recipe: Recipe, cohort: Cohort, model: nn.Module | None = None) -> Path:
    """The default folder for the run of this recipe on this cohort."""
    key = experiment_key(recipe, cohort, model)
    return home() / "runs" / f"{recipe.model}-{recipe.profile}-{key}"


def experiment_key(recipe: Recipe, cohort: Cohort, model: nn.Module | None = None) -> str:
    """Hash of recipe, cohort, engine version and the user's module, if any: 12 hex digits."""
    parts = [recipe.key(), cohort.fingerprint(), f"engine {ENGINE}"]
    if model is not None:
        parts.append(repr(model))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers, for provenance."""
    found = {"python": platform.python_version()}
    for name in ("atlaslib", "torch", "numpy", "nibabel", "nilearn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from source"
    return found


def create_run_folder(folder: Path, recipe: Recipe, key: str) -> None:
    """Create a run's folder, or check that an existing one belongs to the same experiment.

    Raises
    ------
    DataError
        If the folder holds another experiment, or other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key_file = folder / "experiment.txt"
    if key_file.is_file():
        if key_file.read_text().strip() != key:
            raise DataError(f"{folder}: contains a run of another recipe, cohort or engine version")
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise DataError(f"{folder}: is not empty and contains no run; choose another folder")
    # the key comes first: a process killed here must not leave a folder that is refused forever
    atomic_write(key_file, lambda name: Path(name).write_text(key + "\n"))
    if not (folder / "recipe.json").is_file():
        write_json(folder / "recipe.json", dataclasses.asdict(recipe))
