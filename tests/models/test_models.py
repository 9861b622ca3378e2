"""The models against the paper's figures, closed forms and PyTorch's own layers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from volumes import head

from atlaslib import build_model, recipe
from atlaslib.models import MODELS, count_parameters, layer_table
from atlaslib.models.decoders import DECODERS, UpConvolution
from atlaslib.models.residual_unet import InstanceNorm
from atlaslib.models.resnet import TensorFlowUnit, Unit
from atlaslib.profiles import PROFILES

PAPER = {  # section 4: layer, output
    "conv1": (232, 196, 64),
    "conv2": (232, 196, 64),
    "pool1": (116, 98, 64),
    "conv3": (116, 98, 128),
    "conv4": (116, 98, 128),
    "pool2": (58, 49, 128),
    "conv5": (58, 49, 256),
    "conv6": (58, 49, 256),
}


def test_baseline_matches_the_paper():
    model = build_model("baseline")
    assert count_parameters(model) == 1_861_697
    table = layer_table(model).set_index("layer")
    assert table.output[list(PAPER)].to_dict() == PAPER
    assert table.parameters.sum() == 1_861_697
    assert table.output["decoder.head"] == (232, 196, 1)


def test_baseline_initialisation():
    torch.manual_seed(0)
    weight = build_model("baseline").conv6.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256 + 9 * 256)), rel=0.01)


@pytest.mark.parametrize("name", ["residual_unet", "dynunet"])
def test_the_table_of_layers_is_that_of_all_input_slices(name):
    table = layer_table(build_model(name, width=4, levels=3, channels=3), (16, 12))
    assert table.output.iloc[0] == (16, 12, 4)
    assert table.parameters.iloc[0] == 9 * 3 * 4
    assert (16, 12, 1) in set(table.output)


def test_dropout_is_on_in_training_and_off_in_evaluation():
    model = build_model("baseline", width=4).eval()
    assert model.dropout.p == 0.15
    x = torch.rand(1, 1, 16, 20)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_up_convolution_matches_same_padding_of_tensorflow():
    layer = UpConvolution(1, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[1.0, 10], [100, 1000]]]]))
        layer.bias.zero_()
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    expected = torch.tensor([[0.0, 0, 0], [0, 1, 10], [0, 100, 1000]])
    assert torch.equal(layer(x)[0, 0], expected)


def test_resnet_parameters_by_closed_form():
    model = build_model("resnet")
    channels = [(16, 16), (16, 32), (32, 64), (64, 64)]
    expected = 9 * 16 + 64 * 64 + 64  # initial convolution, 64-number layer
    for before, after in channels:
        for a in [before] + [after] * 4:
            expected += 9 * a * after + 9 * after * after + 2 * a + 2 * after
    encoder = count_parameters(model) - count_parameters(model.decoder)
    assert encoder == expected
    assert encoder == pytest.approx(0.84e6, rel=0.01)
    assert count_parameters(model.decoder) == pytest.approx(46.7e6, rel=0.01)


def test_paper_unit_against_plain_pytorch():
    unit = Unit(4, 8, stride=2)
    plain = nn.Sequential(
        nn.BatchNorm2d(4, 1e-3),
        nn.Conv2d(4, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8, 1e-3),
        nn.Conv2d(8, 8, 3, 1, 1, bias=False),
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), unit.state_dict().values(), strict=True)))
    x = torch.randn(2, 4, 8, 12)
    active = torch.where(x > 0, x, 0.1 * x)
    pooled = active.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    shortcut = torch.cat([torch.zeros(2, 2, 4, 6), pooled, torch.zeros(2, 2, 4, 6)], 1)
    torch.testing.assert_close(unit(x), plain(active) + shortcut)


def test_units_pass_the_identity_when_their_convolutions_are_zero():
    x = torch.randn(1, 3, 6, 5)
    for unit, expected in [
        (Unit(3, 3), F.leaky_relu(x, 0.1)),
        (TensorFlowUnit(3, 3), x),
    ]:
        nn.init.zeros_(unit.conv2.weight)
        torch.testing.assert_close(unit.eval()(x), expected)


@pytest.mark.parametrize(
    ("options", "units"),
    [
        ({}, 20),
        ({"unit": "tensorflow"}, 20),
        ({"units": 15, "groups": 3}, 15),
        ({"fourth_stride": 2}, 20),
        ({"units": 4, "vector": 8}, 4),
    ],
)
@pytest.mark.parametrize("size", [(12, 20), (28, 24)])
def test_every_variant_of_the_resnet_runs(options, units, size):
    model = build_model("resnet", width=2, size=size, **options)
    assert len(model.units) == units
    assert model(torch.rand(2, 1, *size)).shape == (2, 1, *size)
    assert model.encode(torch.rand(2, 1, *size)).shape == (2, options.get("vector", 64))


@pytest.mark.parametrize("name", ["baseline", "resnet"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_either_encoder_works_with_every_decoder(name, decoder):
    options = {"map_width": 3} if name == "baseline" else {}
    model = build_model(name, width=4, size=(12, 20), decoder=decoder, **options)
    x = torch.rand(2, 1, 12, 20)
    assert model(x).shape == x.shape
    full, half, quarter = model.maps(x)
    assert full.shape[1:] == (4, 12, 20)
    assert half.shape[1:] == (8, 6, 10)
    assert quarter.shape[1:] == (16, 3, 5)


def test_without_skips_the_larger_maps_are_ignored():
    torch.manual_seed(0)
    model = build_model("baseline", width=4, dropout=0.0, decoder="unet without skips")
    full, half, quarter = model.maps(torch.rand(1, 1, 12, 20))
    assert torch.equal(model.decoder(full, half, quarter), model.decoder(0 * full, None, quarter))
    joined = build_model("baseline", width=4, dropout=0.0)
    assert not torch.equal(
        joined.decoder(full, half, quarter), joined.decoder(0 * full, half, quarter)
    )


def test_unknown_decoders_and_maps_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match="2 groups leave no quarter-size map for decoder 'unet'"):
        build_model("resnet", groups=2, decoder="unet")
    with pytest.raises(ValueError, match="decoder must be one of unet, .*, not 'fpn'"):
        build_model("baseline", decoder="fpn")


@pytest.mark.parametrize("name", ["residual_unet", "dynunet"])
@pytest.mark.parametrize(("size", "channels"), [((64, 52), 3), ((29, 24), 1)])
def test_modern_networks_train_at_odd_sizes(name, size, channels):
    """Channels last, as in training: PyTorch crashes there on some strided convolutions."""
    model = build_model(name, width=8, levels=4, channels=channels)
    model = model.to(memory_format=torch.channels_last)
    for _ in range(3):
        logits = model(torch.rand(8, channels, *size))
        logits.square().mean().backward()
    assert logits.shape == (8, 1, *size)


def test_instance_normalisation_is_that_of_pytorch():
    x = 3 + torch.randn(2, 5, 6, 7).to(memory_format=torch.channels_last)
    ours, theirs = InstanceNorm(5), nn.InstanceNorm2d(5, affine=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["baseline", "zero"])
@pytest.mark.parametrize("size", [(4, 8), (28, 36)])
def test_any_size_divisible_by_four_works(name, size):
    assert build_model(name)(torch.rand(1, 1, *size)).shape == (1, 1, *size)


def test_zero_predicts_its_prior():
    logits = build_model("zero", prior=0.01)(torch.rand(2, 1, 3, 5))
    torch.testing.assert_close(logits.sigmoid(), torch.full((2, 1, 3, 5), 0.01))


@pytest.mark.parametrize("name", MODELS)
def test_final_bias_moves_every_logit(name):
    options = {"size": (16, 16)} if name == "resnet" else {}
    options |= {"levels": 3} if name in ("residual_unet", "dynunet") else {}
    model = build_model(name, **options).eval()
    x = torch.rand(1, 1, 16, 16)
    before = model(x).clone()
    with torch.no_grad():
        model.final_bias.add_(3)
    torch.testing.assert_close(model(x), before + 3)


VARIANTS = [
    *[("baseline", {"decoder": decoder}) for decoder in DECODERS],
    *[("resnet", {"decoder": decoder, "unit": unit})
      for decoder in DECODERS for unit in ("paper", "tensorflow")],
    ("residual_unet", {}),
    ("dynunet", {}),
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    """Slices of four heads, a third of the resolution, (4, 1, 66, 78)."""
    return torch.stack([torch.from_numpy(head(n)[::3, ::3, 90] / 70) for n in range(4)])[:, None]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_initial_logits_are_small(name, changes, pictures):
    """Large ones would be wrong with confidence: training would first have to unlearn them."""
    chosen = recipe(name, "quick", **changes)
    options = chosen.model_options()
    rows, columns = chosen.input_size()
    x = pictures[..., :rows, :columns].repeat(1, options.get("channels", 1), 1, 1)
    for seed in range(2):
        torch.manual_seed(seed)
        model = build_model(name, **options)
        with torch.no_grad():
            assert model.eval()(x).std() < 1
            assert model.train()(x).std() < 1


def test_a_decoder_starts_alike_wherever_it_stands():
    """Xavier's standard deviation, from the numbers of channels on both sides."""
    for name in ("baseline", "resnet"):
        torch.manual_seed(0)
        decoder = build_model(name, width=16, decoder="unet").decoder
        assert decoder.conv8.weight.std().item() == pytest.approx(
            math.sqrt(2 / (9 * 32 + 9 * 32)), rel=0.03
        )
        assert decoder.head.weight.std().item() == pytest.approx(math.sqrt(2 / 17), rel=0.5)


@pytest.mark.parametrize("unit", ["paper", "tensorflow"])
def test_the_maps_that_a_unet_decoder_takes_are_normalised(unit):
    model = build_model("resnet", width=4, decoder="unet", unit=unit)
    for found in model.maps(5 + torch.rand(4, 1, 32, 40)):
        before = torch.where(found > 0, found, found / 0.1)  # the leaky ReLU
        assert before.mean((0, 2, 3)).abs().max() < 1e-3
        assert (before.std((0, 2, 3)) - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("name", ["baseline", "resnet"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_is_trained(name, decoder):
    """No layer is made for maps that a decoder does not take."""
    model = build_model(name, width=2, size=(16, 20), decoder=decoder)
    model(torch.rand(4, 1, 16, 20)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: build_model("vgg"), "no model 'vgg'; choose from baseline, resnet, zero"),
        (lambda: build_model("baseline", depth=3), "baseline has no option 'depth'"),
        (lambda: build_model("resnet", units=20, groups=3), "20 units do not divide evenly into 3"),
        (lambda: build_model("resnet", unit="mine"), "unit must be 'paper' or 'tensorflow'"),
        (lambda: build_model("zero", prior=0), "between 0 and 1"),
        (lambda: build_model("baseline", width=2)(torch.rand(1, 1, 10, 8)), "divisible by 4"),
        (lambda: build_model("resnet")(torch.rand(1, 1, 8, 8)), "built for slices of 232 x 196"),
    ],
)
def test_wrong_calls_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_recipe_and_takes_its_slices(name, profile):
    chosen = recipe(name, profile)
    with torch.device("meta"):  # shapes alone: at the paper's widths nothing is computed
        model = build_model(name, **chosen.model_options()).eval()
        x = torch.zeros(2, 1 + 2 * chosen.context_slices, *chosen.input_size())
        assert model(x).shape == (2, 1, *chosen.input_size())
