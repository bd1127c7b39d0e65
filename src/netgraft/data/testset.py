"""The images that a network is judged on: complete, checked, and with what must be said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netgraft.data.check import check_pairs
from netgraft.data.images import SHARP_SOURCES, DataConfig, LazyImages, images_of, open_images
from netgraft.data.layouts import LAYOUTS, Layout, Pair
from netgraft.data.lmdb_images import LmdbImage
from netgraft.data.pairs import list_pairs
from netgraft.errors import ConfigError, DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSet:
    """Images with their clean versions, to be reported on."""

    __test__ = False  # pytest takes its name for a test's.

    images: LazyImages
    dataset: str
    split: str
    degradation: str
    """How the degraded images came about."""
    published: int | None
    """How many the split has as published; None if nobody says."""
    dual: bool
    """Whether each degraded image is two views, (h, w, 6)."""
    bits: int
    """Bits a channel that figures are published for."""


def open_test_set(
    config: DataConfig,
    split: str = "",
    *,
    limit: int | None = None,
    partial: bool = False,
    check: bool = True,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TestSet:
    """The images of a split; by default the one that figures are published for.

    limit: only the first so many. partial: accept a split with more or fewer images than published.
    check: look at every pair before any is used, with so many threads.

    Raises:
        ConfigError: sharp photographs have no such split.
        DatasetError: the data set is incomplete, or pairs do not match.
    """
    if config.source in SHARP_SOURCES:
        if split not in ("", "test", "validation"):
            raise ConfigError(f"{config.source} photographs are judged on split test or validation, not {split!r}")
        images = open_images(config, "validation" if split == "validation" else "test")
        return TestSet(
            images=images[:limit],
            dataset=config.source,
            split=split or "test",
            degradation=config.degradation_in_words,
            published=None,
            dual=False,
            bits=8,
        )
    assert config.root is not None
    layout = LAYOUTS[config.source]
    split = split or (layout.test if layout.splits else "")
    pairs = list_pairs(config.source, config.root, split)
    published = _published(layout, split, pairs)
    if published not in (None, len(pairs)) and not partial:
        raise DatasetError(
            f"{config.root}: {config.source} {split} has {published} pairs as published, but here are {len(pairs)}: "
            "complete it, or accept that as part of the protocol with --partial"
        )
    pairs = pairs[:limit]
    if check:
        check_pairs(pairs, threads=threads, progress=progress)
    return TestSet(
        images=images_of(pairs),
        dataset=config.source,
        split=split,
        degradation=config.degradation_in_words,
        published=published,
        dual=pairs[0].right is not None,
        bits=layout.bits,
    )


def _published(layout: Layout, split: str, pairs: Sequence[Pair]) -> int | None:
    """How many pairs a split has as published; None if nobody says, or where it comes in pieces of its images."""
    in_pieces = split == "train" and isinstance(pairs[0].degraded, LmdbImage)
    return None if in_pieces else layout.counts.get(split)
