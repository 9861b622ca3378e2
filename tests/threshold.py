"""A network that needs no training: it compares the pixels of the middle slice with a level."""

from __future__ import annotations

import torch
from torch import nn

import atlaslib


class Threshold(nn.Module):
    """Lesion is darker than ``level``, or brighter if ``gain`` is negative."""

    def __init__(self, level: float = 0.2, gain: float = 40.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = x.shape[1] // 2
        return self.gain * (self.level - x[:, middle : middle + 1])


def threshold(level: float = 0.2, gain: float = 40.0, **changes: object) -> atlaslib.Predictor:
    """It, as a network at full resolution or with other changes of the recipe."""
    return atlaslib.Predictor(Threshold(level, gain), atlaslib.recipe("zero", "paper", **changes))
