"""A network written down for ``network.js``, which computes it in the browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from atlaslib.data.model_input import NO_LESION, WINDOW
from atlaslib.recipes import Recipe

# PyTorch's operations that network.js has, without the name of their variant
OPERATIONS = frozenset(
    {
        "conv2d", "conv_transpose2d", "linear", "batch_norm", "group_norm", "leaky_relu", "relu",
        "dropout", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "upsample_bilinear2d", "add",
        "cat", "pad", "slice", "flatten", "unflatten",
    }
)  # fmt: skip

# what network.js takes for granted about an operation's arguments
_ASSUMED: dict[str, Callable[..., bool]] = {
    # neither dilation nor groups, nor padding "same"
    "conv2d": lambda *args: len(args) <= 5 and not any(isinstance(each, str) for each in args),
    "conv_transpose2d": lambda *args: len(args) <= 3,  # stride 1, no padding
    "max_pool2d": lambda *args: len(args) <= 3,
    "avg_pool2d": lambda *args: len(args) <= 5 and (len(args) < 4 or not any(args[3])),
    "adaptive_avg_pool2d": lambda _, shape: list(shape) == [1, 1],
    "upsample_bilinear2d": lambda _, shape, corners, *factors: not corners,
    "slice": lambda *args: len(args) <= 4,
    "pad": lambda _, widths, *mode: not mode and not any(widths[:4]),
    "add": lambda x, y: isinstance(y, torch.fx.Node) and x.meta["val"].shape == y.meta["val"].shape,
    "cat": lambda _, dimension=0: dimension == 1,
}


def trace(network: nn.Module, recipe: Recipe) -> torch.export.ExportedProgram:
    """PyTorch's trace of a network, in evaluation mode and on the CPU, for one slice."""
    x = torch.zeros(1, 1 + 2 * recipe.context_slices, *recipe.input_size())
    return torch.export.export(network, (x,), strict=False)


def written_network(network: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """Write a network down as plain values, for JSON: :func:`written_trace` of all of it."""
    return written_trace(trace(network, recipe), recipe)


def written_trace(
    traced: torch.export.ExportedProgram, recipe: Recipe, after: str = ""
) -> dict[str, Any]:
    """Write a traced network, or the end of it, down as plain values, for JSON.

    Parameters
    ----------
    traced : torch.export.ExportedProgram
        Of :func:`trace`.
    recipe : Recipe that the network was trained with
    after : str, default=""
        Name of the tensor that the written steps begin with. "": the input.

    Returns
    -------
    dict
        steps: a list of [operation, output, arguments] in the order of execution, as PyTorch traces
        them; a string among the arguments is the name of a tensor, the input's is "x". shapes: name
        and shape of each weight. weights: all of them in base64, as numbers of ``bits`` bits: 16 if
        none loses by it, else 32. view: which part of a slice the network sees, and how.

    Raises
    ------
    ValueError
        If the network has an operation that ``network.js`` lacks.
    """
    signature = traced.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = [node for node in traced.graph.nodes if node.op == "call_function"]
    steps = [_step(node) for node in nodes]
    if after:
        steps = steps[[node.name for node in nodes].index(after) + 1 :]
    used = _names(steps)
    weights = {
        name: traced.state_dict[key].detach().float()
        for name, key in stored.items()
        if name in used
    }
    flat = torch.cat([weight.flatten() for weight in weights.values()]).numpy()
    half = flat.astype(np.float16)
    exact = bool((half.astype(np.float32) == flat).all())
    (x_name,) = signature.user_inputs
    return {
        "steps": _renamed(steps, str(x_name), "x"),
        "shapes": [[name, list(weight.shape)] for name, weight in weights.items()],
        "bits": 16 if exact else 32,
        "weights": base64.b64encode((half if exact else flat).tobytes()).decode(),
        "view": view(recipe),
    }


def network_script(name: str, written: dict[str, Any]) -> str:
    """A script that leaves a written network in ``atlaslib.networks``, where the page finds it."""
    return (
        "window.atlaslib = window.atlaslib || {};\n"
        "atlaslib.networks = atlaslib.networks || {};\n"
        f"atlaslib.networks[{json.dumps(name)}] = {json.dumps(written, separators=(',', ':'))};\n"
    )


def script(name: str) -> str:
    """The text of one of the scripts and style sheets beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def view(recipe: Recipe) -> dict[str, int | float | bool]:
    """Which part of a slice of 232 x 196 pixels a network sees, and how.

    Returns
    -------
    dict
        top, left, height, width: of the window; block: side of one of the input's pixels in mm;
        rows, columns: of the input; context: neighbouring slices on each side; mirror: whether the
        prediction of the mirror image is averaged in; nothing: the logit outside of the window.
    """
    (top, left), (height, width) = WINDOW if recipe.window else (0, 0), recipe.field_of_view()
    rows, columns = recipe.input_size()
    return {
        "top": top, "left": left, "height": height, "width": width,
        "block": recipe.downsample, "rows": rows, "columns": columns,
        "context": recipe.context_slices, "mirror": recipe.flip_tta, "nothing": NO_LESION,
    }  # fmt: skip


def _step(node: torch.fx.Node) -> list[Any]:
    operation = str(node.target).split(".")[1]
    if operation not in OPERATIONS or node.kwargs:
        raise ValueError(f"{node.target}: network.js has no such operation")
    if not _ASSUMED.get(operation, lambda *_: True)(*node.args):
        raise ValueError(f"{node.target}: network.js does not do what its arguments ask for")
    return [operation, node.name, _plain(node.args)]


def _plain(argument: Any) -> Any:
    """An argument with names in place of tensors."""
    if isinstance(argument, torch.fx.Node):
        return argument.name
    if isinstance(argument, list | tuple):
        return [_plain(part) for part in argument]
    return argument


def _names(values: Any) -> set[str]:
    """All strings in nested lists."""
    if isinstance(values, str):
        return {values}
    return set().union(*map(_names, values)) if isinstance(values, list) else set()


def _renamed(values: Any, old: str, new: str) -> Any:
    if isinstance(values, list):
        return [_renamed(part, old, new) for part in values]
    return new if values == old and isinstance(values, str) else values
