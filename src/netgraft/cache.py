"""What was computed before, within a bound of bytes."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(slots=True)
class _Entry:
    value: Any
    nbytes: int
    rate: float
    """Seconds to compute it anew, a byte."""
    uses: int
    ticket: int
    """The one of its tickets on the heap that counts."""


class GreedyDualCache:
    """Values by key, of at most ``max_bytes`` together.

    Greedy-dual size frequency (Cherkasova, HP Laboratories report HPL-98-69, 1998): a value's priority is its
    number of uses times the seconds that computing it took, a byte, counted from the priority of what was evicted
    last before it was used. The lowest goes first, so that whatever is not asked for any more goes in the end.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        """Of all values that are held."""
        self.peak_bytes = 0
        """The most that ``nbytes`` has been."""
        self._entries: dict[Hashable, _Entry] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._tickets = count()
        self._floor = 0.0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """The value, which counts as a use; None if it is not held."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.uses += 1
        self._rank(key, entry)
        return entry.value

    def put(self, key: Hashable, value: Any, *, nbytes: int, seconds: float) -> None:
        """Hold a value that took ``seconds`` to compute, unless it is larger than the whole cache."""
        if key in self._entries:
            self.nbytes -= self._entries.pop(key).nbytes
        if nbytes > self.max_bytes:
            return
        while self.nbytes + nbytes > self.max_bytes:
            self._evict()
        self._entries[key] = _Entry(value, nbytes, seconds / max(nbytes, 1), uses=1, ticket=0)
        self._rank(key, self._entries[key])
        self.nbytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def _rank(self, key: Hashable, entry: _Entry) -> None:
        entry.ticket = next(self._tickets)
        heapq.heappush(self._heap, (self._floor + entry.uses * entry.rate, entry.ticket, key))

    def _evict(self) -> None:
        """Let the lowest priority go."""
        while True:
            priority, ticket, key = heapq.heappop(self._heap)
            entry = self._entries.get(key)
            if entry is not None and entry.ticket == ticket:
                self._floor = priority
                self.nbytes -= self._entries.pop(key).nbytes
                return
