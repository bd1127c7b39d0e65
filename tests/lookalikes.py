"""Tiny look-alikes of every data set, laid out as its authors ship it; four pairs unless a test asks for others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from netgraft.imaging import RgbImage, write_image

SIZE = (48, 64)


def clean(number: int, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> RgbImage:
    """A scene of its own for every number: patches of color with soft edges, and some texture."""
    rng = np.random.default_rng(number)
    patches = rng.random((6, 8, 3)).astype(np.float32)
    scene = cv2.resize(patches, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    scene = np.clip(scene + 0.05 * rng.standard_normal(scene.shape), 0, 1)
    return (scene * np.iinfo(dtype).max).round().astype(dtype)


def degraded(number: int, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> RgbImage:
    """The same scene out of focus."""
    return cv2.GaussianBlur(clean(number, size, dtype), (0, 0), 1.5)  # type: ignore[return-value]


def put(path: Path, image: RgbImage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def put_pair(degraded_path: Path, clean_path: Path, number: int, dtype: type = np.uint8) -> None:
    put(degraded_path, degraded(number, dtype=dtype))
    put(clean_path, clean(number, dtype=dtype))


def folder(root: Path) -> None:
    for number in range(4):
        put_pair(root / f"degraded/{number}.png", root / f"clean/{number}.png", number)


def gopro(root: Path) -> None:
    for number in range(4):
        sequence = root / "test" / f"GOPR0384_11_0{number // 2}"
        put_pair(sequence / f"blur/00000{number}.png", sequence / f"sharp/00000{number}.png", number)
        put(sequence / f"blur_gamma/00000{number}.png", degraded(number))


def lmdb(folder: Path, images: dict[str, RgbImage]) -> None:
    """As BasicSR writes it: one encoded file a key, and the list beside it."""
    import lmdb as library

    folder.mkdir(parents=True)
    lines = []
    with library.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
        for key, image in images.items():
            _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            transaction.put(key.encode(), data.tobytes())
            lines.append(f"{key}.png ({image.shape[0]},{image.shape[1]},3) 1")
    (folder / "lock.mdb").unlink(missing_ok=True)
    (folder / "meta_info.txt").write_text("\n".join(lines) + "\n")


def gopro_lmdb(root: Path) -> None:
    keys = [f"GOPR0384_11_0{number // 2}-00000{number}" for number in range(4)]
    lmdb(root / "test/input.lmdb", {key: degraded(number) for number, key in enumerate(keys)})
    lmdb(root / "test/target.lmdb", {key: clean(number) for number, key in enumerate(keys)})


def hide(root: Path) -> None:
    for number in range(4):
        part = "test-close-ups" if number < 2 else "test-long-shot"
        put_pair(root / f"test/{part}/{number}.png", root / f"GT/{number}.png", number)


def realblur(kind: str, folder: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        lines = []
        for number in range(4):
            scene = f"{folder}/scene{number:03}"
            paths = f"{scene}/gt/gt_{number}.png", f"{scene}/blur/blur_{number}.png"
            put_pair(root / paths[1], root / paths[0], number)
            lines.append(" ".join(paths))
        (root / f"RealBlur_{kind}_test_list.txt").write_text("\n".join(lines))

    return build


def dpdd(root: Path) -> None:
    for number in range(4):
        names = f"1P0A{100 + 2 * number:04}.png", f"1P0A{101 + 2 * number:04}.png"
        put_pair(root / "test_c/source" / names[0], root / "test_c/target" / names[1], number, np.uint16)
    np.save(root / "indoor_labels.npy", np.array([1, 3]))
    np.save(root / "outdoor_labels.npy", np.array([2, 4]))


def dpdd_dual(root: Path) -> None:
    dpdd(root)
    for number in range(4):
        for side, shift in (("l", -1), ("r", 1)):
            view = np.roll(degraded(number, dtype=np.uint16), shift, axis=1)
            put(root / f"test_{side}/source/1P0A{100 + 2 * number:04}_{side}.png", view)


def rsblur(root: Path) -> None:
    lines = []
    for number in range(4):
        scene = f"RSBlur/{number:04}/{number:04}"
        put_pair(root / f"{scene}/blur/blur.png", root / f"{scene}/gt/gt.png", number)
        lines.append(f"{scene}/gt/gt.png {scene}/blur/blur.png")
    (root / "RSBlur_real_test.txt").write_text("\n".join(lines))


def reds(root: Path) -> None:
    for number in range(4):
        sequence, frame = f"{number // 2:03}", f"{10 * (number % 2) + 9:08}"
        put_pair(root / f"val/val_blur/{sequence}/{frame}.png", root / f"val/val_sharp/{sequence}/{frame}.png", number)
        other = root / "val" / "val_blur" / sequence / "00000003.png"
        put_pair(other, root / "val" / "val_sharp" / sequence / "00000003.png", 50 + number)
        jpeg = root / f"val/val_blur_jpeg/{sequence}"
        jpeg.mkdir(parents=True, exist_ok=True)
        Image.fromarray(degraded(number)).save(jpeg / f"{frame}.jpg", quality=90)
        Image.fromarray(degraded(50 + number)).save(jpeg / "00000003.jpg", quality=90)


def paper_root(root: Path, size: tuple[int, int] = (96, 128)) -> None:
    """What the paper's experiment needs: GoPro, HIDE, RealBlur and DPDD side by side, a few pairs a split."""

    def pair(degraded_path: Path, clean_path: Path, number: int, dtype: type = np.uint8) -> None:
        put(degraded_path, degraded(number, size, dtype))
        put(clean_path, clean(number, size, dtype))

    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        for number in numbers:
            sequence = root / "GOPRO_Large" / split / f"GOPR00{number}"
            pair(sequence / "blur/000001.png", sequence / "sharp/000001.png", number)
    for number in (6, 7):
        hide = root / "HIDE_dataset"
        pair(
            hide / f"test/{'test-close-ups' if number == 6 else 'test-long-shot'}/{number}.png",
            hide / f"GT/{number}.png",
            number,
        )
    for kind in "JR":
        lines = []
        for number in (8, 9):
            scene = f"RealBlur-{kind}/scene{number:03}"
            paths = f"{scene}/gt/gt_{number}.png", f"{scene}/blur/blur_{number}.png"
            pair(root / "RealBlur" / paths[1], root / "RealBlur" / paths[0], number)
            lines.append(" ".join(paths))
        (root / f"RealBlur/RealBlur_{kind}_test_list.txt").write_text("\n".join(lines))
    dpdd = root / "dd_dp_dataset_canon"
    for split, numbers in (("train", range(10, 12)), ("val", range(12, 13)), ("test", range(13, 15))):
        for number in numbers:
            names = f"1P0A{2 * number:04}.png", f"1P0A{2 * number + 1:04}.png"
            pair(dpdd / f"{split}_c/source" / names[0], dpdd / f"{split}_c/target" / names[1], number, np.uint16)
    np.save(dpdd / "indoor_labels.npy", np.array([1]))
    np.save(dpdd / "outdoor_labels.npy", np.array([2]))


LOOKALIKES: dict[str, Callable[[Path], None]] = {
    "folder": folder,
    "gopro": gopro,
    "gopro-gamma": gopro,
    "gopro in lmdb": gopro_lmdb,
    "hide": hide,
    "realblur-j": realblur("J", "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"),
    "realblur-r": realblur("R", "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"),
    "dpdd": dpdd,
    "dpdd-dual": dpdd_dual,
    "rsblur": rsblur,
    "reds": reds,
    "reds-jpeg": reds,
}
"""What builds each, by the name of the data set on the command line."""
