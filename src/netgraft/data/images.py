"""The images of a run: what it trains on, what it chooses by, and what it reports on, from one description.

Three splits never meet: ``train`` teaches, ``validation`` chooses, ``test`` is reported once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, overload

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from netgraft.data.crops import CropSource, PairedSource, SyntheticSource, cut, image_tensor
from netgraft.data.defocus import DefocusModel
from netgraft.data.degrade import Degradation, Image, NoiseModel, ShakeModel, Window
from netgraft.data.layouts import LAYOUTS, Pair
from netgraft.data.pairs import SharpFolder, list_pairs, load_pair, synthetic_pair
from netgraft.data.photos import photos
from netgraft.errors import ConfigError, DatasetError
from netgraft.imaging import RgbImage
from netgraft.names import lookup

SHARP_SOURCES = ("embedded", "sharp")
USUAL_STRENGTHS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"shake": (2.0, 20.0), "defocus": (1.0, 8.0), "noise": (5.0, 50.0)}
)
"""Least and most of each degradation, where nothing else is asked for; in the units of :class:`DataConfig`."""
Split = Literal["train", "validation", "test"]
HELD_OUT_EVERY = 10
"""Of a dataset without a validation split, every 10th training scene chooses instead of teaching."""


class DataConfig(BaseModel):
    """Where images come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = "embedded"
    """``embedded``, ``sharp`` (ROOT/train, /validation and /test hold sharp photographs) or a paired layout."""
    root: Path | None = None
    """Folder of the data set; not for ``embedded``."""
    degradation: Literal["shake", "defocus", "noise"] = "shake"
    """How sharp photographs are degraded."""
    strength_px: tuple[float, float] = (2.0, 20.0)
    """Shortest and longest shake, or smallest and largest radius of the defocus, in pixels; of noise, the smallest and
    largest standard deviation, in steps of 8 bits."""
    test_images: int | None = Field(None, ge=1)
    """Only so many of the test images, spread evenly over them; None for all."""
    seed: int = Field(7, ge=0)
    """Seed of the degradation of validation and test images; the training's follows the run's seed."""

    @model_validator(mode="before")
    @classmethod
    def _usual_strength(cls, values: Any) -> Any:
        """How strong a degradation is depends on its kind, where nobody says."""
        if not isinstance(values, dict) or values.get("strength_px") is not None:
            return values
        usual = USUAL_STRENGTHS.get(str(values.get("degradation", "shake")))
        given = {name: value for name, value in values.items() if name != "strength_px"}
        return given if usual is None else given | {"strength_px": usual}

    @field_validator("source")
    @classmethod
    def _as_typed_in_a_shell(cls, source: str) -> str:
        return source.replace("-", "_")

    @model_validator(mode="after")
    def _complete(self) -> DataConfig:
        lookup("data source", self.source, {**dict.fromkeys(SHARP_SOURCES), **LAYOUTS})
        if (self.root is None) != (self.source == "embedded"):
            need = "takes no root" if self.source == "embedded" else "needs root, the folder of the data set"
            raise ConfigError(f"data source {self.source!r} {need}")
        if not 0 <= self.strength_px[0] <= self.strength_px[1]:
            raise ConfigError(f"strength_px {list(self.strength_px)}: give the smaller first, at least 0")
        return self

    @property
    def degradation_in_words(self) -> str:
        """How the degraded images came about."""
        if self.source not in SHARP_SOURCES:
            return "as shipped"
        low, high = self.strength_px
        unit = "steps of 8 bits" if self.degradation == "noise" else "pixels"
        return f"{self.degradation} of {low:g} to {high:g} {unit}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """A degraded image with the clean one, both (h, w, 3), uint8 or uint16."""

    name: str
    degraded: RgbImage
    """Of a dual-pixel pair (h, w, 6): the left view, then the right one."""
    clean: RgbImage
    group: str = ""
    """The part of the data set that is reported on its own, e.g. ``indoor``."""
    scene: str = ""
    """What it is a frame of, e.g. a video; empty where every image is a scene of its own."""


class LazyImages(Sequence[ImagePair]):
    """The images of a split, each read and degraded when it is asked for: a whole data set may not fit into memory."""

    def __init__(self, names: Sequence[str], load: Callable[[int], ImagePair]) -> None:
        self.names = tuple(names)
        self._load = load

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> ImagePair: ...
    @overload
    def __getitem__(self, index: slice) -> LazyImages: ...
    def __getitem__(self, index: int | slice) -> ImagePair | LazyImages:
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return LazyImages([self.names[i] for i in chosen], lambda number: self._load(chosen[number]))
        return self._load(range(len(self))[index])


def degradation_of(config: DataConfig) -> Degradation:
    """The synthetic degradation that a config describes."""
    low, high = config.strength_px
    if config.degradation == "defocus":
        return DefocusModel(min_radius_px=low, max_radius_px=high)
    if config.degradation == "noise":
        return NoiseModel(min_sigma=low, max_sigma=high)
    return ShakeModel(min_length_px=low, max_length_px=high)


def train_source(config: DataConfig, *, fraction: float = 1.0, count: int | None = None, seed: int = 0) -> CropSource:
    """Where training crops come from: ``count`` of the images, or ``fraction`` of them (at least one), by ``seed``.

    Of one seed, the images of a smaller count are among those of a larger one.

    Raises:
        DatasetError: there are fewer images than ``count``.
    """
    if config.source in SHARP_SOURCES:
        _, frames = _sharp(config, "train")
        chosen = _part(range(len(frames)), fraction, count, seed)
        return SyntheticSource([frames[i] for i in chosen], degradation_of(config))
    return PairedSource(_part(_pairs(config, "train"), fraction, count, seed))


def _part(items: Sequence[Any], fraction: float, count: int | None, seed: int) -> list[Any]:
    if count is not None and not 1 <= count <= len(items):
        raise DatasetError(
            f"{count} images asked for, but there are {len(items)} to train on: ask for 1 to {len(items)}"
        )
    taken = max(1, round(fraction * len(items))) if count is None else count
    chosen = np.random.default_rng(seed).permutation(len(items))[:taken]
    return [items[i] for i in sorted(chosen)]


def open_images(config: DataConfig, split: Split) -> LazyImages:
    """Every image of a split with its clean version.

    Raises:
        DatasetError: the split is missing or incomplete.
    """
    if config.source not in SHARP_SOURCES:
        pairs = _pairs(config, split)
        return images_of([pairs[i] for i in _chosen(config, split, len(pairs))])
    names, frames = _sharp(config, split)

    def degrade(index: int) -> ImagePair:
        # By name, so that an image is degraded alike whatever else is in the folder.
        seed = config.seed + zlib.crc32(names[index].encode())
        degraded, clean = synthetic_pair(frames[index], degradation_of(config), seed)
        return ImagePair(name=names[index], degraded=degraded, clean=clean)

    chosen = _chosen(config, split, len(names))
    return LazyImages([names[i] for i in chosen], lambda number: degrade(chosen[number]))


def _chosen(config: DataConfig, split: Split, total: int) -> list[int]:
    """Positions of the images of a split that are used."""
    most = config.test_images
    if split != "test" or most is None or most >= total:
        return list(range(total))
    return [number * total // most for number in range(most)]


def images_of(pairs: Sequence[Pair]) -> LazyImages:
    """The images of pairs on disk."""

    def load(index: int) -> ImagePair:
        pair = pairs[index]
        degraded, clean = load_pair(pair)
        return ImagePair(name=pair.name, degraded=degraded, clean=clean, group=pair.group, scene=pair.scene)

    return LazyImages([pair.name for pair in pairs], load)


def whole_images(config: DataConfig, split: Split) -> Sequence[ImagePair]:
    """The same, to be gone through several times: what is degraded here is kept, what is on disk is read each time."""
    images = open_images(config, split)
    return list(images) if config.source in SHARP_SOURCES else images


def crops_of(
    config: DataConfig, split: Split, *, count: int, size: tuple[int, int], seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``count`` crops, spread evenly over the images of a split: (degraded, clean), both (count, 3, h, w).

    Each crop is cut at a random place and, where the degradation is synthetic, degraded on its own.
    """
    total, load = _views(config, split)
    # Evenly over a long list, so that a few crops do not all come from its first scene.
    picks = [number * total // count if count < total else number % total for number in range(count)]
    crops: dict[int, tuple[Tensor, Tensor]] = {}
    for pick in sorted(set(picks)):
        # Each image is read once and forgotten: a whole data set may not fit into memory.
        name, frame, view = load(pick)
        for number in range(count):
            if picks[number] == pick:
                rng = np.random.default_rng((config.seed, seed, number))
                window = _window(frame, size, rng, name)
                crops[number] = image_tensor(view(window, rng)), image_tensor(cut(frame, window))
    degraded, clean = zip(*(crops[number] for number in range(count)), strict=True)
    return torch.stack(degraded), torch.stack(clean)


_View = Callable[[Window, np.random.Generator], RgbImage]
"""The degraded view of a window of an image."""


def _views(config: DataConfig, split: Split) -> tuple[int, Callable[[int], tuple[str, RgbImage, _View]]]:
    """How many images a split has, and what reads one: its name, the clean image and its degraded view."""
    if config.source in SHARP_SOURCES:
        names, frames = _sharp(config, split)

        def load_sharp(index: int) -> tuple[str, RgbImage, _View]:
            frame = frames[index]
            return names[index], frame, partial(degradation_of(config), frame)

        return len(frames), load_sharp
    pairs = _pairs(config, split)

    def load_paired(index: int) -> tuple[str, RgbImage, _View]:
        degraded, clean = load_pair(pairs[index])
        return pairs[index].name, clean, lambda window, _: cut(degraded, window)

    return len(pairs), load_paired


def _window(frame: RgbImage, size: tuple[int, int], rng: np.random.Generator, name: str) -> Window:
    room = frame.shape[0] - size[0], frame.shape[1] - size[1]
    if min(room) < 0:
        raise DatasetError(
            f"{name} has {frame.shape[1]}x{frame.shape[0]} pixels, less than the {size[1]}x{size[0]} of a crop: "
            "set a smaller size"
        )
    top, left = (int(rng.integers(extra + 1)) for extra in room)
    return Window(top=top, left=left, height=size[0], width=size[1])


def _sharp(config: DataConfig, split: Split) -> tuple[list[str], Sequence[Image]]:
    """Names and frames of a split; those of a folder are read as they are asked for."""
    if config.source == "embedded":
        embedded = photos(split)
        return [photo.name for photo in embedded], [photo.image for photo in embedded]
    assert config.root is not None
    folder = SharpFolder(config.root / split)
    return [path.stem for path in folder.paths], folder


def _pairs(config: DataConfig, split: Split) -> tuple[Pair, ...]:
    pairs = _pairs_of_split(config, split)
    if any(pair.right is not None for pair in pairs):
        raise DatasetError(
            f"{config.source}: networks of two views are judged here (netgraft evaluate), not trained: name a data set "
            "of single images"
        )
    return pairs


def _pairs_of_split(config: DataConfig, split: Split) -> tuple[Pair, ...]:
    assert config.root is not None
    layout = LAYOUTS[config.source]
    if split == "test" or not layout.splits:
        return list_pairs(config.source, config.root, layout.test if layout.splits else split)
    # Where figures are published for validation images, those choose nothing.
    if "val" in layout.splits and layout.test == "test":
        return list_pairs(config.source, config.root, "val" if split == "validation" else split)
    pairs = list_pairs(config.source, config.root, "train")
    if len(pairs) < 2:
        raise DatasetError(f"{config.root}: one training pair cannot both teach and choose: add more")
    # Frames of one scene look alike, and stay on one side; where all are of one scene, or none is named, each counts.
    scenes = [pair.name.rpartition("/")[0] or pair.name for pair in pairs]
    if len(set(scenes)) == 1:
        scenes = [pair.name for pair in pairs]
    held = set(list(dict.fromkeys(scenes))[::HELD_OUT_EVERY])
    return tuple(pair for pair, scene in zip(pairs, scenes, strict=True) if (scene in held) == (split == "validation"))


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """What identifies the images of a run: its config, and name, size and time of every file."""
    described: dict[str, Any] = config.model_dump(mode="json")
    if config.test_images is None:
        # As before there was a choice.
        del described["test_images"]
    if config.root is not None:
        if not config.root.is_dir():
            raise DatasetError(f"{config.root}: no such folder; name the root of the data set")
        files = sorted(path for path in config.root.rglob("*") if path.is_file())
        described["files"] = zlib.crc32(
            repr([(str(p.relative_to(config.root)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]).encode()
        )
    return described
