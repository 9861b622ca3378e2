"""Where lesions can be: the template's brain, from the library's own copy."""

from __future__ import annotations

import brain
import numpy as np
import process

from atlaslib import recipe, train
from atlaslib.data.volumes import brain_mask, near_brain
from atlaslib.synthetic.cohort import fit_lesions
from atlaslib.synthetic.people import draw_people


def test_the_copy_is_nilearns_template():
    made = brain.made()
    np.testing.assert_array_equal(brain_mask(), made["brain"])
    np.testing.assert_array_equal(near_brain(), made["near"])
    for mask in (brain_mask(), near_brain()):
        assert mask.dtype == bool
        assert mask.flags.f_contiguous  # as the voxels of a file


def test_the_lesions_of_synthetic_people_lie_within():
    inside = total = 0
    for person in draw_people(12, seed=2):
        for _, lesion in fit_lesions(person, "t01")[1]:
            inside += (near_brain()[lesion.box] & lesion.mask).sum()
            total += lesion.mask.sum()
    assert inside >= 0.999 * total


def test_reading_and_segmenting_a_scan_does_not_wait_for_nilearn(cohort, tmp_path):
    run = train(recipe("zero", "smoke"), cohort, tmp_path / "run", progress=False)
    assert not process.outcome(process.needs_nilearn, cohort.root, run.folder)
