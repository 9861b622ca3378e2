"""The baseline: the U-Net that the course gave the paper's authors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


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


def refuse_size(x: torch.Tensor) -> None:
    """Both models halve the slice twice."""
    rows, columns = x.shape[-2:]
    if rows % 4 or columns % 4:
        raise ValueError(f"rows and columns must be divisible by 4, not {rows} x {columns}")


class Baseline(nn.Module):
    """Conv1 to Conv6 of the paper's section 4, and the decoder of the starter code.

    The paper describes the encoder alone and writes Conv4's filters as [3,3,64], which cannot
    follow the 128 channels of Conv3; the code has [3,3,128]. At the paper's width the model has
    1 861 697 parameters.

    Parameters
    ----------
    width : int
        Channels of Conv1; deeper layers have 2 and 4 times as many. Paper: 64.
    dropout : float
        Share of activations dropped after each convolution of the encoder. Paper: 0.15.
    """

    def __init__(self, width: int = 64, dropout: float = 0.15) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        self.dropout = nn.Dropout(dropout)
        # encoder; the comments give the output at 232 x 196 and the paper's width
        self.conv1 = _conv(1, w1)  # (N, 64, 232, 196)
        self.conv2 = _conv(w1, w1)
        self.pool1 = nn.MaxPool2d(2)  # (N, 64, 116, 98)
        self.conv3 = _conv(w1, w2)  # (N, 128, 116, 98)
        self.conv4 = _conv(w2, w2)
        self.pool2 = nn.MaxPool2d(2)  # (N, 128, 58, 49)
        self.conv5 = _conv(w2, w3)  # (N, 256, 58, 49)
        self.conv6 = _conv(w3, w3)
        # decoder, from the code: the paper does not describe it
        self.up1 = UpConvolution(w3, w2)  # (N, 128, 116, 98)
        self.conv7 = _conv(2 * w2, w2)
        self.conv8 = _conv(w2, w2)
        self.up2 = UpConvolution(w2, w1)  # (N, 64, 232, 196)
        self.conv9 = _conv(2 * w1, w1)
        self.conv10 = _conv(w1, w1)
        self.head = nn.Conv2d(w1, 1, kernel_size=1)  # (N, 1, 232, 196)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.xavier_normal_(layer.weight)
                # the code gave the biases the same initialiser, whose fans are then their number
                nn.init.normal_(layer.bias, std=layer.bias.numel() ** -0.5)

    @property
    def final_bias(self) -> torch.Tensor:
        """The one number added to every logit; training may start it at the base rate."""
        assert self.head.bias is not None
        return self.head.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) intensities in 0..1 to (N, 1, H, W) logits; H and W divisible by 4."""
        refuse_size(x)
        x = self.dropout(F.relu(self.conv1(x)))
        skip1 = self.dropout(F.relu(self.conv2(x)))
        x = self.dropout(F.relu(self.conv3(self.pool1(skip1))))
        x = F.relu(self.conv4(x))
        skip2 = self.dropout(x)
        x = self.pool2(x)  # a quirk of the code: conv4 before its dropout
        x = self.dropout(F.relu(self.conv5(x)))
        x = self.dropout(F.relu(self.conv6(x)))
        x = torch.cat([F.relu(self.up1(double(x))), skip2], dim=1)
        x = F.relu(self.conv8(F.relu(self.conv7(x))))
        x = torch.cat([F.relu(self.up2(double(x))), skip1], dim=1)
        x = F.relu(self.conv10(F.relu(self.conv9(x))))
        return self.head(x)


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
