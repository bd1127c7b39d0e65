"""The photographs that come along: readable, credited, freely licensed, and in splits that do not mix."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
import pytest

from netgraft.data import photos
from netgraft.data.photos import SPLITS
from netgraft.errors import ConfigError

FOLDER = files("netgraft.data") / "photographs"


def table() -> list[dict[str, str]]:
    with (FOLDER / "SOURCES.tsv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("validation", 4), ("test", 5)])
def test_splits_hold_photographs_as_listed(split: str, count: int) -> None:
    sizes = {row["file"]: (int(row["height"]), int(row["width"]), 3) for row in table() if row["split"] == split}
    found = photos(split)
    assert {f"{photo.name}.jpg": photo.image.shape for photo in found} == sizes
    assert len(found) == count
    assert [photo.name for photo in found] == sorted(photo.name for photo in found)
    for photo in found:
        assert photo.image.dtype == np.uint8
        assert min(photo.image.shape[:2]) >= 512
        assert photo.image.std() > 20, "a photograph, not a flat color"


def test_every_file_is_listed_and_credited() -> None:
    files_on_disk = {(split, entry.name) for split in SPLITS for entry in (FOLDER / split).iterdir()}
    rows = table()
    assert {(row["split"], row["file"]) for row in rows} == files_on_disk
    credits_text = (FOLDER / "LICENSES.txt").read_text(encoding="utf-8")
    for row in rows:
        assert row["license"] in ("MIT", "BSD-3-Clause")
        for credit in (row["package"], f"Copyright (c) {row['copyright']}", f"{row['license']} license"):
            assert credit in credits_text
        assert f"{row['split']}/{row['file']}  (original: {row['original']})" in credits_text


def test_splits_do_not_share_photographs() -> None:
    seen = [photo.image.tobytes() for split in SPLITS for photo in photos(split)]
    assert len(set(seen)) == 15


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'validation'"):
        photos("validate")
