"""The loss that restoration networks are trained with."""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-8
"""Keeps the loss of a perfect image finite, at -80 dB."""


def psnr_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of minus the PSNR in dB; both (b, c, h, w) in [0, 1] (Chen et al., ECCV 2022)."""
    mse = (prediction - target).square().mean((1, 2, 3))
    return 10 * torch.log10(mse + _EPS).mean()
