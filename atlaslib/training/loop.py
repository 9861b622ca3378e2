"""The training loop; start reading at :func:`train`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from atlaslib.data.cohort import Cohort
from atlaslib.data.splits import VALIDATION, Split
from atlaslib.evaluation.scoring import validate
from atlaslib.files import DataError, expect, user_path
from atlaslib.models import count_parameters
from atlaslib.models.device import use_device
from atlaslib.networks import CustomModel
from atlaslib.recipes import Recipe
from atlaslib.runs import (
    ENGINE,
    Run,
    create_run_folder,
    experiment_key,
    is_finished,
    load_run,
    package_versions,
    run_folder,
)
from atlaslib.training.batches import epoch_batches
from atlaslib.training.checkpoints import StopRequest, locked
from atlaslib.training.custom import (
    Augment,
    Callbacks,
    Custom,
    Loss,
    Sampler,
    checked_callbacks,
)
from atlaslib.training.distributed import DistributedContext, join_processes
from atlaslib.training.progress import ProgressBar
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingError, TrainingSession, denormals_as_zero, peak_memory_mb
from atlaslib.training.trial import try_one_batch


def train(
    recipe: Recipe,
    cohort: Cohort,
    out: str | Path | None = None,
    model: CustomModel | None = None,
    *,
    split: Split | None = None,
    loss: Loss | None = None,
    sampler: Sampler | None = None,
    augment: Augment | None = None,
    max_minutes: float | None = None,
    callbacks: Callbacks = (),
    device: str | torch.device | None = None,
    progress: bool = True,
    tensorboard: bool = False,
) -> Run:
    """Train a model on the training subjects of a cohort.

    The cohort is split as the recipe says, by default by subject; after each epoch
    the validation subjects are segmented, and the weights with the best mean Dice per scan are
    kept (ties go to the lower loss). The test subjects are not touched.

    With ``model``, ``split``, ``loss``, ``sampler``, ``augment`` and ``max_minutes`` you replace
    what the recipe says. Such a run needs ``out``, because the library cannot name what it does not
    know; its provenance tells what was yours. A function is known by its name, an object by that of
    its type: to train with another one of that name, choose another folder.

    An interrupted run resumes from its last checkpoint and on a CPU ends with the same weights as
    an uninterrupted one; Ctrl-C and SIGTERM save a checkpoint first (of a single process). A
    finished run of the same recipe, cohort and engine version is read, not repeated.

    The same seed gives the same weights on the same kind of processor with the same number of
    threads (``torch.set_num_threads``), which the run's provenance records: sums that are split
    differently are rounded differently.

    Under ``torchrun`` the processes share each batch (DistributedDataParallel) and the main process
    writes the files. The result is that of a single process up to rounding, except for what is
    computed over each process's share: the Dice loss and, on a CPU, batch normalisation.

    Parameters
    ----------
    recipe : Recipe
    cohort : Cohort
        The whole cohort, not one part of a split.
    out : path, optional
        The run's folder. None: one in ``atlaslib.home()/runs``, named by model, profile and key.
    model : torch.nn.Module or function that makes one, optional
        Your own: maps (N, C, H, W) intensities in 0..1 to (N, 1, H, W) logits, where C is
        ``1 + 2 * recipe.context_slices`` and H, W are ``recipe.input_size()``, 232 x 196 for the
        paper's recipes. A copy of a module is trained; a function is called after the seed is set.
        If it has a parameter ``final_bias``, the recipe's ``initial_prior`` sets it. On a GPU it
        runs in 16 bits. None: built from the recipe.
    split : Split, optional
        Which subjects to train on, to validate on and to test. None: drawn as the recipe says.
    loss : function, optional
        ``loss(logits, masks)`` gives a tensor without dimensions, from logits and from masks in
        0..1, each (n, 1, H, W) float32 on the device, where a copy of a module is put, too. None:
        the recipe's. The losses in the history's validation columns are always the recipe's.
    sampler : function, optional
        ``sampler(table, epoch, generator)`` gives the slices of an epoch (from 0) in their order:
        positions in ``table``, which is :attr:`atlaslib.SliceDataset.table` of the training scans.
        Every epoch needs as many batches as the first. With the same epoch and numpy generator it
        must give the same slices, for the run to be resumed. None: as the recipe says.
    augment : function, optional
        ``augment(images, masks)`` gives both in the same shapes: (n, channels, H, W) and
        (n, 1, H, W) float32 in 0..1, on the device. Called after the recipe's mirroring, in place
        of its ``augment``. Its random numbers should come from torch's own generator, whose state
        checkpoints save.
    max_minutes : float, optional
        No further epoch begins if, at the mean duration of those before it, it would end later; the
        first always does. The run is then finished, and ``provenance["ended"]`` says why; with the
        recipe's ``decay`` its learning rate has not fallen to 0.
    callbacks : sequence of functions
        Each is called in the main process with each new row of the history, after its checkpoint is
        written. An exception that it raises ends the training, which can be resumed.
    device : str or torch.device, optional
        Such as "cpu" or "cuda:1". None: the GPU if there is one, else the CPU.
    progress : bool
    tensorboard : bool
        Also write the history for TensorBoard, to the folder ``tensorboard`` of the run.

    Returns
    -------
    Run

    Raises
    ------
    DataError
        If a file of the cohort is unreadable, ``out`` holds something else, another process is
        training in it, or the disk is full.
    TrainingError
        If the loss is no longer finite, or a batch does not fit into memory.
    ValueError
        If the model cannot be trained as the recipe says, something of your own does not do what is
        written above or comes without ``out``, or there is no such device.
    """
    expect("recipe", recipe, Recipe)
    expect("cohort", cohort, Cohort)
    custom = Custom(model, split, loss, sampler, augment, max_minutes)
    custom.check(recipe)
    callbacks = checked_callbacks(callbacks)
    if (own := custom.describe()) and out is None:
        raise ValueError(f"a run with something of your own ({own}) needs out=, its folder")
    folder = user_path(out) if out is not None else run_folder(recipe, cohort)
    finished = is_finished(folder)
    with use_device(device):
        _train_in(folder, recipe, cohort, custom, callbacks, progress, tensorboard)
    if finished:
        custom.warn_if_unknown(folder, "read, because it was finished before")
    return load_run(folder, model)


def _train_in(
    folder: Path,
    recipe: Recipe,
    cohort: Cohort,
    custom: Custom,
    callbacks: Callbacks,
    progress: bool,
    tensorboard: bool,
) -> None:
    """Train in a folder, unless the run in it is finished; all processes together."""
    context = join_processes()
    if not is_finished(folder):
        try_one_batch(recipe, custom, context.size)
    if context.is_main:
        create_run_folder(folder, recipe, experiment_key(recipe, cohort, custom.describe()))
    context.barrier()
    if not (folder / "recipe.json").is_file():
        text = f"process {context.rank} cannot see the run; all processes must share its folder"
        raise DataError(f"{folder}: {text}")
    if not is_finished(folder):
        with locked(folder) if context.is_main else contextlib.nullcontext(), denormals_as_zero():
            shown = progress and context.is_main
            session = TrainingSession(recipe, cohort, custom, context, shown)
            _train(folder, session, callbacks, tensorboard)
    context.barrier()


def _train(folder: Path, session: TrainingSession, callbacks: Callbacks, tensorboard: bool) -> None:
    recipe, context = session.recipe, session.context
    state = TrainingState(folder, session, context)
    state.resume()
    context.barrier()  # the main process deletes the checkpoints at the end
    writer = _tensorboard(folder) if tensorboard and context.is_main else None
    own = "" if session.custom.model is None else type(session.model).__name__
    bar = ProgressBar(recipe, state, session.progress, own)
    with StopRequest(context.size == 1) as stop, bar:
        while not state.ended():
            epoch = len(state.history)
            session.model.train()
            order, mirrored = epoch_batches(session.order(epoch), recipe, epoch)
            state.check_steps(len(order))
            share = slice(context.rank, None, context.size)  # of each batch, for this process
            chosen = [rows[share] for rows in order[state.step :]]
            flips = [each[share] for each in mirrored[state.step :]]
            for x, y in session.batches.iterate(chosen, flips):
                if recipe.decay:  # the learning rate's schedule
                    done = (epoch + state.step / state.steps) / recipe.epochs
                    session.optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - done)
                state.record_step(session.step(x, y))
                bar.advance(state)
                if stop.asked or state.checkpoint_due():
                    state.save()
                    if stop.asked:
                        raise KeyboardInterrupt
            row = {"epoch": epoch + 1, "loss": context.mean(state.total) / state.step}
            row |= _validate(session, context)
            row["seconds"] = state.elapsed()
            state.end_epoch(row)
            bar.end_epoch(row)
            if writer is not None:
                for name in ("loss", "validation_loss", "validation_dice"):
                    writer.add_scalar(name, row[name], epoch + 1)
            for callback in callbacks if context.is_main else ():
                callback(dict(row))
    ended = state.ended()  # all processes take part in this
    if context.is_main:
        state.finish(_provenance(session) | {"ended": ended})
    # while the last epoch was validated: this run is whole, but none begins after it
    if stop.asked:
        raise KeyboardInterrupt


def _validate(session: TrainingSession, context: DistributedContext) -> dict[str, float]:
    """Mean scores of the validation scans, which the processes share; all use the same model."""
    # the running statistics of batch normalisation differ between processes
    context.broadcast(session.model.buffers())
    positions = range(context.rank, len(session.validation.cohort), context.size)
    rows = validate(session.model, session.validation, session.recipe, VALIDATION, positions)
    table = pd.DataFrame(context.gather(rows))
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


def estimate_cost(
    recipe: Recipe, cohort: Cohort, steps: int = 3, progress: bool = True
) -> pd.Series:
    """Estimate a run's time and memory from a few steps; writes nothing but the slice cache.

    Returns
    -------
    Series
        parameters; slices (per epoch); steps (of the whole run); seconds_per_step, the median
        without the first step; minutes, for all steps and the validation after each epoch;
        memory_mb, at the peak.
    """
    session = TrainingSession(recipe, cohort, Custom(), DistributedContext(), progress)
    chosen, flips = epoch_batches(session.order(0), recipe, 0)
    seconds = []
    session.model.train()
    for x, y in session.batches.iterate(chosen[: steps + 1], flips[: steps + 1]):
        clock = time.perf_counter()
        float(session.step(x, y))
        seconds.append(time.perf_counter() - clock)
    clock = time.perf_counter()
    validate(session.model, session.validation, recipe, VALIDATION, range(1))
    scan = time.perf_counter() - clock
    step = float(np.median(seconds[1:] or seconds))
    validation = recipe.epochs * len(session.validation.cohort) * scan
    return pd.Series(
        {
            "parameters": count_parameters(session.model),
            "slices": len(chosen) * len(chosen[0]),
            "steps": recipe.epochs * len(chosen),
            "seconds_per_step": step,
            "minutes": (recipe.epochs * len(chosen) * step + validation) / 60,
            "memory_mb": peak_memory_mb(session.device),
        },
        dtype=object,
    )


def _provenance(session: TrainingSession) -> dict[str, Any]:
    """What the run's numbers come from: data, engine version, machine and packages."""
    names = ("train", "validation", "test")
    device, cohort = session.device, session.cohort
    return {
        "source": cohort.source,
        "cohort": cohort.fingerprint(),
        "engine": ENGINE,
        "profile": session.recipe.profile,
        "custom": session.custom.describe(),
        "parameters": count_parameters(session.model),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "processes": session.context.size,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": peak_memory_mb(device),
        "packages": package_versions(),
        "split": {n: list(part.subjects) for n, part in zip(names, session.parts, strict=True)},
    }
