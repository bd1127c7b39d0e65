"""The photographs that come along: a demonstration, the tests and the model card need no download.

Sixteen freely licensed photographs in three splits that never mix; credits and licenses stand beside them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import as_file, files

from netgraft.data.degrade import Image
from netgraft.errors import ConfigError
from netgraft.imaging.io import read_image
from netgraft.names import unknown

SPLITS = ("train", "validation", "test")
"""train fits weights, validation chooses, test is reported once."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A sharp photograph."""

    name: str
    """File name without the suffix."""
    image: Image
    """(h, w, 3) uint8 RGB."""


def photos(split: str) -> tuple[Photo, ...]:
    """The photographs of a split, by name.

    split: ``train`` (6), ``validation`` (4, kept out of the embedded network's training) or ``test`` (5).

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(unknown("photo split", split, SPLITS))
    folder = files("netgraft.data") / "photographs"
    with (folder / "SOURCES.tsv").open(encoding="utf-8") as table:
        names = sorted(row["file"] for row in csv.DictReader(table, delimiter="\t") if row["split"] == split)
    loaded = []
    for name in names:
        with as_file(folder / split / name) as path:
            loaded.append(Photo(path.stem, read_image(path)))  # type: ignore[arg-type]
    return tuple(loaded)
