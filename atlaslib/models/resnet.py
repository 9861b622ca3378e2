"""The paper's model: 20 residual units, 64 numbers, and a decoder that grows a mask from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.models.baseline import UpConvolution, double, refuse_size

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


class VectorDecoder(nn.Module):
    """From a vector to a mask: the only decoder of the starter code that takes a vector.

    Fully connected to 1024, fully connected to a map of a quarter of the rows and columns, then
    twice: bilinear interpolation to double size and a transposed convolution. That the paper's
    64 numbers fed this decoder is our reading; so are the transposed convolutions' widths.

    Parameters
    ----------
    vector : int
        Numbers that come in.
    width : int
        Channels of the map; the hidden layer has 64 times as many numbers. Code: 16 and 1024.
    size : (rows, columns)
        Of the slice that comes out.
    """

    def __init__(self, vector: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (width, size[0] // 4, size[1] // 4)
        self.hidden = nn.Linear(vector, 64 * width)
        self.map = nn.Linear(64 * width, width * self.shape[1] * self.shape[2])
        self.up1 = UpConvolution(width, width)
        self.up2 = UpConvolution(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, vector) to (N, 1, H, W) logits."""
        x = F.relu(self.map(F.relu(self.hidden(x)))).unflatten(1, self.shape)
        return self.up2(double(F.relu(self.up1(double(x)))))


class ResNet(nn.Module):
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
        Of the slices, each divisible by 4; the decoder's fully connected layer fixes it.
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
    ) -> None:
        super().__init__()
        if unit not in ("paper", "tensorflow"):
            raise ValueError(f"unit is 'paper' or 'tensorflow', not {unit!r}")
        if groups not in (1, 2, 3, 4) or units % groups:
            raise ValueError(f"{units} units do not divide into {groups} groups (of 1 to 4)")
        refuse_size(torch.empty(size))
        self.size = tuple(size)
        channels = [width, 2 * width, 4 * width, 4 * width][:groups]
        strides = [1, 2, 2, fourth_stride][:groups]
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
        self.average = nn.AdaptiveAvgPool2d(1)
        self.vector = nn.Linear(before, vector)
        self.decoder = VectorDecoder(vector, width, size)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # as TensorFlow's model
            elif isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                nn.init.xavier_normal_(layer.weight)

    @property
    def final_bias(self) -> torch.Tensor:
        """The one number added to every logit; training may start it at the base rate."""
        assert self.decoder.up2.bias is not None
        return self.decoder.up2.bias

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to the (N, vector) numbers from which the mask is drawn."""
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"this ResNet was built for slices of {self.size[0]} x {self.size[1]}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: build it with size={tuple(x.shape[-2:])}"
            )
        x = F.leaky_relu(self.norm(self.units(self.first(x))), SLOPE)
        return self.vector(self.average(x).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) intensities in 0..1 to (N, 1, H, W) logits; H and W as built."""
        return self.decoder(self.encode(x))
