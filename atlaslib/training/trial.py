"""Try on a copy of a network what a run does with it, before the run begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from atlaslib.evaluation.inference import slices_per_pass
from atlaslib.files import one_line
from atlaslib.models.device import best_device, is_out_of_memory
from atlaslib.networks import checked_logits, copied_weights, new_network
from atlaslib.recipes import Recipe
from atlaslib.runs import check_weights
from atlaslib.training.custom import Custom
from atlaslib.training.memory import max_batch_size


def try_one_batch(recipe: Recipe, custom: Custom, processes: int = 1) -> None:
    """Train a copy on two slices of noise, segment them, save it and load it again.

    A network of the user's own is also applied to as many slices as the run will give it at once.

    Neither the user's module nor the CPU's random state is changed.

    Raises
    ------
    ValueError
        If the network cannot be trained as the recipe says; the message says what was expected
        and what was found.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            _try(recipe, custom, processes)
        except ValueError as error:
            raise ValueError(one_line(error)) from error
        except Exception as error:  # the user's module can raise anything
            if is_out_of_memory(error):
                return  # training has its own message, with the size that fits
            name = type(error).__name__
            raise ValueError(f"model: cannot be trained ({name}: {one_line(error)})") from error


def _try(recipe: Recipe, custom: Custom, processes: int) -> None:
    network = new_network(recipe, custom.model)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError("model: it has no parameter to train")
    places = {parameter.device.type for parameter in network.parameters()}
    if places != {"cpu"}:
        raise ValueError(f"model: expected it on the CPU, found {', '.join(sorted(places))}")
    x = torch.rand(2, 1 + 2 * recipe.context_slices, *recipe.input_size())
    y = (torch.rand_like(x[:, :1]) < 0.1).float()
    device = best_device()
    custom = custom.on(device)
    if custom.augment is not None:
        augmented = _of_user("augment", custom.augmented, x.to(device), y.to(device))
        x, y = (each.cpu() for each in augmented)
    logits = checked_logits(network.train(), x)
    if not logits.requires_grad:
        raise ValueError("model: its logits do not depend on its parameters")
    if not logits.isfinite().all():
        raise ValueError("model: its logits are NaN or infinite before any training")
    again = new_network(recipe, custom.model)
    weights = load(save(copied_weights(network)))
    check_weights(weights, again)
    again.load_state_dict(weights)
    loss = logits.sum()
    if custom.loss is not None:
        loss = _of_user("loss", custom.loss_of, logits.to(device), y.to(device))
        if not loss.isfinite():
            raise ValueError("loss: NaN or infinite before any training")
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError("loss: does not depend on the logits")
    loss.backward()
    torch.optim.Adam(network.parameters(), fused=True).step()
    with torch.inference_mode():
        for count in (1, 2):
            checked_logits(network.eval(), x[:count])
    if custom.model is not None:
        _try_sizes(network, x, recipe, processes)
        _try_signs(network, x)


def _try_signs(network: nn.Module, x: torch.Tensor) -> None:
    """Refuse outputs that no training makes negative, as behind a sigmoid or a ReLU."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(20):
        logits = network.train()(x)
        if (logits < 0).any() or not logits.isfinite().all():
            return  # what is not finite, training finds and says
        optimiser.zero_grad()
        logits.sum().backward()
        optimiser.step()
    text = "return logits, without a sigmoid or ReLU at the end"
    raise ValueError(f"model: its outputs cannot become negative; {text}")


def _of_user(name: str, function: Callable[..., Any], *given: torch.Tensor) -> Any:
    """The result of the user's own function, whose errors then bear its name."""
    try:
        return function(*given)
    except ValueError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: fails: {error}") from error
    except Exception as error:  # the user's code can raise anything
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{name}: fails: {type(error).__name__}: {error}") from error


def _try_sizes(network: nn.Module, x: torch.Tensor, recipe: Recipe, processes: int) -> None:
    """Apply a network to every number of slices that the run will give it at once."""
    share = max(1, recipe.batch_size // processes)
    micro = min(recipe.micro_batch or share, share)
    segmented = slices_per_pass(best_device(), recipe)
    fits = max_batch_size(network, x)  # training and its own check say what to do about more
    for count, training in ((micro, True), (share % micro, True), (segmented, False)):
        if 0 < count <= fits:
            with torch.no_grad():
                checked_logits(network.train(training), x[:1].expand(count, -1, -1, -1).clone())
