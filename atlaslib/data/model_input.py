"""From normalised whole slices to a model's input, and from its output back to whole slices."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from atlaslib.data.slices import GRID, SLICE
from atlaslib.recipes import Recipe

# First row and column of the recipe's window of 184 x 152 pixels. It contains the MNI152 brain,
# which spans rows 25 to 205 and columns 26 to 170.
WINDOW = (23, 22)
CONTEXT_GAP = 3  # slices of 1 mm: as far apart as the pixels of the quick profile
NO_LESION = -20.0  # logit of pixels outside the window, or where no lesion can be


def to_model_input(
    images: torch.Tensor, recipe: Recipe, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, C, 232, 196) to the model's input, ``(N, C, *recipe.input_size())`` float32.

    Each value is the mean over one block of :func:`block_sums`.
    """
    return block_means(block_sums(images, recipe, mirrored), recipe)


def block_means(sums: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Turn sums over blocks of ``downsample`` x ``downsample`` pixels into means, float32."""
    return sums / recipe.downsample**2 if recipe.downsample > 1 else sums.float()


def block_sums(
    images: torch.Tensor, recipe: Recipe, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """(N, C, 232, 196) to ``(N, C, *recipe.input_size())``: the model's input as integer sums.

    The window is cropped, padded with zeros at the bottom and right, and summed over blocks of
    ``downsample`` x ``downsample`` pixels. uint8 becomes int16 (int32 for large blocks), or stays
    uint8 if a block is one pixel. The slices at the positions ``mirrored`` are flipped left-right.
    """
    if recipe.window:  # centred left to right, so it can be flipped after cropping
        (above, left), (height, width) = WINDOW, recipe.field_of_view()
        images = images[..., above : above + height, left : left + width]
    if mirrored is not None:
        flipped = images.index_select(0, mirrored).flip(-1)
        images = images.index_copy(0, mirrored, flipped)
    block = recipe.downsample
    rows, columns = (n * block for n in recipe.input_size())
    x = F.pad(images, (0, columns - images.shape[-1], 0, rows - images.shape[-2]))
    if block == 1:
        return x
    if x.dtype == torch.uint8:  # int16 holds sums of up to 11 x 11 bytes
        x = x.to(torch.int16 if block <= 11 else torch.int32)
    for axis in (-2, -1):
        first, *others = x.unflatten(axis, (-1, block)).unbind(axis)
        x = sum(others, first)
    return x


def to_full_resolution(logits: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The model's logits to (N, 1, 232, 196), by bilinear interpolation."""
    if recipe.downsample > 1:
        logits = F.interpolate(
            logits, scale_factor=recipe.downsample, mode="bilinear", align_corners=False
        )
    if not recipe.window:
        return logits[..., : SLICE[0], : SLICE[1]]
    (above, left), (height, width) = WINDOW, recipe.field_of_view()
    below, right = SLICE[0] - above - height, SLICE[1] - left - width
    return F.pad(logits[..., :height, :width], (left, right, above, below), value=NO_LESION)


def with_context(rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Positions of slices, (n,), with those of their neighbours: (n, 1 + 2 * context_slices).

    Beyond the ends of a scan, its first or last slice is repeated.
    """
    reach = recipe.context_slices * CONTEXT_GAP
    scan, z = np.divmod(np.asarray(rows)[:, None], GRID[2])
    return scan * GRID[2] + np.clip(z + np.arange(-reach, reach + 1, CONTEXT_GAP), 0, GRID[2] - 1)
