"""A checkpoint with a right digest and a wrong content is damaged: the one before is used."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint import assert_same, newest
from sessions import new_session, new_state

from atlaslib import recipe, train
from atlaslib.runs import COLUMNS
from atlaslib.training import state
from atlaslib.training.checkpoints import (
    CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    save_checkpoint,
)
from atlaslib.training.step import TrainingSession

RECIPE = recipe("baseline", "smoke", epochs=2, width=2)


def first_moments(content):
    return content["optimiser"]["state"][0]


def one_epoch(content, **changes):
    """A history of one epoch, with a change."""
    row = dict.fromkeys(COLUMNS, 0.5) | {"epoch": 1} | changes
    content.update(history=[row], step=0)
    return row


CHANGES = {
    "another run": (lambda c: c.update(experiment="0123456789ab"), "of another run"),
    "nothing": (lambda c: c.clear(), "experiment: Field required"),
    "NaN in a weight": (lambda c: c["model"]["conv1.weight"].fill_(torch.nan), "NaN or inf"),
    "another network": (lambda c: c.update(model={"a": torch.zeros(3)}), "names differ"),
    "words in place of a weight": (lambda c: c["weights"].update(x="much"), "weights.x"),
    "no optimiser": (lambda c: c.update(optimiser={}), "optimiser.state: Field required"),
    "no moments": (lambda c: c["optimiser"]["state"].clear(), "taken 0 steps, expected 3"),
    "too many steps": (lambda c: first_moments(c)["step"].add_(1), "taken 4 steps, expected 3"),
    "half the moments": (lambda c: first_moments(c).pop("exp_avg"), "exp_avg: Field required"),
    "NaN in a moment": (lambda c: first_moments(c)["exp_avg"].fill_(torch.nan), "NaN or infinite"),
    "an infinite moment": (
        lambda c: first_moments(c)["exp_avg_sq"].fill_(torch.inf), "NaN or infinite"),
    "a negative square": (lambda c: first_moments(c)["exp_avg_sq"].fill_(-1), "negative"),
    "moments of another shape": (
        lambda c: first_moments(c).update(exp_avg=torch.zeros(3)), "that of another network"),
    "moments of no parameter": (
        lambda c: c["optimiser"]["state"].update({99: first_moments(c)}), "another network"),
    "half a step": (lambda c: c.update(step=0.5), "step: Input should be"),
    "a step beyond the epoch": (lambda c: c.update(step=10_000), "more epochs or steps"),
    "a step beyond the run": (
        lambda c: (one_epoch(c), c.update(step=1)), "more epochs or steps"),
    "negative seconds": (lambda c: c.update(seconds=-1.0), "seconds: Input should be greater"),
    "NaN seconds": (lambda c: c.update(seconds=float("nan")), "seconds: Input should be"),
    "a NaN total": (lambda c: c.update(total=torch.tensor(torch.nan)), "total: .*NaN"),
    "several totals": (lambda c: c.update(total=torch.zeros(3)), "total: .*a single number"),
    "long history": (lambda c: c.update(history=[one_epoch(c)] * 4), "one row for each epoch"),
    "another epoch": (lambda c: one_epoch(c, epoch=2), "one row for each epoch"),
    "no column of losses": (lambda c: one_epoch(c).pop("loss"), "history.0.loss: Field required"),
    "a NaN loss": (lambda c: one_epoch(c, validation_loss=float("nan")), "0.validation_loss"),
    "a Dice of 2": (lambda c: one_epoch(c, validation_dice=2.0), "0.validation_dice"),
    "no random state": (lambda c: c.update(random=[]), "random: "),
    "a short random state": (
        lambda c: c.update(random=[[torch.zeros(3, dtype=torch.uint8)]]), "RNG state"),
    "an empty random state": (lambda c: c.update(random=[[]]), "random.0: "),
    "words in the scaler": (lambda c: c.update(scaler={"scale": "much"}), "scaler.scale"),
    "half a scaler": (lambda c: c.update(scaler={"scale": 1.0}), "scaler: .*incomplete"),
}  # fmt: skip


SHORT = dataclasses.replace(RECIPE, epochs=1)


@pytest.fixture(scope="module")
def stopped(cohort, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run that ended at its fourth step, and the weights it would have had."""

    class EnoughError(Exception):
        pass

    record_step = state.TrainingState.record_step

    def stop(self, loss):
        if self.step == 3:
            raise EnoughError
        record_step(self, loss)

    folder = tmp_path_factory.mktemp("stopped")
    whole = train(SHORT, cohort, out=folder / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "CHECKPOINT_SECONDS", 0)
        patch.setattr(state.TrainingState, "record_step", stop)
        with pytest.raises(EnoughError):
            train(SHORT, cohort, out=folder / "run", progress=False)
    return folder / "run", whole.model().state_dict()


@pytest.fixture(scope="module")
def session(cohort) -> TrainingSession:
    return new_session(SHORT, cohort)


def with_change(folder: Path, copy: Path, change: Callable[[dict], object]) -> Path:
    """A copy of a stopped run whose newest checkpoint is changed."""
    shutil.copytree(folder, copy)
    previous, content = (copy / PREVIOUS_CHECKPOINT).read_bytes(), newest(copy)
    change(content)
    save_checkpoint(copy, content)
    (copy / PREVIOUS_CHECKPOINT).write_bytes(previous)
    return copy


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_with_a_right_digest_and_another_content_is_damaged(
    name, session, stopped, tmp_path
):
    change, says = CHANGES[name]
    resumed = new_state(with_change(stopped[0], tmp_path / "run", change), session)
    with pytest.warns(UserWarning, match=f"damaged checkpoint .*{says}.* resuming from the prev"):
        resumed.resume()
    assert (resumed.step, resumed.history) == (2, [])  # those of the previous one


def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_the_same_weights(
    cohort, stopped, tmp_path
):
    change, _ = CHANGES["NaN in a moment"]
    folder = with_change(stopped[0], tmp_path / "run", change)
    with pytest.warns(UserWarning, match="resuming from the previous"):
        run = train(SHORT, cohort, out=folder, progress=False)
    assert_same(run.model().state_dict(), stopped[1])


@pytest.mark.parametrize("name", ["a short random state", "several totals", "half a scaler"])
def test_without_an_intact_checkpoint_nothing_is_restored(name, session, stopped, tmp_path):
    change, _ = CHANGES[name]
    folder = with_change(stopped[0], tmp_path / "run", change)
    shutil.copy(folder / CHECKPOINT, folder / PREVIOUS_CHECKPOINT)
    with torch.no_grad():
        for parameter in session.model.parameters():
            parameter.fill_(0.25)
    torch.manual_seed(5)
    random = torch.get_rng_state()
    resumed = new_state(folder, session)
    before, moments = dict(vars(resumed)), dict(session.optimiser.state)
    with pytest.warns(UserWarning, match="starting from scratch"):
        resumed.resume()
    assert vars(resumed) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert dict(session.optimiser.state) == moments
    assert all((parameter == 0.25).all() for parameter in session.model.parameters())


def test_the_settings_of_the_optimiser_are_those_of_the_recipe(session, stopped, tmp_path):
    def change(content):
        content["optimiser"]["param_groups"] = [{"lr": 100.0, "betas": (0.0, 0.0), "params": [0]}]

    folder = with_change(stopped[0], tmp_path / "run", change)
    resumed = new_state(folder, session)
    resumed.resume()
    assert resumed.step == 3
    (group,) = session.optimiser.param_groups
    assert (group["lr"], group["betas"]) == (SHORT.learning_rate, (0.9, 0.999))
