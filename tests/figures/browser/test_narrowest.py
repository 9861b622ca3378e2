"""Where the bottleneck of a network is, and which networks have none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from waists import RECIPE, resnet

import atlaslib
from atlaslib.evaluation.predictor import Predictor
from atlaslib.figures.browser import bottleneck as module
from atlaslib.figures.browser.narrowest import bottleneck, tensors
from atlaslib.figures.browser.written import trace


def test_the_waist_is_where_pytorch_has_it() -> None:
    x = torch.rand(1, 1, 48, 40)
    network = resnet()
    traced = trace(network, RECIPE)
    place = bottleneck(traced)
    found = tensors(traced, x, {place.before, place.vector, place.after})
    with torch.no_grad():
        last = network.maps(x)[2]
        torch.testing.assert_close(found[place.before], last)
        torch.testing.assert_close(found[place.vector].flatten(), last.mean((2, 3)).flatten())
        torch.testing.assert_close(found["logits"], network(x))
    assert found[place.after].shape == (1, 2, 12, 10)


def test_of_two_vectors_the_narrower_and_of_equal_ones_the_last() -> None:
    """Four numbers after eight averages; then eight after eight, as in the paper's network."""
    x = torch.rand(1, 1, 48, 40)
    for length in (4, 8):
        network = resnet(vector=length)
        traced = trace(network, RECIPE)
        name = bottleneck(traced).vector
        with torch.no_grad():
            torch.testing.assert_close(tensors(traced, x, {name})[name], network.encode(x))


@pytest.mark.parametrize("decoder", ["map", "unet without skips", "unet"])
def test_a_network_without_a_bottleneck_is_refused(cohort: atlaslib.Cohort, decoder: str) -> None:
    network = Predictor(resnet(decoder=decoder), RECIPE)
    with pytest.raises(ValueError, match="has no bottleneck: expected a vector"):
        module.explore_bottleneck(network, cohort)


def test_a_way_around_the_vector_is_seen() -> None:
    """Channel attention averages over positions, too, but the map goes on beside the averages."""

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + nn.functional.adaptive_avg_pool2d(x, 1).expand_as(x)

    with pytest.raises(ValueError, match="no bottleneck"):
        bottleneck(trace(Attention().eval(), RECIPE))
