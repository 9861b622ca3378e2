"""Who is in the synthetic cohort: sites, sessions, names, streams and the table."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from atlaslib.paper import protocol
from atlaslib.paper.protocol import PLANS
from atlaslib.synthetic.infarcts import Infarct
from atlaslib.synthetic.people import REMOVED, Person, draw_people, metadata


def lesion(kind: str, side: int, volume: int = 5_000) -> Infarct:
    return Infarct(volume, kind, side, (100.0, 100.0, 90.0), (1.0, 1.0, 1.0), 0.5, True)


def person(*lesions: Infarct, sessions: tuple[str, ...] = ("t01",)) -> Person:
    seed = np.random.SeedSequence(1)
    return Person("90010012", 8, sessions, lesions, 0.5, 0.6, "face", seed)


def test_sites_and_repeat_sessions_are_those_of_release_1_1():
    people = draw_people(220, seed=1)
    counts = Counter(person.site for person in people)
    assert [counts[site] for site in range(1, 10)] == [55, 34, 27, 12, 27, 14, 11, 26, 14]
    repeated = [person for person in people if person.sessions == ("t01", "t02")]
    assert len(repeated) == 9
    assert {person.site for person in repeated} == {8}
    names = [person.subject for person in people]
    assert len(set(names)) == 220
    assert all(len(name) == 8 and name.startswith("9001") for name in names)
    assert set(metadata(people)["Session"]) == {" t01", " t02"}


@pytest.mark.parametrize("subjects", [1, 2, 8, 9, 37])
def test_any_number_of_people_can_be_drawn(subjects):
    people = draw_people(subjects, seed=0)
    assert len(people) == subjects
    assert min(lesion.volume for person in people for lesion in person.lesions) >= 13
    assert all(np.isfinite(lesion.centre).all() for p in people for lesion in p.lesions)


def test_people_depend_on_the_seed_alone():
    def lesions(seed: int) -> list[object]:
        return [person.lesions for person in draw_people(20, seed)]

    assert lesions(3) == lesions(3)
    assert lesions(3) != lesions(4)


@pytest.mark.parametrize("pair", [(0, 1), (1, 10), (1, 10_001), (123, 1_230), (0, 2**62)])
def test_people_of_two_seeds_never_share_a_name(pair):
    first, second = ({person.subject for person in draw_people(300, seed)} for seed in pair)
    assert len(first) == len(second) == 300
    assert not first & second


def test_no_two_cohorts_of_the_protocol_share_anyone():
    plan = PLANS["quick"]
    made = {protocol.MAIN_PEOPLE + seed: plan.people for seed in range(plan.primary)}
    made |= {protocol.PILOT_PEOPLE + seed: plan.people for seed in range(plan.pilot_seeds)}
    made[protocol.TEST_PEOPLE] = plan.test_people
    names = [person.subject for seed, count in made.items() for person in draw_people(count, seed)]
    assert len(names) == len(set(names)) == sum(made.values())


def test_heads_are_shared_whole_or_not_in_the_stated_shares():
    counts = Counter(person.removed for person in draw_people(400, seed=2))
    for how, share in REMOVED.items():
        assert counts[how] / 400 == pytest.approx(share, abs=0.08)
    assert sum(counts.values()) == 400


def test_a_stream_does_not_depend_on_earlier_draws():
    someone, other = draw_people(2, seed=0)
    expected = someone.stream(3).random(4)
    someone.stream(2).random(100)
    np.testing.assert_array_equal(someone.stream(3).random(4), expected)
    for different in (someone.stream(2), someone.stream(103), other.stream(3)):
        assert not np.isin(different.random(4), expected).any()


def test_the_table_counts_strokes_by_side_and_location():
    subject = person(
        lesion("territory", -1, 40_000),
        lesion("cortical", 1),
        lesion("cortical", 1),
        lesion("subcortical", 1),
        lesion("cerebellum", -1),
        lesion("brainstem", 1),
        sessions=("t01", "t02"),
    )
    table = metadata([subject])
    assert list(table["Session"]) == [" t01", " t02"]
    row = table.iloc[0]
    assert (row["INDI Site ID"], row["INDI Subject ID"]) == ("Site8", 90010012)
    assert row["# Strokes LH Cortical"] == 0
    assert row["# Strokes LH subcortical"] == 1  # a territory infarct reaches below the cortex
    assert row["# Strokes RH Cortical"] == 2
    assert row["# Strokes RH subcortical"] == 1
    assert row["Other Location"] == 2
    assert row["Primary Stroke Location Hemisphere"] == "Left"
    assert table.drop(columns="Session").nunique().eq(1).all()  # the same in both sessions


@pytest.mark.parametrize(
    ("main", "place", "side", "artery"),
    [
        (lesion("cortical", 1), "Cortical", "Right", "MCA"),
        (lesion("subcortical", -1, 900), "Subcortical", "Left", "Lacunar"),
        (lesion("subcortical", -1, 9_000), "Subcortical", "Left", "MCA"),
        (lesion("brainstem", 1), "Brainstem", "brainstem", "Basilar"),
        (lesion("cerebellum", 1), "Cerebellum", "Right", "Cerebellar"),
    ],
)
def test_the_primary_stroke_is_the_first_lesion(main, place, side, artery):
    row = metadata([person(main, lesion("territory", -main.side))]).iloc[0]
    names = ("Location", "Location Hemisphere")
    assert tuple(row[f"Primary Stroke {name}"] for name in names) == (place, side)
    assert row["Vascular territory"] == artery
