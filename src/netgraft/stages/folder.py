"""What all stages share: the run's config and folder, its progress, and where its time went."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from netgraft.config import RunConfig
from netgraft.store import RunStore

CHECKPOINT_SECONDS = 20.0
"""Longest work that a kill in the middle of a training can cost."""


class Progress(Protocol):
    """Told how far a stage is; ``done`` of ``total`` units."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


class RunFolder:
    """A config, the folder that its artifacts are kept in, and who is told of progress."""

    def __init__(self, config: RunConfig, store: RunStore, progress: Progress = silent) -> None:
        self.config = config
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
