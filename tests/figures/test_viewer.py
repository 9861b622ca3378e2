"""What the viewers show, and that the page viewer needs neither kernel nor network."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atlaslib.data.cohort import Scan
from atlaslib.data.volumes import GRID, Volume
from atlaslib.figures import viewer

AFFINE = np.array([[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]], dtype=float)
LESION = (slice(60, 75), slice(100, 121), slice(90, 101))


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A ramp along y, with a box-shaped lesion left of the midline."""
    t1 = np.broadcast_to(np.arange(GRID[1], dtype=np.float32)[None, :, None], GRID)
    mask = np.zeros(GRID, dtype=bool)
    mask[LESION] = True
    return Volume(t1=np.ascontiguousarray(t1), mask=mask, affine=AFFINE)


@pytest.fixture(scope="module")
def scan(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    folder: Path = tmp_path_factory.mktemp("Site1") / "000007" / "t01"
    folder.mkdir(parents=True)
    t1 = folder / "000007_t1w_deface_stx.nii"
    mask = folder / "000007_LesionSmooth_stx.nii"
    nibabel.save(nibabel.Nifti1Image(volume.t1.astype(np.uint8), AFFINE), t1)
    nibabel.save(nibabel.Nifti1Image(volume.mask.astype(np.uint8), AFFINE), mask)
    return Scan("000007", "t01", "Site1", t1, (mask,))


@pytest.mark.parametrize(
    ("plane", "corner", "position"),
    [
        # top left is: left and anterior; left and superior; posterior and superior
        ("axial", (0, 4, 3), 3),
        ("coronal", (0, 2, 5), 2),
        ("sagittal", (1, 0, 5), 1),
    ],
)
def test_slices_are_the_right_way_up(
    plane: str, corner: tuple[int, int, int], position: int
) -> None:
    grey = np.zeros((4, 5, 6), dtype=np.uint8)
    grey[corner] = 200
    picture = viewer.slice_picture(grey, np.zeros(grey.shape, bool), plane, position)
    assert picture[0, 0].tolist() == [200, 200, 200]
    assert np.count_nonzero(picture.any(axis=2)) == 1


def test_only_the_lesion_is_tinted() -> None:
    grey = np.full((4, 5, 6), 100, dtype=np.uint8)
    mask = np.zeros(grey.shape, dtype=bool)
    mask[3, 0, 2] = True  # right, posterior
    plain = viewer.slice_picture(grey, mask, "axial", 2, overlay=False)
    tinted = viewer.slice_picture(grey, mask, "axial", 2)
    changed = np.argwhere((plain != tinted).any(axis=2))
    assert changed.tolist() == [[4, 3]]  # bottom right
    assert len(np.unique(plain)) == 1


def test_an_unknown_plane_is_refused() -> None:
    with pytest.raises(ValueError, match="axial, coronal, sagittal, not 'oblique'"):
        viewer.slice_picture(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), bool), "oblique")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_coarse_blocks_keep_their_position(step: int) -> None:
    """A block's position in mm is the mean position of its voxels."""
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3, indexing="ij"), axis=-1)
    where = nibabel.affines.apply_affine(AFFINE, grid).astype(np.float32)
    means = np.stack([viewer.block_mean(where[..., axis], step) for axis in range(3)], axis=-1)
    coarse = np.stack(np.meshgrid(*[np.arange(6.0 // step)] * 3, indexing="ij"), axis=-1)
    expected = nibabel.affines.apply_affine(viewer.coarse_affine(AFFINE, step), coarse)
    np.testing.assert_allclose(means, expected, atol=1e-4)


def test_the_page_viewer_needs_no_network(scan: Scan) -> None:
    page = viewer.page_viewer(scan).page
    assert "<h1>Scan 000007-t01 (Site1)</h1>" in page
    assert len(page) < 1_500_000
    loaded = re.findall(r"""(?:src|href)\s*=\s*["'](https?:[^"']*)""", page)
    assert loaded == []


def test_the_page_viewer_shows_the_greys_in_a_smaller_picture(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pictures(page: str) -> list[Image.Image]:
        found = re.findall(r"data:image/\w+;base64,([\w+/=]+)", page)
        return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]

    small = viewer.page_viewer(scan).page
    monkeypatch.setattr(viewer, "_smaller", lambda encoded: encoded[0])
    large = viewer.page_viewer(scan).page  # as nilearn writes it
    assert len(small) <= len(large)
    assert pictures(small)
    for one, other in zip(pictures(small), pictures(large), strict=True):
        apart = np.abs(np.asarray(one.convert("L"), int) - np.asarray(other.convert("L"), int))
        assert apart.mean() < 3  # of 255


def test_the_frame_of_the_page_viewer_has_a_title(scan: Scan) -> None:
    (frame,) = re.findall(r"<iframe [^>]*>", viewer.page_viewer(scan)._repr_html_())
    assert 'title="Scan 000007-t01 (Site1)"' in frame


def test_the_page_viewer_hides_the_lesion_until_asked(scan: Scan, volume: Volume) -> None:
    page = viewer.page_viewer(scan).page
    assert '"numSlice": false' in page  # in the middle, not on the lesion
    assert '"opacity": 0' in page
    start = numbers("viewed.numSlice =", page)
    dark = [99, 117, 95] - numbers('"nbSlice":', page)  # cut off, where the ramp begins
    middles = [(side.start + side.stop - 1) / 2 for side in LESION]
    np.testing.assert_allclose(2 * (start + dark), middles, atol=2)


def test_the_page_viewer_cuts_the_dark_around_the_head(scan: Scan) -> None:
    x, y, z = numbers('"nbSlice":', viewer.page_viewer(scan).page)
    assert (x, z) == (99, 95)
    assert 90 < y < 117  # of 117


def numbers(name: str, page: str) -> NDArray[np.int_]:
    """What a page gives a name for X, Y and Z."""
    found = re.search(name + r' {"X": (\d+), "Y": (\d+), "Z": (\d+)}', page)
    assert found is not None
    return np.array(found.groups(), int)


def test_the_page_viewer_refuses_a_step_of_zero(scan: Scan) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        viewer.page_viewer(scan, step=0)


def test_browse_opens_on_the_slice_with_most_lesion(volume: Volume) -> None:
    box = viewer.browse(volume)
    (plane, index, overlay), screen, caption = box.children[0].children, *box.children[1:]
    assert (plane.value, index.max, overlay.value) == ("axial", 188, True)
    assert volume.mask[:, :, index.value].sum() == volume.mask.sum(axis=(0, 1)).max()
    assert caption.value.startswith(f"{15 * 21} ")
    assert Image.open(io.BytesIO(screen.value)).size == (197, 233)


def test_browse_responds_to_its_controls(volume: Volume) -> None:
    box = viewer.browse(volume)
    (plane, index, overlay), screen, caption = box.children[0].children, *box.children[1:]
    tinted = screen.value
    overlay.value = False
    assert screen.value != tinted
    index.value = 188
    assert caption.value.startswith("0 ")
    plane.value = "sagittal"
    assert (index.max, 60 <= index.value < 75) == (196, True)
    assert Image.open(io.BytesIO(screen.value)).size == (233, 189)


def test_browse_reads_a_scan_from_disk(scan: Scan) -> None:
    assert bytes(viewer.browse(scan).children[1].value).startswith(b"\x89PNG")


def test_without_a_lesion_the_middle_slice_is_shown() -> None:
    assert viewer.fullest(np.zeros((4, 5, 7), dtype=bool), "sagittal") == 2
