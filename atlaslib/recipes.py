"""Recipes: all settings of an experiment, as in the paper and for the smaller profiles."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from dataclasses import dataclass

import pandas as pd

PROFILES = ("smoke", "quick", "paper")
Value = int | float | str | bool | None  # of a field of Recipe


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from the data."""

    model: str  # a name in atlaslib.models.MODELS, or any name for your own
    profile: str = "paper"  # whose values these are: smoke, quick or paper
    seed: int = 0  # weights, slice order, dropout; our choice: the paper gives none

    # the model; None is the model's default, which is the paper's value
    width: int | None = None  # channels of the first convolution
    dropout: float | None = None  # baseline: dropout rate (section 4.1)
    unit: str | None = None  # resnet: "paper" (section 5.2) or "tensorflow"
    units: int | None = None  # resnet: residual units in all (section 5.2)
    groups: int | None = None  # resnet: groups of equal width; our reading of "20 units"
    fourth_stride: int | None = None  # resnet: stride of the fourth group; our reading
    vector: int | None = None  # resnet: length of the last encoder layer (section 5.2)
    decoder: str | None = None  # "unet", "unet without skips", "map" or "vector"
    map_width: int | None = None  # baseline with decoder "map" or "vector": channels of the map
    normalise: bool | None = None  # baseline: batch normalisation in the encoder
    levels: int | None = None  # residual_unet, dynunet: resolution levels, halved each time

    # the data
    split: str = "subject"  # or "scan", "slice", "slice inverted"; the 2018 code split by slice
    split_seed: int = 0  # of the split; our choice: the paper gives none
    window: bool = False  # crop slices to the 184 x 152 pixels around the brain
    downsample: int = 1  # factor by which rows and columns of a slice are reduced
    flip: bool = False  # mirror half of the training slices left to right; our choice
    augment: bool = False  # random geometry, contrast, bias field and noise in training
    context_slices: int = 0  # residual_unet, dynunet: neighbours on each side, 3 mm apart
    flip_tta: bool = False  # average the predictions for a slice and its mirror image
    lesion_share: float | None = None  # share of slices with lesion; None: all slices

    # the loss and its optimiser
    loss: str = "cross entropy"  # or "dice", or "dice + cross entropy" (section 4)
    # weight of lesion pixels in the cross entropy (1 in section 4, 100 in the 2018 code)
    pos_weight: float = 1.0
    initial_prior: bool = False  # start the final bias at the base rate of lesion; our choice
    learning_rate: float = 0.001  # of Adam (sections 4.1, 5.3)
    decay: bool = False  # linear learning-rate decay to 0 over the run; our choice
    batch_size: int = 100  # slices per step (sections 4.1, 5.3)
    micro_batch: int | None = None  # slices at once; gradients accumulate, to save memory
    clip_norm: float = 5.0  # largest gradient norm (2018 code)
    epochs: int = 40  # passes over the training slices; our choice: the paper gives none
    patience: int | None = None  # epochs without improvement until early stopping; our choice

    def model_options(self) -> dict[str, int | float | str | tuple[int, int]]:
        """The options that this recipe passes to :func:`atlaslib.build_model`."""
        names = ("width", "dropout", "unit", "units", "groups", "fourth_stride", "vector",
                 "decoder", "map_width", "normalise", "levels")  # fmt: skip
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.model == "resnet" or self.decoder == "vector":
            chosen["size"] = self.input_size()
        if self.context_slices:
            chosen["channels"] = 1 + 2 * self.context_slices
        return chosen

    def field_of_view(self) -> tuple[int, int]:
        """Rows and columns, in pixels of 1 mm, of the part of a slice that the model sees."""
        return (184, 152) if self.window else (232, 196)

    def input_size(self) -> tuple[int, int]:
        """Rows and columns of the model's input, padded to multiples of 4; in full 232 x 196."""
        multiple = 4 * self.downsample
        rows, columns = (-(-n // multiple) * 4 for n in self.field_of_view())
        return rows, columns

    def key(self) -> str:
        """A hash of the fields that differ from their defaults: 12 hexadecimal digits.

        The profile's name does not count. As defaults are left out, a new field changes no key.
        """
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name != "profile" and (value := getattr(self, field.name)) != field.default
        }
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


_QUICK: dict[str, Value] = {
    # At full resolution and the paper's widths one epoch would take hours on two cores.
    "window": True,
    "downsample": 3,
    "flip": True,
    # Plain cross entropy on all slices gets stuck predicting no lesion at all (see chapter 2).
    "lesion_share": 0.75,
    "pos_weight": 5.0,
    "initial_prior": True,
    # Smaller batches give more steps in the same time.
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
    "context_slices": 1,
    "flip_tta": True,
    "lesion_share": 0.75,
    "decay": True,
}
_TODAY_QUICK: dict[str, Value] = {
    "width": 5, "levels": 4, "batch_size": 4, "learning_rate": 0.0025, "pos_weight": 5.0,
}  # fmt: skip

_RECIPES: dict[tuple[str, str], dict[str, Value]] = {
    ("baseline", "paper"): {"patience": 5},
    # no dropout: so short a run underfits and needs no regularisation
    ("baseline", "quick"): _QUICK | {"width": 16, "dropout": 0.0},
    ("baseline", "smoke"): _SMOKE | {"width": 4},
    ("resnet", "paper"): {"patience": 5, "learning_rate": 0.0001, "batch_size": 50},
    # an epoch takes twice as long as the baseline's, so half as many cost about the same
    ("resnet", "quick"): _QUICK | {"width": 8, "epochs": 3},
    ("resnet", "smoke"): _SMOKE | {"width": 2},
    # not in the paper: our choice of what one would build today
    ("residual_unet", "paper"): _TODAY | {"width": 8, "levels": 5, "batch_size": 50},
    ("residual_unet", "quick"): _QUICK | _TODAY | _TODAY_QUICK,
    ("residual_unet", "smoke"): _SMOKE | _TODAY | {"width": 4, "levels": 3},
    # the same recipe with MONAI's network
    ("dynunet", "paper"): _TODAY | {"width": 8, "levels": 5, "batch_size": 50},
    ("dynunet", "quick"): _QUICK | _TODAY | _TODAY_QUICK,
    ("dynunet", "smoke"): _SMOKE | _TODAY | {"width": 4, "levels": 3},
    # nothing to train: the base rate is counted over all slices
    ("zero", "paper"): {"initial_prior": True, "epochs": 0},
    ("zero", "quick"): {"pos_weight": _QUICK["pos_weight"], "initial_prior": True, "epochs": 0},
    ("zero", "smoke"): {"pos_weight": _SMOKE["pos_weight"], "initial_prior": True, "epochs": 0},
}

# Changes that shorten the runs of a profile where many are compared (chapters 4, 7 and 8).
SHORT: dict[str, dict[str, Value]] = {
    "smoke": {"epochs": 1},
    "quick": {"epochs": 1, "downsample": 4},
    "paper": {"epochs": 10, "patience": None},
}


def recipe(name: str, profile: str = "quick", **changes: Value) -> Recipe:
    """The recipe of a model in a profile.

    Parameters
    ----------
    name : str
        "baseline", "resnet", or another name in ``atlaslib.models.MODELS``.
    profile : {"smoke", "quick", "paper"}
    **changes
        Fields of :class:`Recipe` to change, for example ``learning_rate=0.01``.

    Raises
    ------
    ValueError
        If there is no such model, profile or field, or a value is invalid.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; choose from {', '.join(PROFILES)}")
    if (name, profile) not in _RECIPES:
        known = ", ".join(model for model, at in _RECIPES if at == profile)
        raise ValueError(f"no recipe {name!r}; choose from {known}")
    base = Recipe(model=name, profile=profile, **_RECIPES[name, profile])  # type: ignore[arg-type]
    return dataclasses.replace(base, **{k: _checked(k, v) for k, v in changes.items()})  # type: ignore[arg-type]


_INTEGER = {"seed", "split_seed", "downsample", "batch_size", "epochs", "width", "units", "groups"}
_INTEGER |= {
    "fourth_stride",
    "vector",
    "micro_batch",
    "map_width",
    "levels",
    "context_slices",
    "patience",
}
_MINIMUM = {
    "downsample": 1,
    "batch_size": 1,
    "micro_batch": 1,
    "width": 1,
    "pos_weight": 0,
    "learning_rate": 0,
    "context_slices": 0,
    "patience": 1,
}
_CHOICES = {
    "split": ("subject", "scan", "slice", "slice inverted"),
    "loss": ("cross entropy", "dice", "dice + cross entropy"),
}


def _checked(field: str, value: Value) -> Value:
    """The value, or an error for a wrong field or value: better now than in the first epoch."""
    known = [f.name for f in dataclasses.fields(Recipe)]
    if field not in known:
        near = difflib.get_close_matches(field, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; its fields are {', '.join(known)}"
        raise ValueError(f"a recipe has no field {field!r}{hint}")
    if value is None and field not in ("lesion_share", *_optional()):
        raise ValueError(f"{field} cannot be None")
    if (
        field in _INTEGER
        and value is not None
        and (isinstance(value, bool) or not isinstance(value, int))
    ):
        raise ValueError(f"{field} must be a whole number, not {value!r}")
    numbers = {"dropout", "lesion_share", "pos_weight", "learning_rate", "clip_norm"}
    if field in numbers and value is not None and not isinstance(value, int | float):
        raise ValueError(f"{field} must be a number, not {value!r}")
    if field in _MINIMUM and value is not None and value < _MINIMUM[field]:  # type: ignore[operator]
        raise ValueError(f"{field} must be at least {_MINIMUM[field]}, not {value!r}")
    if field in _CHOICES and value not in _CHOICES[field]:
        raise ValueError(f"{field} must be one of {', '.join(_CHOICES[field])}, not {value!r}")
    if field == "lesion_share" and value is not None and not 0 < value <= 1:  # type: ignore[operator]
        raise ValueError(f"lesion_share must be above 0 and at most 1, not {value!r}")
    return value


def _optional() -> list[str]:
    return [f.name for f in dataclasses.fields(Recipe) if "None" in str(f.type)]


# Why a profile departs from the paper, by field.
_REASONS = {
    "width": "fewer channels: the paper's width needs a GPU",
    "dropout": "so short a run underfits and needs no regularisation",
    "flip": "lesions in one hemisphere also teach about the other: twice the data",
    "window": "no time is spent on background and skin",
    "decay": "a short run ends better if its last steps are small",
    "downsample": "fewer pixels: a quarter of them at 2, a ninth at 3, a sixteenth at 4",
    "lesion_share": "more slices with lesion, so that every step sees some",
    "pos_weight": "lesion pixels weigh more, so that training does not get stuck at 'no lesion'",
    "initial_prior": "start from the base rate instead of a random bias",
    "learning_rate": "fewer steps need to be larger",
    "batch_size": "more steps in the same time",
    "micro_batch": "gradient accumulation, for a GPU with less memory",
    "epochs": "the paper does not say how long it trained",
    "patience": "early stopping, once validation stops improving",
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


def parse_changes(pairs: list[str]) -> dict[str, Value]:
    """Parse ``["epochs=3", "lesion_share=none"]`` of a command line to ``{"epochs": 3, ...}``."""
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
