"""Volumes to slices and back, intensities, and the cache."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import process
import pytest
import torch
from volumes import head, save, write_scan

import atlaslib
from atlaslib import DataError, load_cohort
from atlaslib.data import slices
from atlaslib.data.volumes import GRID, brain_mask, read_scan


def test_geometry_as_in_the_original_code():
    volume = np.random.default_rng(0).random(GRID)
    cut = slices.to_slices(volume)
    assert cut.shape == (189, 232, 196)
    for z in (0, 77, 188):
        np.testing.assert_array_equal(cut[z], np.rot90(volume[:, :, z])[:232, :196])


def test_front_is_at_the_top_and_left_is_on_the_left():
    volume = np.zeros(GRID)
    volume[10, 220, 5] = 1  # low x: patient's left in RAS; high y: front
    row, column = np.argwhere(slices.to_slices(volume)[5])[0]
    assert (row, column) == (232 - 220, 10)


def test_to_volume_restores_all_but_the_dropped_edge():
    volume = np.random.default_rng(1).integers(1, 9, GRID)
    back = slices.to_volume(slices.to_slices(volume))
    np.testing.assert_array_equal(back[:196, 1:, :], volume[:196, 1:, :])
    assert not back[196].any()
    assert not back[:, 0].any()


def test_normalise_is_robust_and_linear():
    t1 = head()
    levels = slices.normalise(t1)
    np.testing.assert_array_equal(slices.normalise(3 * t1 + 7)[brain_mask()], levels[brain_mask()])
    spiked = t1.copy()
    spiked[98, 116, 90:95] = 1e6
    assert np.abs(slices.normalise(spiked).astype(int) - levels)[t1 > 0][:-9].mean() < 0.01
    low, high = np.percentile(levels[brain_mask()], [1, 99])
    assert (low, high) == (32, 224)


def test_normalise_refuses_constant():
    with pytest.raises(DataError, match="nothing to scale"):
        slices.normalise(np.zeros(GRID, np.float32))


def test_dataset_items(cohort):
    data = atlaslib.SliceDataset(cohort, progress=False)
    assert len(data) == 8 * 189
    volume = read_scan(cohort[2])
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
    assert data.table.brain_pixels.sum() == 8 * slices.to_slices(brain_mask()).sum()
    batch, _ = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert batch.shape == (4, 1, 232, 196)


def test_cache_is_reused_and_rebuilt(scan_writer, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path / "home"))
    t1, _ = scan_writer()
    atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    (cached,) = (tmp_path / "home" / "slices").glob("*.slices")
    written = cached.stat().st_mtime_ns
    atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert cached.stat().st_mtime_ns == written  # reused

    cached.write_bytes(cached.read_bytes()[:5000])  # damaged
    again = atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert again.table.lesion_pixels.sum() == 12**3 + 5**3

    save(t1, np.rint(head(5)).astype(np.uint8))  # changed
    atlaslib.SliceDataset(load_cohort(tmp_path), progress=False)
    assert len(list((tmp_path / "home" / "slices").glob("*"))) == 2


# --- the cache ----------------------------------------------------------------------------------


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """The folder of an empty cache."""
    monkeypatch.setenv("ATLASLIB_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "slices"


def many(root: Path, count: int) -> Path:
    """Scans with the same voxels in different bytes: gzip allows zeros at the end."""
    t1, masks = write_scan(root / "one", "000000")
    for number in range(count):
        folder = root / "many" / "Site1" / f"{number:06}" / "t01"
        folder.mkdir(parents=True)
        for path in (t1, masks[0]):
            name = path.name.replace("000000", f"{number:06}")
            (folder / name).write_bytes(path.read_bytes() + bytes(number))
    return root / "many"


@pytest.mark.parametrize("place", [0, 5_000_000, -1])
def test_a_damaged_byte_is_found_and_repaired(place, scan_writer, tmp_path, cache_folder):
    scan_writer()
    cohort = load_cohort(tmp_path)
    atlaslib.SliceDataset(cohort, progress=False)
    (path,) = cache_folder.iterdir()
    good = path.read_bytes()
    bad = bytearray(good)
    bad[place] ^= 1
    path.write_bytes(bad)
    atlaslib.SliceDataset(cohort, progress=False)
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("name", "value"), [("PERCENTILES", (2.0, 98.0)), ("LEVELS", (0.0, 255.0)), ("_VERSION", 99)]
)
def test_other_settings_build_another_cache_file(
    name, value, scan_writer, tmp_path, cache_folder, monkeypatch
):
    scan_writer()
    cohort = load_cohort(tmp_path)
    atlaslib.SliceDataset(cohort, progress=False)
    (before,) = cache_folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(slices, name, value)
        atlaslib.SliceDataset(cohort, progress=False)
        assert len(list(cache_folder.iterdir())) == 2
    written = before.stat().st_mtime_ns
    atlaslib.SliceDataset(cohort, progress=False)  # the first settings again: nothing is built
    assert (len(list(cache_folder.iterdir())), before.stat().st_mtime_ns) == (2, written)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_an_unreadable_cache_is_one_line(scan_writer, tmp_path, cache_folder, unreadable):
    scan_writer()
    cohort = load_cohort(tmp_path)
    atlaslib.SliceDataset(cohort, progress=False)
    with unreadable(cache_folder), pytest.raises(DataError, match="permission denied"):
        atlaslib.SliceDataset(cohort, progress=False)


def test_two_processes_build_the_same_cache(tmp_path, cache_folder):
    job = (process.cache_together, process.PROCESSES.Barrier(2), many(tmp_path, 4), 4 * 12**3)
    with process.running(*job) as one, process.running(*job) as other:
        for each in (one, other):
            each.join()
            assert each.exitcode == 0
    assert sorted(path.suffix for path in cache_folder.iterdir()) == [".slices"] * 4


def test_a_killed_process_leaves_no_incomplete_cache_file(tmp_path, cache_folder):
    """It is killed while it writes the third file, between the slices and their checksum."""
    root = many(tmp_path, 4)
    moment = ("isal.isal_zlib.crc32", 3)
    job = (process.signalled, signal.SIGKILL, *moment, process.cache_in_turn, root)
    assert process.exit_code(*job) == -signal.SIGKILL
    assert sorted(path.suffix for path in cache_folder.iterdir()) == [".part", ".slices", ".slices"]
    sizes = {path.stat().st_size for path in cache_folder.glob("*.slices")}
    assert sizes == {189 * (232 * 196 * 9 // 8 + 4) + 4}
    data = atlaslib.SliceDataset(load_cohort(root), progress=False)
    assert data.table.lesion_pixels.sum() == 4 * 12**3


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, cache_folder):
    with pytest.raises(DataError, match="not written, the disk is full"):
        process.outcome(process.cache_without_space, many(tmp_path, 1))
    assert list(cache_folder.iterdir()) == []


def test_data_loader_workers_get_paths_not_voxels(tmp_path, cache_folder):
    data = atlaslib.SliceDataset(load_cohort(many(tmp_path, 3)), progress=False)
    assert len(pickle.dumps(data)) < 100_000
    loader = torch.utils.data.DataLoader(
        data, batch_size=189, num_workers=2, multiprocessing_context=process.PROCESSES
    )
    for position, (images, masks) in enumerate(loader):
        expected = data.scan(position)
        assert torch.equal((images * 255).round().byte().squeeze(1), expected[0])
        assert torch.equal(masks.byte().squeeze(1), expected[1])
    assert position == 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists open files")
def test_no_file_stays_open(tmp_path, cache_folder):
    cohort = load_cohort(many(tmp_path, 5))
    gc.collect()  # files left open by earlier tests must not be closed during this one
    before = len(os.listdir("/proc/self/fd"))
    data = atlaslib.SliceDataset(cohort, progress=False)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(data) == 5 * 189


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_a_thousand_scans_build_in_bounded_memory(tmp_path, cache_folder):
    """Takes minutes and 9 GB of disk: 955 scans, as many as in R2.0."""
    pixels, peak = process.outcome(process.cache_with_few_files, many(tmp_path, 955))
    assert pixels == 955 * 12**3
    assert peak < 2 * 2**20  # kB
    shutil.rmtree(cache_folder)
