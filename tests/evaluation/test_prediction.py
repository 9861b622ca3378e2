"""Masks in any space; registration itself is stood in for by the maps that made the scans."""

from __future__ import annotations

import re

import natives
import nibabel as nib
import numpy as np
import pytest
from natives import native
from threshold import threshold
from volumes import head, save

import atlaslib
from atlaslib.data.registration import Registration
from atlaslib.data.slices import to_slices
from atlaslib.data.template import template
from atlaslib.data.volumes import read_t1
from atlaslib.evaluation import prediction as module
from atlaslib.evaluation.inference import load_members, probabilities
from atlaslib.evaluation.prediction import doubts, segment
from atlaslib.profiles import recipe

LAS = native(shape=(120, 150, 60), zooms=(1.5, 1.5, 3), las=True)
NETWORK = atlaslib.Predictor(atlaslib.build_model("zero"), recipe("zero", "smoke"))


def segmented(run, path):
    return segment(load_members(run), read_t1(path, "native"))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What registration gives; a test may change the similarity."""
    return natives.stand_in(monkeypatch, module)


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows where the lesion is in MNI space."""
    monkeypatch.setattr(module, "volume_probability", lambda *_: natives.ball())


def test_the_mask_lies_on_the_voxels_of_the_file(found, perfect, tmp_path):
    path = LAS.write(tmp_path / "t1.nii.gz", head())
    prediction = segmented(NETWORK, path)
    assert prediction.registration.similarity == 0.8
    mask, t1 = prediction.mask, nib.load(path)
    assert mask.shape == t1.shape
    np.testing.assert_allclose(mask.affine, t1.affine)
    assert mask.get_data_dtype() == np.uint8
    truth = LAS.image(natives.ball()) > 0.5  # in the order of the file
    marked = np.asarray(mask.dataobj) > 0
    assert 2 * (marked & truth).sum() / (marked.sum() + truth.sum()) >= 0.9
    assert prediction.volume_ml == pytest.approx(marked.sum() * 1.5 * 1.5 * 3 / 1000)
    # 10 mL in MNI space; the head is smaller than the template
    assert prediction.volume_ml == pytest.approx(10 * 0.9 * 0.92 * 0.88, rel=0.05)


def test_probabilities_are_interpolated_not_the_mask(found, tmp_path, monkeypatch):
    """A slope from 0 to 1 is cut off where it is one half, finer than a voxel of the MNI grid."""
    slope = np.clip((np.arange(197, dtype=np.float32) - 94.3) / 8 + 0.5, 0, 1)[:, None, None]
    monkeypatch.setattr(
        module, "volume_probability", lambda *_: np.broadcast_to(slope, (197, 233, 189))
    )
    fine = native(natives.moved(), (60, 20, 20), (0.25, 1, 1))
    path = fine.write(tmp_path / "t1.nii", head())
    monkeypatch.setattr(module, "register", lambda _: Registration(natives.moved(), 0.8, 0.7, 1.0))
    lesion = segmented(NETWORK, path).lesion
    first = np.argwhere(lesion)[:, 0].min()
    x = fine.affine[0, 3] + 0.25 * first  # mm of the first voxel in the lesion
    assert x == pytest.approx(94.3 - 98, abs=0.26)


def test_a_failed_registration_gives_no_mask(found, perfect, tmp_path):
    path = LAS.write(tmp_path / "t1.nii.gz", head())
    found["similarity"] = 0.21
    with pytest.raises(
        atlaslib.DataError,
        match=r"t1.nii.gz: registration failed: similarity 0.21, at least 0.45 is needed",
    ):
        segmented(NETWORK, path)
    found.update(similarity=0.8, contrast=-0.4)
    with pytest.raises(atlaslib.DataError, match="not a T1-weighted image"):
        segmented(NETWORK, path)


def test_a_scan_in_mni_space_is_not_registered(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "register", None)
    prediction = segmented(threshold(), cohort[0].t1)
    assert prediction.registration is None
    expected = probabilities(threshold(), cohort[0]) > 0.5
    assert expected.any()
    np.testing.assert_array_equal(to_slices(prediction.lesion), expected)
    assert prediction.volume_ml == pytest.approx(prediction.lesion.sum() / 1000)


def test_predict_takes_a_t1_in_native_space(found, perfect, tmp_path):
    path = LAS.write(tmp_path / "t1.nii.gz", head())
    mask = atlaslib.predict(NETWORK, path)
    assert mask.shape == nib.load(path).shape
    assert np.asarray(mask.dataobj).any()


def test_a_head_that_is_not_where_its_header_says_is_doubtful(tmp_path):
    """The template where it belongs; and 30 mm further back, on the same grid."""
    brain = 80 * template()
    good = read_t1(save(tmp_path / "good.nii", brain), "native")
    moved = read_t1(save(tmp_path / "moved.nii", np.roll(brain, -30, axis=1)), "native")
    assert doubts(good) == []
    assert re.search(r"moved.nii: said to be in MNI space.*ity 0\.", doubts(moved)[0])
