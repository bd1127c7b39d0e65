"""The losses of networks and surrogates; those of images are in dB, so that their weights compare."""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-8
"""Keeps the loss of a perfect image finite, at -80 dB."""


def normalized_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error over the energy of the target; both (b, c, h, w)."""
    return (prediction - target).square().sum() / target.square().sum().clamp_min(1e-12)


def psnr_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of minus the PSNR in dB; both (b, c, h, w) in [0, 1] (Chen et al., ECCV 2022)."""
    mse = (prediction - target).square().mean((1, 2, 3))
    return 10 * torch.log10(mse + _EPS).mean()


def fourier_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the mean L1 difference of the 2-D Fourier transforms, in dB; both (b, c, h, w) in [0, 1].

    The L1 over real and imaginary parts is that of MIMO-UNet (Cho et al., ICCV 2021), of the orthonormal transform, so
    that it does not depend on the size of the crops. An L1 counts the many weak high frequencies, which blur takes and
    which a squared error hardly sees. In dB, its gradient is about as large as that of :func:`psnr_loss`.
    """
    # Not in bfloat16, which transforms do not have.
    spectrum = torch.view_as_real(torch.fft.fft2(prediction.float() - target.float(), norm="ortho"))
    return 20 * torch.log10(spectrum.abs().mean((1, 2, 3, 4)) + _EPS**0.5).mean()
