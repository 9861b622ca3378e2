"""Operations that a network takes."""

from __future__ import annotations

import math

import pytest

from atlaslib import recipe
from atlaslib.networks import forward_gflop


def test_operations_agree_with_a_closed_form():
    chosen = recipe("baseline", "paper")
    sizes = [(232, 196, 1, 64), (232, 196, 64, 64), (116, 98, 64, 128), (116, 98, 128, 128),
             (58, 49, 128, 256), (58, 49, 256, 256), (116, 98, 256, 128), (116, 98, 128, 128),
             (232, 196, 128, 64), (232, 196, 64, 64)]  # fmt: skip
    expected = sum(2 * 9 * h * w * a * b for h, w, a, b in sizes)
    # transposed 2x2 convolutions, whose operations depend on their input size, and the 1x1 head
    expected += 2 * 4 * (116 * 98 * 256 * 128 + 232 * 196 * 128 * 64) + 2 * 232 * 196 * 64
    assert forward_gflop(chosen) == pytest.approx(expected / 1e9, rel=0.01)
    assert math.isclose(
        forward_gflop(recipe("baseline", "paper", flip_tta=True)),
        2 * forward_gflop(chosen),
    )
