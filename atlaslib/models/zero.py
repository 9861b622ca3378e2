"""The constant predictor: the score of a model that never looks at the image."""

from __future__ import annotations

import math

import torch
from torch import nn


class Zero(nn.Module):
    """The same probability of lesion for every pixel of every slice.

    At the base rate this is the best prediction possible without looking at the image, and its
    cross entropy is the loss that a model must beat. Its mask is empty, hence the name.

    Parameters
    ----------
    prior : float
        Probability of lesion, between 0 and 1.
    """

    def __init__(self, prior: float = 0.004) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"prior must lie between 0 and 1, not {prior}")
        self.final_bias = nn.Parameter(torch.tensor([math.log(prior / (1 - prior))]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any input (N, 1, H, W) to equal logits (N, 1, H, W)."""
        return self.final_bias.expand(x.shape[0], 1, *x.shape[-2:])
