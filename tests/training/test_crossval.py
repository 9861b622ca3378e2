"""Cross-validation: every scan is tested once, by a network that has not seen its subject."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time

import pandas as pd
import pytest
from cluster import dask_cluster

from atlaslib import DataError, evaluate, load_run, recipe
from atlaslib.training import crossval
from atlaslib.training.crossval import cross_validate

RECIPE = recipe("baseline", "smoke", width=2, epochs=2)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("crossval")


@pytest.fixture(scope="module")
def table(cohort, out):
    return cross_validate(RECIPE, cohort, out, folds=3, progress=False)


def test_every_scan_is_tested_once_by_a_network_that_has_not_seen_its_subject(table, cohort, out):
    tested = zip(table.subject, table.session, strict=True)
    assert sorted(tested) == sorted((scan.subject, scan.session) for scan in cohort)
    assert set(table.part) == {"test"}
    for fold, rows in table.groupby("fold"):
        run = load_run(out / f"fold-{fold}")
        assert sorted(run.provenance["split"]["test"]) == sorted(set(rows.subject))
        again = evaluate(run, run.unseen(cohort), progress=False)
        pd.testing.assert_frame_equal(rows.drop(columns="fold").reset_index(drop=True), again)


def test_the_table_is_written_and_a_second_call_trains_nothing(table, cohort, out, monkeypatch):
    pd.testing.assert_frame_equal(pd.read_csv(out / "scores.csv", dtype={"subject": str}), table)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("fold-*/*")}
    again = cross_validate(RECIPE, cohort, out, folds=3, progress=False)
    pd.testing.assert_frame_equal(again, table)
    assert {path: path.stat().st_mtime_ns for path in out.glob("fold-*/*")} == stamps


def test_an_interruption_keeps_the_folds_that_are_done(cohort, tmp_path, monkeypatch):
    def one_by_one(function, jobs, scheduler):
        assert scheduler == ""
        yield function(*jobs[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(crossval, "run_parallel", one_by_one)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(RECIPE, cohort, tmp_path, folds=3, progress=False)
    assert set(pd.read_csv(tmp_path / "scores.csv").fold) == {2}


def test_folds_that_cannot_be_made_are_refused(table, cohort, out, tmp_path):
    for changes in ({"folds": 3}, {"split_seed": 1}):
        chosen = dataclasses.replace(RECIPE, **changes)
        with pytest.raises(ValueError, match="leave the recipe's folds at none"):
            cross_validate(chosen, cohort, tmp_path, 3, progress=False)
    for folds in (0, 1, "3"):
        with pytest.raises(ValueError, match="whole number of at least 2"):
            cross_validate(RECIPE, cohort, tmp_path / "new", folds, progress=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "scores.csv").write_text("my,own\n1,2\n")
    with pytest.raises(DataError, match="no table of a cross-validation; it is not overwritten"):
        cross_validate(RECIPE, cohort, tmp_path, 3, progress=False)
    with pytest.raises(DataError, match="20 folds need as many subjects, found 7"):
        cross_validate(RECIPE, cohort, tmp_path, folds=20, progress=False)
    other = dataclasses.replace(RECIPE, learning_rate=0.01)
    with pytest.raises(DataError, match="another recipe"):
        cross_validate(other, cohort, out, folds=3, progress=False)


def test_a_killed_worker_of_a_cluster_costs_nothing_but_time(table, cohort, tmp_path):
    out = tmp_path / "out"
    with dask_cluster(tmp_path) as cluster:
        cluster.workers(threads=1, count=2)
        first = cluster.processes[1]

        def kill_one_in_the_middle():
            while sum(1 for _ in out.glob("fold-*/history.csv")) < 2:
                time.sleep(0.02)
            first.kill()

        killer = threading.Thread(target=kill_one_in_the_middle, daemon=True)
        killer.start()
        there = cross_validate(RECIPE, cohort, out, 3, cluster.address, progress=False)
        killer.join()
        assert first.wait(10) == -signal.SIGKILL
    pd.testing.assert_frame_equal(there, table)
