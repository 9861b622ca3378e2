"""Precision and layout by device, and what is out of memory."""

from __future__ import annotations

import pytest
import torch

from atlaslib.models import build_model
from atlaslib.models.device import (
    fast_layout,
    full_precision,
    half_precision,
    is_out_of_memory,
)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_is_used_only_where_it_is_not_emulated(monkeypatch, native, dtype):
    """A T4 only emulates it; float16 is what its tensor cores compute with."""

    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert half_precision(torch.device("cuda")) == dtype
    assert half_precision(torch.device("cpu")) is None


def test_full_precision_is_for_its_context_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        with full_precision():
            assert half_precision(torch.device("cuda")) is None
            assert not any(backend.allow_tf32 for backend in backends)
        assert half_precision(torch.device("cuda")) is torch.bfloat16
        assert all(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@pytest.mark.parametrize(("name", "last"), [("resnet", True), ("residual_unet", False)])
def test_instance_normalisation_decides_the_layout_on_a_cpu(name, last):
    model = fast_layout(build_model(name, width=2), torch.device("cpu"))
    assert all(
        p.is_contiguous(memory_format=torch.channels_last) == last
        for p in model.parameters()
        if p.dim() == 4 and min(p.shape) > 1
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't "
                      "allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("data. DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("required rank 4 tensor to use channels_last memory format"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_out_of_memory_is_recognised_by_the_message_of_each_system(error, expected):
    assert is_out_of_memory(error) is expected
