"""The run folder: artifacts keyed by what they were made from, written whole or not at all.

A stage asks for an artifact by name and by everything that it depends on. If the folder holds it, it is read;
otherwise it is made and stored. So the same command continues after a kill at any moment, and a changed setting
redoes what depends on it and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from netgraft.errors import StoreError
from netgraft.files import replacing, write_atomically

Json = Any


ADAPTATION = "adaptation.json"
"""What the folder of an adaptation notes of itself."""


def digest(value: Json) -> str:
    """16 hexadecimal digits that stand for any JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunStore:
    """The artifacts of one run, under ``root``. Only one process at a time holds a run folder.

    Raises:
        StoreError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{root}: cannot be made a run folder: {error.strerror}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder; it is given back when the process ends, however it ends."""
        try:
            file = (self.root / ".lock").open("w")
        except OSError as error:
            raise StoreError(f"{self.root}: cannot be written to: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"{self.root}: another netgraft is working in this folder; wait for it or use another --out"
                ) from None
            except OSError as error:
                raise StoreError(f"{self.root}: cannot be locked: {error.strerror}; use a local folder") from error
            yield

    def path(self, name: str, key: Json, suffix: str) -> Path:
        """Where the artifact ``name`` made from ``key`` is kept."""
        return self.root / "artifacts" / f"{name}.{digest(key)}{suffix}"

    def json(self, name: str, key: Json, make: Callable[[], Json]) -> Json:
        """The JSON artifact of this name and key, made now if need be."""
        path = self.path(name, key, ".json")
        if path.exists():
            return self._read_json(path)
        value = make()
        self.write(path, json.dumps(value, indent=1).encode())
        # What comes back is what a later run would read: tuples are lists on both occasions.
        return self._read_json(path)

    def save_tensors(self, path: Path, value: Any) -> None:
        """Write plain containers of tensors, whole or not at all."""
        with replacing(path) as part:
            torch.save(value, part)

    def load_tensors(self, path: Path) -> Any:
        """Read what :meth:`save_tensors` wrote."""
        try:
            return torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            # A damaged archive makes the reader raise nearly anything; the answer is the same.
            raise StoreError(f"{path}: damaged; delete it and run the same command again") from error

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the run, whole or not at all."""
        write_atomically(path, content)

    def _read_json(self, path: Path) -> Json:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: damaged; delete it and run the same command again") from error
