"""A lab's study from the command line, on a toy tree of release 2.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from volumes import box, head, save

from atlaslib.__main__ import main


def write_subject(root: Path, part: str, number: int) -> None:
    """A subject of release 2.0; without a mask in the test set."""
    name = f"sub-r00{number % 2 + 1}s00{number}"
    stem = f"{name}_ses-1_space-MNI152NLin2009aSym"
    folder = root / part / f"R00{number % 2 + 1}" / name / "ses-1" / "anat"
    lesion = box((60 + number, 100, 80), 14)
    t1 = np.where(lesion > 0, 20, head(number))
    save(folder / f"{stem}_T1w.nii.gz", t1.astype(np.uint8))
    if part == "Training":
        save(folder / f"{stem}_label-L_desc-T1lesion_mask.nii.gz", lesion)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab") / "ATLAS_2"
    for number in range(1, 7):
        write_subject(root, "Training", number)
    for number in range(7, 9):
        write_subject(root, "Testing", number)
    return root


def test_folds_ensemble_masks_of_a_folder_and_their_scores(tree, tmp_path, capsys):
    """Every number of the last table follows from the masks that the ensemble wrote."""
    study, masks = tmp_path / "study", tmp_path / "masks"
    small = ["--set", "width=2", "--set", "epochs=1"]
    call = ["crossval", "baseline", "--profile", "smoke", "--data", str(tree), "--folds", "2"]
    assert main([*call, "--out", str(study), *small]) == 0
    assert "6 scans of 6 subjects in 2 folds (ATLAS R2.0): Dice" in capsys.readouterr().out
    tested = pd.read_csv(study / "scores.csv")
    assert sorted(tested.subject) == sorted(f"sub-r00{n % 2 + 1}s00{n}" for n in range(1, 7))

    runs = [str(study / f"fold-{fold}") for fold in (1, 2)]
    assert main(["predict", *runs, str(tree), "--out", str(masks)]) == 0
    volumes = pd.read_csv(masks / "volumes.csv")
    assert len(volumes) == 8  # the hidden subjects too
    assert "8 of 8 scans have masks" in capsys.readouterr().out

    assert main(["score", str(masks), "--data", str(tree), "--csv", str(tmp_path / "s.csv")]) == 0
    scores = pd.read_csv(tmp_path / "s.csv").set_index("subject")
    assert len(scores) == 6
    predicted = volumes.set_index(volumes["mask"].str.extract("(sub-r00.s00.)")[0]).predicted_ml
    np.testing.assert_allclose(scores.predicted_ml, predicted[scores.index], atol=5e-4)
    np.testing.assert_allclose(scores.volume_ml, 14**3 / 1000)
