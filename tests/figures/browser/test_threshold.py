"""Thresholds, Dice and loss agree with the library's own scores; played in a headless Chromium."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from scipy.special import expit
from torch import nn

import atlaslib
from atlaslib.evaluation.metrics import pooled_dice
from atlaslib.evaluation.predictor import Predictor
from atlaslib.evaluation.starter_code import original_scores
from atlaslib.figures.browser.threshold import LEVELS, choose_threshold, dice_and_loss
from atlaslib.profiles import recipe


def network(offset: float) -> Predictor:
    """Logits that fall with the brightness of a pixel, with something added to each."""
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, -6)
    nn.init.constant_(layer.bias, 3 + offset)
    return Predictor(nn.Sequential(layer), recipe("baseline", "smoke"))


@pytest.fixture(scope="module")
def found(cohort: atlaslib.Cohort) -> dict:
    return dice_and_loss(network(0), cohort[:3])


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_threshold_is_as_a_network_with_another_bias(
    cohort: atlaslib.Cohort, found: dict, level: float
) -> None:
    other, at = network(-level), int(np.flatnonzero(level == LEVELS)[0])
    table = atlaslib.evaluate(other, cohort[:3], progress=False)
    expected = {
        "2018": original_scores(other, cohort[:3]).dice_original.mean(),
        "per slice": table.dice_per_slice.mean(),
        "per scan": table.dice.mean(),
        "pooled": pooled_dice(table),
    }
    for name, values in found["dice"].items():
        assert values[at] == pytest.approx(expected[name], abs=6e-5)  # rounded to four digits
        assert abs(values[at - 1] - values[at]) > 2e-4  # the next threshold gives another
    assert set(found["dice"]) == set(expected)


@pytest.mark.parametrize("shift", [0.0, -2.0, 3.0])
def test_a_shift_moves_the_loss(cohort: atlaslib.Cohort, found: dict, shift: float) -> None:
    table = atlaslib.evaluate(network(shift), cohort[:3], progress=False)
    at = int(np.flatnonzero(shift == LEVELS)[0])
    assert found["loss"][at] == pytest.approx(table.cross_entropy.mean(), rel=2e-3)


def test_zero_is_the_best_constant(found: dict) -> None:
    assert 0 < found["zero"] < min(found["loss"])


def test_choose_on_validation_then_look_at_the_test(
    cohort: atlaslib.Cohort, found: dict, tmp_path: Path
) -> None:
    made = choose_threshold({"baseline": network(0), "resnet": network(1)}, cohort[:3], cohort[3:5])
    made.save(tmp_path / "page.html")
    with chromium() as browser:
        page, errors = browser.new_page(), list[str]()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_role("button", name="Start").click()
        cells = page.locator("tbody tr:nth-child(3) td")
        at = int(np.flatnonzero(LEVELS == 0)[0])
        assert cells.all_inner_texts()[1:3] == [f"{found['dice']['per scan'][at]:.3f}", "?"]
        page.wait_for_selector("canvas")
        for _ in range(2):  # the canvas has the focus
            page.keyboard.press("ArrowLeft")
        assert f"{expit(-0.5):.3f}" in page.locator("output").all_inner_texts()
        assert cells.nth(1).inner_text() == f"{found['dice']['per scan'][at - 2]:.3f}"
        loss = page.locator("tbody tr:nth-child(5) td:nth-child(2)")
        assert loss.inner_text() == f"{found['loss'][at]:.5f}"  # a threshold leaves it alone
        where, chart = page.get_by_label("Slice of"), page.locator("svg text")
        assert where.locator("option:disabled").all_inner_texts() == ["a test scan"]
        assert "Dice, validation scans" in chart.all_text_contents()
        page.get_by_role("button", name="Look at the test scans").click()
        assert where.locator("option:disabled").count() == 0
        assert where.input_value() == "test"
        assert "Dice, test scans" in chart.all_text_contents()
        assert cells.nth(2).inner_text() != "?"
        assert "0.38" in page.locator("li.done em").inner_text()
        page.get_by_role("button", name="Keep this mask").click()
        page.get_by_label("Shift").fill("1")
        assert loss.inner_text() == f"{found['loss'][at + 4]:.5f}"
        assert cells.nth(1).inner_text() == f"{found['dice']['per scan'][at - 6]:.3f}"
        page.get_by_label("Network").select_option("resnet")
        page.get_by_label("Shift").fill("0")
        # the other network's logits are larger by 1, as the first one's were with the shift
        assert loss.inner_text() == f"{found['loss'][at + 4]:.5f}"
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert errors == []
        browser.close()
