"""Scores against PyTorch's losses, the predicted mask, and values computed by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from threshold import threshold
from volumes import box, save

from atlaslib import (
    Predictor,
    dice,
    evaluate,
    load_cohort,
    predict,
    recipe,
    summary,
)
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import near_brain, read_scan
from atlaslib.evaluation.calibration import calibration_and_detection
from atlaslib.evaluation.inference import probabilities
from atlaslib.evaluation.mask_scores import mask_scores
from atlaslib.evaluation.metrics import dice_per_slice
from atlaslib.evaluation.scoring import scan_scores, slice_counts
from atlaslib.models.zero import Zero


def test_a_summary_by_hand():
    table = pd.DataFrame(
        {"subject": list("aab"), "dice": [0.2, 0.4, 0.9], "intersection_ml": [1, 1, 8.0],
         "predicted_ml": [2, 4, 10.0], "volume_ml": [3, 1, 8.0], "loss": [0.1, 0.2, 0.6],
         "cross_entropy": [0.1, 0.1, 0.4]}
    )  # fmt: skip
    row = summary({"m": table}).iloc[0]
    assert (row.model, row.scans, row.subjects) == ("m", 3, 2)
    assert [row.dice, row.low, row.high] == pytest.approx([0.5, 0.3, 0.9])  # of a, of b alone
    assert [row.pooled_dice, row.loss, row.cross_entropy] == pytest.approx([20 / 28, 0.3, 0.2])
    row = summary({"masks": table.drop(columns=["loss", "cross_entropy"])}).iloc[0]
    assert row.dice == pytest.approx(0.5)
    assert row[["loss", "cross_entropy"]].isna().all()


def test_people_of_the_training_are_pointed_out(run, cohort):
    with pytest.warns(UserWarning, match="scans are of people who were trained on: run.unseen"):
        table = evaluate(run, cohort, progress=False)
    assert "train" in set(table.part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(run, run.unseen(cohort), progress=False)


def test_lesion_outside_the_brain_counts_and_costs_20_nats(scan_writer, tmp_path):
    for path in scan_writer()[1]:
        save(path, box((2, 2, 2), 6))
    network = Predictor(Zero(0.01), recipe("zero", "smoke", pos_weight=1.0))
    row = evaluate(network, load_cohort(tmp_path), progress=False).iloc[0]
    near = to_slices(near_brain()).sum()
    assert row.volume_ml == pytest.approx(0.216)
    expected = (216 * 20 - near * np.log(0.99)) / (189 * 232 * 196)
    assert row.cross_entropy == pytest.approx(expected, rel=1e-4)


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


def test_table_agrees_with_the_predicted_mask(cohort):
    test = cohort.split()[2]
    row = evaluate(threshold(), test, progress=False).iloc[0]
    mask = to_slices(np.asarray(predict(threshold(), test[0]).dataobj))
    true = to_slices(read_scan(test[0]).mask)
    assert row.predicted_ml == pytest.approx(mask.sum() / 1000)
    assert row.volume_ml == pytest.approx(true.sum() / 1000)
    assert mask.any()
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
