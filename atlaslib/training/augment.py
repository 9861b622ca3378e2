"""Augmentation on the device: random geometry, contrast, bias field and noise.

Random numbers come from torch's default generator of the device; checkpoints save its state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ANGLE = math.radians(15)  # largest rotation in either direction
ZOOM = 0.15  # largest change of scale, as the logarithm of the factor
SHIFT = 0.05  # largest translation, as a fraction of half the field of view
GAMMA = 0.4  # largest change of contrast, as the logarithm of the exponent gamma
BIAS = 0.3  # strength of the bias field, as the logarithm of the factor
NODES = 4  # control points of the bias field in each direction
NOISE = 0.05  # largest standard deviation of the noise; intensities span 0 to 1


def augment_batch(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, scale and shift images with their masks; vary contrast, bias field and noise.

    Parameters
    ----------
    x : (N, C, H, W) float, in 0..1
    y : (N, 1, H, W) float, in 0..1

    Returns
    -------
    (x, y) of the same shapes
    """
    count, device = len(x), x.device

    def draw(limit: float) -> torch.Tensor:
        """One uniform random number within plus and minus limit for each slice, (N, 1, 1, 1)."""
        return torch.empty(count, 1, 1, 1, device=device).uniform_(-limit, limit)

    angle, zoom = draw(ANGLE).flatten(), draw(ZOOM).exp().flatten()
    rows, columns = x.shape[-2:]
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    affine = torch.stack([
        torch.stack([cos, -sin * rows / columns, draw(SHIFT).flatten()], 1),
        torch.stack([sin * columns / rows, cos, draw(SHIFT).flatten()], 1),
    ], 1)  # fmt: skip
    grid = F.affine_grid(affine, [count, 1, rows, columns], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    y = F.grid_sample(y, grid, align_corners=False)

    x = x.clamp(0, 1) ** draw(GAMMA).exp()
    nodes = torch.randn(count, 1, NODES, NODES, device=device) * BIAS / 2
    field = F.interpolate(nodes, (rows, columns), mode="bicubic", align_corners=False)
    x = x * field.exp()
    return x + torch.randn_like(x) * draw(NOISE).abs(), y
