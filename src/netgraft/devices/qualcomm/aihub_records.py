"""What was asked of Qualcomm AI Hub and what it answered, kept on disk so that nothing is profiled twice.

A record is a JSON file named after everything that the answer depends on: the network's file, its input, the phone,
the options, and the version of the client. It is written when a job was accepted, with the job's number, and again
when the job is over: what was killed in between asks for the same job again. What the phone computed lies beside it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.devices.device import Array
from netgraft.files import write_atomically

SCHEMA = 1


def default_folder() -> Path:
    """Where records lie for all runs of a user: ``$XDG_CACHE_HOME/netgraft/aihub``, or below ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "netgraft" / "aihub"


def record_key(network: bytes, x: Array, **what: str) -> str:
    """The name of a record. x: the input; what: all else that the answer depends on."""
    parts = [network, repr(x.shape).encode(), np.ascontiguousarray(x).tobytes()]
    parts.append(json.dumps({"schema": SCHEMA, **what}, sort_keys=True).encode())
    return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()[:32]


@dataclass(slots=True)
class Record:
    """Jobs and their outcome; ``profile`` is the hub's answer as it came, ``unsupported`` a reason."""

    jobs: dict[str, str] = field(default_factory=dict)
    """Numbers of the jobs, by what they do."""
    profile: dict[str, Any] | None = None
    unsupported: str | None = None

    @property
    def over(self) -> bool:
        """Whether there is an outcome."""
        return self.profile is not None or self.unsupported is not None


class Records:
    """The records in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> Record:
        """The record of this name; an empty one if there is none, or what is there cannot be read."""
        try:
            found = json.loads(self._path(key).read_text())
            return Record(jobs=found["jobs"], profile=found["profile"], unsupported=found["unsupported"])
        except (OSError, ValueError, KeyError, TypeError):
            return Record()

    def write(self, key: str, record: Record) -> None:
        """Keep a record; whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        content = {"jobs": record.jobs, "profile": record.profile, "unsupported": record.unsupported}
        write_atomically(self._path(key), json.dumps(content).encode())

    def read_output(self, key: str) -> Array | None:
        """What the phone computed; None if that is not here."""
        try:
            y: Array = np.load(self._path(key, ".npy"))
        except (OSError, ValueError, EOFError):
            return None
        return y

    def write_output(self, key: str, y: Array) -> None:
        """Keep what the phone computed; before the record that says so.

        Raises:
            StoreError: it cannot be written.
        """
        content = BytesIO()
        np.save(content, y)
        write_atomically(self._path(key, ".npy"), content.getvalue())

    def _path(self, key: str, suffix: str = ".json") -> Path:
        return self.folder / f"{key}{suffix}"
