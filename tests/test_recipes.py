"""Recipes: the paper's values, and invalid changes that are refused before anything runs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from differing import differing

from atlaslib import build_model, recipe
from atlaslib.networks import forward_gflop
from atlaslib.paper.profiles import departures
from atlaslib.profiles import PROFILES
from atlaslib.recipes import Recipe, describe, parse_changes
from atlaslib.training.memory import saved_for_backward


def test_the_paper_profile_has_the_values_of_the_paper():
    baseline, resnet = recipe("baseline", "paper"), recipe("resnet", "paper")
    assert (baseline.learning_rate, baseline.batch_size) == (0.001, 100)
    assert (resnet.learning_rate, resnet.batch_size) == (0.0001, 50)
    assert baseline.pos_weight == resnet.pos_weight == 1
    assert baseline.lesion_share is None
    assert departures(baseline).empty


def test_quick_treats_both_networks_alike():
    assert differing(recipe("baseline", "quick"), recipe("resnet", "quick")) == {"model", "dropout"}


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
        (
            "unet",
            "quick",
            {},
            "no recipe 'unet' at the quick profile; choose from baseline, .*zero",
        ),
        ("baseline", "fast", {}, "no profile 'fast'"),
        ("baseline", "quick", {"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
        ("baseline", "quick", {"model": "resnet"}, "no field 'model'"),
        ("baseline", "quick", {"epochs": 2.5}, "epochs: expected a whole number from 0 to 100000"),
        ("baseline", "quick", {"augment": "no"}, "augment: expected true or false, not 'no'"),
        ("baseline", "quick", {"split": "person"}, "split: expected 'subject' or .*, not 'person'"),
        ("baseline", "quick", {"epochs": None}, "epochs: expected a whole number"),
        ("baseline", "quick", {"width": None}, "width: .* or 'default', not None"),
        ("baseline", "quick", {"learning_rate": 10**400}, "learning_rate: expected a number"),
        ("zero", "quick", {"split": "slice", "held_out": 0.2}, "held_out: .* leave it at 0.15"),
        ("zero", "quick", {"split": "slice inverted", "held_out": 0.2}, "held_out: a split by"),
    ],
)
def test_invalid_recipes_are_refused(name, profile, changes, says):
    with pytest.raises(ValueError, match=says) as error:
        recipe(name, profile, **changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


ODD = (-1, -0.5, 0.0, 1.5, 10**30, 1e400, float("nan"), "", "no", "1", "true", True, None, [1],
       {"a": 1}, b"1", "cross  entropy", np.int64(3), object(), "x" * 10_000)  # fmt: skip


def refusal(field: str, value: object) -> str:
    """What is said of a value; "" if it is taken."""
    try:
        chosen = dataclasses.replace(recipe("resnet", "smoke"), **{field: value})
    except ValueError as error:
        return str(error)
    kept = getattr(chosen, field)
    assert json.loads(json.dumps(kept)) == kept == value  # as plain as JSON, and not another value
    return ""


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)])
def test_odd_values_are_refused_in_one_line_that_names_the_field(field):
    said = [refusal(field, value) for value in ODD]
    assert sum(map(bool, said)) >= 14
    for line in filter(None, said):
        assert line.startswith(f"{field}: expected ")
        assert "\n" not in line
        assert len(line) < 300


def test_each_field_is_described():
    table = describe(recipe("baseline", "quick")).set_index("field")
    assert list(table.index) == [f.name for f in dataclasses.fields(Recipe)]
    assert table.purpose.str.len().min() > 5
    assert table.loc["batch_size", ["value", "unit", "range"]].tolist() == [
        8, "slices", "a whole number from 1 to 4096"]  # fmt: skip


def test_changes_from_a_command_line():
    assert parse_changes(["epochs=3", "learning_rate=1e-3", "lesion_share=none", "unit=paper"]) == {
        "epochs": 3,
        "learning_rate": 0.001,
        "lesion_share": None,
        "unit": "paper",
    }
    with pytest.raises(ValueError, match="expected FIELD=VALUE, not 'epochs'"):
        parse_changes(["epochs"])
    with pytest.raises(ValueError, match="--profile choose the recipe"):
        parse_changes(["profile=paper"])


@pytest.mark.parametrize("name", ["baseline", "resnet"])
def test_the_colab_profile_fits_half_an_hour_of_a_t4_by_its_operations(name):
    """On ATLAS R1.1, at a tenth of the 65 TFLOP/s of its data sheet; an estimate."""
    chosen = recipe(name, "colab")
    slices = 160 * 50 / 0.75  # people to train on, slices with lesion of each, their share
    validated = 34 * 189
    work = (3 * slices + validated) * forward_gflop(chosen) * 1e9 * chosen.epochs
    assert work / (0.1 * 65e12) < 30 * 60
    model = build_model(name, **chosen.model_options()).train()
    kept = saved_for_backward(model, torch.zeros(1, 1, *chosen.input_size()))
    assert chosen.batch_size * kept < 8e9  # of 16 GB
