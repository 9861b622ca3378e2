"""The folder of a run: its recipe, history, weights and provenance, and finding finished runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from typing_extensions import TypedDict

from atlaslib.data.cohort import Cohort
from atlaslib.data.splits import SplitNames
from atlaslib.files import (
    DataError,
    atomic_write,
    checked,
    home,
    make_folder,
    read_bytes,
    user_path,
    write_json,
)
from atlaslib.networks import CustomModel, new_network, signature
from atlaslib.recipes import Recipe

#: The engine version. Raise it when a change to training or scoring alters the numbers of a run:
#: runs of other versions are not reused, and tables made from them are reported as out of date.
ENGINE = 2

#: The columns of a history.
COLUMNS = ("epoch", "loss", "validation_loss", "validation_cross_entropy", "validation_dice",
           "seconds")  # fmt: skip
_SEALED = ("experiment.txt", "recipe.json", "history.csv", "weights.safetensors", "provenance.json")
CHECKPOINT, PREVIOUS_CHECKPOINT = "checkpoint.pt", "checkpoint.previous.pt"
_SEAL = "SHA256SUMS"  # written last, in the format of sha256sum: a folder that has it is finished


class Provenance(TypedDict):
    """Where a run's numbers come from."""

    source: str
    cohort: str
    engine: int
    profile: str
    custom: str  # what is the user's own, in words
    parameters: int
    device: str
    processes: int
    threads: int
    peak_memory_mb: float
    seconds: float
    ended: NotRequired[str]  # absent from runs made early in engine 2
    packages: dict[str, str]
    split: SplitNames
    signature: list[float]  # of logits of fixed noise


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
        source and fingerprint of the cohort; engine version; profile; custom (what is the user's
        own, such as "model, loss focal", else ""); parameters; device; processes; threads of each
        process (sums over another number are rounded differently); peak_memory_mb; seconds; ended
        (why no further epoch was trained: "epochs", "patience", "max_minutes"); packages; the
        subjects of each part of the split; signature (mean and standard deviation of the logits of
        fixed noise).
    digest : str
        SHA-256 of the weights, when the run was read.
    custom : torch.nn.Module or function that makes one, optional
        The user's own network, if the run trained one; only its structure is used.
    """

    folder: Path
    recipe: Recipe
    history: pd.DataFrame
    provenance: dict[str, Any]
    digest: str
    custom: CustomModel | None = None

    def model(self) -> nn.Module:
        """The trained model, in evaluation mode, on the CPU."""
        model = new_network(self.recipe, self.custom).cpu()
        path = self.folder / "weights.safetensors"
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise DataError(f"{path}: changed since the run was read")
        try:
            weights = load(content)
            check_weights(weights, model)
            model.load_state_dict(weights)
            if self.custom is not None:
                found = signature(model, self.recipe)
                if not np.allclose(found, self.provenance["signature"], rtol=1e-2, atol=1e-3):
                    raise ValueError("with them, it computes other logits than when it was trained")
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise DataError(f"{path}: not the weights of this run's model ({error})") from None
        return model.eval()

    def unseen(self, cohort: Cohort) -> Cohort:
        """The scans of subjects that were used neither for training nor to choose the weights.

        Raises
        ------
        DataError
            If none is left.
        """
        if not cohort.labelled:
            raise DataError(f"{cohort.root}: its scans have no lesion masks to compare with")
        seen = {*self.provenance["split"]["train"], *self.provenance["split"]["validation"]}
        left = [scan for scan in cohort.labelled if scan.subject not in seen]
        if not left:
            raise DataError(f"{cohort.root}: this run was trained on all of its subjects")
        return cohort.only(left)


def check_weights(weights: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """ValueError unless weights have the names, shapes and types of a model and are finite."""
    expected = model.state_dict()
    if odd := sorted(weights.keys() ^ expected.keys()):
        raise ValueError(f"{len(odd)} names differ, {odd[0]!r} among them")
    for name, value in weights.items():
        found, wanted = ((tuple(t.shape), t.dtype) for t in (value, expected[name]))
        if found != wanted:
            raise ValueError(f"{name}: expected {wanted}, found {found}")
        # a buffer of the network may hold infinite constants
        if not (torch.isfinite(value) | (value == expected[name])).all():
            raise ValueError(f"{name}: NaN or infinite")


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / _SEAL).is_file()


def seal(folder: Path) -> None:
    """Mark a run as finished, with a digest of each of its files."""
    text = "".join(_lines(_digests(folder)))
    atomic_write(folder / _SEAL, lambda name: Path(name).write_bytes(text.encode()))


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a run."""
    return {name: hashlib.sha256(read_bytes(folder / name)).hexdigest() for name in _SEALED}


def _lines(digests: Mapping[str, str]) -> list[str]:
    """Digests as sha256sum writes them."""
    return [f"{digest}  {name}\n" for name, digest in digests.items()]


def _check_seal(folder: Path) -> dict[str, str]:
    """The digests of a run's files; :class:`DataError` if one was changed since training."""
    sealed = read_bytes(folder / _SEAL).decode(errors="replace")
    digests = _digests(folder)
    lines = _lines(digests)
    if not any(line in sealed for line in lines):
        raise DataError(f"{folder / _SEAL}: damaged; train the run again")
    for name, line in zip(digests, lines, strict=True):
        if line not in sealed:
            raise DataError(
                f"{folder / name}: changed since the run was finished (SHA-256 differs)"
            )
    if sealed != "".join(lines):
        raise DataError(f"{folder / _SEAL}: damaged; train the run again")
    return digests


def load_run(folder: str | os.PathLike[str], model: CustomModel | None = None) -> Run:
    """Read a finished run.

    Parameters
    ----------
    folder : path
    model : torch.nn.Module or function that makes one, optional
        Your own, if the run trained one. It stays as it is: a copy gets the weights.

    Returns
    -------
    Run

    Raises
    ------
    DataError
        If the folder is missing, unfinished or damaged, or a file in it is no longer the one that
        training wrote.
    """
    folder = user_path(folder)
    if not (folder / "recipe.json").is_file():
        raise DataError(f"{folder}: not a run; it has no recipe.json")
    if not is_finished(folder):
        raise DataError(f"{folder}: this run is not finished; train it again to resume it")
    digests = _check_seal(folder)
    recipe = read_recipe(folder)
    try:
        provenance = checked(Provenance, json.loads((folder / "provenance.json").read_text()))
        history = pd.read_csv(folder / "history.csv")
        if list(history) != list(COLUMNS):
            raise ValueError(f"history.csv has the columns {', '.join(map(str, history))}")
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: damaged run ({error})") from None
    custom = provenance["custom"]
    key = _key(recipe, provenance["cohort"], provenance["engine"], custom)
    if (folder / "experiment.txt").read_text().strip() != key:
        raise DataError(f"{folder}: its recipe and provenance are not those of its experiment.txt")
    own = custom.split(", ")[0] == "model"
    if own != (model is not None):
        trained = "a network of your own" if own else f"the model {recipe.model!r}"
        text = "load_run(folder, model) reads it" if own else "load_run(folder) reads it"
        raise DataError(f"{folder}: trained {trained}; {text}")
    return Run(folder, recipe, history, dict(provenance), digests["weights.safetensors"], model)


def read_recipe(folder: Path) -> Recipe:
    """The recipe in a run's folder, checked."""
    path = folder / "recipe.json"
    try:
        return Recipe(**json.loads(read_bytes(path)))
    except (ValueError, TypeError, RecursionError) as error:
        text = str(error).replace("Recipe.__init__() ", "")
        raise DataError(f"{path}: not a recipe of this version ({text})") from None


def run_folder(recipe: Recipe, cohort: Cohort) -> Path:
    """The default folder for the run of this recipe on this cohort."""
    key = experiment_key(recipe, cohort)
    return home() / "runs" / f"{recipe.model}-{recipe.profile}-{key}"


def experiment_key(recipe: Recipe, cohort: Cohort, custom: str = "") -> str:
    """Hash of recipe, cohort, engine version and custom: 12 hexadecimal digits."""
    return _key(recipe, cohort.fingerprint(), ENGINE, custom)


def _key(recipe: Recipe, cohort: str, engine: int, custom: str) -> str:
    parts = [recipe.key(), cohort, f"engine {engine}", *([f"custom {custom}"] if custom else [])]
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


def write_identity(folder: Path, recipe: Recipe, key: str) -> None:
    """Write the files that tell which experiment a folder belongs to.

    The key comes first, because a folder without it is refused: the process may be killed here.
    """
    line = f"{key}\n".encode()  # bytes, because Windows would change the end of a line of text
    atomic_write(folder / "experiment.txt", lambda name: Path(name).write_bytes(line))
    write_json(folder / "recipe.json", dataclasses.asdict(recipe))


def create_run_folder(folder: Path, recipe: Recipe, key: str) -> None:
    """Create a run's folder, or check that an existing one belongs to the same experiment.

    Raises
    ------
    DataError
        If the folder holds another experiment, an edited one, or other files.
    """
    if not is_finished(folder):  # a finished one may be read from where nothing can be written
        make_folder(folder)
    for name in (*_SEALED, _SEAL, CHECKPOINT, PREVIOUS_CHECKPOINT):
        if (folder / name).is_dir():
            raise DataError(f"{folder / name}: is a folder; expected a file of a run")
    key_file = folder / "experiment.txt"
    if key_file.is_file():
        if read_bytes(key_file).decode(errors="replace").strip() != key:
            text = "contains a run of another recipe, cohort or engine version, or with other parts"
            raise DataError(f"{folder}: {text} of your own: choose another folder, or delete it")
    elif (folder / "recipe.json").is_file():
        text = f"is missing; the run can be resumed if it is of this recipe and cohort: write {key}"
        raise DataError(f"{key_file}: {text} into it", "missing")
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise DataError(f"{folder}: is not empty and contains no run; choose another folder")
    if not (folder / "recipe.json").is_file():
        write_identity(folder, recipe, key)
    elif read_recipe(folder).key() != recipe.key():
        raise DataError(f"{folder / 'recipe.json'}: it is not the recipe of this run")
    over = (folder / "provenance.json").is_file() and not (folder / CHECKPOINT).is_file()
    if over and not is_finished(folder):
        text = "was trained to its end, but its SHA256SUMS is missing; choose another folder"
        raise DataError(f"{folder}: {text}")
