"""Each training is run once; its rows grow the tables, which tell when they are out of date."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from atlaslib.files import DataError, shipped
from atlaslib.paper import protocol, sweep
from atlaslib.paper.protocol import Choice
from atlaslib.paper.sweep import add_rows, missing, outdated, read_table
from atlaslib.runs import ENGINE
from atlaslib.training.loop import train
from atlaslib.training.step import TrainingError

CHOICE = Choice(dict.fromkeys(protocol.ENCODERS, 0.001), 1, ())
JOBS = {(job.arm, job.seed): job for job in protocol.jobs("smoke", CHOICE)}
PILOT = protocol.pilot_jobs("smoke")[0]


@pytest.fixture(scope="module")
def tables(cohort):
    """What some trainings give; their people are those of the tests."""
    opened = []

    def people(profile, seed, count, shifted=False):
        opened.append((seed, shifted))
        return cohort[:4] if seed < protocol.TEST_PEOPLE else cohort[:1]

    wanted = [JOBS["baseline", 1], JOBS["zero", 0], JOBS["resnet, by slice", 1], PILOT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "people", people)
        found = {}
        for job in wanted:
            opened.clear()
            found[job.arm] = sweep.run_job(job) | {"opened": list(opened)}
        return found


def test_a_training_is_scored_on_the_common_people_by_both_kinds_of_scanner(tables):
    found = tables["baseline"]
    assert found["opened"] == [(201, False), (400, False), (400, True)]
    scans = found["scans"]
    assert scans.groupby("people").size().to_dict() == {"known": 1, "unseen": 1}
    assert scans[scans.people == "known"].perfect_original.notna().all()
    assert scans[scans.people == "unseen"].perfect_original.isna().all()
    assert len(found["history"]) == 1
    assert {"calibration", "detection"} <= set(found)
    assert set(tables["zero"]["scans"].dice) == {0.0}


def test_the_leak_is_scored_on_its_own_people_and_on_the_next_seeds(tables):
    found = tables["resnet, by slice"]
    assert found["opened"] == [(201, False), (200, False)]
    own, other = (found["scans"].query(f"people == '{name}'") for name in ("own", "other"))
    # the test lends both the same people: equal slices of equal people are scored
    assert own.volume_ml.tolist() == other.volume_ml.tolist()


def test_the_pilot_has_other_people_and_no_test(tables):
    found = tables[PILOT.arm]
    assert found["opened"] == [(300, False)]
    assert set(found) == {"runs", "history", "opened"}


def test_a_row_names_the_torch_that_trained_not_the_one_that_scores(cohort, monkeypatch):
    def trained_elsewhere(*given, **named):
        run = train(*given, **named)
        elsewhere = run.provenance | {"packages": {"torch": "1.0"}, "device": "a GPU"}
        return dataclasses.replace(run, provenance=elsewhere)

    monkeypatch.setattr(sweep, "people", lambda *_: cohort[:4])
    monkeypatch.setattr(sweep, "train", trained_elsewhere)
    row = sweep.run_job(PILOT)["runs"].iloc[0]
    assert (row.torch, row.device) == ("1.0", "a GPU")


def test_rows_replace_those_of_the_same_training_and_others_stay(tables, tmp_path):
    job, other = JOBS["baseline", 1], JOBS["baseline", 0]
    rows = {name: tables["baseline"][name] for name in ("runs", "scans", "history", "calibration")}
    for each in (job, other, job):
        add_rows(tmp_path, each, rows)
    scans = read_table(tmp_path, "scans")
    assert scans.groupby(["arm", "seed"]).size().to_dict() == {
        ("baseline", 0): 2,
        ("baseline", 1): 2,
    }
    again = scans[scans.seed == 1].drop(columns=["arm", "seed"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(again, rows["scans"], rtol=1e-4, check_dtype=False)
    assert list(scans)[:3] == ["arm", "seed", "people"]
    assert read_table(tmp_path, "detection").empty


def test_what_the_tables_hold_is_not_run_again(tables, tmp_path):
    listed = list(JOBS.values())
    assert missing([*listed, *listed], pd.DataFrame(), "any") == listed
    job = JOBS["baseline", 1]
    add_rows(tmp_path, job, {"runs": tables["baseline"]["runs"]})
    runs = read_table(tmp_path, "runs")
    data = runs.data[0]
    assert missing(listed, runs, data) == [each for each in listed if each != job]
    assert job in missing(listed, runs, "other data")
    assert job in missing(listed, runs.assign(engine=ENGINE - 1), data)
    assert job in missing(listed, runs.assign(recipe="0"), data)


def test_an_arm_is_never_a_mixture_of_versions(tables, tmp_path, monkeypatch):
    """All rows to be made again go first, so that what is half made again is not judged."""
    again, kept = [JOBS["baseline", 0], JOBS["baseline", 1]], JOBS["zero", 0]
    for job in (*again, kept):
        rows = {name: tables[job.arm][name] for name in ("runs", "scans", "history")}
        facts = {"recipe": job.recipe.key(), "data": sweep._generator()}
        rows["runs"] = rows["runs"].assign(**facts, engine=ENGINE - (job != kept))
        add_rows(tmp_path, job, rows)

    def stop(*_):
        raise TrainingError("no number")

    monkeypatch.setattr(sweep, "run_parallel", stop)
    with pytest.raises(TrainingError):
        sweep._run_missing([*again, kept], tmp_path, None, sweep._generator(), "", progress=False)
    for name in ("runs", "scans"):
        assert set(read_table(tmp_path, name).arm) == {"zero"}
    assert read_table(tmp_path, "history").empty  # of zero there is none


def test_digests_of_digits_alone_stay_text(tables, tmp_path):
    job = JOBS["baseline", 1]
    digits = {"data": "481237730912", "protocol": "012345678901"}
    add_rows(tmp_path, job, {"runs": tables["baseline"]["runs"].assign(**digits)})
    assert job not in missing([job], read_table(tmp_path, "runs"), digits["data"])


def test_tables_say_when_they_are_out_of_date(tables):
    runs = tables["baseline"]["runs"].assign(source="synthetic cohort", data=sweep._generator())
    assert outdated(runs) == []
    assert outdated(runs.assign(engine=0)) == [f"made by engine version 0, now it is {ENGINE}"]
    assert "cohort made by generator 0" in outdated(runs.assign(data="generator 0"))[0]
    assert outdated(runs.assign(protocol="0")) == ["the protocol has changed since"]


def test_a_sweep_runs_the_pilot_first_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    """Without training: rows are made up, and one training fails at first."""
    began = []

    def pretend(job, root):
        began.append(job.arm)
        if began.count("zero") == 1 and job.arm == "zero":
            raise TrainingError("no number")
        row = {"recipe": job.recipe.key(), "engine": ENGINE, "data": sweep._generator()}
        row["source"] = "synthetic cohort"
        dice = {"validation_dice": [job.recipe.learning_rate * job.recipe.epochs]}
        return job, {"runs": pd.DataFrame([row]), "history": pd.DataFrame(dice)}

    monkeypatch.setattr(sweep, "_work", pretend)
    monkeypatch.setattr(
        sweep, "run_parallel", lambda work, jobs, scheduler: (work(*job) for job in jobs)
    )
    with pytest.raises(TrainingError):
        sweep.run_all("smoke", tmp_path, progress=False)
    first = len(began)
    sweep.run_all("smoke", tmp_path, progress=False)
    assert began[first] == "zero"
    done = len(began)
    sweep.run_all("smoke", tmp_path, progress=False)
    assert len(began) == done
    runs = read_table(tmp_path, "runs")
    pilots = [arm.startswith("pilot: ") for arm in runs.arm]
    assert pilots == sorted(pilots, reverse=True)
    choice = protocol.choose("smoke", read_table(tmp_path, "history"))
    assert choice.rates == dict.fromkeys(protocol.ENCODERS, 0.002)
    expected = {(job.arm, job.seed) for job in protocol.jobs("smoke", choice)}
    assert expected <= set(zip(runs.arm, runs.seed, strict=True))


def test_rows_of_real_people_get_into_no_table_of_synthetic_ones(cohort, tables, tmp_path):
    with pytest.raises(DataError, match="synthetic people only.*another folder"):
        sweep.run_all("smoke", shipped("results") / "smoke", cohort.root, progress=False)
    made = tables["baseline"]["runs"].assign(source="synthetic cohort")
    add_rows(tmp_path, JOBS["baseline", 1], {"runs": made})
    with pytest.raises(DataError, match="tables of other people .synthetic cohort."):
        sweep.run_all("smoke", tmp_path, cohort.root, progress=False)
    add_rows(tmp_path, JOBS["baseline", 1], {"runs": made.assign(source="ATLAS R1.1")})
    with pytest.raises(DataError, match="tables of other people .ATLAS R1.1."):
        sweep.run_all("smoke", tmp_path, progress=False)


def test_real_data_are_run_in_folds(cohort, monkeypatch):
    listed = protocol.in_folds([JOBS["baseline", 0]])
    assert [job.seed for job in listed] == list(range(6))
    tests = (test for job in listed for _, test in sweep._tests(job, cohort))
    tested = [name for test in tests for name in test.subjects]
    assert sorted(tested) == sorted(cohort.subjects)
