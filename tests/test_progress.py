"""What the user sees of a run."""

from __future__ import annotations

import io
import sys

import torch

from atlaslib import recipe, train
from atlaslib.progress import Bar
from atlaslib.state import State
from atlaslib.steps import Trainee
from atlaslib.world import World

RECIPE = recipe("baseline", "smoke", width=2, epochs=4)


def test_the_bar_says_all_in_one_line(cohort, tmp_path, monkeypatch):
    state = State(tmp_path, Trainee(RECIPE, cohort, None, World(), False), World())
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with Bar(RECIPE, 5, state, True) as bar:
        bar.bar.mininterval = 0
        for _ in range(2):
            state.took(torch.tensor(0.25))
            bar.advance(state)
    last = screen.getvalue().split("\r")[-1]
    assert "baseline 1/4" in last
    assert "loss 0.2500, Dice nan" in last
    assert f"{2 * RECIPE.batch_size}/{4 * 5 * RECIPE.batch_size}" in last
    assert "slice" in last


def test_a_log_file_gets_a_line_an_epoch_and_no_more(cohort, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # loaded by the plugin nbval
    train(RECIPE, cohort, out=tmp_path / "run", progress=True)
    out, err = capsys.readouterr()
    assert [line[:13] for line in out.splitlines()[1:]] == [f"baseline {i}/4:" for i in range(1, 5)]
    assert err.count("slice/s") <= 3 * RECIPE.epochs  # drawn anew where an epoch is reported
