"""Miniature BIDS folders with the names and the shape of real datasets."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from volumes import save

T1_AFFINE = np.diag([-1, 1, 1, 1.0])
T2_AFFINE = np.diag([2, 2, 3, 1.0])


def image(path: Path, seed: int = 0, affine: np.ndarray = T1_AFFINE, side: int = 12) -> Path:
    voxels = np.random.default_rng(seed).integers(1, 200, (side, side + 1, side + 2))
    return save(path, voxels.astype(np.int16), affine)


def mask(path: Path, affine: np.ndarray = T1_AFFINE, side: int = 12, **about: object) -> Path:
    voxels = np.zeros((side, side + 1, side + 2), np.uint8)
    voxels[2:6, 3:6, 4:6] = 1
    voxels[0, zlib.crc32(path.name.encode()) % side, 0] = 1  # no two are the same
    if about:
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        sidecar.write_text(json.dumps(about))
    return save(path, voxels, affine)


def describe(root: Path, name: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": name, "BIDSVersion": "1.6.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(content))


def aphasia(root: Path) -> Path:
    """Four people as in the Aphasia Recovery Cohort; their masks are on the T2w.

    M2001's T1w is of an earlier session; M2002 has two T1w in the session of the mask; M2003 has
    sessions before and after it; M2004 has no mask.
    """
    top = root / "ds004884"
    describe(top, "Aphasia Recovery Cohort (ARC) Dataset")
    (top / "participants.tsv").write_text(
        "participant_id\tsex\tage_at_stroke\twab_aq\twab_type\n"
        "sub-M2001\tF\t38.0\t87.1\tAnomic\nsub-M2002\tM\t50.0\tn/a\tBroca\n"
        "sub-M2003\tM\t61.5\t20.4\tGlobal\n"
    )
    t1s = ("M2001/1076/acq-tfl3_run-4", "M2001/2000/acq-tfl3_run-2", "M2002/747/acq-tfl3p2_run-10",
           "M2002/747/acq-tfl3p2_run-9", "M2003/100/acq-tfl3_run-3", "M2003/300/acq-tflme3p2_run-3",
           "M2004/5/acq-tfl3p2_run-3")  # fmt: skip
    t2s = ("M2001/1253/acq-spc3_run-3", "M2002/747/acq-spc3p2_run-4", "M2003/200/acq-tse3_run-5")
    for seed, (kind, name) in enumerate([*(("T1w", n) for n in t1s), *(("T2w", n) for n in t2s)]):
        person, session, rest = name.split("/")
        place = f"sub-{person}/ses-{session}/anat/sub-{person}_ses-{session}_{rest}_{kind}"
        image(top / f"{place}.nii.gz", seed, T1_AFFINE if kind == "T1w" else T2_AFFINE)
        (top / f"{place}.json").write_text(json.dumps({"MagneticFieldStrength": 3, "Echo": [1, 2]}))
        if kind == "T2w":
            mask(
                top / "derivatives" / "lesion_masks" / f"{place}_desc-lesion_mask.nii.gz",
                T2_AFFINE,
                Type="Lesion",
                SpatialReference=f"bids:raw:{place}.nii.gz",
            )
    return top


def atlas_2_1(root: Path) -> Path:
    """Three people in native space, named as in ATLAS R2.0; one has two sessions."""
    top = root / "ATLAS_R2.1"
    for seed, (site, subject, session) in enumerate(
        [("R001", "r001s001", 1), ("R001", "r001s001", 2), ("R001", "r001s002", 1),
         ("R009", "r009s003", 1)]
    ):  # fmt: skip
        stem = f"sub-{subject}_ses-{session}"
        folder = top / "Training" / site / f"sub-{subject}" / f"ses-{session}" / "anat"
        image(folder / f"{stem}_T1w.nii.gz", seed)
        mask(folder / f"{stem}_label-L_desc-T1lesion_mask.nii.gz")
        describe(top / "Training" / site, "ATLAS")
    return top


def plain(root: Path) -> Path:
    """The least that BIDS asks for: no sessions, uncompressed files, masks beside the images."""
    top = root / "mine"
    for number in (1, 2, 10):
        folder = top / f"sub-{number}" / "anat"
        image(folder / f"sub-{number}_T1w.nii", number)
        mask(folder / f"sub-{number}_desc-lesion_mask.nii")
        image(folder / f"sub-{number}_FLAIR.nii", 90 + number)
        image(folder / f"sub-{number}_desc-brain_mask.nii", 50 + number)
    return top


def empty_clone(top: Path, keep: str = "") -> None:
    """Turn images into what `datalad clone` leaves: links to content that is not there."""
    for number, path in enumerate(sorted(top.rglob("*.nii.gz"))):
        if keep and keep in path.name:
            continue
        path.unlink()
        up = "../" * len(path.relative_to(top).parent.parts)
        path.symlink_to(f"{up}.git/annex/objects/1W/{number}/MD5E-s9--{number}.nii.gz")
