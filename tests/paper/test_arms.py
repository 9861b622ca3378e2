"""Arms differ as their names say, and the arms of every claim exist."""

from __future__ import annotations

import dataclasses

import pytest

from atlaslib.networks import forward_gflop
from atlaslib.paper import claims
from atlaslib.paper.arms import arms
from atlaslib.profiles import PROFILES


def test_arms_of_all_claims_exist():
    for profile in PROFILES:
        known = set(arms(profile))
        assert {arm for claim in claims.CLAIMS for arm in claim.arms or ()} <= known


def test_paper_arms_have_the_papers_learning_rate_and_batch_size():
    chosen = arms("paper")["resnet, paper's rate and batch"]
    assert (chosen.learning_rate, chosen.batch_size) == (0.0001, 50)
    assert arms("paper")["baseline"].batch_size == 100


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_todays_models_train_with_fewer_operations_than_the_papers_resnet(profile):
    """Without test-time augmentation, which is not used in training."""
    table = arms(profile)
    cost = {
        name: forward_gflop(dataclasses.replace(table[name], flip_tta=False)) * table[name].epochs
        for name in ("resnet", "residual_unet", "dynunet")
    }
    assert max(cost["residual_unet"], cost["dynunet"]) < cost["resnet"]
