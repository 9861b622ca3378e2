"""Tuning learning rate and batch size as in section 5.3 of the paper: short runs, timed steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from atlaslib.data.cohort import Cohort
from atlaslib.evaluation.intervals import Effect, compare
from atlaslib.evaluation.scoring import evaluate
from atlaslib.models import build_model
from atlaslib.models.device import best_device, fast_layout, half_precision
from atlaslib.profiles import SHORT, recipe
from atlaslib.recipes import Recipe, Value
from atlaslib.training.loop import train
from atlaslib.training.memory import parameter_bytes, saved_for_backward
from atlaslib.training.workers import run_parallel

# Changes for short runs. The learning rate is a power of ten, so that one run serves both the
# comparison of rates and that of batch sizes; at full scale the paper's own values already do.
_STEP: dict[str, dict[str, Value]] = {
    "smoke": {"learning_rate": 0.001},
    "quick": {"learning_rate": 0.001, "batch_size": 16},
    "colab": {"learning_rate": 0.001},
    "paper": {},
}


def short_recipe(profile: str, **changes: Value) -> Recipe:
    """The ResNet's recipe of a profile, shortened: one arm of the tuning in section 5.3."""
    return recipe("resnet", profile, **(SHORT[profile] | _STEP[profile] | changes))


def halved_batches(profile: str) -> tuple[int, int]:
    """The short runs' batch size and twice that, like the paper's 50 and 100."""
    size = short_recipe(profile).batch_size
    return size, 2 * size


def validation_tables(
    arms: Sequence[Recipe], cohort: Cohort, progress: bool = False
) -> list[pd.DataFrame]:
    """Train arms side by side, or load their finished runs; a table of validation scores of each.

    As many are trained at once as there are GPUs or, without any, cores. The tables are those of
    :func:`atlaslib.evaluate` on the validation subjects of an arm's split.
    """
    jobs = [(arm, cohort) for arm in dict.fromkeys(arms)]  # equal ones share a run
    results = run_parallel(_validation_table, jobs)
    tables = dict(tqdm(results, "arms", len(jobs), disable=not progress, unit="arm"))
    return [tables[arm] for arm in arms]


def _validation_table(arm: Recipe, cohort: Cohort) -> tuple[Recipe, pd.DataFrame]:
    run = train(arm, cohort, progress=False)
    part = cohort.split(seed=arm.split_seed)[1]
    return arm, evaluate(run, part, progress=False)


def tuning_effects(profile: str, tables: Mapping[Recipe, pd.DataFrame]) -> dict[str, Effect]:
    """Effects for claims C4a, C4b and C5b from the tables of :func:`validation_tables`, by arm."""
    half, whole = halved_batches(profile)

    def gain(field: str, first: Value, second: Value) -> Effect:
        one, other = (short_recipe(profile, **{field: value}) for value in (first, second))
        return compare(tables[one], tables[other])

    return {
        "C4a": gain("learning_rate", 0.0001, 0.001),
        "C4b": gain("learning_rate", 0.0001, 0.00001),
        "C5b": gain("batch_size", half, whole),
    }


def step_cost(recipe: Recipe, steps: int = 5) -> dict[str, float]:
    """Time the forward pass, backward pass and Adam step on random slices; no data are read.

    Parameters
    ----------
    recipe : Recipe
        Sets the model, the size of the slices and the batch size.
    steps : int
        Steps that are timed, after a first one that is not: it allocates memory, picks kernels.

    Returns
    -------
    dict
        batch_size; seconds (the shortest step); seconds_per_slice; memory_mb. On a GPU the
        memory is the allocator's peak. On a CPU it is a sum: activations saved for the backward
        pass, weights, gradients and Adam's moments; the true peak is somewhat higher.
        If the batch does not fit on the GPU, all values but batch_size are ``nan``.
    """
    try:
        seconds, memory = _measure(recipe, steps)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        seconds, memory = float("nan"), float("nan")
    return {
        "batch_size": recipe.batch_size,
        "seconds": seconds,
        "seconds_per_slice": seconds / recipe.batch_size,
        "memory_mb": memory / 2**20,
    }


def _measure(recipe: Recipe, steps: int) -> tuple[float, float]:
    """Seconds of the shortest step, which other programs slowed least, and its memory in bytes."""
    device = best_device()
    model = fast_layout(build_model(recipe.model, **recipe.model_options()), device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    channels = 1 + 2 * recipe.context_slices
    x = torch.rand(recipe.batch_size, channels, *recipe.input_size(), device=device)
    y = (x[:, :1] > 0.99).float()  # any target of this shape: only time and memory matter
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [_step(model, optimiser, x, y) for _ in range(steps + 1)][1:]
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = saved_for_backward(model, x) + parameter_bytes(model)
    return min(seconds), float(memory)


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> float:
    """Seconds of one step, in half precision on a GPU as in training."""
    start = time.perf_counter()
    half = half_precision(x.device)
    with torch.autocast(x.device.type, half, enabled=half is not None):
        logits = model(x)
    optimiser.zero_grad(set_to_none=True)
    F.binary_cross_entropy_with_logits(logits.float(), y).backward()
    optimiser.step()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start


def batch_costs(recipe: Recipe, sizes: list[int], steps: int = 5) -> pd.DataFrame:
    """One row of :func:`step_cost` for each batch size."""
    arms = [dataclasses.replace(recipe, batch_size=size) for size in sizes]
    return pd.DataFrame([step_cost(arm, steps) for arm in arms])
