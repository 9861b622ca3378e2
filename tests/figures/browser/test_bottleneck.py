"""The numbers in a bottleneck and the mask made of them; played in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from waists import RECIPE, resnet

import atlaslib
from atlaslib.data.model_input import to_full_resolution, to_model_input
from atlaslib.evaluation.predictor import Predictor
from atlaslib.figures.browser import bottleneck as module
from atlaslib.figures.browser.narrowest import bottleneck, tensors
from atlaslib.figures.browser.written import network_script, script, trace, written_network

RUN = """([tensors, x, vector, shape]) => {
  const network = new atlaslib.Network(atlaslib.networks.sample);
  const input = atlaslib.tensor([1, 48, 40], Float64Array.from(x));
  const numbers = atlaslib.tensor(shape, Float64Array.from(vector));
  return [network.forward(input, "x", tensors.vector), network.forward(numbers, tensors.vector),
          network.forward(network.forward(input, "x", tensors.before), tensors.before)]
    .map(({ data }) => Array.from(data));
}"""


class Foretold(nn.Sequential):
    """Three averages, of which the first marks the lesion, the second left, the third right.

    The averages are the slice's mean brightness, once with its sign turned, so that a bright slice
    is marked on the right, and a dark one on the left. ``means`` are those of all scans.
    """

    def __init__(self, means: np.ndarray) -> None:
        gain = torch.zeros(3, 12, 10)  # of logits, per standard deviation of a number
        gain[0, 6, 2:4], gain[1, :, :5], gain[2, :, 5:] = 10, 3, 3
        first = torch.full((12, 10), -2.0)
        first[6, 2:4] = -8
        signs, spread = torch.tensor([1.0, -1, 1]), float(means.std())
        split, fill, join = nn.Conv2d(1, 3, 1, bias=False), nn.Linear(3, 120), nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            split.weight[:, 0, 0, 0] = signs
            fill.weight.copy_(gain.flatten(1).T / spread)
            centre = signs * float(means.mean())
            fill.bias.copy_(first.flatten() - fill.weight @ centre)
            join.weight.fill_(1)
            join.bias.fill_(0)
        grow = nn.Upsample(scale_factor=4, mode="bilinear")
        flat = nn.Flatten(), fill, nn.Unflatten(1, (1, 12, 10))
        super().__init__(split, nn.AdaptiveAvgPool2d(1), *flat, grow, join)


@pytest.fixture(scope="module")
def predictor(cohort: atlaslib.Cohort) -> Predictor:
    slices = atlaslib.SliceDataset(cohort, progress=False)
    means = []
    for images, masks in map(slices.scan, range(len(cohort))):
        z = int(masks.flatten(1).sum(1).argmax())
        means.append(to_model_input(images[None, [z]], RECIPE).mean() / 255)
    return Predictor(Foretold(np.array(means)), RECIPE)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, predictor: Predictor, cohort: atlaslib.Cohort
) -> Path:
    root = tmp_path_factory.mktemp("page")
    module.explore_bottleneck(predictor, cohort).save(root / "page.html")
    (root / "network.js").write_text(script("network.js"))
    (root / "empty.html").write_text("<!doctype html><script src='network.js'></script>")
    return root


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, started; an error in a script fails the test."""
    page, errors = browser.new_page(viewport={"width": 1280, "height": 1000}), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((folder / "page.html").as_uri())
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector(".started canvas")
    yield page
    page.close()
    assert errors == []


def wait(page: Any) -> None:
    """Until the page has computed what the numbers give."""
    page.wait_for_selector("table[aria-busy=false]")


def settled(page: Any) -> list[float]:
    """Dice: the network's, now, best; area of the mask: the network's, now."""
    wait(page)
    texts = page.locator("tbody td").all_inner_texts()
    return [float(text.split()[0]) for text in (*texts[1:4], *texts[5:7])]


def done(page: Any) -> list[int]:
    """The numbers of the tasks that are done."""
    return [n for n, item in enumerate(page.locator("ol li").all(), 1)
            if "done" in (item.get_attribute("class") or "")]  # fmt: skip


def bar(page: Any, number: int) -> Any:
    return page.get_by_role("slider", name=f"number {number}", exact=True)


def right_first(page: Any) -> None:
    """Choose a scan with a mask on the right; blend with one on the left."""
    for scan in range(3):
        page.get_by_role("combobox", name="Slice of").select_option(str(scan))
        wait(page)
        if float(bar(page, 3).get_attribute("aria-valuenow")) > 0.7:
            break
    for other in range(3):
        page.get_by_role("combobox", name="Blend with").select_option(str(other))
        page.get_by_role("slider", name="Blend", exact=True).fill("100")
        wait(page)
        if float(bar(page, 3).get_attribute("aria-valuenow")) < -0.7:
            break
    page.get_by_role("button", name="Start again").click()


def test_nobody_to_blend_with(cohort: atlaslib.Cohort, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="two scans with a lesion or more, found 1"):
        module.explore_bottleneck(predictor, cohort[:1])


def test_the_numbers_and_logits_are_those_of_pytorch(browser: Any, folder: Path) -> None:
    x = torch.rand(1, 1, 48, 40)
    network = resnet()
    traced = trace(network, RECIPE)
    place = bottleneck(traced)
    kept = tensors(traced, x, {place.vector})
    (folder / "sample.js").write_text(network_script("sample", written_network(network, RECIPE)))
    page = browser.new_page()
    page.goto((folder / "empty.html").as_uri())
    page.add_script_tag(url=(folder / "sample.js").as_uri())
    vector = kept[place.vector][0]
    values = [vars(place), x.flatten().tolist(), vector.tolist(), list(vector.shape)]
    numbers, decoded, around = page.evaluate(RUN, values)
    logits = kept["logits"].flatten().numpy()
    assert logits.std() > 0.01
    np.testing.assert_allclose(numbers, vector.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(decoded, logits, rtol=0, atol=1e-3)
    np.testing.assert_allclose(around, logits, rtol=0, atol=1e-3)
    page.close()


def test_the_first_masks_are_those_of_the_network(
    page: Any, predictor: Predictor, cohort: atlaslib.Cohort
) -> None:
    slices = atlaslib.SliceDataset(cohort, progress=False)
    expected = set()
    for position in range(len(cohort)):
        images, masks = slices.scan(position)
        z = int(masks.flatten(1).sum(1).argmax())
        with torch.no_grad():
            x = to_model_input(images[None, [z]], RECIPE) / 255
            logits = to_full_resolution(predictor.model()(x), RECIPE)[0, 0].numpy()
        brain = module.to_slices(module.near_brain())[z]
        expected.add(round(float(((logits > 0) & brain).sum()) / 100, 1))
    for scan in range(3):
        page.get_by_role("combobox", name="Slice of").select_option(str(scan))
        _, _, _, own, now = settled(page)
        assert own == now > 0
        assert min(abs(own - area) for area in expected) < 0.5  # weights are rounded


def test_one_number_by_keyboard(page: Any) -> None:
    right_first(page)
    area = settled(page)[3]
    assert done(page) == []
    bar(page, 1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "number 3"
    before = float(bar(page, 3).get_attribute("aria-valuenow"))
    page.keyboard.press("ArrowDown")
    wait(page)
    assert float(bar(page, 3).get_attribute("aria-valuenow")) == pytest.approx(
        before - 0.1, abs=0.06
    )
    page.keyboard.press("Home")
    assert settled(page)[4] < area / 2
    assert 1 in done(page)
    assert page.locator("li.done em").first.inner_text().startswith("Number 3 from +")
    page.keyboard.press("Delete")
    assert settled(page)[4] == area


def test_the_target_is_drawn_by_mouse(page: Any) -> None:
    right_first(page)
    own = settled(page)[0]
    assert 4 not in done(page)
    for number, share in ((3, 0.95), (1, 0.1), (2, 0.8)):  # from the top
        box = bar(page, number).bounding_box()
        x = box["x"] + box["width"] / 2
        page.mouse.move(x, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(x, box["y"] + share * box["height"], steps=3)
        page.mouse.up()
    wait(page)
    assert float(bar(page, 3).get_attribute("aria-valuenow")) == pytest.approx(-3.6, abs=0.1)
    assert settled(page)[1] > own + 0.1
    assert 4 in done(page)


def test_the_search_draws_it_too(page: Any) -> None:
    right_first(page)
    own = settled(page)[0]
    button = page.get_by_role("button", name="Let the browser search")
    told = button.evaluate("button => (button.click(), button.textContent)")
    assert told == "Stop (start 1 of 4)"  # three scans and their mean
    button.wait_for()
    first = settled(page)
    assert first[1] > own + 0.1
    assert 4 in done(page)
    page.get_by_role("combobox", name="Target").select_option("disc")
    button.click()
    button.wait_for()
    page.get_by_role("combobox", name="Target").select_option("lesion")
    button.click()
    button.wait_for()
    assert settled(page) == first  # whatever was searched before
    page.get_by_role("combobox", name="Target").select_option("mirrored")
    assert settled(page)[1] == 0  # there is nothing on the other side that the numbers can draw


def test_what_was_found_with_a_scan_is_said_beside_this_scan_alone(page: Any) -> None:
    right_first(page)
    words = page.locator("ol li em").first
    bar(page, 3).focus()
    page.keyboard.press("Home")
    wait(page)
    told = words.inner_text()
    assert told.startswith("Number 3")
    chosen = page.get_by_role("combobox", name="Slice of")
    mine = chosen.input_value()
    chosen.select_option(str((int(mine) + 1) % 3))
    wait(page)
    assert words.inner_text() == ""
    chosen.select_option(mine)
    wait(page)
    assert words.inner_text() == told


def test_blended_by_keyboard(page: Any) -> None:
    right_first(page)
    page.locator("canvas[tabindex='0']").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    settled(page)
    assert done(page) == []
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    settled(page)
    assert 2 in done(page)
    assert "% of it lies in the first mask" in page.locator("li.done em").first.inner_text()
    assert page.get_by_role("slider", name="Blend", exact=True).input_value() == "100"
    assert float(bar(page, 3).get_attribute("aria-valuenow")) < -0.7


def test_shuffled_before_and_behind(page: Any) -> None:
    right_first(page)
    before = settled(page)
    page.get_by_role("button", name="Shuffle").first.click()
    assert settled(page) == before
    assert done(page) == []
    page.get_by_role("button", name="Shuffle").last.click()
    settled(page)
    assert done(page) == [3]
    first, second = page.locator("li.done em").inner_text().split("Behind them")
    assert first.count("0.000") == 2
    assert "0.00" not in second


def test_too_large_for_a_page(
    cohort: atlaslib.Cohort, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT", 100)
    html = module.explore_bottleneck(predictor, cohort).html
    assert "<script" not in html
    assert "482 weights behind the bottleneck" in html
    assert "<img alt=" in html


def test_in_print_there_is_a_picture(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator(".still img").is_visible()
    assert "3 numbers" in page.locator(".still img").get_attribute("alt")
    assert not page.locator(".bars").is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_page(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("canvas").first.bounding_box()["width"] >= 300
