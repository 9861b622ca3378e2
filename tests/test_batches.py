"""Which slices an epoch sees, and how they come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlaslib import SliceDataset, recipe
from atlaslib.batches import Batches, epoch_batches, epoch_order


@pytest.fixture(scope="module")
def data(cohort):
    return SliceDataset(cohort, progress=False)


def test_epoch_order(data):
    table = data.table
    everything = epoch_order(table, recipe("baseline", "paper"), 0)
    assert sorted(everything) == list(range(len(table)))
    half = epoch_order(table, recipe("baseline", "paper", lesion_share=0.5), 0)
    lesion = table.lesion_pixels.to_numpy()[half] > 0
    assert lesion.mean() == 0.5
    assert lesion.sum() == (table.lesion_pixels > 0).sum()
    assert (table.brain_pixels.to_numpy()[half][~lesion] > 0).all()
    other = epoch_order(table, recipe("baseline", "paper", lesion_share=0.5), 1)
    assert set(half) != set(other)


def test_batches_are_full_and_keep_the_order():
    chosen = recipe("baseline", "paper", batch_size=30)
    batches, mirrored = epoch_batches(np.arange(100), chosen, 0)
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(90))
    assert [len(flips) for flips in mirrored] == [30, 30, 30]
    few, _ = epoch_batches(np.arange(20), chosen, 0)
    assert [len(rows) for rows in few] == [20]


def test_about_half_is_mirrored_and_others_in_another_epoch():
    chosen = recipe("baseline", "paper")
    first, again, later = (
        torch.cat(epoch_batches(np.arange(5000), chosen, epoch)[1]) for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert 0.45 < first.float().mean() < 0.55


def test_batches_come_in_order_and_hold_the_slices(data):
    rows = [np.array([3, 900, 85]), np.array([86]), np.array([87, 88]), np.array([1500, 2])]
    batches = Batches(data, torch.device("cpu"), recipe("baseline"))
    assert "read from the store" in batches.where
    for chosen, (images, masks) in zip(rows, batches.of(rows), strict=True):
        expected = data.gather(chosen)
        assert torch.equal(images.squeeze(1), expected[0])
        assert torch.equal(masks.squeeze(1), expected[1])
    assert list(batches.of([])) == []


def test_slices_come_among_their_neighbours(data):
    chosen = recipe("residual_unet", neighbours=1)
    ((images, masks),) = Batches(data, torch.device("cpu"), chosen).of([np.array([100, 188])])
    assert images.shape == (2, 3, 232, 196)
    assert masks.shape == (2, 1, 232, 196)
    expected = data.gather([97, 100, 103, 185, 188, 188])
    assert torch.equal(images.flatten(0, 1), expected[0])
    assert torch.equal(masks.squeeze(1), expected[1][[1, 4]])


def test_slices_held_in_memory_come_as_those_that_are_read(data):
    rows = [np.array([3, 900, 188]), np.array([1500])]
    batches = Batches(data, torch.device("cpu"), recipe("residual_unet", neighbours=1))
    read = list(batches.of(rows))
    batches.held = batches._loaded()
    for ours, theirs in zip(batches.of(rows), read, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_an_error_of_the_reader_reaches_the_loop(data):
    with pytest.raises(IndexError):
        list(
            Batches(data, torch.device("cpu"), recipe("baseline")).of(
                [np.array([0]), np.array([10**7])]
            )
        )


def test_a_gpu_holds_the_slices(data, gpu):
    batches = Batches(data, gpu, recipe("baseline"))
    assert "held in the GPU's memory" in batches.where
    ((images, masks),) = batches.of([np.array([85, 1000])])
    expected = data.gather([85, 1000])
    assert torch.equal(images.cpu().squeeze(1), expected[0])
    assert torch.equal(masks.cpu().squeeze(1), expected[1])
