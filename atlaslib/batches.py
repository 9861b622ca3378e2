"""Which slices an epoch sees, and their bytes on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from atlaslib.evaluation import with_neighbours
from atlaslib.recipes import Recipe
from atlaslib.slices import GRID, SLICE, SliceDataset
from atlaslib.splits import TRAIN, own_slices

Batch = tuple[torch.Tensor, torch.Tensor]
_SHARE = 0.5  # of the GPU's free memory that slices may take; the rest is for the model
_AHEAD = 2  # batches that are read while the device computes


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
    """Where training takes its slices from.

    43 281 slices are 2 GB of image and 2 GB of mask as bytes: a GPU holds them, and no loader is
    needed. Where they do not fit, and on a CPU, a thread reads a few batches ahead.

    Parameters
    ----------
    slices : SliceDataset
    device : torch.device
    recipe : Recipe
        How many neighbours come with each slice.

    Attributes
    ----------
    where : str
        What was chosen, in words.
    """

    def __init__(self, slices: SliceDataset, device: torch.device, recipe: Recipe) -> None:
        self.slices, self.device, self.recipe = slices, device, recipe
        self.held: Batch | None = None
        gigabytes = 2 * len(slices) * SLICE[0] * SLICE[1] / 1e9
        self.where = f"{gigabytes:.1f} GB of slices read from the store, batch by batch"
        if device.type == "cuda" and gigabytes * 1e9 < _SHARE * torch.cuda.mem_get_info(device)[0]:
            self.held = self._loaded()
            self.where = f"{gigabytes:.1f} GB of slices held in the GPU's memory"

    def _loaded(self) -> Batch:
        """Scan by scan, so that the computer's own memory never holds them all."""
        shape = (len(self.slices), *SLICE)
        images, masks = (torch.empty(shape, dtype=torch.uint8, device=self.device) for _ in "im")
        for position in range(len(self.slices.cohort)):
            rows = slice(position * GRID[2], (position + 1) * GRID[2])
            images[rows], masks[rows] = (
                part.to(self.device) for part in self.slices.scan(position)
            )
        return images, masks

    def of(self, chosen: Sequence[np.ndarray]) -> Iterator[Batch]:
        """For each array of n positions in ``SliceDataset.table``, uint8 on the device: images
        (n, channels, 232, 196), each slice among its neighbours, and masks (n, 1, 232, 196).
        """
        if self.held is not None:
            for rows in chosen:
                stack = torch.from_numpy(with_neighbours(rows, self.recipe))
                stack = stack.to(self.device, non_blocking=True)  # else it waits for the last step
                middle = stack[:, self.recipe.neighbours]
                yield self.held[0][stack], self.held[1][middle].unsqueeze(1)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = deque(reader.submit(self._read, rows) for rows in chosen[:_AHEAD])
            for place in range(len(chosen)):
                images, masks = coming.popleft().result()
                if place + _AHEAD < len(chosen):
                    coming.append(reader.submit(self._read, chosen[place + _AHEAD]))
                yield tuple(part.to(self.device, non_blocking=True) for part in (images, masks))  # type: ignore[misc]

    def _read(self, rows: np.ndarray) -> Batch:
        stack = with_neighbours(rows, self.recipe)
        images, masks = self.slices.gather(stack.ravel())
        images, masks = (part.view(*stack.shape, *SLICE) for part in (images, masks))
        masks = masks[:, self.recipe.neighbours :][:, :1]
        if self.device.type == "cuda":  # from pinned memory the copy overlaps with computing
            return images.pin_memory(), masks.pin_memory()
        return images, masks
