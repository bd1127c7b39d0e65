"""How the files of each data set are laid out by their authors, and how many pairs it has.

Nothing is decoded here: listing looks at names only, so that large data sets open at once.

    folder       ROOT[/SPLIT]/degraded/NAME.png     ROOT[/SPLIT]/clean/NAME.png
    gopro        ROOT/SPLIT/SEQUENCE/blur/N.png     ROOT/SPLIT/SEQUENCE/sharp/N.png       (GOPRO_Large)
                 or as NAFNet stores it: ROOT/test/{input,target}.lmdb, ROOT/train/{blur,sharp}_crops.lmdb
    gopro_gamma  ROOT/SPLIT/SEQUENCE/blur_gamma/N.png, frames averaged in light, then gamma-encoded
    hide         ROOT/train/NAME.png, ROOT/test/{test-close-ups,test-long-shot}/NAME.png  ROOT/GT/NAME.png
    realblur_j   lines "CLEAN DEGRADED" in ROOT/RealBlur_J_SPLIT_list.txt, paths relative to ROOT
    realblur_r   the same with RealBlur_R_SPLIT_list.txt
    dpdd         ROOT/SPLIT_c/source/N.png          ROOT/SPLIT_c/target/M.png             (single-image input)
    dpdd_dual    the left and right views instead, ROOT/SPLIT_l/source/N.png and ROOT/SPLIT_r/source/N.png
    rsblur       lines "CLEAN DEGRADED" in ROOT/RSBlur_real_SPLIT.txt, paths relative to ROOT
    reds         ROOT/SPLIT/SPLIT_blur/SEQUENCE/N.png, ROOT/SPLIT/SPLIT_sharp/SEQUENCE/N.png
    reds_jpeg    the same with SPLIT_blur_jpeg/SEQUENCE/N.jpg

Sources: Nah et al., CVPR 2017 (GoPro); Shen et al., ICCV 2019 (HIDE); Rim et al., ECCV 2020 (RealBlur) and ECCV 2022
(RSBlur); Abuolaim and Brown, ECCV 2020 (DPDD); Nah et al., CVPRW 2019 and 2021 (REDS). Counts are those that the
authors state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from netgraft.data.lmdb_images import LmdbImage, lmdb_images
from netgraft.errors import DatasetError, ImageError
from netgraft.imaging.io import image_paths

MAX_CAPTURE_GAP = 10
"""DPDD names photographs by the camera's running number; the two of a pair were taken one after the other."""
DPDD_TEST_PAIRS = 76
DPDD_INDOOR = (*range(8, 14), 16, 32, *range(39, 57), *range(59, 68), 74, 75)
"""Positions, from 0, of the 37 indoor ones among the test pairs in order; the other 39 are outdoor."""
ImageFile = Path | LmdbImage
"""Where an image is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A degraded image and what it should look like."""

    name: str
    """Unique in its dataset, e.g. ``GOPR0384_11_00/000001``."""
    degraded: ImageFile
    """The degraded image; of a dual-pixel pair, its left view."""
    clean: ImageFile
    """The clean image."""
    right: ImageFile | None = None
    """The right view of a dual-pixel pair."""
    group: str = ""
    """The part of the data set that is reported on its own, e.g. ``indoor``."""
    scene: str = ""
    """What it is a frame of, e.g. a video; empty where every image is a scene of its own."""

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """All its images, the clean one last."""
        return (self.degraded, *(() if self.right is None else (self.right,)), self.clean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the files of a dataset are laid out."""

    splits: tuple[str, ...]
    """The splits it has; empty when any subfolder may be one."""
    list_pairs: Callable[[Path, str], Iterable[Pair]]
    """Finds the pairs of a split below a root folder."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Pairs of each split, as published."""
    bits: int = 8
    """Bits a channel that its authors' figures are for."""
    test: str = "test"
    """The split that figures are published for; no other part of the data set may choose a network by it."""


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first few names and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _folder(root: Path, split: str) -> Iterable[Pair]:
    base = root / split
    return _same_stems(base / "degraded", base / "clean", prefix="")


def _gopro(blur: str) -> Callable[[Path, str], Iterable[Pair]]:
    def find(root: Path, split: str) -> Iterable[Pair]:
        stored = [root / split / f"{name}.lmdb" for name in GOPRO_LMDBS[split]]
        if blur == "blur" and any(path.is_dir() for path in stored):
            yield from map(_frame, _same_keys(*stored))
            return
        for sequence in _subfolders(root / split):
            yield from map(_frame, _same_stems(sequence / blur, sequence / "sharp", prefix=f"{sequence.name}/"))

    return find


GOPRO_LMDBS = {"train": ("blur_crops", "sharp_crops"), "test": ("input", "target")}
"""Names of the two that hold a split, the degraded images first."""


def _same_keys(degraded: Path, clean: Path) -> Iterable[Pair]:
    left, right = lmdb_images(degraded), lmdb_images(clean)
    _complain_of_lonely(left.keys() ^ right.keys(), degraded, clean)
    # NAFNet writes SEQUENCE-FRAME; a pair has one name whatever it is stored in.
    return [Pair(name=_scene_first(key), degraded=image, clean=right[key]) for key, image in left.items()]


def _frame(pair: Pair) -> Pair:
    """A pair whose name begins with its scene."""
    return replace(pair, scene=pair.name.partition("/")[0])


def _scene_first(key: str) -> str:
    scene, dash, frame = key.rpartition("-")
    return f"{scene}/{frame}" if dash else key


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
        group = "" if split == "train" else Path(folder).name.removeprefix("test-")
        for pair in _same_stems(root / folder, root / "GT", prefix=prefix, spare_clean=True):
            # Most names tell the video: 115fromGOPR1094.
            video = re.search(r"from(GOPR\w+?)(\.|_|$)", pair.name)
            yield replace(pair, group=group, scene=video.group(1) if video else "")


def _listed(list_name: str, dataset: str, name_of: Callable[[Path], str]) -> Callable[[Path, str], Iterable[Pair]]:
    """Pairs that a text file names, one a line, the clean image first; SPLIT in its name stands for the split."""

    def find(root: Path, split: str) -> Iterable[Pair]:
        list_file = root / list_name.replace("SPLIT", split)
        try:
            lines = [line.split() for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"cannot read {list_file}: it comes with {dataset} and names the pairs") from error
        if any(len(line) != 2 for line in lines):
            raise DatasetError(f"{list_file}: each line must hold the path of the clean and of the degraded image")
        missing = [path for line in lines for path in line if not (root / path).is_file()]
        if missing:
            raise DatasetError(f"{list_file} names files that are missing in {root}: {first_few(missing)}")
        for clean, degraded in lines:
            yield _frame(Pair(name=name_of(Path(degraded)), degraded=root / degraded, clean=root / clean))

    return find


def _by_scene_and_file(degraded: Path) -> str:
    return f"{degraded.parent.parent.name}/{degraded.stem}"


def _by_folders(degraded: Path) -> str:
    # RSBlur numbers the folders of a day, and calls all blurred images alike.
    return "/".join(degraded.parent.parent.parts[-2:])


def _dpdd(root: Path, split: str) -> Iterable[Pair]:
    # The two of a pair have numbers of their own, and are paired in order of capture (the authors' data.py).
    folder = root / f"{split}_c"
    sources, targets = _images(folder / "source"), _images(folder / "target")
    if len(sources) != len(targets):
        raise DatasetError(f"{folder}: {len(sources)} images in source but {len(targets)} in target")
    pairs = list(zip(sources, targets, strict=True))
    far = [f"{a.name} with {b.name}" for a, b in pairs if _capture_gap(a, b) > MAX_CAPTURE_GAP]
    if far:
        raise DatasetError(f"{folder}: pairs were not taken together, files are missing: {first_few(far)}")
    groups = _indoor_outdoor(root, len(pairs)) if split == "test" else [""] * len(pairs)
    for (source, target), group in zip(pairs, groups, strict=True):
        yield Pair(name=source.stem, degraded=source, clean=target, group=group)


def _dpdd_dual(root: Path, split: str) -> Iterable[Pair]:
    """The left and the right view of every pair, in the same order of capture."""
    pairs = sorted(_dpdd(root, split), key=lambda pair: pair.name)
    left, right = (_images(root / f"{split}_{side}" / "source") for side in "lr")
    if not len(left) == len(right) == len(pairs):
        raise DatasetError(f"{root}: {len(left)} left and {len(right)} right views of {len(pairs)} pairs in {split}")
    for pair, first, second in zip(pairs, left, right, strict=True):
        yield replace(pair, degraded=first, right=second)


def _indoor_outdoor(root: Path, count: int) -> list[str]:
    """The group of every test pair, in order: from ``indoor_labels.npy`` and ``outdoor_labels.npy`` in the root, as
    Restormer's copy of the data set has them, positions from 1; without these files as published for all 76."""
    listed = {}
    for group in ("indoor", "outdoor"):
        path = root / f"{group}_labels.npy"
        if path.is_file():
            try:
                listed[group] = np.load(path, allow_pickle=False).astype(int).ravel().tolist()
            except (OSError, ValueError, TypeError) as error:
                raise DatasetError(f"{path}: is no list of positions ({error}); copy it again") from error
    if not listed and count == DPDD_TEST_PAIRS:
        listed = {"indoor": [position + 1 for position in DPDD_INDOOR]}
        listed["outdoor"] = [position for position in range(1, count + 1) if position not in listed["indoor"]]
    if listed and sorted(position for positions in listed.values() for position in positions) != list(
        range(1, count + 1)
    ):
        raise DatasetError(
            f"{root}: indoor_labels.npy and outdoor_labels.npy must name each of the {count} test pairs once, by its "
            "position from 1"
        )
    groups = {position: group for group, positions in listed.items() for position in positions}
    return [groups.get(position, "") for position in range(1, count + 1)]


def _reds(blur: str) -> Callable[[Path, str], Iterable[Pair]]:
    def find(root: Path, split: str) -> Iterable[Pair]:
        part = split.partition("-")[0]
        degraded, clean = (root / part / f"{part}_{kind}" for kind in (blur, "sharp"))
        left, right = ([path.name for path in _subfolders(folder)] for folder in (degraded, clean))
        _complain_of_lonely(set(left) ^ set(right), degraded, clean)
        for name in left:
            for pair in _same_stems(degraded / name, clean / name, prefix=f"{name}/"):
                # Every tenth frame, as NAFNet and others evaluate.
                if split != REDS_300 or pair.name.endswith("9"):
                    yield _frame(pair)

    return find


REDS_300 = "val-300"
"""A tenth of the validation frames: those whose number ends in 9."""
REDS_COUNTS = {"train": 24000, "val": 3000, REDS_300: 300}


def _capture_gap(source: Path, target: Path) -> int:
    numbers = [re.search(r"\d+$", path.stem) for path in (source, target)]
    first, second = (number and int(number.group()) for number in numbers)
    return 0 if first is None or second is None else abs(first - second)


def _same_stems(degraded: Path, clean: Path, *, prefix: str, spare_clean: bool = False) -> Iterable[Pair]:
    """Pairs of files with equal names but for the suffix."""
    left, right = _by_stem(degraded), _by_stem(clean)
    _complain_of_lonely(left.keys() - right.keys() if spare_clean else left.keys() ^ right.keys(), degraded, clean)
    return [Pair(name=prefix + stem, degraded=left[stem], clean=right[stem]) for stem in left]


def _by_stem(folder: Path) -> dict[str, Path]:
    paths = _images(folder)
    by_stem = {path.stem: path for path in paths}
    if len(by_stem) < len(paths):
        twice = sorted({path.name for path in paths} - {path.name for path in by_stem.values()})
        raise DatasetError(f"{folder}: two images of the same name but for the suffix: {first_few(twice)}; keep one")
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


def _complain_of_lonely(names: Iterable[str], degraded: Path, clean: Path) -> None:
    lonely = sorted(names)
    if lonely:
        raise DatasetError(
            f"images without a partner in {degraded} or {clean}: {first_few(lonely)}; add or remove them"
        )


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "folder": Layout(splits=(), list_pairs=_folder),
        "gopro": Layout(splits=("train", "test"), list_pairs=_gopro("blur"), counts={"train": 2103, "test": 1111}),
        "gopro_gamma": Layout(
            splits=("train", "test"), list_pairs=_gopro("blur_gamma"), counts={"train": 2103, "test": 1111}
        ),
        "hide": Layout(
            splits=("train", "test", "test-close-ups", "test-long-shot"),
            list_pairs=_hide,
            counts={"train": 6397, "test": 2025, "test-close-ups": 962, "test-long-shot": 1063},
        ),
        "realblur_j": Layout(
            splits=("train", "test"),
            list_pairs=_listed("RealBlur_J_SPLIT_list.txt", "RealBlur", _by_scene_and_file),
            counts={"train": 3758, "test": 980},
        ),
        "realblur_r": Layout(
            splits=("train", "test"),
            list_pairs=_listed("RealBlur_R_SPLIT_list.txt", "RealBlur", _by_scene_and_file),
            counts={"train": 3758, "test": 980},
        ),
        "dpdd": Layout(
            splits=("train", "val", "test"), list_pairs=_dpdd, counts={"train": 350, "val": 74, "test": 76}, bits=16
        ),
        "dpdd_dual": Layout(
            splits=("train", "val", "test"),
            list_pairs=_dpdd_dual,
            counts={"train": 350, "val": 74, "test": 76},
            bits=16,
        ),
        "rsblur": Layout(
            splits=("train", "val", "test"),
            list_pairs=_listed("RSBlur_real_SPLIT.txt", "RSBlur", _by_folders),
            counts={"train": 8878, "val": 1120, "test": 3360},
        ),
        "reds": Layout(splits=("train", "val", REDS_300), list_pairs=_reds("blur"), counts=REDS_COUNTS, test=REDS_300),
        "reds_jpeg": Layout(
            splits=("train", "val", REDS_300), list_pairs=_reds("blur_jpeg"), counts=REDS_COUNTS, test=REDS_300
        ),
    }
)
"""The layouts by name; see the top of this module."""
