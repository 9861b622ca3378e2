"""A tiny folder of heads, in the form of :mod:`atlaslib.evaluation.heads`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from volumes import head, save, write_scan


def write_heads(folder: Path) -> Path:
    """Two heads with one lesion in two pieces each, without lesion, too; only one is listed.

    Of the healthy heads, one file is compressed.
    """
    for site in (1, 2):
        write_scan(folder / "standard" / "ATLAS_R1.1", f"05100{site}", site, f"Site{site}")
    for name, seed in (("anna.nii.gz", 1), ("Site2.nii", 2)):
        save(folder / "healthy" / name, np.rint(head(seed)).astype(np.uint8))
    listed = "site,name,source,licence\nSite1,anna,a museum,CC0\n"
    (folder / "heads.csv").write_text(listed)
    return folder
