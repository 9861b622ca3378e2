"""Several networks segment as one, by the mean of their probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from threshold import threshold

from atlaslib import dice, evaluate, predict, recipe, train
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import read_scan
from atlaslib.evaluation.inference import mean_probability, predictions, probabilities


@pytest.fixture(scope="module")
def networks():
    """Two that differ in resolution, window, context and weight of the loss."""
    coarse = {"downsample": 3, "window": True, "context_slices": 1, "pos_weight": 5.0}
    return [threshold(0.25), threshold(0.15, 60.0, **coarse)]


def test_probabilities_are_averaged_at_full_resolution(networks, cohort):
    scan = cohort[0]
    each = [probabilities(network, scan) for network in networks]
    expected = np.mean(each, axis=0, dtype=np.float64)
    assert np.abs(each[0] - each[1]).max() > 0.5  # else any mean would do
    np.testing.assert_allclose(probabilities(networks, scan), expected, atol=1e-6)
    mask = to_slices(np.asarray(predict(networks, scan).dataobj))
    clear = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal(mask[clear], expected[clear] > 0.5)
    assert 0 < mask.sum() < mask.size / 10
    ((_, logits, _),) = predictions(networks, cohort[:1])
    np.testing.assert_array_equal(logits > 0, mask)


def test_scores_of_an_ensemble_are_those_of_its_mean_probability(networks, cohort):
    row = evaluate(networks, cohort[:1], progress=False, metrics=["volume"]).iloc[0]
    p = np.mean([probabilities(each, cohort[0]) for each in networks], axis=0, dtype=np.float64)
    true = to_slices(read_scan(cohort[0]).mask)
    assert row.dice == pytest.approx(dice(p > 0.5, true), abs=1e-4)
    assert row.predicted_ml == pytest.approx((p > 0.5).sum() / 1000, abs=0.005)
    entropy = F.binary_cross_entropy(torch.from_numpy(p), torch.from_numpy(true.copy()).double())
    assert row.cross_entropy == pytest.approx(entropy.item(), rel=1e-4)
    assert np.isnan(row.loss)  # their weights of lesion pixels differ


def test_an_ensemble_of_one_is_the_network_itself(networks, cohort):
    for network in networks:
        np.testing.assert_array_equal(
            probabilities([network], cohort[0]), probabilities(network, cohort[0])
        )
    alone, listed = (evaluate(each, cohort[:1], False) for each in (network, (network,)))
    assert alone.equals(listed)
    assert np.isfinite(alone.loss).all()


def test_the_mean_of_certain_networks_is_exact():
    """Of rounded probabilities, the logit would be infinite."""
    logits = torch.tensor([[100.0, -100, 90, 40, 3], [100, -100, -90, 0, -5]])
    p = (1 / (1 + np.exp(-np.array([3.0, -5])))).mean()
    expected = [100, -100, 0, np.log(3), np.log(p / (1 - p))]
    np.testing.assert_allclose(mean_probability(logits).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_a_subject_is_new_only_if_no_member_has_seen_it(cohort, tmp_path):
    run = train(recipe("zero", "smoke"), cohort, out=tmp_path / "run", progress=False)

    def split(train, validation, test):
        parts = {"train": train, "validation": validation, "test": test}
        return dataclasses.replace(run, provenance=run.provenance | {"split": parts})

    scans = cohort.only([scan for scan in cohort if scan.session == "t01"][:4])
    _, b, c, d = scans.subjects
    ensemble = [split([b], [c], [d]), split([c], [], [b])]
    table = evaluate(ensemble, scans, progress=False)
    assert table.part.tolist() == ["new", "train", "train", "test"]
    # the same network twice, and so the same loss
    assert table.loss.tolist() == pytest.approx(evaluate(run, scans, progress=False).loss.tolist())
    table = evaluate([*ensemble, threshold(downsample=4)], scans[:1], progress=False)
    assert np.isnan(table.loss).all()  # 5 and 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "run: expected at least one Run or Predictor, got an empty list"),
        ([threshold(), "baseline"], r"run\[1\]: expected a Run or Predictor, got str"),
        ([[threshold()]], r"run\[0\]: expected a Run or Predictor, got list"),
        (
            [threshold(), threshold(split="slice")],
            r"run\[1\]: was split by slice; an ensemble needs",
        ),
    ],
)
def test_what_is_no_ensemble_is_one_line(wrong, says, cohort):
    for use in (predict, probabilities):
        with pytest.raises(ValueError, match=says):
            use(wrong, cohort[0])
    with pytest.raises(ValueError, match=says):
        evaluate(wrong, cohort)
    with pytest.raises(ValueError, match=says):
        next(predictions(wrong, cohort))
