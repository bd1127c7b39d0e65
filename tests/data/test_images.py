"""The images of a run: splits that never meet, and images that are the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from netgraft.data import images
from netgraft.data.crops import PairedSource, SyntheticSource
from netgraft.data.defocus import DefocusModel
from netgraft.data.degrade import NoiseModel, ShakeModel
from netgraft.data.images import DataConfig, Split, crops_of, degradation_of, fingerprint, train_source, whole_images
from netgraft.data.layouts import Pair
from netgraft.errors import ConfigError, DatasetError, NetgraftError
from netgraft.imaging import write_image

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def picture(number: int, h: int = 24, w: int = 32) -> NDArray[np.uint8]:
    """A picture whose pixels say where they are: red the row, green the column, blue its number."""
    y, x = np.mgrid[:h, :w]
    return np.stack([y, x, np.full((h, w), number)], axis=-1).astype(np.uint8)


def write_pair(degraded: Path, clean: Path, number: int) -> None:
    """The degraded picture holds the clean one's rows and columns plus 100."""
    for path, offset in ((degraded, 100), (clean, 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture(number) + np.array([offset, offset, 0], np.uint8))


def sharp_folder(root: Path, counts: dict[str, int]) -> DataConfig:
    number = 0
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        for i in range(count):
            write_image(root / split / f"{split}-{i}.png", picture(number))
            number += 1
    return DataConfig(source="sharp", root=root, strength_px=(2, 4))


def gopro(root: Path, scenes: int, frames: int = 3) -> DataConfig:
    number = 0
    for split, count in (("train", scenes), ("test", 2)):
        for scene in range(count):
            for frame in range(frames):
                folder = root / split / f"GOPR{split}{scene:02d}"
                write_pair(folder / "blur" / f"{frame:06d}.png", folder / "sharp" / f"{frame:06d}.png", number)
                number += 1
    return DataConfig(source="gopro", root=root)


def hide(root: Path) -> DataConfig:
    for i in range(12):
        write_pair(root / "train" / f"train{i:02d}.png", root / "GT" / f"train{i:02d}.png", i)
    for i, kind in enumerate(("test-close-ups", "test-long-shot")):
        write_pair(root / "test" / kind / f"t{i}.png", root / "GT" / f"t{i}.png", 50 + i)
    return DataConfig(source="hide", root=root)


def realblur(root: Path) -> DataConfig:
    for first, split, scenes in ((0, "train", 11), (100, "test", 2)):
        lines = []
        for i in range(2 * scenes):
            scene = f"scene{first + i // 2:03d}"
            clean, blur = f"{scene}/gt/gt_{i}.png", f"{scene}/blur/blur_{i}.png"
            write_pair(root / blur, root / clean, first + i)
            lines.append(f"{clean} {blur}")
        (root / f"RealBlur_J_{split}_list.txt").write_text("\n".join(lines))
    return DataConfig(source="realblur_j", root=root)


def dpdd(root: Path) -> DataConfig:
    for number, split in enumerate(("train", "train", "val", "test")):
        folder = root / f"{split}_c"
        write_pair(folder / "source" / f"1P0A{number:04d}.png", folder / "target" / f"1P0A{number:04d}.png", number)
    return DataConfig(source="dpdd", root=root)


def plain(root: Path) -> DataConfig:
    for number, split in enumerate(("train", "train", "validation", "test")):
        write_pair(root / split / "degraded" / f"{number}.png", root / split / "clean" / f"{number}.png", number)
    return DataConfig(source="folder", root=root)


def numbers(config: DataConfig, split: Split) -> list[int]:
    """The pictures of a split, told by their blue."""
    return [int(pair.clean[0, 0, 2]) for pair in whole_images(config, split)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (plain, {"train": [0, 1], "validation": [2], "test": [3]}),
        (dpdd, {"train": [0, 1], "validation": [2], "test": [3]}),
        # The 1st and the 11th of 12 images without scenes are held out.
        (hide, {"train": [*range(1, 10), 11], "validation": [0, 10], "test": [50, 51]}),
        # The 1st and the 11th of 11 scenes of two frames each.
        (realblur, {"train": list(range(2, 20)), "validation": [0, 1, 20, 21], "test": [100, 101, 102, 103]}),
    ],
)
def test_splits_of_the_layouts(tmp_path: Path, make: object, expected: dict[Split, list[int]]) -> None:
    config = make(tmp_path)  # type: ignore[operator]
    for split in SPLITS:
        assert sorted(numbers(config, split)) == expected[split]
        for pair in whole_images(config, split):
            np.testing.assert_array_equal(pair.degraded[..., :2], pair.clean[..., :2] + 100)
            np.testing.assert_array_equal(pair.clean, picture(int(pair.clean[0, 0, 2])))
    source = train_source(config)
    assert isinstance(source, PairedSource)
    assert len(source.pairs) == len(expected["train"])


def test_frames_of_a_held_out_scene_are_held_out_together(tmp_path: Path) -> None:
    """Neighbors in a video look alike: of 11 sequences the 1st and the 11th choose, whole."""
    config = gopro(tmp_path, scenes=11)
    names = {split: [pair.name for pair in whole_images(config, split)] for split in SPLITS}
    scenes = {split: {name.rpartition("/")[0] for name in names[split]} for split in SPLITS}
    assert scenes["validation"] == {"GOPRtrain00", "GOPRtrain10"}
    assert [len(names[split]) for split in SPLITS] == [27, 6, 6]
    assert not scenes["train"] & scenes["validation"]
    assert len(set().union(*names.values())) == 39


def test_a_single_scene_is_divided_by_frames_and_a_single_pair_not_at_all(tmp_path: Path) -> None:
    config = gopro(tmp_path / "scene", scenes=1)
    assert (numbers(config, "validation"), numbers(config, "train")) == ([0], [1, 2])
    with pytest.raises(DatasetError, match="cannot both teach and choose"):
        train_source(gopro(tmp_path / "pair", scenes=1, frames=1))


def test_splits_of_the_embedded_photographs_never_share_an_image() -> None:
    config = DataConfig()
    contents = {split: {pair.clean.tobytes() for pair in whole_images(config, split)} for split in SPLITS}
    assert [len(contents[split]) for split in SPLITS] == [6, 4, 5]
    assert len(set().union(*contents.values())) == 15


def test_splits_of_sharp_photographs_are_their_folders(tmp_path: Path) -> None:
    config = sharp_folder(tmp_path, {"train": 3, "validation": 2, "test": 1})
    assert [numbers(config, split) for split in SPLITS] == [[0, 1, 2], [3, 4], [5]]


def test_a_whole_image_is_degraded_alike_whatever_else_is_in_the_folder(tmp_path: Path) -> None:
    """By its name and the config's seed alone; two images of a folder are not degraded alike."""
    config = sharp_folder(tmp_path, {"test": 2})
    write_image(tmp_path / "test" / "test-1.png", picture(0))
    before = {pair.name: pair for pair in whole_images(config, "test")}
    write_image(tmp_path / "test" / "another.png", picture(9))
    after = {pair.name: pair for pair in whole_images(config, "test")}
    assert set(after) - set(before) == {"another"}
    for name, pair in before.items():
        np.testing.assert_array_equal(after[name].degraded, pair.degraded)
        assert (pair.degraded != pair.clean).any()
    assert (before["test-0"].degraded != before["test-1"].degraded).any()
    other = whole_images(config.model_copy(update={"seed": 8}), "test")
    assert (other[1].degraded != after["test-0"].degraded).any()


def test_validation_crops_are_the_same_each_time(tmp_path: Path) -> None:
    config = sharp_folder(tmp_path, {"validation": 2})
    first, again = (crops_of(config, "validation", count=5, size=(8, 16)) for _ in range(2))
    assert first[0].shape == first[1].shape == (5, 3, 8, 16)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[1], crops_of(config, "validation", count=5, size=(8, 16), seed=1)[1])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("make", [plain, lambda root: sharp_folder(root, {"train": 2})])
def test_a_crop_is_a_window_of_its_image(tmp_path: Path, make: object) -> None:
    """Its rows and columns count on by one, and for pairs the degraded window is the same one."""
    config = make(tmp_path)  # type: ignore[operator]
    degraded, clean = ((t * 255).round().int().numpy() for t in crops_of(config, "train", count=6, size=(8, 12)))
    corners = set()
    for bad, good in zip(degraded, clean, strict=True):
        top, left = int(good[0, 0, 0]), int(good[1, 0, 0])
        np.testing.assert_array_equal(good.transpose(1, 2, 0), picture(good[2, 0, 0])[top : top + 8, left : left + 12])
        if config.source == "folder":
            np.testing.assert_array_equal(bad[:2], good[:2] + 100)
        corners.add((top, left))
    assert len(corners) > 1


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 3, 6]), (10, list(range(10))), (12, [*range(10), 0, 1])])
@pytest.mark.parametrize("paired", [True, False])
def test_crops_are_spread_evenly_over_the_images(
    tmp_path: Path, count: int, expected: list[int], paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few crops come from all along the list, many go round it; no image is read twice."""
    if paired:
        for i in range(10):
            write_pair(tmp_path / "train/degraded" / f"{i}.png", tmp_path / "train/clean" / f"{i}.png", i)
        config, reads = DataConfig(source="folder", root=tmp_path), []
        load = images.load_pair
        monkeypatch.setattr(images, "load_pair", lambda pair: (reads.append(pair.name), load(pair))[1])
    else:
        config, reads = sharp_folder(tmp_path, {"train": 10}), []
        read = images.SharpFolder.__getitem__
        monkeypatch.setattr(
            images.SharpFolder,
            "__getitem__",
            lambda folder, i: (reads.append(folder.paths[i].stem), read(folder, i))[1],
        )
    _, clean = crops_of(config, "train", count=count, size=(8, 8))
    assert (clean[:, 2, 0, 0] * 255).round().int().tolist() == expected
    assert len(reads) == len(set(reads)) == len(set(expected))


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 8), (0.5, 4), (0.25, 2), (0.001, 1)])
def test_a_fraction_of_the_training_images(tmp_path: Path, fraction: float, count: int) -> None:
    """So many, drawn by the seed; a smaller share is part of a larger one, and at least one image is left."""
    config = sharp_folder(tmp_path, {"train": 8})

    def taken(share: float, seed: int) -> set[int]:
        source = train_source(config, fraction=share, seed=seed)
        assert isinstance(source, SyntheticSource)
        return {int(photo[0, 0, 2]) for photo in source.photos}

    assert len(taken(fraction, 0)) == count
    assert taken(fraction, 0) <= taken(1.0, 0) == set(range(8))
    assert taken(0.25, 0) <= taken(0.5, 0)
    assert len({frozenset(taken(0.25, seed)) for seed in range(6)}) > 1


def test_a_fraction_of_the_pairs(tmp_path: Path) -> None:
    source = train_source(plain(tmp_path), fraction=0.5)
    assert isinstance(source, PairedSource)
    assert all(isinstance(pair, Pair) for pair in source.pairs)
    assert len(source.pairs) == 1


def test_a_number_of_the_training_images(tmp_path: Path) -> None:
    """Exactly so many, those of a smaller number among them; more than there are is one line."""
    config = sharp_folder(tmp_path, {"train": 8})

    def taken(count: int) -> set[int]:
        source = train_source(config, count=count, seed=3)
        assert isinstance(source, SyntheticSource)
        return {int(photo[0, 0, 2]) for photo in source.photos}

    assert [len(taken(count)) for count in (1, 5, 8)] == [1, 5, 8]
    assert taken(1) <= taken(5) <= taken(8)
    for count in (0, 9):
        with pytest.raises(DatasetError, match="there are 8 to train on"):
            train_source(config, count=count)


def test_the_degradation_is_the_configs() -> None:
    assert degradation_of(DataConfig(strength_px=(3, 5))) == ShakeModel(min_length_px=3, max_length_px=5)
    defocus = DataConfig(degradation="defocus", strength_px=(1, 2))
    assert degradation_of(defocus) == DefocusModel(min_radius_px=1, max_radius_px=2)
    noise = DataConfig(degradation="noise", strength_px=(5, 15))
    assert degradation_of(noise) == NoiseModel(min_sigma=5, max_sigma=15)
    assert noise.degradation_in_words == "noise of 5 to 15 steps of 8 bits, seed 7"
    assert defocus.degradation_in_words == "defocus of 1 to 2 pixels, seed 7"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "gopo", "root": "x"}, "did you mean 'gopro'"),
        ({"source": "gopro"}, "needs root"),
        ({"source": "embedded", "root": "x"}, "takes no root"),
        ({"strength_px": (5, 2)}, "smaller first"),
        ({"strength_px": (-1, 2)}, "at least 0"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        DataConfig(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["sharp", "folder", "gopro", "hide", "realblur_j", "dpdd"])
def test_a_missing_or_empty_folder_is_one_line(tmp_path: Path, source: str) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        config = DataConfig(source=source, root=root)
        for split in SPLITS:
            with pytest.raises(NetgraftError) as caught:
                crops_of(config, split, count=1, size=(8, 8))
            assert "\n" not in str(caught.value)
            assert str(root) in str(caught.value)


def test_crops_larger_than_an_image_name_it(tmp_path: Path) -> None:
    for config in (plain(tmp_path / "a"), sharp_folder(tmp_path / "b", {"train": 1})):
        with pytest.raises(DatasetError, match=r"has 32x24 pixels, less than the 33x24 of a crop") as caught:
            crops_of(config, "train", count=1, size=(24, 33))
        assert "\n" not in str(caught.value)
        assert crops_of(config, "train", count=1, size=(24, 32))[0].shape == (1, 3, 24, 32)


def test_a_fingerprint_tells_images_apart(tmp_path: Path) -> None:
    """Another config, another file or another content of one; but not another look."""
    config = sharp_folder(tmp_path, {"train": 1})
    first = fingerprint(config)
    assert fingerprint(config) == first
    assert fingerprint(config.model_copy(update={"seed": 1})) != first
    write_image(tmp_path / "train" / "more.png", picture(1))
    second = fingerprint(config)
    assert second != first
    write_image(tmp_path / "train" / "more.png", picture(1, h=25))
    assert fingerprint(config) != second
    assert fingerprint(DataConfig()) == DataConfig().model_dump(mode="json", exclude={"test_images"})
    assert fingerprint(DataConfig(test_images=2))["test_images"] == 2
    with pytest.raises(DatasetError, match="no such folder"):
        fingerprint(DataConfig(source="sharp", root=tmp_path / "nowhere"))
