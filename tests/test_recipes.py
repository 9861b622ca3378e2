"""Recipes: the paper's values, and changes that are refused before anything runs."""

from __future__ import annotations

import pytest

from atlaslib import recipe
from atlaslib.recipes import PROFILES, departures, parse_changes


def test_paper_profile_is_the_papers():
    baseline, resnet = recipe("baseline", "paper"), recipe("resnet", "paper")
    assert (baseline.learning_rate, baseline.batch_size) == (0.001, 100)
    assert (resnet.learning_rate, resnet.batch_size) == (0.0001, 50)
    assert baseline.pos_weight == resnet.pos_weight == 1
    assert baseline.lesion_share is None
    assert departures(baseline).empty


def test_quick_departures_all_have_a_reason():
    table = departures(recipe("baseline", "quick"))
    assert {"downsample", "pos_weight", "lesion_share"} <= set(table.field)
    assert "chosen by the caller" not in set(table.why)


@pytest.mark.parametrize("profile", PROFILES)
def test_sizes_divide_by_four(profile):
    rows, columns = recipe("baseline", profile).input_size()
    assert rows % 4 == columns % 4 == 0


def test_fingerprint_follows_the_values():
    assert recipe("baseline").fingerprint() == recipe("baseline").fingerprint()
    assert recipe("baseline", seed=1).fingerprint() != recipe("baseline").fingerprint()


@pytest.mark.parametrize(
    ("name", "profile", "changes", "says"),
    [
        ("unet", "quick", {}, "no recipe 'unet'; there are baseline, resnet, .*zero"),
        ("baseline", "fast", {}, "no profile 'fast'"),
        ("baseline", "quick", {"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
        ("baseline", "quick", {"epochs": 2.5}, "epochs is a whole number"),
        ("baseline", "quick", {"batch_size": 0}, "batch_size is at least 1"),
        ("baseline", "quick", {"learning_rate": "fast"}, "learning_rate is a number"),
        ("baseline", "quick", {"lesion_share": 2}, "lesion_share lies between"),
        ("baseline", "quick", {"split": "person"}, "split is one of subject, scan, .*'person'"),
        ("baseline", "quick", {"patience": 0}, "patience is at least 1"),
        ("baseline", "quick", {"epochs": None}, "epochs cannot be None"),
    ],
)
def test_wrong_recipes_are_one_line(name, profile, changes, says):
    with pytest.raises(ValueError, match=says):
        recipe(name, profile, **changes)


def test_changes_from_a_command_line():
    assert parse_changes(["epochs=3", "learning_rate=1e-3", "lesion_share=none", "unit=paper"]) == {
        "epochs": 3,
        "learning_rate": 0.001,
        "lesion_share": None,
        "unit": "paper",
    }
    with pytest.raises(ValueError, match="expected FIELD=VALUE, not 'epochs'"):
        parse_changes(["epochs"])
