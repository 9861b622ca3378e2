"""The training loop: read it from the top of :func:`train` to the bottom."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

from atlaslib.cohort import Cohort, write_aside
from atlaslib.evaluation import (
    best_device,
    fast_layout,
    half_precision,
    score,
    shrink,
    slice_logits,
)
from atlaslib.models import build_model, count_parameters
from atlaslib.recipes import Recipe
from atlaslib.runs import (
    Run,
    code_fingerprint,
    experiment_key,
    load_run,
    packages,
    run_folder,
    start,
    write_json,
)
from atlaslib.slices import SliceDataset


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one clear line."""


def train(
    recipe: Recipe,
    cohort: Cohort,
    out: str | Path | None = None,
    model: nn.Module | None = None,
    progress: bool = True,
) -> Run:
    """Train a model on the training subjects of a cohort.

    The cohort is split by subject (``cohort.split(seed=recipe.split_seed)``); after each epoch
    the validation subjects are segmented, and the weights with the best mean Dice per scan are
    kept (of equals, those with the lower loss). The test subjects are not touched.

    A run that was cut off goes on after its last full epoch; a finished run of the same recipe,
    cohort and code is read, not repeated.

    Parameters
    ----------
    recipe : Recipe
    cohort : Cohort
        All of it, not a part of a split.
    out : path, optional
        The run's folder. None: a folder in ``atlaslib.home()/runs`` named by the experiment.
    model : torch.nn.Module, optional
        Your own: (N, 1, H, W) intensities in 0..1 to (N, 1, H, W) logits, where H and W are
        ``recipe.input_size()``, 232 x 196 in the paper's. None: built by name.
    progress : bool

    Returns
    -------
    Run

    Raises
    ------
    DataError
        If a file of the cohort is unreadable, or ``out`` holds something else.
    TrainingError
        If the loss is no longer a number.
    """
    folder = Path(out) if out is not None else run_folder(recipe, cohort, model)
    start(folder, recipe, experiment_key(recipe, cohort, model))
    if (folder / "provenance.json").is_file():
        return load_run(folder, model)

    device = best_device()
    torch.manual_seed(recipe.seed)
    custom = model
    model = custom or build_model(recipe.model, **recipe.model_options())
    parts = cohort.split(seed=recipe.split_seed)
    slices, validation = (SliceDataset(part, progress=progress) for part in parts[:2])
    if recipe.initial_prior:
        set_prior(model, slices, recipe)
    model = fast_layout(model, device)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    half = half_precision(device)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    state = _State(folder, model, optimiser, scaler)
    state.resume(device)
    images, masks = _resident(slices, device)
    weight = torch.tensor(recipe.pos_weight, device=device)

    for epoch in range(len(state.history), recipe.epochs):
        clock = time.perf_counter()
        order = epoch_order(slices.table, recipe, epoch)
        steps = _batches(order, recipe.batch_size)
        total = torch.zeros((), device=device)  # summed there: reading it each step would wait
        bar = tqdm(steps, f"{recipe.model} {epoch + 1}/{recipe.epochs}", disable=not progress)
        model.train()
        for step, chosen in enumerate(bar):
            if recipe.decay:
                done = (epoch + step / len(steps)) / recipe.epochs
                optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - done)
            x = images[chosen].to(device).unsqueeze(1).float() / 255  # (N, 1, 232, 196)
            y = masks[chosen].to(device).unsqueeze(1).float()
            if recipe.flip:
                mirrored = torch.rand(len(x), 1, 1, 1, device=device) < 0.5
                x, y = (torch.where(mirrored, z.flip(3), z) for z in (x, y))
            x, y = shrink(x, recipe), shrink(y, recipe)
            with torch.autocast(device.type, half, enabled=half is not None):
                logits = model(x)
            loss = F.binary_cross_entropy_with_logits(logits.float(), y, pos_weight=weight)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            scaler.step(optimiser)
            scaler.update()
            total += loss.detach()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{float(total) / (step + 1):.4f}", refresh=False)
        row = {"epoch": epoch + 1, "loss": float(total) / len(steps)}
        if not np.isfinite(row["loss"]):
            raise TrainingError(
                f"{folder}: the loss of epoch {epoch + 1} is {row['loss']}; the epochs before are "
                f"kept. Try a learning rate below {recipe.learning_rate}"
            )
        row |= validate(model, validation, recipe)
        row["seconds"] = time.perf_counter() - clock
        state.end_epoch(row)
        if progress:
            tqdm.write(
                f"{recipe.model} {epoch + 1}/{recipe.epochs}: loss {row['loss']:.4f}, validation "
                f"loss {row['validation_loss']:.4f}, Dice {row['validation_dice']:.3f}, "
                f"{row['seconds']:.0f} s",
                file=sys.stdout,
            )

    state.finish(_provenance(recipe, cohort, parts, model, device))
    return load_run(folder, custom)


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


def epoch_order(table: pd.DataFrame, recipe: Recipe, epoch: int) -> np.ndarray:
    """Which slices an epoch sees, in which order: positions in ``SliceDataset.table``.

    Drawn from the seed and the epoch's number alone, so that a resumed run sees the same. With a
    ``lesion_share``, all slices with lesion and as many other slices of the brain as make up the
    rest, other ones in each epoch.
    """
    generator = np.random.default_rng([recipe.seed, epoch])
    if recipe.lesion_share is None:
        return generator.permutation(len(table))
    lesion = np.flatnonzero(table.lesion_pixels > 0)
    other = np.flatnonzero((table.lesion_pixels == 0) & (table.brain_pixels > 0))
    count = round(len(lesion) * (1 - recipe.lesion_share) / recipe.lesion_share)
    drawn = generator.choice(other, min(count, len(other)), replace=False)
    return generator.permutation(np.concatenate([lesion, drawn]))


def _batches(order: np.ndarray, size: int) -> list[torch.Tensor]:
    """Full batches: a last one of a single slice would break batch normalisation."""
    full = max(1, len(order) // size) * size
    return list(torch.from_numpy(order[:full]).split(size))


def validate(model: nn.Module, slices: SliceDataset, recipe: Recipe) -> dict[str, float]:
    """Mean loss and mean Dice per scan over the slices' cohort."""
    device = next(model.parameters()).device
    model.eval()
    rows = []
    for position in range(len(slices.cohort)):
        images, masks = (x.to(device) for x in slices.scan(position))
        rows.append(score(slice_logits(model, images, recipe), masks, recipe.pos_weight))
    table = pd.DataFrame(rows)
    return {
        "validation_loss": float(table.loss.mean()),
        "validation_dice": float(table.dice.mean()),
    }


def _resident(slices: SliceDataset, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All slices as bytes, on the device if they take less than half of its free memory.

    43 281 slices are 2 GB of image and 2 GB of mask: a GPU holds them, and no loader is needed.
    """
    images, masks = slices.gather(np.arange(len(slices)))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes + masks.nbytes < free / 2:
            return images.to(device), masks.to(device)
    return images, masks


@dataclass
class _State:
    """What a run must not lose: saved after each epoch, aside and renamed."""

    folder: Path
    model: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __post_init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.best = (-1.0, 0.0)  # validation Dice, minus validation loss
        self.weights = self._copy()

    def _copy(self) -> dict[str, torch.Tensor]:
        state = self.model.state_dict().items()
        return {name: value.detach().cpu().clone().contiguous() for name, value in state}

    def end_epoch(self, row: dict[str, float]) -> None:
        """Keep the weights if they are the best so far; write checkpoint and history."""
        self.history.append(row)
        dice = row["validation_dice"]
        reached = (dice if np.isfinite(dice) else 0.0, -row["validation_loss"])
        if reached > self.best:
            self.best, self.weights = reached, self._copy()
        content = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": list(_random_states()),
            "history": self.history,
            "best": self.best,
            "weights": self.weights,
        }
        write_aside(self.folder / "checkpoint.pt", lambda name: torch.save(content, name))
        self._write_history()

    def _write_history(self) -> None:
        columns = ["epoch", "loss", "validation_loss", "validation_dice", "seconds"]
        table = pd.DataFrame(self.history, columns=columns)
        write_aside(self.folder / "history.csv", lambda name: table.to_csv(name, index=False))

    def resume(self, device: torch.device) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        self.model.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.scaler.load_state_dict(content["scaler"])
        self.history, self.best = content["history"], tuple(content["best"])
        self.weights = {name: value.cpu() for name, value in content["weights"].items()}
        torch.set_rng_state(content["random"][0].cpu())
        if device.type == "cuda" and len(content["random"]) > 1:
            torch.cuda.set_rng_state(content["random"][1].cpu())

    def finish(self, provenance: dict[str, Any]) -> None:
        """Weights first, provenance last: a folder that has it is complete."""
        provenance["seconds"] = sum(row["seconds"] for row in self.history)
        weights = self.weights
        write_aside(self.folder / "weights.safetensors", lambda name: save_file(weights, name))
        self._write_history()
        write_json(self.folder / "provenance.json", provenance)
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)


def _random_states() -> Iterator[torch.Tensor]:
    yield torch.get_rng_state()
    if torch.cuda.is_available():
        yield torch.cuda.get_rng_state()


def _provenance(
    recipe: Recipe,
    cohort: Cohort,
    parts: tuple[Cohort, Cohort, Cohort],
    model: nn.Module,
    device: torch.device,
) -> dict[str, Any]:
    """Where a number comes from."""
    names = ("train", "validation", "test")
    return {
        "source": cohort.source,
        "cohort": cohort.fingerprint(),
        "code": code_fingerprint(),
        "profile": recipe.profile,
        "parameters": count_parameters(model),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "peak_memory_mb": _peak_memory_mb(device),
        "packages": packages(),
        "split": {name: list(part.subjects) for name, part in zip(names, parts, strict=True)},
    }


def _peak_memory_mb(device: torch.device) -> float:
    """On a GPU what tensors took at most; on a CPU what the whole process did."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)
    return float("nan")
