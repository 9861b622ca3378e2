"""What imitates a lesion is dark, and is none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from atlaslib.synthetic.cohort import make_scan
from atlaslib.synthetic.imitators import find_imitators
from atlaslib.synthetic.people import draw_people


@pytest.fixture(scope="module")
def person():
    (first,) = draw_people(1, 8)
    return dataclasses.replace(first, removed="nothing", atrophy=0.9, small_vessel=0.9)


def test_an_imitator_is_dark_and_no_lesion(person):
    scan = make_scan(person, "t01")
    brain = scan.t1[60:140, 60:190, 60:130]
    for kind, (x, y, z) in find_imitators(person).items():
        around = scan.t1[x - 3 : x + 4, y - 3 : y + 4, z - 1 : z + 2]
        assert around.min() < np.median(brain), kind
        assert not scan.exact[x, y, z], kind
        assert (x - 98) * person.lesions[0].side < 0, kind
