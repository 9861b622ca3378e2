"""The committed tables of the short trainings load, and tell when they are out of date."""

from __future__ import annotations

import json
import shutil

import pytest

from atlaslib import DataError
from atlaslib.files import shipped
from atlaslib.paper import claims, experiments

FOLDER = shipped("results") / "claims"


@pytest.fixture(scope="module")
def results():
    return experiments.load("quick")


def test_every_arm_has_five_seeds_and_the_same_people_for_each(results):
    assert results.runs.groupby("arm").seed.nunique().eq(claims.SEEDS).all()
    tested = results.scans.groupby(["arm", "seed"]).subject.agg(set)
    assert tested["baseline", 0] != tested["baseline", 1]
    assert tested["baseline", 1] == tested["resnet", 1]
    assert set(claims.effects_of(results.scans)) == {c.key for c in claims.CLAIMS if c.arms}


def test_missing_tables_are_an_error(tmp_path):
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
    old = results._replace(provenance=results.provenance | {key: 0})
    assert any(reason in text for text in experiments.stale(old))


def test_tables_of_another_recipe_are_stale(results):
    changed = results.runs.copy()
    changed.loc[changed.arm == "resnet", "recipe"] = "0"
    found = experiments.stale(results._replace(runs=changed))
    assert set(found) - set(experiments.stale(results)) == {"the recipe of 'resnet' has changed"}


def test_the_committed_tables_are_of_the_first_versions(results):
    """They are shown as out of date, until those of the protocol replace them."""
    reasons = experiments.stale(results)
    assert len(reasons) == 2
    assert "made by engine version 1" in reasons[0]
    assert "cohort made by generator version 1" in reasons[1]
    study = json.loads((FOLDER / "quick_study.json").read_text())
    assert len(experiments.outdated_versions(study)) == 2
    assert (FOLDER / "quick_study.csv").is_file()


def test_tables_are_found_by_profile(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "claims")
    assert experiments.load(None, tmp_path / "claims").provenance["profile"] == "quick"
