"""What all stages share: the run's config and folder, its progress, and where its time went."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from netgraft.config import RunConfig
from netgraft.store import RunStore

CHECKPOINT_SECONDS = 20.0
"""Longest work that a kill in the middle of a training can cost."""


class Progress(Protocol):
    """Told how far a stage is; ``done`` of ``total`` units."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


class Folder:
    """The folder that artifacts are kept in, and who is told of progress."""

    def __init__(self, store: RunStore, progress: Progress = silent) -> None:
        self.store = store
        self.progress = progress

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by stage, over every session that worked on this folder."""
        path = self.store.root / "artifacts" / "seconds.json"
        try:
            spent: dict[str, float] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return spent

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        before = sum(self.seconds.values())
        try:
            yield
        finally:
            # A stage that pulled in an earlier one must not count its time twice.
            inner = sum(self.seconds.values()) - before
            spent = self.seconds
            spent[stage] = spent.get(stage, 0.0) + max(0.0, time.monotonic() - start - inner)
            self.store.write(self.store.root / "artifacts" / "seconds.json", json.dumps(spent).encode())

    def with_files(
        self,
        name: str,
        key: dict[str, Any],
        make: Callable[[], dict[str, Any]],
        files: Callable[[dict[str, Any]], Sequence[Path]],
    ) -> dict[str, Any]:
        """An artifact that describes files outside the store and holds their digest as ``content``."""
        stored: dict[str, Any] = self.store.json(name, key, make)
        if stored["content"] != digest_of_files(*files(stored)):
            # Gone, or of another config that used this folder in between: both export under the same name.
            self.store.path(name, key, ".json").unlink()
            stored = self.store.json(name, key, make)
        return stored


class RunFolder(Folder):
    """A run's config, its folder, and who is told of progress."""

    def __init__(self, config: RunConfig, store: RunStore, progress: Progress = silent) -> None:
        super().__init__(store, progress)
        self.config = config


def digest_of_files(*paths: Path) -> str | None:
    """Stands for what the files hold; None if one is missing."""
    content = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            return None
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()


class CheckpointTimer:
    """Says when a training should be saved: at most once in ``CHECKPOINT_SECONDS``."""

    def __init__(self) -> None:
        self.seconds = CHECKPOINT_SECONDS
        self.last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
