"""The search goes on where it stopped, and prunes."""

from __future__ import annotations

import pandas as pd
import pytest

from atlaslib import study

pytest.importorskip("optuna", reason="the search needs Optuna")


@pytest.fixture(scope="module")
def trials(cohort):
    study.search(cohort, "smoke", 1, progress=False)
    return study.trials_table(study.search(cohort, "smoke", 2, progress=False))


def test_a_second_call_goes_on(trials):
    assert trials.trial.tolist() == [0, 1, 2]
    assert trials.units.isin(study.UNITS).all()
    assert trials.vector.isin(study.VECTOR).all()
    assert trials.epochs.eq(3).all()
    assert trials.state.eq("COMPLETE").all()


def test_a_trial_is_the_short_run_of_its_numbers():
    chosen = study.trial_recipe("quick", 8, 128)
    assert (chosen.model, chosen.units, chosen.vector) == ("resnet", 8, 128)


def test_a_hopeless_trial_ends_early(cohort, trials, monkeypatch):
    def train(recipe, cohort, progress, after_epoch):
        for epoch in (1.0, 2.0, 3.0):
            after_epoch({"epoch": epoch, "validation_dice": -1.0})
        raise AssertionError("not pruned")

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "_FIRST", 0)
    found = study.trials_table(study.search(cohort, "smoke", 1, progress=False))
    assert found.state.iloc[-1] == "PRUNED"
    assert found.epochs.iloc[-1] < 3


def test_a_table_becomes_a_study_again(trials):
    shown = study.trials_table(study.from_table(trials))
    pd.testing.assert_frame_equal(shown[["units", "vector", "dice", "state"]],
                                  trials[["units", "vector", "dice", "state"]])  # fmt: skip
