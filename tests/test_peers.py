"""The readers and the programs that the benchmarks compare do the same work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scripts import script
from volumes import AFFINE, box, head, save

import atlaslib
from atlaslib.data.volumes import GRID

DEPTH = GRID[2]


@pytest.fixture(scope="module")
def data() -> Iterator[ModuleType]:
    """The script with one thread, as in its measurements: more only wait for each other."""
    module = script("data")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> atlaslib.Cohort:
    """Two scans with two masks each; the second scan's files run from right to left.

    No two slices have the same mask: one of the masks encodes the slice's number in bits, in a row
    near the left front, so any flip, transposition or wrong crop gives a mask that no slice has.
    """
    root = tmp_path_factory.mktemp("benchmark")
    for number, subject in enumerate(("031840", "031841")):
        code = np.zeros(GRID, np.uint8)
        for bit in range(9):
            code[30 + 2 * bit, 190, :] = np.arange(DEPTH) + number * DEPTH >> bit & 1
        code[50, 190, :] = 1
        volumes = [np.rint(head(number)).astype(np.uint8), code * 255, box((110, 120, 90), 5)]
        affine = AFFINE
        if number == 1:
            volumes = [volume[::-1] for volume in volumes]
            affine = AFFINE @ np.diag([-1, 1, 1, 1])
            affine[0, 3] = 98
        folder = root / "Site1" / subject / "t01"
        names = ("t1w_deface_stx", "LesionSmooth_stx", "LesionSmooth_1_stx")
        for name, volume in zip(names, volumes, strict=True):
            save(folder / f"{subject}_{name}.nii.gz", volume, affine)
    return atlaslib.load_cohort(root)


def collected(epoch: object, workers: int = 0) -> dict[bytes, torch.Tensor]:
    """One epoch's images, keyed by their masks; fails if a mask is delivered twice."""
    found, count = {}, 0
    for images, masks in epoch(workers):
        assert images.dtype == masks.dtype == torch.float32
        for image, mask in zip(images, masks, strict=True):
            found[mask.to(torch.uint8).numpy().tobytes()] = image[0]
            count += 1
    assert len(found) == count
    return found


@pytest.fixture(scope="module")
def ours(
    data: ModuleType, pair: atlaslib.Cohort, tmp_path_factory: pytest.TempPathFactory
) -> dict[bytes, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("ATLASLIB_HOME", str(folder))
        return collected(data.atlaslib(pair, folder))


def same_picture(image: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the two differ only in scale: where one is constant, so is the other."""
    level = (image * 255).round().long().flatten()
    ends = [
        torch.zeros(256).scatter_reduce(0, level, other.flatten(), end, include_self=False)
        for end in ("amin", "amax")
    ]
    return torch.allclose(*ends, atol=1e-6)


def test_the_bytes_are_the_same_slices(
    data: ModuleType,
    ours: dict[bytes, torch.Tensor],
    pair: atlaslib.Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATLASLIB_HOME", "")  # the reader sets it: it is restored
    found = {
        mask.numpy().tobytes(): image
        for batch in data.atlaslib_bytes(pair, tmp_path)(0)
        for image, mask in zip(*batch, strict=True)
    }
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[key][0] / 255, ours[key]) for key in ours)


def test_we_deliver_each_slice_once(ours: dict[bytes, torch.Tensor], pair: atlaslib.Cohort) -> None:
    slices = atlaslib.SliceDataset(pair, progress=False)
    images, masks = slices.gather(range(len(slices)))
    expected = [mask.numpy().tobytes() for mask in masks]
    assert len(ours) == len(set(expected)) == len(pair) * DEPTH
    for key, image in zip(expected, images, strict=True):
        assert torch.equal(ours[key], image.float() / 255)


def test_the_plain_reader_delivers_our_slices(
    data: ModuleType, ours: dict[bytes, torch.Tensor], pair: atlaslib.Cohort
) -> None:
    for z in (0, 60, 92, 120, 188):  # of the first scan only: it assumes RAS files
        image, mask = data.plain_slice(pair[0], z)
        assert same_picture(image[0], ours[mask.to(torch.uint8).numpy().tobytes()])


@pytest.mark.parametrize("reader", ["monai_cache", "monai_disk"])
def test_monai_delivers_our_slices(
    data: ModuleType,
    ours: dict[bytes, torch.Tensor],
    pair: atlaslib.Cohort,
    reader: str,
    tmp_path: Path,
) -> None:
    """Every mask exactly once, from files of either orientation, in the first epoch (without
    workers) and the second (with two); images up to their scale, as MONAI clips more of it.
    """
    pytest.importorskip("monai", reason="one of the readers compared")
    epoch = getattr(data, reader)(pair, tmp_path)
    for workers in (0, 2):
        found = collected(epoch, workers)
        assert found.keys() == ours.keys()
        assert all(same_picture(ours[key], found[key]) for key in list(ours)[::20])


def test_torchio_delivers_our_slices(
    data: ModuleType, ours: dict[bytes, torch.Tensor], pair: atlaslib.Cohort, tmp_path: Path
) -> None:
    """Every mask exactly once; images up to their scale."""
    pytest.importorskip("torchio", reason="the reader compared")
    found = collected(data.torchio(pair, tmp_path))
    assert found.keys() == ours.keys()
    assert all(same_picture(ours[key], found[key]) for key in list(ours)[::20])


def test_every_program_trains(
    data: ModuleType,
    cohort: atlaslib.Cohort,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program whose packages are not installed is named and left out."""
    monkeypatch.setitem(sys.modules, "data", data)
    train = script("train")
    for name, few in (("SIDE", {"cpu": 64}), ("ROUNDS", 2), ("WARM_UP", 2)):
        monkeypatch.setattr(train, name, few)
    tiny = atlaslib.recipe("baseline", "smoke", width=2)
    table, limits = train.compare(tiny, cohort, 2)
    rates = table["slices/s"]
    assert set(rates.index) >= {"atlaslib", "bare step", "plain PyTorch"}
    assert ("MONAI" in rates.index) != ("MONAI is left out" in capsys.readouterr().out)
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert all(value > 0 for value in limits.values())
