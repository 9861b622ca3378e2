"""The user's own loss, sampler, augmentation, split, time limit and device."""

from __future__ import annotations

import re
import time

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from atlaslib import DataError, SliceDataset, Split, evaluate, load_run, recipe, train
from atlaslib.training.batches import epoch_order
from atlaslib.training.step import TrainingError

RECIPE = recipe("baseline", "smoke", width=2, epochs=2, dropout=0.0)


def weighted_cross_entropy(logits, masks):
    return F.binary_cross_entropy_with_logits(
        logits, masks, pos_weight=torch.tensor(RECIPE.pos_weight)
    )


def recipes_order(table, epoch, generator):
    return epoch_order(table, RECIPE, epoch)


ELSEWHERE = torch.ones(2, requires_grad=True)


def weights(run):
    return load_file(run.folder / "weights.safetensors")


@pytest.fixture(scope="module")
def plain(cohort):
    return train(RECIPE, cohort, progress=False)


def test_what_the_recipe_does_given_as_functions_trains_the_same_weights(plain, cohort, tmp_path):
    run = train(RECIPE, cohort, out=tmp_path / "run", progress=False, device="cpu",
                loss=weighted_cross_entropy, sampler=recipes_order, augment=lambda x, y: (x, y),
                split=Split.of(*cohort.split()))  # fmt: skip
    expected = weights(plain)
    for name, value in weights(run).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
    pd.testing.assert_frame_equal(run.history.drop(columns="seconds"),
                                  plain.history.drop(columns="seconds"), rtol=1e-5)  # fmt: skip
    digest = Split.of(*cohort.split()).digest()
    own = f"split {digest}, loss weighted_cross_entropy, sampler recipes_order, augment <lambda>"
    assert run.provenance["custom"] == own
    assert load_run(run.folder).provenance["ended"] == "epochs"


def test_each_of_the_users_own_changes_what_is_trained(plain, cohort, tmp_path):
    names = cohort.subjects
    own = {
        "loss": lambda logits, masks: (logits.sigmoid() - masks).square().mean(),
        "sampler": lambda table, epoch, generator: generator.permutation(len(table))[:16],
        "augment": lambda x, y: (1 - x, y),
        "split": Split(names[:3], names[3:4], names[4:]),
    }
    for name, value in own.items():
        run = train(RECIPE, cohort, out=tmp_path / name, progress=False, **{name: value})
        assert run.history.loss.iloc[0] != plain.history.loss.iloc[0], name


def test_the_sampler_sees_the_training_slices_and_its_choice_is_what_is_trained_on(
    cohort, tmp_path
):
    split = Split.of(*cohort.split())
    training = SliceDataset(split.parts(cohort)[0], progress=False)
    seen = []

    def sampler(table, epoch, generator):
        pd.testing.assert_frame_equal(table, training.table)
        seen.append((epoch, generator.integers(10**6)))
        return np.flatnonzero(table.lesion_pixels > 0)[:8]

    lesion = []

    def augment(x, y):
        lesion.append(y.sum((1, 2, 3)).gt(0).all().item())
        return x, y

    train(RECIPE, cohort, out=tmp_path / "run", progress=False, sampler=sampler, augment=augment)
    assert {epoch for epoch, _ in seen} == {0, 1}
    assert len(set(seen)) == 2  # the same numbers whenever an epoch is asked for
    assert lesion[1:] == [True, True]  # the first is the trial, on noise


def test_the_run_ends_before_the_epoch_that_would_take_too_long(cohort, tmp_path):
    chosen = recipe("baseline", "smoke", width=2, epochs=50)
    run = train(chosen, cohort, out=tmp_path / "run", progress=False, max_minutes=0.05,
                callbacks=[lambda row: time.sleep(0.5)])  # fmt: skip
    assert 1 <= len(run.history) < 50
    assert run.provenance["ended"] == "max_minutes"
    assert run.provenance["custom"] == "max_minutes 0.05"
    one = train(chosen, cohort, out=tmp_path / "one", progress=False, max_minutes=1e-6)
    assert len(one.history) == 1


def test_a_resumed_run_says_what_it_cannot_notice(cohort, tmp_path):
    chosen = recipe("baseline", "smoke", width=2, epochs=2)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, cohort, out=tmp_path, progress=False, loss=weighted_cross_entropy,
              callbacks=[stop])  # fmt: skip
    with pytest.warns(UserWarning, match="resumed; if you have changed your loss since"):
        train(chosen, cohort, out=tmp_path, progress=False, loss=weighted_cross_entropy)


def test_validation_losses_stay_those_of_the_recipe(cohort, tmp_path):
    chosen = recipe("baseline", "smoke", width=2, epochs=1, dropout=0.0)
    run = train(chosen, cohort, out=tmp_path / "run", progress=False,
                loss=lambda logits, masks: (logits.sigmoid() - masks).square().mean())  # fmt: skip
    table = evaluate(run, cohort.split()[1], progress=False)
    assert run.history.validation_loss[0] == pytest.approx(table.loss.mean(), abs=1e-5)


def test_early_stopping_says_so(cohort, tmp_path):
    chosen = recipe("baseline", "smoke", width=2, epochs=9, patience=1, learning_rate=1e-12)
    run = train(chosen, cohort, out=tmp_path / "run", progress=False)
    assert run.provenance["ended"] == "patience"


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"loss": 3}, "loss: expected a function, got int"),
        (
            {"loss": lambda x, y: 1.0},
            "loss: expected a scalar tensor, without dimensions, got float",
        ),
        ({"loss": lambda x, y: x}, r"got shape \(2, 1, 48, 40\)"),
        ({"loss": lambda x, y: y.sum()}, "does not depend on the logits"),
        ({"loss": lambda x, y: x.sum() / 0}, "loss: NaN or infinite before any training"),
        ({"loss": lambda x, y: x.sum(7)}, "loss: fails: IndexError"),
        ({"loss": lambda x, y: ELSEWHERE.sum()}, "loss: does not depend on the logits"),
        ({"loss": torch.nn.AdaptiveLogSoftmaxWithLoss(4, 4, [2])}, "loss: its own parameters"),
        ({"callbacks": print}, "callbacks: expected a list of functions"),
        ({"callbacks": [3]}, "callbacks: expected a list of functions"),
        ({"device": "meta"}, "device: 'meta' cannot be used"),
        ({"augment": lambda x, y: x}, "augment: expected images and masks, got Tensor"),
        ({"augment": lambda x, y: (x[:1], y)}, r"augment: expected images \(\(2, 1, 48, 40\)"),
        ({"augment": lambda x, y: (x, y > 0)}, "augment: expected masks .* torch.bool"),
        ({"augment": lambda x, y: 1 / 0}, "augment: fails: ZeroDivisionError"),
        ({"sampler": lambda t, e, g: 1 / 0}, "sampler: fails in epoch 1: ZeroDivisionError"),
        ({"sampler": lambda t, e, g: []}, "sampler: expected positions"),
        ({"sampler": lambda t, e, g: [0.5]}, "float64"),
        ({"sampler": lambda t, e, g: [[1]]}, r"shape \(1, 1\)"),
        ({"sampler": lambda t, e, g: [-1, 3]}, "no slice at -1"),
        ({"sampler": lambda t, e, g: [10**6]}, "no slice at 1000000"),
        ({"split": ["a", "b"]}, "split: expected a Split, got list"),
        ({"max_minutes": 0}, "max_minutes: expected a number above 0"),
        ({"max_minutes": float("nan")}, "max_minutes"),
        ({"device": "cuda:99"}, "device: 'cuda:99' cannot be used"),
        ({"device": "gpu"}, "device: 'gpu' cannot be used"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(own, says, cohort, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        train(RECIPE, cohort, out=tmp_path / "run", progress=False, **own)
    assert "\n" not in str(caught.value)


def test_every_epoch_needs_as_many_batches_as_the_first(cohort, tmp_path):
    with pytest.raises(TrainingError, match="epoch 2 has 2 batches, the first has 1"):
        train(RECIPE, cohort, out=tmp_path / "run", progress=False,
              sampler=lambda table, epoch, generator: range(8 * (epoch + 1)))  # fmt: skip


def test_a_run_with_something_of_ones_own_needs_a_folder_and_no_other_run_shares_it(
    cohort, tmp_path
):
    with pytest.raises(ValueError, match=r"\(loss weighted_cross_entropy\) needs out="):
        train(RECIPE, cohort, progress=False, loss=weighted_cross_entropy)
    one = recipe("baseline", "smoke", width=2, epochs=1)
    out = tmp_path / "run"
    train(one, cohort, out=out, progress=False, loss=weighted_cross_entropy)
    with pytest.warns(UserWarning, match="if you have changed your loss since"):
        train(one, cohort, out=out, progress=False, loss=weighted_cross_entropy)
    for own in ({}, {"loss": F.binary_cross_entropy_with_logits}, {"max_minutes": 5}):
        with pytest.raises(DataError, match="another recipe"):
            train(one, cohort, out=out, progress=False, **own)


def test_a_split_by_slice_or_in_folds_leaves_no_choice(cohort, tmp_path):
    names = cohort.subjects
    split = Split(names[:2], names[2:3])
    for changes, own in [
        ({"split": "slice"}, {"split": split}),
        ({"split": "slice"}, {"sampler": recipes_order}),
        ({"folds": 2}, {"split": split}),
    ]:
        chosen = recipe("baseline", "smoke", **changes)
        with pytest.raises(ValueError, match=re.escape(next(iter(own)))):
            train(chosen, cohort, out=tmp_path / "run", progress=False, **own)
