"""Operations that a network takes, and how it fails."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from atlaslib import recipe
from atlaslib.networks import checked_logits, forward_gflop


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


@pytest.mark.parametrize(
    ("text", "kind"),
    [("DefaultCPUAllocator: can't allocate memory", RuntimeError), ("memory format", ValueError)],
)
def test_only_a_lack_of_memory_is_not_the_fault_of_the_network(text, kind):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError(text)

    with pytest.raises(kind, match=text) as error:
        checked_logits(Fails(), torch.zeros(1, 1, 4, 4))
    assert error.type is kind
