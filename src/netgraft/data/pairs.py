"""Pairs of a degraded and a clean image, and sharp photographs; :mod:`netgraft.data.layouts` finds them on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from netgraft.data.degrade import Degradation, Image, Window
from netgraft.data.layouts import LAYOUTS, ImageFile, Pair, first_few
from netgraft.errors import DatasetError
from netgraft.imaging.io import RgbImage, image_paths, image_size, read_image
from netgraft.names import lookup, unknown


def list_pairs(layout: str, root: str | Path, split: str = "") -> tuple[Pair, ...]:
    """The pairs of one split of a dataset, by name.

    layout: one of ``LAYOUTS``.
    root: the folder that holds the dataset, as the authors' archive unpacks it.
    split: e.g. ``train`` or ``test``; may be empty for the layout ``folder`` alone.

    Raises:
        ConfigError: there is no such layout.
        DatasetError: the root or split is missing, holds no images, or some image has no partner.
    """
    chosen = lookup("dataset layout", layout, LAYOUTS)
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"no folder {root}: name the folder that holds the {layout} dataset")
    if chosen.splits and split not in chosen.splits:
        raise DatasetError(f"dataset {root}: {unknown(f'{layout} split', split, chosen.splits)}")
    pairs = tuple(sorted(chosen.list_pairs(root, split), key=lambda pair: pair.name))
    if not pairs:
        raise DatasetError(f"no image pairs in {root} {split}".rstrip() + f": it is no {layout} dataset, or is empty")
    return pairs


def load_pair(pair: Pair) -> tuple[RgbImage, RgbImage]:
    """The degraded and the clean image: two RGB arrays, (h, w, 3), of the same size and type.

    Of a dual-pixel pair the degraded one is (h, w, 6): the left view, then the right one.

    Raises:
        ImageError: one of the files cannot be read.
        DatasetError: they differ in size or in bits a channel.
    """
    images = [read_file(file) for file in pair.files]
    *degraded, clean = images
    if any(image.shape != clean.shape or image.dtype != clean.dtype for image in degraded):
        described = ", ".join(f"{file} is {_describe(image)}" for file, image in zip(pair.files, images, strict=True))
        raise DatasetError(f"pair {pair.name} does not match: {described}; pair images of the same size and depth")
    both: RgbImage = degraded[0] if len(degraded) == 1 else np.concatenate(degraded, axis=2)  # type: ignore[assignment]
    return both, clean


def read_file(file: ImageFile) -> RgbImage:
    """The (h, w, 3) image in a file or an LMDB."""
    return read_image(file) if isinstance(file, Path) else file.read()


def size_of(file: ImageFile) -> tuple[int, int]:
    """(h, w) in pixels, without decoding."""
    return image_size(file) if isinstance(file, Path) else file.size


class SharpFolder(Sequence[Image]):
    """The sharp 8-bit photographs of a folder, read as they are asked for; (h, w, 3) uint8 RGB each.

    min_side: refuse photographs whose shorter side has fewer pixels, e.g. than the crops to be cut from them.

    Raises:
        ImageError: the folder or a photograph cannot be read.
        DatasetError: the folder holds no images, one is too small, or one has 16 bits a channel.
    """

    def __init__(self, root: str | Path, *, min_side: int = 1) -> None:
        self.paths = tuple(image_paths(root))
        if not self.paths:
            raise DatasetError(f"no images in {root}: name a folder of sharp photographs")
        small = [path.name for path in self.paths if min(image_size(path)) < min_side]
        if small:
            raise DatasetError(f"{root}: smaller than {min_side} pixels on a side: {first_few(small)}; remove them")

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        if isinstance(index, slice):
            return [_read_byte_image(path) for path in self.paths[index]]
        return _read_byte_image(self.paths[index])


def synthetic_pair(frame: Image, degradation: Degradation, seed: int) -> tuple[Image, Image]:
    """A whole sharp (h, w, 3) uint8 frame as (degraded, clean); the same seed gives the same pair."""
    window = Window(top=0, left=0, height=frame.shape[0], width=frame.shape[1])
    return degradation(frame, window, np.random.default_rng(seed)), frame


def _read_byte_image(path: Path) -> Image:
    image = read_image(path)
    if image.dtype != np.uint8:
        raise DatasetError(f"{path} has 16 bits a channel; store it with 8 to degrade it synthetically")
    return image  # type: ignore[return-value]


def _describe(image: RgbImage) -> str:
    return f"{image.shape[1]}x{image.shape[0]} {image.dtype}"
