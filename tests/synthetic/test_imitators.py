"""What imitates a lesion is dark, and is none."""

from __future__ import annotations

import dataclasses

from atlaslib.data.volumes import brain_mask
from atlaslib.synthetic.cohort import make_scan
from atlaslib.synthetic.imitators import find_imitators
from atlaslib.synthetic.people import draw_people


def test_an_imitator_is_dark_and_no_lesion():
    (first,) = draw_people(1, 8)
    person = dataclasses.replace(first, atrophy=0.9, small_vessel=0.9, removed="nothing")
    healthy = dataclasses.replace(person, small_vessel=0)
    scan, other = (make_scan(who, "t01") for who in (person, healthy))
    usual = scan.t1[brain_mask()].mean()
    found = find_imitators(person)
    assert len(found) == 4
    for kind, (x, y, z) in found.items():
        around = (slice(x - 3, x + 4), slice(y - 3, y + 4), slice(z - 2, z + 3))
        if kind in ("ventricle", "widened sulcus"):
            assert scan.t1[around].min() < usual / 2, kind
        else:  # the same place is brighter in the same head with healthy vessels
            change = other.t1[around].astype(int) - scan.t1[around]
            assert change.max() > 8, kind
        assert not scan.exact[x, y, z], kind
        assert (x - 98) * person.lesions[0].side < 0, kind
