"""How a profile's recipes differ from the paper's, and why."""

from __future__ import annotations

import dataclasses

import pandas as pd

from atlaslib.profiles import recipe
from atlaslib.recipes import Recipe

# Why a profile departs from the paper, by field.
_REASONS = {
    "width": "fewer channels: the paper's width needs a GPU",
    "dropout": "so short a run underfits and needs no regularisation",
    "flip": "lesions in one hemisphere also teach about the other: twice the data",
    "window": "no time is spent on background and skin",
    "decay": "a short run ends better if its last steps are small",
    "downsample": "fewer pixels: a quarter of them at 2, a ninth at 3, a sixteenth at 4",
    "lesion_share": "more slices with lesion, so that every step sees some",
    "pos_weight": "lesion pixels weigh more, so that a short run marks lesions sooner",
    "initial_prior": "start from the base rate instead of a random bias",
    "learning_rate": "fewer steps need to be larger",
    "batch_size": "more steps in the same time",
    "micro_batch": "gradient accumulation, for a GPU with less memory",
    "epochs": "the paper does not say how long it trained",
    "patience": "a short run goes to its end; a long one stops once validation stops improving",
}


def departures(chosen: Recipe) -> pd.DataFrame:
    """How a recipe differs from the paper's for the same model: field, paper, here, why."""
    paper = recipe(chosen.model, "paper")
    rows = []
    for field in dataclasses.fields(Recipe):
        there, here = getattr(paper, field.name), getattr(chosen, field.name)
        if there != here and field.name != "profile":
            why = _REASONS.get(field.name, "chosen by the caller")
            rows.append({"field": field.name, "paper": there, "here": here, "why": why})
    return pd.DataFrame(rows, columns=["field", "paper", "here", "why"])
