"""The training loop: read it from the top of :func:`train` to the bottom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from atlaslib.batches import epoch_batches, epoch_order
from atlaslib.checkpoints import Stop, locked
from atlaslib.cohort import Cohort, DataError
from atlaslib.evaluation import validate
from atlaslib.models import count_parameters
from atlaslib.progress import Bar
from atlaslib.recipes import Recipe
from atlaslib.runs import (
    Run,
    code_fingerprint,
    experiment_key,
    load_run,
    packages,
    run_folder,
    start,
)
from atlaslib.splits import VALIDATION
from atlaslib.state import State
from atlaslib.steps import Trainee, TrainingError, denormals_as_zero, peak_memory_mb
from atlaslib.world import World, join


def train(
    recipe: Recipe,
    cohort: Cohort,
    out: str | Path | None = None,
    model: nn.Module | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    after_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Run:
    """Train a model on the training subjects of a cohort.

    The cohort is split by subject (``cohort.split(seed=recipe.split_seed)``); after each epoch
    the validation subjects are segmented, and the weights with the best mean Dice per scan are
    kept (of equals, those with the lower loss). The test subjects are not touched.

    A run that was cut off, at whatever moment, goes on from its last checkpoint, and on a CPU ends
    with the weights that it would have had; Ctrl-C and SIGTERM save one first. A finished run of
    the same recipe, cohort and code is read, not repeated.

    Started by ``torchrun``, the processes share each batch (DistributedDataParallel), and the
    first one writes. They end where one process would, up to rounding, but for what looks at a
    batch as a whole: the Dice loss is that of each share, and so is batch normalisation on a CPU.

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
    tensorboard : bool
        Write the history for TensorBoard as well, to the folder ``tensorboard`` of the run.
    after_epoch : function, optional
        Given each new row of the history when its checkpoint is written, by the first process. An
        exception that it raises ends the training, which can be resumed.

    Returns
    -------
    Run

    Raises
    ------
    DataError
        If a file of the cohort is unreadable, ``out`` holds something else, another process
        trains in it, or the disk is full.
    TrainingError
        If the loss is no longer a number, or a batch does not fit into memory.
    """
    folder = Path(out) if out is not None else run_folder(recipe, cohort, model)
    world = join()
    if world.first:
        start(folder, recipe, experiment_key(recipe, cohort, model))
    world.wait()
    if not (folder / "recipe.json").is_file():
        text = f"not to be found by process {world.rank}; all must share the run's folder"
        raise DataError(f"{folder}: {text}")
    if not (folder / "provenance.json").is_file():
        with locked(folder) if world.first else contextlib.nullcontext(), denormals_as_zero():
            _train(
                folder, recipe, cohort, model, world, progress and world.first, tensorboard,
                after_epoch,
            )  # fmt: skip
    world.wait()
    return load_run(folder, model)


def _train(
    folder: Path,
    recipe: Recipe,
    cohort: Cohort,
    custom: nn.Module | None,
    world: World,
    progress: bool,
    tensorboard: bool,
    after_epoch: Callable[[dict[str, float]], None] | None,
) -> None:
    trainee = Trainee(recipe, cohort, custom, world, progress)
    state = State(folder, trainee, world)
    state.resume()
    world.wait()  # the first process removes checkpoints when it is done
    writer = _tensorboard(folder) if tensorboard and world.first else None
    steps = len(epoch_order(trainee.slices.table, recipe, 0)) // recipe.batch_size or 1
    bar = Bar(recipe, steps, state, progress)
    with Stop(world.size == 1) as stop, bar:
        for epoch in range(len(state.history), recipe.epochs):
            if state.is_stuck():
                break
            trainee.model.train()
            order, mirrored = epoch_batches(
                epoch_order(trainee.slices.table, recipe, epoch), recipe, epoch
            )
            mine = slice(world.rank, None, world.size)  # of each batch
            chosen = [rows[mine] for rows in order[state.step :]]
            flips = [each[mine] for each in mirrored[state.step :]]
            for x, y in trainee.batches.of(chosen, flips):
                if recipe.decay:
                    done = (epoch + state.step / steps) / recipe.epochs
                    trainee.optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - done)
                state.took(trainee.step(x, y))
                bar.advance(state)
                if stop.asked or state.is_due():
                    state.save()
                    if stop.asked:
                        raise KeyboardInterrupt
            row = {"epoch": epoch + 1, "loss": world.mean(state.total) / state.step}
            row |= _validated(trainee, world)
            row["seconds"] = state.elapsed()
            state.end_epoch(row)
            bar.end_epoch(row)
            if writer is not None:
                for name in ("loss", "validation_loss", "validation_dice"):
                    writer.add_scalar(name, row[name], epoch + 1)
            if after_epoch is not None and world.first:
                after_epoch(row)
    if world.first:
        state.finish(_provenance(recipe, cohort, trainee, world))


def _validated(trainee: Trainee, world: World) -> dict[str, float]:
    """Each process segments its share of the validation scans, by one and the same model."""
    world.share(trainee.model.buffers())  # means of batch normalisation differ between processes
    positions = range(world.rank, len(trainee.validation.cohort), world.size)
    rows = validate(trainee.model, trainee.validation, trainee.recipe, VALIDATION, positions)
    table = pd.DataFrame(world.gathered(rows))
    return {
        "validation_loss": float(table.loss.mean()),
        "validation_cross_entropy": float(table.cross_entropy.mean()),
        "validation_dice": float(table.dice.mean()),
    }


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError("TensorBoard is not installed: pip install tensorboard") from None
    return SummaryWriter(folder / "tensorboard")


def rehearse(recipe: Recipe, cohort: Cohort, steps: int = 3, progress: bool = True) -> pd.Series:
    """What a run would take, from a few steps of it; nothing is written but the store of slices.

    Returns
    -------
    Series
        parameters; slices (of an epoch); steps (of the run); seconds_per_step, the median after
        one step that is not counted; minutes, of all steps and the validation after each epoch;
        memory_mb, at the peak.
    """
    trainee = Trainee(recipe, cohort, None, World(), progress)
    order = epoch_order(trainee.slices.table, recipe, 0)
    chosen, flips = epoch_batches(order, recipe, 0)
    seconds = []
    trainee.model.train()
    for x, y in trainee.batches.of(chosen[: steps + 1], flips[: steps + 1]):
        clock = time.perf_counter()
        float(trainee.step(x, y))
        seconds.append(time.perf_counter() - clock)
    clock = time.perf_counter()
    validate(trainee.model, trainee.validation, recipe, VALIDATION, range(1))
    scan = time.perf_counter() - clock
    step = float(np.median(seconds[1:] or seconds))
    validation = recipe.epochs * len(trainee.validation.cohort) * scan
    return pd.Series(
        {
            "parameters": count_parameters(trainee.model),
            "slices": len(chosen) * len(chosen[0]),
            "steps": recipe.epochs * len(chosen),
            "seconds_per_step": step,
            "minutes": (recipe.epochs * len(chosen) * step + validation) / 60,
            "memory_mb": peak_memory_mb(trainee.device),
        },
        dtype=object,
    )


def _provenance(recipe: Recipe, cohort: Cohort, trainee: Trainee, world: World) -> dict[str, Any]:
    """Where a number comes from."""
    names = ("train", "validation", "test")
    device = trainee.device
    return {
        "source": cohort.source,
        "cohort": cohort.fingerprint(),
        "code": code_fingerprint(),
        "profile": recipe.profile,
        "parameters": count_parameters(trainee.model),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": peak_memory_mb(device),
        "packages": packages(),
        "split": {n: list(part.subjects) for n, part in zip(names, trainee.parts, strict=True)},
    }
