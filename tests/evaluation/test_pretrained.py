"""Pretrained weights, and the command that makes them."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import atlaslib
from atlaslib import DataError
from atlaslib.evaluation.pretrained import load_pretrained, model_card, publish
from atlaslib.files import shipped

FULL = Path(__file__).resolve().parents[2] / "benchmarks" / "full.py"


@pytest.fixture(scope="module")
def run(cohort):
    return atlaslib.train(atlaslib.recipe("baseline", "smoke", epochs=1), cohort, progress=False)


@pytest.fixture
def published(run, tmp_path):
    return publish(run, {"test": {"scans": 2, "dice": 0.5}}, tmp_path / "weights")


def edited(published: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The folder of the weights, after a change to the card."""
    path = published.with_suffix(".json")
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    return published.parent


def test_half_precision_weights_load_as_the_same_network(run, published, cohort):
    loaded = load_pretrained("baseline", published.parent)
    assert loaded.recipe == run.recipe
    assert not loaded.network.training
    x = torch.rand(2, 1, *run.recipe.input_size())
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(x), run.model()(x), rtol=1e-2, atol=1e-2)
    size = sum(p.numel() for p in loaded.network.parameters())
    assert published.stat().st_size < 2.2 * size + 5000
    assert loaded.digest == hashlib.sha256(published.read_bytes()).hexdigest()
    rows = [atlaslib.evaluate(each, cohort[:1], False).iloc[0] for each in (run, loaded)]
    assert rows[1].predicted_ml == pytest.approx(rows[0].predicted_ml, rel=0.02, abs=0.01)


def test_the_card_describes_the_network(run, published):
    card = model_card("baseline", published.parent)
    assert card["trained on"]["source"] == "ATLAS R1.1"
    assert card["test"] == {"scans": 2, "dice": 0.5}
    assert "diagnosis" in card["must not be used for"]
    assert "031840" not in published.with_suffix(".json").read_text()  # no subject's id


def test_weights_too_large_for_half_precision_are_not_published(run, tmp_path, monkeypatch):
    model = run.model()
    with torch.no_grad():
        model.final_bias.fill_(7e4)
    monkeypatch.setattr(type(run), "model", lambda self: model)
    with pytest.raises(ValueError, match="baseline: .*bias is too large for half precision"):
        publish(run, {}, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("name", ["resnet", "../weights/baseline", "", "x" * 9000, None])
def test_a_wrong_name_lists_the_networks_that_there_are(name, published, tmp_path):
    with pytest.raises(DataError, match="no pretrained network .*; found baseline") as error:
        load_pretrained(name, published.parent)
    assert len(str(error.value)) < 200
    with pytest.raises(DataError, match="found none"):
        load_pretrained("baseline", tmp_path / "empty")


def test_damaged_weights_are_refused(run, published):
    content = published.read_bytes()
    for damaged in (content[:100], content[:-1] + bytes([content[-1] ^ 1]), b""):
        published.write_bytes(damaged)
        with pytest.raises(DataError, match=r"safetensors: does not match its card \(SHA-256"):
            load_pretrained("baseline", published.parent)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card.pop("recipe"), "json: not a model card: no recipe"),
        (lambda card: card.pop("sha256"), "json: not a model card: no recipe, or no digest"),
        (lambda card: card.update(sha256=3), "does not match its card .SHA-256 differs"),
        (lambda card: card.update(recipe=[1]), "does not match its card"),
        (lambda card: card["recipe"].pop("model"), "does not match its card"),
        (lambda card: card["recipe"].update(width=8), "does not match its card .*expected"),
        (lambda card: card["recipe"].update(model="zero"), "does not match its card"),
        (lambda card: card["recipe"].update(epochs=-1), "epochs: expected a whole number"),
    ],
)
def test_a_card_is_not_believed(change, says, published):
    with pytest.raises(DataError, match=says) as error:
        load_pretrained("baseline", edited(published, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\udcff"])
def test_what_is_no_card_is_one_line(text, published):
    published.with_suffix(".json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="baseline.json: not a model card"):
        load_pretrained("baseline", published.parent)
    published.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="baseline.json: no such file"):
        load_pretrained("baseline", published.parent)


def test_weights_that_are_not_finite_are_refused(published):
    weights = load_file(published)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, published)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="NaN or infinite"):
        load_pretrained("baseline", edited(published, lambda card: card.update(sha256=digest)))


def test_the_networks_that_are_shipped_load():
    names = [path.stem for path in shipped("weights").glob("*.safetensors")]
    assert "residual_unet" in names
    for name in names:
        assert load_pretrained(name).recipe.model == name


def test_one_command_makes_the_tables(cohort, tmp_path, monkeypatch):
    command = [str(FULL), "--profile", "smoke", "--data", str(cohort.root)]
    command += ["--results", str(tmp_path / "results"), "--weights", str(tmp_path / "weights")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(FULL), run_name="__main__")
    table = pd.read_csv(tmp_path / "results" / "smoke.csv")
    assert list(table.model) == ["baseline", "resnet", "zero"]
    assert set(table.source) == {"ATLAS R1.1"}
    assert not (tmp_path / "weights").exists()  # real people's data: not even weights are kept
