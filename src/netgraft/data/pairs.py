"""Pairs of a degraded and a clean image on disk, in the layouts that their authors ship; sharp photographs.

Nothing is decoded before a pair is loaded: listing looks at names only, so that large datasets open at once.

    folder       ROOT[/SPLIT]/degraded/NAME.png     ROOT[/SPLIT]/clean/NAME.png
    gopro        ROOT/SPLIT/SEQUENCE/blur/N.png     ROOT/SPLIT/SEQUENCE/sharp/N.png       (GOPRO_Large)
    gopro_gamma  ROOT/SPLIT/SEQUENCE/blur_gamma/N.png, the blur made after gamma encoding
    hide         ROOT/train/NAME.png, ROOT/test/{test-close-ups,test-long-shot}/NAME.png  ROOT/GT/NAME.png
    realblur_j   lines "CLEAN DEGRADED" in ROOT/RealBlur_J_SPLIT_list.txt, paths relative to ROOT
    realblur_r   the same with RealBlur_R_SPLIT_list.txt
    dpdd         ROOT/SPLIT_c/source/N.png          ROOT/SPLIT_c/target/M.png             (single-image input)

Sources: Nah et al., CVPR 2017 (GoPro); Shen et al., ICCV 2019 (HIDE); Rim et al., ECCV 2020 (RealBlur);
Abuolaim and Brown, ECCV 2020 (DPDD).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import overload

import numpy as np

from netgraft.data.degrade import Degradation, Image, Window
from netgraft.errors import DatasetError, ImageError
from netgraft.imaging.io import RgbImage, image_paths, image_size, read_image
from netgraft.names import lookup, unknown

MAX_CAPTURE_GAP = 10
"""DPDD names photographs by the camera's running number; the two of a pair were taken one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A degraded image and what it should look like."""

    name: str
    """Unique in its dataset, e.g. ``GOPR0384_11_00/000001``."""
    degraded: Path
    """File of the degraded image."""
    clean: Path
    """File of the clean image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the files of a dataset are laid out."""

    splits: tuple[str, ...]
    """The splits it has; empty when any subfolder may be one."""
    list_pairs: Callable[[Path, str], Iterable[Pair]]
    """Finds the pairs of a split below a root folder."""


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
    """The degraded and the clean image: two (h, w, 3) RGB arrays of the same shape and type.

    Raises:
        ImageError: one of the files cannot be read.
        DatasetError: the two differ in size or in bits a channel.
    """
    degraded, clean = read_image(pair.degraded), read_image(pair.clean)
    if degraded.shape != clean.shape or degraded.dtype != clean.dtype:
        raise DatasetError(
            f"pair {pair.name} does not match: {pair.degraded} is {_describe(degraded)}, {pair.clean} is "
            f"{_describe(clean)}; pair images of the same size and depth"
        )
    return degraded, clean


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
            raise DatasetError(f"{root}: smaller than {min_side} pixels on a side: {_first(small)}; remove them")

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


def _folder(root: Path, split: str) -> Iterable[Pair]:
    base = root / split
    return _same_stems(base / "degraded", base / "clean", prefix="")


def _gopro(blur: str) -> Callable[[Path, str], Iterable[Pair]]:
    def find(root: Path, split: str) -> Iterable[Pair]:
        for sequence in _subfolders(root / split):
            yield from _same_stems(sequence / blur, sequence / "sharp", prefix=f"{sequence.name}/")

    return find


def _hide(root: Path, split: str) -> Iterable[Pair]:
    folders = {
        "train": ["train"],
        "test": ["test/test-close-ups", "test/test-long-shot"],
        "test-close-ups": ["test/test-close-ups"],
        "test-long-shot": ["test/test-long-shot"],
    }[split]
    for folder in folders:
        # GT holds the clean images of all splits: it may have more than one split needs.
        prefix = "" if split == "train" else f"{Path(folder).name}/"
        yield from _same_stems(root / folder, root / "GT", prefix=prefix, spare_clean=True)


def _realblur(kind: str) -> Callable[[Path, str], Iterable[Pair]]:
    def find(root: Path, split: str) -> Iterable[Pair]:
        list_file = root / f"RealBlur_{kind}_{split}_list.txt"
        try:
            lines = [line.split() for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"cannot read {list_file}: it comes with RealBlur and names the pairs") from error
        if any(len(line) != 2 for line in lines):
            raise DatasetError(f"{list_file}: each line must hold the path of the clean and of the degraded image")
        missing = [path for line in lines for path in line if not (root / path).is_file()]
        if missing:
            raise DatasetError(f"{list_file} names files that are missing in {root}: {_first(missing)}")
        for clean, degraded in lines:
            scene = Path(degraded).parent.parent.name
            yield Pair(name=f"{scene}/{Path(degraded).stem}", degraded=root / degraded, clean=root / clean)

    return find


def _dpdd(root: Path, split: str) -> Iterable[Pair]:
    # The two of a pair have numbers of their own, and are paired in order of capture (the authors' data.py).
    sources, targets = _images(root / f"{split}_c" / "source"), _images(root / f"{split}_c" / "target")
    if len(sources) != len(targets):
        raise DatasetError(f"{root / f'{split}_c'}: {len(sources)} images in source but {len(targets)} in target")
    pairs = list(zip(sources, targets, strict=True))
    far = [f"{a.name} with {b.name}" for a, b in pairs if _capture_gap(a, b) > MAX_CAPTURE_GAP]
    if far:
        raise DatasetError(f"{root / f'{split}_c'}: pairs were not taken together, files are missing: {_first(far)}")
    for source, target in pairs:
        yield Pair(name=source.stem, degraded=source, clean=target)


def _capture_gap(source: Path, target: Path) -> int:
    numbers = [re.search(r"\d+$", path.stem) for path in (source, target)]
    first, second = (number and int(number.group()) for number in numbers)
    return 0 if first is None or second is None else abs(first - second)


def _same_stems(degraded: Path, clean: Path, *, prefix: str, spare_clean: bool = False) -> Iterable[Pair]:
    """Pairs of files with equal names but for the suffix."""
    left, right = _by_stem(degraded), _by_stem(clean)
    lonely = sorted(left.keys() - right.keys() if spare_clean else left.keys() ^ right.keys())
    if lonely:
        raise DatasetError(f"images without a partner in {degraded} or {clean}: {_first(lonely)}; add or remove them")
    return [Pair(name=prefix + stem, degraded=left[stem], clean=right[stem]) for stem in left]


def _by_stem(folder: Path) -> dict[str, Path]:
    paths = _images(folder)
    by_stem = {path.stem: path for path in paths}
    if len(by_stem) < len(paths):
        twice = sorted({path.name for path in paths} - {path.name for path in by_stem.values()})
        raise DatasetError(f"{folder}: two images of the same name but for the suffix: {_first(twice)}; keep one")
    return by_stem


def _images(folder: Path) -> list[Path]:
    try:
        return image_paths(folder)
    except ImageError as error:
        raise DatasetError(f"the dataset is not complete: {error}") from error


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f"the dataset is not complete: there is no folder {folder}")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _first(names: Sequence[str], count: int = 3) -> str:
    """The first few names and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _describe(image: RgbImage) -> str:
    return f"{image.shape[1]}x{image.shape[0]} {image.dtype}"


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "folder": Layout(splits=(), list_pairs=_folder),
        "gopro": Layout(splits=("train", "test"), list_pairs=_gopro("blur")),
        "gopro_gamma": Layout(splits=("train", "test"), list_pairs=_gopro("blur_gamma")),
        "hide": Layout(splits=("train", "test", "test-close-ups", "test-long-shot"), list_pairs=_hide),
        "realblur_j": Layout(splits=("train", "test"), list_pairs=_realblur("J")),
        "realblur_r": Layout(splits=("train", "test"), list_pairs=_realblur("R")),
        "dpdd": Layout(splits=("train", "val", "test"), list_pairs=_dpdd),
    }
)
"""The layouts by name; see the top of this module."""
