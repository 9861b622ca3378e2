"""Masks on native voxels; registration itself is stood in for by the maps that made the scans."""

from __future__ import annotations

import warnings
from pathlib import Path

import natives
import nibabel as nib
import numpy as np
import pytest
from natives import native
from volumes import head, save

import atlaslib
from atlaslib.data import standardise
from atlaslib.data.registration import Registration
from atlaslib.data.standardise import register_cohort
from atlaslib.data.template import template
from atlaslib.data.volumes import Image
from atlaslib.evaluation import native as module
from atlaslib.evaluation.native import evaluate_native, predict_native
from atlaslib.recipes import recipe

LAS = native(shape=(120, 150, 60), zooms=(1.5, 1.5, 3), las=True)
NETWORK = atlaslib.Predictor(atlaslib.build_model("zero"), recipe("zero", "smoke"))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What registration gives; a test may change the similarity."""
    about = {"similarity": 0.8, "contrast": 0.7}

    def register(image: Image) -> Registration:
        return Registration(natives.USUAL, about["similarity"], about["contrast"], 0.9)

    monkeypatch.setattr(module, "register", register)
    monkeypatch.setattr(standardise, "register", register)
    return about


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows where the lesion is in MNI space."""
    monkeypatch.setattr(module, "_probability", lambda *_: natives.ball())


def test_the_mask_lies_on_the_voxels_of_the_file(found, perfect, tmp_path):
    path = LAS.write(tmp_path / "t1.nii.gz", head())
    prediction = predict_native(NETWORK, path)
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
    monkeypatch.setattr(module, "_probability", lambda *_: np.broadcast_to(slope, (197, 233, 189)))
    fine = native(natives.moved(), (60, 20, 20), (0.25, 1, 1))
    path = fine.write(tmp_path / "t1.nii", head())
    monkeypatch.setattr(module, "register", lambda _: Registration(natives.moved(), 0.8, 0.7, 1.0))
    lesion = predict_native(NETWORK, path).lesion
    first = np.argwhere(lesion)[:, 0].min()
    x = fine.affine[0, 3] + 0.25 * first  # mm of the first voxel in the lesion
    assert x == pytest.approx(94.3 - 98, abs=0.26)


def test_a_failed_registration_gives_no_mask(found, perfect, tmp_path):
    path = LAS.write(tmp_path / "t1.nii.gz", head())
    found["similarity"] = 0.21
    with pytest.raises(
        atlaslib.DataError,
        match=r"t1.nii.gz: registration failed: similarity 0.21, at least 0.50 is needed",
    ):
        predict_native(NETWORK, path)
    found.update(similarity=0.8, contrast=-0.4)
    with pytest.raises(atlaslib.DataError, match="not a T1-weighted image"):
        predict_native(NETWORK, path)


def test_a_scan_in_mni_space_is_not_registered(cohort, tmp_path, monkeypatch):
    """It gives the mask that `predict` gives."""
    monkeypatch.setattr(module, "register", None)
    run = atlaslib.train(recipe("baseline", "smoke", epochs=1), cohort, tmp_path, progress=False)
    t1 = cohort[0].t1
    prediction = predict_native(run, cohort[0], brain_only=False)
    expected = atlaslib.predict(run, t1, brain_only=False)
    assert prediction.registration is None
    np.testing.assert_array_equal(prediction.mask.dataobj, expected.dataobj)
    np.testing.assert_array_equal(prediction.mask.affine, expected.affine)
    assert prediction.volume_ml == pytest.approx(np.asarray(expected.dataobj).sum() / 1000)


def test_a_head_that_is_not_where_its_header_says_is_a_warning(perfect, tmp_path):
    """The template where it belongs; and 30 mm further back, on the same grid."""
    brain = 80 * template()
    save(tmp_path / "good.nii", brain)
    save(tmp_path / "moved.nii", np.roll(brain, -30, axis=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_native(NETWORK, tmp_path / "good.nii")
    with pytest.warns(UserWarning, match=r"moved.nii: said to be in MNI space.*ity 0\."):
        predict_native(NETWORK, tmp_path / "moved.nii")


def raw(folder: Path) -> atlaslib.Cohort:
    """One labelled scan in native space, and one without a mask."""
    for name in ("A", "B"):
        LAS.write(folder / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz", head())
    mask = (LAS.image(natives.ball()) > 0.5).astype(np.uint8)
    save(folder / "sub-A" / "anat" / "sub-A_desc-lesion_mask.nii.gz", mask, LAS.affine)
    return atlaslib.load_cohort(folder)


def test_a_perfect_network_is_perfect_on_native_voxels(found, perfect, tmp_path):
    cohort = raw(tmp_path / "raw")
    register_cohort(cohort, tmp_path / "out", workers=1, progress=False)
    here = evaluate_native(NETWORK, cohort, progress=False)
    found["similarity"] = 0.1  # which does not matter to what is registered already
    stored = evaluate_native(NETWORK, cohort, tmp_path / "out", progress=False)
    for table in (here, stored):
        (row,) = table.to_dict("records")
        assert (row["subject"], row["problem"]) == ("sub-A", "")
        assert row["dice"] > 0.95
        assert row["volume_ml"] == pytest.approx(10 * 0.9 * 0.92 * 0.88, rel=0.05)
    failed = evaluate_native(NETWORK, cohort, progress=False)
    assert failed.dice.isna().all()
    assert "registration failed" in failed.problem[0]
    missing = evaluate_native(NETWORK, cohort, tmp_path / "other", progress=False)
    assert "first: atlaslib register" in missing.problem[0]
