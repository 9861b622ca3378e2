"""Volumes to slices and back, intensities, and the store."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from volumes import AFFINE, box, head, save

import atlaslib
from atlaslib import DataError, load_cohort, slices


def test_geometry_as_in_the_original_code():
    volume = np.random.default_rng(0).random(slices.GRID)
    cut = slices.to_slices(volume)
    assert cut.shape == (189, 232, 196)
    for z in (0, 77, 188):
        np.testing.assert_array_equal(cut[z], np.rot90(volume[:, :, z])[:232, :196])


def test_front_is_up_and_left_is_left():
    volume = np.zeros(slices.GRID)
    volume[10, 220, 5] = 1  # low x: patient's left in RAS; high y: front
    row, column = np.argwhere(slices.to_slices(volume)[5])[0]
    assert (row, column) == (232 - 220, 10)


def test_way_back_restores_all_but_the_dropped_edge():
    volume = np.random.default_rng(1).integers(1, 9, slices.GRID)
    back = slices.to_volume(slices.to_slices(volume))
    np.testing.assert_array_equal(back[:196, 1:, :], volume[:196, 1:, :])
    assert not back[196].any()
    assert not back[:, 0].any()


def test_normalise_is_robust_and_linear():
    t1 = head()
    levels = slices.normalise(t1)
    np.testing.assert_array_equal(
        slices.normalise(3 * t1 + 7)[slices.brain_mask()], levels[slices.brain_mask()]
    )
    spiked = t1.copy()
    spiked[98, 116, 90:95] = 1e6
    assert np.abs(slices.normalise(spiked).astype(int) - levels)[t1 > 0][:-9].mean() < 0.01
    low, high = np.percentile(levels[slices.brain_mask()], [1, 99])
    assert (low, high) == (32, 224)


def test_normalise_refuses_constant():
    with pytest.raises(DataError, match="nothing to scale"):
        slices.normalise(np.zeros(slices.GRID, np.float32))


def test_union_of_masks(cohort):
    volume = slices.read_scan(cohort[4])  # the first subject has two
    expected = box((63, 100, 80), 12) | box((110, 120, 93), 5)
    np.testing.assert_array_equal(volume.mask, expected > 0)
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_dataset_items(cohort):
    data = atlaslib.SliceDataset(cohort, progress=False)
    assert len(data) == 8 * 189
    volume = slices.read_scan(cohort[2])
    image, mask = data[2 * 189 + 85]
    assert image.shape == mask.shape == (1, 232, 196)
    assert image.dtype == mask.dtype == torch.float32
    np.testing.assert_array_equal(mask[0], slices.to_slices(volume.mask)[85])
    expected = slices.to_slices(slices.normalise(volume.t1))[85] / np.float32(255)
    np.testing.assert_allclose(image[0], expected, atol=1e-7)
    with pytest.raises(IndexError):
        data[len(data)]


def test_dataset_table_counts(cohort):
    data = atlaslib.SliceDataset(cohort, progress=False)
    per_scan = data.table.groupby("scan").lesion_pixels.sum()
    assert list(per_scan) == [12**3 + 5**3] * 8
    assert data.table.brain_pixels.sum() == 8 * slices.to_slices(slices.brain_mask()).sum()
    batch, _ = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert batch.shape == (4, 1, 232, 196)


def test_store_is_reused_and_rebuilt(scan_writer, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path / "home"))
    t1, _ = scan_writer()
    atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    (stored,) = (tmp_path / "home" / "slices").glob("*.npy")
    written = stored.stat().st_mtime_ns
    atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert stored.stat().st_mtime_ns == written  # found again

    stored.write_bytes(stored.read_bytes()[:5000])  # damaged
    again = atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert again.table.lesion_pixels.sum() == 12**3 + 5**3

    save(t1, np.rint(head(5)).astype(np.uint8))  # changed
    atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert len(list((tmp_path / "home" / "slices").glob("*"))) == 2


def test_other_orientation_is_reoriented(scan_writer, tmp_path):
    t1, _ = scan_writer()
    image = nib.load(t1)
    before = slices.read_scan(load_cohort(tmp_path)[0])
    flipped = image.as_reoriented(nib.orientations.axcodes2ornt("LPS"))
    nib.Nifti1Image(np.asarray(flipped.dataobj), flipped.affine).to_filename(t1)
    after = slices.read_scan(load_cohort(tmp_path)[0])
    np.testing.assert_array_equal(after.t1, before.t1)
    np.testing.assert_array_equal(after.affine, before.affine)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: save(p, np.ones((20, 21, 22), np.uint8)), "expected 197 x 233 x 189.*20 x 21"),
        (lambda p: save(p, np.ones((*slices.GRID, 2), np.uint8)), "found 197 x 233 x 189 x 2"),
        (lambda p: p.write_bytes(b"no image"), "not a readable NIfTI image"),
        (lambda p: p.write_bytes(gzip.compress(b"no image")), "not a readable NIfTI image"),
        (lambda p: p.write_bytes(p.read_bytes()[:9000]), "damaged or cut short"),
        (lambda p: save(p, np.ones(slices.GRID, np.uint8)), "nothing to scale"),
        (lambda p: save(p, np.full(slices.GRID, np.nan, np.float32)), "nothing to scale"),
    ],
)
def test_bad_image_is_one_line_with_its_name(scan_writer, tmp_path, spoil, says):
    t1, _ = scan_writer()
    spoil(t1)
    with pytest.raises(DataError, match=says) as error:
        atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert str(t1) in str(error.value)
    assert "\n" not in str(error.value)
