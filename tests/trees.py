"""Miniature releases of ATLAS: a few scans each, as real NIfTI files."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from volumes import AFFINE, box, head, save

NATIVE = np.array([[0, 0, 1.2, -80], [-1, 0, 0, 90], [0, -1, 0, 110], [0, 0, 0, 1.0]])  # "PIR"
MNI = "_space-MNI152NLin2009aSym"


@cache
def _bytes(part: str, seed: int) -> bytes:
    """A compressed file in MNI space; the same arguments give the same bytes."""
    made = np.rint(head(seed)).astype(np.uint8) if part == "t1" else box((60 + seed, 100, 80), 9)
    return gzip.compress(nib.Nifti1Image(made, AFFINE).to_bytes(), 1, mtime=0)


def write(path: Path, part: str, seed: int = 0) -> Path:
    """Write a T1 or a mask, compressed if its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _bytes(part, seed)
    path.write_bytes(content if path.name.endswith(".gz") else gzip.decompress(content))
    return path


def write_native(folder: Path, stem: str, mask: str) -> None:
    """Write a small scan and mask in native space, with another shape and orientation."""
    voxels = np.arange(40 * 50 * 60, dtype=np.int32).reshape(40, 50, 60)
    save(folder / f"{stem}.nii.gz", voxels, NATIVE)
    save(folder / f"{mask}.nii.gz", (voxels > 119_000).astype(np.uint8), NATIVE)


def release_1_1(root: Path, end: str = ".nii.gz") -> Path:
    """Three subjects at two sites, one with a second session and a second lesion."""
    top = root / "ATLAS_R1.1"
    people = [("Site2", "031844", "t01"), ("Site8", "000123", "t01"), ("Site8", "000123", "t02")]
    for seed, (site, subject, session) in enumerate([*people, ("Site8", "090012", "t01")]):
        folder = top / site / subject / session
        write(folder / f"{subject}_t1w_deface_stx{end}", "t1", seed)
        write(folder / f"{subject}_LesionSmooth_stx{end}", "mask", seed)
    write(top / "Site2/031844/t01" / f"031844_LesionSmooth_1_stx{end}", "mask", 9)
    (top / "ATLAS_Meta-Data_Release_1.1_standard_mni.csv").write_text(
        "INDI Site ID,INDI Subject ID,Session,Stroke type\n"
        "2,31844, t01,Embolic\n8,123, t01,Lacunar\n8,123, t02,Later\n"
    )
    return top


def release_1_2(root: Path, end: str = ".nii.gz") -> Path:
    """Three subjects in two parts, one of them also in native space."""
    top = root / "ATLAS_R1.2"
    for seed, (part, name) in enumerate(
        [("1", "c0003s0002t01"), ("1", "c0003s0002t02"), ("2", "c0003s0004t01"),
         ("2", "c0010s0001t01")]
    ):  # fmt: skip
        folder = top / f"standard_part{part}" / name[:5] / name
        write(folder / f"{name}_t1w_stx{end}", "t1", seed)
        write(folder / f"{name}_LesionSmooth_stx{end}", "mask", seed)
    folder = top / "native" / "c0003" / "c0003s0002t01"
    write_native(folder, "c0003s0002t01_t1w", "c0003s0002t01_LesionSmooth")
    return top


def release_2_0(root: Path, end: str = ".nii.gz") -> Path:
    """Three training scans at two sites, and a test scan without a mask."""
    top = root / "ATLAS_2"
    people = [("R001", "sub-r001s001", 1), ("R001", "sub-r001s002", 1), ("R009", "sub-r009s003", 1)]
    for seed, (site, subject, number) in enumerate(people):
        folder = top / "Training" / site / subject / f"ses-{number}" / "anat"
        stem = f"{subject}_ses-{number}{MNI}"
        write(folder / f"{stem}_T1w{end}", "t1", seed)
        write(folder / f"{stem}_label-L_desc-T1lesion_mask{end}", "mask", seed)
        (top / "Training" / site / "dataset_description.json").write_text("{}")
    folder = top / "Testing" / "R003" / "sub-r003s001" / "ses-1" / "anat"
    write(folder / f"sub-r003s001_ses-1{MNI}_T1w{end}", "t1", 7)
    return top


def workbook(path: Path, columns: dict[str, list[object]]) -> None:
    import pandas as pd

    pd.DataFrame(columns).to_excel(path, index=False)
