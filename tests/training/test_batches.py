"""Which slices an epoch sees, and the batches made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atlaslib import SliceDataset, recipe
from atlaslib.training import batches
from atlaslib.training.batches import Batches, epoch_batches, epoch_order


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
    cut, mirrored = epoch_batches(np.arange(100), chosen, 0)
    np.testing.assert_array_equal(np.concatenate(cut), np.arange(90))
    assert [len(flips) for flips in mirrored] == [30, 30, 30]
    few, _ = epoch_batches(np.arange(20), chosen, 0)
    assert [len(rows) for rows in few] == [20]


def test_a_random_half_is_mirrored_in_each_epoch():
    chosen = recipe("baseline", "paper")
    first, again, later = (
        torch.cat(epoch_batches(np.arange(5000), chosen, epoch)[1]) for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert 0.45 < first.float().mean() < 0.55


@pytest.fixture(params=["cached in the memory", "read from the cache"])
def make(request, data, monkeypatch):
    """Makes the batches of a recipe, cached or prefetched."""
    free = 2**40 if request.param.startswith("cached") else 0
    monkeypatch.setattr(batches, "free_memory", lambda device: free)

    def make(chosen):
        made = Batches(data, torch.device("cpu"), chosen)
        assert request.param in made.where
        return made

    return make


def no_flips(rows):
    return [torch.zeros(len(part), dtype=torch.bool) for part in rows]


def test_batches_contain_the_chosen_slices_in_order(data, make):
    rows = [np.array([3, 900, 85]), np.array([86]), np.array([87, 88]), np.array([1500, 2])]
    chosen = recipe("baseline", "paper")
    for part, (x, y) in zip(rows, make(chosen).iterate(rows, no_flips(rows)), strict=True):
        images, masks = data.gather(part)
        assert torch.equal(x.squeeze(1), images.float() / 255)
        assert torch.equal(y.squeeze(1), masks.float())
    assert list(make(chosen).iterate([], [])) == []


def test_neighbouring_slices_are_further_channels(data, make):
    rows = [np.array([100, 188])]
    ((x, y),) = make(recipe("residual_unet", "paper", flip=False, context_slices=1)).iterate(
        rows, no_flips(rows)
    )
    assert x.shape == (2, 3, 232, 196)
    images, masks = data.gather([97, 100, 103, 185, 188, 188])
    assert torch.equal(x.flatten(0, 1), images.float() / 255)
    assert torch.equal(y.squeeze(1), masks[[1, 4]].float())


@pytest.mark.parametrize("downsample", [1, 3])
def test_mirrored_slices_are_mirrored_with_their_masks(data, make, downsample):
    """Within the window and before downsampling: 3 does not divide its 152 columns."""
    chosen = recipe("baseline", downsample=downsample)
    rows, flips = [np.array([85, 280])], [torch.tensor([True, False])]
    ((x, y),) = make(chosen).iterate(rows, flips)
    for found, whole in zip((x * 255, y), data.gather(rows[0]), strict=True):
        window = whole[:, None, 23 : 23 + 184, 22 : 22 + 152].double()
        window[0] = window[0].flip(-1)
        height, width = chosen.input_size()
        padded = torch.zeros(2, 1, height * downsample, width * downsample, dtype=torch.double)
        padded[..., :184, :152] = window
        expected = F.avg_pool2d(padded, downsample)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)


def test_an_error_in_the_reading_thread_reaches_the_loop(data, make):
    rows = [np.array([0]), np.array([10**7])]
    with pytest.raises(IndexError):
        list(make(recipe("baseline")).iterate(rows, no_flips(rows)))


@pytest.mark.parametrize("share", [0, 1])
def test_a_gpu_gives_the_same_batches(data, gpu, monkeypatch, share):
    """Cached there, or copied from pinned memory during computation."""
    chosen, rows = recipe("baseline"), [np.array([85, 1000])] * 9
    flips = [torch.tensor([True, False])] * 9
    expected, _ = next(Batches(data, torch.device("cpu"), chosen).iterate(rows, flips))
    monkeypatch.setattr(batches, "_CACHE_SHARE", share)
    for x, _ in Batches(data, gpu, chosen).iterate(rows, flips):
        torch.testing.assert_close(x.cpu(), expected)
