"""What holds for every figure of the book."""

from __future__ import annotations

import io
import re
import warnings

import pytest
from drawings import (
    EXAMPLES,
    drawn,
    tick_names,
)
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from atlaslib import figures


@pytest.fixture(scope="module", params=EXAMPLES)
def shown(request: pytest.FixtureRequest) -> tuple[Figure, bytes]:
    """Each example figure, and the PNG that a notebook shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks, a layout that cannot fit
        figure = EXAMPLES[request.param]()
        return figure, figure._repr_png_()


def test_every_plot_function_has_an_example():
    assert set(EXAMPLES) == {name for name in figures.__all__ if name.startswith("plot_")}


def test_a_figure_is_shown_once_and_without_a_warning(shown):
    figure, png = shown
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == []  # else a notebook would show it twice
    assert len(Image.open(io.BytesIO(png)).convert("L").getcolors()) > 2


def test_an_axis_with_numbers_has_a_label(shown):
    for axes in shown[0].axes:
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            texts = [label.get_text() for label in axis.get_ticklabels() if label.get_visible()]
            if any(re.fullmatch(r"[\d.\N{MINUS SIGN}]+", text) for text in texts):
                assert axis.get_label_text(), texts


def model_colours(name: str) -> dict[str, set[str]]:
    """The colours of each model, found by a legend entry, an image's title or a row's name."""
    found = []
    for axis in drawn(name):
        found += [(str(artist.get_label()), artist.get_color()) for artist in axis.get_lines()]
        if name == "plot_segmentations":
            found += [(axis.get_title(), c.get_edgecolor()[0]) for c in axis.collections]
        if name == "plot_peers":
            rows = dict(enumerate(tick_names(axis)))
            found += [(rows.get(a.get_ydata()[-1], ""), a.get_color()) for a in axis.get_lines()]
    return {
        model: {to_hex(colour) for text, colour in found if text.startswith(model)}
        for model in ("baseline", "resnet")
    }


def test_a_model_has_the_same_colour_in_every_figure():
    expected = model_colours("plot_history")
    assert len(expected["baseline"]) == len(expected["resnet"]) == 1
    assert expected["baseline"] != expected["resnet"]
    for name in ("plot_costs", "plot_paired", "plot_dice_by_volume", "plot_loss_and_dice",
                 "plot_segmentations", "plot_peers"):  # fmt: skip
        assert model_colours(name) == expected, name
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)
