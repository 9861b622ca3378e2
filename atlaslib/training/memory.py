"""How much memory a training step needs, and how much of it is free."""

from __future__ import annotations

import copy
import os

import psutil
import torch
from torch import nn

from atlaslib.models import count_parameters

_BYTES = 4  # of a float32 number
_PEAK = 1.2  # peak memory of a step, as a multiple of its saved activations: at least this
_COPIES = 4  # of each parameter: itself, its gradient, and Adam's two running means


def saved_for_backward(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of activations that a forward pass keeps until the backward pass needs them.

    Autograd saves, layer by layer, the tensors that each derivative is computed from. A hook sees
    every such tensor; a storage that is saved twice counts once, and the weights, which take memory
    anyway, do not count.

    Parameters
    ----------
    model : torch.nn.Module in training mode
    x : (N, C, H, W) float32 on the model's device
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor  # the graph keeps it alive, so that its address is not reused

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model(x)
    del kept
    return sum(seen.values())


def parameter_bytes(model: nn.Module) -> int:
    """Bytes that training needs at any batch size: weights, gradients, Adam's two means."""
    return _COPIES * _BYTES * count_parameters(model)


def free_memory(device: torch.device) -> int:
    """Bytes available for new tensors; cached memory that PyTorch does not use is free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that torchrun started here
    return psutil.virtual_memory().available // sharing


def max_batch_size(model: nn.Module, x: torch.Tensor) -> int:
    """The largest batch for which a step on the CPU has memory, estimated from a few slices.

    Parameters
    ----------
    model : torch.nn.Module on the CPU; only a copy of it is run
    x : (N, C, H, W) float32, a few slices
    """
    with torch.random.fork_rng(devices=[]):
        each = _PEAK * saved_for_backward(copy.deepcopy(model).train(), x) / len(x)
    free = free_memory(torch.device("cpu")) - parameter_bytes(model)
    return max(0, int(free / max(each, 1)))
