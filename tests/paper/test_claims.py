"""Verdicts follow their rules."""

from __future__ import annotations

import pytest

from atlaslib.evaluation.intervals import FEWEST, Effect
from atlaslib.paper.claims import CLAIMS, SEEDS, Claim, verdicts

ABOVE = Claim("X", "1", "More.", "more", margin=0.1)
WITHIN = Claim("Y", "1", "Alike.", "difference", "within", 0.1)
BELOW = Claim("Z", "1", "Less.", "more", "below", 0.1)


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
        (ABOVE, float("nan"), float("nan"), "undecided"),
    ],
)
def test_verdict_follows_the_rule(claim, low, high, word):
    assert claim.verdict(Effect((low + high) / 2, low, high, 20)) == word


def test_too_few_subjects_are_undecided():
    effect = Effect(0.5, 0.5, 0.5, FEWEST - 1)
    assert ABOVE.verdict(effect) == "undecided"
    assert ABOVE.verdict(effect._replace(subjects=FEWEST)) == "points to yes"
    assert ABOVE.verdict(effect._replace(subjects=None)) == "points to yes"


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


def test_a_verdict_takes_five_trainings():
    effect = Effect(0.05, 0.04, 0.06, 12, seeds=SEEDS)
    claim = Claim("X", "1", "More.", "more", margin=0.01)
    assert claim.verdict(effect) == "confirmed"
    assert claim.verdict(effect._replace(seeds=SEEDS - 1)) == "points to yes"
    assert Claim("X", "1", "Less.", "less", "below", 0.01).verdict(effect) == "refuted"


def test_a_claim_without_a_rule_shows_none():
    rules = verdicts({}).set_index("claim").rule
    assert set(rules[["C5a", "C7a", "C7b"]]) == {""}
    assert rules["C3"].endswith("interval above 0.02")
