"""Pretrained weights, and the command that makes them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import atlaslib
from atlaslib import DataError
from atlaslib.evaluation.pretrained import load_pretrained, publish

FULL = Path(__file__).resolve().parents[2] / "benchmarks" / "full.py"


@pytest.fixture(scope="module")
def run(cohort):
    return atlaslib.train(atlaslib.recipe("baseline", "smoke", epochs=1), cohort, progress=False)


@pytest.fixture
def published(run, cohort, tmp_path):
    table = atlaslib.summary({"baseline": atlaslib.evaluate(run, run.unseen(cohort), False)})
    return publish(run, table, tmp_path / "weights")


def test_half_precision_weights_load_as_the_same_model(run, published):
    model = load_pretrained("baseline", published.parent)
    assert not model.training
    x = torch.rand(2, 1, *run.recipe.input_size())
    with torch.inference_mode():
        torch.testing.assert_close(model(x), run.model()(x), rtol=1e-2, atol=1e-2)
    size = sum(p.numel() for p in model.parameters())
    assert published.stat().st_size < 2.2 * size + 5000


def test_the_card_describes_the_network(run, published):
    card = json.loads(published.with_suffix(".json").read_text())
    assert card["trained on"]["source"] == "ATLAS R1.1"
    assert card["test"]["scans"] > 0
    assert "diagnosis" in card["must not be used for"]
    assert "031840" not in published.with_suffix(".json").read_text()  # no subject's id


def test_missing_and_damaged_weights_are_refused(published, tmp_path):
    with pytest.raises(DataError, match="resnet.safetensors: no such weights; found baseline"):
        load_pretrained("resnet", published.parent)
    with pytest.raises(DataError, match="found none"):
        load_pretrained("baseline", tmp_path / "empty")
    published.write_bytes(published.read_bytes()[:100])
    with pytest.raises(DataError, match="does not match its card"):
        load_pretrained("baseline", published.parent)


def test_one_command_makes_the_tables(cohort, tmp_path, monkeypatch):
    command = [str(FULL), "--profile", "smoke", "--data", str(cohort.root)]
    command += ["--results", str(tmp_path / "results"), "--weights", str(tmp_path / "weights")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(FULL), run_name="__main__")
    table = pd.read_csv(tmp_path / "results" / "smoke.csv")
    assert list(table.model) == ["baseline", "resnet", "zero"]
    assert set(table.source) == {"ATLAS R1.1"}
    assert not (tmp_path / "weights").exists()  # real people's data: not even weights are kept
