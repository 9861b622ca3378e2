"""Augmentation: images and masks move together, and contrast changes leave masks alone."""

from __future__ import annotations

import pytest
import torch

from atlaslib import recipe, train
from atlaslib.training import augment
from atlaslib.training.augment import augment_batch


@pytest.fixture
def geometry_only(monkeypatch):
    """Switch off changes of contrast, bias field and noise."""
    for name in ("GAMMA", "BIAS", "NOISE"):
        monkeypatch.setattr(augment, name, 0.0)


def blob(count: int = 64) -> torch.Tensor:
    y = torch.zeros(count, 1, 48, 40)
    y[:, :, 12:30, 10:24] = 1
    return y


def test_masks_move_with_their_images(geometry_only):
    torch.manual_seed(0)
    y = blob()
    moved, mask = augment_batch(y.clone(), y)
    torch.testing.assert_close(moved, mask)
    assert (mask != y).any()
    areas = mask.sum((1, 2, 3)) / y.sum((1, 2, 3))
    assert areas.min() > 0.7
    assert areas.max() < 1.4


def test_rotation_keeps_distances(geometry_only, monkeypatch):
    """Rotated by 90 degrees on a grid that is not square, 18 rows up become 18 columns sideways."""
    monkeypatch.setattr(augment, "ZOOM", 0.0)
    monkeypatch.setattr(augment, "SHIFT", 0.0)
    monkeypatch.setattr(augment, "ANGLE", 1e-9)
    y = blob(2)
    torch.testing.assert_close(augment_batch(y, y)[1], y, atol=1e-4, rtol=0)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(high))
    monkeypatch.setattr(augment, "ANGLE", torch.pi / 2)
    x = torch.zeros(1, 1, 48, 40)
    x[0, 0, 4:8, 18:22] = 1  # 18 rows above the centre
    rows, columns = augment_batch(x, x)[1][0, 0].nonzero(as_tuple=True)
    assert rows.float().mean().item() == pytest.approx(23.5, abs=0.6)
    assert abs(columns.float().mean().item() - 19.5) == pytest.approx(18, abs=0.6)


def test_contrast_changes_and_the_mask_does_not(monkeypatch):
    for name in ("ANGLE", "ZOOM", "SHIFT"):
        monkeypatch.setattr(augment, name, 0.0)
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 48, 40), blob(8)
    varied, mask = augment_batch(x, y)
    torch.testing.assert_close(mask, y, atol=1e-4, rtol=0)
    change = (varied - x).abs().mean((1, 2, 3))
    assert (change > 0.005).all()
    assert varied.isfinite().all()


def test_the_same_seed_gives_the_same_run(cohort, tmp_path):
    chosen = recipe("residual_unet", "smoke", epochs=1)
    losses = [
        train(chosen, cohort, out=tmp_path / name, progress=False).history.loss[0] for name in "ab"
    ]
    assert losses[0] == losses[1]
