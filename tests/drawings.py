"""One small example of every figure, and helpers that read back what was drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from atlaslib import figures

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
    [("C1", "It learns.", "points to yes", 0.3, 0.2, 0.5, "above", 0.1),
     ("C2", "The losses are similar.", "undecided", 0.02, -0.1, 0.3, "within", 0.15),
     ("C6", "Depth does not help.", "undecided", 0.0, -0.05, 0.05, "below", 0.02),
     ("C9", "It is faster.", "not yet tested", np.nan, np.nan, np.nan, "above", 0.0)],
    columns=["claim", "statement", "verdict", "value", "low", "high", "comparison", "margin"],
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
WAIST = pd.DataFrame(
    {"layer": ["first", "average", "decoder.map", "up"],
     "output": [(80, 64, 4), (4,), (5120,), (80, 64, 1)]}
)  # fmt: skip
DRAWS = np.array([[0, 0, 0], [2, 2, 2], [0, 1, 2], [1, 1, 1]])
RATES = pd.DataFrame(
    [("ours", "s", 1.5), ("theirs", "s", 60.0), ("ours", "MB", 200), ("theirs", "MB", 0)],
    columns=["reader", "measure", "value"],
)
LENGTHS = pd.DataFrame(
    {"arm": ["baseline"] * 4, "seed": [0, 1] * 2, "passes": [6, 6, 12, 12],
     "dice": [0.1, 0.2, 0.2, 0.4]}
)  # fmt: skip
MEANS = pd.DataFrame(
    {"arm": ["baseline", "resnet, skips"], "value": [0.4, 0.3], "low": [0.3, 0.2],
     "high": [0.5, 0.45]}
)  # fmt: skip
CELLS = pd.DataFrame(
    [("6 convolutions", "U-Net", 0.4, 0.3, 0.5), ("6 convolutions", "vector", 0.1, 0.0, 0.2),
     ("20 units", "U-Net", 0.5, 0.45, 0.55), ("20 units", "vector", 0.2, 0.1, 0.3)],
    columns=["encoder", "decoder", "value", "low", "high"],
)  # fmt: skip
RANKED = pd.DataFrame(
    {"passes": [1, 2, 3], "value": [0.1, 0.0, -0.1], "low": [0.0, -0.1, -0.2],
     "high": [0.2, 0.1, 0.0]}
)  # fmt: skip
PATHS = pd.DataFrame(
    {"arm": ["resnet"] * 4 + ["resnet, plain loss"] * 2,
     "seed": [0, 0, 1, 1, 0, 0], "epoch": [1, 2] * 3,
     "validation_cross_entropy": [0.03, 0.02, 0.04, 0.02, 0.05, 0.06],
     "validation_dice": [0.0, 0.1, 0.0, 0.2, 0.2, 0.4]}
)  # fmt: skip
BINS = pd.DataFrame(
    {
        "low": [0.0, 0.5, 0.0, 0.5],
        "predicted": [0.1, 0.9, 0.2, 0.8],
        "observed": [0.05, 0.7, 0.1, np.nan],
    }
)
AGREED = pd.DataFrame({"volume_ml": [1.0, 10.0, 100.0], "predicted_ml": [2.0, 20.0, 0.0]})
PIECES = pd.DataFrame(
    {"of": ["truth", "truth", "truth", "prediction"], "volume_ml": [0.5, 0.6, 20.0, 3.0],
     "overlap": [0.0, 0.3, 1.0, 0.0]}
)  # fmt: skip

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
    "plot_anatomy": lambda: figures.plot_anatomy(
        np.eye(200), {"gyrus": (150, 20), "scalp": (60, 40), "ventricle": (90, 120)}
    ),
    "plot_imitators": lambda: figures.plot_imitators({"sulcus": (np.eye(200), (90, 60))}),
    "plot_recovery": lambda: figures.plot_recovery(
        [0, 1, 2], {"white matter": [-1, 0.4, 0.8], "fluid": [-0.5, -0.1, 0.3]}, 1.0
    ),
    "plot_overlap": lambda: figures.plot_overlap({"too large": (MASK | (IMAGE < 3), MASK)}),
    "plot_networks": lambda: figures.plot_networks(
        {"baseline": LAYERS[:3], "resnet": WAIST}, {"baseline": [("conv1", "conv2")]}
    ),
    "plot_bootstrap": lambda: figures.plot_bootstrap([0.2, 0.4, 0.9], DRAWS),
    "plot_outlines": lambda: figures.plot_outlines(
        IMAGE[..., None].repeat(5, 2), MASK[..., None].repeat(5, 2), (1.0, 1.0, 2.0), "scan 1"
    ),
    "plot_contact_sheet": lambda: figures.plot_contact_sheet(
        {"scan 1": [(IMAGE, MASK), (IMAGE.T, MASK.T)], "scan 2": [(IMAGE, MASK)]}, across=1
    ),
    "plot_images": lambda: figures.plot_images({"slice": IMAGE, "lesion": MASK}),
    "plot_receptive_field": lambda: figures.plot_receptive_field(IMAGE, {"conv1": MASK * -0.1}),
    "plot_layers": lambda: figures.plot_layers(LAYERS, skips=[("conv1", "conv2")]),
    "plot_history": lambda: figures.plot_history({"baseline": HISTORY, "resnet": HISTORY / 2}, 0.7),
    "plot_predictions": lambda: figures.plot_predictions(
        [("scan 1", IMAGE, MASK, PROBABILITY)], "resnet"
    ),
    "plot_units": figures.plot_units,
    "plot_curves": lambda: figures.plot_curves(
        {"slow": np.array([4.0, 2.0]), "fast": np.array([4.0, 1.0, 0.5])}, "step", "error (mm)"
    ),
    "plot_split": lambda: figures.plot_split({"by slice": MASK, "by subject": ~MASK}),
    "plot_ringing": lambda: figures.plot_ringing(MASK, PROBABILITY - 0.1),
    "plot_ceiling": lambda: figures.plot_ceiling(
        [5, 50, 500], [0.3, 0.6, 0.9], pd.DataFrame({"area": [10, 100], "dice": [0.4, 0.8]})
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
    "plot_means": lambda: figures.plot_means(MEANS),
    "plot_crossed": lambda: figures.plot_crossed(
        pd.DataFrame({"good": [0.9, 0.7], "poor": [0.0, 0.2]}, index=[3, 4])
    ),
    "plot_factorial": lambda: figures.plot_factorial(CELLS),
    "plot_factorial_slice": lambda: figures.plot_factorial_slice(
        IMAGE,
        MASK,
        {"U-Net": {"plain": MASK, "20 units": ~MASK}, "vector": {"plain": MASK & False}},
    ),
    "plot_ranking": lambda: figures.plot_ranking({"C3": RANKED, "depth": -RANKED}, 0.02),
    "plot_paths": lambda: figures.plot_paths({"by person": PATHS}),
    "plot_lengths": lambda: figures.plot_lengths(LENGTHS),
    "plot_calibration": lambda: figures.plot_calibration({"baseline": BINS}),
    "plot_agreement": lambda: figures.plot_agreement({"baseline": AGREED, "resnet": 1000 * AGREED}),
    "plot_detection": lambda: figures.plot_detection({"baseline": PIECES}, (0.1, 1, 100)),
    "plot_benchmark": lambda: figures.plot_benchmark(RATES, {"s": "time (s)", "MB": "memory (MB)"}),
}


def drawn(name: str) -> list[Axes]:
    return EXAMPLES[name]().axes


def line(axis: Axes, label: str) -> Line2D:
    return next(line for line in axis.get_lines() if line.get_label() == label)


def points(axis: Axes, label: str) -> list[list[float]]:
    return line(axis, label).get_xydata().tolist()


def outlined(axis: Axes) -> np.ndarray:
    """The pixels that lie inside the outlines drawn over an image."""
    shape = axis.images[0].get_array().shape
    grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1).reshape(-1, 2)
    inside = [path.contains_points(grid) for c in axis.collections for path in c.get_paths()]
    return np.any(inside, axis=0).reshape(shape) if inside else np.zeros(shape, bool)


def tick_names(axis: Axes) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]
