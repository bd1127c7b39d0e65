"""Reading and writing images: what goes in comes out, and every kind of trouble is one line."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from netgraft.errors import ImageError
from netgraft.imaging import image_paths, image_size, read_image, write_image


def noise(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def png(width: int, height: int, bits: int, color: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    """A PNG file put together by hand, so that its header may say anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def one_line(path: Path, **options: int) -> str:
    """The message of the ImageError that reading a file raises, known to be one line that names the file."""
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "; " in message, "says what to do after a semicolon"
    return message


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_files_give_back_the_pixels(tmp_path: Path, suffix: str, dtype: type) -> None:
    image = noise((13, 22, 3), dtype)
    write_image(tmp_path / f"a{suffix}", image)
    back = read_image(tmp_path / f"a{suffix}")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, image)


def test_red_is_the_first_channel_for_other_programs_too(tmp_path: Path) -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 255
    write_image(tmp_path / "red.png", red)
    assert Pillow.open(tmp_path / "red.png").convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    write_image(tmp_path / "red16.tif", red.astype(np.uint16) * 257)
    assert cv2.imread(str(tmp_path / "red16.tif"), cv2.IMREAD_UNCHANGED)[0, 0].tolist() == [0, 0, 65535]


def test_jpeg_stays_near_and_keeps_fine_color(tmp_path: Path) -> None:
    """Red and blue columns one pixel wide would blend into purple if the color resolution were halved."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2, 0] = 200
    image[:, 1::2, 2] = 200
    write_image(tmp_path / "stripes.jpg", image)
    back = read_image(tmp_path / "stripes.jpg").astype(int)
    assert np.abs(back - image).max() < 30


def test_gray_files_become_three_equal_channels(tmp_path: Path) -> None:
    gray8, gray16 = noise((6, 7)), noise((6, 7), np.uint16)
    Pillow.fromarray(gray8).save(tmp_path / "gray8.png")
    cv2.imwrite(str(tmp_path / "gray16.png"), gray16)
    cv2.imwrite(str(tmp_path / "gray16.tif"), gray16)
    Pillow.fromarray(gray8 > 127).save(tmp_path / "bits.png")
    for name, expected in {
        "gray8.png": gray8,
        "gray16.png": gray16,
        "gray16.tif": gray16,
        "bits.png": np.where(gray8 > 127, 255, 0).astype(np.uint8),
    }.items():
        image = read_image(tmp_path / name)
        assert image.dtype == expected.dtype
        np.testing.assert_array_equal(image, np.stack([expected] * 3, axis=-1))


def test_palette_files_become_rgb(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2], image[2:] = (10, 20, 30), (200, 100, 50)
    Pillow.fromarray(image).quantize(4).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), image)


UPRIGHT = {
    # What has to be done to the stored rows to stand upright (Exif 2.3, table 4): row 0 and column 0 as seen.
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png8", "tif8", "png16", "tif16"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    stored = noise((4, 6, 3), np.uint16 if kind.endswith("16") else np.uint8, seed=orientation)
    path = tmp_path / f"turned.{kind[:3]}"
    exif = Pillow.Exif()
    exif[274] = orientation
    if kind.endswith("8"):
        Pillow.fromarray(stored).save(path, exif=exif)
    elif kind == "png16":
        body = exif.tobytes().removeprefix(b"Exif\x00\x00")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in stored)
        path.write_bytes(png(6, 4, 16, 2, rows, extra=chunk))
    else:
        path.write_bytes(tiff16(stored, orientation))
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]


def tiff16(image: np.ndarray, orientation: int = 1, photometric: int = 2, sample_format: int = 1) -> bytes:
    """A plain little-endian TIFF file of 16-bit RGB, put together by hand."""
    h, w, channels = image.shape
    short = dict(
        zip(
            [256, 257, 259, 262, 274, 277, 278, 284],
            [w, h, 1, photometric, orientation, channels, h, 1],
            strict=True,
        )
    )
    tags = [(tag, 3, 1, value) for tag, value in short.items()]
    extra_at = 8 + 2 + 12 * (len(tags) + 4) + 4
    pixels_at = extra_at + 4 * channels
    tags += [(258, 3, channels, extra_at), (339, 3, channels, extra_at + 2 * channels)]
    tags += [(273, 4, 1, pixels_at), (279, 4, 1, image.nbytes)]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    extra = struct.pack(f"<{2 * channels}H", *[16] * channels, *[sample_format] * channels)
    head = b"II*\x00" + struct.pack("<IH", 8, len(tags))
    return head + directory + struct.pack("<I", 0) + extra + image.astype("<u2").tobytes()


def test_other_channels_are_refused(tmp_path: Path) -> None:
    saved = {
        "rgba.png": ("RGBA", "alpha"),
        "la.png": ("LA", "alpha"),
        "cmyk.jpg": ("CMYK", "CMYK"),
        "cmyk.tif": ("CMYK", "CMYK"),
        "float.tif": ("F", "kind F"),
        "int.tif": ("I", "8- nor 16-bit"),
        "lab.tif": ("LAB", "kind LAB"),
    }
    for name, (mode, word) in saved.items():
        Pillow.new(mode, (5, 4)).save(tmp_path / name)
        assert word in one_line(tmp_path / name)
    glass = Pillow.new("P", (5, 4))
    glass.save(tmp_path / "glass.png", transparency=0)
    assert "alpha" in one_line(tmp_path / "glass.png")
    (tmp_path / "rgba16.png").write_bytes(png(2, 1, 16, 6, b"\x00" + bytes(16)))
    assert "alpha" in one_line(tmp_path / "rgba16.png")
    (tmp_path / "signed.tif").write_bytes(tiff16(noise((4, 4, 3), np.uint16), sample_format=2))
    one_line(tmp_path / "signed.tif")


def test_files_that_are_no_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not\nan image")
    assert "not an image" in one_line(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    one_line(tmp_path / "empty.png")
    (tmp_path / "folder.png").mkdir()
    assert "folder" in one_line(tmp_path / "folder.png")
    assert "No such file" in one_line(tmp_path / "missing.png")
    (tmp_path / "zero.png").write_bytes(png(0, 3, 8, 2, b""))
    one_line(tmp_path / "zero.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a16.png", "a16.tif", "a.bmp", "a.webp"])
def test_truncated_files_are_refused_at_any_length(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut anywhere in its first nine tenths, a file never gives an image, nor a word on stderr."""
    image = noise((24, 24, 3), np.uint16 if "16" in name else np.uint8)
    path = tmp_path / name
    if path.suffix in (".bmp", ".webp"):
        Pillow.fromarray(image).save(path)
    else:
        write_image(path, image)
    whole = path.read_bytes()
    for length in np.linspace(1, 0.9 * len(whole), 25).astype(int):
        path.write_bytes(whole[:length])
        one_line(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a16.png", "a16.tif"])
def test_damaged_files_give_an_image_or_an_image_error(tmp_path: Path, name: str) -> None:
    """Whatever byte is hit, nothing but an ImageError escapes; a pixel may change where no checksum tells."""
    path = tmp_path / name
    write_image(path, noise((12, 12, 3), np.uint16 if "16" in name else np.uint8))
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    positions = [
        *range(min(60, len(whole))),
        *rng.integers(len(whole), size=150),
        *range(len(whole) - 60, len(whole)),
    ]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(ImageError):
            read_image(path)


def test_large_images_are_refused_before_decoding(tmp_path: Path) -> None:
    """The pixels are absent: reaching for them would end in another message."""
    path = tmp_path / "large.png"
    path.write_bytes(png(30_000, 20_000, 8, 2, b""))
    assert "pixels" in one_line(path)
    path.write_bytes(png(10_001, 10_000, 8, 2, b""))
    assert "10001x10000" in one_line(path)
    path.write_bytes(png(3, 2, 8, 2, (b"\x00" + bytes(9)) * 2))
    assert "3x2" in one_line(path, max_pixels=5)
    assert read_image(path, max_pixels=6).shape == (2, 3, 3)
    with pytest.raises(ImageError, match="limit of 5"):
        image_size(path, max_pixels=5)


@contextmanager
def small_file_limit() -> Iterator[None]:
    """Files end at 1000 bytes, as on a disk that fills up; that of pytest's own output too, so only for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"old")
    with pytest.raises(ImageError, match=r"photo.png: cannot be written"), small_file_limit():
        write_image(path, noise((64, 64, 3)))
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]
    assert path.read_bytes() == b"old"


def test_unwritable_targets_are_refused(tmp_path: Path) -> None:
    image = noise((4, 4, 3))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for target in ("folder.png", "file/a.png"):
        with pytest.raises(ImageError, match="cannot be written") as caught:
            write_image(tmp_path / target, image)
        assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    image = noise((4, 4, 3))
    write_image(tmp_path / "new" / "deep" / "a.png", image)
    assert (read_image(tmp_path / "new" / "deep" / "a.png") == image).all()


def test_only_images_that_a_format_can_hold_are_written(tmp_path: Path) -> None:
    image = noise((4, 4, 3))
    for name, wrong, word in [
        ("a.gif", image, "unknown suffix"),
        ("a", image, "unknown suffix"),
        ("a.jpg", image.astype(np.uint16), "8 bits"),
        ("a.png", image[..., 0], r"\(4, 4\)"),
        ("a.png", image.astype(np.float32), "float32"),
        ("a.png", image[:0], "no image"),
        ("a.jpg", np.zeros((1, 70_000, 3), np.uint8), r"use \.png"),
    ]:
        with pytest.raises(ImageError, match=word):
            write_image(tmp_path / name, wrong)
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "reference").touch()
    write_image(tmp_path / "a.png", noise((4, 4, 3)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "reference").stat().st_mode


def test_image_paths_lists_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.tiff", ".hidden.png", "notes.txt", "d.webp"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    assert [p.name for p in image_paths(tmp_path)] == ["a.JPG", "b.png", "c.tiff", "d.webp"]
    for wrong in (tmp_path / "missing", tmp_path / "b.png"):
        with pytest.raises(ImageError, match="cannot list"):
            image_paths(wrong)


def test_the_result_can_be_written_to(tmp_path: Path) -> None:
    Pillow.open(io.BytesIO(png(2, 1, 8, 2, b"\x00" + bytes(6)))).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    image[0, 0] = 7
    assert image[0, 0].tolist() == [7, 7, 7]
