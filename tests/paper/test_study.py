"""The search resumes where it stopped, and prunes."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from atlaslib import DataError
from atlaslib.paper import study
from atlaslib.runs import ENGINE

pytest.importorskip("optuna", reason="the search needs Optuna")


@pytest.fixture(scope="module")
def trials(cohort):
    study.search(cohort, "smoke", 1, progress=False)
    return study.trials_table(study.search(cohort, "smoke", 2, progress=False))


def test_a_second_call_continues_the_study(trials):
    assert trials.trial.tolist() == [0, 1, 2]
    assert trials.units.isin(study.UNITS).all()
    assert trials.vector.isin(study.VECTOR).all()
    assert trials.epochs.eq(3).all()
    assert trials.state.eq("COMPLETE").all()


def test_a_trial_trains_the_resnet_with_its_values():
    chosen = study.trial_recipe("quick", 8, 128)
    assert (chosen.model, chosen.units, chosen.vector) == ("resnet", 8, 128)


def test_a_hopeless_trial_is_pruned(cohort, trials, monkeypatch):
    def train(recipe, cohort, progress, callbacks):
        for epoch in (1.0, 2.0, 3.0):
            callbacks[0]({"epoch": epoch, "validation_dice": -1.0})
        raise AssertionError("not pruned")

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "_STARTUP_TRIALS", 0)
    study.run_trial(cohort, "smoke", seed=7)
    found = study.trials_table(study.open_study(study.journal(cohort, "smoke")))
    assert found.state.iloc[-1] == "PRUNED"
    assert found.epochs.iloc[-1] < 3


def test_a_trial_that_another_process_is_running_is_left_to_it(cohort, trials, monkeypatch):
    def train(recipe, cohort, progress, callbacks):
        raise DataError("another process is training in this folder", "locked")

    known = study.open_study(study.journal(cohort, "smoke"))
    before, table = len(known.trials), study.trials_table(known)
    monkeypatch.setattr(study, "train", train)
    study.run_trial(cohort, "smoke", seed=8)
    after = study.open_study(study.journal(cohort, "smoke"))
    assert [trial.state.name for trial in after.trials[before:]] == ["FAIL"]
    pd.testing.assert_frame_equal(study.trials_table(after), table)


def test_any_other_error_ends_the_search(cohort, trials, monkeypatch):
    def train(recipe, cohort, progress, callbacks):
        raise DataError("no such scan")

    monkeypatch.setattr(study, "train", train)
    with pytest.raises(DataError, match="no such scan"):
        study.run_trial(cohort, "smoke", seed=9)


def test_a_table_is_saved_with_its_provenance(cohort, trials, tmp_path):
    found = study.open_study(study.journal(cohort, "smoke"))
    study.save(study.trials_table(found), cohort, "smoke", tmp_path / "new")
    again = pd.read_csv(tmp_path / "new" / "smoke_study.csv")
    pd.testing.assert_frame_equal(again, study.trials_table(found))
    about = json.loads((tmp_path / "new" / "smoke_study.json").read_text())
    assert (about["cohort"], about["engine"]) == (cohort.fingerprint(), ENGINE)


@pytest.mark.parametrize("content", [b"{}\n", b"not JSON\n", b"\x80\x04N.\n", b"[[[\n"])
def test_a_damaged_journal_is_one_line(content, tmp_path):
    (tmp_path / "study.log").write_bytes(content)
    with pytest.raises(DataError, match=r"study.log: not a journal of trials .*delete it") as error:
        study.open_study(tmp_path / "study.log")
    assert "\n" not in str(error.value)
