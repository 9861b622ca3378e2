"""The tuning of section 5.3, and the cost of a step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import atlaslib
from atlaslib.paper import tuning
from atlaslib.paper.tuning import batch_costs, short_recipe, step_cost, validation_tables
from atlaslib.profiles import recipe


def table(dice: np.ndarray) -> pd.DataFrame:
    subjects = [f"{number:02}" for number in range(len(dice))]
    return pd.DataFrame({"subject": subjects, "session": "t01", "dice": dice})


def test_tuning_compares_what_the_paper_compared():
    arms = [short_recipe("paper", learning_rate=rate) for rate in (0.0001, 0.001, 0.00001)]
    arms += [short_recipe("paper", batch_size=size) for size in (50, 100)]
    tables = {
        arm: table(np.full(9, arm.learning_rate * 100 + arm.batch_size / 1000)) for arm in arms
    }
    effects = tuning.tuning_effects("paper", tables)
    assert effects["C4a"].value == pytest.approx(0.01 - 0.1)
    assert effects["C4b"].value == pytest.approx(0.01 - 0.001)
    assert effects["C5b"].value == pytest.approx(-0.05)


def test_arms_trained_side_by_side_come_in_their_order_and_as_if_alone(cohort):
    arms = [short_recipe("smoke", learning_rate=rate) for rate in (0.01, 0.001, 0.0001)]
    tables = validation_tables([*arms, arms[0]], cohort)
    pd.testing.assert_frame_equal(tables.pop(), tables[0])  # equal arms share a run
    part = cohort.split(seed=0)[1]
    for arm, found in zip(arms, tables, strict=True):
        run = atlaslib.train(arm, cohort, progress=False)  # loaded: it is finished
        expected = atlaslib.evaluate(run, part, progress=False)
        pd.testing.assert_frame_equal(found, expected)
    assert len({table.loss.mean() for table in tables}) == len(arms)


SMALL = recipe("baseline", "smoke", width=2)


def test_memory_is_linear_in_the_batch_size():
    memory = batch_costs(SMALL, [2, 4, 6], steps=1).memory_mb
    assert memory[2] - memory[1] == pytest.approx(memory[1] - memory[0])
    assert memory[0] > 0


def test_neighbouring_slices_cost_memory_too():
    alone, neighbours = (
        step_cost(recipe("residual_unet", "smoke", width=2, context_slices=n), steps=1)
        for n in (0, 2)
    )
    assert neighbours["memory_mb"] > alone["memory_mb"]


def test_time_is_given_per_step_and_per_slice():
    cost = step_cost(SMALL, steps=1)
    assert cost["seconds"] > 0
    assert cost["seconds_per_slice"] == pytest.approx(cost["seconds"] / SMALL.batch_size)


def test_a_batch_that_does_not_fit_has_no_costs(monkeypatch):
    def refuse(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("atlaslib.paper.tuning._measure", refuse)
    cost = step_cost(SMALL)
    assert cost["batch_size"] == SMALL.batch_size
    assert cost["seconds"] != cost["seconds"]  # nan
    assert cost["memory_mb"] != cost["memory_mb"]
