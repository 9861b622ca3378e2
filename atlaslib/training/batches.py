"""Which slices an epoch sees, in which order, and how batches of them reach the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from atlaslib.data.model_input import block_means, block_sums, with_context
from atlaslib.data.slices import SLICE, SliceDataset
from atlaslib.data.splits import TRAIN, slices_of_part
from atlaslib.files import DataError
from atlaslib.recipes import Recipe
from atlaslib.training.memory import free_memory

Batch = tuple[torch.Tensor, torch.Tensor]
_CACHE_SHARE = 0.4  # of the device's free memory that the slices may take; the model needs the rest
_PREFETCH = 2  # batches that are read ahead while the device computes
_CHUNK = 27  # slices that are downsampled at once: they fit into the CPU's cache


def epoch_order(table: pd.DataFrame, recipe: Recipe, epoch: int) -> np.ndarray:
    """Which slices an epoch sees, in which order: positions in ``SliceDataset.table``.

    The order depends on the seed and the epoch alone, so that a resumed run sees the same one. With
    a ``lesion_share``, an epoch has all slices with lesion and enough others of the brain to make
    up the rest, drawn anew for each epoch.
    """
    generator = np.random.default_rng([recipe.seed, epoch])
    own = slices_of_part(table, recipe, TRAIN)
    if recipe.lesion_share is None:
        return generator.permutation(np.flatnonzero(own))
    lesion = np.flatnonzero(own & (table.lesion_pixels > 0))
    if not len(lesion):
        text = "no training slice contains a lesion: too few lesion masks mark any"
        raise DataError(text, "empty masks")
    other = np.flatnonzero(own & (table.lesion_pixels == 0) & (table.brain_pixels > 0))
    count = round(len(lesion) * (1 - recipe.lesion_share) / recipe.lesion_share)
    sampled = generator.choice(other, min(count, len(other)), replace=False)
    return generator.permutation(np.concatenate([lesion, sampled]))


def steps_per_epoch(order: np.ndarray, recipe: Recipe) -> int:
    """The number of batches in an epoch, the same in each.

    An incomplete last batch is left out: batch normalisation fails on a single slice.
    """
    return max(1, len(order) // recipe.batch_size)


def epoch_batches(
    order: np.ndarray, recipe: Recipe, epoch: int
) -> tuple[list[np.ndarray], list[torch.Tensor]]:
    """Cut an epoch's order into batches, and draw at random which of their slices are mirrored."""
    count = steps_per_epoch(order, recipe)
    order = order[: count * recipe.batch_size]
    mirrored = np.random.default_rng([recipe.seed, epoch, 1]).random(len(order)) < 0.5
    flips = [torch.from_numpy(part) for part in np.array_split(mirrored, count)]
    return np.array_split(order, count), flips


class Batches:
    """Batches of training slices on the device, as the model sees them.

    All slices are cropped, downsampled and mirrored once and cached on the device as bytes (16 bits
    where pixels are summed), so that no data loader is needed: the 43,281 slices of R1.1 take 4 GB
    at full size, masks included. If they do not fit, a thread prefetches a few batches.

    Parameters
    ----------
    slices : SliceDataset
    device : torch.device
    recipe : Recipe

    Attributes
    ----------
    where : str
        Where the slices are kept, in words.
    """

    def __init__(self, slices: SliceDataset, device: torch.device, recipe: Recipe) -> None:
        self.slices, self.device, self.recipe = slices, device, recipe
        self.cached: Batch | None = None
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        rows, columns = recipe.input_size()
        self._shape = (1 + recipe.flip, len(slices), rows, columns)
        self._dtype = block_sums(torch.zeros(1, 1, *SLICE, dtype=torch.uint8), recipe).dtype
        size = 2 * math.prod(self._shape) * self._dtype.itemsize
        self.where = f"{size / 1e9:.1f} GB of slices read from the cache, batch by batch"
        if size < _CACHE_SHARE * free_memory(device):
            self.cached = self._load_cache()
            self.where = f"{size / 1e9:.1f} GB of slices cached in the memory of this device"

    def _load_cache(self) -> Batch:
        """Load all slices in chunks, so that main memory never holds them all at full size.

        Images and masks, each (1 or 2, slices, rows, columns): the slices and, if the recipe
        mirrors some, their mirror images.
        """
        images, masks = (
            torch.empty(self._shape, dtype=self._dtype, device=self.device) for _ in range(2)
        )
        for begin in range(0, len(self.slices), _CHUNK):
            rows = slice(begin, min(begin + _CHUNK, len(self.slices)))
            chunk = self.slices.gather(range(rows.start, rows.stop))
            for cache, part in zip((images, masks), chunk, strict=True):
                part = part.to(self.device).unsqueeze(1)
                for flip in range(len(cache)):
                    flipped = part.flip(-1) if flip else part
                    cache[flip, rows] = block_sums(flipped, self.recipe)[:, 0]
        return images, masks

    def iterate(
        self, chosen: Sequence[np.ndarray], flips: Sequence[torch.Tensor]
    ) -> Iterator[Batch]:
        """Yield float32 batches on the device, ready for the model.

        Parameters
        ----------
        chosen : arrays of n positions in ``SliceDataset.table``, one for each batch
        flips : tensors (n,) bool
            Which of these slices to mirror, if the recipe says so.

        Yields
        ------
        (Tensor, Tensor)
            Images in 0..1, (n, channels, H, W), with neighbouring slices as further channels, and
            masks in 0..1, (n, 1, H, W), where H and W are ``recipe.input_size()``.
        """
        source = self._prefetch if self.cached is None else self._from_cache
        for images, masks in source(chosen, flips):
            x, y = block_means(images, self.recipe), block_means(masks, self.recipe)
            yield x.div_(255), y

    def _from_cache(
        self, chosen: Sequence[np.ndarray], flips: Sequence[torch.Tensor]
    ) -> Iterator[Batch]:
        assert self.cached is not None
        images, masks = (part.flatten(0, 1) for part in self.cached)
        for rows, mirrored in zip(chosen, flips, strict=True):
            stack = torch.from_numpy(with_context(rows, self.recipe))
            if self.recipe.flip:
                stack += len(self.slices) * mirrored[:, None]
            stack = stack.to(self.device, non_blocking=True)  # else it waits for the GPU
            yield images[stack], masks[stack[:, self.recipe.context_slices]].unsqueeze(1)

    def _prefetch(
        self, chosen: Sequence[np.ndarray], flips: Sequence[torch.Tensor]
    ) -> Iterator[Batch]:
        """Read batches from the slice cache in another thread."""
        with ThreadPoolExecutor(1) as reader:
            pending = deque(reader.submit(self._read, rows) for rows in chosen[:_PREFETCH])
            for index, mirrored in zip(range(len(chosen)), flips, strict=True):
                batch = self._to_device(pending.popleft().result())
                if index + _PREFETCH < len(chosen):
                    pending.append(reader.submit(self._read, chosen[index + _PREFETCH]))
                flipped = None
                if self.recipe.flip:
                    flipped = mirrored.nonzero().flatten().to(self.device, non_blocking=True)
                images, masks = (block_sums(part, self.recipe, flipped) for part in batch)
                yield images, masks

    def _read(self, rows: np.ndarray) -> Batch:
        stack = with_context(rows, self.recipe)
        images, masks = self.slices.gather(stack.ravel())
        images, masks = (part.view(*stack.shape, *SLICE) for part in (images, masks))
        masks = masks[:, self.recipe.context_slices, None].contiguous()
        if self.device.type == "cuda":  # copies from pinned memory overlap with computation
            return images.pin_memory(), masks.pin_memory()
        return images, masks

    def _to_device(self, batch: Batch) -> Batch:
        """Copy a batch; on a GPU in a stream of its own, while the previous step is computed."""
        if self._copying is None:
            return batch[0].to(self.device), batch[1].to(self.device)
        with torch.cuda.stream(self._copying):
            images, masks = (part.to(self.device, non_blocking=True) for part in batch)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        for part in (images, masks):
            part.record_stream(computing)  # do not reuse its memory before the step has run
        return images, masks
