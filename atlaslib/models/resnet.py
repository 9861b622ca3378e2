"""The paper's model: 20 residual units, a vector of 64 numbers, and a decoder to a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.models.decoders import EncoderDecoder

SLOPE = 0.1  # of the leaky ReLU, as in the TensorFlow model that the paper adapted


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    # no bias: a batch normalisation before the next convolution would cancel most of it
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _normalisation(channels: int) -> nn.BatchNorm2d:
    # TensorFlow's decay of 0.9 is PyTorch's momentum of 0.1
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.1)


class Unit(nn.Module):
    """A residual unit as the paper's section 5.2 describes it.

    (a) leaky ReLU; (b) batch normalisation and convolution; (c) batch normalisation and
    convolution; (d) add the activation of (a). Where the shape changes, the shortcut is an
    average pool and zeros for the new channels.

    Parameters
    ----------
    channels_in, channels_out : int
    stride : int
        Stride of the first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.extra = stride, channels_out - channels_in
        self.norm1 = _normalisation(channels_in)
        self.conv1 = _convolution(channels_in, channels_out, stride)
        self.norm2 = _normalisation(channels_out)
        self.conv2 = _convolution(channels_out, channels_out)

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride) without parameters."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.extra:  # padding by nothing would copy
            x = F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        active = F.leaky_relu(x, SLOPE)
        x = self.conv1(self.norm1(active))
        x = self.conv2(self.norm2(x))
        return x + self.shortcut(active)


class TensorFlowUnit(Unit):
    """The unit of the TensorFlow model: normalise, leaky ReLU, convolve, twice; add the input.

    In the first unit of a group, the activated input is added instead.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, first: bool = False
    ) -> None:
        super().__init__(channels_in, channels_out, stride)
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        active = F.leaky_relu(self.norm1(x), SLOPE)
        kept = active if self.first else x
        x = self.conv1(active)
        x = self.conv2(F.leaky_relu(self.norm2(x), SLOPE))
        return x + self.shortcut(kept)


class ResNet(EncoderDecoder):
    """The paper's residual network.

    An initial convolution, groups of residual units, a last leaky ReLU, the global average, a
    fully connected layer of 64 numbers, and the vector decoder. The paper's 20 units do not
    divide evenly into the TensorFlow model's three groups; four groups of five is our reading, the
    fourth with stride 1 so that the shapes work out.

    The report does not say how the weights start. As in the TensorFlow model, the convolutions'
    are drawn by He's rule for their outputs; unlike there, the second one of each unit is divided
    by the square root of the number of units. Otherwise the sum over the units grows with each,
    and in evaluation mode, where a new batch normalisation changes nothing, more than doubles: the
    first logits would have a standard deviation of up to thousands. The maps that a decoder other
    than the report's takes are normalised before their leaky ReLU, like the input of a TensorFlow
    unit, and start with a standard deviation of 1/2, which keeps the first logits below 1.

    Parameters
    ----------
    width : int
        Channels of the first group; the next three have 2, 4 and 4 times as many. Code: 16.
    unit : {"paper", "tensorflow"}
        Kind of residual unit.
    units : int
        Residual units in total, divisible by ``groups``. Paper: 20; TensorFlow model: 15.
    groups : {1, 2, 3, 4}
        TensorFlow model: 3.
    fourth_stride : {1, 2}
        Stride of the fourth group.
    vector : int
        Length of the vector between encoder and decoder. Paper: 64.
    size : (rows, columns)
        Size of the slices, both divisible by 4; fixed by the vector decoder's linear layers.
    decoder : {"vector", "map", "unet without skips", "unet"}
        Paper: "vector". "unet" is the baseline's, "map" the vector decoder without the vector; all
        but "vector" need a map of a quarter of the rows and columns, so three groups, or four with
        a stride of 1 in the fourth.
    """

    def __init__(
        self,
        width: int = 16,
        unit: str = "paper",
        units: int = 20,
        groups: int = 4,
        fourth_stride: int = 1,
        vector: int = 64,
        size: tuple[int, int] = (232, 196),
        decoder: str = "vector",
    ) -> None:
        super().__init__()
        if unit not in ("paper", "tensorflow"):
            raise ValueError(f"unit must be 'paper' or 'tensorflow', not {unit!r}")
        if groups not in (1, 2, 3, 4) or units % groups:
            raise ValueError(f"{units} units do not divide evenly into {groups} groups (1 to 4)")
        if decoder != "vector" and (groups < 3 or (groups == 4 and fourth_stride != 1)):
            raise ValueError(f"{groups} groups leave no quarter-size map for decoder {decoder!r}")
        if size[0] % 4 or size[1] % 4:
            raise ValueError(f"rows and columns must be divisible by 4, not {size[0]} x {size[1]}")
        channels = [width, 2 * width, 4 * width, 4 * width][:groups]
        strides = [1, 2, 2, fourth_stride][:groups]
        self.groups = groups
        self.first = _convolution(1, width)
        blocks: list[Unit] = []
        before = width
        for after, stride in zip(channels, strides, strict=True):
            for position in range(units // groups):
                step = stride if position == 0 else 1
                if unit == "paper":
                    blocks.append(Unit(before, after, step))
                else:
                    blocks.append(TensorFlowUnit(before, after, step, first=position == 0))
                before = after
        self.units = nn.Sequential(*blocks)
        # the paper has only a leaky ReLU after the units; the TensorFlow model normalises first
        plain = unit == "paper" and decoder == "vector"
        last = [] if plain else [_normalisation(before)]
        self.norm = nn.Sequential(*last)
        taps = [_normalisation(taken) for taken in (channels[:2] if decoder == "unet" else [])]
        self.taps = nn.ModuleList(taps)
        if decoder != "vector":
            for norm in (*taps, *last):
                nn.init.constant_(norm.weight, 0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # as TensorFlow's model
        with torch.no_grad():  # so that the sum of all units stays small, however many there are
            for block in blocks:
                block.conv2.weight.div_(units**0.5)
        self.add_decoder(decoder, before, width, vector, size)

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 1, H, W) to the first two groups' outputs, and the map after the last leaky ReLU."""
        x = self.first(x)
        ends = []
        for number, unit in enumerate(self.units, start=1):
            x = unit(x)
            if number % (len(self.units) // self.groups) == 0:
                ends.append(x)
        full, half = ends[0], ends[min(1, self.groups - 1)]
        if self.taps:
            tap1, tap2 = self.taps
            full, half = F.leaky_relu(tap1(full), SLOPE), F.leaky_relu(tap2(half), SLOPE)
        return full, half, F.leaky_relu(self.norm(x), SLOPE)
