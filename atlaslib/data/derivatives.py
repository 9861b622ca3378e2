"""Writing images as derivatives of BIDS: their places and names, and the JSON files beside them."""

from __future__ import annotations

import gzip
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib

from atlaslib.data.bids import DESCRIPTION, title
from atlaslib.data.cohort import Scan
from atlaslib.files import DataError, atomic_write, write_json

MNI_SPACE = "MNI152NLin2009aSym"  # as ATLAS R2.0 calls its grid


def derivative_path(out: Path, scan: Scan, name: str) -> Path:
    """Where a derivative of a scan's T1 is written.

    Parameters
    ----------
    out : Path
        The folder of the derivatives.
    scan : Scan
        Of any release. What its T1 is called is kept, if that is a name of BIDS; letters that BIDS
        does not allow in names of subjects and sessions are left out.
    name : str
        The file's own part, such as ``"space-T1w_desc-lesion_mask"``.

    Returns
    -------
    Path
        ``OUT/sub-*/[ses-*/]anat/sub-*_[ses-*_][...]NAME.nii.gz``
    """
    subject = "sub-" + _label(scan.subject.removeprefix("sub-"))
    session = _label(scan.session.removeprefix("ses-"))
    parts = [subject, *([f"ses-{session}"] if session else [])]
    named = "_".join(parts)
    found = re.fullmatch(rf"{named}_((?:(?!space-|desc-)[a-z]+-[a-zA-Z0-9]+_)*)T1w\.nii(?:\.gz)?",
                         scan.t1.name)  # fmt: skip
    more = found[1] if found else ""
    return Path(out, *parts, "anat", f"{named}_{more}{name}.nii.gz")


def _label(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]", "", text)


def write_derivative(path: Path, image: nib.Nifti1Image, about: dict[str, Any]) -> None:
    """Write an image, and ``about`` as JSON beside it; what is there is replaced."""
    content = gzip.compress(image.to_bytes(), 6, mtime=0)
    atomic_write(path, lambda name: Path(name).write_bytes(content))
    write_json(sidecar_path(path), about)  # last, so that it tells that the image is complete


def sidecar_path(path: Path) -> Path:
    """The JSON file of a ``.nii.gz``."""
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def describe(out: Path, name: str) -> None:
    """Write ``dataset_description.json`` in a folder of derivatives.

    Raises
    ------
    DataError
        If there is one of another name: two datasets in one folder could not be told apart.
    """
    if (out / DESCRIPTION).exists():
        if (other := title(out)) != " ".join(name.split()):
            text = f'holds the dataset "{other}"; write to another folder'
            raise DataError(f"{out}: {text}", "another dataset")
    else:
        made = {"Name": "atlaslib", "Version": version("atlaslib")}
        content = {"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
        write_json(out / DESCRIPTION, {**content, "GeneratedBy": [made]})
