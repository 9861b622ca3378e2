"""Calibration against scikit-learn, detection against values counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from atlaslib.data.cohort import Scan
from atlaslib.evaluation import calibration


@pytest.fixture
def fake_predictions(monkeypatch):
    """Replace the predictions of a run by the given logits and masks."""

    def give(*pairs):
        scan = Scan("031844", "t01", "Site2", None, ())
        monkeypatch.setattr(
            calibration, "predictions", lambda run, cohort: ((scan, a, b) for a, b in pairs)
        )

    return give


def test_calibration_agrees_with_scikit_learn(fake_predictions):
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(0, 2, (4, 30, 30)).astype("f4"), rng.random((4, 30, 30)) < 0.3)
             for _ in range(2)]  # fmt: skip
    fake_predictions(*pairs)
    table, _ = calibration.calibration_and_detection(None, None)
    true = np.concatenate([pair[1].ravel() for pair in pairs])
    p = 1 / (1 + np.exp(-np.concatenate([pair[0].ravel() for pair in pairs]).astype(float)))
    observed, predicted = calibration_curve(true, p, n_bins=10)
    np.testing.assert_allclose(table.observed, observed)
    np.testing.assert_allclose(table.predicted, predicted)
    assert table.voxels.sum() == true.size


def test_an_empty_bin_is_nan_not_zero(fake_predictions):
    fake_predictions((np.full((2, 3, 3), -9.0, "f4"), np.zeros((2, 3, 3), bool)))
    table, _ = calibration.calibration_and_detection(None, None)
    assert table.voxels.tolist() == [18] + [0] * 9
    assert table.observed.iloc[0] == 0
    assert table.observed.iloc[1:].isna().all()


def test_detection_counted_by_hand(fake_predictions):
    true, logits = np.zeros((12, 20, 20), bool), np.full((12, 20, 20), -1.0, "f4")
    true[1:5, 1:5, 1:5] = True  # 64 voxels, half found
    logits[1:5, 1:5, 1:3] = 1
    logits[1:5, 1:5, 0:1] = 1  # and one column too many: 48 voxels in all, too few to count
    true[7:11, 10:14, 10:14] = True  # missed
    logits[1:5, 12:16, 12:16] = 1  # a false alarm
    true[0, 19, 19] = True  # too small to count
    fake_predictions((logits, true))
    _, table = calibration.calibration_and_detection(None, None)
    table = table.sort_values(["of", "overlap"])
    assert table.of.tolist() == ["prediction", "truth", "truth"]
    assert table.overlap.tolist() == [0.0, 0.0, 0.5]
    assert table.volume_ml.tolist() == pytest.approx([0.064] * 3)
