"""From an encoder's maps to a mask: what the two models differ in besides their encoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

DECODERS = ("unet", "unet without skips", "map", "vector")


class UpConvolution(nn.ConvTranspose2d):
    """2x2 transposed convolution with stride 1 whose output keeps the input's size.

    TensorFlow's "same" padding drops the last row and column of the full result.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=2, stride=1)

    def forward(  # type: ignore[override]
        self, x: torch.Tensor
    ) -> torch.Tensor:
        return super().forward(x)[..., :-1, :-1]


def double(x: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation to twice the rows and columns."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3x3 that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


class UNetDecoder(nn.Module):
    """The decoder of the starter code's U-Net; the paper does not describe it.

    Parameters
    ----------
    width : int
        Channels of the full-size map; the half and the quarter one have 2 and 4 times as many.
    skips : bool
        Join the full and the half map. False: only the smallest map is used, and the convolutions
        after the join take half as many channels.
    """

    def __init__(self, width: int, skips: bool = True) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        self.skips = skips
        # the comments give the output at 232 x 196 and the paper's width
        self.up1 = UpConvolution(w3, w2)  # (N, 128, 116, 98)
        self.conv7 = convolution(2 * w2 if skips else w2, w2)
        self.conv8 = convolution(w2, w2)
        self.up2 = UpConvolution(w2, w1)  # (N, 64, 232, 196)
        self.conv9 = convolution(2 * w1 if skips else w1, w1)
        self.conv10 = convolution(w1, w1)
        self.head = nn.Conv2d(w1, 1, kernel_size=1)  # (N, 1, 232, 196)

    @property
    def final_bias(self) -> torch.Tensor:
        assert self.head.bias is not None
        return self.head.bias

    def forward(self, full: torch.Tensor, half: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, w, H, W), (N, 2w, H/2, W/2), (N, 4w, H/4, W/4) to (N, 1, H, W) logits."""
        x = F.relu(self.up1(double(x)))
        x = torch.cat([x, half], dim=1) if self.skips else x
        x = F.relu(self.conv8(F.relu(self.conv7(x))))
        x = F.relu(self.up2(double(x)))
        x = torch.cat([x, full], dim=1) if self.skips else x
        x = F.relu(self.conv10(F.relu(self.conv9(x))))
        return self.head(x)


class _Tail(nn.Module):
    """Twice: bilinear interpolation to double size and a transposed convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up1 = UpConvolution(width, width)
        self.up2 = UpConvolution(width, 1)

    @property
    def final_bias(self) -> torch.Tensor:
        assert self.up2.bias is not None
        return self.up2.bias

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H/4, W/4) to (N, 1, H, W) logits."""
        return self.up2(double(F.relu(self.up1(double(x)))))


class MapDecoder(_Tail):
    """The vector decoder's enlarging part, fed with the encoder's smallest map itself.

    What the paper's decoder would be without the 64 numbers before it.

    Parameters
    ----------
    channels : int
        Of the map that comes in.
    width : int
        Channels that a 1x1 convolution leaves of them.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(width)
        self.narrow = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, full: torch.Tensor, half: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """As :class:`UNetDecoder`; the larger maps are not used."""
        return self.enlarge(F.relu(self.narrow(x)))


class VectorDecoder(_Tail):
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
        super().__init__(width)
        self.shape = (width, size[0] // 4, size[1] // 4)
        self.hidden = nn.Linear(vector, 64 * width)
        self.map = nn.Linear(64 * width, width * self.shape[1] * self.shape[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, vector) to (N, 1, H, W) logits."""
        return self.enlarge(F.relu(self.map(F.relu(self.hidden(x)))).unflatten(1, self.shape))


class EncoderDecoder(nn.Module):
    """What both models are: an encoder, which a subclass defines as ``maps``, and a decoder.

    Each model has its own decoder in the paper. That either takes the other's, too, lets one
    difference be tested at a time.
    """

    decoder: UNetDecoder | MapDecoder | VectorDecoder

    def add_decoder(
        self, kind: str, channels: int, map_width: int, vector: int, size: tuple[int, int]
    ) -> None:
        """Make the decoder; with "vector", the average and the layer of 64 numbers before it.

        ``channels`` are those of the smallest map; the other arguments are the models'.
        """
        if kind not in DECODERS:
            raise ValueError(f"decoder is one of {', '.join(DECODERS)}, not {kind!r}")
        self.size = tuple(size)
        if kind == "vector":
            self.average = nn.AdaptiveAvgPool2d(1)
            self.vector = nn.Linear(channels, vector)
            self.decoder = VectorDecoder(vector, map_width, size)
        elif kind == "map":
            self.decoder = MapDecoder(channels, map_width)
        else:
            self.decoder = UNetDecoder(channels // 4, skips=kind == "unet")

    @property
    def final_bias(self) -> torch.Tensor:
        """The one number added to every logit; training may start it at the base rate."""
        return self.decoder.final_bias

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 1, H, W) to the encoder's maps at full, half and a quarter of the size."""
        raise NotImplementedError

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to the (N, vector) numbers from which a vector decoder draws the mask."""
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"this model was built for slices of {self.size[0]} x {self.size[1]}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: build it with size={tuple(x.shape[-2:])}"
            )
        return self.vector(self.average(self.maps(x)[2]).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) intensities in 0..1 to (N, 1, H, W) logits; H and W divisible by 4.

        With a vector decoder, H and W are those that the model was built for.
        """
        rows, columns = x.shape[-2:]
        if rows % 4 or columns % 4:
            raise ValueError(f"rows and columns must be divisible by 4, not {rows} x {columns}")
        if isinstance(self.decoder, VectorDecoder):
            return self.decoder(self.encode(x))
        return self.decoder(*self.maps(x))
