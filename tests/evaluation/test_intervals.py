"""Intervals agree with closed forms and hold what they promise, in simulated experiments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from atlaslib.evaluation.intervals import (
    FEWEST,
    compare,
    contrast,
    crossed,
    folds,
    mean_interval,
)


@pytest.mark.parametrize("seeds", [6, 12])
@pytest.mark.parametrize(
    ("of_seeds", "of_people", "rest"), [(0.02, 0.1, 0.05), (0.05, 0.1, 0.1), (0.0, 0.1, 0.1)]
)
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent(seeds, of_seeds, of_people, rest):
    """Standard deviations of the Dice: of seeds, of 100 people, of their remainder."""
    rng, held, trials, truth = np.random.default_rng(0), 0, 2000, 0.1
    for _ in range(trials):
        values = truth + rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_people, 100)
        interval = crossed(values + rng.normal(0, rest, (seeds, 100)))
        held += interval.low < truth < interval.high
    assert 0.93 <= held / trials <= 0.97


def test_with_people_alone_differing_the_interval_is_students():
    people = np.random.default_rng(1).normal(0.3, 0.1, 40)
    found = crossed(np.tile(people, (6, 1)))
    oracle = stats.ttest_1samp(people, 0).confidence_interval(0.95)
    assert found == pytest.approx((people.mean(), oracle.low, oracle.high))


def test_with_seeds_alone_differing_the_interval_is_students():
    seeds = np.random.default_rng(1).normal(0.3, 0.1, 6)
    found = crossed(np.tile(seeds[:, None], (1, 40)), level=0.983)
    oracle = stats.ttest_1samp(seeds, 0).confidence_interval(0.983)
    assert found == pytest.approx((seeds.mean(), oracle.low, oracle.high))


def test_equal_values_have_an_interval_of_no_width():
    assert crossed(np.full((6, 10), 0.25)) == (0.25, 0.25, 0.25)


def test_folds_are_wider_than_independent_means():
    """By Nadeau and Bengio the variance of 6 folds' mean is 2.2 times that of independent ones."""
    means = np.random.default_rng(2).normal(0.3, 0.1, 6)
    found = folds(means)
    oracle = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    ratio = (found.high - found.low) / (oracle.high - oracle.low)
    assert ratio == pytest.approx((6 * (1 / 6 + 1 / 5)) ** 0.5)


def scores(values: np.ndarray, arm: str = "a", first_seed: int = 0) -> pd.DataFrame:
    """A table of scans from Dice values (seeds, people)."""
    rows = [
        {"arm": arm, "seed": first_seed + seed, "subject": f"s{person}", "dice": value}
        for (seed, person), value in np.ndenumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_design_is_recognised():
    values = np.random.default_rng(3).random((4, 6))
    assert mean_interval(scores(values), "dice") == crossed(values)
    own = scores(values)
    own["subject"] = own.seed.astype(str) + own.subject
    assert mean_interval(own, "dice") == folds(values.mean(1))
    with pytest.raises(ValueError, match="neither does every seed"):
        mean_interval(scores(values).iloc[:-1], "dice")
    with pytest.raises(ValueError, match="at least two of each"):
        mean_interval(scores(values[:1]), "dice")


def test_two_scans_of_a_person_count_as_their_mean():
    table = scores(np.array([[0.2, 0.4], [0.2, 0.4]]))
    again = pd.concat([table, table[table.subject == "s0"].assign(dice=0.4)])
    assert mean_interval(again, "dice").value == pytest.approx(0.35)


def test_a_contrast_is_taken_person_by_person_over_common_seeds():
    rng = np.random.default_rng(4)
    hard = rng.random((6, 20))
    noise = rng.normal(0, 0.01, (6, 20))
    table = pd.concat([scores(hard, "a"), scores((hard - 0.1 + noise)[:4], "b")])
    found = contrast(table, {"a": 1, "b": -1})
    assert found == pytest.approx(crossed((0.1 - noise)[:4]))
    share = contrast(table, {"a": 1, "b": -1}, relative_to="b")
    assert share.value == pytest.approx(found.value / (hard - 0.1 + noise)[:4].mean())


def test_a_share_is_as_uncertain_as_a_ratio():
    """People whose losses differ widely, and a loss that is .1 of their mean higher for each."""
    rng, held, trials = np.random.default_rng(7), 0, 300
    for _ in range(trials):
        people = rng.lognormal(-0.32, 0.8, 100)  # of mean 1
        pair = (people, people + 0.1)
        b, a = (scores(loss * rng.normal(1, 0.02, (6, 100)), name)
                for loss, name in zip(pair, "ba", strict=True))  # fmt: skip
        interval = contrast(pd.concat([a, b]), {"a": 1, "b": -1}, relative_to="b")
        held += interval.low < 0.1 < interval.high
    assert 0.92 <= held / trials <= 0.98
    same = pd.concat([b, b.assign(arm="c", dice=1.2 * b.dice)])
    fixed = contrast(same, {"c": 1, "b": -1}, relative_to="b")
    assert fixed == pytest.approx((0.2, 0.2, 0.2))


def test_a_person_without_a_score_is_left_out_everywhere():
    rng = np.random.default_rng(8)
    rows = [(arm, seed, f"p{person}", rng.random())
            for arm in "ab" for seed in range(3) for person in range(5)]  # fmt: skip
    scans = pd.DataFrame(rows, columns=["arm", "seed", "subject", "dice"])
    scans.loc[(scans.arm == "a") & (scans.seed == 1) & (scans.subject == "p2"), "dice"] = np.nan
    rest = scans[scans.subject != "p2"]
    assert contrast(scans, {"a": 1, "b": -1}) == contrast(rest, {"a": 1, "b": -1})


def test_contrasts_of_what_cannot_be_compared_are_refused():
    values = np.full((2, 3), 0.5)
    both = scores(values, "a").assign(people=["known", "unseen"] * 3)
    with pytest.raises(ValueError, match="the table mixes known and unseen scans"):
        contrast(both, {"a": 1})
    table = pd.concat([scores(values, "a"), scores(values[:, :2], "b"), scores(values, "c", 5)])
    with pytest.raises(ValueError, match="not tested on the same people"):
        contrast(table, {"a": 1, "b": -1})
    with pytest.raises(ValueError, match="no seed has all of the arms a, c"):
        contrast(table, {"a": 1, "c": -1})
    with pytest.raises(ValueError, match="no seed has all of the arms a, d"):
        contrast(table, {"a": 1, "d": -1})


def table(dice: np.ndarray, **more: object) -> pd.DataFrame:
    subjects = [f"s{number}" for number in range(len(dice))]
    return pd.DataFrame({"subject": subjects, "session": "t01", "dice": dice, **more})


def test_two_networks_are_compared_scan_by_scan():
    rng = np.random.default_rng(5)
    first, second = rng.random(25), rng.random(25)
    found = compare(table(first), table(second).iloc[::-1])
    oracle = stats.bootstrap(
        (first - second,), np.mean, n_resamples=5000, method="percentile", rng=rng
    ).confidence_interval
    assert found.value == pytest.approx(np.mean(first - second))
    assert found[1:3] == pytest.approx((oracle.low, oracle.high), abs=0.02)
    assert (found.subjects, found.seeds) == (25, 1)
    share = compare(table(first), table(second), relative=True)
    assert share.value == pytest.approx(found.value / second.mean())


def test_several_trainings_are_compared_by_seeds_and_people():
    rng = np.random.default_rng(6)
    values = rng.random((6, 20))
    first = pd.concat([table(row, seed=seed) for seed, row in enumerate(values)])
    found = compare(first, first.assign(dice=0.0), level=0.9)
    assert found[:3] == pytest.approx(crossed(values, 0.9))
    assert (found.subjects, found.seeds) == (20, 6)


def test_tables_of_different_scans_are_refused():
    first = table(np.full(9, 0.5))
    with pytest.raises(ValueError, match="9 and 8 scans, of which 8 match"):
        compare(first, first.iloc[:8])


def test_scans_without_a_score_do_not_count():
    rng = np.random.default_rng(7)
    first, second = table(rng.random(FEWEST + 2)), table(rng.random(FEWEST + 2))
    first.loc[0, "dice"] = second.loc[1, "dice"] = np.nan
    found, rest = compare(first, second), compare(first.iloc[2:], second.iloc[2:])
    assert found.subjects == FEWEST
    assert found[:3] == pytest.approx(rest[:3])
    share, rest = (compare(a, b, relative=True) for a, b in
                   ((first, second), (first.iloc[2:], second.iloc[2:])))  # fmt: skip
    assert share[:3] == pytest.approx(rest[:3])
    assert np.isnan(compare(first.iloc[3:], second.iloc[3:]).low)


def test_few_subjects_have_no_interval_and_other_scans_are_refused():
    few = table(np.linspace(0, 1, FEWEST - 1))
    found = compare(few, few.assign(dice=0.0))
    assert found.value == pytest.approx(0.5)
    assert np.isnan([found.low, found.high]).all()
    with pytest.raises(ValueError, match="7 and 6 scans, of which 6 match"):
        compare(few, few.iloc[1:])
