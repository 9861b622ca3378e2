"""Verdicts follow their rules, and paired differences agree with closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from atlaslib.paper import claims
from atlaslib.paper.claims import CLAIMS, Claim, Effect, difference, verdicts

ABOVE = Claim("X", "1", "More.", "more", margin=0.1)
WITHIN = Claim("Y", "1", "Alike.", "difference", "within", 0.1)
BELOW = Claim("Z", "1", "Less.", "more", "below", 0.1)
BEYOND = Claim("W", "1", "Another.", "difference", "beyond", 0.1)


@pytest.mark.parametrize(
    ("claim", "low", "high", "word"),
    [
        (ABOVE, 0.11, 0.30, "points to yes"),
        (ABOVE, -0.20, 0.09, "points to no"),
        (ABOVE, 0.05, 0.15, "undecided"),
        (WITHIN, -0.09, 0.09, "points to yes"),
        (WITHIN, 0.11, 0.20, "points to no"),
        (WITHIN, -0.20, -0.11, "points to no"),
        (WITHIN, 0.05, 0.15, "undecided"),
        (WITHIN, -0.50, 0.50, "undecided"),
        (BELOW, -0.20, 0.09, "points to yes"),
        (BELOW, 0.11, 0.30, "points to no"),
        (BELOW, 0.05, 0.15, "undecided"),
        (BEYOND, 0.11, 0.20, "points to yes"),
        (BEYOND, -0.20, -0.11, "points to yes"),
        (BEYOND, -0.09, 0.09, "points to no"),
        (BEYOND, -0.20, 0.20, "undecided"),
        (ABOVE, float("nan"), float("nan"), "undecided"),
    ],
)
def test_verdict_follows_the_rule(claim, low, high, word):
    assert claim.verdict(Effect((low + high) / 2, low, high, 20)) == word


def test_too_few_subjects_are_undecided():
    effect = Effect(0.5, 0.5, 0.5, claims.FEWEST - 1)
    assert ABOVE.verdict(effect) == "undecided"
    assert ABOVE.verdict(effect._replace(subjects=claims.FEWEST)) == "points to yes"
    assert ABOVE.verdict(effect._replace(subjects=None)) == "points to yes"


def table(dice: np.ndarray) -> pd.DataFrame:
    subjects = [f"{number:02}" for number in range(len(dice))]
    return pd.DataFrame({"subject": subjects, "session": "t01", "dice": dice, "loss": 2 * dice})


def test_constant_difference_has_an_interval_of_no_width():
    hard = np.linspace(0.1, 0.9, 12)
    effect = difference(table(hard), table(hard - 0.05))
    assert effect == (pytest.approx(0.05), pytest.approx(0.05), pytest.approx(0.05), 12, 1)


def test_interval_agrees_with_scipy():
    rng = np.random.default_rng(1)
    first, second = rng.random(25), rng.random(25)
    effect = difference(table(first), table(second))
    oracle = stats.bootstrap(
        (first - second,), np.mean, n_resamples=5000, method="percentile", rng=rng
    ).confidence_interval
    assert effect.value == pytest.approx(np.mean(first - second))
    assert effect[1:3] == pytest.approx((oracle.low, oracle.high), abs=0.02)


def test_scans_are_matched_by_name_not_by_row():
    first = table(np.linspace(0.1, 0.9, 12))
    assert difference(first, first.iloc[::-1])[:3] == (0, 0, 0)


def test_relative_difference_is_a_share_of_the_second_mean():
    effect = difference(table(np.full(9, 0.6)), table(np.full(9, 0.5)), "loss", relative=True)
    assert effect.value == pytest.approx(0.2)


def test_tables_of_different_scans_are_refused():
    first = table(np.full(9, 0.5))
    with pytest.raises(ValueError, match="9 and 8 scans, of which 8 match"):
        difference(first, first.iloc[:8])


def test_every_claim_has_a_row_even_if_untested():
    board = verdicts({"C1": Effect(0.4, 0.3, 0.5, 12)})
    words = board.set_index("claim").verdict
    assert list(words.index) == [claim.key for claim in CLAIMS]
    assert words["C1"] == "points to yes"
    assert set(words.drop("C1")) == {"not yet tested"}


def test_effect_is_shown_with_its_interval_if_it_has_one():
    text = str(Effect(0.12, -0.051, 0.19, 12))
    assert text == "0.120 [\N{MINUS SIGN}0.051,\N{NO-BREAK SPACE}0.190]"
    assert str(Effect(0.4, 0.4, 0.4)) == "0.40"


def seeded(shift: float, spread: float, subjects: int = 12, seeds: int = 5) -> pd.DataFrame:
    """Dice of several trainings; `spread` is the standard deviation of their means."""
    rng = np.random.default_rng(3)
    hard, luck = np.linspace(0.1, 0.7, subjects), rng.normal(0, spread, seeds)
    return pd.concat([table(hard + shift + luck[k]).assign(seed=k) for k in range(seeds)])


def test_variation_between_seeds_widens_the_interval_and_five_seeds_confirm():
    base = seeded(0, 0)
    narrow = difference(seeded(0.05, 0.0), base)
    wide = difference(seeded(0.05, 0.05), base)
    assert narrow[1] == pytest.approx(0.05)
    assert wide.high - wide.low > 0.03
    assert wide.seeds == 5
    claim = Claim("X", "1", "More.", "more", margin=0.01)
    assert claim.verdict(narrow) == "confirmed"
    assert claim.verdict(narrow._replace(seeds=4)) == "points to yes"
    assert Claim("X", "1", "Less.", "less", "below", 0.01).verdict(narrow) == "refuted"


def test_trainings_are_resampled_as_a_whole():
    """With many subjects and no spread among them, the interval is that of the seeds' means."""
    luck = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    base = pd.concat([table(np.full(50, 0.5)).assign(seed=k) for k in range(5)])
    other = pd.concat([table(np.full(50, 0.5 + value)).assign(seed=k)
                       for k, value in enumerate(luck)])  # fmt: skip
    effect = difference(other, base)
    oracle = stats.bootstrap((luck,), np.mean, n_resamples=5000, method="percentile",
                             rng=np.random.default_rng(0)).confidence_interval  # fmt: skip
    assert effect[1:3] == pytest.approx((oracle.low, oracle.high), abs=0.02)


def test_effects_are_given_for_claims_whose_arms_are_present():
    parts = {"baseline": 0.4, "resnet": 0.3, "zero": 0.0}
    scans = pd.concat([seeded(shift, 0).assign(arm=arm) for arm, shift in parts.items()])
    scans["loss"] = 1.0
    effects = claims.effects_of(scans)
    assert set(effects) == {"C1", "C2", "C3"}
    assert effects["C1"].value == pytest.approx(0.4)
    assert effects["C2"].value == pytest.approx(0)


def test_testing_the_same_people_with_more_seeds_does_not_narrow_the_interval():
    """If only people differ and trainings do not, five seeds tell no more than one."""
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"subject": [f"s{n}" for n in range(24)], "session": "t01"})
    people["dice"] = rng.normal(0.2, 0.1, len(people))
    first = pd.concat([people.assign(seed=seed) for seed in range(5)], ignore_index=True)
    found = difference(first, first.assign(dice=0.0))
    alone = difference(people, people.assign(dice=0.0))
    assert found.value == pytest.approx(alone.value)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.1)
