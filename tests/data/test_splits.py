"""Splits: which scans and slices are used for training, and no overlap with the test set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from atlaslib import DataError, SliceDataset, Split, evaluate, recipe, train
from atlaslib.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    slices_of_part,
    split_cohort,
)
from atlaslib.training.batches import epoch_order


@pytest.fixture(scope="module")
def table(cohort):
    return SliceDataset(cohort, progress=False).table


def test_a_split_by_subject_is_that_of_the_cohort(cohort, table):
    chosen = recipe("baseline", "smoke", split_seed=3)
    for part, other in zip(split_cohort(cohort, chosen), cohort.split(seed=3), strict=True):
        assert part.scans == other.scans
    assert slices_of_part(table, chosen, TRAIN).all()


def test_fewer_subjects_can_be_held_out(cohort):
    parts = split_cohort(cohort, recipe("baseline", "smoke", held_out=0.3))
    assert [len(part.subjects) for part in parts] == [3, 2, 2]
    parts = split_cohort(cohort, recipe("baseline", "smoke", held_out=0.01))
    assert [len(part.subjects) for part in parts] == [5, 1, 1]


def test_sessions_stay_together_by_subject_but_not_by_scan(cohort):
    def apart(by):
        parts = [
            {scan.subject for scan in part}
            for seed in range(30)
            for part in (cohort.split(seed=seed, by=by)[0], cohort.split(seed=seed, by=by)[2])
        ]
        return sum("031840" in a and "031840" in b for a, b in zip(parts[::2], parts[1::2]))  # noqa: B905

    assert apart("subject") == 0
    assert apart("scan") > 0


def test_folds_test_everybody_once_and_share_large_and_small_lesions(cohort, table):
    tested = []
    for fold in range(3):
        chosen = recipe("baseline", "smoke", folds=3, split_seed=fold)
        parts = [set(part.subjects) for part in split_cohort(cohort, chosen)]
        assert set.union(*parts) == set(cohort.subjects)
        assert sum(map(len, parts)) == len(cohort.subjects)
        assert all(parts)
        tested.append(parts[TEST])
    assert sum(map(len, tested)) == len(set.union(*tested)) == len(cohort.subjects)
    volumes = table.groupby("subject").lesion_pixels.sum()
    largest = volumes.nlargest(7).index[1:]  # blocks of three, from the smallest on
    for block in (largest[:3], largest[3:]):
        assert sorted(len(part & set(block)) for part in tested) == [1, 1, 1]


def test_folds_of_hidden_masks_are_one_line(cohort):
    hidden = cohort.only([dataclasses.replace(scan, masks=()) for scan in cohort])
    with pytest.raises(DataError, match="3 folds need as many subjects, found 0"):
        hidden.folds(3)


def test_folds_by_site_keep_sites_together(cohort):
    first, second = cohort.folds(2, seed=1, by="site")
    assert {scan.site for scan in first} ^ {scan.site for scan in second} == {"Site1", "Site2"}
    assert len(first) + len(second) == len(cohort)
    orders = {tuple(tuple(part.subjects) for part in cohort.folds(3, seed)) for seed in range(5)}
    assert len(orders) > 1


def test_folds_need_enough_subjects_and_a_number_among_them(cohort):
    with pytest.raises(DataError, match="20 folds need as many subjects, found 7"):
        cohort.folds(20)
    with pytest.raises(DataError, match="3 folds need as many sites, found 2"):
        cohort.folds(3, by="site")
    with pytest.raises(ValueError, match="at least 2, got 1"):
        cohort.folds(1)
    with pytest.raises(ValueError, match="not by 'scan'"):
        cohort.folds(3, by="scan")
    for wrong in ({"split_seed": 3}, {"split": "scan"}):
        with pytest.raises(ValueError, match="folds: needs split 'subject'"):
            recipe("baseline", "smoke", folds=3, **wrong)


@pytest.mark.parametrize(
    ("split", "shares"), [("slice", (0.7, 0.15, 0.15)), ("slice inverted", (0.3, 0.35, 0.35))]
)
def test_a_split_by_slice_puts_each_slice_into_one_part(cohort, table, split, shares):
    chosen = recipe("baseline", "smoke", split=split)
    assert all(part.scans == cohort.scans for part in split_cohort(cohort, chosen))
    parts = np.array([slices_of_part(table, chosen, part) for part in (TRAIN, VALIDATION, TEST)])
    assert (parts.sum(0) == 1).all()
    np.testing.assert_allclose(parts.mean(1), shares, atol=0.03)
    other = slices_of_part(table, recipe("baseline", "smoke", split=split, split_seed=1), TRAIN)
    assert (other != parts[0]).any()


def test_the_split_of_a_scan_does_not_depend_on_the_rest_of_the_cohort(cohort, table):
    chosen = recipe("baseline", "smoke", split="slice")
    alone = SliceDataset(cohort[2:3], progress=False).table
    whole = slices_of_part(table, chosen, TEST)[2 * 189 : 3 * 189]
    np.testing.assert_array_equal(slices_of_part(alone, chosen, TEST), whole)


def test_a_run_split_by_slice_is_scored_on_slices_it_has_not_seen(cohort, table, tmp_path):
    chosen = recipe("baseline", "smoke", split="slice", epochs=1)
    seen = epoch_order(table, chosen, 0)
    assert slices_of_part(table, chosen, TRAIN)[seen].all()
    run = train(chosen, cohort, out=tmp_path / "run", progress=False)
    scores = evaluate(run, cohort, progress=False)
    own = slices_of_part(table, chosen, TEST)
    lesion = (table.lesion_pixels * own).groupby(table.scan).sum()
    np.testing.assert_allclose(scores.volume_ml, lesion / 1000)


def test_a_split_is_read_as_it_was_saved(cohort, tmp_path):
    split = Split.of(*cohort.split(seed=3))
    split.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json")
    assert again == split
    parts = again.parts(cohort)
    assert [part.scans for part in parts] == [part.scans for part in cohort.split(seed=3)]
    shuffled = Split(split.train[::-1], split.validation, split.test)
    assert shuffled.digest() == split.digest()
    moved = Split(split.train[1:], split.validation, (*split.test, split.train[0]))
    assert moved.digest() != split.digest()


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        (["a", "b"], ["b"], "subject b is named twice"),
        (["a", "a"], ["b"], "subject a is named twice"),
        (["a"], [], "no subject in validation"),
        ([], ["a"], "no subject in train"),
        ("ab", ["c"], "names of subjects in train"),
        ([1], ["c"], "names of subjects in train"),
        (None, ["c"], "names of subjects in train"),
    ],
)
def test_a_split_that_cannot_be_one_is_refused(train, validation, says):
    with pytest.raises(ValueError, match=says):
        Split(train, validation)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"train": ["a"]}', '{"train": ["a"], "validation": ["a"], "test": []}',
     '{"train": "a", "validation": ["b"], "test": []}', "[" * 10_000],
)  # fmt: skip
def test_a_file_that_is_no_split_is_refused(text, tmp_path):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match="not a split"):
        Split.load(tmp_path / "split.json")


def test_a_subject_that_the_cohort_lacks_is_named(cohort):
    first, second, third = cohort.subjects[:3]
    with pytest.raises(DataError, match="no subject 999, which the split names"):
        Split([first], [second], ["999"]).parts(cohort)
    blank = [dataclasses.replace(scan, masks=()) for scan in cohort if scan.subject == first]
    others = [scan for scan in cohort if scan.subject != first]
    with pytest.raises(DataError, match=f"no mask for {first}"):
        Split([first], [second]).parts(cohort.only([*blank, *others]))
    parts = Split([second], [third], [first]).parts(cohort.only([*blank, *others]))
    assert parts[2].subjects == (first,)  # a hidden test subject has no mask
