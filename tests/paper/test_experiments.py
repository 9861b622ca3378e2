"""Each arm and seed is trained once, by the first free worker; outdated tables are detected."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import pandas as pd
import pytest
import torch

from atlaslib import DataError, recipe
from atlaslib.files import shipped
from atlaslib.paper import claims, experiments
from atlaslib.paper.arms import arms
from atlaslib.paper.experiments import Job, forward_gflop
from atlaslib.runs import ENGINE, load_run, run_folder
from atlaslib.training.step import TrainingError


@pytest.fixture(scope="module")
def results(tmp_path_factory, cohort):
    """The tables of four arms with two seeds each."""
    names = ("baseline", "resnet", "zero", "baseline, split by slice")
    with pytest.MonkeyPatch.context() as patch:
        kept = {name: chosen for name, chosen in arms("smoke").items() if name in names}
        patch.setattr(experiments, "arms", lambda profile: kept)
        for job in experiments.jobs("smoke", 2):
            experiments.run_job(job, cohort)
        return experiments.gather(cohort, "smoke", 2)


def test_tables_hold_every_scan_of_every_seed(results):
    assert set(results.runs.arm) == {"baseline", "resnet", "zero", "baseline, split by slice"}
    assert results.runs.groupby("arm").seed.nunique().eq(2).all()
    counts = results.scans.groupby(["arm", "seed"]).size()
    assert (counts["baseline"] == counts["resnet"]).all()
    assert counts["baseline, split by slice"].eq(8).all()  # every scan has test slices
    assert results.scans.perfect_original.notna().sum() == 2 * counts["baseline"].sum()
    assert set(results.calibration.arm) == {"baseline", "resnet"}
    assert {"C1", "C2", "C3", "C5a"} == set(results.effects())
    assert results.effects()["C5a"].seeds == 2  # one measurement per seed
    assert not results.history[results.history.arm != "zero"].empty


def test_test_subjects_depend_on_the_seed_and_not_on_the_arm(results):
    tested = results.scans.groupby(["arm", "seed"]).subject.agg(set)
    assert tested["baseline", 0] != tested["baseline", 1]
    assert tested["baseline", 1] == tested["resnet", 1]


def test_saved_tables_load_unchanged(results, tmp_path):
    experiments.save(results, tmp_path)
    again = experiments.load("smoke", tmp_path)
    for name in experiments._TABLES:
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(results, name), rtol=1e-4, check_dtype=False
        )
    assert experiments.stale(again) == []
    with pytest.raises(DataError, match="no results of the quick profile"):
        experiments.load("quick", tmp_path)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("engine", "made by engine version 0, now it is"),
        ("generator", "cohort made by generator version 0, now it is"),
    ],
)
def test_tables_of_another_version_are_stale(results, key, reason):
    old = results._replace(provenance=results.provenance | {key: 0, "source": "synthetic cohort"})
    assert any(reason in text for text in experiments.stale(old))


def test_tables_of_another_recipe_are_stale(results):
    changed = results.runs.copy()
    changed.loc[changed.arm == "resnet", "recipe"] = "0"
    assert experiments.stale(results._replace(runs=changed)) == [
        "the recipe of 'resnet' has changed"
    ]


def test_workers_share_the_jobs(cohort, tmp_path, monkeypatch):
    """A worker skips finished and locked jobs and runs the rest."""
    listed = [
        Job("zero", seed, recipe("zero", "smoke", seed=seed, split_seed=9)) for seed in (7, 8)
    ]
    monkeypatch.setattr(experiments, "jobs", lambda profile, seeds: listed)
    run_job, done = experiments.run_job, []

    def busy(job, cohort):
        if job.seed == 7 and not done:
            done.append(job.seed)
            raise DataError("another process is training in this folder", "locked")
        done.append(job.seed)
        run_job(job, cohort)

    monkeypatch.setattr(experiments, "run_job", busy)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    experiments._work(0, cohort.root, "smoke", 2)
    assert done == [7, 8]
    experiments._work(0, cohort.root, "smoke", 2)
    assert done == [7, 8, 7]
    assert all(experiments.is_done(job, cohort) for job in listed)


def test_a_failed_run_is_reported_in_one_line(cohort, monkeypatch):
    """The error of a worker process arrives as the text of its traceback."""

    class Context:
        def join(self, timeout):
            text = "-- Process 0 --\nTraceback ...\natlaslib.training.step.TrainingError: no number"
            raise torch.multiprocessing.ProcessRaisedException(text, 0, 1)

    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda *given, **more: Context())
    with pytest.raises(TrainingError, match="TrainingError: no number$"):
        experiments.run_all(cohort, "smoke", 1, progress=False)


def test_a_job_is_not_trained_twice(cohort, results, monkeypatch):
    monkeypatch.setattr("atlaslib.training.loop._train", None)
    chosen = arms("smoke")["baseline"]
    load_run(run_folder(chosen, cohort))
    experiments.run_job(Job("baseline", 0, chosen), cohort)


def test_new_people_are_scored_once_per_kind_of_scanner(cohort, results, monkeypatch):
    monkeypatch.setattr(experiments, "open_new_people", lambda: {"known": cohort, "unseen": cohort})
    job = Job("baseline", 0, arms("smoke")["baseline"])
    experiments.run_job(job, dataclasses.replace(cohort, release="synthetic"))
    table = pd.read_csv(run_folder(job.recipe, cohort) / "new_people.csv")
    known, unseen = (table[table.scanners == name] for name in ("known", "unseen"))
    assert len(known) == len(cohort.scans)
    assert known.dice.tolist() == unseen.dice.tolist()


def test_operations_agree_with_a_closed_form():
    chosen = recipe("baseline", "paper")
    sizes = [(232, 196, 1, 64), (232, 196, 64, 64), (116, 98, 64, 128), (116, 98, 128, 128),
             (58, 49, 128, 256), (58, 49, 256, 256), (116, 98, 256, 128), (116, 98, 128, 128),
             (232, 196, 128, 64), (232, 196, 64, 64)]  # fmt: skip
    expected = sum(2 * 9 * h * w * a * b for h, w, a, b in sizes)
    # transposed 2x2 convolutions, whose operations depend on their input size, and the 1x1 head
    expected += 2 * 4 * (116 * 98 * 256 * 128 + 232 * 196 * 128 * 64) + 2 * 232 * 196 * 64
    assert forward_gflop(chosen) == pytest.approx(expected / 1e9, rel=0.01)
    assert math.isclose(
        forward_gflop(recipe("baseline", "paper", flip_tta=True)),
        2 * forward_gflop(chosen),
    )


def test_committed_tables_say_whether_they_are_out_of_date():
    """Renewing them takes hours, so older ones are only reported, as a warning of this test."""
    folder = shipped("results") / "claims"
    studies = sorted(folder.glob("*_study.json"))
    paths = sorted(set(folder.glob("*.json")) - set(studies))
    assert paths
    assert studies
    reasons = {}
    for path in studies:
        reasons[path] = experiments.outdated_versions(json.loads(path.read_text()))
        assert path.with_suffix(".csv").is_file()
    for path in paths:
        found = experiments.load(path.stem, path.parent)
        reasons[path] = experiments.stale(found)
        assert found.runs.groupby("arm").seed.nunique().min() >= claims.SEEDS
    for path, texts in reasons.items():
        older = json.loads(path.read_text())["engine"] != ENGINE
        assert any("made by engine version" in text for text in texts) == older
        if texts:
            warnings.warn(f"{path.name} is out of date: {'; '.join(texts)}", stacklevel=1)
