"""The command in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    returncode: int
    stdout: str
    stderr: str


Netgraft = Callable[..., Outcome]
