"""Pretrained networks shipped with the library: weights, and a card that describes them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from atlaslib.files import DataError, atomic_write, shipped, write_json
from atlaslib.models import build_model
from atlaslib.recipes import Recipe
from atlaslib.runs import Run, check_weights


def publish(run: Run, table: pd.DataFrame, folder: Path | None = None) -> Path:
    """Save a run's weights in half precision, with a card: ``NAME.safetensors``, ``NAME.json``.

    Parameters
    ----------
    run : Run
    table : DataFrame
        One row of :func:`atlaslib.summary`: the network's scores on its test subjects.
    folder : path, optional
        None: ``data/weights`` in the repository.
    """
    folder = shipped("weights") if folder is None else folder
    name = run.recipe.model
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in run.model().state_dict().items()
    }
    atomic_write(folder / f"{name}.safetensors", lambda target: save_file(weights, target))
    kept = ("source", "cohort", "engine", "profile", "device", "packages")
    card = {
        "what": f"{run.recipe.model} of this book: lesion logits of one axial slice at a time",
        "trained on": {name: run.provenance[name] for name in kept},
        "subjects": {part: len(names) for part, names in run.provenance["split"].items()},
        "test": table.iloc[0].to_dict(),
        "must not be used for": "diagnosis, treatment or any decision about a person",
        "recipe": dataclasses.asdict(run.recipe),
    }
    write_json(folder / f"{name}.json", card)
    return folder / f"{name}.safetensors"


def load_pretrained(name: str, folder: Path | None = None) -> nn.Module:
    """Load a network shipped with the library, in evaluation mode, as float32 on the CPU.

    Parameters
    ----------
    name : {"baseline"}
    folder : path, optional
        Folder of the weights and cards. None: those shipped with the library.

    Raises
    ------
    DataError
        If there are no such weights, or they are damaged.
    """
    folder = shipped("weights") if folder is None else folder
    card, path = folder / f"{name}.json", folder / f"{name}.safetensors"
    if not (card.is_file() and path.is_file()):
        there = sorted(file.stem for file in folder.glob("*.safetensors"))
        found = ", ".join(there) or "none: a run at full scale makes them"
        raise DataError(f"{path}: no such weights; found {found}", "missing")
    try:
        chosen = Recipe(**json.loads(card.read_text())["recipe"])
        model = build_model(chosen.model, **chosen.model_options())
        weights = {
            key: value.float() if value.dtype == torch.float16 else value
            for key, value in load_file(path).items()
        }
        check_weights(weights, model)
        model.load_state_dict(weights)
    except (ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path}: does not match its card ({error})", "damaged") from None
    return model.eval()
