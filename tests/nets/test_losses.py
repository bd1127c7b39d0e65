"""The losses against what can be computed by hand, and the Fourier transform against a matrix product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from netgraft.nets.losses import fourier_loss, psnr_loss


def test_the_psnr_loss_by_hand() -> None:
    """An error of 0.1 everywhere is 20 dB, one of 0.01 is 40; the mean of the batch counts."""
    target = torch.zeros(2, 3, 4, 4)
    prediction = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    assert psnr_loss(prediction, target).item() == pytest.approx(-30, abs=1e-2)
    assert psnr_loss(target, target).item() == pytest.approx(-80)


def test_the_fourier_loss_of_a_shift_by_hand() -> None:
    """A constant error of 0.8 on 4x4 has one coefficient, 0.8 * 16 / 4 = 3.2, among 2 * 16 numbers: 0.1, -20 dB."""
    target = torch.rand(2, 3, 4, 4)
    assert fourier_loss(target + 0.8, target).item() == pytest.approx(-20, abs=2e-2)
    assert fourier_loss(target, target).item() == pytest.approx(-80)


def test_the_fourier_loss_against_matrices() -> None:
    """The transform written out as W_h X W_w, in numpy."""
    prediction, target = torch.rand(2, 3, 6, 10), torch.rand(2, 3, 6, 10)
    waves = {n: np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n) for n in (6, 10)}
    spectrum = waves[6] @ (prediction - target).double().numpy() @ waves[10]
    means = np.stack([np.abs(spectrum.real), np.abs(spectrum.imag)]).mean((0, 2, 3, 4))
    assert fourier_loss(prediction, target).item() == pytest.approx(np.mean(20 * np.log10(means)), abs=1e-2)


def test_the_fourier_loss_teaches_as_strongly_as_the_psnr_loss() -> None:
    """Their gradients are of one size, at any error: a weight of 1 means as much in both."""
    target = torch.rand(1, 3, 16, 16)
    for spread in (0.3, 0.01):
        norms = []
        for loss in (psnr_loss, fourier_loss):
            prediction = (target + spread * torch.randn(1, 3, 16, 16)).requires_grad_()
            loss(prediction, target).backward()  # type: ignore[no-untyped-call]
            assert prediction.grad is not None
            norms.append(prediction.grad.norm().item())
        assert norms[1] == pytest.approx(norms[0], rel=0.4)
