"""One step: what the optimiser sees, in whole and in parts, with memory and without."""

from __future__ import annotations

import contextlib
import dataclasses

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atlaslib import recipe, steps, train
from atlaslib.batches import epoch_batches, epoch_order
from atlaslib.state import State
from atlaslib.steps import Trainee, TrainingError
from atlaslib.world import World

RECIPE = recipe("baseline", "smoke", width=2, dropout=0.0, flip=False, batch_size=6)


def ready(cohort, chosen=RECIPE, model=None):
    return Trainee(chosen, cohort, model, World(), False)


def first_batch(trainee):
    order = epoch_order(trainee.slices.table, trainee.recipe, 0)
    chosen, flips = epoch_batches(order, trainee.recipe, 0)
    return next(trainee.batches.of(chosen[:1], flips[:1]))


def test_a_step_is_adam_on_the_clipped_gradient(cohort):
    """The same step written out with torch alone."""
    trainee = ready(cohort)
    x, y = first_batch(trainee)
    model = ready(cohort).model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=RECIPE.learning_rate)
    loss = F.binary_cross_entropy_with_logits(model(x), y, pos_weight=torch.tensor(5.0))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    trainee.model.train()
    assert trainee.step(x, y).item() == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(trainee.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_parts_of_a_batch_add_up_to_it(cohort):
    """4 does not divide 6: the parts are of unequal size."""
    weights = []
    for part in (None, 4, 1):
        trainee = ready(cohort, recipe("baseline", "smoke", width=2, dropout=0.0, batch_size=6,
                                       micro_batch=part))  # fmt: skip
        trainee.model.train()
        trainee.step(*first_batch(trainee))
        weights.append(torch.cat([p.flatten() for p in trainee.model.parameters()]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=2e-5)


def test_a_gradient_without_a_number_ends_the_run(cohort, tmp_path):
    """The loss before it is finite: without a look at the gradient, weights would be lost."""

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return Steep.apply(self.conv(x)) if self.training else self.conv(x)

    with pytest.raises(TrainingError, match="step 1 of epoch 1 is not a number"):
        train(RECIPE, cohort, out=tmp_path / "run", model=Model(), progress=False)


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True),
        ("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_lack_of_memory_is_known_by_what_each_system_says(said, lacking):
    assert steps._lacks_memory(RuntimeError(said)) is lacking


@pytest.mark.parametrize("name", ["dice", "dice + cross entropy"])
def test_dice_loss_agrees_with_monai(cohort, name):
    from monai.losses import DiceLoss

    trainee = ready(cohort, dataclasses.replace(RECIPE, loss=name, pos_weight=1.0))
    torch.manual_seed(0)
    logits, y = torch.randn(4, 1, 12, 8), (torch.rand(4, 1, 12, 8) > 0.8).float()
    oracle = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, y)
    if name != "dice":
        oracle = oracle + F.binary_cross_entropy_with_logits(logits, y)
    torch.testing.assert_close(trainee._loss(logits, y), oracle)


class Hungry(nn.Module):
    """A model that can take four slices, and says what a GPU would say of a fifth."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.conv(x)


def test_too_large_a_batch_is_told_what_would_fit(cohort, tmp_path):
    chosen = recipe("baseline", "smoke", batch_size=32, epochs=1)
    with pytest.raises(TrainingError) as error:
        train(chosen, cohort, out=tmp_path / "a", model=Hungry(9), progress=False)
    assert "32 slices at once do not fit" in str(error.value)
    assert "; 8 would: set micro_batch=8" in str(error.value)
    parts = recipe("baseline", "smoke", batch_size=32, epochs=1, micro_batch=8)
    run = train(parts, cohort, out=tmp_path / "b", model=Hungry(9), progress=False)
    assert run.history.loss.notna().all()
    with pytest.raises(TrainingError, match="neither does a single one"):
        train(chosen, cohort, out=tmp_path / "c", model=Hungry(0), progress=False)


def test_a_batch_that_would_end_the_program_is_refused_on_a_cpu(cohort, tmp_path, monkeypatch):
    """There is no error to catch: Linux kills a process that takes more than there is."""
    monkeypatch.setattr(steps, "best_device", lambda: torch.device("cpu"))
    model = nn.Conv2d(1, 1, 3, padding=1)
    rows, columns = RECIPE.input_size()
    # of each slice the layer keeps its input, the loss aside; room for 3 of the 6
    room = psutil.virtual_memory()._replace(available=int(3.5 * 1.2 * 4 * rows * columns))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: room)
    with pytest.raises(TrainingError, match="6 slices at once .* computer; 3 would: set mic"):
        train(RECIPE, cohort, out=tmp_path / "a", model=model, progress=False)
    parts = dataclasses.replace(RECIPE, micro_batch=3, epochs=1)
    assert train(parts, cohort, out=tmp_path / "b", model=model, progress=False).history.shape[0]
    room = room._replace(available=0)
    with pytest.raises(TrainingError, match="neither does a single one"):
        train(RECIPE, cohort, out=tmp_path / "c", model=model, progress=False)


def test_compiling_needs_a_compiler_and_a_gpu_that_it_knows(monkeypatch):
    monkeypatch.setattr(steps, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(steps.shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    model = nn.Sequential(nn.BatchNorm2d(2))
    assert steps.can_compile(model)
    assert not steps.can_compile(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 0))  # a P100
    assert not steps.can_compile(nn.Conv2d(1, 1, 1))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(steps.shutil, "which", lambda name: None)
    assert not steps.can_compile(nn.Conv2d(1, 1, 1))


def test_a_run_of_another_gpu_goes_on(cohort, tmp_path):
    """Where it began there was no scaler, or there was one and here is none."""
    trainee = ready(cohort)
    begun = State(tmp_path, trainee, World())
    begun.save()
    trainee.scaler = torch.amp.GradScaler("cpu", enabled=True)
    State(tmp_path, trainee, World()).resume()
    State(tmp_path, trainee, World()).save()
    trainee.scaler = torch.amp.GradScaler("cpu", enabled=False)
    State(tmp_path, trainee, World()).resume()


def test_other_errors_are_not_taken_for_lack_of_memory(cohort, tmp_path):
    with pytest.raises(RuntimeError, match="channels"):
        train(RECIPE, cohort, out=tmp_path / "r", model=nn.Conv2d(3, 1, 1), progress=False)


class Copies(TorchDispatchMode):
    """Notes what is copied from one device to another, and whether anybody waits for it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._to_copy.default and result.device != args[0].device:
            self.seen.append((args[0].numel(), (kwargs or {}).get("non_blocking", False)))
        return result


@pytest.mark.parametrize("changes", [{}, {"flip": True, "augment": True, "micro_batch": 2}])
def test_steps_on_another_device_wait_for_nothing(cohort, tmp_path, monkeypatch, changes):
    """Tensors of the meta device have no values: code that looked at one would fail."""
    monkeypatch.setattr(steps, "best_device", lambda: torch.device("meta"))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, fused, **more: adam(*args, **more))
    trainee = ready(cohort, dataclasses.replace(RECIPE, **changes))
    trainee.model.train()
    monkeypatch.setattr(State, "_copy", lambda _: {})
    state = State(tmp_path, trainee, World())
    order = epoch_order(trainee.slices.table, trainee.recipe, 0)
    chosen, flips = epoch_batches(order, trainee.recipe, 0)
    with Copies() as copies:
        for x, y in trainee.batches.of(chosen[:3], flips[:3]):
            state.took(trainee.step(x, y))
    assert state.step == 3
    assert copies.seen == [(6, True)] * 3  # which slices


@pytest.mark.parametrize("changes", [{}, {"flip": True, "augment": True, "micro_batch": 2}])
def test_a_gpu_is_never_waited_for_within_steps(gpu, cohort, tmp_path, changes):
    trainee = ready(cohort, dataclasses.replace(RECIPE, **changes))
    trainee.model.train()
    state = State(tmp_path, trainee, World())
    order = epoch_order(trainee.slices.table, trainee.recipe, 0)
    chosen, flips = epoch_batches(order, trainee.recipe, 0)
    try:
        for place, (x, y) in enumerate(trainee.batches.of(chosen[:25], flips[:25])):
            state.took(trainee.step(x, y))
            if place == 2:  # by then memory is allocated and Adam has its means
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == len(chosen[:25])
