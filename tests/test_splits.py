"""Which scans and slices are trained on, and that nobody is tested on what was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from atlaslib import SliceDataset, evaluate, recipe, train
from atlaslib.batches import epoch_order
from atlaslib.splits import TEST, TRAIN, VALIDATION, divide, own_slices


@pytest.fixture(scope="module")
def table(cohort):
    return SliceDataset(cohort, progress=False).table


def test_by_subject_is_the_cohorts_own_split(cohort, table):
    chosen = recipe("baseline", "smoke", split_seed=3)
    for part, other in zip(divide(cohort, chosen), cohort.split(seed=3), strict=True):
        assert part.scans == other.scans
    assert own_slices(table, chosen, TRAIN).all()


def test_by_scan_separates_sessions_that_by_subject_stay_together(cohort):
    def apart(by):
        parts = [
            {scan.subject for scan in part}
            for seed in range(30)
            for part in (cohort.split(seed=seed, by=by)[0], cohort.split(seed=seed, by=by)[2])
        ]
        return sum("031840" in a and "031840" in b for a, b in zip(parts[::2], parts[1::2]))  # noqa: B905

    assert apart("subject") == 0
    assert apart("scan") > 0


@pytest.mark.parametrize(
    ("split", "shares"), [("slice", (0.7, 0.15, 0.15)), ("slice inverted", (0.3, 0.35, 0.35))]
)
def test_by_slice_each_slice_has_one_part(cohort, table, split, shares):
    chosen = recipe("baseline", "smoke", split=split)
    assert all(part.scans == cohort.scans for part in divide(cohort, chosen))
    parts = np.array([own_slices(table, chosen, part) for part in (TRAIN, VALIDATION, TEST)])
    assert (parts.sum(0) == 1).all()
    np.testing.assert_allclose(parts.mean(1), shares, atol=0.03)
    other = own_slices(table, recipe("baseline", "smoke", split=split, split_seed=1), TRAIN)
    assert (other != parts[0]).any()


def test_a_scan_keeps_its_slices_in_another_cohort(cohort, table):
    chosen = recipe("baseline", "smoke", split="slice")
    alone = SliceDataset(cohort[2:3], progress=False).table
    whole = own_slices(table, chosen, TEST)[2 * 189 : 3 * 189]
    np.testing.assert_array_equal(own_slices(alone, chosen, TEST), whole)


def test_training_by_slice_sees_its_own_slices_and_is_scored_on_others(cohort, table, tmp_path):
    chosen = recipe("baseline", "smoke", split="slice", epochs=1)
    seen = epoch_order(table, chosen, 0)
    assert own_slices(table, chosen, TRAIN)[seen].all()
    run = train(chosen, cohort, out=tmp_path / "run", progress=False)
    scores = evaluate(run, cohort, progress=False)
    own = own_slices(table, chosen, TEST)
    lesion = (table.lesion_pixels * own).groupby(table.scan).sum()
    np.testing.assert_allclose(scores.volume_ml, lesion / 1000)
