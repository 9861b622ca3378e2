"""One training step: forward and backward pass on a batch, and an update of the weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.data.slices import SliceDataset
from atlaslib.data.splits import split_cohort
from atlaslib.files import one_line
from atlaslib.models.device import best_device, fast_layout, half_precision, is_out_of_memory
from atlaslib.networks import new_network
from atlaslib.recipes import Recipe
from atlaslib.training.augment import augment_batch
from atlaslib.training.batches import Batches, epoch_order
from atlaslib.training.custom import Custom
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.memory import max_batch_size

_COMPILE_FROM = 2000  # steps from which compiling the model for a GPU saves time overall


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one clear line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Flush denormal numbers (below 1e-38) to 0: they slow a CPU down many times."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@dataclass
class TrainingSession:
    """The model of a recipe on its device, with everything that a training step needs."""

    recipe: Recipe
    cohort: Cohort
    custom: Custom
    context: DistributedContext
    progress: bool

    def __post_init__(self) -> None:
        recipe = self.recipe
        if recipe.batch_size % self.context.size:
            raise TrainingError(
                f"a batch of {recipe.batch_size} slices cannot be shared evenly by "
                f"{self.context.size} processes"
            )
        self.device = best_device()
        self.custom = self.custom.on(self.device)
        if self.device.type == "cuda":  # the peak of this run, not of an earlier one
            torch.cuda.reset_peak_memory_stats()
        self.half = half_precision(self.device)
        if self.half is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(recipe.seed)
        model = new_network(recipe, self.custom.model)
        self.parts = self._split()
        with self.context.main_first():  # it makes the slice cache for all
            self.slices, self.validation = (
                SliceDataset(part, progress=self.progress) for part in self.parts[:2]
            )
        if recipe.initial_prior:
            set_initial_bias(model, self.slices.table, self.order(0), recipe)
        if self.context.size > 1 and self.device.type == "cuda":  # torch has it for GPUs only
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # statistics of the whole batch
        self.model = fast_layout(model, self.device)
        self.forward: nn.Module = self.model
        count = len(self.order(0))
        if self.context.size > 1 and count < recipe.batch_size:
            raise TrainingError(
                f"{count} training slices are fewer than a batch of {recipe.batch_size}, which "
                f"{self.context.size} processes would share"
            )
        steps = recipe.epochs * count // recipe.batch_size
        if self.device.type == "cuda" and steps >= _COMPILE_FROM and can_compile(self.model):
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        if self.context.size > 1:
            torch.manual_seed(recipe.seed + self.context.rank)  # dropout differs between processes
            own = self.custom.model is not None  # it may have layers that it does not use
            self.forward = DistributedDataParallel(self.forward, find_unused_parameters=own)
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=recipe.learning_rate, fused=self.device.type != "mps"
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        self.weight = torch.tensor(recipe.pos_weight, device=self.device)
        self.batches = Batches(self.slices, self.device, recipe)
        if self.device.type == "cpu":
            self._check_memory()
        if self.progress:
            tqdm.write(f"{self.device.type}: {self.batches.where}", file=sys.stdout)

    def _split(self) -> tuple[Cohort, Cohort, Cohort]:
        """The scans for training, validation and test."""
        if self.custom.split is None:
            return split_cohort(self.cohort, self.recipe)
        return self.custom.split.parts(self.cohort)

    def order(self, epoch: int) -> np.ndarray:
        """Which training slices an epoch sees, in which order."""
        if self.custom.sampler is None:
            return epoch_order(self.slices.table, self.recipe, epoch)
        return self.custom.positions(self.slices.table, epoch, self.recipe.seed)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Take one optimiser step; returns the loss on the device, NaN if a gradient is not finite.

        Parameters
        ----------
        x : (n, channels, H, W) float32, in 0..1
        y : (n, 1, H, W) float32, in 0..1
        """
        if self.custom.augment is not None:
            x, y = self.custom.augmented(x, y)
        elif self.recipe.augment:
            x, y = augment_batch(x, y)
        self.optimiser.zero_grad(set_to_none=True)
        loss = None
        try:
            loss = self._gradients(x, y)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if loss is None:  # only after the except block is the memory of the failed attempt free
            size = self.recipe.micro_batch or len(x)
            # one of several processes cannot try sizes alone: gradients are synchronised
            fits = self._largest_that_fits(size) if self.context.size == 1 else size // 2
            raise TrainingError(self._out_of_memory_message(size, fits))
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if not self.scaler.is_enabled():  # it skips steps with infinite gradients by itself
            loss = loss + 0 * norm
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss

    def _gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Accumulate gradients over parts of the batch; returns the mean loss."""
        total = torch.zeros((), device=self.device)
        size = self.recipe.micro_batch or len(x)
        for begin in range(0, len(x), size):
            part = slice(begin, begin + size)
            last = begin + size >= len(x)
            with (
                contextlib.nullcontext()
                if last or not isinstance(self.forward, DistributedDataParallel)
                else self.forward.no_sync()
            ):
                with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                    logits = self.forward(x[part])
                loss = self._loss(logits.float(), y[part]) * (len(x[part]) / len(x))
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _loss(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The user's or the recipe's loss of logits and masks in 0..1, each (n, 1, H, W)."""
        if self.custom.loss is not None:
            return self.custom.loss_of(logits, y)
        loss = torch.zeros((), device=self.device)
        if self.recipe.loss in ("cross entropy", "dice + cross entropy"):
            loss = F.binary_cross_entropy_with_logits(logits, y, pos_weight=self.weight)
        if self.recipe.loss in ("dice", "dice + cross entropy"):
            # over all slices that are computed together: a single one may have no lesion
            p = logits.sigmoid()
            loss = loss + 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return loss

    def _check_memory(self) -> None:
        """Refuse a batch that does not fit: the system would kill the process without an error."""
        size = self.recipe.micro_batch or self.recipe.batch_size // self.context.size
        try:
            fits = max_batch_size(self.model, self._zeros(2))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fits = 0
        if fits < size:
            raise TrainingError(self._out_of_memory_message(size, fits))

    def _zeros(self, count: int) -> torch.Tensor:
        """Empty slices in the shape of the model's input."""
        channels = 1 + 2 * self.recipe.context_slices
        return torch.zeros(count, channels, *self.recipe.input_size(), device=self.device)

    def _largest_that_fits(self, size: int) -> int:
        """A smaller number of slices that fits, found by halving; 0 if not even one does."""
        fits = size // 2
        while fits > 0:
            self.optimiser.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                x = self._zeros(fits)
                self._gradients(x, x[:, :1])
                break
            except RuntimeError:
                fits //= 2
        return fits

    def _out_of_memory_message(self, size: int, fits: int) -> str:
        where = "GPU" if self.device.type == "cuda" else "computer"
        text = f"{size} slices at once do not fit into the memory of this {where}"
        if not fits:
            return f"{text}, and neither does a single one"
        would = "would" if self.context.size == 1 else "may"
        return f"{text}; {fits} {would}: set micro_batch={fits} to accumulate gradients"


def can_compile(model: nn.Module) -> bool:
    """Whether ``torch.compile`` has what it needs on this machine, and would save time."""
    return (
        find_spec("triton") is not None
        and torch.cuda.get_device_capability() >= (7, 0)
        and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
        and Path(sysconfig.get_path("include"), "Python.h").is_file()
        # each of these layers breaks the graph
        and not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    )


def set_initial_bias(
    model: nn.Module, table: pd.DataFrame, order: np.ndarray, recipe: Recipe
) -> None:
    """Set the model's final bias to the base rate of lesion pixels, weighted as in the loss.

    An untrained network then predicts what the constant predictor would, instead of spending its
    first steps on unlearning a random bias. A model without ``final_bias`` is left unchanged.
    """
    bias = getattr(model, "final_bias", None)
    if bias is None:
        return
    lesion = table.lesion_pixels.to_numpy()[order]
    rows, columns = recipe.field_of_view()
    share = recipe.pos_weight * max(lesion.mean(), 1e-3) / (rows * columns - lesion.mean())
    with torch.no_grad():
        bias.fill_(float(np.log(share)))


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of all tensors on a GPU, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
    return float("nan")
