"""One training step: its gradients, gradient accumulation, and what happens out of memory."""

from __future__ import annotations

import contextlib
import dataclasses

import psutil
import pytest
import torch
import torch.nn.functional as F
from sessions import new_session, new_state
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atlaslib import recipe, train
from atlaslib.models.device import full_precision
from atlaslib.training import step
from atlaslib.training.batches import epoch_batches, epoch_order
from atlaslib.training.custom import Custom
from atlaslib.training.step import TrainingError

RECIPE = recipe("baseline", "smoke", width=2, dropout=0.0, flip=False, batch_size=6)


def first_batch(session):
    order = epoch_order(session.slices.table, session.recipe, 0)
    chosen, flips = epoch_batches(order, session.recipe, 0)
    return next(session.batches.iterate(chosen[:1], flips[:1]))


def test_a_step_is_adam_on_the_clipped_gradient(cohort):
    """The same step written in plain PyTorch."""
    session = new_session(RECIPE, cohort)
    x, y = first_batch(session)
    model = new_session(RECIPE, cohort).model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=RECIPE.learning_rate)
    loss = F.binary_cross_entropy_with_logits(model(x), y, pos_weight=torch.tensor(5.0))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    session.model.train()
    assert session.step(x, y).item() == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(session.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accumulated_gradients_equal_those_of_the_whole_batch(cohort):
    """4 does not divide 6, so that the parts differ in size."""
    weights = []
    for part in (None, 4, 1):
        session = new_session(dataclasses.replace(RECIPE, flip=True, micro_batch=part), cohort)
        session.model.train()
        session.step(*first_batch(session))
        weights.append(torch.cat([p.flatten() for p in session.model.parameters()]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=2e-5)


def test_an_infinite_gradient_ends_the_run(cohort, tmp_path):
    """The loss is still finite: unless the gradient is checked, the update ruins the weights."""

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

    with pytest.raises(TrainingError, match="step 1 of epoch 1 is not finite"):
        train(RECIPE, cohort, out=tmp_path / "run", model=Model(), progress=False)


@pytest.mark.parametrize("name", ["dice", "dice + cross entropy"])
def test_dice_loss_agrees_with_monai(cohort, name):
    from monai.losses import DiceLoss

    session = new_session(dataclasses.replace(RECIPE, loss=name, pos_weight=1.0), cohort)
    torch.manual_seed(0)
    logits, y = torch.randn(4, 1, 12, 8), (torch.rand(4, 1, 12, 8) > 0.8).float()
    expected = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, y)
    if name != "dice":
        expected = expected + F.binary_cross_entropy_with_logits(logits, y)
    torch.testing.assert_close(session._loss(logits, y), expected)


class Hungry(nn.Module):
    """A model that raises a GPU's error for a batch of more than ``most`` slices."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.conv(x)


def test_the_error_for_too_large_a_batch_names_a_size_that_fits(cohort, tmp_path):
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


def test_a_batch_that_does_not_fit_is_refused_on_a_cpu(cohort, tmp_path, monkeypatch):
    """There is no error to catch: Linux kills a process that runs out of memory."""
    monkeypatch.setattr(step, "best_device", lambda: torch.device("cpu"))
    model = nn.Conv2d(1, 1, 3, padding=1)
    rows, columns = RECIPE.input_size()
    # apart from the loss, only the layer's input is saved for each slice: 3 of the 6 slices fit
    memory = psutil.virtual_memory()._replace(available=int(3.5 * 1.2 * 4 * rows * columns))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TrainingError, match="6 slices at once .* computer; 3 would: set mic"):
        train(RECIPE, cohort, out=tmp_path / "a", model=model, progress=False)
    parts = dataclasses.replace(RECIPE, micro_batch=3, epochs=1)
    assert train(parts, cohort, out=tmp_path / "b", model=model, progress=False).history.shape[0]
    memory = memory._replace(available=0)
    with pytest.raises(TrainingError, match="neither does a single one"):
        train(RECIPE, cohort, out=tmp_path / "c", model=model, progress=False)


def test_compiling_needs_a_compiler_and_a_supported_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(step, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(step.shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    model = nn.Sequential(nn.BatchNorm2d(2))
    monkeypatch.setattr(step.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not step.can_compile(model)  # without Python's headers
    (tmp_path / "Python.h").touch()
    assert step.can_compile(model)
    assert not step.can_compile(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 0))  # a P100
    assert not step.can_compile(nn.Conv2d(1, 1, 1))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(step.shutil, "which", lambda name: None)
    assert not step.can_compile(nn.Conv2d(1, 1, 1))


def test_a_run_can_be_resumed_on_another_gpu(cohort, tmp_path):
    """The gradient scaler may be in use only before, or only after the change."""
    x = torch.rand(RECIPE.batch_size, 1, *RECIPE.input_size())
    for before in (False, True):
        session = new_session(RECIPE, cohort)
        session.scaler = torch.amp.GradScaler("cpu", enabled=before)
        folder = tmp_path / str(before)
        folder.mkdir()
        state = new_state(folder, session)
        state.record_step(session.step(x, (x > 0.9).float()))
        state.save()
        session.scaler = torch.amp.GradScaler("cpu", enabled=not before)
        after = new_state(folder, session)
        after.resume()
        assert after.step == 1


def test_other_errors_are_not_mistaken_for_out_of_memory(cohort, tmp_path):
    with pytest.raises(ValueError, match="channels"):
        train(RECIPE, cohort, out=tmp_path / "r", model=nn.Conv2d(3, 1, 1), progress=False)


class Copies(TorchDispatchMode):
    """Records the sizes of copies between devices, and whether they are non-blocking."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._to_copy.default and result.device != args[0].device:
            self.seen.append((args[0].numel(), (kwargs or {}).get("non_blocking", False)))
        return result


@pytest.mark.parametrize("changes", [{}, {"flip": True, "augment": True, "micro_batch": 2}])
def test_steps_do_not_wait_for_the_device(cohort, tmp_path, monkeypatch, changes):
    """Tensors on the meta device have no values, so that code that reads one fails."""
    monkeypatch.setattr(step, "best_device", lambda: torch.device("meta"))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, fused, **more: adam(*args, **more))
    session = new_session(dataclasses.replace(RECIPE, **changes), cohort)
    session.model.train()
    monkeypatch.setattr("atlaslib.training.state.copied_weights", lambda _: {})
    state = new_state(tmp_path, session)
    order = epoch_order(session.slices.table, session.recipe, 0)
    chosen, flips = epoch_batches(order, session.recipe, 0)
    with Copies() as copies:
        for x, y in session.batches.iterate(chosen[:3], flips[:3]):
            state.record_step(session.step(x, y))
    assert state.step == 3
    assert copies.seen == [(6, True)] * 3  # the positions of the slices


def test_a_loss_with_tensors_of_its_own_is_put_on_the_device(cohort, monkeypatch):
    monkeypatch.setattr(step, "best_device", lambda: torch.device("meta"))
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, fused, **more: adam(*args, **more))
    mine = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([5.0]))
    session = new_session(RECIPE, cohort, Custom(loss=mine))
    assert session.custom.loss.pos_weight.device.type == "meta"
    assert mine.pos_weight.device.type == "cpu"


@pytest.mark.parametrize("changes", [{}, {"flip": True, "augment": True, "micro_batch": 2}])
def test_steps_never_synchronise_with_a_gpu(gpu, cohort, tmp_path, changes):
    session = new_session(dataclasses.replace(RECIPE, **changes), cohort)
    session.model.train()
    state = new_state(tmp_path, session)
    order = epoch_order(session.slices.table, session.recipe, 0)
    chosen, flips = epoch_batches(order, session.recipe, 0)
    try:
        for index, (x, y) in enumerate(session.batches.iterate(chosen[:25], flips[:25])):
            state.record_step(session.step(x, y))
            if index == 2:  # by then memory is allocated and Adam has its state
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == len(chosen[:25])


def test_in_full_precision_a_gpu_trains_as_a_cpu_does(gpu, cohort, tmp_path):
    with full_precision():
        losses = [
            train(RECIPE, cohort, tmp_path / name, device=name, progress=False).history.loss
            for name in ("cuda", "cpu")
        ]
    assert losses[0].tolist() == pytest.approx(losses[1].tolist(), rel=1e-4)
