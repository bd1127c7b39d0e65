"""The images of a run: what it trains on, what it chooses by, and what it reports on, from one description.

Three splits never meet: ``train`` teaches, ``validation`` chooses, ``test`` is reported once.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from netgraft.data.crops import CropSource, PairedSource, SyntheticSource, image_tensor
from netgraft.data.defocus import DefocusModel
from netgraft.data.degrade import Degradation, Image, ShakeModel, Window
from netgraft.data.pairs import LAYOUTS, Pair, SharpFolder, list_pairs, load_pair, synthetic_pair
from netgraft.data.photos import photos
from netgraft.errors import ConfigError, DatasetError
from netgraft.imaging import RgbImage
from netgraft.names import lookup

SHARP_SOURCES = ("embedded", "sharp")
Split = Literal["train", "validation", "test"]
HELD_OUT_EVERY = 10
"""Of a dataset without a validation split, every 10th training pair chooses instead of teaching."""


class DataConfig(BaseModel):
    """Where images come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = "embedded"
    """``embedded``, ``sharp`` (ROOT/train, /validation and /test hold sharp photographs) or a paired layout."""
    root: Path | None = None
    """Folder of the data set; not for ``embedded``."""
    degradation: Literal["shake", "defocus"] = "shake"
    """How sharp photographs are degraded."""
    strength_px: tuple[float, float] = (2.0, 20.0)
    """Shortest and longest shake, or smallest and largest radius of the defocus."""
    seed: int = Field(7, ge=0)
    """Seed of the degradation of validation and test images; the training's follows the run's seed."""

    @model_validator(mode="after")
    def _complete(self) -> DataConfig:
        lookup("data source", self.source, {**dict.fromkeys(SHARP_SOURCES), **LAYOUTS})
        if (self.root is None) != (self.source == "embedded"):
            need = "takes no root" if self.source == "embedded" else "needs root, the folder of the data set"
            raise ConfigError(f"data source {self.source!r} {need}")
        if not 0 <= self.strength_px[0] <= self.strength_px[1]:
            raise ConfigError(f"strength_px {list(self.strength_px)}: give the smaller first, at least 0")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """A degraded image with the clean one, both (h, w, 3), uint8 or uint16."""

    name: str
    degraded: RgbImage
    clean: RgbImage


def degradation_of(config: DataConfig) -> Degradation:
    """The synthetic degradation that a config describes."""
    low, high = config.strength_px
    if config.degradation == "defocus":
        return DefocusModel(min_radius_px=low, max_radius_px=high)
    return ShakeModel(min_length_px=low, max_length_px=high)


def train_source(config: DataConfig, *, fraction: float = 1.0, seed: int = 0) -> CropSource:
    """Where training crops come from; ``fraction`` of the images, at least one, drawn by ``seed``."""
    if config.source in SHARP_SOURCES:
        frames = [image for _, image in _sharp(config, "train")]
        return SyntheticSource(_part(frames, fraction, seed), degradation_of(config))
    return PairedSource(_part(_pairs(config, "train"), fraction, seed))


def _part(items: Sequence[Any], fraction: float, seed: int) -> list[Any]:
    count = max(1, round(fraction * len(items)))
    chosen = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[i] for i in sorted(chosen)]


def whole_images(config: DataConfig, split: Split) -> list[ImagePair]:
    """Every image of a split with its clean version."""
    if config.source not in SHARP_SOURCES:
        return [ImagePair(name=pair.name, degraded=d, clean=c) for pair, d, c in _loaded(config, split)]
    degrade = degradation_of(config)
    images = []
    for name, frame in _sharp(config, split):
        # By name, so that an image is degraded alike whatever else is in the folder.
        degraded, clean = synthetic_pair(frame, degrade, config.seed + zlib.crc32(name.encode()))
        images.append(ImagePair(name=name, degraded=degraded, clean=clean))
    return images


def crops_of(
    config: DataConfig, split: Split, *, count: int, size: tuple[int, int], seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``count`` crops, spread evenly over the images of a split: (degraded, clean), both (count, 3, h, w).

    Each crop is cut at a random place and, where the degradation is synthetic, degraded on its own.
    """
    h, w = size
    degraded, clean = [], []
    sharp = _sharp(config, split) if config.source in SHARP_SOURCES else None
    pairs = None if sharp is not None else _pairs(config, split)
    for number in range(count):
        rng = np.random.default_rng((config.seed, seed, number))
        if sharp is not None:
            name, frame = sharp[number % len(sharp)]
            window = _window(frame, size, rng, name)
            bad = degradation_of(config)(frame, window, rng)
        else:
            assert pairs is not None
            # Evenly over a long list, so that a few crops do not all come from its first scene.
            pair = pairs[number * len(pairs) // count if count < len(pairs) else number % len(pairs)]
            whole, frame = load_pair(pair)
            window = _window(frame, size, rng, pair.name)
            bad = whole[window.top : window.top + h, window.left : window.left + w]
        degraded.append(image_tensor(bad))
        clean.append(image_tensor(frame[window.top : window.top + h, window.left : window.left + w]))
    return torch.stack(degraded), torch.stack(clean)


def _window(frame: RgbImage, size: tuple[int, int], rng: np.random.Generator, name: str) -> Window:
    room = frame.shape[0] - size[0], frame.shape[1] - size[1]
    if min(room) < 0:
        raise DatasetError(
            f"{name} has {frame.shape[1]}x{frame.shape[0]} pixels, less than the {size[1]}x{size[0]} of a crop: "
            "set a smaller size"
        )
    top, left = (int(rng.integers(extra + 1)) for extra in room)
    return Window(top=top, left=left, height=size[0], width=size[1])


def _sharp(config: DataConfig, split: Split) -> list[tuple[str, Image]]:
    if config.source == "embedded":
        return [(photo.name, photo.image) for photo in photos(split)]
    assert config.root is not None
    folder = SharpFolder(config.root / split)
    return list(zip((path.stem for path in folder.paths), folder, strict=True))


def _pairs(config: DataConfig, split: Split) -> tuple[Pair, ...]:
    assert config.root is not None
    splits = LAYOUTS[config.source].splits
    if split == "test" or "validation" in splits or not splits:
        return list_pairs(config.source, config.root, split)
    if "val" in splits:
        return list_pairs(config.source, config.root, "val" if split == "validation" else split)
    pairs = list_pairs(config.source, config.root, "train")
    if len(pairs) < 2:
        raise DatasetError(f"{config.root}: one training pair cannot both teach and choose: add more")
    held = set(range(0, len(pairs), HELD_OUT_EVERY))
    return tuple(pair for i, pair in enumerate(pairs) if (i in held) == (split == "validation"))


def _loaded(config: DataConfig, split: Split) -> list[tuple[Pair, RgbImage, RgbImage]]:
    return [(pair, *load_pair(pair)) for pair in _pairs(config, split)]


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """What identifies the images of a run: its config, and name, size and time of every file."""
    described: dict[str, Any] = config.model_dump(mode="json")
    if config.root is not None:
        if not config.root.is_dir():
            raise DatasetError(f"{config.root}: no such folder; name the root of the data set")
        files = sorted(path for path in config.root.rglob("*") if path.is_file())
        described["files"] = zlib.crc32(
            repr([(str(p.relative_to(config.root)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]).encode()
        )
    return described
