"""Networks computed by ``network.js`` in a headless Chromium give PyTorch's logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import chromium
from torch import nn

import atlaslib
from atlaslib.evaluation.inference import slice_logits
from atlaslib.evaluation.pretrained import pretrained_names
from atlaslib.figures.browser.written import (
    OPERATIONS,
    network_script,
    script,
    written_network,
)
from atlaslib.networks import new_network
from atlaslib.recipes import Recipe

Z = 90
# each with all that its architecture has, and some with an option of the recipe
RECIPES = {
    "baseline": atlaslib.recipe("baseline", "quick", width=8, downsample=3),
    "baseline, whole slices": atlaslib.recipe("baseline", "quick", width=2, window=False),
    "resnet": atlaslib.recipe("resnet", "quick", width=8, downsample=3),
    "resnet, odd sizes": atlaslib.recipe("resnet", "quick", width=2, fourth_stride=2),
    "residual_unet": atlaslib.recipe("residual_unet", "quick"),
}
SEGMENT = """([name, slices]) => {
  const network = new atlaslib.Network(atlaslib.networks[name]);
  return Array.from(network.segment(slices.map((levels) => Uint8Array.from(levels))));
}"""


def untrained(recipe: Recipe) -> nn.Module:
    """A network with all that training changes drawn at random, and logits of a size of 1 to 10."""
    torch.manual_seed(0)
    network = new_network(recipe).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.3)
            nn.init.normal_(layer.bias, 0, 0.3)
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        logits = network(torch.rand(1, 1 + 2 * recipe.context_slices, *recipe.input_size()))
        head = network.head if recipe.model == "residual_unet" else network.decoder
        last = [layer for layer in head.modules() if hasattr(layer, "weight")][-1]
        if recipe.model == "resnet":
            last = head.up2
        last.weight /= logits.std()
    return network


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page on the disk, with the networks in script files beside it."""
    folder = tmp_path_factory.mktemp("page")
    with chromium() as browser:
        text = "<!doctype html><script src='network.js'></script>"
        (folder / "network.js").write_text(script("network.js"))
        (folder / "index.html").write_text(text)
        page = browser.new_page()
        page.goto((folder / "index.html").as_uri())
        yield page


def in_the_browser(
    page: Any, network: nn.Module, recipe: Recipe, images: torch.Tensor
) -> np.ndarray:
    path = Path(page.url.removeprefix("file://")).with_name("weights.js")
    path.write_text(network_script("sample", written_network(network, recipe)))
    page.add_script_tag(url=path.as_uri())
    reach = recipe.context_slices
    stack = [images[Z + 3 * step].flatten().tolist() for step in range(-reach, reach + 1)]
    return np.array(page.evaluate(SEGMENT, ["sample", stack])).reshape(232, 196)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Slices that differ from one another, from left to right and from front to back."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(1, 189, 30, 25, generator=generator)
    noise = torch.rand(1, 189, 232, 196, generator=generator)
    return ((nn.functional.interpolate(smooth, (232, 196)) + noise)[0] * 127).byte()


@pytest.mark.parametrize("name", RECIPES)
def test_the_logits_are_those_of_pytorch(page: Any, images: torch.Tensor, name: str) -> None:
    recipe = RECIPES[name]
    network = untrained(recipe)
    expected = slice_logits(network, images, recipe, [Z], brain_only=False)[0].numpy()
    assert expected[116].std() > 0.1
    found = in_the_browser(page, network, recipe, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", pretrained_names())
def test_the_shipped_networks_in_half_the_bytes(page: Any, images: torch.Tensor, name: str) -> None:
    shipped = atlaslib.load_pretrained(name)
    assert written_network(shipped.model(), shipped.recipe)["bits"] == 16
    expected = slice_logits(shipped.model(), images, shipped.recipe, [Z], brain_only=False)[0]
    found = in_the_browser(page, shipped.model(), shipped.recipe, images)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-3)


def test_every_operation_is_there(page: Any) -> None:
    assert set(page.evaluate("Object.keys(atlaslib.OPERATIONS)")) == OPERATIONS


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, dilation=2),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.ConvTranspose2d(1, 1, 2, stride=2),
        nn.MaxPool2d(3, 2, padding=1),
        nn.AvgPool2d(3, 2, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.ZeroPad2d(1),
    ],
    ids=str,
)
def test_arguments_that_the_browser_would_ignore_are_refused(layer: nn.Module) -> None:
    first = nn.Conv2d(1, getattr(layer, "in_channels", 1), 1)
    with pytest.raises(ValueError, match=r"network\.js does not do what its arguments ask for"):
        written_network(nn.Sequential(first, layer).eval(), atlaslib.recipe("baseline", "smoke"))


class Broadcast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.adaptive_avg_pool2d(x, 1)


def test_a_sum_of_other_shapes_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), Broadcast()).eval()
    with pytest.raises(ValueError, match="does not do what its arguments ask for"):
        written_network(network, atlaslib.recipe("baseline", "smoke"))


def test_an_operation_that_is_missing_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Softplus())
    with pytest.raises(ValueError, match=r"softplus.*network\.js has no such operation"):
        written_network(network.eval(), atlaslib.recipe("baseline", "smoke"))
