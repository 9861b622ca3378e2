"""Verdicts against their rules, and paired differences against closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from atlaslib import claims
from atlaslib.claims import CLAIMS, Claim, Effect, difference, verdicts

ABOVE = Claim("X", "1", "More.", "more", margin=0.1)
WITHIN = Claim("Y", "1", "Alike.", "difference", "within", 0.1)


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
        (ABOVE, float("nan"), float("nan"), "undecided"),
    ],
)
def test_verdict_follows_the_rule(claim, low, high, word):
    assert claim.verdict(Effect((low + high) / 2, low, high, 20)) == word


def test_few_subjects_decide_nothing():
    effect = Effect(0.5, 0.5, 0.5, claims.FEWEST - 1)
    assert ABOVE.verdict(effect) == "undecided"
    assert ABOVE.verdict(effect._replace(subjects=claims.FEWEST)) == "points to yes"
    assert ABOVE.verdict(effect._replace(subjects=None)) == "points to yes"


def table(dice: np.ndarray) -> pd.DataFrame:
    subjects = [f"{number:02}" for number in range(len(dice))]
    return pd.DataFrame({"subject": subjects, "session": "t01", "dice": dice, "loss": 2 * dice})


def test_constant_difference_has_no_width():
    hard = np.linspace(0.1, 0.9, 12)
    effect = difference(table(hard), table(hard - 0.05))
    assert effect == (pytest.approx(0.05), pytest.approx(0.05), pytest.approx(0.05), 12)


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


def test_relative_difference_is_a_share_of_the_second():
    effect = difference(table(np.full(9, 0.6)), table(np.full(9, 0.5)), "loss", relative=True)
    assert effect.value == pytest.approx(0.2)


def test_other_scans_are_refused():
    first = table(np.full(9, 0.5))
    with pytest.raises(ValueError, match="9 and 8 scans, of which 8 agree"):
        difference(first, first.iloc[:8])


def test_every_claim_has_a_row_and_the_untested_say_so():
    board = verdicts({"C1": Effect(0.4, 0.3, 0.5, 12), "C6": Effect(1, 1, 1, 12)})
    words = board.set_index("claim").verdict
    assert list(words.index) == [claim.key for claim in CLAIMS]
    assert words["C1"] == "points to yes"
    assert set(words.drop("C1")) == {"not yet tested"}


def test_effect_is_written_with_its_interval_if_it_has_one():
    text = str(Effect(0.12, -0.051, 0.19, 12))
    assert text == "0.120 [\N{MINUS SIGN}0.051,\N{NO-BREAK SPACE}0.190]"
    assert str(Effect(0.4, 0.4, 0.4)) == "0.40"


def test_tuning_compares_what_the_paper_did(monkeypatch):
    seen = {}

    def pretend(arm, cohort, progress):
        seen[arm] = table(np.full(9, arm.learning_rate * 100 + arm.batch_size / 1000))
        return seen[arm]

    costs = pd.DataFrame({"seconds": [1.0, 2.0], "memory_mb": [3.0, 4.0]})
    monkeypatch.setattr(claims, "validation_table", pretend)
    monkeypatch.setattr(claims, "batch_costs", lambda arm, sizes: costs)
    effects = claims.tuning_effects("paper", cohort=None)
    assert {arm.learning_rate for arm in seen} == {0.0001, 0.001}
    assert {arm.batch_size for arm in seen} == {50, 100}
    assert effects["C4"].value == pytest.approx(0.01 - 0.1)
    assert effects["C5a"].value == pytest.approx(0.25)  # memory saves less than time
    assert effects["C5b"].value == pytest.approx(-0.05)
