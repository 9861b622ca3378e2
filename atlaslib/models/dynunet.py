"""Networks from other libraries, for comparison."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class DynUNet(nn.Module):
    """MONAI's DynUNet, which is modelled on nnU-Net, without residual blocks; needs MONAI.

    Parameters
    ----------
    width, levels, channels : int
        As in :class:`~atlaslib.models.residual_unet.ResidualUNet`.
    """

    def __init__(self, width: int = 32, levels: int = 5, channels: int = 1) -> None:
        super().__init__()
        try:
            from monai.networks.nets import DynUNet as Network
        except ImportError:
            raise ValueError("dynunet needs MONAI: pip install monai") from None
        if levels < 3:
            raise ValueError(f"dynunet needs at least 3 levels, not {levels}")
        strides = [1] + [2] * (levels - 1)
        self.multiple = 2 ** (levels - 1)
        self.network = Network(
            spatial_dims=2,
            in_channels=channels,
            out_channels=1,
            kernel_size=[3] * levels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=[width * 2**level for level in range(levels)],
        )
        # by MONAI's rule, which is for layers before a ReLU, the first logits would be large
        self.network.output_block.conv.conv.reset_parameters()

    @property
    def final_bias(self) -> torch.Tensor:
        """The bias added to every logit; training may initialise it from the base rate."""
        return self.network.output_block.conv.conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to (N, 1, H, W) logits; the input is padded to halve evenly."""
        rows, columns = x.shape[-2:]
        x = F.pad(x, (0, -columns % self.multiple, 0, -rows % self.multiple))
        return self.network(x)[..., :rows, :columns]
