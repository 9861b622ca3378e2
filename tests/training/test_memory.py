"""Memory counts, compared with arithmetic."""

from __future__ import annotations

import psutil
import pytest
import torch
from torch import nn

from atlaslib.profiles import recipe
from atlaslib.training.memory import max_batch_size, parameter_bytes, saved_for_backward

SMALL = recipe("baseline", "smoke", width=2)


def test_saved_bytes_of_two_layers():
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    # the linear layer keeps its input (for the weight's gradient), the ReLU its output
    assert saved_for_backward(model, torch.rand(3, 7)) == 4 * 3 * (7 + 5)


def test_a_tensor_saved_by_two_layers_counts_once():
    model = nn.Sequential(nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, 2))
    # the sigmoid's output is also the second layer's input
    assert saved_for_backward(model, torch.rand(3, 7)) == 4 * 3 * (7 + 5)


def test_fixed_bytes_are_four_numbers_of_four_bytes_per_parameter():
    assert parameter_bytes(nn.Linear(7, 5)) == 16 * (7 * 5 + 5)


def test_the_number_of_slices_that_fit_follows_the_free_memory(monkeypatch):
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    for free, fits in ((0, 0), (parameter_bytes(model) + 58 * 10, 10), (1e9, 1e9 // 58)):
        memory = psutil.virtual_memory()._replace(available=int(free))
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert max_batch_size(model, torch.rand(2, 7)) == pytest.approx(fits, rel=0.01)


def test_estimating_memory_changes_neither_model_nor_random_state():
    model = nn.Sequential(nn.BatchNorm1d(7), nn.Dropout(), nn.Linear(7, 5)).eval()
    x, before, random = torch.rand(2, 7), model(torch.ones(1, 7)), torch.get_rng_state()
    max_batch_size(model, x)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(model(torch.ones(1, 7)), before)
