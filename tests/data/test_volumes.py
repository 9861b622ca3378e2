"""Reading NIfTI files in all the forms in which they occur."""

from __future__ import annotations

import gzip
import re
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from volumes import AFFINE, box, head, save

from atlaslib import DataError, load_cohort
from atlaslib.data.slices import normalise
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
    np.testing.assert_array_equal(template.affine[:3, :3], np.eye(3))


def test_a_rounded_affine_is_no_fault(tmp_path):
    """Conversions between formats leave tenths of a millimetre in the header."""
    affine = AFFINE.copy()
    affine[0, 0], affine[0, 3] = 1.001, -98.2
    path = save(tmp_path / "t1.nii.gz", np.ones(GRID, np.uint8), affine)
    assert read_image(path).voxels.shape == GRID


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match="gone.nii: no such file"):
        read_image(tmp_path / "gone.nii")


@pytest.mark.parametrize("factor", [1e300, 1e-40, 1e-300, 1.0])
def test_intensities_of_any_size_are_scaled_alike(factor):
    volume = head(1).astype(np.float64)
    np.testing.assert_array_equal(normalise(volume * factor), normalise(volume))


def test_a_small_range_far_from_zero_is_scaled_exactly():
    volume = head(1).astype(np.float64)
    np.testing.assert_array_equal(normalise(volume + 1e9), normalise(volume))


def test_no_more_is_unpacked_than_the_header_promises(tmp_path):
    """Two hundred megabytes of zeros behind the image take two hundred kilobytes on disk."""
    content = nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)).to_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(content + bytes(200_000_000), 1))
    tracemalloc.start()
    image = read_image(path, "native")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.voxels.shape == (4, 5, 6)
    assert peak < 20_000_000


def test_a_header_that_promises_terabytes_is_one_line(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 30_000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "large.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4000)))
    with pytest.raises(DataError, match=r"large.nii.gz: its header promises .* GB, at most 4 GB"):
        read_image(path, "native")


def nifti_2() -> bytes:
    return nib.Nifti2Image(np.ones((4, 5, 6), np.uint8), np.eye(4)).to_bytes()


def mgh() -> bytes:
    return nib.MGHImage(np.ones((4, 5, 6), np.uint8), np.eye(4)).to_bytes()


def pair() -> bytes:
    return nib.Nifti1Pair(np.ones((4, 5, 6), np.uint8), np.eye(4)).header.binaryblock + bytes(9)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (nifti_2(), "NIfTI-2"),
        (mgh(), "MGH"),
        (pair(), "the header of a pair .hdr/.img"),
        (nib.AnalyzeImage(np.ones((4, 5, 6), np.uint8), np.eye(4)).header.binaryblock, "Analyze"),
        (bytes(128) + b"DICM" + bytes(400), "DICOM"),
        (b"NRRD0004" + bytes(400), "NRRD"),
        (b"PK\x03\x04" + bytes(400), "a zip archive"),
    ],
)
def test_images_of_other_kinds_are_named(content, kind, compressed, tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataError, match=f"scan.nii.gz: is {re.escape(kind)}.*expected NIfTI-1"):
        read_image(path, "native")


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_an_image_with_a_header_extension_is_read(end, tmp_path):
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 500))
    image.to_filename(tmp_path / f"scan{end}")
    assert read_image(tmp_path / f"scan{end}", "native").voxels.sum() == sum(range(120))


def test_two_placements_that_disagree_are_noticed(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4))
    image.set_sform(np.eye(4), 1)
    moved = np.eye(4)
    moved[0, 3] = 5
    swapped = np.eye(4)[[1, 0, 2, 3]]  # the first and the last voxel stay almost where they are
    swapped[2, 2] = -1
    for qform, agree in ((np.eye(4), True), (moved, False), (swapped, False)):
        image.set_qform(qform, 1)
        image.to_filename(tmp_path / "scan.nii")
        assert read_image(tmp_path / "scan.nii", "native").consistent is agree
