"""Reading NIfTI files in all the forms in which they occur."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
from volumes import AFFINE, box, save

from atlaslib import DataError, load_cohort
from atlaslib.data.volumes import GRID, ORIGIN, brain_mask, read_image, read_scan


def test_union_of_masks(cohort):
    volume = read_scan(cohort[4])  # the first subject has two scans
    expected = box((63, 100, 80), 12) | box((110, 120, 93), 5)
    np.testing.assert_array_equal(volume.mask, expected > 0)
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize("axes", ["LPS", "PIR", "ARS"])
def test_other_orientation_is_reoriented(axes, scan_writer, tmp_path):
    t1, masks = scan_writer()
    before = read_scan(load_cohort(tmp_path)[0])
    for path in (t1, *masks):
        turned = nib.load(path).as_reoriented(_from_ras(axes))
        assert "".join(nib.aff2axcodes(turned.affine)) == axes
        nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine).to_filename(path)
    after = read_scan(load_cohort(tmp_path)[0])
    np.testing.assert_array_equal(after.t1, before.t1)
    np.testing.assert_array_equal(after.mask, before.mask)
    np.testing.assert_allclose(after.affine, before.affine)


def _from_ras(axes: str) -> np.ndarray:
    orientations = nib.orientations
    return orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(axes)
    )


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_compression_is_recognised_by_content(end, scan_writer, tmp_path):
    t1, _ = scan_writer()
    plain = gzip.decompress(t1.read_bytes())
    path = tmp_path / f"renamed{end}"
    for content in (plain, t1.read_bytes()):
        path.write_bytes(content)
        np.testing.assert_array_equal(read_image(path).voxels, nib.load(t1).get_fdata())


@pytest.mark.parametrize("cuts", [[], [1000], [4_000_000], [3_000_000, 6_000_000], [8_675_641]])
def test_a_gzip_file_may_have_several_members(cuts, scan_writer, tmp_path):
    """As written by bgzip or cat, with an empty last member in one case."""
    t1, _ = scan_writer()
    plain = gzip.decompress(t1.read_bytes())
    parts = [plain[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(plain)], strict=True)]
    path = tmp_path / "members.nii.gz"
    path.write_bytes(b"".join(gzip.compress(part, 1) for part in parts))
    np.testing.assert_array_equal(read_image(path).voxels, nib.load(t1).get_fdata())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.float32, np.float64])
def test_the_stored_type_and_its_scaling_are_read_as_nibabel_reads_them(dtype, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 200, GRID).astype(dtype)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "scaled.nii")
    read = read_image(tmp_path / "scaled.nii")
    np.testing.assert_allclose(read.voxels, nib.load(tmp_path / "scaled.nii").get_fdata())


def test_the_grid_is_that_of_the_template():
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    assert template.shape == brain_mask().shape == GRID
    np.testing.assert_array_equal(template.affine[:3, 3], ORIGIN)


def test_a_rounded_affine_is_no_fault(tmp_path):
    """Conversions between formats leave tenths of a millimetre in the header."""
    affine = AFFINE.copy()
    affine[0, 0], affine[0, 3] = 1.001, -98.2
    path = save(tmp_path / "t1.nii.gz", np.ones(GRID, np.uint8), affine)
    assert read_image(path).voxels.shape == GRID


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match="gone.nii: no such file"):
        read_image(tmp_path / "gone.nii")
