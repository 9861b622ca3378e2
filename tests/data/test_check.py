"""Every fault of a data folder: `check_folder` lists it, and the library raises the same text."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import trees
from volumes import AFFINE, box, head, save

import atlaslib
from atlaslib.__main__ import main
from atlaslib.data.check import check_folder
from atlaslib.data.volumes import GRID

T1 = "031844_t1w_deface_stx.nii.gz"
MASK = "031844_LesionSmooth_stx.nii.gz"


def moved(x: float, scale: float = 1.0) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0] = [scale, 0, 0, x]
    return affine


def tilted() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    return affine


def with_one(value: float) -> np.ndarray:
    volume = head()
    volume[90, 100, 80] = value
    return volume


def in_air() -> np.ndarray:
    return box((2, 2, 2), 6)


ONES = np.ones(GRID, np.uint8)
LESION = box((60, 100, 80), 9)

# name: which file is damaged, and how; the kind of fault, whether it blocks training, its message
DAMAGE = {
    "not an image": (T1, lambda p: p.write_bytes(b"text"), "unreadable", True, "not a readable"),
    "gzipped text": (T1, lambda p: p.write_bytes(gzip.compress(b"text")), "unreadable", True,
                     "not a readable NIfTI image"),
    "empty file": (T1, lambda p: p.write_bytes(b""), "unreadable", True, "not a readable NIfTI"),
    "cut short": (T1, lambda p: p.write_bytes(p.read_bytes()[:9000]), "unreadable", True,
                  "damaged or cut short"),
    "flipped bits": (T1, lambda p: p.write_bytes(p.read_bytes()[:-8] + b"12345678"), "unreadable",
                     True, "damaged or cut short"),
    "cut mask": (MASK, lambda p: p.write_bytes(p.read_bytes()[:900]), "unreadable", True,
                 "damaged or cut short"),
    "shape": (T1, lambda p: save(p, np.ones((20, 21, 22), np.uint8)), "shape", True,
              "expected 197 x 233 x 189 voxels of 1 mm (MNI space), found 20 x 21 x 22"),
    "voxel size": (T1, lambda p: save(p, ONES, moved(-98, 2)), "affine", True,
                   "expected voxels of 1 mm along the axes (MNI space), found 2 x 1 x 1 mm"),
    "tilted": (T1, lambda p: save(p, ONES, tilted()), "affine", True, "tilted by 16.3 degrees"),
    "4-D": (T1, lambda p: save(p, np.ones((*GRID, 2), np.uint8)), "4-D", True,
            "expected 3 dimensions, found 197 x 233 x 189 x 2 voxels"),
    "4-D mask": (MASK, lambda p: save(p, np.stack([LESION] * 2, 3)), "4-D", True, "x 189 x 2"),
    "NaN": (T1, lambda p: save(p, with_one(np.nan)), "not finite", True, "1 voxels are NaN or inf"),
    "infinite": (T1, lambda p: save(p, with_one(np.inf)), "not finite", True, "1 voxels are NaN"),
    "constant": (T1, lambda p: save(p, 7 * ONES), "constant", True, "all voxels are 7"),
    "empty brain": (T1, lambda p: save(p, in_air()), "constant", True, "nothing to scale"),
    "negative mask": (MASK, lambda p: save(p, -LESION.astype(np.int16)), "mask values", True,
                      "expected mask values from 0 to 255, found -1 to 0"),
    "large mask": (MASK, lambda p: save(p, LESION * np.float32(1e4)), "mask values", True,
                   "found 0 to 10000"),
    "NaN mask": (MASK, lambda p: save(p, LESION * np.float32(np.nan)), "not finite", True, "NaN"),
    "shifted mask": (MASK, lambda p: save(p, LESION, moved(-90)), "geometry", True,
                     "not aligned with 031844_t1w_deface_stx.nii.gz: first voxel at "
                     "-90 -134 -72 mm, expected -98 -134 -72 mm"),
    "shifted T1": (T1, lambda p: save(p, head(), moved(-90)), "geometry", True, "not aligned"),
    "empty mask": (MASK, lambda p: save(p, 0 * LESION), "empty mask", False, "an empty mask"),
    "two labels": (MASK, lambda p: save(p, LESION + box((62, 102, 82), 3)), "mask values", False,
                   "expected 1 for lesion, found 1, 2; all count as lesion"),
    "mask in air": (MASK, lambda p: save(p, in_air()), "outside the brain", False,
                    "100% of the mask lies outside the brain"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.release_1_1(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of the good folder that a test may damage."""
    return Path(shutil.copytree(good, tmp_path / "ATLAS_R1.1"))


def kinds(root: Path) -> list[str]:
    return list(check_folder(root, progress=False)[1].kind)


def test_a_good_folder_has_no_fault(good, capsys):
    assert main(["check", str(good)]) == 0
    out = capsys.readouterr().out
    assert out == "R1.1: 4 scans of 3 subjects, 0 faults, 0 of which block training\n"


@pytest.mark.parametrize("name", DAMAGE)
def test_check_and_the_library_report_the_same_fault(name, folder, capsys):
    which, damage, kind, blocks, says = DAMAGE[name]
    path = folder / "Site2" / "031844" / "t01" / which
    damage(path)
    assert main(["check", str(folder), "--json"]) == int(blocks)
    table = pd.DataFrame(json.loads(capsys.readouterr().out)["faults"])
    found = table[(table.kind == kind) & table.message.str.contains(says, regex=False)]
    assert len(found)
    assert (found.blocks == blocks).all()
    line = found.message.iloc[0]
    assert "031844" in line
    assert "\n" not in line
    assert set(table.kind) <= {kind, "origin", "geometry"}  # a moved T1 no longer matches its masks
    cohort = atlaslib.load_cohort(folder)
    if blocks:
        with pytest.raises(atlaslib.DataError) as error:
            atlaslib.SliceDataset(cohort[:1], progress=False)
        assert str(error.value) in list(table.message)
    else:
        assert len(atlaslib.SliceDataset(cohort[:1], progress=False)) == 189


def test_a_smoothed_mask_is_no_fault(folder):
    path = folder / "Site2" / "031844" / "t01" / MASK
    save(path, LESION * np.linspace(0, 1, GRID[0], dtype=np.float32)[:, None, None])
    assert kinds(folder) == []


def test_an_unusual_origin_is_a_warning(folder):
    session = folder / "Site8" / "090012" / "t01"
    for path in session.iterdir():
        save(path, np.asarray(nib.load(path).dataobj), moved(-90))
    _, table = check_folder(folder, progress=False)
    assert list(table.kind) == ["origin"]
    assert "-98 -134 -72 mm (MNI152), found -90 -134 -72" in table.message[0]
    assert not table.blocks[0]


def test_a_header_without_orientation_is_a_warning(folder):
    for path in (folder / "Site8" / "090012" / "t01").iterdir():
        image = nib.load(path)
        image.header.set_sform(None, 0)
        image.header.set_qform(None, 0)
        bare = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        path.write_bytes(gzip.compress(bare.to_bytes(), 1))
    _, table = check_folder(folder, progress=False)
    assert list(table.kind) == ["orientation", "origin"]
    assert "may mirror the head" in table.message[0]
    assert not table.blocks.any()


def test_the_same_voxels_under_two_names(folder):
    """Compressed differently, so that the bytes of the files differ."""
    session = folder / "Site8" / "090012" / "t01"
    other = folder / "Site2" / "031844" / "t01" / T1
    save(session / "090012_t1w_deface_stx.nii.gz", np.asarray(nib.load(other).dataobj))
    _, table = check_folder(folder, progress=False)
    assert list(table.kind) == ["same voxels"]
    assert str(other) in table.message[0]
    assert "090012" in table.message[0]


def test_the_same_image_in_another_type_or_the_same_mask_twice(folder):
    session = folder / "Site8" / "090012" / "t01"
    other = folder / "Site2" / "031844" / "t01"
    voxels = np.asarray(nib.load(other / T1).dataobj)
    save(session / "090012_t1w_deface_stx.nii.gz", voxels.astype(np.float32))
    shutil.copy(other / MASK, other / "031844_LesionSmooth_2_stx.nii.gz")
    assert kinds(folder) == ["same voxels", "same voxels"]


@pytest.mark.parametrize("mask", [7 * LESION, LESION.astype(np.float32) + ONES * (LESION > 0)])
def test_unexpected_lesion_values_are_a_warning(mask, folder):
    save(folder / "Site2" / "031844" / "t01" / MASK, mask)
    _, table = check_folder(folder, progress=False)
    assert list(table.kind) == ["mask values"]
    assert not table.blocks.any()


def test_an_unreadable_file(folder, unreadable, capsys):
    path = folder / "Site2" / "031844" / "t01" / T1
    with unreadable(path):
        assert kinds(folder) == ["permission"]
        assert main(["check", str(folder)]) == 1
        with pytest.raises(atlaslib.DataError, match=f"{T1}: permission denied"):
            atlaslib.load_cohort(folder).fingerprint()


def test_a_broken_link(folder):
    path = folder / "Site2" / "031844" / "t01" / MASK
    path.unlink()
    path.symlink_to(folder / "gone.nii.gz")
    assert kinds(folder) == ["missing"]


def test_too_few_subjects_and_native_space_block_training(tmp_path, folder):
    assert kinds(folder / "Site2") == ["too few"]
    native = trees.release_1_2(tmp_path / "r12") / "native"
    assert sorted(kinds(native)) == ["native space", "too few"]


def test_everything_is_found_in_one_pass(folder, capsys):
    session = folder / "Site2" / "031844" / "t01"
    (session / T1).write_bytes(b"text")
    save(session / MASK, 0 * LESION)
    (folder / "Site8" / "000123" / "t02" / "000123_LesionSmooth_stx.nii.gz").unlink()
    assert main(["check", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [fault["kind"] for fault in report["faults"]] == ["no mask", "unreadable", "empty mask"]
    assert [fault["blocks"] for fault in report["faults"]] == [True, True, False]
    assert (report["release"], report["scans"], report["subjects"]) == ("R1.1", 4, 3)


def test_nothing_to_check_is_one_line(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 1
    assert "no ATLAS scans here" in capsys.readouterr().err


def complex_voxels(path: Path) -> None:
    nib.save(nib.Nifti1Image(head().astype(np.complex64), AFFINE), path)


def no_axes(path: Path) -> None:
    image = nib.Nifti1Image(head(), AFFINE)
    image.set_sform(np.zeros((4, 4)), code=2)
    nib.save(image, path)


def absurd_size(path: Path) -> None:
    """A header that claims more voxels than fit in memory, in a file of the usual length."""
    content = bytearray(nib.Nifti1Image(head(), AFFINE).to_bytes())
    content[40:56] = np.array([3, *[32767] * 3, *[1] * 4], "<i2").tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (complex_voxels, "expected real numbers, found voxels of type complex64"),
        (no_axes, "the header's affine is singular or not finite"),
        (absurd_size, "damaged or cut short"),
    ],
)
def test_a_header_that_breaks_the_reader_is_a_fault(damage, says, folder, capsys):
    path = folder / "Site2" / "031844" / "t01" / T1
    damage(path)
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if f"{path}: {says}" in line]
    assert "4 scans of 3 subjects, 1 faults" in printed
    with pytest.raises(atlaslib.DataError, match=re.escape(f"{path}: {says}")):
        atlaslib.SliceDataset(atlaslib.load_cohort(folder), progress=False)


@pytest.mark.parametrize("left", [None, "031844"])
def test_too_few_subjects_with_a_lesion_block_training(left, folder):
    for path in folder.glob("*/*/*/*LesionSmooth*"):
        if left is None or not path.name.startswith(left):
            save(path, 0 * LESION)
    _, table = check_folder(folder, progress=False)
    assert table.kind[0] == "empty masks"
    assert table.blocks[0]
    assert f"{0 if left is None else 1} subjects have a marked lesion" in table.message[0]


def test_training_without_a_lesion_is_one_line(folder, tmp_path):
    """A split may put the only lesion into the test set."""
    for path in folder.glob("*/*/*/*LesionSmooth*"):
        save(path, 0 * LESION)
    with pytest.raises(atlaslib.DataError, match="no training slice contains a lesion"):
        atlaslib.train(atlaslib.recipe("baseline", "smoke"), atlaslib.load_cohort(folder),
                       out=tmp_path / "run", progress=False)  # fmt: skip


def test_a_mask_of_the_whole_brain_is_a_warning(folder):
    path = next(folder.glob("Site2/*/*/*LesionSmooth*"))
    noise = np.full(GRID, 1e-9, np.float32)  # left by smoothing: all counts as lesion
    save(path, noise)
    _, table = check_folder(folder, progress=False)
    assert (table.kind == "large mask").sum() == 1
    assert not table.blocks.any()


def test_a_trailing_axis_of_length_one_is_accepted(folder):
    path = folder / "Site2" / "031844" / "t01" / T1
    save(path, np.asarray(nib.load(path).dataobj)[..., None])
    assert check_folder(folder, progress=False)[1].empty


def test_voxels_that_start_within_the_header_are_a_fault(folder):
    path = folder / "Site2" / "031844" / "t01" / T1
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[108:112] = bytes(4)  # the offset of the voxels
    path.write_bytes(content)
    assert kinds(folder) == ["unreadable"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no workbook", "not a readable table"), (None, "describes none of these scans")],
)
def test_metadata_that_cannot_be_joined_is_a_warning(content, says, folder):
    next(folder.glob("*.csv")).unlink()
    path = folder / "metadata.xlsx"
    if content is None:
        trees.workbook(path, {"Subject": ["x", "y"], "Age": [1, 2]})
    else:
        path.write_bytes(content)
    _, table = check_folder(folder, progress=False)
    assert table[["kind", "blocks"]].values.tolist() == [["metadata", False]]
    assert says in table.message[0]


def test_one_subject_under_two_names_blocks_training(folder):
    """Otherwise a split could train on one name and test on the other."""
    (folder / "Site8" / "123").mkdir()
    session = folder / "Site8" / "000123" / "t02"
    other = Path(shutil.move(session, folder / "Site8" / "123" / "t02"))
    for path in other.iterdir():
        path.rename(path.with_name(path.name.replace("000123", "123")))
    _, table = check_folder(folder, progress=False)
    assert (table.kind == "same name").any()
    with pytest.raises(atlaslib.DataError, match="subject (000)?123 is called (000)?123 in"):
        atlaslib.load_cohort(folder)
