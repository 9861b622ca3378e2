"""What can segment a scan: a finished run, or any trained network with its recipe."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from atlaslib.files import expect
from atlaslib.networks import new_network
from atlaslib.recipes import Recipe
from atlaslib.runs import Run


@dataclass(frozen=True)
class Predictor:
    """A trained network, and the recipe that says how a scan becomes its input.

    Whatever segments or scores scans takes one in place of a :class:`atlaslib.Run`.

    Attributes
    ----------
    network : torch.nn.Module
        Maps (N, C, H, W) intensities in 0..1 to (N, 1, H, W) logits, where C is
        ``1 + 2 * recipe.context_slices`` and H, W are ``recipe.input_size()``. It stays as it is:
        copies of it are used.
    recipe : Recipe
    digest : str
        SHA-256 of the file that the weights were read from, or "".

    Raises
    ------
    ValueError
        If the network or the recipe is of another type.
    """

    network: nn.Module
    recipe: Recipe
    digest: str = ""

    def __post_init__(self) -> None:
        expect("network", self.network, nn.Module)
        expect("recipe", self.recipe, Recipe)

    def model(self) -> nn.Module:
        """A copy of the network, in evaluation mode, on the CPU."""
        return new_network(self.recipe, self.network).cpu().eval()


#: What ``predict``, ``evaluate`` and the tables take.
Trained = Run | Predictor
