"""What one step of training costs: seconds and memory, by batch size."""

from __future__ import annotations

import copy
import dataclasses
import os
import time

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.evaluation import best_device, fast_layout, half_precision
from atlaslib.models import build_model, count_parameters
from atlaslib.recipes import Recipe

_BYTES = 4  # of a float32 number
_PEAK = 1.2  # a step's memory at its peak, by what it keeps for the backward pass: at least so much
_COPIES = 4  # of each parameter: itself, its gradient, and Adam's two running means


def saved_for_backward(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of activations that a forward pass keeps until the backward pass needs them.

    Autograd saves, layer by layer, what each derivative will be computed from. A hook sees every
    such tensor; storages that are saved twice count once, and the weights, which are there
    anyway, do not count.

    Parameters
    ----------
    model : torch.nn.Module in training mode
    x : (N, 1, H, W) float32 on the model's device
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor  # kept alive by the graph, so that no address is used twice

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model(x)
    del kept
    return sum(seen.values())


def fixed_bytes(model: nn.Module) -> int:
    """Bytes that training needs whatever the batch: weights, gradients, Adam's two means."""
    return _COPIES * _BYTES * count_parameters(model)


def free_memory(device: torch.device) -> int:
    """Bytes that tensors can still take; what earlier runs have left behind counts as free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that torchrun started here
    return psutil.virtual_memory().available // sharing


def fits_into_memory(model: nn.Module, x: torch.Tensor) -> int:
    """How many slices at once a step on the CPU has memory for, judged by a few of them.

    Parameters
    ----------
    model : torch.nn.Module on the CPU; a copy of it is tried
    x : (N, C, H, W) float32, the few
    """
    with torch.random.fork_rng(devices=[]):
        each = _PEAK * saved_for_backward(copy.deepcopy(model).train(), x) / len(x)
    free = free_memory(torch.device("cpu")) - fixed_bytes(model)
    return max(0, int(free / max(each, 1)))


def step_cost(recipe: Recipe, steps: int = 3) -> dict[str, float]:
    """Time forward pass, backward pass and Adam on random slices; the data are not read.

    Parameters
    ----------
    recipe : Recipe
        Model, size of the slices and batch size are taken from it.
    steps : int
        Timed steps, after one that is not timed: the first allocates memory and chooses kernels.

    Returns
    -------
    dict
        batch_size; seconds (median of the steps); seconds_per_slice; memory_mb. On a GPU the
        memory is the allocator's peak. On a CPU it is counted: activations saved for the
        backward pass, and weights, gradients and Adam's means; the peak is somewhat higher.
        A batch that does not fit on the GPU has ``nan`` everywhere but in its size.
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
    """Median seconds of a step, and bytes."""
    device = best_device()
    model = fast_layout(build_model(recipe.model, **recipe.model_options()), device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    x = torch.rand(recipe.batch_size, 1, *recipe.input_size(), device=device)
    y = (x > 0.99).float()  # a target of the right shape: the arithmetic is what is timed
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [_step(model, optimiser, x, y) for _ in range(steps + 1)][1:]
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = saved_for_backward(model, x) + fixed_bytes(model)
    return float(np.median(seconds)), float(memory)


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> float:
    """Seconds of one step, in half precision on a GPU as in training."""
    clock = time.perf_counter()
    half = half_precision(x.device)
    with torch.autocast(x.device.type, half, enabled=half is not None):
        logits = model(x)
    optimiser.zero_grad(set_to_none=True)
    F.binary_cross_entropy_with_logits(logits.float(), y).backward()
    optimiser.step()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - clock


def batch_costs(recipe: Recipe, sizes: list[int], steps: int = 3) -> pd.DataFrame:
    """One row of :func:`step_cost` for each batch size."""
    arms = [dataclasses.replace(recipe, batch_size=size) for size in sizes]
    return pd.DataFrame([step_cost(arm, steps) for arm in arms])
