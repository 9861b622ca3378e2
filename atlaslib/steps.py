"""One step of training: a batch of bytes in, a better model out."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from atlaslib.augment import augment
from atlaslib.batches import Batches, epoch_order
from atlaslib.cohort import Cohort
from atlaslib.cost import fits_into_memory
from atlaslib.evaluation import best_device, fast_layout, half_precision
from atlaslib.models import build_model
from atlaslib.recipes import Recipe
from atlaslib.slices import SliceDataset
from atlaslib.splits import divide
from atlaslib.world import World

_LONG = 2000  # steps from which compiling the model on a GPU pays, where there is the compiler


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one clear line."""


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Meanwhile, numbers below 1e-38 are 0: a CPU computes with them many times more slowly."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@dataclass
class Trainee:
    """A recipe's model with all that a step needs, on the device."""

    recipe: Recipe
    cohort: Cohort
    custom: nn.Module | None
    world: World
    progress: bool

    def __post_init__(self) -> None:
        recipe = self.recipe
        if recipe.batch_size % self.world.size:
            raise TrainingError(
                f"a batch of {recipe.batch_size} slices cannot be shared evenly by "
                f"{self.world.size} processes"
            )
        self.device = best_device()
        if self.device.type == "cuda":  # the peak of this run, not of one before it
            torch.cuda.reset_peak_memory_stats()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(recipe.seed)
        model = self.custom or build_model(recipe.model, **recipe.model_options())
        self.parts = divide(self.cohort, recipe)
        with self.world.first_before_others():  # it makes the store, the others find it
            self.slices, self.validation = (
                SliceDataset(part, progress=self.progress) for part in self.parts[:2]
            )
        if recipe.initial_prior:
            set_prior(model, self.slices, recipe)
        if self.world.size > 1 and self.device.type == "cuda":  # torch has none such for a CPU
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # means over the whole batch
        self.model = fast_layout(model, self.device)
        self.forward: nn.Module = self.model
        count = len(epoch_order(self.slices.table, recipe, 0))
        if self.world.size > 1 and count < recipe.batch_size:
            raise TrainingError(
                f"{count} slices to train on are less than a batch of {recipe.batch_size}, which "
                f"{self.world.size} processes would share"
            )
        steps = recipe.epochs * count // recipe.batch_size
        if self.device.type == "cuda" and steps >= _LONG and can_compile(self.model):
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        if self.world.size > 1:
            torch.manual_seed(recipe.seed + self.world.rank)  # each drops out other activations
            self.forward = DistributedDataParallel(self.forward)
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=recipe.learning_rate, fused=self.device.type != "mps"
        )
        self.half = half_precision(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        self.weight = torch.tensor(recipe.pos_weight, device=self.device)
        self.batches = Batches(self.slices, self.device, recipe)
        if self.device.type == "cpu":
            self._foresee_memory()
        if self.progress:
            tqdm.write(f"{self.device.type}: {self.batches.where}", file=sys.stdout)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step of the optimiser; the loss, on the device: NaN if a gradient is infinite.

        Parameters
        ----------
        x : (n, channels, H, W) float32, in 0..1
        y : (n, 1, H, W) float32, in 0..1
        """
        if self.recipe.augment:
            x, y = augment(x, y)
        self.optimiser.zero_grad(set_to_none=True)
        loss = None
        try:
            loss = self._gradients(x, y)
        except RuntimeError as error:
            if not _lacks_memory(error):
                raise
        if loss is None:  # only here has the failed attempt given its memory back
            size = self.recipe.micro_batch or len(x)
            # of several processes none can try by itself: steps are taken together
            fits = self._largest_below(size) if self.world.size == 1 else size // 2
            raise TrainingError(self._does_not_fit(size, fits))
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if not self.scaler.is_enabled():  # it leaves out steps with infinite gradients by itself
            loss = loss + 0 * norm
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss

    def _gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of parts of the batch; the mean loss."""
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
        """Of logits and masks in 0..1, each (n, 1, H, W)."""
        loss = torch.zeros((), device=self.device)
        if "cross entropy" in self.recipe.loss:
            loss = F.binary_cross_entropy_with_logits(logits, y, pos_weight=self.weight)
        if "dice" in self.recipe.loss:  # of the batch as a whole: few slices have no lesion at all
            p = logits.sigmoid()
            loss = loss + 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        return loss

    def _foresee_memory(self) -> None:
        """Refuse what the computer lacks memory for: it would end the program without a word."""
        size = self.recipe.micro_batch or self.recipe.batch_size // self.world.size
        try:
            fits = fits_into_memory(self.model, self._zeros(2))
        except RuntimeError as error:
            if not _lacks_memory(error):
                raise
            fits = 0
        if fits < size:
            raise TrainingError(self._does_not_fit(size, fits))

    def _zeros(self, count: int) -> torch.Tensor:
        """Empty slices, as the model takes them."""
        channels = 1 + 2 * self.recipe.neighbours
        return torch.zeros(count, channels, *self.recipe.input_size(), device=self.device)

    def _largest_below(self, size: int) -> int:
        """Which smaller part of a batch fits, found by trying; 0 if none does."""
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

    def _does_not_fit(self, size: int, fits: int) -> str:
        where = "GPU" if self.device.type == "cuda" else "computer"
        text = f"{size} slices at once do not fit into the memory of this {where}"
        if not fits:
            return f"{text}, and neither does a single one"
        would = "would" if self.world.size == 1 else "may"
        return f"{text}; {fits} {would}: set micro_batch={fits}, which adds up their gradients"


def can_compile(model: nn.Module) -> bool:
    """Whether ``torch.compile`` has what it needs on this machine, and gains anything."""
    return (
        find_spec("triton") is not None
        and torch.cuda.get_device_capability() >= (7, 0)
        and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
        # it breaks the graph at each of these
        and not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    )


def _lacks_memory(error: RuntimeError) -> bool:
    said = ("out of memory", "not enough memory", "can't allocate memory")  # CUDA, Windows, Linux
    return any(words in str(error) for words in said)


def set_prior(model: nn.Module, slices: SliceDataset, recipe: Recipe) -> None:
    """Start the model's final bias at the share of lesion, weighted as the loss weighs it.

    A fresh network then predicts what the constant predictor would, instead of spending its
    first steps on unlearning a random bias. A model without ``final_bias`` is left as it is.
    """
    bias = getattr(model, "final_bias", None)
    if bias is None:
        return
    lesion = slices.table.lesion_pixels.to_numpy()[epoch_order(slices.table, recipe, 0)]
    rows, columns = recipe.field_of_view()
    share = recipe.pos_weight * max(lesion.mean(), 1e-3) / (rows * columns - lesion.mean())
    with torch.no_grad():
        bias.fill_(float(np.log(share)))


def peak_memory_mb(device: torch.device) -> float:
    """On a GPU what tensors took at most; on a CPU what the whole process did."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
    return float("nan")
