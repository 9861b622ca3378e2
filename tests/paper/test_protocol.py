"""The plan is that of data/results/protocol.md, and its arms differ as their names say."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from differing import differing

from atlaslib.files import shipped
from atlaslib.models import build_model
from atlaslib.paper import judging, protocol
from atlaslib.paper.judging import CLAIMS
from atlaslib.paper.protocol import DECODERS, ENCODERS, PLANS, Choice, arms, cell, jobs

PAGE = (shipped("results") / "protocol.md").read_text()
CHOICE = Choice(dict.fromkeys(ENCODERS, 0.001), 12, ())


def test_the_page_says_what_the_plan_does():
    plan = PLANS["quick"]
    assert "70 people to train on and 15 to choose the weights" in " ".join(PAGE.split())
    assert f"({plan.people} are made" in PAGE
    assert f"One test set of {plan.test_people} people" in PAGE
    assert "for 6, 12 and 24 passes" in PAGE
    assert plan.lengths == (6, 12, 24)
    assert ".0005, .001 or .002" in PAGE
    assert plan.rates == (0.0005, 0.001, 0.002)
    seeds = [int(number) for number in re.findall(r"\| (\d+) \|$", PAGE, re.MULTILINE)]
    assert seeds == [plan.primary, plan.secondary, plan.secondary, plan.fine]
    assert plan.downsample == (4, 3)


def test_each_claim_stands_on_the_page_with_its_margin():
    for claim in CLAIMS:
        key = f"**{claim.key}**" if claim.key in judging.PRIMARY else claim.key
        (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {key} |"))
        assert claim.statement in row
        assert row.endswith(f"{f'{claim.margin:g}'.lstrip('0')} |")
        assert claim.comparison in row


def test_every_arm_of_a_claim_has_its_seeds():
    for profile, plan in PLANS.items():
        table = arms(profile, CHOICE)
        for claim in CLAIMS:
            assert set(claim.arms or ()) <= set(table)
            if claim.key in judging.PRIMARY:
                assert {table[arm][1] for arm in claim.arms or ()} == {plan.primary}


def test_the_factorial_changes_encoder_and_decoder_alone():
    table = {name: chosen for name, (chosen, _) in arms("quick", CHOICE).items()}
    for encoder in ENCODERS:
        first = table[cell(encoder, "U-Net")]
        for decoder in DECODERS:
            other = table[cell(encoder, decoder)]
            assert differing(first, other) <= {"decoder", "vector", "map_width"}
            assert (other.width, other.epochs, other.batch_size) == (8, 12, 8)
    assert table["resnet"].vector == 32
    assert differing(table["baseline"], table["6 convolutions, norm, U-Net"]) == {"normalise"}
    assert differing(table["resnet"], table["4 units, vector"]) == {"units"}
    assert differing(table["resnet"], table["resnet, plain loss"]) == {"pos_weight"}
    assert differing(table["baseline"], table["baseline, by slice"]) == {"split"}
    assert differing(table["baseline"], table["baseline, fine"]) == {"downsample"}


@pytest.mark.parametrize("profile", PLANS)
def test_every_model_of_the_plan_can_be_built(profile):
    for chosen, _ in arms(profile, CHOICE).values():
        build_model(chosen.model, **chosen.model_options())


def test_every_seed_has_a_split_of_its_own_but_the_leak_compares_equal_slices():
    listed = jobs("quick", CHOICE)
    assert {job.recipe.seed for job in listed if job.arm == "baseline"} == set(range(12))
    assert {job.recipe.split_seed for job in listed if job.arm == "baseline, by slice"} == {0}
    assert len({(job.arm, job.seed) for job in listed}) == len(listed)


def test_real_data_are_tested_in_folds():
    listed = protocol.in_folds(jobs("quick", CHOICE))
    assert {job.recipe.split_seed for job in listed if job.arm == "resnet"} == set(range(6))
    assert {job.recipe.folds for job in listed} == {6}
    assert not any("by slice" in job.arm for job in listed)


def history(dice: dict[str, float]) -> pd.DataFrame:
    """Of the pilot's trainings: the Dice by a part of the arm's name, .4 where none fits."""
    pilot = [*protocol.pilot_jobs("quick"), *protocol.length_jobs("quick", RATES)]
    rows = [
        {"arm": job.arm, "seed": job.seed, "validation_dice": value + change}
        for job in pilot
        for value in [next((v for part, v in dice.items() if part in job.arm), 0.4)]
        for change in (-0.2, 0, -0.1)  # passes: the best one is kept
    ]
    return pd.DataFrame(rows).drop_duplicates()


RATES = {"6 convolutions": 0.002, "6 convolutions, norm": 0.001, "20 units": 0.0005}


def test_the_pilot_chooses_each_encoders_best_rate():
    best = {
        "pilot: baseline, rate 0.002": 0.5,
        "6 convolutions, norm, U-Net, rate 0.001": 0.5,
        # by the mean over two decoders
        "20 units, U-Net, rate 0.002": 0.55,
        "resnet, rate 0.0005": 0.9,
    }
    found = protocol.choose_rates("quick", history(best))
    assert found == {**RATES, "20 units": 0.0005}


@pytest.mark.parametrize(
    ("reached", "passes", "unsettled"),
    [
        ({}, 6, ()),
        ({"6 passes": 0.375}, 12, ()),
        ({"6 passes": 0.39}, 6, ()),
        ({"pilot: resnet, rate 0.0005, 6 passes": 0.37}, 12, ()),
        ({"20 units, U-Net, rate 0.0005, 24 passes": 0.45}, 24, ("20 units, U-Net",)),
    ],
)
def test_the_length_is_the_shortest_close_to_the_longest_in_every_arm(reached, passes, unsettled):
    rates = {"pilot: baseline, rate 0.002, 12": 0.401, "norm, U-Net, rate 0.001": 0.5}
    choice = protocol.choose("quick", history(reached | rates))
    assert choice.rates == RATES
    assert (choice.passes, choice.unsettled) == (passes, unsettled)


def test_effects_are_given_for_claims_whose_arms_are_complete():
    rng = np.random.default_rng(0)
    people = rng.random(20)
    arms = {"baseline": (0.4, 12), "resnet": (0.3, 12), "20 units, U-Net": (0.4, 12),
            "4 units, U-Net": (0.3, 11)}  # fmt: skip
    scans = pd.DataFrame(
        [(arm, seed, "known", f"s{n}", mean * share * 2 + rng.normal(0, 0.001), 1.0)
         for arm, (mean, seeds) in arms.items() for seed in range(seeds)
         for n, share in enumerate(people)],
        columns=["arm", "seed", "people", "subject", "dice", "loss"],
    )  # fmt: skip
    unseen = scans.assign(people="unseen", dice=0.0)
    found = judging.effects("quick", pd.concat([scans, unseen]))
    assert set(found) == {"C1", "C3"}
    assert judging.effects("quick", pd.DataFrame()) == {}
    assert found["C3"].value == pytest.approx(0.2 * people.mean(), abs=0.001)
    assert (found["C1"].subjects, found["C1"].seeds) == (20, 12)
    wide, narrow = found["C3"], judging.contrast(scans, {"baseline": 1, "resnet": -1})
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)  # 98.3 % against 95 %


def test_trainings_are_counted_against_the_plan():
    none = judging.trainings("quick", pd.DataFrame())
    assert none.seeds["baseline"] == 12
    assert none.done.sum() == 0
    assert none.seeds.sum() == len(jobs("quick", CHOICE))
    known = pd.DataFrame({"arm": ["resnet", "resnet"], "seed": [0, 1], "people": "known"})
    assert judging.trainings("quick", known).done["resnet"] == 2
    folds = judging.trainings("quick", known.assign(people="fold"))
    assert folds.seeds.sum() == len(protocol.in_folds(jobs("quick", CHOICE)))


@pytest.mark.parametrize("count", [5, 6])
def test_real_people_are_judged_when_all_folds_are_in(count):
    people = np.arange(20 * count)
    scans = pd.DataFrame(
        {"arm": "baseline", "seed": people // 20, "people": "fold", "subject": people.astype(str),
         "dice": people % 7 / 10, "loss": 1.0}
    )  # fmt: skip
    assert set(judging.effects("quick", scans)) == ({"C1"} if count == 6 else set())
