"""Recipes: the paper's values, and invalid changes that are refused before anything runs."""

from __future__ import annotations

import dataclasses

import pytest

from atlaslib import recipe
from atlaslib.recipes import PROFILES, Recipe, departures, parse_changes


def test_the_paper_profile_has_the_values_of_the_paper():
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
def test_input_sizes_are_multiples_of_four(profile):
    rows, columns = recipe("baseline", profile).input_size()
    assert rows % 4 == columns % 4 == 0


def test_the_key_depends_on_the_values():
    assert recipe("baseline").key() == recipe("baseline").key()
    assert recipe("baseline", seed=1).key() != recipe("baseline").key()
    assert Recipe("baseline", profile="smoke").key() == Recipe("baseline", profile="paper").key()


def test_a_new_field_changes_no_key():
    """So tables stay valid as long as a new field is at its default."""

    @dataclasses.dataclass(frozen=True)
    class Later(Recipe):
        sharpen: bool = False

    chosen = recipe("resnet", "quick")
    later = Later(**dataclasses.asdict(chosen))
    assert later.key() == chosen.key()
    assert dataclasses.replace(later, sharpen=True).key() != chosen.key()


@pytest.mark.parametrize(
    ("name", "profile", "changes", "says"),
    [
        ("unet", "quick", {}, "no recipe 'unet'; choose from baseline, .*zero"),
        ("baseline", "fast", {}, "no profile 'fast'"),
        ("baseline", "quick", {"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
        ("baseline", "quick", {"epochs": 2.5}, "epochs must be a whole number"),
        ("baseline", "quick", {"batch_size": 0}, "batch_size must be at least 1"),
        ("baseline", "quick", {"learning_rate": "fast"}, "learning_rate must be a number"),
        ("baseline", "quick", {"lesion_share": 2}, "lesion_share must be above 0"),
        ("baseline", "quick", {"split": "person"}, "split must be one of .*'person'"),
        ("baseline", "quick", {"patience": 0}, "patience must be at least 1"),
        ("baseline", "quick", {"epochs": None}, "epochs cannot be None"),
    ],
)
def test_invalid_recipes_are_refused(name, profile, changes, says):
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
