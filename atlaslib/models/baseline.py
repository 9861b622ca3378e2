"""The baseline: the U-Net that the course gave the paper's authors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from atlaslib.models.decoders import EncoderDecoder, convolution, initialise


class Baseline(EncoderDecoder):
    """Conv1 to Conv6 of the paper's section 4, and the decoder of the starter code.

    The paper describes the encoder alone and writes Conv4's filters as [3,3,64], which cannot
    follow the 128 channels of Conv3; the code has [3,3,128]. At the paper's width the model has
    1,861,697 parameters.

    Parameters
    ----------
    width : int
        Channels of Conv1; deeper layers have 2 and 4 times as many. Paper: 64.
    dropout : float
        Share of activations dropped after each convolution of the encoder. Paper: 0.15.
    normalise : bool
        Batch normalisation after each convolution of the encoder. Paper: none.
    decoder : {"unet", "unet without skips", "map", "vector"}
        Paper: "unet". "vector" is the decoder of the paper's ResNet, "map" the same without the
        vector.
    map_width : int
        Channels of the map that a "map" or "vector" decoder upsamples. Code: 16.
    vector : int
        Length of the vector between the encoder and a "vector" decoder.
    size : (rows, columns) of the slices, needed only by a "vector" decoder
    """

    def __init__(
        self,
        width: int = 64,
        dropout: float = 0.15,
        normalise: bool = False,
        decoder: str = "unet",
        map_width: int = 16,
        vector: int = 64,
        size: tuple[int, int] = (232, 196),
    ) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        self.dropout = nn.Dropout(dropout)
        # the comments give the output at 232 x 196 and the paper's width
        self.conv1 = convolution(1, w1)  # (N, 64, 232, 196)
        self.conv2 = convolution(w1, w1)
        self.pool1 = nn.MaxPool2d(2)  # (N, 64, 116, 98)
        self.conv3 = convolution(w1, w2)  # (N, 128, 116, 98)
        self.conv4 = convolution(w2, w2)
        self.pool2 = nn.MaxPool2d(2)  # (N, 128, 58, 49)
        self.conv5 = convolution(w2, w3)  # (N, 256, 58, 49)
        self.conv6 = convolution(w3, w3)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels) if normalise else nn.Identity()
            for channels in (w1, w1, w2, w2, w3, w3)
        )
        initialise(self)
        self.add_decoder(decoder, w3, map_width, vector, size)

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 1, H, W) to (N, w, H, W), (N, 2w, H/2, W/2), (N, 4w, H/4, W/4)."""
        norm1, norm2, norm3, norm4, norm5, norm6 = self.norms
        x = self.dropout(F.relu(norm1(self.conv1(x))))
        full = self.dropout(F.relu(norm2(self.conv2(x))))
        x = self.dropout(F.relu(norm3(self.conv3(self.pool1(full)))))
        x = F.relu(norm4(self.conv4(x)))
        half = self.dropout(x)
        x = self.pool2(x)  # a quirk of the code: it pools conv4 before the dropout
        x = self.dropout(F.relu(norm5(self.conv5(x))))
        return full, half, self.dropout(F.relu(norm6(self.conv6(x))))
