"""Infarcts: published statistics, location in tissue, exact volume."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from infarct import NO_WARP, striatal
from scipy import ndimage
from volumes import region_at

from atlaslib.synthetic import anatomy, infarcts
from atlaslib.synthetic.cohort import fit_lesions
from atlaslib.synthetic.infarcts import Infarct, fit_lesion
from atlaslib.synthetic.people import Person, draw_people

# lesion volume of the 655 public scans of R2.0, in mm3 (Liew et al. 2022)
PUBLISHED = {10: 380, 25: 1_170, 50: 5_290, 75: 36_055, 90: 106_089}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planned_volumes_follow_release_2(seed):
    people = draw_people(200, seed)
    totals = [sum(lesion.volume for lesion in p.lesions) for p in people for _ in p.sessions]
    for percent, published in PUBLISHED.items():
        assert 1 / 1.3 < np.percentile(totals, percent) / published < 1.3, percent
    assert 0.75 < np.mean(totals) / 33_226 < 1.25


def test_planned_numbers_sides_and_locations_follow_release_1_1():
    people = draw_people(220, seed=0)
    numbers = np.bincount([len(person.lesions) for person in people])[1:] / len(people)
    np.testing.assert_allclose(numbers, infarcts.NUMBER_SHARES, atol=0.06)
    left = np.mean([person.lesions[0].side < 0 for person in people])
    assert left == pytest.approx(53 / 92, abs=0.01)
    kinds = Counter(lesion.kind for person in people for lesion in person.lesions)
    share = {kind: count / kinds.total() for kind, count in kinds.items()}
    # R1.1: subcortical 74 %, cortical 18 %, other 8 %; a territory infarct involves the first two
    assert 0.5 < share["subcortical"] < share["subcortical"] + share["territory"] < 0.85
    assert 0.03 < share["brainstem"] + share["cerebellum"] < 0.15


def test_a_plan_divides_the_volume_and_gives_most_to_the_first():
    """The first lesion holds 89 % of the volume on average in R2.0."""
    rng = np.random.default_rng(0)
    shares = []
    for total, number in zip(infarcts.draw_volumes(rng, 300), rng.integers(1, 6, 300), strict=True):
        planned = infarcts.plan(rng, int(total), int(min(number, max(total // 120, 1))), -1)
        assert sum(lesion.volume for lesion in planned) == total
        assert planned[0].side == -1
        for lesion in planned:  # voxel 98 lies on the midline
            assert np.sign(lesion.centre[0] - 98) == lesion.side or lesion.kind == "territory"
        shares.append((len(planned), planned[0].volume / total))
    weights = np.array(infarcts.NUMBER_SHARES)
    means = [np.mean([share for count, share in shares if count == n]) for n in range(1, 6)]
    assert weights @ means == pytest.approx(0.89, abs=0.03)


def test_the_radius_is_that_of_a_ball_of_the_same_volume():
    assert striatal(33_510).radius == pytest.approx(20, abs=0.001)
    assert striatal(1_000).grown(1.04).volume == 1_040
    assert striatal(1).grown(0.1).volume == 1


def test_lesions_lie_in_brain_tissue_and_have_the_planned_volume():
    people = [p for p in draw_people(40, seed=2) if p.lesions[0].volume < 40_000]
    kinds = set()
    for person in people[:10]:
        field, lesions = fit_lesions(person, "t01")
        for lesion, fitted in lesions:
            assert int(fitted.mask.sum()) == lesion.volume
            found = region_at(field, fitted.box)[fitted.mask]
            assert not np.isin(found, (anatomy.OUTSIDE, anatomy.VENTRICLE)).any()
            below = np.isin(found, (anatomy.BRAINSTEM, anatomy.CEREBELLUM))
            assert below.all() if lesion.kind in ("brainstem", "cerebellum") else not below.any()
            kinds.add(lesion.kind)
    assert len(kinds) >= 3


def test_a_lesion_keeps_clear_of_earlier_ones():
    taken = np.zeros(anatomy.SHAPE, bool)
    taken[:, 134:] = True  # covers the front of the place where the lesion would lie
    free = fit_lesion(np.random.default_rng(0), striatal(), NO_WARP, np.zeros_like(taken))
    moved = fit_lesion(np.random.default_rng(0), striatal(), NO_WARP, taken)
    assert (free.mask & taken[free.box]).sum() > 1_000
    assert not (moved.mask & taken[moved.box]).any()
    assert moved.mask.sum() == free.mask.sum() == 3_000


def test_solid_lesions_are_one_component_and_others_may_have_islands():
    taken = np.zeros(anatomy.SHAPE, bool)
    components = {True: [], False: []}
    for solid, counts in components.items():
        for seed in range(6):
            fitted = fit_lesion(np.random.default_rng(seed), striatal(solid=solid), NO_WARP, taken)
            counts.append(ndimage.label(fitted.mask)[1])
    assert components[True] == [1] * 6
    assert max(components[False]) > 1


def test_a_laminar_infarct_stays_in_the_cortex():
    depths = {}
    maps = anatomy.template()
    place = tuple(
        float(i) for i in np.argwhere((maps.region == anatomy.CORTEX) & (maps.depth == 6))[5000]
    )
    side = 1 if place[0] > 98 else -1
    for laminar in (False, True):
        lesion = Infarct(
            4_000, "cortical", side, place, (1.0, 1.0, 1.0), 0.9, True, laminar=laminar
        )
        fitted = fit_lesion(
            np.random.default_rng(0), lesion, NO_WARP, np.zeros(anatomy.SHAPE, bool)
        )
        depths[laminar] = maps.depth[fitted.box][fitted.mask].mean()
    assert depths[True] < depths[False] - 0.5


@pytest.mark.slow
def test_volumes_and_slices_of_200_subjects_follow_release_2():
    """Three minutes on two cores: every lesion of 208 scans is fitted into its anatomy."""

    def measure(job: tuple[Person, str]) -> tuple[int, int]:
        mask = np.zeros(anatomy.SHAPE, bool)
        for _, fitted in fit_lesions(*job)[1]:
            mask[fitted.box] |= fitted.mask
        return int(mask.sum()), int(mask.any(axis=(0, 1)).sum())

    anatomy.template()
    jobs = [(person, s) for person in draw_people(200, seed=0) for s in person.sessions]
    with ThreadPoolExecutor(2) as pool:
        volumes, slices = np.array(list(pool.map(measure, jobs))).T
    for percent, published in PUBLISHED.items():
        assert 1 / 1.3 < np.percentile(volumes, percent) / published < 1.3, percent
    assert np.mean(slices) == pytest.approx(50, abs=5)  # R2.0: mean 50, median 45
    assert np.median(slices) == pytest.approx(45, abs=5)
