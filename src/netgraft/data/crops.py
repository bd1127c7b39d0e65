"""Random crops for training: pairs that are a pure function of (seed, index).

Because a pair depends on nothing else, a training that stops at step k continues with exactly the pairs that it
would have seen.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from netgraft.data.degrade import Degradation, Image, Window
from netgraft.data.layouts import Pair
from netgraft.data.pairs import load_pair
from netgraft.errors import DatasetError, NetgraftError
from netgraft.imaging import RgbImage


class CropStage(BaseModel):
    """A part of a training with crops of one size: small crops first, larger ones later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=0)
    """Optimizer steps in this stage."""
    size: int = Field(ge=16)
    """Side of the square crops, in pixels."""
    batch: int = Field(ge=1)
    """Crops a step."""


class CropSource(Protocol):
    """Where crops come from."""

    def crop(self, size: int, rng: np.random.Generator) -> tuple[RgbImage, RgbImage]:
        """A random square crop (degraded, clean), both (size, size, 3), with randomness from ``rng`` alone."""
        ...


@dataclass(frozen=True, slots=True)
class SyntheticSource:
    """Crops of sharp photographs, degraded as they are taken."""

    photos: Sequence[Image]
    degradation: Degradation

    def crop(self, size: int, rng: np.random.Generator) -> tuple[RgbImage, RgbImage]:
        frame = self.photos[int(rng.integers(len(self.photos)))]
        window = _random_window(frame, size, rng)
        return self.degradation(frame, window, rng), cut(frame, window)


@dataclass(frozen=True, slots=True)
class PairedSource:
    """Crops of image pairs on disk."""

    pairs: Sequence[Pair]

    def crop(self, size: int, rng: np.random.Generator) -> tuple[RgbImage, RgbImage]:
        degraded, clean = load_pair(self.pairs[int(rng.integers(len(self.pairs)))])
        window = _random_window(clean, size, rng)
        return cut(degraded, window), cut(clean, window)


def _random_window(frame: RgbImage, size: int, rng: np.random.Generator) -> Window:
    h, w = frame.shape[:2]
    if min(h, w) < size:
        raise DatasetError(f"an image of {w}x{h} pixels is smaller than the crops of {size}: use smaller crops")
    return Window(top=int(rng.integers(h - size + 1)), left=int(rng.integers(w - size + 1)), height=size, width=size)


def cut(frame: RgbImage, window: Window) -> RgbImage:
    """The window of an (h, w, 3) image, as a view."""
    return frame[window.top : window.top + window.height, window.left : window.left + window.width]


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (degraded, clean) of (3, size, size) float32 RGB in [0, 1], turned and mirrored at random."""

    def __init__(self, source: CropSource, size: int, seed: int) -> None:
        self.source = source
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        degraded, clean = self.source.crop(self.size, rng)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        return _as_tensor(degraded, turns, flip), _as_tensor(clean, turns, flip)


def image_tensor(image: RgbImage) -> Tensor:
    """(3, h, w) float32 RGB in [0, 1] of an (h, w, 3) uint8 or uint16 image."""
    white = np.float32(np.iinfo(image.dtype).max)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / white)


def _as_tensor(image: RgbImage, turns: int, flip: bool) -> Tensor:
    turned = np.rot90(image, turns)
    return image_tensor(turned[:, ::-1] if flip else turned)


def crop_batches(
    source: CropSource, stages: Sequence[CropStage], *, seed: int, first_step: int = 0, workers: int = 0
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Batches of (b, 3, size, size) for every step from ``first_step`` to the last stage's end."""
    start = 0
    for number, stage in enumerate(stages):
        steps = range(max(first_step, start), start + stage.steps)
        start += stage.steps
        if not steps:
            continue
        loader = DataLoader(
            Crops(source, stage.size, seed + number),
            batch_sampler=[list(range(step * stage.batch, (step + 1) * stage.batch)) for step in steps],
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            # Of its own, so that the caller's random numbers do not move on.
            generator=torch.Generator().manual_seed(0),
        )
        try:
            yield from loader
        except NetgraftError as error:
            # A worker hands its whole traceback over as the message; what happened is its last line.
            line = str(error).strip().splitlines()[-1]
            raise type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from error
