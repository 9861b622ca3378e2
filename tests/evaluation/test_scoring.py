"""Scores against PyTorch's losses, the predicted mask, and values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atlaslib import (
    Predictor,
    dice,
    evaluate,
    predict,
    recipe,
    summary,
)
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import read_scan
from atlaslib.evaluation.calibration import calibration_and_detection
from atlaslib.evaluation.inference import probabilities
from atlaslib.evaluation.mask_scores import mask_scores
from atlaslib.evaluation.metrics import dice_per_slice
from atlaslib.evaluation.scoring import scan_scores, slice_counts
from atlaslib.models.zero import Zero


def test_scores_by_hand():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 6, generator=rng)
    masks = (torch.rand(3, 8, 6, generator=rng) > 0.7).to(torch.uint8)
    row = scan_scores(slice_counts(logits, masks).numpy(), pos_weight=4.0)
    assert row["dice"] == pytest.approx(dice(logits > 0, masks))
    assert row["volume_ml"] == pytest.approx(masks.sum().item() / 1000)
    assert row["dice_per_slice"] == pytest.approx(np.nanmean(dice_per_slice(logits > 0, masks)))
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


def test_a_network_with_its_recipe_is_scored_as_a_run_is(run, cohort):
    network = run.model().train()
    same = Predictor(network, run.recipe)
    scores = ["dice", "predicted_ml", "loss"]
    expected = evaluate(run, cohort[:1], progress=False)
    found = evaluate(same, cohort[:1], progress=False)
    np.testing.assert_array_equal(found[scores], expected[scores])
    assert found.part.tolist() == ["new"]
    masks = [np.asarray(predict(each, cohort[0]).dataobj) for each in (run, same)]
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(*(probabilities(each, cohort[0]) for each in (run, same)))
    found, expected = (calibration_and_detection(each, cohort[:1]) for each in (same, run))
    assert all(a.equals(b) for a, b in zip(found, expected, strict=True))
    assert network.training  # it stays as it is


@pytest.mark.parametrize("wrong", [Zero(), "baseline", None])
def test_anything_but_a_run_or_a_predictor_is_one_line(wrong, cohort):
    with pytest.raises(ValueError, match="run: expected a Run or Predictor, got"):
        evaluate(wrong, cohort)
    with pytest.raises(ValueError, match="run: expected a Run or Predictor, got"):
        predict(wrong, cohort[0])
    with pytest.raises(ValueError, match="recipe: expected a Recipe, got"):
        Predictor(Zero(), wrong)


def test_the_whole_head_is_marked_only_on_request(cohort):
    everything = Predictor(Zero(0.9), recipe("zero", "smoke"))
    marked = {}
    for brain_only in (True, False):
        row = evaluate(everything, cohort[:1], False, brain_only).iloc[0]
        mask = np.asarray(predict(everything, cohort[0], brain_only).dataobj)
        p = probabilities(everything, cohort[0], brain_only)
        marked[brain_only] = mask.sum()
        assert row.predicted_ml == pytest.approx(mask.sum() / 1000)
        assert (p > 0.5).sum() == mask.sum()
    assert marked[True] < 0.3 * marked[False]
    assert marked[False] == 189 * 232 * 196


def test_summary(run, cohort):
    table = evaluate(run, cohort, progress=False)
    row = summary({"baseline": table}).iloc[0]
    assert (row.scans, row.subjects) == (8, 7)
    assert row.dice == pytest.approx(table.dice.mean())
    assert row.low <= row.dice <= row.high


def test_further_metrics_are_those_of_the_predicted_mask(run, cohort):
    part = cohort[:1]
    row = evaluate(run, part, progress=False, metrics=("dice", "lesion_count", "volume")).iloc[0]
    mask = to_slices(np.asarray(predict(run, part[0]).dataobj))
    true = to_slices(read_scan(part[0]).mask)
    expected = mask_scores(mask, true, ("lesion_count", "volume"))
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(ValueError, match="no metric 'iou'"):
        evaluate(run, part, progress=False, metrics=["iou"])
    by_slice = Predictor(Zero(), recipe("zero", "smoke", split="slice"))
    with pytest.raises(ValueError, match="volume: needs whole scans"):
        evaluate(by_slice, part, progress=False, metrics=["volume"])
