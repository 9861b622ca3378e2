"""What can segment a scan: a finished run, any trained network with its recipe, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from atlaslib.data.splits import BY_SLICE
from atlaslib.files import expect
from atlaslib.networks import new_network
from atlaslib.recipes import Recipe
from atlaslib.runs import Run


@dataclass(frozen=True)
class Predictor:
    """A trained network, and the recipe that says how a scan becomes its input.

    Whatever segments or scores scans takes one in place of a :class:`atlaslib.Run`, and a list of
    either as an ensemble.

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


Trained = Run | Predictor
#: What ``predict``, ``evaluate`` and the tables take: one network, or a list as an ensemble.
Networks = Trained | Sequence[Trained]


def members(run: Networks) -> list[Trained]:
    """The networks of an ensemble; a single one is an ensemble of one.

    Raises
    ------
    ValueError
        If the list is empty or holds anything but a Run or a Predictor, or if one of several was
        split by slice: each of them would be tested on other slices.
    """
    if not isinstance(run, list | tuple):
        expect("run", run, Run, Predictor)
        return [run]  # type: ignore[list-item]
    if not run:
        raise ValueError("run: expected at least one Run or Predictor, got an empty list")
    for place, each in enumerate(run):
        expect(f"run[{place}]", each, Run, Predictor)
        if len(run) > 1 and each.recipe.split in BY_SLICE:
            raise ValueError(f"run[{place}]: was split by slice; an ensemble needs whole scans")
    return list(run)
