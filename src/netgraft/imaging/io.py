"""Reading and writing photographs: 8- and 16-bit RGB, and one clear line for everything else.

Pillow looks at the header and decodes 8-bit files; OpenCV decodes and encodes 16-bit ones, which Pillow would
quietly cut to 8 bits. Color profiles are not applied: the numbers are taken as sRGB.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from netgraft.errors import ImageError
from netgraft.files import write_atomically

RgbImage = NDArray[np.uint8] | NDArray[np.uint16]
"""(h, w, 3) RGB, 8 or 16 bits a channel."""

MAX_PIXELS = 100_000_000
"""Largest image read unless the caller says otherwise: 100 megapixels."""

READ_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""File names that ``image_paths`` takes for images."""

_JPEG_SUFFIXES = (".jpeg", ".jpg")
_LOSSLESS_SUFFIXES = (".png", ".tif", ".tiff")
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, struct.error)
"""What Pillow's decoders raise on files that are cut short or damaged (SyntaxError: a bad PNG chunk)."""
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 256, 257, 258, 262, 274, 339
"""TIFF tags, also used by EXIF."""


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """The (h, w, 3) RGB image in a file, upright as its EXIF orientation asks.

    16-bit PNG and TIFF files give uint16, all others uint8; gray is repeated into three channels. A file with
    several frames gives the first one.

    max_pixels: refuse, before decoding, an image with more pixels than this.

    Raises:
        ImageError: the file is missing, no image, damaged, too large, has an alpha channel, or is neither RGB
            nor gray.
    """
    path = Path(path)
    with _file(path) as stream:
        return _decoded(path, stream, max_pixels)


def decode_image(name: str | Path, data: bytes, *, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """The (h, w, 3) RGB image in the bytes of a file, as :func:`read_image` gives it; ``name`` is for errors.

    Raises:
        ImageError: as for :func:`read_image`.
    """
    return _decoded(Path(name), io.BytesIO(data), max_pixels)


def _decoded(path: Path, stream: BinaryIO, max_pixels: int) -> RgbImage:
    with _opened(path, stream) as (image, head):
        _check_size(path, image, max_pixels)
        _check_channels(path, image)
        sixteen = _is_sixteen_bit(path, image, head)
        # Before OpenCV sees the file: it answers to damage with lines of its own on stderr.
        image.load()
        if not sixteen:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
        # OpenCV turns TIFF files upright by itself.
        orientation = 1 if image.format == "TIFF" else int(image.getexif().get(_ORIENTATION, 1))
        stream.seek(0)
        data = stream.read()
    return _decode_sixteen_bit(path, data, orientation)


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(h, w) of the upright image in a file, in pixels, from its header alone.

    Raises:
        ImageError: the file is missing, is not an image, or is too large.
    """
    path = Path(path)
    with _file(path) as stream, _opened(path, stream) as (image, _):
        _check_size(path, image, max_pixels)
        width, height = image.size
        if image.format == "TIFF":
            # Depending on its version, Pillow has already turned the size of a TIFF file.
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        sideways = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if sideways else (height, width)


def write_image(path: str | Path, image: RgbImage) -> None:
    """Write an (h, w, 3) RGB image; the file appears whole or not at all.

    PNG and TIFF hold uint8 and uint16 without loss; JPEG holds uint8 at quality 95 with unreduced color.

    Raises:
        ImageError: the array is no such image, the suffix is unknown or cannot hold it, or the file cannot be
            written.
    """
    path = Path(path)
    write_atomically(path, _encoded(path, image), ImageError)


def image_paths(folder: str | Path) -> list[Path]:
    """The image files in a folder, by name, without hidden ones and without those in subfolders.

    Raises:
        ImageError: there is no such folder, or it cannot be read.
    """
    folder = Path(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"cannot list the images in {folder}: {_reason(error)}; name a folder") from error
    return [p for p in entries if p.suffix.lower() in READ_SUFFIXES and not p.name.startswith(".") and p.is_file()]


def _file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except IsADirectoryError as error:
        raise ImageError(f"cannot read {path}: it is a folder; name an image file in it") from error
    except OSError as error:
        raise ImageError(f"cannot read {path}: {_reason(error)}; check the path") from error


@contextmanager
def _opened(path: Path, stream: BinaryIO) -> Iterator[tuple[Pillow.Image, bytes]]:
    """What Pillow opens, and its first bytes; Pillow's errors on damaged files become ImageErrors."""
    with warnings.catch_warnings():
        # They tell of odd metadata and of large images; the size is checked by us.
        warnings.simplefilter("ignore")
        try:
            head = stream.read(32)
            stream.seek(0)
            with Pillow.open(stream) as image:
                yield image, head
        except Pillow.DecompressionBombError as error:
            raise ImageError(f"cannot read {path}: {_reason(error)}; scale it down first") from error
        except UnidentifiedImageError as error:
            raise ImageError(f"cannot read {path}: not an image in a known format; use PNG, JPEG or TIFF") from error
        except _DAMAGED as error:
            raise ImageError(
                f"cannot read {path}: the file is damaged ({_reason(error)}); copy it again from its source"
            ) from error


def _check_size(path: Path, image: Pillow.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"cannot read {path}: the image is empty ({width}x{height} pixels); use another one")
    if width * height > max_pixels:
        raise ImageError(
            f"cannot read {path}: {width}x{height} pixels are more than the limit of {max_pixels}; "
            "scale it down or raise max_pixels"
        )


def _check_channels(path: Path, image: Pillow.Image) -> None:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        raise ImageError(f"cannot read {path}: it has an alpha channel; flatten it onto a background first")
    if image.mode == "CMYK":
        raise ImageError(f"cannot read {path}: it is CMYK; convert it to RGB first")
    if image.mode not in ("1", "L", "P", "RGB", "YCbCr", "I", "I;16", "I;16B", "I;16L"):
        raise ImageError(f"cannot read {path}: pixels of kind {image.mode}; convert it to 8- or 16-bit RGB first")


def _is_sixteen_bit(path: Path, image: Pillow.Image, head: bytes) -> bool:
    """Whether the file holds 16 bits a channel, which Pillow's mode does not tell."""
    if image.format == "PNG":
        # Byte 8 of the IHDR chunk's body, which always comes first (PNG specification, 11.2.2).
        return head[24] == 16
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = set(np.atleast_1d(tags.get(_BITS, 1)).tolist())
        unsigned = set(np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)).tolist()) == {1}
        if max(bits) > 8 and (bits != {16} or not unsigned or tags.get(_PHOTOMETRIC) not in (1, 2)):
            raise ImageError(f"cannot read {path}: neither 8- nor 16-bit RGB or gray; convert it first")
        return bits == {16}
    if image.mode.startswith("I"):
        raise ImageError(f"cannot read {path}: deep pixels in {image.format}; convert it to 16-bit PNG first")
    return False


def _decode_sixteen_bit(path: Path, data: bytes, orientation: int) -> NDArray[np.uint16]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or (decoded.ndim == 3 and decoded.shape[2] != 3):
        raise ImageError(f"cannot read {path}: the 16-bit image cannot be decoded; store it as a plain 16-bit PNG")
    rgb = np.repeat(decoded[..., None], 3, axis=2) if decoded.ndim == 2 else decoded[..., ::-1]
    return np.ascontiguousarray(_upright(rgb.astype(np.uint16, copy=False), orientation))


def _upright(image: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    """Undo an EXIF orientation: 2-4 flip or turn by half, 5-8 also swap the axes (Exif 2.3, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _encoded(path: Path, image: RgbImage) -> bytes:
    suffix = path.suffix.lower()
    if suffix not in _JPEG_SUFFIXES + _LOSSLESS_SUFFIXES:
        raise ImageError(f"cannot write {path}: unknown suffix {path.suffix!r}; use .png, .tif or .jpg")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"cannot write {path}: {image.shape} {image.dtype} is no image; give (h, w, 3) uint8 or uint16"
        )
    if suffix in _JPEG_SUFFIXES:
        if image.dtype == np.uint16:
            raise ImageError(f"cannot write {path}: JPEG holds 8 bits a channel, not 16; use .png or .tif")
        return _encoded_jpeg(path, image)
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise ImageError(f"cannot write {path}: the image of shape {image.shape} cannot be encoded; use .png")
    return bytes(data)


def _encoded_jpeg(path: Path, image: RgbImage) -> bytes:
    buffer = io.BytesIO()
    try:
        # Not 4:2:0: halving the color resolution would blur again what was just restored.
        Pillow.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write {path}: {_reason(error)}; use .png") from error
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    """What an error says, on one line and without the path that we print anyway."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
