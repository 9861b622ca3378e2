"""The file ``atlaslib/data/brain.npz``: the brain of nilearn's MNI152 template, and 4 mm around it.

python tests/brain.py    # write it again
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import atlaslib

STORED = Path(atlaslib.__file__).parent / "data" / "brain.npz"
MARGIN = 4  # mm


def made() -> dict[str, NDArray[np.bool_]]:
    """The masks from their source, each (197, 233, 189)."""
    from nilearn.datasets import load_mni152_brain_mask

    brain = np.asarray(load_mni152_brain_mask(resolution=1).dataobj) > 0
    return {"brain": brain, "near": ndimage.distance_transform_edt(~brain) <= MARGIN}


if __name__ == "__main__":
    # one bit per voxel, x varying fastest
    bits = {name: np.packbits(mask.ravel(order="F")) for name, mask in made().items()}
    np.savez_compressed(STORED, **bits)
