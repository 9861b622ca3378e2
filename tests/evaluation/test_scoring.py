"""Scores against PyTorch's losses, the predicted mask, and values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atlaslib import (
    dice,
    evaluate,
    predict,
    summary,
)
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import read_scan
from atlaslib.evaluation.metrics import mean_slice_dice
from atlaslib.evaluation.scoring import scan_scores, slice_counts


def test_scores_by_hand():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 6, generator=rng)
    masks = (torch.rand(3, 8, 6, generator=rng) > 0.7).to(torch.uint8)
    row = scan_scores(slice_counts(logits, masks).numpy(), pos_weight=4.0)
    assert row["dice"] == pytest.approx(dice(logits > 0, masks))
    assert row["volume_ml"] == pytest.approx(masks.sum().item() / 1000)
    assert row["dice_per_slice"] == pytest.approx(mean_slice_dice(logits > 0, masks))
    target = masks.float()
    plain = F.binary_cross_entropy_with_logits(logits, target)
    heavy = F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(4.0))
    assert row["cross_entropy"] == pytest.approx(plain.item(), rel=1e-5)
    assert row["loss"] == pytest.approx(heavy.item(), rel=1e-5)


def test_scores_of_some_slices_do_not_depend_on_the_others():
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 8, 6, generator=rng)
    masks = (torch.rand(4, 8, 6, generator=rng) > 0.7).to(torch.uint8)
    some = scan_scores(slice_counts(logits, masks).numpy()[[1, 3]], 1.0)
    alone = scan_scores(slice_counts(logits[[1, 3]], masks[[1, 3]]).numpy(), 1.0)
    assert some == pytest.approx(alone)


def test_table_agrees_with_the_predicted_mask(run, cohort):
    test = cohort.split()[2]
    row = evaluate(run, test, progress=False).iloc[0]
    mask = to_slices(np.asarray(predict(run, test[0]).dataobj))
    true = to_slices(read_scan(test[0]).mask)
    assert row.predicted_ml == pytest.approx(mask.sum() / 1000)
    assert row.volume_ml == pytest.approx(true.sum() / 1000)
    if mask.any():
        assert row.dice == pytest.approx(dice(mask, true))


def test_summary(run, cohort):
    table = evaluate(run, cohort, progress=False)
    row = summary({"baseline": table}).iloc[0]
    assert (row.scans, row.subjects) == (8, 7)
    assert row.dice == pytest.approx(table.dice.mean())
    assert row.low <= row.dice <= row.high
