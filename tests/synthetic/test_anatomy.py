"""Anatomy: landmarks of the template, smooth fields, displacements and their inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from volumes import region_at

from atlaslib.data.volumes import brain_mask
from atlaslib.synthetic import anatomy
from atlaslib.synthetic.cohort import session_plan
from atlaslib.synthetic.people import draw_people

CENTRE = np.array([125.0, 136.0, 80.0])
BOX = (slice(100, 150), slice(110, 160), slice(60, 100))


def test_the_nodes_cover_the_grid():
    for size, nodes in zip(anatomy.SHAPE, anatomy.NODES, strict=True):
        assert (nodes - 1) * anatomy.STEP >= size - 1  # the last node lies at or beyond the grid


@pytest.mark.parametrize(
    ("landmark", "mm", "region"),
    [
        ("putamen", (27, 2, 2), anatomy.DEEP),
        ("body of the lateral ventricle", (7, -10, 22), anatomy.VENTRICLE),
        ("centrum semiovale", (25, -15, 38), anatomy.WHITE),
        ("temporal pole", (40, 15, -34), anatomy.CORTEX),
        ("pons", (4, -25, -30), anatomy.BRAINSTEM),
        ("cerebellar hemisphere", (30, -65, -40), anatomy.CEREBELLUM),
        ("ear", (88, -20, -30), anatomy.OUTSIDE),
    ],
)
def test_landmarks_lie_in_their_region_on_both_sides(landmark, mm, region):
    for side in (-1, 1):
        voxel = (98 + side * mm[0], 134 + mm[1], 72 + mm[2])
        assert anatomy.template().region[voxel] == region, landmark


def test_the_brain_agrees_with_the_template_mask():
    maps = anatomy.template()
    np.testing.assert_array_equal(maps.region > 0, brain_mask())
    np.testing.assert_array_equal(maps.within, np.flatnonzero(brain_mask()))
    assert maps.white_odds.shape == maps.fluid_odds.shape == maps.within.shape


def test_the_distance_to_the_ventricles_is_in_millimetres_and_signed():
    maps = anatomy.template()
    ventricle = maps.region == anatomy.VENTRICLE
    true = ndimage.distance_transform_edt(~ventricle) - ndimage.distance_transform_edt(ventricle)
    found = anatomy.upsample(maps.vent_distance)
    for part in (maps.region == anatomy.DEEP, maps.region == anatomy.WHITE):
        assert np.abs(found - true)[part].mean() < 2
    assert found[true < -4].max() < 0  # smoothing loses the narrow horns


def test_upsampling_is_linear_interpolation_between_nodes():
    field = np.random.default_rng(0).standard_normal((2, *anatomy.NODES)).astype(np.float32)
    at = np.stack(np.meshgrid(*[np.arange(r.start, r.stop) / 4 for r in BOX], indexing="ij"))
    for part, found in zip(field, anatomy.upsample(field, BOX), strict=True):
        expected = ndimage.map_coordinates(part.astype(float), at, order=1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_smooth_fields_are_as_smooth_as_requested():
    """White noise smoothed by a Gaussian of width s has correlation exp(-d²/4s²) at distance d."""
    field = anatomy.smooth_field(np.random.default_rng(0), 12, channels=4)
    assert field.shape == (4, *anatomy.NODES)
    assert field.std() == pytest.approx(1, abs=1e-4)
    for nodes in (1, 3, 6):
        for axis in (1, 2, 3):
            found = np.mean(field * np.roll(field, nodes, axis))
            assert found == pytest.approx(np.exp(-((4 * nodes) ** 2) / (4 * 12**2)), abs=0.06)


@pytest.mark.parametrize("feature", [3, 8, 20])
def test_noise_has_unit_variance_and_features_of_the_requested_size(feature):
    still = np.zeros((3, *anatomy.NODES), np.float32)
    where = anatomy.template_coordinates(still, (slice(20, 150), slice(20, 150), slice(20, 150)))
    noise = anatomy.noise_at(np.random.default_rng(1), where, feature)
    assert abs(noise.mean()) < 0.2
    assert noise.std() == pytest.approx(1, abs=0.25)
    near, far = (np.mean(noise[lag:] * noise[:-lag]) for lag in (max(feature // 4, 1), 2 * feature))
    assert near > 0.6 * noise.var()
    assert abs(far) < 0.25 * noise.var()


def test_a_displacement_that_would_fold_is_weakened_until_it_does_not():
    sharp = 9 * anatomy.smooth_field(np.random.default_rng(0), 6, 3)
    assert anatomy.jacobian_determinant(sharp).min() < 0
    mended = anatomy.unfolded(sharp)
    assert anatomy.jacobian_determinant(mended).min() >= 0.2
    assert 1 < np.abs(sharp).max() / np.abs(mended).max() < 20
    mild = 0.05 * sharp
    np.testing.assert_array_equal(anatomy.unfolded(mild), mild)


def test_people_differ_by_several_millimetres_and_none_is_folded():
    fields = [anatomy.displacement(np.random.default_rng(s), 0.5, (0, 0)) for s in range(8)]
    within = anatomy.template().inner > 0.99
    spread = np.std([field[:, within] for field in fields], axis=0)
    assert 2.5 < np.sqrt((spread**2).mean()) < 6
    assert min(anatomy.jacobian_determinant(field).min() for field in fields) >= 0.2


def test_contraction_pulls_the_surroundings_towards_the_scar():
    field = np.zeros((3, *anatomy.NODES), np.float32)
    anatomy.contract(field, CENTRE, radius=10, strength=0.1)
    shown = anatomy.template_coordinates(field, BOX)
    np.testing.assert_allclose(shown[:, 25, 26, 20], CENTRE, atol=0.05)
    # the tissue now ten voxels to the right was further to the right before
    assert 10.5 < shown[0, 35, 26, 20] - CENTRE[0] < 11.1
    assert -11.1 < shown[1, 25, 16, 20] - CENTRE[1] < -10.5
    corner = anatomy.template_coordinates(field, (slice(0, 2), slice(0, 2), slice(0, 2)))
    np.testing.assert_allclose(corner[:, 1, 1, 1], 1, atol=1e-3)


def test_a_template_voxel_is_found_in_the_subject():
    field = anatomy.displacement(np.random.default_rng(0), 0.5, (0.0, 3.0))
    assert np.abs(field).max() > 3
    for goal in (CENTRE, CENTRE - (50, 20, -10), np.array([98.0, 80.0, 120.0])):
        point = anatomy.centre_in_subject(field, tuple(goal))
        shift = [ndimage.map_coordinates(part, point[:, None] / 4, order=1)[0] for part in field]
        np.testing.assert_allclose(point + shift, goal, atol=0.2)


def test_the_ventricle_beside_a_large_lesion_is_the_larger_one():
    box = (slice(48, 149), slice(60, 190), slice(45, 115))  # symmetric about x = 0
    people = [p for p in draw_people(40, seed=0) if p.lesions[0].volume > 30_000]
    people = [p for p in people if {lesion.side for lesion in p.lesions} == {p.lesions[0].side}]
    ratios = []
    for person in people:
        ventricle = region_at(session_plan(person, "t01")[0], box) == anatomy.VENTRICLE
        left, right = int(ventricle[:50].sum()), int(ventricle[51:].sum())
        ratios.append(left / right if person.lesions[0].side < 0 else right / left)
    assert len(ratios) >= 5
    assert min(ratios) > 1.0
    assert np.mean(ratios) > 1.2


def test_slabs_cover_a_box_once():
    seen = np.zeros((50, 8, 8), int)
    for slab in anatomy.slabs((slice(3, 45), slice(1, 6), slice(2, 7))):
        seen[slab] += 1
    assert seen[3:45, 1:6, 2:7].min() == seen.max() == 1
    assert seen.sum() == 42 * 5 * 5
