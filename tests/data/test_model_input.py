"""Slices keep their position on the way to the model and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlaslib import (
    dice,
    recipe,
)
from atlaslib.data.model_input import WINDOW, to_full_resolution, to_model_input, with_context
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import brain_mask


def test_context_slices_are_3_mm_apart_and_stay_within_the_scan():
    chosen = recipe("residual_unet", "smoke", context_slices=2)
    stacks = with_context(np.array([0, 100, 188, 189 + 4]), chosen)
    assert stacks.tolist() == [
        [0, 0, 0, 3, 6],
        [94, 97, 100, 103, 106],
        [182, 185, 188, 188, 188],
        [189, 190, 193, 196, 199],
    ]


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_position_is_kept_on_the_way_to_the_model_and_back(factor, window):
    chosen = recipe("baseline", "paper", downsample=factor, window=window)
    image = torch.zeros(1, 1, 232, 196)
    image[..., 100:140, 60:100] = 1
    small = to_model_input(image, chosen)
    assert small.shape[-2:] == chosen.input_size()
    back = to_full_resolution(small, chosen)
    assert back.shape == image.shape
    assert dice(back > 0.5, image) > 0.97


def test_window_contains_the_brain():
    rows, columns = to_slices(brain_mask()).any(0).nonzero()
    assert WINDOW[0] < rows.min()
    assert rows.max() < WINDOW[0] + 184
    assert WINDOW[1] < columns.min()
    assert columns.max() < WINDOW[1] + 152
