"""The book's figures, viewers of a scan, and demonstrations that run in the browser.

In: tables or arrays, for a viewer a scan. Out: a Figure that is not registered with pyplot, so that
a notebook shows it only once, as the last line of a cell; of a demonstration, HTML.
May import: training, evaluation, runs, synthetic, data, networks, profiles, recipes, models, files.
"""

from atlaslib.figures.base import COLOURS, Picture, panels, show_slice, tidy
from atlaslib.figures.browser.bottleneck import explore_bottleneck
from atlaslib.figures.browser.paint import paint_a_stroke
from atlaslib.figures.browser.threshold import choose_threshold
from atlaslib.figures.data import (
    plot_anatomy,
    plot_imitators,
    plot_levels,
    plot_planes,
    plot_volumes,
)
from atlaslib.figures.experiments import (
    plot_agreement,
    plot_calibration,
    plot_crossed,
    plot_detection,
    plot_factorial,
    plot_factorial_slice,
    plot_lengths,
    plot_means,
    plot_paths,
    plot_ranking,
)
from atlaslib.figures.ideas import plot_bootstrap, plot_networks, plot_overlap, plot_recovery
from atlaslib.figures.models import (
    plot_ceiling,
    plot_curves,
    plot_history,
    plot_images,
    plot_layers,
    plot_predictions,
    plot_receptive_field,
    plot_ringing,
    plot_split,
    plot_units,
)
from atlaslib.figures.native import plot_contact_sheet, plot_outlines
from atlaslib.figures.results import (
    plot_arms,
    plot_benchmark,
    plot_costs,
    plot_dice_by_volume,
    plot_loss_and_dice,
    plot_paired,
    plot_peers,
    plot_segmentations,
    plot_verdicts,
)

__all__ = [
    "COLOURS",
    "Picture",
    "choose_threshold",
    "explore_bottleneck",
    "paint_a_stroke",
    "panels",
    "plot_agreement",
    "plot_anatomy",
    "plot_arms",
    "plot_benchmark",
    "plot_bootstrap",
    "plot_calibration",
    "plot_ceiling",
    "plot_contact_sheet",
    "plot_costs",
    "plot_crossed",
    "plot_curves",
    "plot_detection",
    "plot_dice_by_volume",
    "plot_factorial",
    "plot_factorial_slice",
    "plot_history",
    "plot_images",
    "plot_imitators",
    "plot_layers",
    "plot_lengths",
    "plot_levels",
    "plot_loss_and_dice",
    "plot_means",
    "plot_networks",
    "plot_outlines",
    "plot_overlap",
    "plot_paired",
    "plot_paths",
    "plot_peers",
    "plot_planes",
    "plot_predictions",
    "plot_ranking",
    "plot_receptive_field",
    "plot_recovery",
    "plot_ringing",
    "plot_segmentations",
    "plot_split",
    "plot_units",
    "plot_verdicts",
    "plot_volumes",
    "show_slice",
    "tidy",
]
