"""The decoders of the paper's two models, from an encoder's feature maps to a mask."""

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
    """3x3 convolution that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


def initialise(part: nn.Module) -> None:
    """Draw all weights and biases of a part of a network as the starter code did (Xavier)."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            assert layer.bias is not None
            # the code initialised biases in the same way, with their number as fan in and out
            nn.init.normal_(layer.bias, std=layer.bias.numel() ** -0.5)


class UNetDecoder(nn.Module):
    """The decoder of the starter code's U-Net; the paper does not describe it.

    Parameters
    ----------
    width : int
        Channels of the full-size map; the half- and quarter-size maps have 2 and 4 times as many.
    skips : bool
        Concatenate the full- and half-size maps. False: only the smallest map is used, and the
        convolutions after the concatenation take half as many channels.
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
        initialise(self)

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


class _Upsampling(nn.Module):
    """Two steps of bilinear interpolation to double size and transposed convolution."""

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


class MapDecoder(_Upsampling):
    """The vector decoder's upsampling part, applied directly to the encoder's smallest map.

    This is the paper's decoder without the 64 numbers before it.

    Parameters
    ----------
    channels : int
        Channels of the input map.
    width : int
        Channels to which a 1x1 convolution reduces them.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(width)
        self.narrow = nn.Conv2d(channels, width, kernel_size=1)
        initialise(self)

    def forward(self, full: torch.Tensor, half: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Like :class:`UNetDecoder`, but the larger maps are not used."""
        return self.enlarge(F.relu(self.narrow(x)))


class VectorDecoder(_Upsampling):
    """From a vector to a mask: the only decoder of the starter code that takes a vector.

    A fully connected layer to 1024 numbers, another to a map of a quarter of the rows and columns,
    then two steps of bilinear interpolation to double size and transposed convolution. That the
    paper's 64 numbers fed this decoder is our reading; so are the transposed convolutions' widths.

    Parameters
    ----------
    vector : int
        Length of the input.
    width : int
        Channels of the map; the hidden layer has 64 times as many numbers. Code: 16 and 1024.
    size : (rows, columns) of the output
    """

    def __init__(self, vector: int, width: int, size: tuple[int, int]) -> None:
        super().__init__(width)
        self.shape = (width, size[0] // 4, size[1] // 4)
        self.hidden = nn.Linear(vector, 64 * width)
        self.map = nn.Linear(64 * width, width * self.shape[1] * self.shape[2])
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, vector) to (N, 1, H, W) logits."""
        return self.enlarge(F.relu(self.map(F.relu(self.hidden(x)))).unflatten(1, self.shape))


class EncoderDecoder(nn.Module):
    """Base class of the paper's models: an encoder, the subclass's ``maps``, and a decoder.

    Each model has its own decoder in the paper. Here either encoder accepts either decoder, so that
    one difference can be tested at a time. A decoder draws its own first weights, by the same rule
    wherever it stands; an encoder draws those of its own layers.
    """

    decoder: UNetDecoder | MapDecoder | VectorDecoder

    def add_decoder(
        self, kind: str, channels: int, map_width: int, vector: int, size: tuple[int, int]
    ) -> None:
        """Make the decoder and, for "vector", the average pooling and linear layer before it.

        ``channels`` is the smallest map's; the other arguments are those of the models.
        """
        if kind not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, not {kind!r}")
        self.size = tuple(size)
        if kind == "vector":
            self.average = nn.AdaptiveAvgPool2d(1)
            self.vector = nn.Linear(channels, vector)
            initialise(self.vector)
            self.decoder = VectorDecoder(vector, map_width, size)
        elif kind == "map":
            self.decoder = MapDecoder(channels, map_width)
        else:
            self.decoder = UNetDecoder(channels // 4, skips=kind == "unet")

    @property
    def final_bias(self) -> torch.Tensor:
        """The bias added to every logit; training may initialise it from the base rate."""
        return self.decoder.final_bias

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 1, H, W) to the encoder's feature maps at full, half and quarter size."""
        raise NotImplementedError

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to the (N, vector) input of a vector decoder."""
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"this model was built for slices of {self.size[0]} x {self.size[1]}, "
                f"not {x.shape[-2]} x {x.shape[-1]}: build it with size={tuple(x.shape[-2:])}"
            )
        return self.vector(self.average(self.maps(x)[2]).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) intensities in 0..1 to (N, 1, H, W) logits; H and W divisible by 4.

        With a vector decoder, H and W must be those that the model was built for.
        """
        rows, columns = x.shape[-2:]
        if rows % 4 or columns % 4:
            raise ValueError(f"rows and columns must be divisible by 4, not {rows} x {columns}")
        if isinstance(self.decoder, VectorDecoder):
            return self.decoder(self.encode(x))
        return self.decoder(*self.maps(x))
