"""Figures of small tables: they show the values given, labelled, in each model's own colour."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from atlaslib import figures
from atlaslib.figures.base import plain_log

IMAGE = np.arange(48.0).reshape(6, 8)
MASK = np.zeros((6, 8), bool)
MASK[1:3, 4:7] = True
PROBABILITY = np.where(MASK, 0.9, 0.1)
PROBABILITY[4, 0] = 0.5  # not above one half
HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "loss": [0.5, 0.2, 0.1], "validation_loss": [0.6, 0.4, 0.3],
     "validation_dice": [0.0, 0.3, 0.25]}
)  # fmt: skip
SCORES = {
    "baseline": pd.DataFrame(
        {"dice": [0.5, 0.1, 0.8], "loss": [0.02, 0.05, 0.02], "volume_ml": [2.0, 0.3, 150.0]}
    ),
    "resnet": pd.DataFrame(
        {"dice": [0.4, 0.3, 0.0], "loss": [0.04, 0.01, 0.01], "volume_ml": [2.0, 0.3, 150.0]}
    ),
}
SIZES = [1, 2, 4]
COSTS = {
    "baseline": pd.DataFrame(
        {"batch_size": SIZES, "seconds_per_slice": [0.004, 0.003, 0.0025], "memory_mb": [9, 12, 18]}
    ),
    "resnet": pd.DataFrame(
        {"batch_size": SIZES, "seconds_per_slice": [0.02, 0.01, 0.009], "memory_mb": [4, 5, 7]}
    ),
}
ARMS = pd.DataFrame(
    {"rate": [0.001, 0.01, 0.1], "loss": [0.3, 0.1, 0.2], "dice": [0.2, 0.6, 0.5],
     "low": [0.1, 0.5, 0.2], "high": [0.25, 0.8, 0.7]}
)  # fmt: skip
VERDICTS = pd.DataFrame(
    [("C1", "points to yes", 0.3, 0.2, 0.5, "above", 0.1),
     ("C2", "undecided", 0.02, -0.2, 0.3, "within", 0.15),
     ("C9", "not yet tested", np.nan, np.nan, np.nan, "above", 0.0)],
    columns=["claim", "verdict", "value", "low", "high", "comparison", "margin"],
)  # fmt: skip
PUBLISHED = pd.DataFrame(
    {"method": ["U-Net", "X-Net"], "release": ["R1.1", "R1.2"], "dice": [0.46, 0.49]}
)
HERE = pd.DataFrame(
    {"model": ["resnet", "baseline"], "dice": [0.3, 0.4], "low": [0.2, 0.1], "high": [0.35, 0.6]}
)
LAYERS = pd.DataFrame(
    {"layer": ["conv1", "pool1", "conv2", "dense"],
     "output": [(80, 64, 4), (40, 32, 4), (40, 32, 16), (64,)]}
)  # fmt: skip
RATES = pd.DataFrame(
    [("ours", "s", 1.5), ("theirs", "s", 60.0), ("ours", "MB", 200), ("theirs", "MB", 0)],
    columns=["reader", "measure", "value"],
)

EXAMPLES: dict[str, Callable[[], Figure]] = {
    "plot_planes": lambda: figures.plot_planes(
        {"axial": (IMAGE, MASK), "other": (IMAGE.T, MASK.T)}
    ),
    "plot_levels": lambda: figures.plot_levels(
        {"A": np.array([100.0, 200.0]), "B": np.array([800.0])},
        {"A": np.full(9, 128.0), "B": np.array([255.0, 64.0])},
    ),
    "plot_volumes": lambda: figures.plot_volumes(
        pd.DataFrame({"volume_mm3": [3_000, 1_000, 20_000, 4_000]}),
        {0.1: 380, 0.5: 5_290},
        "ATLAS R1.1",
    ),
    "plot_images": lambda: figures.plot_images({"slice": IMAGE, "lesion": MASK}),
    "plot_receptive_field": lambda: figures.plot_receptive_field(IMAGE, {"conv1": MASK * -0.1}),
    "plot_layers": lambda: figures.plot_layers(LAYERS, skips=[("conv1", "conv2")]),
    "plot_history": lambda: figures.plot_history({"baseline": HISTORY, "resnet": HISTORY / 2}, 0.7),
    "plot_predictions": lambda: figures.plot_predictions([("scan 1", IMAGE, MASK, PROBABILITY)]),
    "plot_units": figures.plot_units,
    "plot_curves": lambda: figures.plot_curves(
        {"slow": np.array([4.0, 2.0]), "fast": np.array([4.0, 1.0, 0.5])}, "step", "error (mm)"
    ),
    "plot_split": lambda: figures.plot_split({"by slice": MASK, "by subject": ~MASK}),
    "plot_ringing": lambda: figures.plot_ringing(MASK, PROBABILITY - 0.1),
    "plot_ceiling": lambda: figures.plot_ceiling(
        [5, 50, 500], [0.3, 0.6, 0.9], pd.DataFrame({"area": [10, 100], "dice": [0.4, 0.8]})
    ),
    "plot_scores": lambda: figures.plot_scores(
        pd.DataFrame({"definition": ["per scan", "pooled"], "Dice": [0.25, 0.75]}),
        "definition",
        "Dice",
    ),
    "plot_verdicts": lambda: figures.plot_verdicts(VERDICTS),
    "plot_arms": lambda: figures.plot_arms(ARMS, "rate", "learning rate"),
    "plot_costs": lambda: figures.plot_costs(COSTS),
    "plot_paired": lambda: figures.plot_paired(SCORES),
    "plot_dice_by_volume": lambda: figures.plot_dice_by_volume(SCORES),
    "plot_loss_and_dice": lambda: figures.plot_loss_and_dice(SCORES),
    "plot_segmentations": lambda: figures.plot_segmentations(
        [("scan 1", IMAGE, MASK, {"baseline": MASK, "resnet": ~MASK, "zero": MASK & False})]
    ),
    "plot_peers": lambda: figures.plot_peers(PUBLISHED, HERE),
    "plot_benchmark": lambda: figures.plot_benchmark(RATES, {"s": "time (s)", "MB": "memory (MB)"}),
}


def drawn(name: str) -> list[Axes]:
    return EXAMPLES[name]().axes


def line(axis: Axes, label: str) -> Line2D:
    return next(line for line in axis.get_lines() if line.get_label() == label)


def points(axis: Axes, label: str) -> list[list[float]]:
    return line(axis, label).get_xydata().tolist()


def outlined(axis: Axes) -> np.ndarray:
    """The pixels that lie within the outlines drawn over a picture."""
    shape = axis.images[0].get_array().shape
    grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1).reshape(-1, 2)
    inside = [path.contains_points(grid) for c in axis.collections for path in c.get_paths()]
    return np.any(inside, axis=0).reshape(shape) if inside else np.zeros(shape, bool)


def tick_names(axis: Axes) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]


# All of them


@pytest.fixture(scope="module", params=EXAMPLES)
def shown(request: pytest.FixtureRequest) -> tuple[Figure, bytes]:
    """Each example, and the picture that a notebook shows of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks, a layout that cannot fit
        figure = EXAMPLES[request.param]()
        return figure, figure._repr_png_()


def test_every_plot_function_is_tested_here():
    assert set(EXAMPLES) == {name for name in figures.__all__ if name.startswith("plot_")}


def test_a_figure_shows_itself_once_and_without_a_warning(shown):
    figure, png = shown
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == []  # else a notebook would show it twice
    assert len(Image.open(io.BytesIO(png)).convert("L").getcolors()) > 2


def test_an_axis_with_numbers_says_what_they_are(shown):
    for axes in shown[0].axes:
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            texts = [label.get_text() for label in axis.get_ticklabels() if label.get_visible()]
            if any(re.fullmatch(r"[\d.\N{MINUS SIGN}]+", text) for text in texts):
                assert axis.get_label_text(), texts


def model_colours(name: str) -> dict[str, set[str]]:
    """The colours of each model, named by a legend, a picture's title or a row's name."""
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


# What they share


def test_a_slice_stands_as_the_array_does():
    image = np.zeros((4, 6))
    image[0, 5] = 100  # first row, last column
    figure, axes = figures.panels(1, 1, width=3, height=2)
    figures.show_slice(axes[0, 0], image)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = axes[0, 0].get_window_extent()
    rows = np.asarray(canvas.buffer_rgba())[::-1, :, 0]  # from the bottom, as the box
    inside = rows[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)]
    row, column = np.argwhere(inside > 250).mean(axis=0) / inside.shape
    assert row == pytest.approx(7 / 8, abs=0.02)  # top
    assert column == pytest.approx(11 / 12, abs=0.02)  # right


def test_the_outline_encloses_the_mask_and_only_it():
    _, axes = figures.panels(1, 3)
    for axis, mask in zip(axes.flat, (MASK, MASK & False, None), strict=True):
        figures.show_slice(axis, IMAGE, mask, colour="#123456", title="a scan")
        np.testing.assert_array_equal(axis.images[0].get_array(), IMAGE)
        np.testing.assert_array_equal(outlined(axis), MASK if mask is MASK else MASK & False)
        assert axis.get_title() == "a scan"
    assert same_color(axes[0, 0].collections[0].get_edgecolor(), "#123456")


def test_panels_are_always_rows_and_columns():
    figure, axes = figures.panels(2, 3, width=6, height=4, sharey=True)
    assert axes.shape == (2, 3)
    assert figures.panels()[1].shape == (1, 1)
    assert figure.get_size_inches().tolist() == [6, 4]
    axes[0, 0].set_ylim(0, 7)
    assert axes[1, 2].get_ylim() == (0, 7)


def test_a_tidy_table_has_three_digits_and_no_index():
    table = pd.DataFrame(
        {
            "method": ["a rather long name", "B"],
            "voxels": [1_234_567.0, -1_000.4],
            "dice": [0.123456, 0.00001234],
            "scans": pd.array([12_345, None], dtype="Int64"),
        },
        index=[41, 42],
    )
    page = figures.tidy(table).to_html()
    first, second = (re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in page.split("<tr>")[2:])
    assert first == ["a rather long name", "1,234,567", "0.123", "12345"]
    assert second == ["B", "-1,000", "1.23e-05", "–"]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", page) == list(table)


@pytest.mark.parametrize(
    ("given", "expected", "ticks"),
    [
        ((2, 4), (0.8**0.5, 80**0.5), "1 3"),
        ((0.01, 100), (0.01, 100), "0.01 0.03 0.1 0.3 1 3 10 30 100"),
    ],
)
def test_a_plain_logarithmic_axis_spans_a_factor_of_ten(given, expected, ticks):
    figure, axes = figures.panels()
    axis = axes[0, 0]
    axis.set(xscale="log", xlim=given)
    plain_log(axis)
    low, high = axis.get_xlim()
    assert (low, high) == pytest.approx(expected)
    figure.draw_without_rendering()
    labels = axis.get_xticklabels(which="both")
    assert {x.get_text() for x in labels if low <= x.get_position()[0] <= high} == {*ticks.split()}


# The data


def test_planes_are_shown_bare_and_outlined():
    axes = np.reshape(drawn("plot_planes"), (2, 2))
    for column, (name, image, mask) in enumerate(
        [("axial", IMAGE, MASK), ("other", IMAGE.T, MASK.T)]
    ):
        above, below = axes[:, column]
        assert above.get_title() == name
        for axis in (above, below):
            np.testing.assert_array_equal(axis.images[0].get_array(), image)
        assert not outlined(above).any()
        np.testing.assert_array_equal(outlined(below), mask)


def test_levels_are_shares_of_all_voxels_at_their_intensity():
    raw, scaled = drawn("plot_levels")
    for axis, label, places in (
        (raw, "A", [100, 200]),
        (raw, "B", [800]),
        (scaled, "A", [128]),
        (scaled, "B", [64, 255]),
    ):
        x, y = line(axis, label).get_data()
        assert y.sum() == pytest.approx(100, abs=0.01)
        left, right = np.r_[-1, y[:-1]], np.r_[y[1:], -1]
        np.testing.assert_allclose(x[(y > left) & (y >= right) & (y > 0.1)], places, atol=3.2)
    assert [text.get_text() for text in raw.get_legend().get_texts()] == ["A", "B"]


def test_volumes_are_a_cumulative_share_in_millilitres():
    (axis,) = drawn("plot_volumes")
    here = "here: ATLAS R1.1"
    assert points(axis, here) == [[1, 25], [3, 50], [4, 75], [20, 100]]
    assert line(axis, here).get_drawstyle() == "steps-post"  # up to and including a volume
    assert points(axis, "ATLAS R2.0, published") == [[0.38, 10], [5.29, 50]]
    assert "(mL)" in axis.get_xlabel()
    assert "(%)" in axis.get_ylabel()
    assert axis.get_xscale() == "log"


# The models


def test_images_stand_side_by_side_under_their_names():
    axes = drawn("plot_images")
    assert [axis.get_title() for axis in axes] == ["slice", "lesion"]
    for axis, image in zip(axes, (IMAGE, MASK), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), image)
        assert axis.images[0].get_clim() == (image.min(), image.max())


def test_a_receptive_field_is_framed_pixel_by_pixel():
    (axis,) = drawn("plot_receptive_field")
    (frame,) = axis.patches
    assert frame.get_xy() == (3.5, 0.5)  # pixel edges lie at halves
    assert (frame.get_width(), frame.get_height()) == (3, 2)
    assert frame.get_label() == "conv1: 2 × 3 pixels"
    np.testing.assert_array_equal(axis.images[0].get_array(), IMAGE)


def test_blocks_are_as_high_as_the_slice_and_wider_with_more_channels():
    (axis,) = drawn("plot_layers")
    blocks = axis.patches[:4]
    assert [block.get_height() for block in blocks] == [80, 40, 40, 2]
    widths = [block.get_width() for block in blocks]
    assert widths[0] == widths[1] < widths[2] < widths[3]
    for left, right in pairwise(blocks):
        assert left.get_x() + left.get_width() < right.get_x()
    texts = [text.get_text() for text in axis.texts]
    assert texts[:8] == ["4", "conv1", "4", "pool1", "16", "conv2", "64", "dense"]
    (skip,) = axis.texts[8:]
    assert skip.xyann[0] == pytest.approx(blocks[0].get_x() + widths[0] / 2)
    assert skip.xy[0] == pytest.approx(blocks[2].get_x() + widths[2] / 2)


def test_a_history_is_solid_in_training_and_dashed_in_validation():
    loss, dice = drawn("plot_history")
    assert points(loss, "baseline, training") == [[1, 0.5], [2, 0.2], [3, 0.1]]
    assert points(loss, "baseline, validation") == [[1, 0.6], [2, 0.4], [3, 0.3]]
    assert points(dice, "baseline") == [[1, 0], [2, 0.3], [3, 0.25]]
    assert points(loss, "resnet, training") == [[0.5, 0.25], [1, 0.1], [1.5, 0.05]]
    assert set(line(loss, "best constant").get_ydata()) == {0.7}
    assert line(loss, "baseline, training").get_linestyle() == "-"
    assert line(loss, "baseline, validation").get_linestyle() == "--"
    assert "(nats)" in loss.get_ylabel()
    assert len(figures.plot_history({"mine": HISTORY}).axes[0].get_lines()) == 2


def test_predictions_are_outlined_above_one_half():
    traced, probability, predicted, bar = drawn("plot_predictions")
    np.testing.assert_array_equal(outlined(traced), MASK)
    np.testing.assert_array_equal(probability.images[0].get_array(), PROBABILITY)
    assert probability.images[0].get_clim() == (0, 1)  # the same shade in every figure
    np.testing.assert_array_equal(outlined(predicted), MASK)
    assert traced.get_title().startswith("scan 1")
    assert bar.get_ylabel() == "probability"
    colours = [to_hex(axis.collections[0].get_edgecolor()[0]) for axis in (traced, predicted)]
    assert len(set(colours)) == 2


def test_the_units_differ_in_order_and_where_the_shortcut_leaves():
    paper, tensorflow = drawn("plot_units")
    for axis, steps, passed in (
        (paper, "leaky ReLU, batch norm, 3×3 convolution, batch norm, 3×3 convolution", 1),
        (tensorflow, "batch norm, leaky ReLU, 3×3 convolution, " * 2, 0),
    ):
        boxes = [text for text in axis.texts if text.get_text() not in ("", "+", "shortcut")]
        boxes.sort(key=lambda text: -text.get_position()[1])
        assert [text.get_text() for text in boxes] == steps.removesuffix(", ").split(", ")
        leaves = axis.get_lines()[0].get_ydata()[0]
        assert sum(text.get_position()[1] > leaves for text in boxes) == passed


def test_curves_lie_over_their_index():
    (axis,) = drawn("plot_curves")
    assert points(axis, "slow") == [[0, 4], [1, 2]]
    assert points(axis, "fast") == [[0, 4], [1, 1], [2, 0.5]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "error (mm)")
    assert not same_color(line(axis, "slow").get_color(), line(axis, "fast").get_color())
    log = figures.plot_curves({"a": np.ones(2)}, "x", "y", yscale="log").axes[0]
    assert (log.get_xscale(), log.get_yscale()) == ("linear", "log")


def test_a_split_shows_scans_as_rows():
    axes = drawn("plot_split")
    for axis, name, trains in zip(axes, ("by slice", "by subject"), (MASK, ~MASK), strict=True):
        assert axis.get_title() == name
        np.testing.assert_array_equal(axis.images[0].get_array(), trains)
    assert axes[0].get_ylabel() == "scan"
    # also where all train, a training slice is blue
    alone = figures.plot_split({"all train": np.ones((2, 3), bool)}).axes[0].images[0]
    for picture in (axes[0].images[0], alone):
        shade = picture.to_rgba(picture.get_array())[picture.get_array() == 1][0]
        assert same_color(shade, figures.COLOURS["baseline"])


def test_ringing_counts_what_is_not_black():
    soft = np.where(MASK, 1.0, 0.0)
    soft[0, 4:7] = 0.0001
    true, shaded, counted = figures.plot_ringing(MASK, soft).axes
    np.testing.assert_array_equal(true.images[0].get_array(), MASK)
    np.testing.assert_allclose(shaded.images[0].get_array() ** 4, soft, atol=1e-6)
    assert counted.images[0].get_array().sum() == 9
    titles = [axis.get_title().split("\n")[1] for axis in (true, shaded, counted)]
    assert titles == ["6 pixels", "9 pixels", "9 pixels"]
    for axis in (true, shaded, counted):
        assert axis.images[0].get_clim() == (0, 1)
        np.testing.assert_array_equal(outlined(axis), MASK)


def test_a_ceiling_lies_over_the_area():
    (axis,) = drawn("plot_ceiling")
    assert axis.collections[0].get_offsets().tolist() == [[5, 0.3], [50, 0.6], [500, 0.9]]
    assert points(axis, "discs") == [[10, 0.4], [100, 0.8]]
    assert "mm²" in axis.get_xlabel()


def test_scores_are_bars_in_the_order_of_the_table():
    figure = EXAMPLES["plot_scores"]()
    (axis,) = figure.axes
    figure.draw_without_rendering()
    bars = sorted(axis.patches, key=lambda bar: -bar.get_y())  # from the top
    assert [bar.get_width() for bar in bars] == [0.25, 0.75]
    assert tick_names(axis)[::-1] == ["per scan", "pooled"]
    assert {text.get_text(): text.xy[0] for text in axis.texts} == {"0.250": 0.25, "0.750": 0.75}


# The results


def test_verdicts_show_interval_and_margin_from_the_top():
    (axis,) = drawn("plot_verdicts")
    assert tick_names(axis)[::-1] == ["C1: points to yes", "C2: undecided"]
    (low, high), (place, _) = axis.get_lines()[0].get_data()
    assert (low, high, place) == (-0.2, 0.3, 0)  # C2, at the bottom
    circles = [artist for artist in axis.get_lines() if artist.get_marker() == "o"]
    assert [artist.get_xydata()[0].tolist() for artist in circles] == [[0.02, 0], [0.3, 1]]
    filled = [not same_color(artist.get_markerfacecolor(), "white") for artist in circles]
    assert filled == [False, True]
    amber = [a for a in axis.get_lines() if same_color(a.get_color(), figures.COLOURS["lesion"])]
    edges = sorted((round(np.mean(a.get_ydata())), a.get_xdata()[0]) for a in amber)
    assert edges == [(0, -0.15), (0, 0.15), (1, 0.1)]  # both sides of "within", one of "above"


def test_arms_have_the_interval_of_the_table():
    loss, dice = drawn("plot_arms")
    assert loss.get_lines()[0].get_xydata().tolist() == ARMS[["rate", "loss"]].to_numpy().tolist()
    (bars,) = dice.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), ARMS[["rate", "dice"]])
    segments = np.array(bars.lines[2][0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], ARMS[["low", "high"]])
    for axis in (loss, dice):
        assert axis.get_xscale() == "log"
        assert axis.get_xlabel() == "learning rate"
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert "(nats)" in loss.get_ylabel()


def test_costs_are_in_milliseconds_and_mebibytes():
    time, memory = drawn("plot_costs")
    np.testing.assert_allclose(points(time, "baseline"), [[1, 4], [2, 3], [4, 2.5]])
    assert points(memory, "resnet") == [[1, 4], [2, 5], [4, 7]]
    assert "(ms)" in time.get_ylabel()
    assert "(MiB)" in memory.get_ylabel()
    assert time.get_xticks().tolist() == SIZES
    assert time.get_ylim()[0] == memory.get_ylim()[0] == 0


def test_pairs_stay_together_in_the_order_of_the_first_model():
    (axis,) = drawn("plot_paired")
    assert points(axis, "baseline") == [[1, 0.1], [2, 0.5], [3, 0.8]]
    assert points(axis, "resnet") == [[1, 0.3], [2, 0.4], [3, 0.0]]
    joined = np.array(axis.collections[0].get_segments())
    assert joined.tolist() == [[[1, 0.1], [1, 0.3]], [[2, 0.4], [2, 0.5]], [[3, 0.0], [3, 0.8]]]


def test_dice_lies_over_the_volume():
    (axis,) = drawn("plot_dice_by_volume")
    assert points(axis, "resnet") == [[2, 0.4], [0.3, 0.3], [150, 0]]
    assert axis.get_xscale() == "log"
    assert "(mL)" in axis.get_xlabel()
    low, high = axis.get_ylim()
    assert low < 0 < 1 <= high  # a Dice of 0 is not cut off


def test_loss_and_dice_have_their_means():
    (axis,) = drawn("plot_loss_and_dice")
    np.testing.assert_allclose(points(axis, "baseline, mean"), [[0.03, 1.4 / 3]])
    np.testing.assert_allclose(points(axis, "resnet, mean"), [[0.02, 0.7 / 3]])
    dots = [artist for artist in axis.get_lines() if len(artist.get_xdata()) == 3]
    assert dots[0].get_xydata().tolist() == [[0.02, 0.5], [0.05, 0.1], [0.02, 0.8]]


def test_segmentations_say_when_nothing_was_found():
    bare, truth, *models = drawn("plot_segmentations")
    assert [axis.get_title() for axis in models] == ["baseline", "resnet", "zero: nothing"]
    assert (bare.get_title(), truth.get_title()) == ("scan 1", "truth")
    assert not outlined(bare).any()
    np.testing.assert_array_equal(outlined(truth), MASK)
    np.testing.assert_array_equal(outlined(models[0]), MASK)
    assert not models[2].collections
    for axis in (bare, truth, *models):
        np.testing.assert_array_equal(axis.images[0].get_array(), IMAGE)


def test_peers_stand_above_and_this_build_below():
    (axis,) = drawn("plot_peers")
    low, high = axis.get_ylim()
    assert low > high  # the first row is at the top
    assert tick_names(axis) == [
        "U-Net, R1.1", "X-Net, R1.2", "resnet, this build", "baseline, this build",
    ]  # fmt: skip
    squares, *rest = axis.get_lines()
    assert squares.get_xydata().tolist() == [[0.46, 0], [0.49, 1]]
    intervals = [artist.get_xydata().tolist() for artist in rest[:4]]
    assert intervals == [[[0.2, 2], [0.35, 2]], [[0.3, 2]], [[0.1, 3], [0.6, 3]], [[0.4, 3]]]


def test_the_benchmark_has_a_bar_and_a_number_for_each_reader():
    figure = EXAMPLES["plot_benchmark"]()
    time, memory = figure.axes
    assert [bar.get_width() for bar in time.patches] == [1.5, 60]
    assert (time.get_xscale(), memory.get_xscale()) == ("log", "linear")
    assert [text.get_text() for text in time.texts] == ["1.5", "60"]
    assert [text.get_text() for text in memory.texts] == ["200", ""]  # nothing kept is no bar
    assert time.get_title() == "time (s)"
