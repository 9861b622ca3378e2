"""The models by name.

In: slices, (N, channels, H, W). Out: logits, (N, 1, H, W).
May import: nothing of the library, so that a model can be read and used on its own.

A model's options are named like the fields of a recipe. It accepts ``channels`` if it can use
neighbouring slices, and pads its own input if it needs rows and columns divisible by more than 4.
If it has a ``final_bias``, the bias added to every logit, recipes with ``initial_prior`` start it
at the base rate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pandas as pd
import torch
from torch import nn

from atlaslib.models.baseline import Baseline
from atlaslib.models.dynunet import DynUNet
from atlaslib.models.residual_unet import ResidualUNet
from atlaslib.models.resnet import ResNet
from atlaslib.models.zero import Zero

MODELS: dict[str, Callable[..., nn.Module]] = {
    "baseline": Baseline,
    "resnet": ResNet,
    "zero": Zero,
    "residual_unet": ResidualUNet,
    "dynunet": DynUNet,
}


def build_model(name: str, **options: int | float | str | tuple[int, int]) -> nn.Module:
    """Make a model with freshly initialised weights.

    Parameters
    ----------
    name : str
        A name in ``MODELS``: "baseline", "resnet", "residual_unet", "dynunet" (which needs MONAI),
        "zero".
    **options
        Arguments of the model's class; where the model is the paper's, so are the defaults.

    Returns
    -------
    torch.nn.Module
        ``forward`` takes (N, channels, H, W) float and returns (N, 1, H, W) logits.

    Raises
    ------
    ValueError
        If there is no such model, or it has no such option.

    Examples
    --------
    >>> from atlaslib import build_model
    >>> from atlaslib.models import count_parameters
    >>> count_parameters(build_model("baseline"))
    1861697
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; choose from {', '.join(MODELS)}")
    known = inspect.signature(MODELS[name]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known)}")
    return MODELS[name](**options)


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def layer_table(model: nn.Module, size: tuple[int, int] = (232, 196)) -> pd.DataFrame:
    """One row per layer in the order of execution: layer, kind, output, parameters.

    Parameters
    ----------
    model : torch.nn.Module, on the CPU
    size : (rows, columns) of the input

    Returns
    -------
    DataFrame
        ``output`` is (rows, columns, channels), the order that the paper uses, or (length,) for
        a layer that returns a vector.
    """
    rows = []

    def recorder(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
            shape = tuple(output.shape[1:])
            rows.append(
                {
                    "layer": name,
                    "kind": type(module).__name__,
                    "output": (*shape[1:], shape[0]) if len(shape) == 3 else shape,
                    "parameters": count_parameters(module),
                }
            )

        return hook

    shown = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Linear)
    hooks = [
        module.register_forward_hook(recorder(name))
        for name, module in model.named_modules()
        if isinstance(module, shown)
    ]
    convolutions = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    channels = next((layer.in_channels for layer in convolutions), 1)  # of the input
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, *size))
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    return pd.DataFrame(rows, columns=["layer", "kind", "output", "parameters"])
