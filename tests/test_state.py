"""Where a run stands, and what comes back of it."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from atlaslib import recipe, train
from atlaslib.state import State
from atlaslib.steps import Trainee
from atlaslib.world import World

RECIPE = recipe("baseline", "smoke", width=2, epochs=4)


@pytest.fixture
def state(cohort, tmp_path):
    trainee = Trainee(RECIPE, cohort, None, World(), False)
    return State(tmp_path, trainee, World())


def row(epoch: int, dice: float, loss: float = 0.1) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": 0.2,
        "validation_loss": loss,
        "validation_dice": dice,
        "seconds": 1.0,
    }


def test_the_weights_of_the_best_epoch_are_kept(state):
    """Of equal Dice, those with the lower loss; a Dice that is no number is none."""
    parameter = next(state.trainee.model.parameters())
    name = next(iter(state.weights))
    kept = []
    scores = [(float("nan"), 0.1), (0.3, 0.1), (0.2, 0.01), (0.3, 0.05), (0.3, 0.07)]
    for epoch, (dice, loss) in enumerate(scores, 1):
        with torch.no_grad():
            parameter.fill_(epoch)
        state.end_epoch(row(epoch, dice, loss))
        kept.append(state.weights[name].flatten()[0].item())
    assert kept == [1, 2, 2, 4, 4]


def test_patience_lasts_while_the_loss_falls(state):
    """Plain cross entropy learns for epochs before the first voxel is marked."""
    state.trainee.recipe = dataclasses.replace(RECIPE, patience=2)
    stuck = []
    for epoch, loss in enumerate((0.5, 0.4, 0.3, 0.3, 0.35), 1):
        state.end_epoch(row(epoch, 0.0, loss))
        stuck.append(state.is_stuck())
    assert stuck == [False, False, False, False, True]


def test_the_history_grows_with_the_epochs(state):
    for epoch in (1, 2):
        state.end_epoch(row(epoch, 0.1 * epoch))
        assert list(pd.read_csv(state.folder / "history.csv").epoch) == list(range(1, epoch + 1))


def test_the_mean_loss_is_that_of_the_steps(state):
    for value in (1.0, 2.0, 6.0):
        state.took(torch.tensor(value))
    assert state.loss == 3.0


def test_a_state_comes_back_whole(state, cohort):
    state.took(torch.tensor(0.5))
    state.save()
    other = State(state.folder, Trainee(RECIPE, cohort, None, World(), False), World())
    with torch.no_grad():
        for parameter in other.trainee.model.parameters():
            parameter.zero_()
    other.resume()
    assert (other.step, other.total) == (1, 0.5)
    for ours, theirs in zip(
        other.trainee.model.parameters(), state.trainee.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_half_precision_does_not_cost_quality(cohort, tmp_path, monkeypatch):
    """bfloat16 as on a GPU, here on the CPU: the same run up to rounding."""
    from atlaslib import steps

    whole = train(RECIPE, cohort, out=tmp_path / "a", progress=False)
    monkeypatch.setattr(steps, "half_precision", lambda device: torch.bfloat16)
    half = train(RECIPE, cohort, out=tmp_path / "b", progress=False)
    assert not half.history.loss.equals(whole.history.loss)  # it was half precision
    pd.testing.assert_series_equal(half.history.loss, whole.history.loss, rtol=0.03)
    pd.testing.assert_series_equal(
        half.history.validation_dice, whole.history.validation_dice, atol=0.05
    )
