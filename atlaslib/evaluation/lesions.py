"""Lesion statistics of a cohort (volume, number, side) beside the published ones of ATLAS."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.data.cohort import Cohort, Scan
from atlaslib.data.volumes import read_lesion

SMALLEST = 50  # mm3: smaller components are not counted as lesions
ONE_SIDED = 0.9  # a scan is "left" or "right" if that side has more than this share of the voxels
COLUMNS = [
    "subject",
    "session",
    "site",
    "volume_mm3",
    "components",
    "largest_share",
    "lesion_slices",
    "hemisphere",
]

# Aggregates of the 655 public scans of ATLAS R2.0 (Liew et al. 2022, Scientific Data 9, 320);
# the hemisphere shares are from R1.1 (Liew et al. 2018, Scientific Data 5, 180011).
# No individual's data is included.
ATLAS_STATISTICS: dict[str, float] = {
    "volume, 10th percentile (mm3)": 380,
    "volume, 25th percentile (mm3)": 1_170,
    "volume, median (mm3)": 5_290,
    "volume, 75th percentile (mm3)": 36_055,
    "volume, 90th percentile (mm3)": 106_089,
    "volume, mean (mm3)": 33_226,
    "scans below 1 mL (%)": 21,
    "scans below 10 mL (%)": 61,
    "scans above 100 mL (%)": 10.5,
    "scans with one lesion (%)": 55,
    "scans with two lesions (%)": 23,
    "scans with three or more (%)": 22,
    "share of the largest lesion (%)": 89,
    "slices with lesion, mean": 50,
    "slices with lesion, median": 45,
    "left hemisphere (%)": 53,
    "right hemisphere (%)": 39,
}


def lesion_table(cohort: Cohort) -> pd.DataFrame:
    """Measure the union of each scan's masks.

    Returns
    -------
    pandas.DataFrame
        One row per scan: subject, session, site; ``volume_mm3``; ``components``: 26-connected
        components of at least 50 mm3; ``largest_share``: share of the volume in the largest
        component (nan for an empty mask); ``lesion_slices``: axial slices with lesion;
        ``hemisphere``: "left" or "right" if more than 90 % of the voxels lie there, "both"
        otherwise, "" for an empty mask.
    """
    return pd.DataFrame([_measure(scan) for scan in cohort], columns=COLUMNS)


def _measure(scan: Scan) -> dict[str, object]:
    lesion = read_lesion(scan)
    voxel = float(abs(np.linalg.det(lesion.affine[:3, :3])))  # mm3
    sizes = component_sizes(lesion.voxels)
    total = int(sizes.sum())
    return {
        "subject": scan.subject,
        "session": scan.session,
        "site": scan.site,
        "volume_mm3": total * voxel,
        "components": int((sizes * voxel >= SMALLEST).sum()),
        "largest_share": float(sizes.max() / total) if total else np.nan,
        "lesion_slices": int(lesion.voxels.any(axis=(0, 1)).sum()),
        "hemisphere": hemisphere(lesion.voxels, lesion.affine),
    }


def component_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxels of each 26-connected component; only the mask's bounding box is labelled."""
    box = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
    if box is None:
        return np.zeros(0, dtype=np.int64)
    parts, _ = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
    return np.bincount(parts.ravel())[1:].astype(np.int64)


def hemisphere(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> str:
    """The side with more than 90 % of the mask's voxels; "both" if neither, "" if it is empty.

    Parameters
    ----------
    mask : ndarray of bool, (x, y, z)
    affine : ndarray, (4, 4)
        Voxels to mm in RAS orientation; x = 0 is the midline.
    """
    voxels = np.argwhere(mask)
    if not len(voxels):
        return ""
    x = voxels @ affine[0, :3] + affine[0, 3]  # mm, right is positive
    if (x < 0).mean() > ONE_SIDED:
        return "left"
    return "right" if (x > 0).mean() > ONE_SIDED else "both"


def compare_with_atlas(table: pd.DataFrame) -> pd.DataFrame:
    """The statistics of a cohort beside the published ones of ATLAS.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`lesion_table`.

    Returns
    -------
    pandas.DataFrame
        Columns ``statistic``, ``this cohort`` and ``ATLAS``. The figures of ATLAS are from R2.0
        (Liew et al. 2022), except for the hemispheres, which are from R1.1 (Liew et al. 2018).
    """
    if table.empty:
        raise ValueError("compare_with_atlas needs at least one scan, but the table is empty")
    found = _statistics(table)
    return pd.DataFrame(
        {
            "statistic": list(ATLAS_STATISTICS),
            "this cohort": [found[name] for name in ATLAS_STATISTICS],
            "ATLAS": list(ATLAS_STATISTICS.values()),
        }
    )


def _statistics(table: pd.DataFrame) -> dict[str, float]:
    volume, count = table["volume_mm3"], table["components"]
    slices, side = table["lesion_slices"], table["hemisphere"]
    return {
        "volume, 10th percentile (mm3)": float(volume.quantile(0.10)),
        "volume, 25th percentile (mm3)": float(volume.quantile(0.25)),
        "volume, median (mm3)": float(volume.median()),
        "volume, 75th percentile (mm3)": float(volume.quantile(0.75)),
        "volume, 90th percentile (mm3)": float(volume.quantile(0.90)),
        "volume, mean (mm3)": float(volume.mean()),
        "scans below 1 mL (%)": _percent(volume < 1_000),
        "scans below 10 mL (%)": _percent(volume < 10_000),
        "scans above 100 mL (%)": _percent(volume > 100_000),
        # a scan whose components all have fewer than 50 voxels still has one lesion
        "scans with one lesion (%)": _percent(count <= 1),
        "scans with two lesions (%)": _percent(count == 2),
        "scans with three or more (%)": _percent(count >= 3),
        "share of the largest lesion (%)": 100 * float(table["largest_share"].mean()),
        "slices with lesion, mean": float(slices.mean()),
        "slices with lesion, median": float(slices.median()),
        "left hemisphere (%)": _percent(side == "left"),
        "right hemisphere (%)": _percent(side == "right"),
    }


def _percent(chosen: pd.Series) -> float:
    return 100 * float(chosen.mean())
