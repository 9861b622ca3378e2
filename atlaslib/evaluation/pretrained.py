"""Pretrained networks shipped with the library: weights, and a card that describes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from atlaslib.evaluation.predictor import Predictor
from atlaslib.files import DataError, atomic_write, read_bytes, shipped, write_json
from atlaslib.models import MODELS
from atlaslib.networks import new_network
from atlaslib.recipes import Recipe
from atlaslib.runs import Run, check_weights

NOT_FOR = "diagnosis, treatment or any decision about a person"


def publish(run: Run, card: dict[str, Any], folder: Path | None = None) -> Path:
    """Save a run's weights in half precision, with a card: ``NAME.safetensors``, ``NAME.json``.

    Parameters
    ----------
    run : Run
    card : dict
        What users should know about the network: its data, its scores. To this are added what it
        is, what it must not be used for, the run's provenance, its recipe and the digest of the
        weights.
    folder : path, optional
        None: ``data/weights`` in the repository.

    Returns
    -------
    Path
        Of the weights; NAME is that of the recipe's model.

    Raises
    ------
    ValueError
        If a weight is too large for half precision; nothing is written.
    """
    folder = shipped("weights") if folder is None else folder
    name = run.recipe.model
    halved = {}
    for key, value in run.model().state_dict().items():
        halved[key] = value.half().contiguous() if value.is_floating_point() else value
        if (halved[key].isinf() & value.isfinite()).any():
            raise ValueError(f"{name}: {key} is too large for half precision")
    weights = save(halved)
    atomic_write(folder / f"{name}.safetensors", lambda target: Path(target).write_bytes(weights))
    kept = ("source", "cohort", "engine", "profile", "device", "packages")
    made = {
        "what": f"{name} of this book: lesion logits of one axial slice at a time",
        "must not be used for": NOT_FOR,
        **card,
        "trained on": {name: run.provenance[name] for name in kept},
        "subjects": {part: len(names) for part, names in run.provenance["split"].items()},
        "recipe": dataclasses.asdict(run.recipe),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_json(folder / f"{name}.json", made)
    return folder / f"{name}.safetensors"


def pretrained_names(folder: Path | None = None) -> list[str]:
    """The networks shipped with the library, in the order of ``MODELS``."""
    folder = shipped("weights") if folder is None else folder
    order = list(MODELS)
    names = sorted(file.stem for file in folder.glob("*.safetensors"))
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def model_card(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The card of a network shipped with the library.

    Raises
    ------
    DataError
        If there is no such network, or its card is missing or not a card.
    """
    folder = shipped("weights") if folder is None else folder
    there = pretrained_names(folder)
    if name not in there:
        found = ", ".join(there) or "none"
        raise DataError(f"no pretrained network {name!a:.60}; found {found}", "missing")
    path = folder / f"{name}.json"
    try:
        card = json.loads(read_bytes(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a model card ({error})", "damaged") from None
    if not isinstance(card, dict) or not {"recipe", "sha256"} <= card.keys():
        raise DataError(f"{path}: not a model card: no recipe, or no digest", "damaged")
    return card


def load_pretrained(name: str, folder: Path | None = None) -> Predictor:
    """Load a network shipped with the library, for :func:`predict` and :func:`evaluate`.

    Parameters
    ----------
    name : str
        Such as "residual_unet". An unknown one raises an error that lists those that there are.
    folder : path, optional
        Folder of the weights and cards. None: those shipped with the library.

    Returns
    -------
    Predictor
        The network in evaluation mode, as float32 on the CPU, with the recipe of its card.

    Raises
    ------
    DataError
        If there is no such network, or its card or its weights are damaged.
    """
    folder = shipped("weights") if folder is None else folder
    card, path = model_card(name, folder), folder / f"{name}.safetensors"
    content = read_bytes(path)
    digest = hashlib.sha256(content).hexdigest()
    try:
        if digest != card["sha256"]:
            raise ValueError("SHA-256 differs")
        recipe = Recipe(**card["recipe"])
        network = new_network(recipe)
        weights = {
            key: value.float() if value.dtype == torch.float16 else value
            for key, value in load(content).items()
        }
        check_weights(weights, network)
        network.load_state_dict(weights)
    except (ValueError, TypeError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path}: does not match its card ({error})", "damaged") from None
    return Predictor(network.eval(), recipe, digest)
