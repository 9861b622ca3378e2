"""Variations of a batch that leave the lesion a lesion: other scanners, other heads.

Numbers are drawn from torch's own generator of the device, whose state a checkpoint keeps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ANGLE = math.radians(15)  # largest turn of the head to either side
ZOOM = 0.15  # largest change of size, as the logarithm of the factor
SHIFT = 0.05  # largest shift, as a share of half the field of view
GAMMA = 0.4  # largest change of contrast, as the logarithm of the exponent
BIAS = 0.3  # strength of the bias field, as the logarithm of the factor
NODES = 4  # of the bias field in each direction
NOISE = 0.05  # largest standard deviation, where the image spans 0 to 1


def augment(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn, resize and shift images with their masks; change contrast, bias field and noise.

    Parameters
    ----------
    x : (N, C, H, W) float, in 0..1
    y : (N, 1, H, W) float, in 0..1

    Returns
    -------
    (x, y) of the same shapes
    """
    count, device = len(x), x.device

    def draw(reach: float) -> torch.Tensor:
        """A number within plus and minus reach for each slice, (N, 1, 1, 1)."""
        return torch.empty(count, 1, 1, 1, device=device).uniform_(-reach, reach)

    angle, zoom = draw(ANGLE).flatten(), draw(ZOOM).exp().flatten()
    rows, columns = x.shape[-2:]
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    turn = torch.stack([
        torch.stack([cos, -sin * rows / columns, draw(SHIFT).flatten()], 1),
        torch.stack([sin * columns / rows, cos, draw(SHIFT).flatten()], 1),
    ], 1)  # fmt: skip
    grid = F.affine_grid(turn, [count, 1, rows, columns], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    y = F.grid_sample(y, grid, align_corners=False)

    x = x.clamp(0, 1) ** draw(GAMMA).exp()
    nodes = torch.randn(count, 1, NODES, NODES, device=device) * BIAS / 2
    field = F.interpolate(nodes, (rows, columns), mode="bicubic", align_corners=False)
    x = x * field.exp()
    return x + torch.randn_like(x) * draw(NOISE).abs(), y
