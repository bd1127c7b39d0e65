"""Judging networks on images whose clean version is known, by a stated protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.data.images import ImagePair
from netgraft.errors import DatasetError, ImageError
from netgraft.imaging import RgbImage
from netgraft.intervals import paired_interval
from netgraft.protocol import METRICS
from netgraft.scores import Evaluation, ImageScore, Scorer, eight_bits

__all__ = [
    "PROTOCOL",
    "Evaluation",
    "ImageScore",
    "batch_psnr_db",
    "crop_psnrs_db",
    "eight_bits",
    "evaluate",
    "evaluate_all",
    "paired_interval",
]

PROTOCOL = METRICS | {"psnr": "8-bit rounded RGB, whole image, per image, then averaged"}
"""How the figures of :func:`evaluate` come about, in words."""
EIGHT_BITS = Scorer()
"""Compares images as files hold them."""
Restore = Callable[[RgbImage], RgbImage]
"""What restores an (h, w, 3) uint8 or uint16 image; of a dual-pixel pair it gets (h, w, 6)."""


def evaluate(restore: Restore, images: Iterable[ImagePair]) -> Evaluation:
    """Scores of ``restore``, which maps (h, w, 3) uint8 or uint16 to the same, on every image.

    Raises:
        DatasetError: there are no images.
    """
    return evaluate_all({"restored": restore}, images)["restored"]


def evaluate_all(
    networks: Mapping[str, Restore],
    images: Iterable[ImagePair],
    *,
    scorer: Scorer = EIGHT_BITS,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Evaluation]:
    """Scores of several networks, by name, in one pass over the images: each is read once and forgotten.

    Raises:
        DatasetError: there are no images, one has not the bits that were asked for, or cannot be compared.
    """
    scores: dict[str, list[ImageScore]] = {name: [] for name in networks}
    for done, image in enumerate(images, start=1):
        degraded, clean = image.degraded, image.clean
        if scorer.bits == 8:
            degraded, clean = eight_bits(degraded), eight_bits(clean)
        elif degraded.dtype == np.uint8:
            raise DatasetError(f"{image.name} has 8 bits a channel: figures in 16 bits need images of 16; use --bits 8")
        for name, restore in networks.items():
            try:
                restored = restore(degraded)
                found = scorer(image.name, restored, clean, group=image.group, scene=image.scene)
            except ImageError as error:
                raise DatasetError(f"{image.name}, {name}: {error}") from error
            scores[name].append(found)
        progress(done)
    if not all(scores.values()):
        raise DatasetError("there are no images to evaluate on: name a folder with at least one pair")
    return {name: Evaluation(scores=tuple(found)) for name, found in scores.items()}


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
