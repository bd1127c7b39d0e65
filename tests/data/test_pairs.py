"""Paired datasets: tiny look-alikes of each layout, and every way in which one may be incomplete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netgraft.data import (
    LAYOUTS,
    Crops,
    ShakeModel,
    SharpFolder,
    SyntheticSource,
    list_pairs,
    load_pair,
    synthetic_pair,
)
from netgraft.errors import ConfigError, DatasetError, ImageError
from netgraft.imaging import write_image


def put(path: Path, value: int = 0, shape: tuple[int, int] = (4, 6), dtype: type = np.uint8) -> Path:
    """An image of one value; files of a degraded and a clean image are told apart by it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((*shape, 3), value, dtype))
    return path


def values(root: Path, layout: str, split: str) -> dict[str, tuple[int, int]]:
    """Per pair: the value of the degraded and of the clean image."""
    loaded = {pair.name: load_pair(pair) for pair in list_pairs(layout, root, split)}
    return {name: (int(degraded[0, 0, 0]), int(clean[0, 0, 0])) for name, (degraded, clean) in loaded.items()}


def refused(root: Path, layout: str, split: str) -> str:
    """The message of the DatasetError that listing raises, known to be one line."""
    with pytest.raises(DatasetError) as caught:
        list_pairs(layout, root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder(tmp_path: Path) -> None:
    put(tmp_path / "degraded/b.png", 1)
    put(tmp_path / "clean/b.tif", 2)
    put(tmp_path / "degraded/a.png", 3)
    put(tmp_path / "clean/a.png", 4)
    (tmp_path / "degraded/notes.txt").touch()
    (tmp_path / "degraded/.a.png").touch()
    assert values(tmp_path, "folder", "") == {"a": (3, 4), "b": (1, 2)}
    put(tmp_path / "extra/degraded/c.png", 5)
    put(tmp_path / "extra/clean/c.png", 6)
    assert values(tmp_path, "folder", "extra") == {"c": (5, 6)}


def gopro(root: Path) -> None:
    """GOPRO_Large: test/GOPR0384_11_00/{blur,blur_gamma,sharp}/000001.png and so on."""
    number = 0
    for sequence in ("GOPR0384_11_05", "GOPR0384_11_00"):
        for frame in ("000001", "000002"):
            for kind in ("blur", "blur_gamma", "sharp"):
                number += 1
                put(root / "test" / sequence / kind / f"{frame}.png", number)


def test_gopro(tmp_path: Path) -> None:
    gopro(tmp_path)
    assert values(tmp_path, "gopro", "test") == {
        "GOPR0384_11_00/000001": (7, 9),
        "GOPR0384_11_00/000002": (10, 12),
        "GOPR0384_11_05/000001": (1, 3),
        "GOPR0384_11_05/000002": (4, 6),
    }
    assert values(tmp_path, "gopro_gamma", "test")["GOPR0384_11_05/000002"] == (5, 6)


def test_hide(tmp_path: Path) -> None:
    """GT holds the clean images of all splits under the names of the degraded ones."""
    for number, name in enumerate(["train/1fromGOPR0", "test/test-close-ups/2fromGOPR1", "test/test-long-shot/3x"]):
        put(tmp_path / f"{name}.png", number)
        put(tmp_path / "GT" / f"{Path(name).name}.png", 10 + number)
    assert values(tmp_path, "hide", "train") == {"1fromGOPR0": (0, 10)}
    assert values(tmp_path, "hide", "test") == {
        "test-close-ups/2fromGOPR1": (1, 11),
        "test-long-shot/3x": (2, 12),
    }
    assert values(tmp_path, "hide", "test-long-shot") == {"test-long-shot/3x": (2, 12)}
    (tmp_path / "GT/3x.png").unlink()
    assert "3x" in refused(tmp_path, "hide", "test")
    assert len(list_pairs("hide", tmp_path, "train")) == 1


@pytest.mark.parametrize(
    ("layout", "kind", "folder"),
    [
        ("realblur_j", "J", "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"),
        ("realblur_r", "R", "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"),
    ],
)
def test_realblur(tmp_path: Path, layout: str, kind: str, folder: str) -> None:
    lines = []
    for number, scene in enumerate(["scene230", "scene001"]):
        put(tmp_path / folder / scene / "gt" / "gt_7.png", 20 + number)
        put(tmp_path / folder / scene / "blur" / "blur_7.png", number)
        lines.append(f"{folder}/{scene}/gt/gt_7.png {folder}/{scene}/blur/blur_7.png")
    put(tmp_path / folder / "scene002/gt/gt_1.png")  # of another split: no business of this list
    listing = tmp_path / f"RealBlur_{kind}_test_list.txt"
    listing.write_text("\n".join(lines) + "\n\n")
    assert values(tmp_path, layout, "test") == {"scene001/blur_7": (1, 21), "scene230/blur_7": (0, 20)}

    listing.write_text("\n".join([*lines, f"{folder}/scene9/gt/gt_1.png {folder}/scene9/blur/blur_1.png"]))
    assert "scene9/gt/gt_1.png, " in refused(tmp_path, layout, "test")
    listing.write_text("one two three\n")
    assert "each line" in refused(tmp_path, layout, "test")
    assert f"RealBlur_{kind}_train_list.txt" in refused(tmp_path, layout, "train")


def test_dpdd_pairs_by_order_of_capture(tmp_path: Path) -> None:
    """Names differ: 1P0A0917 was taken with the wide aperture, 1P0A0916 with the narrow one."""
    for number, (source, target) in enumerate([("1P0A0933", "1P0A0932"), ("1P0A0917", "1P0A0916")]):
        put(tmp_path / "test_c/source" / f"{source}.png", number, dtype=np.uint16)
        put(tmp_path / "test_c/target" / f"{target}.png", 700 + number, dtype=np.uint16)
    assert values(tmp_path, "dpdd", "test") == {"1P0A0917": (1, 701), "1P0A0933": (0, 700)}
    put(tmp_path / "test_c/source/1P0A1002.png")
    assert "3 images in source but 2 in target" in refused(tmp_path, "dpdd", "test")
    put(tmp_path / "test_c/target/1P0A0801.png")
    assert "1P0A0917.png with 1P0A0801.png" in refused(tmp_path, "dpdd", "test")


def test_missing_partners_are_named_but_not_all_of_them(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / f"degraded/{number}.png")
    put(tmp_path / "clean/0.png")
    message = refused(tmp_path, "folder", "")
    assert "1, 2, 3 and 2 more" in message
    gopro(tmp_path)
    (tmp_path / "test/GOPR0384_11_00/blur/000002.png").unlink()
    assert "000002" in refused(tmp_path, "gopro", "test")


def test_incomplete_datasets_are_refused(tmp_path: Path) -> None:
    for layout, chosen in LAYOUTS.items():
        split = chosen.splits[0] if chosen.splits else ""
        assert "missing" in refused(tmp_path / "missing", layout, split)
        refused(tmp_path, layout, split)
        if chosen.splits:
            assert "the choices are" in refused(tmp_path, layout, "tset")
    (tmp_path / "degraded").mkdir()
    (tmp_path / "clean").mkdir()
    assert "no image pairs" in refused(tmp_path, "folder", "")
    put(tmp_path / "degraded/a.png")
    put(tmp_path / "degraded/a.jpg")
    put(tmp_path / "clean/a.png")
    assert "but for the suffix" in refused(tmp_path, "folder", "")
    with pytest.raises(ConfigError, match="did you mean 'gopro'"):
        list_pairs("gopor", tmp_path, "test")


def test_pairs_of_unequal_size_or_depth_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "degraded/a.png", shape=(4, 6))
    put(tmp_path / "clean/a.png", shape=(4, 5))
    put(tmp_path / "degraded/b.png", dtype=np.uint8)
    put(tmp_path / "clean/b.png", dtype=np.uint16)
    size, depth = list_pairs("folder", tmp_path)
    with pytest.raises(DatasetError, match=r"6x4 uint8, .* is 5x4 uint8"):
        load_pair(size)
    with pytest.raises(DatasetError, match="uint16"):
        load_pair(depth)
    size.clean.write_bytes(b"broken")
    with pytest.raises(ImageError):
        load_pair(size)


def test_sharp_folder_is_a_sequence_of_photographs(tmp_path: Path) -> None:
    put(tmp_path / "b.png", 2, (12, 20))
    put(tmp_path / "a.png", 1, (9, 8))
    folder = SharpFolder(tmp_path)
    assert len(folder) == 2
    assert [image.shape for image in folder] == [(9, 8, 3), (12, 20, 3)]
    assert [int(image[0, 0, 0]) for image in folder[::-1]] == [2, 1]
    degraded, clean = Crops(SyntheticSource(SharpFolder(tmp_path, min_side=8), ShakeModel()), 8, seed=0)[0]
    assert degraded.shape == clean.shape == (3, 8, 8)

    with pytest.raises(DatasetError, match=r"smaller than 9 pixels on a side: a\.png"):
        SharpFolder(tmp_path, min_side=9)
    put(tmp_path / "c.png", dtype=np.uint16)
    with pytest.raises(DatasetError, match="16 bits"):
        SharpFolder(tmp_path)[2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        SharpFolder(tmp_path / "empty")


def test_synthetic_pairs_follow_from_their_seed() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    degraded, clean = synthetic_pair(frame, ShakeModel(min_length_px=6), seed=5)
    np.testing.assert_array_equal(clean, frame)
    assert degraded.shape == frame.shape
    assert degraded.dtype == np.uint8
    np.testing.assert_array_equal(degraded, synthetic_pair(frame, ShakeModel(min_length_px=6), seed=5)[0])
    assert not np.array_equal(degraded, synthetic_pair(frame, ShakeModel(min_length_px=6), seed=6)[0])
    assert degraded.std() < 0.6 * frame.std(), "a shake of six pixels averages white noise away"
