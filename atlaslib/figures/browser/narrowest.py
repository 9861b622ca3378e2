"""Where a network is narrowest: the vector through which all that it knows of a slice passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Bottleneck:
    """A vector that everything passes through, between two maps; names of tensors in the trace.

    Attributes
    ----------
    before : str
        The last map, (1, channels, rows, columns), on the way to the vector.
    vector : str
        The vector, (1, length) or (1, length, 1, 1).
    after : str
        The first map that is made of it.
    """

    before: str
    vector: str
    after: str


def bottleneck(traced: torch.export.ExportedProgram) -> Bottleneck:
    """Find the narrowest vector in the trace of a network; of equally narrow ones, the last.

    Raises
    ------
    ValueError
        If there is none: positions reach the output around every vector, for instance by a skip
        connection, or there is no vector.
    """
    passages = _passages(traced)
    maps = [at for at, node in enumerate(passages) if _positions(node) > 1]
    between = [
        (_length(node), -at)
        for at, node in enumerate(passages)
        if _positions(node) == 1
        and maps[0] < at < maps[-1]
        and _length(node) < _length(passages[0])  # otherwise it may be the flattened slice itself
    ]
    if not between:
        raise ValueError(
            "the network has no bottleneck: expected a vector that everything passes through, "
            "found maps with positions all the way from the slice to the mask"
        )
    place = -min(between)[1]
    return Bottleneck(
        before=passages[max(at for at in maps if at < place)].name,
        vector=passages[place].name,
        after=passages[min(at for at in maps if at > place)].name,
    )


def tensors(
    traced: torch.export.ExportedProgram, x: torch.Tensor, names: set[str]
) -> dict[str, torch.Tensor]:
    """Some of the tensors on the way of an input (1, C, H, W), and the last one as "logits"."""
    recorder = _Recorder(traced.module(), names)
    with torch.inference_mode():
        logits = recorder.run(x)
    return {**recorder.kept, "logits": logits}


class _Recorder(torch.fx.Interpreter):
    """Runs a trace and keeps some of its tensors."""

    def __init__(self, module: torch.nn.Module, names: set[str]) -> None:
        super().__init__(module)
        self.names, self.kept = names, dict[str, torch.Tensor]()

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = value
        return value


def _passages(traced: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    """The tensors, in order, from which alone (and the weights) everything later is computed."""
    inputs = set(traced.graph_signature.user_inputs)
    nodes = list(traced.graph.nodes)
    place = {node: at for at, node in enumerate(nodes)}
    found, depends, needed = [], set[torch.fx.Node](), 0  # needed: last use of an earlier tensor
    for at, node in enumerate(nodes):
        if node.op == "output":
            break
        if node.name in inputs or depends.intersection(node.all_input_nodes):
            if needed <= at:
                found.append(node)
            depends.add(node)
            needed = max([needed, *(place[user] for user in node.users)])
    return found


def _positions(node: torch.fx.Node) -> int:
    return math.prod(node.meta["val"].shape[2:])


def _length(node: torch.fx.Node) -> int:
    return math.prod(node.meta["val"].shape)
