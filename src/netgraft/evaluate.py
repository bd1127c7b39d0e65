"""Judging a network on images whose clean version is known, by a stated protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netgraft.data.images import ImagePair
from netgraft.errors import DatasetError
from netgraft.imaging import RgbImage, psnr_db, ssim

PROTOCOL = {
    "psnr": "8-bit rounded RGB, whole image, per image, then averaged",
    "ssim": "nafnet_3d: one 11x11x11 Gaussian (sigma 1.5) over height, width and channel",
    "ssim_matlab": "per channel, Gaussian 11x11 (sigma 1.5), valid region",
}
"""How the figures of :class:`ImageScore` come about, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """How close one restored image comes to the clean one."""

    name: str
    """Name of the image."""
    psnr_db: float
    ssim: float
    """The 3-D Gaussian variant that NAFNet's GoPro table uses."""
    ssim_matlab: float
    """The per-channel variant of the original MATLAB code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores on a set of images."""

    scores: tuple[ImageScore, ...]

    def mean(self, figure: str = "psnr_db") -> float:
        """Mean over the images of ``psnr_db``, ``ssim`` or ``ssim_matlab``."""
        return float(np.mean([getattr(score, figure) for score in self.scores]))

    def as_rows(self) -> list[dict[str, Any]]:
        """Plain data, for JSON."""
        return [asdict(score) for score in self.scores]

    @staticmethod
    def from_rows(rows: Iterable[dict[str, Any]]) -> Evaluation:
        """The inverse of :meth:`as_rows`."""
        return Evaluation(scores=tuple(ImageScore(**row) for row in rows))


def eight_bits(image: RgbImage) -> NDArray[np.uint8]:
    """An (h, w, 3) uint8 or uint16 image in 8 bits: 65535 becomes 255, and what lies between is rounded."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def score(name: str, restored: RgbImage, clean: RgbImage) -> ImageScore:
    """Compare one restored image with the clean one, both rounded to 8 bits as the protocol says."""
    restored, clean = eight_bits(restored), eight_bits(clean)
    return ImageScore(
        name=name,
        psnr_db=psnr_db(restored, clean),
        ssim=ssim(restored, clean, variant="nafnet_3d"),
        ssim_matlab=ssim(restored, clean, variant="matlab"),
    )


def evaluate(restore: Callable[[RgbImage], RgbImage], images: Sequence[ImagePair]) -> Evaluation:
    """Scores of ``restore``, which maps (h, w, 3) uint8 or uint16 to the same, on every image.

    Raises:
        DatasetError: there are no images.
    """
    if not images:
        raise DatasetError("there are no images to evaluate on: name a folder with at least one pair")
    return Evaluation(scores=tuple(score(image.name, restore(image.degraded), image.clean) for image in images))


@torch.inference_mode()
def batch_psnr_db(module: nn.Module, degraded: Tensor, clean: Tensor, *, batch: int = 4) -> float:
    """Mean PSNR of a network on crops, (n, 3, h, w) in [0, 1], rounded to 8 bits as a file would be.

    A network whose output is not finite scores 0 dB, which is how the search sees a student that diverged.
    """
    raw = (module(x.to(memory_format=torch.channels_last)) for x in torch.split(degraded, batch))
    scores = crop_psnrs_db(raw, torch.split(clean, batch))
    return 0.0 if scores is None else float(np.mean(scores))


def crop_psnrs_db(raw: Iterable[Tensor], clean: Iterable[Tensor]) -> list[float] | None:
    """PSNR of every crop, from a network's outputs and the clean crops, both in batches (b, 3, h, w).

    None if the network diverged; the batches behind the first output that is not finite are not asked for.
    """
    scores: list[float] = []
    for output, target in zip(raw, clean, strict=True):
        # Before clamping, which would turn infinity into white.
        if not bool(torch.isfinite(output).all()):
            return None
        restored = output.clamp(0, 1).mul(255).round().div(255)
        mse = (restored - target).square().mean((1, 2, 3))
        scores += (-10 * torch.log10(mse.clamp_min(1e-10))).tolist()
    return scores


def paired_interval(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
    """95 % bootstrap interval, over images, of the mean of ``first - second``: (low, high).

    Raises:
        DatasetError: the two are empty, or not of the same images.
    """
    if len(first) != len(second) or not len(first):
        raise DatasetError(f"scores of {len(first)} and {len(second)} images cannot be compared in pairs")
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(gaps), size=(draws, len(gaps)))
    low, high = np.quantile(gaps[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
