"""An experiment as plain values: the paper's, and the smaller ones of the profiles."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from dataclasses import dataclass

import pandas as pd

PROFILES = ("smoke", "quick", "paper")
Value = int | float | str | bool | None  # of a recipe's field


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes, apart from the data."""

    model: str  # a name of atlaslib.models.MODELS, or one for your own
    profile: str = "paper"  # where the values come from: smoke, quick or paper
    seed: int = 0  # weights, order of slices, dropout; our choice, the paper names none

    # the model; None: the model's own default, which is the paper's
    width: int | None = None  # channels of the first convolution
    dropout: float | None = None  # baseline: share of activations dropped (section 4.1)
    unit: str | None = None  # resnet: "paper" (section 5.2) or "tensorflow"
    units: int | None = None  # resnet: residual units in all (section 5.2)
    groups: int | None = None  # resnet: groups of equal width; our reading of "20 units"
    fourth_stride: int | None = None  # resnet: stride of the fourth group; our reading
    vector: int | None = None  # resnet: numbers in the last encoder layer (section 5.2)
    decoder: str | None = None  # "unet", "unet without skips", "map" or "vector"
    map_width: int | None = None  # baseline with decoder "map" or "vector": channels of the map
    normalise: bool | None = None  # baseline: batch normalisation in the encoder
    levels: int | None = None  # residual_unet, dynunet: sizes, each half the one before

    # the data
    split: str = "subject"  # or "scan", "slice", "slice inverted"; the code split by slice
    split_seed: int = 0  # of the split; our choice, the paper names none
    window: bool = False  # the model sees only the 184 x 152 pixels around the brain
    downsample: int = 1  # the model sees slices of 1/downsample the rows and columns
    flip: bool = False  # mirror half of the training slices left to right; our choice
    augment: bool = False  # vary contrast, bias field, noise and geometry while training
    neighbours: int = 0  # residual_unet, dynunet: further slices on either side, 3 mm apart
    average_mirrored: bool = False  # segment a slice and its mirror image, and average
    lesion_share: float | None = None  # share of slices with lesion; None: all slices, as they are

    # the loss and its optimiser
    loss: str = "cross entropy"  # or "dice", or "dice + cross entropy" (section 4)
    pos_weight: float = (
        1.0  # of lesion pixels in the cross entropy (1 in section 4, 100 in the code)
    )
    initial_prior: bool = False  # start the final bias at the base rate of lesion; our choice
    learning_rate: float = 0.001  # of Adam (sections 4.1, 5.3)
    decay: bool = False  # let the learning rate fall linearly to 0 over the run; our choice
    batch_size: int = 100  # slices a step (sections 4.1, 5.3)
    micro_batch: int | None = None  # slices at once, if memory is short: their gradients add up
    clip_norm: float = 5.0  # largest gradient norm (code)
    epochs: int = 40  # passes over the training slices; our choice, the paper names none
    patience: int | None = None  # stop after so many epochs without a better validation; our choice

    def model_options(self) -> dict[str, int | float | str | tuple[int, int]]:
        """The options of :func:`atlaslib.build_model` that this recipe sets."""
        names = ("width", "dropout", "unit", "units", "groups", "fourth_stride", "vector",
                 "decoder", "map_width", "normalise", "levels")  # fmt: skip
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.model == "resnet" or self.decoder == "vector":
            chosen["size"] = self.input_size()
        if self.neighbours:
            chosen["channels"] = 1 + 2 * self.neighbours
        return chosen

    def field_of_view(self) -> tuple[int, int]:
        """Rows and columns, in pixels of 1 mm, of the part of a slice that the model sees."""
        return (184, 152) if self.window else (232, 196)

    def input_size(self) -> tuple[int, int]:
        """Rows and columns that the model sees, padded to multiples of 4: 232 x 196 in full."""
        multiple = 4 * self.downsample
        rows, columns = (-(-n // multiple) * 4 for n in self.field_of_view())
        return rows, columns

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any field but the profile's name."""
        fields = dataclasses.asdict(dataclasses.replace(self, profile=""))
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


_QUICK: dict[str, Value] = {
    # At full resolution and the paper's widths one epoch would take hours on two cores.
    "window": True,
    "downsample": 3,
    "flip": True,
    # Plain cross entropy on all slices stops at "no lesion anywhere" (chapter 2 shows it).
    "lesion_share": 0.75,
    "pos_weight": 5.0,
    "initial_prior": True,
    # Smaller batches: more steps in the same minutes.
    "batch_size": 8,
    "learning_rate": 0.002,
    "decay": True,
    "epochs": 6,
}
_SMOKE: dict[str, Value] = _QUICK | {"downsample": 4, "epochs": 2}

_TODAY: dict[str, Value] = {
    "loss": "dice + cross entropy",
    "pos_weight": 1.0,
    "initial_prior": True,
    "flip": True,
    "augment": True,
    "neighbours": 1,
    "average_mirrored": True,
    "lesion_share": 0.75,
    "decay": True,
}
_TODAY_QUICK: dict[str, Value] = {
    "width": 5, "levels": 4, "batch_size": 4, "learning_rate": 0.0025, "pos_weight": 5.0,
}  # fmt: skip

_RECIPES: dict[tuple[str, str], dict[str, Value]] = {
    ("baseline", "paper"): {"patience": 5},
    # without dropout: so short a run underfits, and has nothing to hold back
    ("baseline", "quick"): _QUICK | {"width": 16, "dropout": 0.0},
    ("baseline", "smoke"): _SMOKE | {"width": 4},
    ("resnet", "paper"): {"patience": 5, "learning_rate": 0.0001, "batch_size": 50},
    # an epoch takes twice the baseline's time: half as many cost about as much
    ("resnet", "quick"): _QUICK | {"width": 8, "epochs": 3},
    ("resnet", "smoke"): _SMOKE | {"width": 2},
    # our own, not the paper's: what one would build today
    ("residual_unet", "paper"): _TODAY | {"width": 8, "levels": 5, "batch_size": 50},
    ("residual_unet", "quick"): _QUICK | _TODAY | _TODAY_QUICK,
    ("residual_unet", "smoke"): _SMOKE | _TODAY | {"width": 4, "levels": 3},
    # MONAI's network in its place
    ("dynunet", "paper"): _TODAY | {"width": 8, "levels": 5, "batch_size": 50},
    ("dynunet", "quick"): _QUICK | _TODAY | _TODAY_QUICK,
    ("dynunet", "smoke"): _SMOKE | _TODAY | {"width": 4, "levels": 3},
    # nothing to learn but the base rate, which is counted over all slices
    ("zero", "paper"): {"initial_prior": True, "epochs": 0},
    ("zero", "quick"): {"pos_weight": _QUICK["pos_weight"], "initial_prior": True, "epochs": 0},
    ("zero", "smoke"): {"pos_weight": _SMOKE["pos_weight"], "initial_prior": True, "epochs": 0},
}

# What shortens a run of a profile where many are compared (chapters 4, 7 and 8).
SHORT: dict[str, dict[str, Value]] = {
    "smoke": {"epochs": 1},
    "quick": {"epochs": 1, "downsample": 4},
    "paper": {"epochs": 10, "patience": None},
}


def recipe(name: str, profile: str = "quick", **changes: Value) -> Recipe:
    """The recipe of a model at a profile.

    Parameters
    ----------
    name : {"baseline", "resnet", "zero", "residual_unet", "dynunet"}
    profile : {"smoke", "quick", "paper"}
    **changes
        Fields of :class:`Recipe` to set otherwise, for example ``learning_rate=0.01``.

    Raises
    ------
    ValueError
        If there is no such model, profile or field, or a value is of another type.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; there are {', '.join(PROFILES)}")
    if (name, profile) not in _RECIPES:
        known = ", ".join(model for model, at in _RECIPES if at == profile)
        raise ValueError(f"no recipe {name!r}; there are {known}")
    made = Recipe(model=name, profile=profile, **_RECIPES[name, profile])  # type: ignore[arg-type]
    return dataclasses.replace(made, **{k: _checked(k, v) for k, v in changes.items()})  # type: ignore[arg-type]


_WHOLE = {"seed", "split_seed", "downsample", "batch_size", "epochs", "width", "units", "groups"}
_WHOLE |= {
    "fourth_stride",
    "vector",
    "micro_batch",
    "map_width",
    "levels",
    "neighbours",
    "patience",
}
_LEAST = {
    "downsample": 1,
    "batch_size": 1,
    "micro_batch": 1,
    "width": 1,
    "pos_weight": 0,
    "learning_rate": 0,
    "neighbours": 0,
    "patience": 1,
}
_ONE_OF = {
    "split": ("subject", "scan", "slice", "slice inverted"),
    "loss": ("cross entropy", "dice", "dice + cross entropy"),
}


def _checked(field: str, value: Value) -> Value:
    """A wrong field or value must not wait for the first epoch to be found."""
    known = [f.name for f in dataclasses.fields(Recipe)]
    if field not in known:
        near = difflib.get_close_matches(field, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
        raise ValueError(f"a recipe has no field {field!r}{hint}")
    if value is None and field not in ("lesion_share", *_optional()):
        raise ValueError(f"{field} cannot be None")
    if (
        field in _WHOLE
        and value is not None
        and (isinstance(value, bool) or not isinstance(value, int))
    ):
        raise ValueError(f"{field} is a whole number, not {value!r}")
    numbers = {"dropout", "lesion_share", "pos_weight", "learning_rate", "clip_norm"}
    if field in numbers and value is not None and not isinstance(value, int | float):
        raise ValueError(f"{field} is a number, not {value!r}")
    if field in _LEAST and value is not None and value < _LEAST[field]:  # type: ignore[operator]
        raise ValueError(f"{field} is at least {_LEAST[field]}, not {value!r}")
    if field in _ONE_OF and value not in _ONE_OF[field]:
        raise ValueError(f"{field} is one of {', '.join(_ONE_OF[field])}, not {value!r}")
    if field == "lesion_share" and value is not None and not 0 < value <= 1:  # type: ignore[operator]
        raise ValueError(f"lesion_share lies between 0 and 1, not {value!r}")
    return value


def _optional() -> list[str]:
    return [f.name for f in dataclasses.fields(Recipe) if "None" in str(f.type)]


# Why a profile leaves the paper, by field; the values themselves come from the recipes.
_WHY = {
    "width": "fewer channels: the paper's width needs a GPU",
    "dropout": "so short a run underfits: there is nothing to hold back",
    "flip": "a lesion on the left teaches about the right: twice the subjects",
    "window": "no time is spent on air and skin",
    "decay": "a short run ends better if its last steps are small",
    "downsample": "a coarser slice: a quarter of the pixels at 2, a ninth at 3, a sixteenth at 4",
    "lesion_share": "more slices with lesion, so that each step has something to find",
    "pos_weight": "lesion pixels weigh more, so that 'no lesion anywhere' is no resting place",
    "initial_prior": "start at the base rate, not at a random bias",
    "learning_rate": "fewer steps want larger ones",
    "batch_size": "more steps in the same minutes",
    "micro_batch": "a step in parts, for a GPU with less memory",
    "epochs": "the paper does not say how long it trained",
    "patience": "until validation stops improving",
}


def departures(chosen: Recipe) -> pd.DataFrame:
    """Where a recipe differs from the paper's for the same model: field, paper, here, why."""
    paper = recipe(chosen.model, "paper")
    rows = []
    for field in dataclasses.fields(Recipe):
        there, here = getattr(paper, field.name), getattr(chosen, field.name)
        if there != here and field.name != "profile":
            why = _WHY.get(field.name, "chosen by the caller")
            rows.append({"field": field.name, "paper": there, "here": here, "why": why})
    return pd.DataFrame(rows, columns=["field", "paper", "here", "why"])


def parse_changes(pairs: list[str]) -> dict[str, Value]:
    """``["epochs=3", "lesion_share=none"]`` from a command line to ``{"epochs": 3, ...}``."""
    changes: dict[str, Value] = {}
    for pair in pairs:
        field, sign, text = pair.partition("=")
        if not sign or not text:
            raise ValueError(f"expected FIELD=VALUE, not {pair!r}")
        try:
            changes[field] = json.loads("null" if text.lower() == "none" else text.lower())
        except json.JSONDecodeError:
            changes[field] = text
    return changes
