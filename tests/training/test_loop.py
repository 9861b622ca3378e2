"""Training on the tiny cohort: it learns, resumes to the same weights, and reuses finished runs."""

from __future__ import annotations

import signal
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import atlaslib
from atlaslib import DataError, SliceDataset, evaluate, load_run, recipe, train
from atlaslib.training.batches import epoch_order
from atlaslib.training.loop import estimate_cost
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingError, TrainingSession, set_initial_bias

RECIPE = recipe("baseline", "smoke", epochs=2)


@pytest.fixture(scope="module")
def run(cohort):
    return train(RECIPE, cohort, progress=False)


def test_loss_falls_and_the_folder_is_complete(run, cohort):
    assert list(run.history.epoch) == [1, 2]
    assert run.history.loss.iloc[1] < run.history.loss.iloc[0]
    names = {path.name for path in run.folder.iterdir()}
    assert {"recipe.json", "history.csv", "weights.safetensors", "provenance.json"} <= names
    assert "checkpoint.pt" not in names
    assert run.provenance["cohort"] == cohort.fingerprint()
    assert run.provenance["source"] == "ATLAS R1.1"


def test_a_finished_run_is_reused(run, cohort, monkeypatch):
    monkeypatch.setattr("atlaslib.training.loop.epoch_batches", None)  # any training would fail
    again = train(RECIPE, cohort, progress=False)
    assert again.folder == run.folder
    assert load_run(run.folder).recipe == RECIPE


def test_interrupted_run_ends_with_the_same_weights(run, cohort, tmp_path, monkeypatch):
    end_epoch = TrainingState.end_epoch

    def stop_after_first(self, row):
        end_epoch(self, row)
        if len(self.history) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "end_epoch", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, cohort, out=tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="not finished"):
        load_run(tmp_path / "run")
    monkeypatch.setattr(TrainingState, "end_epoch", end_epoch)
    epochs = []
    resumed = train(RECIPE, cohort, out=tmp_path / "run", progress=False,
                    callbacks=[lambda row: epochs.append(row["epoch"])])  # fmt: skip
    assert epochs == [2]
    whole = load_file(run.folder / "weights.safetensors")
    for name, value in load_file(resumed.folder / "weights.safetensors").items():
        assert torch.equal(value, whole[name]), name


def test_a_stop_during_the_last_validation_ends_a_series_of_runs(cohort, tmp_path):
    one = recipe("baseline", "smoke", width=2, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(one, cohort, out=tmp_path / "run", progress=False,
              callbacks=[lambda row: signal.raise_signal(signal.SIGINT)])  # fmt: skip
    assert len(load_run(tmp_path / "run").history) == 1


@pytest.mark.parametrize("decay", [True, False])
def test_the_learning_rate_falls_linearly_over_the_run_if_it_decays(
    cohort, tmp_path, monkeypatch, decay
):
    rates = []
    step = TrainingSession.step

    def recorded(self, x, y):
        rates.append(self.optimiser.param_groups[0]["lr"])
        return step(self, x, y)

    monkeypatch.setattr(TrainingSession, "step", recorded)
    chosen = recipe("baseline", "smoke", epochs=2, width=2, decay=decay, learning_rate=0.01)
    train(chosen, cohort, out=tmp_path / "run", progress=False)
    expected = 0.01 * (1 - np.arange(len(rates)) / len(rates) * decay)
    assert len(rates) > 4
    np.testing.assert_allclose(rates, expected)


def test_folder_of_another_run_is_refused(run, cohort, tmp_path):
    with pytest.raises(DataError, match="another recipe"):
        train(recipe("baseline", "smoke", seed=9), cohort, out=run.folder, progress=False)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="contains no run"):
        train(RECIPE, cohort, out=tmp_path, progress=False)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_test_subjects_are_not_touched(run, cohort):
    test = cohort.split(seed=RECIPE.split_seed)[2]
    assert tuple(run.provenance["split"]["test"]) == test.subjects
    assert run.unseen(cohort).subjects == test.subjects
    assert set(evaluate(run, test, progress=False).part) == {"test"}


def test_zero_is_calibrated(cohort):
    zero = train(recipe("zero", "smoke", pos_weight=1.0), cohort, progress=False)
    slices = SliceDataset(cohort.split()[0], progress=False)
    rate = slices.table.lesion_pixels.sum() / (len(slices) * 232 * 196)
    assert zero.model().final_bias.sigmoid().item() == pytest.approx(rate, rel=1e-3)
    table = evaluate(zero, cohort.split()[2], progress=False, brain_only=False)
    assert (table.dice == 0).all()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert table.cross_entropy.mean() == pytest.approx(entropy, rel=1e-3)


def test_prior_sets_the_bias_to_the_weighted_base_rate(cohort):
    chosen = recipe("baseline", "smoke", pos_weight=7.0)
    slices = SliceDataset(cohort, progress=False)
    model = atlaslib.build_model("baseline", width=2)
    set_initial_bias(model, slices.table, epoch_order(slices.table, chosen, 0), chosen)
    lesion = slices.table.lesion_pixels.to_numpy()[epoch_order(slices.table, chosen, 0)].mean()
    odds = 7 * lesion / (184 * 152 - lesion)  # of the window, which is all that the model sees
    assert model.final_bias.item() == pytest.approx(np.log(odds), rel=1e-4)


def test_a_users_own_model_can_be_trained(cohort, tmp_path):
    torch.manual_seed(0)
    mine = nn.Conv2d(1, 1, 3, padding=1)
    run = train(
        recipe("baseline", "smoke", epochs=1),
        cohort,
        out=tmp_path / "r",
        model=mine,
        progress=False,
    )
    assert evaluate(run, cohort.split()[2], progress=False).dice.notna().all()


class Diverges(nn.Module):
    """From the fourth step on its logits are no numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.steps = nn.Conv2d(1, 1, 3, padding=1), 0

    def forward(self, x):
        self.steps += self.training
        return self.conv(x) * (1 if self.steps < 4 else torch.nan)


def test_a_loss_that_is_not_finite_stops_the_run(cohort, tmp_path):
    chosen = recipe("baseline", "smoke")
    with pytest.raises(TrainingError, match="step 4 of epoch 1.*Try a learning rate below"):
        train(chosen, cohort, out=tmp_path / "r", model=Diverges, progress=False)


def test_the_estimated_cost_matches_the_run(cohort, tmp_path):
    chosen = recipe("baseline", "smoke", epochs=3, width=2)
    cost = estimate_cost(chosen, cohort, progress=False)
    run = train(chosen, cohort, out=tmp_path / "run", progress=False)
    assert cost.parameters == run.provenance["parameters"]
    assert cost.steps == 3 * (cost.slices // chosen.batch_size)
    assert 0 < cost.minutes < 10
    assert cost.memory_mb > 0


def test_missing_tensorboard_is_one_clear_error(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if not installed
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        train(RECIPE, cohort, out=tmp_path / "r", progress=False, tensorboard=True)


def test_callbacks_are_called_after_each_epoch_and_may_end_the_run(cohort, tmp_path):
    seen = []

    def record(row):
        seen.append(row.pop("epoch"))  # the history has rows of its own
        if len(seen) == 1:
            raise LookupError("enough")

    with pytest.raises(LookupError):
        train(RECIPE, cohort, out=tmp_path / "run", progress=False, callbacks=[record])
    train(RECIPE, cohort, out=tmp_path / "run", progress=False, callbacks=[record])
    assert seen == [1, 2]


def test_denormal_numbers_are_flushed_to_zero_only_during_training(cohort, tmp_path):
    tiny = torch.tensor(2e-38)  # the smallest normal number is 1.2e-38
    within = []
    train(RECIPE, cohort, tmp_path / "run", progress=False,
          callbacks=[lambda row: within.append(float(tiny / 10))])  # fmt: skip
    assert within == [0, 0]
    assert tiny / 10 > 0


def test_early_stopping_ends_a_run_that_no_longer_improves(cohort, tmp_path):
    # at a learning rate of 0 nothing improves after the first epoch
    chosen = recipe("baseline", "smoke", epochs=9, patience=2, learning_rate=1e-12, dropout=0.0)
    run = train(chosen, cohort, out=tmp_path / "run", progress=False)
    assert len(run.history) == 3
