"""Scores on real heads: what is marked where, head by head, and from which files."""

from __future__ import annotations

import hashlib
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from atlaslib import DataError, Predictor, recipe
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import near_brain
from atlaslib.evaluation.heads import COLUMNS, by_head, open_heads, score_heads
from atlaslib.evaluation.pretrained import load_pretrained
from atlaslib.files import shipped
from atlaslib.models.zero import Zero
from atlaslib.runs import ENGINE


def test_a_table_says_what_was_marked_on_which_file(heads_folder):
    chosen = recipe("zero", "smoke")
    networks = {"all": Predictor(Zero(0.9), chosen, "ab12"), "none": Predictor(Zero(0.1), chosen)}
    table = score_heads(networks, heads_folder)
    assert list(table) == COLUMNS
    assert table.network.tolist() == ["all"] * 4 + ["none"] * 4
    part = table[table.network == "all"].set_index(["kind", "head"])
    assert list(part.index) == [("lesion", "anna"), ("lesion", "Site2"), ("healthy", "Site2"),
                                ("healthy", "anna")]  # fmt: skip
    near = to_slices(near_brain()).sum() / 1000
    assert part.predicted_ml.tolist() == pytest.approx([near] * 4)
    assert part.volume_ml.tolist() == pytest.approx([1.853, 1.853, 0, 0])
    assert part.intersection_ml.tolist() == pytest.approx(part.volume_ml.tolist())
    assert part.dice.iloc[0] == pytest.approx(2 * 1.853 / (near + 1.853))
    assert (part.dice.iloc[2:] == 0).all()
    assert set(part.weights) == {"ab12"}
    assert part.loc["lesion", "source"].tolist() == ["a museum", ""]
    assert part.loc[("healthy", "anna"), "licence"] == "CC0"
    for (kind, _), row in part.iterrows():
        (path,) = heads_folder.rglob(row.scan if kind == "healthy" else f"{row.scan}_t1w*")
        assert row.t1_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert len(row.masks_sha256.split()) == (2 if kind == "lesion" else 0)
    nothing = table[table.network == "none"]
    assert nothing.predicted_ml.sum() == 0
    assert nothing.dice.isna().tolist() == [False, False, True, True]
    whole = score_heads({"all": networks["all"]}, heads_folder, brain_only=False)
    assert whole.predicted_ml.min() == pytest.approx(189 * 232 * 196 / 1000)
    assert not whole.brain_only.any()


def test_the_stored_table_is_of_the_network_that_is_shipped():
    table = pd.read_csv(shipped("results") / "heads.csv")
    assert len(table)
    assert list(table) == COLUMNS
    assert set(table.engine) == {ENGINE}
    shipped_ones = table[table.network == "residual_unet"]
    assert set(shipped_ones.weights) == {load_pretrained("residual_unet").digest}
    assert shipped_ones.scan.nunique() == table.scan.nunique()


def test_scores_by_head_counted_by_hand():
    rows = [
        ("a", "lesion", "x", 0.5, 0.0, 0.0, 0.0),
        ("a", "lesion", "x", 1.0, 2.0, 0.6, 0.4),
        ("a", "lesion", "x", 20.0, 20.0, 16.0, 0.8),
        ("a", "healthy", "x", 0.0, 3.5, 0.0, 0.0),
        ("a", "lesion", "y", 0.2, 0.2, 0.1, 0.5),
        ("a", "native", "x", 0.5, 0.5, 0.5, 1.0),
        ("a", "native", "x", 1.1, 2.0, 0.6, 0.3),
        ("a", "native", "x", 20.0, 20.0, 16.0, 0.7),
    ]
    names = ["network", "kind", "head", "volume_ml", "predicted_ml", "intersection_ml", "dice"]
    table = pd.DataFrame(rows, columns=names).assign(scan=["s", "t", "u", "h", "v", "s", "t", "u"])
    x, y = by_head(table).to_dict("records")
    assert x == {"network": "a", "head": "x", "lesions": 3, "large": 2, "found": 2,
                 "dice_large": pytest.approx(0.6), "native_large": pytest.approx(0.5),
                 "dice": pytest.approx(0.4), "false_ml": 3.5}  # fmt: skip
    assert (y["lesions"], y["large"], y["found"], y["dice"]) == (1, 0, 1, 0.5)
    assert np.isnan([y["dice_large"], y["native_large"], y["false_ml"]]).all()


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("site,name\nSite1,anna\n", "expected a table with the columns site, name, source"),
        ("", "expected a table"),
        ("site,name,source,licence\nSite1,a,,\nSite1,b,,\n", "a site or a name is listed twice"),
    ],
)
def test_a_wrong_list_of_heads_is_one_line(listed, says, heads_folder, tmp_path):
    folder = shutil.copytree(heads_folder, tmp_path / "heads")
    (folder / "heads.csv").write_text(listed)
    with pytest.raises(DataError, match=f"heads.csv: {says}") as error:
        open_heads(folder)
    assert "\n" not in str(error.value)


def test_only_images_are_heads_and_the_folder_may_be_below_home(
    heads_folder, tmp_path, monkeypatch
):
    shutil.copytree(heads_folder, tmp_path / "heads")
    for name in ("._anna.nii.gz", ".hidden.nii", "anna.nii.txt", "anna.nii.gz.part"):
        (tmp_path / "heads" / "healthy" / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    cohort, healthy, about = open_heads("~/heads")
    assert (len(cohort), list(about.name)) == (2, ["anna"])
    assert [path.name for path in healthy] == ["Site2.nii", "anna.nii.gz"]


def test_a_healthy_head_off_the_grid_is_one_line(heads_folder, tmp_path):
    folder = shutil.copytree(heads_folder, tmp_path / "heads")
    image = nib.load(folder / "healthy" / "anna.nii.gz")
    nib.save(image.slicer[1:], folder / "healthy" / "anna.nii.gz")
    with pytest.raises(DataError, match="anna.nii.gz: ") as error:
        score_heads({"zero": Predictor(Zero(0.1), recipe("zero", "smoke"))}, folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_scans_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_heads(tmp_path)
