"""Arms differ from one another in what their names say, and every claim has its own."""

from __future__ import annotations

import dataclasses

import pytest

from atlaslib import claims
from atlaslib.arms import WALK, WALK_BACK, arms
from atlaslib.experiments import forward_gflop
from atlaslib.recipes import PROFILES


def test_every_claim_and_walk_has_its_arms():
    for profile in PROFILES:
        known = set(arms(profile))
        assert {arm for claim in claims.CLAIMS for arm in claim.arms or ()} <= known
        assert {arm for _, arm in (*WALK, *WALK_BACK)} <= known
    assert WALK[0][1] == WALK_BACK[-1][1] == "baseline"
    assert WALK[-2][1] == WALK_BACK[0][1] == "resnet"


def differing(first, second):
    return {
        field.name
        for field in dataclasses.fields(first)
        if getattr(first, field.name) != getattr(second, field.name)
    }


def test_arms_of_the_walk_differ_in_what_is_named():
    table = arms("quick")
    steps = {change: differing(table[before], table[after])
             for (_, before), (change, after) in zip(WALK, WALK[1:])}  # noqa: B905, RUF007 # fmt: skip
    assert steps["no skip connections"] == {"decoder"}
    assert steps["64 numbers between"] == {"decoder"}
    assert steps["batch normalisation"] == {"normalise"}
    assert steps["fewer channels"] == {"width"}
    assert steps["its rate and batch"] == {"learning_rate", "batch_size"}
    passes = {chosen.epochs for arm in (*WALK, *WALK_BACK) for chosen in [table[arm[1]]]}
    assert len(passes) == 1


def test_paper_arms_have_the_papers_rate_and_batch():
    chosen = arms("paper")["resnet, paper's rate and batch"]
    assert (chosen.learning_rate, chosen.batch_size) == (0.0001, 50)
    assert arms("paper")["baseline"].batch_size == 100


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_a_model_of_today_costs_less_than_the_papers_resnet(profile):
    """Operations of training: mirror images are averaged in tests alone."""
    table = arms(profile)
    cost = {
        name: forward_gflop(dataclasses.replace(table[name], average_mirrored=False))
        * table[name].epochs
        for name in ("resnet", "residual_unet", "dynunet")
    }
    assert max(cost["residual_unet"], cost["dynunet"]) < cost["resnet"]
