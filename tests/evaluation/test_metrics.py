"""Dice against MONAI and by hand; bootstrap intervals against a closed form."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import DiceMetric

from atlaslib import dice
from atlaslib.evaluation.metrics import bootstrap_mean, dice_per_slice, mean_slice_dice, pooled_dice

EMPTY, FULL = np.zeros((3, 4)), np.ones((3, 4))


def test_worked_examples():
    assert dice([1, 1, 0, 0], [0, 1, 1, 0]) == 0.5
    assert dice(FULL, FULL) == 1
    assert dice(torch.tensor([True, False]), torch.tensor([1.0, 0.0])) == 1
    assert dice([255, 0], [1, 0]) == 1  # any value above 0 is lesion


def test_rule_for_empty_masks():
    assert math.isnan(dice(EMPTY, EMPTY))
    assert dice(EMPTY, FULL) == 0
    assert dice(FULL, EMPTY) == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(3, 4\) is not the target's \(4, 3\)"):
        dice(EMPTY, EMPTY.T)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_agrees_with_monai(seed, share):
    rng = np.random.default_rng(seed)
    p, t = rng.random((2, 5, 7, 6)) < share * rng.random((2, 5, 1, 1))
    monai = DiceMetric(include_background=True, reduction="none", ignore_empty=True)
    oracle = monai(torch.tensor(p)[:, None], torch.tensor(t)[:, None]).numpy().ravel()
    # MONAI calls a target without lesion undefined even where something is predicted
    oracle[(t.sum((1, 2)) == 0) & (p.sum((1, 2)) > 0)] = 0
    np.testing.assert_allclose(dice_per_slice(p, t), oracle, atol=1e-6)


def test_tensors_of_any_type_are_taken():
    logits = torch.tensor([1.0, -1.0], dtype=torch.bfloat16, requires_grad=True)
    assert dice(logits, torch.tensor([1.0, 1.0])) == pytest.approx(2 / 3)


def test_mean_by_slice_leaves_out_undefined_slices():
    p = np.array([[[1, 1]], [[0, 0]], [[1, 0]], [[0, 0]]])
    t = np.array([[[1, 1]], [[0, 0]], [[0, 0]], [[0, 1]]])
    np.testing.assert_array_equal(dice_per_slice(p, t), [1, np.nan, 0, 0])
    counts = [np.array(each) for each in ([2, 0, 0, 0], [2, 0, 1, 0], [2, 0, 0, 1])]
    assert mean_slice_dice(*counts) == pytest.approx(1 / 3)
    assert math.isnan(mean_slice_dice(*np.zeros((3, 1))))


def test_pooled_is_dice_of_all_voxels():
    rng = np.random.default_rng(0)
    p, t = rng.random((2, 6, 50)) < 0.3
    table = pd.DataFrame(
        {"intersection_ml": (p & t).sum(1), "predicted_ml": p.sum(1), "volume_ml": t.sum(1)}
    )
    assert pooled_dice(table) == pytest.approx(dice(p, t))


def test_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.4, 0.2, 400)
    mean, low, high = bootstrap_mean(values)
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20  # the normal approximation
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert bootstrap_mean(values) == (mean, low, high)  # same seed, same numbers


def test_interval_resamples_subjects():
    values = np.repeat([0.1, 0.9, 0.5, 0.3], 25)
    groups = np.repeat(list("abcd"), 25)
    narrow, wide = bootstrap_mean(values), bootstrap_mean(values, groups)
    assert wide[0] == pytest.approx(narrow[0])
    assert wide[2] - wide[1] > 3 * (narrow[2] - narrow[1])


def test_nan_is_left_out_and_nan_alone_is_refused():
    assert bootstrap_mean([0.5, np.nan, 0.5]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no finite value"):
        bootstrap_mean([np.nan])


def test_a_group_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_mean([0.1, 0.2], [1.0, np.nan])
