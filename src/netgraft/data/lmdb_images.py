"""Images in an LMDB, as BasicSR and NAFNet store data sets: encoded files by key, listed in ``meta_info.txt``.

A line of that list is ``KEY.png (HEIGHT,WIDTH,CHANNELS) COMPRESSION``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from netgraft.errors import DatasetError
from netgraft.imaging.io import RgbImage, decode_image

LIST = "meta_info.txt"
DATA = "data.mdb"
_LINE = re.compile(r"(?P<key>\S+?)(\.\w+)? \((?P<height>\d+),(?P<width>\d+),\d+\) \d+")


@dataclass(frozen=True, slots=True)
class LmdbImage:
    """One image of an LMDB."""

    folder: Path
    """The folder that holds ``data.mdb`` and ``meta_info.txt``."""
    key: str
    size: tuple[int, int]
    """(h, w) in pixels, as the list says."""

    def __str__(self) -> str:
        return f"{self.folder}/{self.key}"

    def read(self) -> RgbImage:
        """(h, w, 3) RGB.

        Raises:
            DatasetError: the LMDB lacks the image, or was cut short.
            ImageError: what it holds is no image.
        """
        with _database(self.folder, os.getpid()).begin(buffers=False) as transaction:
            data = transaction.get(self.key.encode())
        if data is None:
            raise DatasetError(f"{self.folder}: lacks {self.key}, which {LIST} names; make the LMDB again")
        return decode_image(str(self), bytes(data))


def lmdb_images(folder: Path) -> dict[str, LmdbImage]:
    """The images that an LMDB lists, by key.

    Raises:
        DatasetError: the list or the data are missing, damaged or cut short, or do not have as many images.
    """
    path = folder / LIST
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: it comes with the LMDB and names its images") from error
    images = {}
    for line in lines:
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise DatasetError(f"{path}: {line[:60]!r} is no 'KEY.png (HEIGHT,WIDTH,CHANNELS) COMPRESSION'")
        images[found["key"]] = LmdbImage(folder, found["key"], (int(found["height"]), int(found["width"])))
    held = _database(folder, os.getpid()).stat()["entries"]
    if held != len(images):
        raise DatasetError(f"{folder}: holds {held} images, but {LIST} names {len(images)}; make the LMDB again")
    return images


@lru_cache(maxsize=16)
def _database(folder: Path, process: int) -> Any:
    """The LMDB, open for reading; one for each process, since none may be used beyond a fork."""
    try:
        import lmdb
    except ImportError as error:
        raise DatasetError(f"{folder}: reading an LMDB needs the extra: pip install 'netgraft[lmdb]'") from error
    path = folder / DATA
    try:
        size = path.stat().st_size
        # Its two header pages: less is mapped into memory without complaint, and kills the process when it is read.
        if size < 2 * os.sysconf("SC_PAGE_SIZE"):
            raise DatasetError(f"{path}: has {size} bytes and was cut short; copy it again")
        database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}; name the folder of an LMDB") from error
    except lmdb.Error as error:
        raise DatasetError(f"{path}: is no LMDB, or damaged ({error}); copy it again") from error
    needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if size < needed:
        database.close()
        raise DatasetError(f"{path}: has {size} of {needed} bytes and was cut short; copy it again")
    return database
