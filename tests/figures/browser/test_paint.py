"""The reader paints a lesion, and the networks follow; played in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pages
import pytest
import torch
from torch import nn

import atlaslib
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import near_brain
from atlaslib.evaluation.inference import slice_logits
from atlaslib.evaluation.predictor import Predictor
from atlaslib.figures.browser import paint
from atlaslib.profiles import recipe

DARK = 0.3  # the network marks what is darker


def network(block: int = 1) -> Predictor:
    """A network that marks what is dark, wherever it is, and so can be foretold."""
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, -50)
    nn.init.constant_(layer.bias, 50 * DARK)
    return Predictor(
        nn.Sequential(layer), recipe("baseline", "quick", downsample=block, flip_tta=True)
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """A brain of one grey, but for some fluid at the front; nothing outside."""
    images = np.where(to_slices(near_brain()), 150, 90).astype(np.uint8)
    images[:, :36] = np.where(images[:, :36] == 150, 20, 90)
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Path:
    """The demonstration as a page of a book, its scripts in files of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paint, "healthy_slices", lambda: images)
        made = paint.paint_a_stroke({"dark": network()})
    output = nbformat.v4.new_output("display_data", {"text/html": made._repr_html_()})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    root = tmp_path_factory.mktemp("book")
    for name, text in pages.share_scripts(notebook, "book/page").items():
        (root / "_static").mkdir(exist_ok=True)
        (root / "_static" / name).write_text(text)
    (root / "book").mkdir()
    page = "<!doctype html><meta charset='utf-8'>" + output.data["text/html"]
    (root / "book" / "page.html").write_text(page)
    made.save(root / "alone.html")
    return root


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, started; an error in a script fails the test."""
    page, errors = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((folder / "book" / "page.html").as_uri())
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("canvas")
    yield page
    page.close()
    assert errors == []


def settled(page: Any) -> list[str]:
    """The row of the network, once it has seen the latest picture: name, marked area, Dice, ms."""
    page.wait_for_selector("table[aria-busy=false]")
    return [cell.inner_text() for cell in page.locator("tbody td").all()]


def done(page: Any) -> list[int]:
    """The numbers of the tasks that are done."""
    return [n for n, item in enumerate(page.locator("ol li").all(), 1)
            if "done" in (item.get_attribute("class") or "")]  # fmt: skip


def on_screen(page: Any, column: float, row: float) -> tuple[float, float]:
    top, left, _, width = paint.SHOWN
    box = page.locator("canvas").bounding_box()
    scale = box["width"] / width
    return box["x"] + (column - left) * scale, box["y"] + (row - top) * scale


def test_the_first_lesion_is_that_of_python(page: Any, images: np.ndarray) -> None:
    brain = to_slices(near_brain())[paint.Z]
    fluid = float(np.percentile(images[paint.Z][brain], paint.FLUID))
    painted, truth = paint.with_lesion(images, brain, fluid)
    assert truth.sum() == pytest.approx(np.pi * (paint.SIZE / 2) ** 2, rel=0.02)
    chosen = network()
    marked = (
        slice_logits(chosen.model(), torch.from_numpy(painted), chosen.recipe, [paint.Z])[0] > 0
    ).numpy()
    _, area, dice, time = settled(page)
    assert dice == f"{atlaslib.dice(marked, truth):.2f}"
    assert area == f"{marked.sum() / 100:.1f} cm²"
    assert float(time) >= 0


def test_dragged_across_the_midline_and_back(page: Any) -> None:
    first = settled(page)
    column, row = paint.MARK
    page.mouse.move(*on_screen(page, column, row))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 130, row), steps=3)
    page.mouse.move(*on_screen(page, 196 - column, row), steps=3)
    page.mouse.up()
    assert settled(page)[:3] == first[:3]  # the network looks alike at both sides
    assert done(page) == [1]


def test_painted_beside_it(page: Any) -> None:
    first = float(settled(page)[1].split()[0])
    page.mouse.click(*on_screen(page, 60, 150))
    area = np.pi * (paint.SIZE / 20) ** 2
    assert float(settled(page)[1].split()[0]) == pytest.approx(first + area, abs=0.2)


def test_by_keyboard_alone(page: Any) -> None:
    """The canvas has the focus when the demonstration starts."""
    first = float(settled(page)[1].split()[0])
    page.keyboard.press("m")
    area = np.pi * (paint.SIZE / 20) ** 2
    assert float(settled(page)[1].split()[0]) == pytest.approx(first + area, abs=0.2)
    assert done(page) == [3]
    page.keyboard.press("m")
    for _ in range(10):
        page.keyboard.press("Shift+ArrowLeft")
    settled(page)
    assert done(page) == [1, 3]
    for _ in range(14):
        page.keyboard.press("-")
    assert page.get_by_label("Size", exact=True).input_value() == "4"
    assert settled(page)[2] > "0.00"
    assert done(page) == [1, 3]  # it is not lost yet


def test_the_slice_is_cleared_and_painted_anew_by_mouse(page: Any) -> None:
    first = settled(page)
    page.get_by_role("button", name="Clear the slice").click()
    cleared = float(settled(page)[1].split()[0])
    assert settled(page)[2] == "0.00"  # the fluid is marked, and there is no lesion
    page.mouse.click(*on_screen(page, 60, 150))
    area = np.pi * (paint.SIZE / 20) ** 2
    assert float(settled(page)[1].split()[0]) == pytest.approx(cleared + area, abs=0.2)
    page.get_by_role("button", name="Start again").click()
    assert settled(page)[:3] == first[:3]


def test_a_stroke_by_keyboard(page: Any) -> None:
    """Copies stay where the first disc was; the arrow keys move the newest."""
    settled(page)
    page.keyboard.press("Delete")
    cleared = float(settled(page)[1].split()[0])
    assert done(page) == []
    area = np.pi * (paint.SIZE / 20) ** 2
    for discs in (1, 2, 3):
        page.keyboard.press("Space")
        for _ in range(3 if discs > 1 else 0):
            page.keyboard.press("Shift+ArrowDown")
        painted = float(settled(page)[1].split()[0]) - cleared
        assert painted == pytest.approx(discs * area, abs=0.3)
    page.keyboard.press("Backspace")
    assert float(settled(page)[1].split()[0]) == cleared
    assert "Delete clears" in page.locator(".picture .caption").inner_text()


def test_the_sizes_between_which_a_disc_is_lost(
    browser: Any, images: np.ndarray, tmp_path: Path
) -> None:
    """By a network that sees blocks of 4 mm, and one that would have to see light."""
    blind = network()
    nn.init.constant_(blind.network[0].bias, -100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paint, "healthy_slices", lambda: images)
        made = paint.paint_a_stroke({"coarse": network(4), "blind": blind})
    made.save(tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("canvas")
    page.get_by_label("Darkness").fill("0.6")  # a block has to be dark all over
    sizes = {}
    for size in (18, 14, 10, 8, 7, 6, 5, 4):
        page.get_by_label("Size", exact=True).fill(str(size))
        sizes[size] = settled(page)[2]
    found = [size for size, dice in sizes.items() if dice > "0.00"]
    lost = [size for size, dice in sizes.items() if dice == "0.00"]
    assert min(found) > max(lost) > 3
    told = page.locator("li.done em").inner_text()
    assert told == (
        f"coarse: found it at {min(found)} mm and lost it at {max(lost)}; "
        "blind: has not found it yet"
    )
    page.get_by_label("Size", exact=True).fill("18")
    page.get_by_role("button", name="Start again").click()  # another disc, and a larger one
    settled(page)
    assert page.locator("li.done em").inner_text() == told
    page.close()


def test_a_disc_that_pales_is_not_lost_by_its_size(page: Any) -> None:
    page.get_by_label("Darkness").fill("0")
    page.get_by_label("Size", exact=True).fill("12")
    assert settled(page)[2] == "0.00"
    assert done(page) == []


def test_a_contrast_that_hides_the_lesion_breaks_the_network(page: Any) -> None:
    """As dark as the threshold needs, and no darker."""
    page.get_by_label("Size", exact=True).fill("30")
    page.get_by_label("Darkness").fill("0.6")
    assert settled(page)[2] > "0.5"
    page.get_by_label("Contrast").fill("0.3")
    assert settled(page)[2] == "0.00"
    assert done(page) == [4]
    page.get_by_role("button", name="Start again").click()
    assert page.get_by_label("Contrast").input_value() == "1"


def test_the_network_is_loaded_when_it_is_needed(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "book" / "page.html").as_uri())
    assert page.evaluate("atlaslib.networks") is None
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("canvas")
    assert page.evaluate("Object.keys(atlaslib.networks)") == ["dark"]
    page.close()


def test_alone_it_needs_no_file(browser: Any, folder: Path, tmp_path: Path) -> None:
    """As in a notebook."""
    target = tmp_path / "moved.html"
    target.write_bytes((folder / "alone.html").read_bytes())
    page = browser.new_page()
    page.goto(target.as_uri())
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("canvas")
    assert settled(page)[0] == "dark"
    page.close()


def test_a_missing_file_is_named(browser: Any, folder: Path, tmp_path: Path) -> None:
    page = browser.new_page()
    text = (
        (folder / "book" / "page.html")
        .read_text()
        .replace("../_static", folder.as_uri() + "/_static")
    )
    (tmp_path / "page.html").write_text(text)
    page.route("**/network-dark.js", lambda route: route.abort())
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("text=network-dark.js is missing")
    page.unroute("**/network-dark.js")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("canvas")
    assert page.locator("canvas").evaluate("e => getComputedStyle(e).touchAction") == "pinch-zoom"
    page.close()


def test_another_button_paints_nothing(page: Any) -> None:
    before = settled(page)[1]
    page.mouse.click(*on_screen(page, 60, 150), button="right")
    assert settled(page)[1] == before


def test_in_print_and_without_scripts_there_is_a_picture(
    browser: Any, page: Any, folder: Path
) -> None:
    page.emulate_media(media="print")
    assert page.locator(".still img").is_visible()
    assert not page.locator("canvas").is_visible()
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((folder / "book" / "page.html").as_uri())
    assert plain.locator(".still img").is_visible()
    assert plain.get_by_role("button").count() == 0
    context.close()


def test_the_shipped_networks_do_what_the_preface_and_chapter_3_say(
    browser: Any, tmp_path: Path
) -> None:
    paint.paint_a_stroke().save(tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("canvas")
    disc = np.pi * (paint.SIZE / 20) ** 2

    def seen(*keys: str, **sliders: float) -> dict[str, tuple[float, float]]:
        """Area and Dice by network, after keys from the first disc on, and sliders."""
        page.get_by_role("button", name="Start again").click()
        for name, value in sliders.items():
            page.get_by_label(name, exact=True).fill(str(value))
        page.locator("canvas").focus()
        for key in keys:
            page.keyboard.press(key)
        cells = settled(page)
        rows = (cells[first : first + 3] for first in range(0, len(cells), 4))
        return {name: (float(area.split()[0]), float(dice)) for name, area, dice in rows}

    first = seen()
    assert first["baseline"][1] > 0.8
    assert first["today's network"][1] > 0.8
    assert first["ResNet"] == (0, 0)
    twice = seen("m")
    assert twice["today's network"][1] > 0.8
    assert twice["baseline"][0] == first["baseline"][0]  # blind for the mirror image
    for way in ("Up", "Down"):
        assert seen(*3 * [f"Shift+Arrow{way}"])["ResNet"][1] > 0.3
    for size in (26, 30, 36):
        area, dice = seen(Size=size)["ResNet"]
        of_disc = disc * (size / paint.SIZE) ** 2
        assert area > of_disc
        assert dice * (area + of_disc) / 2 < area / 2  # of the mask, less than half is in the disc
    small = seen(Size=12)
    assert small["baseline"] == (0, 0)
    assert small["today's network"][1] > 0.8
    assert all(each == (0, 0) for each in seen(Size=6).values())
    assert seen(Darkness=0.2)["today's network"] == (0, 0)
    noisy = seen(Noise=100)
    assert noisy["baseline"][1] > 0.7
    assert noisy["today's network"][1] > 0.7
    low, high = seen(Contrast=0.3), seen(Contrast=2)
    assert low["baseline"][1] == high["baseline"][1] == 0
    assert high["today's network"][1] > 0.8
    assert low["today's network"][0] > 1.4 * disc
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_page(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("canvas").bounding_box()["width"] >= 300
