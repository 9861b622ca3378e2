"""A small network with a bottleneck, for the tests of what looks for it and of what shows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import atlaslib
from atlaslib.networks import new_network

RECIPE = atlaslib.recipe("resnet", "quick", width=2, units=4)


def resnet(**options: Any) -> nn.Module:
    """Untrained, but with statistics of batch normalisations that differ from one another."""
    torch.manual_seed(0)
    network = new_network(RECIPE.__class__(**{**vars(RECIPE), **options})).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return network
