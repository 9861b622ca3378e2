"""The lesion table of masks drawn by hand, against values counted by hand."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from atlaslib import Cohort, load_cohort
from atlaslib.evaluation.lesions import (
    ATLAS_STATISTICS,
    compare_with_atlas,
    hemisphere,
    lesion_table,
)

SHAPE = (197, 233, 189)
AFFINE = np.array([[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1.0]])


def write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), AFFINE), path)


def box(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(a, b) for a, b in ranges)] = 1
    return mask


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("drawn")
    left = box((30, 40), (100, 110), (60, 70))  # 1000 voxels
    corner = box((40, 44), (110, 114), (70, 74))  # 64 voxels that touch it by a corner
    speck = box((20, 23), (60, 63), (20, 23))  # 27 voxels
    right = box((120, 130), (100, 110), (60, 65))  # 500 voxels
    drawn = {
        "090001": [left | corner | speck],
        "090002": [255 * left, right],
        "090003": [right, right],  # the same lesion twice: the union counts once
        "090004": [np.zeros(SHAPE, np.uint8)],
    }
    for subject, masks in drawn.items():
        folder = root / "Site1" / subject / "t01"
        write(folder / f"{subject}_t1w_deface_stx.nii.gz", np.zeros(SHAPE))
        for i, mask in enumerate(masks):
            number = f"_{i}" if i else ""
            write(folder / f"{subject}_LesionSmooth{number}_stx.nii.gz", mask)
    return load_cohort(root)


def test_lesion_table_agrees_with_counts_by_hand(cohort):
    table = lesion_table(cohort).set_index("subject")
    assert list(table["volume_mm3"]) == [1091, 1500, 500, 0]
    assert list(table["components"]) == [1, 2, 1, 0]
    assert list(table["lesion_slices"]) == [17, 10, 5, 0]
    assert list(table["hemisphere"]) == ["left", "both", "right", ""]
    np.testing.assert_allclose(table["largest_share"], [1064 / 1091, 1000 / 1500, 1, np.nan])


def test_the_hemisphere_of_a_head_that_is_turned():
    turned = np.eye(4)
    turned[0] = 0.8, 0, 0.6, -50  # x in mm grows along two of the voxels' axes
    mask = np.zeros((60, 4, 60), bool)
    mask[10:20, :, 10:20] = True
    assert hemisphere(mask, turned) == "left"
    mask[:] = False
    mask[10:20, :, -10:] = True
    assert hemisphere(mask, turned) == "left"
    mask[:] = False
    mask[-10:, :, -10:] = True
    assert hemisphere(mask, turned) == "right"


def test_hemisphere_follows_the_affine_and_needs_a_90_percent_majority():
    mask = np.zeros((11, 3, 3), bool)
    mask[:3] = True  # 27 voxels
    affine = np.diag([1.0, 1, 1, 1])
    affine[0, 3] = -5  # x = -5 ... 5 mm
    assert hemisphere(mask, affine) == "left"
    mask[7, 0, 0] = True  # 27 of 28
    assert hemisphere(mask, affine) == "left"
    mask[7] = True  # 27 of 36
    assert hemisphere(mask, affine) == "both"
    mask[:3] = False
    mask[5] = False
    assert hemisphere(mask, affine) == "right"


def test_comparison_is_computed_from_the_table():
    table = pd.DataFrame(
        {
            "volume_mm3": [500.0, 2_000, 20_000, 200_000],
            "components": [0, 1, 2, 5],
            "largest_share": [1.0, 1.0, 0.8, 0.6],
            "lesion_slices": [4, 10, 40, 90],
            "hemisphere": ["left", "left", "right", "both"],
        }
    )
    found = compare_with_atlas(table).set_index("statistic")
    assert list(found.index) == list(ATLAS_STATISTICS)
    expected = {
        "volume, median (mm3)": 11_000,
        "volume, mean (mm3)": 55_625,
        "scans below 1 mL (%)": 25,
        "scans below 10 mL (%)": 50,
        "scans above 100 mL (%)": 25,
        "scans with one lesion (%)": 50,
        "scans with two lesions (%)": 25,
        "scans with three or more (%)": 25,
        "share of the largest lesion (%)": 85,
        "slices with lesion, mean": 36,
        "slices with lesion, median": 25,
        "left hemisphere (%)": 50,
        "right hemisphere (%)": 25,
    }
    assert {name: found.loc[name, "this cohort"] for name in expected} == pytest.approx(expected)


def test_the_published_figures_are_those_of_the_articles():
    found = compare_with_atlas(
        pd.DataFrame(
            {
                "volume_mm3": [1.0],
                "components": [1],
                "largest_share": [1.0],
                "lesion_slices": [1],
                "hemisphere": ["left"],
            }
        )
    ).set_index("statistic")["ATLAS"]
    assert found["volume, median (mm3)"] == 5_290
    assert found["volume, 90th percentile (mm3)"] == 106_089
    assert found["scans with one lesion (%)"] == 55
    shares = found[[name for name in found.index if name.startswith("scans with")]]
    assert shares.sum() == 100


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="empty"):
        compare_with_atlas(pd.DataFrame())
