"""The network that is trained: built from its recipe or given by the user, and tried first."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from atlaslib.models import build_model
from atlaslib.recipes import Recipe

#: A module of the user's own, of which a copy is trained, or a function that makes one.
Custom = nn.Module | Callable[[], nn.Module]


def new_network(recipe: Recipe, custom: Custom | None) -> nn.Module:
    """A fresh network: the recipe's, a copy of the user's, or what the user's function makes.

    Raises
    ------
    ValueError
        If it is no module, or the recipe has an option that its model lacks.
    """
    if custom is None:
        return build_model(recipe.model, **recipe.model_options())
    made = copy.deepcopy(custom) if isinstance(custom, nn.Module) else _called(custom)
    if not isinstance(made, nn.Module):
        expected = "a torch.nn.Module, or a function without arguments that makes one"
        raise ValueError(f"model: expected {expected}, got {type(made).__name__}")
    return made


def _called(custom: Callable[[], nn.Module]) -> object:
    return custom() if callable(custom) else custom


def try_one_batch(recipe: Recipe, custom: Custom | None) -> None:
    """Train a throwaway network's forward pass on two slices of noise; no random state changes.

    Raises
    ------
    ValueError
        If it cannot be trained as the recipe says; the message says what was expected and found.
    """
    shape = (2, 1 + 2 * recipe.context_slices, *recipe.input_size())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            network = new_network(recipe, custom).train()
        except ValueError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise ValueError(f"model: the function that makes it fails: {text}") from error
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError("model: it has no parameter to train")
        places = {tensor.device.type for tensor in network.state_dict().values()}
        if len(places) > 1 or "meta" in places:
            raise ValueError(f"model: expected it on one device, found {', '.join(sorted(places))}")
        x = torch.rand(shape, device=places.pop())
        try:
            logits = network(x)
        except Exception as error:  # whatever a user's module stumbles over
            text = f"{type(error).__name__}: {error}"
            raise ValueError(f"model: fails on slices {tuple(shape)}: {text}") from error
    expected = (shape[0], 1, *shape[2:])
    wanted = f"model: expected logits {expected}, float32, on {x.device}"
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"{wanted}; got {type(logits).__name__}")
    if tuple(logits.shape) != expected or not logits.is_floating_point():
        found = f"{tuple(logits.shape)}, {str(logits.dtype).removeprefix('torch.')}"
        raise ValueError(f"{wanted}; got {found}")
    if logits.device != x.device:
        raise ValueError(f"{wanted}; got them on {logits.device}")
    if not logits.requires_grad:
        raise ValueError("model: its logits do not depend on its parameters")
    if not logits.isfinite().all():
        raise ValueError("model: its logits are NaN or infinite before any training")
