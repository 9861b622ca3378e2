"""Scores on native voxels; registration is stood in for by the maps that made the scans."""

from __future__ import annotations

from pathlib import Path

import natives
import numpy as np
import pytest
from natives import native
from volumes import head, save

import atlaslib
from atlaslib.data import standardise
from atlaslib.data.standardise import register_cohort
from atlaslib.evaluation import native as module
from atlaslib.evaluation.native import evaluate_native
from atlaslib.profiles import recipe

LAS = native(shape=(120, 150, 60), zooms=(1.5, 1.5, 3), las=True)
NETWORK = atlaslib.Predictor(atlaslib.build_model("zero"), recipe("zero", "smoke"))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What registration gives; a test may change the similarity."""
    return natives.stand_in(monkeypatch, standardise)


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows where the lesion is in MNI space."""
    monkeypatch.setattr(module, "volume_probability", lambda *_: natives.ball())


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
    here = atlaslib.evaluate(NETWORK, cohort, progress=False, space="native")
    with pytest.raises(ValueError, match="only Dice and volumes"):
        atlaslib.evaluate(NETWORK, cohort, space="native", metrics=["hd95"])
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


def test_a_mask_on_other_voxels_than_its_image_has_no_score(found, perfect, tmp_path):
    cohort = raw(tmp_path / "raw")
    register_cohort(cohort, tmp_path / "out", workers=1, progress=False)
    save(cohort.labelled[0].masks[0], np.ones((9, 9, 9), np.uint8), LAS.affine)
    table = evaluate_native(NETWORK, cohort, progress=False)
    assert table.dice.isna().all()
    assert "9 x 9 x 9 voxels, expected 120 x 150 x 60" in table.problem[0]
