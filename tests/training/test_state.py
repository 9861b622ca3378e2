"""The state of a run, and how it is restored from a checkpoint."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from sessions import new_session, new_state

from atlaslib import recipe, train
from atlaslib.training import step
from atlaslib.training.custom import Custom

RECIPE = recipe("baseline", "smoke", width=2, epochs=4)


@pytest.fixture
def state(cohort, tmp_path):
    return new_state(tmp_path, new_session(RECIPE, cohort))


def row(epoch: int, dice: float, loss: float = 0.1) -> dict[str, float]:
    return {
        "epoch": epoch,
        "loss": 0.2,
        "validation_loss": loss,
        "validation_dice": dice,
        "seconds": 1.0,
    }


def test_a_scaler_s_skipped_steps_are_known_on_the_next_device(cohort, tmp_path):
    session = new_session(RECIPE, cohort)
    session.scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = new_state(tmp_path, session)
    x = torch.rand(RECIPE.batch_size, 1, *RECIPE.input_size())
    state.record_step(session.step(x, (x > 0.9).float()))
    state.record_step(torch.tensor(1.0))  # a step that the scaler skipped
    state.save()
    for _ in range(2):
        session = new_session(RECIPE, cohort)  # a device without a scaler
        later = new_state(tmp_path, session)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            later.resume()
        assert later.step == 2
        later.save()
        later.save()


def test_adam_s_moments_get_the_layout_of_the_weights(cohort, tmp_path):
    chosen = recipe("residual_unet", "smoke", width=2)
    session = new_session(chosen, cohort)
    state = new_state(tmp_path, session)
    channels = 1 + 2 * chosen.context_slices
    x = torch.rand(chosen.batch_size, channels, *chosen.input_size())
    state.record_step(session.step(x, (x[:, :1] > 0.9).float()))
    state.save()
    other = new_session(chosen, cohort)
    other.model.to(memory_format=torch.channels_last)
    new_state(tmp_path, other).resume()
    pairs = zip(session.optimiser.state.values(), other.optimiser.state.items(), strict=True)
    for before, (parameter, moments) in pairs:
        assert moments["exp_avg"].stride() == parameter.stride()
        assert torch.equal(moments["exp_avg"], before["exp_avg"])


def test_no_epoch_begins_that_would_end_too_late(state):
    state.session.custom = Custom(max_minutes=3.5)
    ended = []
    for epoch, seconds in enumerate((50, 70, 60), 1):
        state.end_epoch(row(epoch, 0.1) | {"seconds": seconds})
        ended.append(state.ended())
    assert ended == ["", "", "max_minutes"]  # with one more: 100, 180 and 240 of 210 seconds


def test_the_weights_of_the_best_epoch_are_kept(state):
    """At equal Dice the lower loss decides; a NaN counts as a Dice of 0."""
    parameter = next(state.session.model.parameters())
    name = next(iter(state.weights))
    kept = []
    scores = [(float("nan"), 0.1), (0.3, 0.1), (0.2, 0.01), (0.3, 0.05), (0.3, 0.07)]
    for epoch, (dice, loss) in enumerate(scores, 1):
        with torch.no_grad():
            parameter.fill_(epoch)
        state.end_epoch(row(epoch, dice, loss))
        kept.append(state.weights[name].flatten()[0].item())
    assert kept == [1, 2, 2, 4, 4]


def test_early_stopping_waits_while_the_loss_falls(state):
    """With plain cross entropy, the loss falls for epochs before any voxel is segmented."""
    state.session.recipe = dataclasses.replace(RECIPE, patience=2, epochs=9)
    stops = []
    for epoch, loss in enumerate((0.5, 0.4, 0.3, 0.3, 0.35), 1):
        state.end_epoch(row(epoch, 0.0, loss))
        stops.append(state.ended())
    assert stops == ["", "", "", "", "patience"]


def test_the_history_grows_with_the_epochs(state):
    for epoch in (1, 2):
        state.end_epoch(row(epoch, 0.1 * epoch))
        assert list(pd.read_csv(state.folder / "history.csv").epoch) == list(range(1, epoch + 1))


def test_the_loss_is_the_mean_over_the_steps(state):
    for value in (1.0, 2.0, 6.0):
        state.record_step(torch.tensor(value))
    assert state.loss == 3.0


def test_resuming_restores_the_state(state, cohort):
    for parameter in state.session.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.session.optimiser.step()
    state.record_step(torch.tensor(0.5))
    state.save()
    other = new_state(state.folder, new_session(RECIPE, cohort))
    with torch.no_grad():
        for parameter in other.session.model.parameters():
            parameter.zero_()
    other.resume()
    assert (other.step, other.total) == (1, 0.5)
    for ours, theirs in zip(
        other.session.model.parameters(), state.session.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_gradient_scaler_goes_on_after_resuming(state, cohort):
    """As on a GPU without bfloat16; its counters must stay whole numbers."""
    state.session.scaler = torch.amp.GradScaler("cpu", growth_interval=2)
    x, y = torch.rand(2, 2, 1, *RECIPE.input_size())
    state.record_step(state.session.step(x, y))
    state.save()
    session = new_session(RECIPE, cohort)
    session.scaler = torch.amp.GradScaler("cpu")
    new_state(state.folder, session).resume()
    found, saved = session.scaler.state_dict(), state.session.scaler.state_dict()
    assert found == saved
    assert [type(value) for value in found.values()] == [type(value) for value in saved.values()]
    session.step(x, y)
    assert session.scaler.get_scale() == 2 * saved["scale"]  # after two good steps


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("{}")])
@pytest.mark.parametrize("name", ["experiment.txt", "recipe.json"])
def test_a_file_deleted_or_edited_during_training_is_written_again(name, change, cohort, tmp_path):
    chosen = dataclasses.replace(RECIPE, epochs=1)
    run = train(
        chosen, cohort, tmp_path / "run", progress=False,
        callbacks=[lambda row: change(tmp_path / "run" / name)],
    )  # fmt: skip
    assert run.recipe == chosen


def test_a_file_deleted_before_a_checkpoint_is_there_when_the_run_is_resumed(state):
    state.save()
    names = {path.name for path in state.folder.iterdir()}
    (state.folder / "experiment.txt").unlink()
    state.save()
    assert {path.name for path in state.folder.iterdir()} >= names


def test_half_precision_trains_as_well_as_full_precision(cohort, tmp_path, monkeypatch):
    """bfloat16 as on a GPU, here on the CPU: the same run up to rounding."""
    chosen = dataclasses.replace(RECIPE, epochs=2)
    full = train(chosen, cohort, out=tmp_path / "a", progress=False)
    monkeypatch.setattr(step, "half_precision", lambda device: torch.bfloat16)
    half = train(chosen, cohort, out=tmp_path / "b", progress=False)
    assert not half.history.loss.equals(full.history.loss)  # half precision was used
    pd.testing.assert_series_equal(half.history.loss, full.history.loss, rtol=0.03)
    pd.testing.assert_series_equal(
        half.history.validation_dice, full.history.validation_dice, atol=0.05
    )
