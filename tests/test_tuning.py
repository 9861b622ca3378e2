"""The tuning of section 5.3 compares what the paper compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlaslib import tuning


def table(dice: np.ndarray) -> pd.DataFrame:
    subjects = [f"{number:02}" for number in range(len(dice))]
    return pd.DataFrame({"subject": subjects, "session": "t01", "dice": dice})


def test_tuning_compares_what_the_paper_did(monkeypatch):
    seen = {}

    def pretend(arm, cohort, progress):
        seen[arm] = table(np.full(9, arm.learning_rate * 100 + arm.batch_size / 1000))
        return seen[arm]

    costs = pd.DataFrame({"seconds": [1.0, 2.0], "memory_mb": [3.0, 4.0]})
    monkeypatch.setattr(tuning, "validation_table", pretend)
    monkeypatch.setattr(tuning, "batch_costs", lambda arm, sizes: costs)
    effects = tuning.tuning_effects("paper", cohort=None)
    assert {arm.learning_rate for arm in seen} == {0.0001, 0.001, 0.00001}
    assert {arm.batch_size for arm in seen} == {50, 100}
    assert effects["C4a"].value == pytest.approx(0.01 - 0.1)
    assert effects["C4b"].value == pytest.approx(0.01 - 0.001)
    assert effects["C5a"].value == pytest.approx(0.25)  # memory saves less than time
    assert effects["C5b"].value == pytest.approx(-0.05)
