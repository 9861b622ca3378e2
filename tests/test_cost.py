"""Counted memory against arithmetic; times only for their sense."""

from __future__ import annotations

import psutil
import pytest
import torch
from torch import nn

from atlaslib.cost import (
    batch_costs,
    fits_into_memory,
    fixed_bytes,
    saved_for_backward,
    step_cost,
)
from atlaslib.recipes import recipe

SMALL = recipe("baseline", "smoke", width=2)


def test_saved_bytes_of_two_layers_are_their_inputs_and_the_relu():
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    # the linear layer keeps its input (for the weight's gradient), the ReLU its output
    assert saved_for_backward(model, torch.rand(3, 7)) == 4 * 3 * (7 + 5)


def test_a_tensor_saved_by_two_layers_counts_once():
    model = nn.Sequential(nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, 2))
    # the sigmoid's output is also the second layer's input
    assert saved_for_backward(model, torch.rand(3, 7)) == 4 * 3 * (7 + 5)


def test_fixed_part_is_four_numbers_of_four_bytes_a_parameter():
    assert fixed_bytes(nn.Linear(7, 5)) == 16 * (7 * 5 + 5)


def test_as_many_slices_fit_as_the_free_memory_has_room_for(monkeypatch):
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    for free, fits in ((0, 0), (fixed_bytes(model) + 58 * 10, 10), (1e9, 1e9 // 58)):
        room = psutil.virtual_memory()._replace(available=int(free))
        monkeypatch.setattr(psutil, "virtual_memory", lambda room=room: room)
        assert fits_into_memory(model, torch.rand(2, 7)) == pytest.approx(fits, rel=0.01)


def test_to_judge_memory_changes_nothing():
    model = nn.Sequential(nn.BatchNorm1d(7), nn.Dropout(), nn.Linear(7, 5)).eval()
    x, before, random = torch.rand(2, 7), model(torch.ones(1, 7)), torch.get_rng_state()
    fits_into_memory(model, x)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(model(torch.ones(1, 7)), before)


def test_memory_is_a_straight_line_in_the_batch_size():
    memory = batch_costs(SMALL, [2, 4, 6], steps=1).memory_mb
    assert memory[2] - memory[1] == pytest.approx(memory[1] - memory[0])
    assert memory[0] > 0


def test_seconds_are_per_step_and_per_slice():
    cost = step_cost(SMALL, steps=1)
    assert cost["seconds"] > 0
    assert cost["seconds_per_slice"] == pytest.approx(cost["seconds"] / SMALL.batch_size)


def test_a_batch_that_does_not_fit_has_no_numbers(monkeypatch):
    def refuse(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("atlaslib.cost._measure", refuse)
    cost = step_cost(SMALL)
    assert cost["batch_size"] == SMALL.batch_size
    assert cost["seconds"] != cost["seconds"]  # nan
    assert cost["memory_mb"] != cost["memory_mb"]
