"""What a user gives to a training in place of what the recipe says."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from atlaslib.data.splits import BY_SLICE, Split
from atlaslib.files import expect, one_line
from atlaslib.networks import CustomModel
from atlaslib.recipes import Recipe

#: Logits and masks in 0..1, each (n, 1, H, W) float32, to the loss, a tensor without dimensions.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: ``SliceDataset.table`` of the training scans, epoch (from 0) and generator to positions in it.
Sampler = Callable[[pd.DataFrame, int, np.random.Generator], Any]
#: Images (n, channels, H, W) and masks (n, 1, H, W), in 0..1, to others of the same shapes.
Augment = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Functions that get each new row of the history.
Callbacks = Sequence[Callable[[dict[str, float]], None]]


def checked_callbacks(callbacks: Callbacks) -> Callbacks:
    """The callbacks as a tuple; ValueError if they are not functions."""
    if callable(callbacks) or not all(map(callable, given := tuple(callbacks))):
        raise ValueError("callbacks: expected a list of functions")
    return given


@dataclass(frozen=True)
class Custom:
    """The user's own parts of a training, as :func:`atlaslib.train` takes them; None: none.

    Raises
    ------
    ValueError
        If one of them is of another type.
    """

    model: CustomModel | None = None
    split: Split | None = None
    loss: Loss | None = None
    sampler: Sampler | None = None
    augment: Augment | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.split is not None:
            expect("split", self.split, Split)
        for name in ("loss", "sampler", "augment"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise ValueError(f"{name}: expected a function, got {type(given).__name__}")
        if isinstance(self.loss, nn.Module) and [*self.loss.parameters()]:
            raise ValueError("loss: its own parameters would not be trained; move them into model")
        limit = self.max_minutes
        if limit is not None and not (isinstance(limit, int | float) and 0 < limit < math.inf):
            raise ValueError(f"max_minutes: expected a number above 0, got {limit!r}")

    def check(self, recipe: Recipe) -> None:
        """ValueError if a part cannot be combined with the recipe."""
        for name in ("split", "sampler"):
            if getattr(self, name) is not None and recipe.split in BY_SLICE:
                raise ValueError(f"{name}: the recipe splits by slice, which leaves no choice")
        if self.split is not None and recipe.folds is not None:
            raise ValueError("split: the recipe has folds, which are a split already")

    def on(self, device: torch.device) -> Custom:
        """With a copy of the loss on a device, if it is a module: its tensors have to be there."""
        if not isinstance(self.loss, nn.Module):
            return self
        return dataclasses.replace(self, loss=copy.deepcopy(self.loss).to(device))

    def warn_if_unknown(self, folder: Path, found: str) -> None:
        """Warn that a run goes by the names of what is the user's own, which may have changed."""
        names = ("model", "loss", "sampler", "augment")
        if own := [name for name in names if getattr(self, name) is not None]:
            text = f"if you have changed your {' or '.join(own)} since, choose another folder"
            warnings.warn(f"{folder}: {found}; {text}", stacklevel=3)

    def describe(self) -> str:
        """What is the user's own, in words, for provenance and key; empty if nothing is.

        A function is known by its name alone, a split by its content.
        """
        parts = ["model"] if self.model is not None else []
        if self.split is not None:
            parts.append(f"split {self.split.digest()}")
        for name in ("loss", "sampler", "augment"):
            if (given := getattr(self, name)) is not None:
                parts.append(f"{name} {getattr(given, '__name__', type(given).__name__)}")
        if self.max_minutes is not None:
            parts.append(f"max_minutes {self.max_minutes:g}")
        return ", ".join(parts)

    def loss_of(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """The user's loss, checked to be one number that depends on the logits."""
        assert self.loss is not None
        value = self.loss(logits, masks)
        if isinstance(value, torch.Tensor) and value.ndim == 0 and value.requires_grad:
            return value
        found = type(value).__name__
        if isinstance(value, torch.Tensor):
            found = f"shape {tuple(value.shape)}"
            found += "" if value.requires_grad else " that does not depend on the logits"
        raise ValueError(f"loss: expected a scalar tensor, without dimensions, got {found}")

    def augmented(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The user's augmentation, checked to keep shapes, types and device."""
        assert self.augment is not None
        pair = self.augment(x, y)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ValueError(f"augment: expected images and masks, got {type(pair).__name__}")
        for name, before, after in zip(("images", "masks"), (x, y), pair, strict=True):
            expected = (tuple(before.shape), before.dtype, before.device)
            found: Any = type(after).__name__
            if isinstance(after, torch.Tensor):
                found = (tuple(after.shape), after.dtype, after.device)
            if found != expected:
                raise ValueError(f"augment: expected {name} {expected}, got {found}")
        return pair

    def positions(self, table: pd.DataFrame, epoch: int, seed: int) -> np.ndarray:
        """The slices that the user's sampler chooses, checked to be positions in the table."""
        assert self.sampler is not None
        generator = np.random.default_rng([seed, epoch])
        try:
            chosen = np.asarray(self.sampler(table.copy(), epoch, generator))
        except Exception as error:  # the user's code can raise anything
            text = f"sampler: fails in epoch {epoch + 1}: {type(error).__name__}: {one_line(error)}"
            raise ValueError(text) from error
        if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
            found = f"shape {chosen.shape}, {chosen.dtype}"
            raise ValueError(f"sampler: expected positions, whole numbers (n,); got {found}")
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= len(table):
            wrong = low if low < 0 else high
            raise ValueError(f"sampler: no slice at {wrong}, the table has {len(table)} rows")
        return chosen
