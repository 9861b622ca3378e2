"""The progress that the user of a run sees."""

from __future__ import annotations

import dataclasses
import io
import sys

import torch
from sessions import new_session, new_state
from torch import nn

from atlaslib import recipe, train
from atlaslib.training.progress import ProgressBar

RECIPE = recipe("baseline", "smoke", width=2, epochs=4)


def test_the_bar_shows_epoch_loss_dice_and_slices_in_one_line(cohort, tmp_path, monkeypatch):
    state = new_state(tmp_path, new_session(RECIPE, cohort))
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressBar(RECIPE, state, True) as bar:
        bar.bar.mininterval = 0
        for _ in range(2):
            state.record_step(torch.tensor(0.25))
            bar.advance(state)
    last = screen.getvalue().split("\r")[-1]
    assert "baseline 1/4" in last
    assert "loss 0.2500, Dice nan" in last
    assert f"{2 * RECIPE.batch_size}/{4 * state.steps * RECIPE.batch_size}" in last
    assert "slice" in last


def test_a_log_file_gets_few_lines_per_epoch(cohort, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # loaded by the nbval plugin
    train(RECIPE, cohort, out=tmp_path / "run", progress=True)
    out, err = capsys.readouterr()
    assert [line[:13] for line in out.splitlines()[1:]] == [f"baseline {i}/4:" for i in range(1, 5)]
    assert err.count("slice/s") <= 3 * RECIPE.epochs  # the bar is redrawn after each epoch's line


class OneLayer(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(1, 1, 3, padding=1)


def test_a_network_of_the_users_own_goes_by_the_name_of_its_class(cohort, tmp_path, capsys):
    for number, own in enumerate((OneLayer, OneLayer())):
        short = dataclasses.replace(RECIPE, epochs=1, initial_prior=False)
        train(short, cohort, out=tmp_path / str(number), model=own, progress=True)
        assert capsys.readouterr().out.splitlines()[1].startswith("OneLayer 1/1: loss")
