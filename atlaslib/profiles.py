"""The recipes by model and profile: as in the paper, and for smaller machines."""

from __future__ import annotations

import dataclasses
import difflib

from atlaslib.recipes import Recipe, Value

PROFILES = ("smoke", "quick", "colab", "paper")

_SHARED: dict[str, Value] = {
    "window": True,
    "flip": True,
    # A short run with plain cross entropy on all slices marks no lesion at all (see chapter 2).
    "lesion_share": 0.75,
    "pos_weight": 5.0,
    "initial_prior": True,
    "decay": True,
}
_QUICK: dict[str, Value] = _SHARED | {
    # At full resolution and the paper's widths one epoch would take hours on two cores.
    "downsample": 4,
    "width": 8,
    # Smaller batches give more steps in the same time.
    "batch_size": 8,
    "learning_rate": 0.002,
    "epochs": 6,
}
_SMOKE: dict[str, Value] = _QUICK | {"epochs": 2}
# The paper's widths on the whole grid, in half an hour of a free GPU: an estimate (chapter 10).
_COLAB: dict[str, Value] = _SHARED | {
    "downsample": 1, "batch_size": 16, "learning_rate": 0.001, "epochs": 12
}  # fmt: skip

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
    "width": 5, "levels": 4, "downsample": 3, "epochs": 6, "batch_size": 4,
    "learning_rate": 0.0025, "pos_weight": 5.0,
}  # fmt: skip

_RECIPES: dict[tuple[str, str], dict[str, Value]] = {
    ("baseline", "paper"): {"patience": 5},
    # no dropout: so short a run underfits and needs no regularisation
    ("baseline", "colab"): _COLAB | {"dropout": 0.0},
    ("baseline", "quick"): _QUICK | {"dropout": 0.0},
    ("baseline", "smoke"): _SMOKE | {"width": 4},
    ("resnet", "paper"): {"patience": 5, "learning_rate": 0.0001, "batch_size": 50},
    ("resnet", "colab"): _COLAB,
    ("resnet", "quick"): _QUICK,
    ("resnet", "smoke"): _SMOKE | {"width": 2},
    # not in the paper: our choice of what one would build today
    ("residual_unet", "paper"): _TODAY | {"width": 8, "levels": 5, "batch_size": 50},
    ("residual_unet", "colab"): _COLAB | _TODAY | {"width": 8, "levels": 5},
    ("residual_unet", "quick"): _QUICK | _TODAY | _TODAY_QUICK,
    ("residual_unet", "smoke"): _SMOKE | _TODAY | {"width": 4, "levels": 3},
    # the same recipe with MONAI's network
    ("dynunet", "paper"): _TODAY | {"width": 8, "levels": 5, "batch_size": 50},
    ("dynunet", "colab"): _COLAB | _TODAY | {"width": 8, "levels": 5},
    ("dynunet", "quick"): _QUICK | _TODAY | _TODAY_QUICK,
    ("dynunet", "smoke"): _SMOKE | _TODAY | {"width": 4, "levels": 3},
    # nothing to train: the base rate is counted over all slices
    ("zero", "paper"): {"initial_prior": True, "epochs": 0},
    ("zero", "colab"): {"pos_weight": _QUICK["pos_weight"], "initial_prior": True, "epochs": 0},
    ("zero", "quick"): {"pos_weight": _QUICK["pos_weight"], "initial_prior": True, "epochs": 0},
    ("zero", "smoke"): {"pos_weight": _SMOKE["pos_weight"], "initial_prior": True, "epochs": 0},
}

# Changes that shorten the runs of a profile where many are compared (chapter 4, the study).
SHORT: dict[str, dict[str, Value]] = {
    "smoke": {"epochs": 1},
    "quick": {"epochs": 1, "downsample": 4},
    "colab": {"epochs": 3},
    "paper": {"epochs": 10, "patience": None},
}


def recipe(name: str, profile: str = "quick", **changes: Value) -> Recipe:
    """The recipe of a model in a profile.

    Parameters
    ----------
    name : str
        "baseline", "resnet", or another name in ``atlaslib.models.MODELS``.
    profile : {"smoke", "quick", "colab", "paper"}
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
        names = ", ".join(model for model, at in _RECIPES if at == profile)
        raise ValueError(f"no recipe {name!r} at the {profile} profile; choose from {names}")
    base = Recipe(model=name, profile=profile, **_RECIPES[name, profile])  # type: ignore[arg-type]
    fields = [field.name for field in dataclasses.fields(Recipe)]
    known = [field for field in fields if field not in ("model", "profile")]
    for field in changes:
        if field not in known:
            near = difflib.get_close_matches(field, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(known)}"
            raise ValueError(f"a recipe has no field {field!r}; {hint}")
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]
