"""The paper's model: 20 residual units, 64 numbers, and a decoder that grows a mask from them."""

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
        Of the first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.extra = stride, channels_out - channels_in
        self.norm1 = _normalisation(channels_in)
        self.conv1 = _convolution(channels_in, channels_out, stride)
        self.norm2 = _normalisation(channels_out)
        self.conv2 = _convolution(channels_out, channels_out)

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride) without a parameter."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        active = F.leaky_relu(x, SLOPE)
        x = self.conv1(self.norm1(active))
        x = self.conv2(self.norm2(x))
        return x + self.shortcut(active)


class TensorFlowUnit(Unit):
    """The unit of the TensorFlow model: normalise, leaky ReLU, convolve, twice; add the input.

    In the first unit of a group what is added is the input after its activation.
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
    divide by the TensorFlow model's three groups; four groups of five is our reading, the
    fourth with stride 1 so that the shapes work out.

    Parameters
    ----------
    width : int
        Channels of the first group; the next have 2, 4 and again 4 times as many. Code: 16.
    unit : {"paper", "tensorflow"}
        Which residual unit.
    units : int
        Residual units in all, divisible by ``groups``. Paper: 20; TensorFlow model: 15.
    groups : {1, 2, 3, 4}
        TensorFlow model: 3.
    fourth_stride : {1, 2}
        Stride of the fourth group.
    vector : int
        Numbers between encoder and decoder. Paper: 64.
    size : (rows, columns)
        Of the slices, each divisible by 4; the vector decoder's fully connected layer fixes it.
    decoder : {"vector", "map", "unet without skips", "unet"}
        Paper: "vector". "unet" is the baseline's, "map" this one's without the vector before it;
        all but "vector" need a map of a quarter of the rows and columns, as three groups make it,
        or four with a stride of 1 in the fourth.
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
            raise ValueError(f"unit is 'paper' or 'tensorflow', not {unit!r}")
        if groups not in (1, 2, 3, 4) or units % groups:
            raise ValueError(f"{units} units do not divide into {groups} groups (of 1 to 4)")
        if decoder != "vector" and (groups < 3 or (groups == 4 and fourth_stride != 1)):
            raise ValueError(f"{groups} groups leave no quarter-size map for decoder {decoder!r}")
        if size[0] % 4 or size[1] % 4:
            raise ValueError(f"rows and columns must be divisible by 4, not {size[0]} x {size[1]}")
        channels = [width, 2 * width, 4 * width, 4 * width][:groups]
        strides = [1, 2, 2, fourth_stride][:groups]
        self.groups = groups
        self.first = _convolution(1, width)
        self.units = nn.Sequential()
        before = width
        for after, stride in zip(channels, strides, strict=True):
            for position in range(units // groups):
                step = stride if position == 0 else 1
                if unit == "paper":
                    self.units.append(Unit(before, after, step))
                else:
                    self.units.append(TensorFlowUnit(before, after, step, first=position == 0))
                before = after
        # the paper lists a leaky ReLU alone after the units; TensorFlow's model normalises first
        self.norm = _normalisation(before) if unit == "tensorflow" else nn.Identity()
        self.add_decoder(decoder, before, width, vector, size)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # as TensorFlow's model
            elif isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                nn.init.xavier_normal_(layer.weight)

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 1, H, W) to the sums that end the first two groups, and the last leaky ReLU's map."""
        x = self.first(x)
        ends = []
        for place, unit in enumerate(self.units, start=1):
            x = unit(x)
            if place % (len(self.units) // self.groups) == 0:
                ends.append(x)
        return ends[0], ends[min(1, self.groups - 1)], F.leaky_relu(self.norm(x), SLOPE)
