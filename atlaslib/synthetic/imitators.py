"""Where a synthetic person has what imitates a lesion: dark on T1, and no infarct."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from atlaslib.synthetic import anatomy, head
from atlaslib.synthetic.cohort import session_plan
from atlaslib.synthetic.people import Person
from atlaslib.synthetic.scanner import SCANNERS

Voxel = tuple[int, int, int]


def find_imitators(person: Person, session: str = "t01") -> dict[str, Voxel]:
    """The most conspicuous place of each kind, in the hemisphere without the first lesion.

    A kind's darkness is the difference between the head as it is and the same head without it.

    Parameters
    ----------
    person : Person
    session : str

    Returns
    -------
    dict from a kind to its voxel (x, y, z) in the scan
        The ventricle, a sulcus that atrophy has widened, white-matter hyperintensities and
        perivascular spaces.
    """
    x, y, z = anatomy.mni_coordinates()
    region = anatomy.template().region
    without = _head(person, person.atrophy, 0)
    vessels = np.clip(without - _head(person, person.atrophy, person.small_vessel), 0, None)
    atrophy = np.clip(_head(person, 0, 0) - without, 0, None)
    ganglia = (np.abs(x) < 33) & (y > -12) & (y < 18) & (z > -12) & (z < 14)
    darkness = {
        "ventricle": (region == anatomy.VENTRICLE, 5.0),
        "widened sulcus": (atrophy * (region == anatomy.CORTEX) * (z > 25), 1.5),
        "white-matter hyperintensity": (vessels * (region == anatomy.WHITE) * ~ganglia, 3.0),
        "perivascular spaces": (vessels * ganglia, 2.0),
    }
    other_side = np.sign(x) == -person.lesions[0].side
    field, _ = session_plan(person, session)
    places: dict[str, Voxel] = {}
    for kind, (dark, spread) in darkness.items():
        smooth = ndimage.gaussian_filter((dark * other_side).astype(np.float32), spread)
        i, j, k = np.unravel_index(int(smooth.argmax()), smooth.shape)
        found = anatomy.centre_in_subject(field, (float(i), float(j), float(k)))
        x_found, y_found, z_found = (round(float(place)) for place in found)
        places[kind] = (x_found, y_found, z_found)
    return places


def _head(person: Person, atrophy: float, small_vessel: float) -> NDArray[np.float32]:
    """The person's healthy head in the template's space, with other atrophy or vessels."""
    own = person.stream(2)
    tissue = head.Tissue.draw(own, SCANNERS[person.site - 1])
    return head.healthy_head(own, tissue, atrophy, small_vessel)
