"""Which slices an epoch sees, and how they reach the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from atlaslib.cohort import DataError
from atlaslib.cost import free_memory
from atlaslib.evaluation import block_means, block_sums, with_neighbours
from atlaslib.recipes import Recipe
from atlaslib.slices import SLICE, SliceDataset
from atlaslib.splits import TRAIN, own_slices

Batch = tuple[torch.Tensor, torch.Tensor]
_SHARE = 0.4  # of the device's free memory that slices may take; the rest is for the model
_AHEAD = 2  # batches that are read while the device computes
_LOADED = 27  # slices that are shrunk together: they fit the processor's cache


def epoch_order(table: pd.DataFrame, recipe: Recipe, epoch: int) -> np.ndarray:
    """Which slices an epoch sees, in which order: positions in ``SliceDataset.table``.

    Drawn from the seed and the epoch's number alone, so that a resumed run sees the same. With a
    ``lesion_share``, all slices with lesion and as many other slices of the brain as make up the
    rest, other ones in each epoch.
    """
    generator = np.random.default_rng([recipe.seed, epoch])
    own = own_slices(table, recipe, TRAIN)
    if recipe.lesion_share is None:
        return generator.permutation(np.flatnonzero(own))
    lesion = np.flatnonzero(own & (table.lesion_pixels > 0))
    if not len(lesion):
        text = "none of the slices to train on has a lesion: too few masks mark any"
        raise DataError(text, "empty masks")
    other = np.flatnonzero(own & (table.lesion_pixels == 0) & (table.brain_pixels > 0))
    count = round(len(lesion) * (1 - recipe.lesion_share) / recipe.lesion_share)
    drawn = generator.choice(other, min(count, len(other)), replace=False)
    return generator.permutation(np.concatenate([lesion, drawn]))


def epoch_batches(
    order: np.ndarray, recipe: Recipe, epoch: int
) -> tuple[list[np.ndarray], list[torch.Tensor]]:
    """Cut an epoch's order into batches, and draw which of their slices are mirrored.

    Full batches only: a last one of a single slice would break batch normalisation.
    """
    count = max(1, len(order) // recipe.batch_size)
    order = order[: count * recipe.batch_size]
    mirrored = np.random.default_rng([recipe.seed, epoch, 1]).random(len(order)) < 0.5
    flips = [torch.from_numpy(part) for part in np.array_split(mirrored, count)]
    return np.array_split(order, count), flips


class Batches:
    """Where training takes its slices from, as the model sees them.

    Cut, shrunk and mirrored once, they stay on the device as bytes (as 16 bits where pixels are
    summed), and no loader is needed: the 43 281 slices of R1.1 are 4 GB at full size, masks
    included. Where they do not fit, a thread reads a few batches ahead.

    Parameters
    ----------
    slices : SliceDataset
    device : torch.device
    recipe : Recipe

    Attributes
    ----------
    where : str
        What was chosen, in words.
    """

    def __init__(self, slices: SliceDataset, device: torch.device, recipe: Recipe) -> None:
        self.slices, self.device, self.recipe = slices, device, recipe
        self.held: Batch | None = None
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        rows, columns = recipe.input_size()
        self._shape = (1 + recipe.flip, len(slices), rows, columns)
        self._dtype = block_sums(torch.zeros(1, 1, *SLICE, dtype=torch.uint8), recipe).dtype
        size = 2 * math.prod(self._shape) * self._dtype.itemsize
        self.where = f"{size / 1e9:.1f} GB of slices read from the store, batch by batch"
        if size < _SHARE * free_memory(device):
            self.held = self._loaded()
            self.where = f"{size / 1e9:.1f} GB of slices held in the memory of this device"

    def _loaded(self) -> Batch:
        """A few at a time, so that the computer's own memory never holds all at full size.

        Images and masks, each (ways, slices, rows, columns): as they are and, if the recipe mirrors
        some, mirrored.
        """
        images, masks = (
            torch.empty(self._shape, dtype=self._dtype, device=self.device) for _ in "im"
        )
        for begin in range(0, len(self.slices), _LOADED):
            rows = slice(begin, min(begin + _LOADED, len(self.slices)))
            read = self.slices.gather(range(rows.start, rows.stop))
            for held, part in zip((images, masks), read, strict=True):
                part = part.to(self.device).unsqueeze(1)
                for way in range(len(held)):
                    held[way, rows] = block_sums(part.flip(-1) if way else part, self.recipe)[:, 0]
        return images, masks

    def of(self, chosen: Sequence[np.ndarray], flips: Sequence[torch.Tensor]) -> Iterator[Batch]:
        """Batches on the device, float32, as the model takes them.

        Parameters
        ----------
        chosen : arrays of n positions in ``SliceDataset.table``, one for each batch
        flips : tensors (n,) bool
            Which of these slices to mirror, if the recipe says so.

        Yields
        ------
        (Tensor, Tensor)
            Images in 0..1, (n, channels, H, W), each slice among its neighbours, and masks in
            0..1, (n, 1, H, W), where H and W are ``recipe.input_size()``.
        """
        come = self._read_ahead if self.held is None else self._taken
        for images, masks in come(chosen, flips):
            x, y = block_means(images, self.recipe), block_means(masks, self.recipe)
            yield x.div_(255), y

    def _taken(
        self, chosen: Sequence[np.ndarray], flips: Sequence[torch.Tensor]
    ) -> Iterator[Batch]:
        """From those that the device holds."""
        assert self.held is not None
        images, masks = (part.flatten(0, 1) for part in self.held)
        for rows, mirrored in zip(chosen, flips, strict=True):
            stack = torch.from_numpy(with_neighbours(rows, self.recipe))
            if self.recipe.flip:
                stack += len(self.slices) * mirrored[:, None]
            stack = stack.to(self.device, non_blocking=True)  # else it waits for the last step
            yield images[stack], masks[stack[:, self.recipe.neighbours]].unsqueeze(1)

    def _read_ahead(
        self, chosen: Sequence[np.ndarray], flips: Sequence[torch.Tensor]
    ) -> Iterator[Batch]:
        """From the store, by another thread."""
        with ThreadPoolExecutor(1) as reader:
            coming = deque(reader.submit(self._read, rows) for rows in chosen[:_AHEAD])
            for place, mirrored in zip(range(len(chosen)), flips, strict=True):
                batch = self._copied(coming.popleft().result())
                if place + _AHEAD < len(chosen):
                    coming.append(reader.submit(self._read, chosen[place + _AHEAD]))
                turned = None
                if self.recipe.flip:
                    turned = mirrored.nonzero().flatten().to(self.device, non_blocking=True)
                images, masks = (block_sums(part, self.recipe, turned) for part in batch)
                yield images, masks

    def _read(self, rows: np.ndarray) -> Batch:
        stack = with_neighbours(rows, self.recipe)
        images, masks = self.slices.gather(stack.ravel())
        images, masks = (part.view(*stack.shape, *SLICE) for part in (images, masks))
        masks = masks[:, self.recipe.neighbours, None].contiguous()
        if self.device.type == "cuda":  # from pinned memory the copy overlaps with computing
            return images.pin_memory(), masks.pin_memory()
        return images, masks

    def _copied(self, batch: Batch) -> Batch:
        """To the device; a GPU copies in a stream of its own, beside the step that it computes."""
        if self._copying is None:
            return batch[0].to(self.device), batch[1].to(self.device)
        with torch.cuda.stream(self._copying):
            images, masks = (part.to(self.device, non_blocking=True) for part in batch)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        for part in (images, masks):
            part.record_stream(computing)  # its memory is not given away before it is used
        return images, masks
