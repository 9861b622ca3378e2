"""An infarct in a head that is shaped like the template."""

from __future__ import annotations

import numpy as np

from atlaslib.synthetic import anatomy
from atlaslib.synthetic.infarcts import Infarct

NO_WARP = np.zeros((3, *anatomy.NODES), np.float32)


def striatal(volume: int = 3_000, solid: bool = True) -> Infarct:
    """A round infarct in the right basal ganglia."""
    return Infarct(volume, "subcortical", 1, (125.0, 136.0, 80.0), (1.0, 1.0, 1.0), 0.9, solid)
