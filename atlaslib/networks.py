"""The network of a run: built from its recipe or given by the user, and checked."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from atlaslib.files import one_line
from atlaslib.models import build_model
from atlaslib.models.device import is_out_of_memory
from atlaslib.recipes import Recipe

#: A user's own module, of which a copy is used, or a function that makes one.
CustomModel = nn.Module | Callable[[], nn.Module]


def new_network(recipe: Recipe, custom: CustomModel | None = None) -> nn.Module:
    """A new network: built from the recipe, or a copy of the user's.

    Raises
    ------
    ValueError
        If the user's is not a module or cannot be copied, or the recipe has an option that its
        model lacks.
    """
    if custom is None:
        return build_model(recipe.model, **recipe.model_options())
    try:
        given = custom if isinstance(custom, nn.Module) or not callable(custom) else custom()
        made = copy.deepcopy(given)  # a function may return the same module twice
    except Exception as error:  # the user's code can raise anything
        raise ValueError(f"model: cannot be made or copied: {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        expected = "a torch.nn.Module, or a function without arguments that makes one"
        raise ValueError(f"model: expected {expected}, got {type(made).__name__}")
    return made


def checked_logits(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A forward pass, (N, C, H, W) to (N, 1, H, W), with its result checked.

    Raises
    ------
    ValueError
        If the network fails, or returns anything but real logits of this shape on this device.
    RuntimeError
        If it runs out of memory.
    """
    try:
        logits = network(x)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"model: fails on slices {tuple(x.shape)}: {text}") from error
    expected = (x.shape[0], 1, *x.shape[2:])
    found = type(logits).__name__
    if isinstance(logits, torch.Tensor):
        found = f"{tuple(logits.shape)}, {str(logits.dtype).removeprefix('torch.')}"
        found += f" on {logits.device}"
        if (
            tuple(logits.shape) == expected
            and logits.is_floating_point()
            and logits.device == x.device
        ):
            return logits
    raise ValueError(f"model: expected logits {expected}, float32 on {x.device}; got {found}")


def copied_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's state as safetensors can save it: on the CPU, contiguous, no memory shared."""
    state = network.state_dict().items()
    return {name: value.detach().cpu().clone().contiguous() for name, value in state}


def signature(network: nn.Module, recipe: Recipe) -> list[float]:
    """Mean and standard deviation of the logits of fixed noise, to recognise a network."""
    shape = (2, 1 + 2 * recipe.context_slices, *recipe.input_size())
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = checked_logits(network.eval(), noise).double()
    return [logits.mean().item(), logits.std().item()]


def forward_gflop(chosen: Recipe) -> float:
    """Operations to segment one slice, in GFLOP (10^9); a multiply-add counts as two."""
    model = build_model(chosen.model, **chosen.model_options()).eval()
    x = torch.zeros(1, 1 + 2 * chosen.context_slices, *chosen.input_size())
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() * (2 if chosen.flip_tta else 1) / 1e9
