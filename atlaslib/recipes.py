"""A recipe: all settings of an experiment, what each may hold, and what it is for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pandas as pd
from annotated_types import Ge, Le, Lt
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError

Value = int | float | str | bool | None  # of a field of Recipe

# What a field may hold.
Name = Annotated[str, StringConstraints(pattern=r"^\w{1,40}$")]
Default = Literal["default"]  # the model's own default, which is the paper's value
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Count = Annotated[int, Ge(1), Le(4096)]
Share = Annotated[float, Ge(1e-6), Le(1)]
Positive = Annotated[float, Ge(1e-6), Le(1e6)]
Rate = Annotated[float, Ge(1e-12), Le(10)]
Dropout = Annotated[float, Ge(0), Lt(1)]
Groups = Annotated[int, Ge(1), Le(4)]
Stride = Annotated[int, Ge(1), Le(2)]
Levels = Annotated[int, Ge(2), Le(7)]
HeldOut = Annotated[float, Ge(0.01), Le(0.4)]


def setting(default: Value, purpose: str, unit: str = "") -> Any:
    """A field of a recipe, with what `atlaslib recipe` says about it."""
    return dataclasses.field(default=default, metadata={"purpose": purpose, "unit": unit})


def model_default(purpose: str, unit: str = "") -> Any:
    """A field whose default is the model's own."""
    return setting("default", purpose, unit)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from the data.

    ``atlaslib recipe NAME`` lists the fields: what each is for, its unit and what it may hold,
    which is checked whenever a recipe is made. "default" stands for the model's own default, which
    is the paper's value, and None switches a setting off.

    Raises
    ------
    ValueError
        If a field holds anything else; the message names the field, its range and what was given.
    """

    model: Name = dataclasses.field(
        metadata={"purpose": "a name in atlaslib.models.MODELS, or your own", "unit": ""}
    )
    profile: Name = setting("paper", "where the values come from")
    seed: Seed = setting(0, "of weights, slice order and dropout; our choice")

    # the model
    width: Count | Default = model_default("of the first convolution", "channels")
    dropout: Dropout | Default = model_default(
        "baseline: share of activations dropped (section 4.1)"
    )
    unit: Literal["paper", "tensorflow"] | Default = model_default(
        "resnet: the unit of the paper (section 5.2) or of TensorFlow's model"
    )
    units: Count | Default = model_default("resnet: residual units in all (section 5.2)")
    groups: Groups | Default = model_default(
        'resnet: groups of equal width; our reading of "20 units"'
    )
    fourth_stride: Stride | Default = model_default(
        "resnet: stride of the fourth group; our reading"
    )
    vector: Count | Default = model_default("resnet: last encoder layer (section 5.2)", "numbers")
    decoder: Literal["unet", "unet without skips", "map", "vector"] | Default = model_default(
        "baseline, resnet: from the encoder's maps to a mask"
    )
    map_width: Count | Default = model_default(
        'baseline: for decoders "map" and "vector"', "channels"
    )
    normalise: bool | Default = model_default("baseline: batch normalisation in the encoder")
    levels: Levels | Default = model_default(
        "residual_unet, dynunet: resolutions, halved each time"
    )

    # the data
    split: Literal["subject", "scan", "slice", "slice inverted"] = setting(
        "subject", "what stays together; the code split by slice"
    )
    split_seed: Seed = setting(0, "of the split; our choice")
    held_out: HeldOut = setting(
        0.15, "share of subjects (scans) to validate on, and as many to test"
    )
    folds: Annotated[int, Ge(2), Le(100)] | None = setting(
        None,
        "of subjects, of which split_seed tells the one to test; none: one random split",
    )
    window: bool = setting(False, "crop slices to the 184 x 152 pixels around the brain")
    downsample: Annotated[int, Ge(1), Le(16)] = setting(1, "factor by which sizes are reduced")
    flip: bool = setting(False, "mirror half of the training slices left to right; our choice")
    augment: bool = setting(False, "random geometry, contrast, bias field and noise in training")
    context_slices: Annotated[int, Ge(0), Le(20)] = setting(
        0, "residual_unet, dynunet: neighbours on each side, 3 mm apart", "slices"
    )
    flip_tta: bool = setting(False, "average the predictions for a slice and its mirror image")
    lesion_share: Share | None = setting(None, "share of slices with lesion; none: all slices")

    # the loss and its optimiser
    loss: Literal["cross entropy", "dice", "dice + cross entropy"] = setting(
        "cross entropy", "what is minimised (section 4)"
    )
    pos_weight: Positive = setting(
        1.0, "of lesion pixels in the cross entropy (1 in section 4, 100 in the code)"
    )
    initial_prior: bool = setting(False, "start the final bias at the base rate; our choice")
    learning_rate: Rate = setting(0.001, "of Adam (sections 4.1, 5.3)")
    decay: bool = setting(False, "linear learning-rate decay to 0 over the run; our choice")
    batch_size: Count = setting(100, "of a step (sections 4.1, 5.3)", "slices")
    micro_batch: Count | None = setting(
        None, "per forward pass: gradients accumulate; none: the whole batch", "slices"
    )
    clip_norm: Positive = setting(5.0, "largest gradient norm (code)")
    epochs: Annotated[int, Ge(0), Le(100_000)] = setting(
        40, "passes over the training slices; our choice: the paper gives none", "epochs"
    )
    patience: Count | None = setting(
        None, "without improvement, then training stops; none: no early stopping", "epochs"
    )

    def __post_init__(self) -> None:
        for name, adapter in _adapters().items():
            given = getattr(self, name)
            try:
                value = adapter.validate_python(given)
            except ValidationError:
                shown = (
                    given if isinstance(given, str | int | float | None) else type(given).__name__
                )
                text = f"{name}: expected {allowed(name)}, not {shown!a:.60}"
                raise ValueError(text) from None
            # where a float is expected, 1 becomes 1.0 and -0.0 becomes 0.0
            object.__setattr__(self, name, value + 0.0 if type(value) is float else value)
        if self.folds and (self.split != "subject" or self.split_seed >= self.folds):
            raise ValueError("folds: needs split 'subject' and a split_seed below it, the fold")
        if self.split.startswith("slice") and self.held_out != Recipe.held_out:
            text = f"a split by slice has its own shares: leave it at {Recipe.held_out}"
            raise ValueError(f"held_out: {text}")

    def model_options(self) -> dict[str, int | float | str | tuple[int, int]]:
        """The options that this recipe passes to :func:`atlaslib.build_model`."""
        names = ("width", "dropout", "unit", "units", "groups", "fourth_stride", "vector",
                 "decoder", "map_width", "normalise", "levels")  # fmt: skip
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) != "default"}
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


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Recipe, include_extras=True)


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    strict = ConfigDict(strict=True)  # True is not taken for 1, nor "3" for 3
    return {name: TypeAdapter(hint, config=strict) for name, hint in _hints().items()}


def allowed(name: str) -> str:
    """What a field may hold, in words."""
    return _described(_hints()[name])


def _described(hint: Any) -> str:
    plain = {bool: "true or false", int: "a whole number", float: "a number", type(None): "none"}
    if hint in plain:
        return plain[hint]
    if getattr(hint, "__origin__", None) is Literal:
        return " or ".join(f"{choice!r}" for choice in get_args(hint))
    if not hasattr(hint, "__metadata__"):  # a union
        return " or ".join(map(_described, get_args(hint)))
    if hint.__origin__ is str:
        return "a name of up to 40 letters, digits and _"
    bounds = {type(limit): dataclasses.astuple(limit)[0] for limit in hint.__metadata__}
    if Ge in bounds and Le in bounds:
        return f"{plain[hint.__origin__]} from {bounds[Ge]} to {bounds[Le]}"
    words = {Ge: "at least", Le: "at most", Lt: "below"}
    limits = [f"{words[kind]} {limit:g}" for kind, limit in bounds.items()]
    return f"{plain[hint.__origin__]} {', '.join(limits)}"


def describe(chosen: Recipe) -> pd.DataFrame:
    """One row for each field of a recipe: field, value, unit, range, purpose."""
    rows = [
        {"field": field.name, "value": getattr(chosen, field.name), "unit": field.metadata["unit"],
         "range": allowed(field.name), "purpose": field.metadata["purpose"]}
        for field in dataclasses.fields(chosen)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def parse_changes(pairs: list[str]) -> dict[str, Value]:
    """Parse ``["epochs=3", "lesion_share=none"]`` of a command line to ``{"epochs": 3, ...}``."""
    changes: dict[str, Value] = {}
    for pair in pairs:
        field, sign, text = pair.partition("=")
        if not sign or not text:
            raise ValueError(f"expected FIELD=VALUE, not {pair!r}")
        if field in ("name", "model", "profile"):
            raise ValueError(f"{field} cannot be set: NAME and --profile choose the recipe")
        if field in changes:
            raise ValueError(f"{field} is set twice")
        try:
            changes[field] = json.loads("null" if text.lower() == "none" else text.lower())
        except (ValueError, RecursionError):
            changes[field] = text
    return changes
