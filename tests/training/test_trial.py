"""A network is tried before anything is written, and the caller's own stays as it is."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from atlaslib import evaluate, load_run, predict, recipe, train
from atlaslib.files import DataError
from atlaslib.models import MODELS
from atlaslib.networks import new_network
from atlaslib.training import trial
from atlaslib.training.custom import Custom
from atlaslib.training.trial import try_one_batch

RECIPE = recipe("baseline", "smoke", width=2, epochs=1)


class Odd(nn.Module):
    """A convolution whose output is changed."""

    def __init__(self, change=lambda x: x):
        super().__init__()
        self.conv, self.change = nn.Conv2d(1, 1, 3, padding=1), change

    def forward(self, x):
        return self.change(self.conv(x))


class Frozen(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Odd(lambda x: (x, x)), "got tuple"),
        (Odd(lambda x: None), "got NoneType"),
        (Odd(lambda x: {"out": x}), "got dict"),
        (Odd(lambda x: x.long()), r"\(2, 1, 48, 40\), int64"),
        (Odd(lambda x: x > 0), "bool"),
        (Odd(lambda x: x[:, :, ::2]), r"got \(2, 1, 24, 40\)"),
        (Odd(lambda x: x.squeeze(1)), r"got \(2, 48, 40\)"),
        (Odd(lambda x: torch.cat([x, x], 1)), r"got \(2, 2, 48, 40\)"),
        (Odd(lambda x: x.detach()), "do not depend on its parameters"),
        (Odd(lambda x: x * torch.nan), "NaN or infinite"),
        (Odd(lambda x: x.to("meta")), "on meta"),
        (Odd(lambda x: 1 / 0), "ZeroDivisionError"),
        (nn.Conv2d(3, 1, 3, padding=1), r"fails on slices \(2, 1, 48, 40\): RuntimeError"),
        (nn.Linear(7, 1), "RuntimeError"),
        (Frozen(), "no parameter to train"),
        (nn.Conv2d(1, 1, 1).requires_grad_(False), "no parameter to train"),
        (nn.Conv2d(1, 1, 3, padding=1, device="meta"), "on the CPU, found meta"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1, device="meta")), "cpu, meta"),
        ("baseline", "expected a torch.nn.Module, .* got str"),
        (3, "got int"),
        (lambda: None, "got NoneType"),
        (nn.Conv2d, "missing 3 required positional arguments"),
    ],
)
def test_an_odd_network_is_one_line_and_leaves_no_folder(model, says, cohort, tmp_path):
    with pytest.raises(ValueError, match=says) as error:
        train(RECIPE, cohort, out=tmp_path / "run", model=model, progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"zero"}))
def test_every_network_of_the_library_is_tried_without_a_complaint(name):
    if name == "dynunet":
        pytest.importorskip("monai", reason="DynUNet is MONAI's")
    try_one_batch(recipe(name, "smoke"), Custom())


def test_the_user_s_loss_is_tried_on_the_device(monkeypatch):
    seen = []

    def loss(logits, masks):
        seen.extend([logits.device.type, masks.device.type])
        return logits.square().mean()

    monkeypatch.setattr(trial, "best_device", lambda: torch.device("meta"))
    monkeypatch.setattr(trial, "slices_per_pass", lambda *_: 1)
    with pytest.raises(ValueError, match="cannot be called on meta"):  # it holds no values
        try_one_batch(RECIPE, Custom(loss=loss))
    assert seen == ["meta", "meta"]


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.ReLU(), nn.Softplus()])
def test_probabilities_in_place_of_logits_are_refused(last):
    with pytest.raises(ValueError, match="cannot become negative; return logits"):
        try_one_batch(RECIPE, Custom(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), last)))


def test_logits_that_begin_above_zero_are_no_probabilities():
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.bias, 1.5)
    try_one_batch(RECIPE, Custom(layer))


class Tied(nn.Module):
    """One layer under two names, as in MONAI's DynUNet."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.again = self.first

    def forward(self, x):
        return self.again(self.first(x))


def test_a_layer_with_two_names_is_saved_and_loaded(cohort, tmp_path):
    run = train(RECIPE, cohort, out=tmp_path / "run", model=Tied(), progress=False)
    layer = load_run(tmp_path / "run", model=Tied()).model()
    assert layer.first is layer.again
    assert torch.equal(layer.first.weight, run.model().again.weight)


def test_weights_in_another_memory_layout_are_tried():
    mine = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
    try_one_batch(RECIPE, Custom(mine.to(memory_format=torch.channels_last)))


def test_trying_changes_neither_the_network_nor_the_random_state():
    mine = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3, padding=1))
    before, state = copy.deepcopy(mine.state_dict()), torch.get_rng_state()
    try_one_batch(RECIPE, Custom(mine))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in before.items())


def test_an_empty_looking_module_is_not_replaced():
    """The truth of a Sequential is its length."""
    mine = nn.Sequential()
    assert isinstance(new_network(RECIPE, mine), nn.Sequential)


def test_your_own_needs_a_folder(cohort):
    with pytest.raises(ValueError, match="needs out="):
        train(RECIPE, cohort, model=nn.Conv2d(1, 1, 3, padding=1), progress=False)


def test_a_second_seed_starts_from_the_same_weights_again(cohort, tmp_path):
    mine = nn.Conv2d(1, 1, 3, padding=1)
    before = copy.deepcopy(mine.state_dict())
    first = train(RECIPE, cohort, out=tmp_path / "a", model=mine, progress=False)
    again = train(RECIPE, cohort, out=tmp_path / "b", model=mine, progress=False)
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in before.items())
    for name, value in first.model().state_dict().items():
        assert torch.equal(again.model().state_dict()[name], value)
        assert not torch.equal(before[name], value)


def test_two_networks_that_print_alike_do_not_share_a_run(cohort, tmp_path):
    """Known by its folder alone: another module of the same description gets its own weights."""
    factory = [lambda: Odd(torch.sin), lambda: Odd(torch.cos)]
    runs = [
        train(RECIPE, cohort, out=tmp_path / str(number), model=make, progress=False)
        for number, make in enumerate(factory)
    ]
    weights = [run.model().state_dict()["conv.weight"] for run in runs]
    assert not torch.equal(*weights)
    assert load_run(tmp_path / "0", factory[0]).provenance["custom"] == "model"


class Logarithm(Odd):
    """Infinite where a slice is exactly 0, as air is."""

    def forward(self, x):
        return self.conv(x) + x.log()


def test_logits_that_are_no_numbers_are_never_an_empty_mask(cohort, tmp_path):
    untrained = dataclasses.replace(RECIPE, epochs=0)
    run = train(untrained, cohort, out=tmp_path / "run", model=Logarithm, progress=False)
    for use in (lambda: predict(run, cohort[0]), lambda: evaluate(run, cohort[:1])):
        with pytest.raises(DataError, match="logits are NaN or infinite"):
            use()


def test_a_network_that_computes_otherwise_is_not_the_one_that_was_trained(cohort, tmp_path):
    """The same names and shapes, another forward pass."""
    train(RECIPE, cohort, out=tmp_path / "run", model=Odd, progress=False)
    assert load_run(tmp_path / "run", Odd).model() is not None
    with pytest.raises(DataError, match="computes other logits"):
        load_run(tmp_path / "run", lambda: Odd(torch.neg)).model()


def test_a_function_that_returns_one_module_twice_gives_each_run_its_own(cohort, tmp_path):
    mine = Odd()
    before = copy.deepcopy(mine.state_dict())
    for name in "ab":
        train(RECIPE, cohort, out=tmp_path / name, model=lambda: mine, progress=False)
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in before.items())


class OnlyWhileTraining(Odd):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("line one\nline two")
        return self.conv(x)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (OnlyWhileTraining, r"fails on slices \(1, 1, 48, 40\): RuntimeError: line one line two"),
        (lambda: nn.LazyConv2d(1, 3, padding=1), "model: "),
        (lambda: nn.Conv2d(1, 1, 3, padding=1, dtype=torch.complex64), "model: "),
        (lambda: torch.jit.script(Odd()), "model: "),
        (lambda: (_ for _ in ()).throw(ValueError("a\nb")), "cannot be made or copied: a b"),
    ],
)
def test_what_would_fail_later_is_tried_first(make, says, cohort, tmp_path):
    with pytest.raises(ValueError, match=says) as error:
        train(RECIPE, cohort, out=tmp_path / "run", model=make, progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [8, 27, 5, 3])
def test_all_numbers_of_slices_that_a_run_uses_are_tried(count):
    """Batches of 8 are computed as 5 and 3; 27 slices are segmented at once."""

    class Refuses(Odd):
        def forward(self, x):
            assert len(x) != count, "too many"
            return self.conv(x)

    chosen = RECIPE if count == 8 else dataclasses.replace(RECIPE, micro_batch=5)
    with pytest.raises(ValueError, match=rf"fails on slices \({count}, 1, 48, 40\): Ass.*too many"):
        try_one_batch(chosen, Custom(Refuses))


def test_a_batch_that_needs_more_memory_than_there_is_is_not_tried(monkeypatch):
    monkeypatch.setattr("atlaslib.training.trial.max_batch_size", lambda network, x: 2)
    seen = []
    try_one_batch(RECIPE, Custom(lambda: Odd(lambda x: seen.append(len(x)) or x)))
    assert max(seen) == 2


@pytest.mark.parametrize("text", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate"])
def test_a_lack_of_memory_is_left_to_training(text):
    def fail(x):
        raise RuntimeError(text)

    try_one_batch(RECIPE, Custom(lambda: Odd(fail)))


def test_an_infinite_mask_in_a_buffer_is_no_damage(cohort, tmp_path):
    def make():
        network = Odd()
        network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return network

    run = train(RECIPE, cohort, out=tmp_path / "run", model=make, progress=False)
    assert torch.isinf(run.model().mask[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda cohort: train("baseline", cohort), "recipe: expected a Recipe, got str"),
        (lambda cohort: train(RECIPE, cohort.root), "cohort: expected a Cohort, got PosixPath"),
        (lambda cohort: evaluate("run", cohort), "run: expected a Run or Predictor, got str"),
        (lambda cohort: predict(None, cohort[0]), "run: expected a Run or Predictor, got NoneType"),
    ],
)
def test_arguments_of_other_types_are_one_line(call, says, cohort):
    with pytest.raises(ValueError, match=says):
        call(cohort)
