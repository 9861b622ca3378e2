"""One batch is tried before a run begins: with what a run does to a network, on a copy of it."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from atlaslib.files import one_line
from atlaslib.networks import Custom, checked_logits, new_network
from atlaslib.recipes import Recipe
from atlaslib.runs import check_weights


def try_one_batch(recipe: Recipe, custom: Custom | None) -> None:
    """Train a copy on two slices of noise, segment them, save it and load it again.

    Neither the user's module nor any random state is changed.

    Raises
    ------
    ValueError
        If the network cannot be trained as the recipe says; the message says what was expected
        and what was found.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            _try(recipe, custom)
        except ValueError as error:
            raise ValueError(one_line(error)) from error
        except torch.OutOfMemoryError:
            pass  # training says how much would fit
        except Exception as error:  # whatever the user's module stumbles over
            name = type(error).__name__
            raise ValueError(f"model: cannot be trained ({name}: {one_line(error)})") from error


def _try(recipe: Recipe, custom: Custom | None) -> None:
    network = new_network(recipe, custom)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError("model: it has no parameter to train")
    places = {parameter.device.type for parameter in network.parameters()}
    if places != {"cpu"}:
        raise ValueError(f"model: expected it on the CPU, found {', '.join(sorted(places))}")
    x = torch.rand(2, 1 + 2 * recipe.context_slices, *recipe.input_size())
    logits = checked_logits(network.train(), x)
    if not logits.requires_grad:
        raise ValueError("model: its logits do not depend on its parameters")
    if not logits.isfinite().all():
        raise ValueError("model: its logits are NaN or infinite before any training")
    saved = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    again = new_network(recipe, custom)
    weights = load(save(saved))
    check_weights(weights, again)
    again.load_state_dict(weights)
    logits.sum().backward()
    torch.optim.Adam(network.parameters(), fused=True).step()
    with torch.inference_mode():
        for count in (1, 2):
            checked_logits(network.eval(), x[:count])
