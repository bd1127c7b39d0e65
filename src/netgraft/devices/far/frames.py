"""What netgraft and its worker on another machine say to each other: lines of JSON, some with bytes after them.

A frame is ``netgraft {...}`` and a line feed; its header's ``bytes`` tells how many bytes follow. Lines that do not
start so are noise, as a login may greet its user.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Mapping
from typing import Any

MARK = b"netgraft "
CHUNK = 1 << 16

Frame = tuple[dict[str, Any], bytes]


class FrameReader:
    """Frames that come from a file descriptor."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._buffer = bytearray()

    def next(self, timeout_s: float) -> Frame:
        """The next frame.

        Raises:
            TimeoutError: nothing came for this long.
            EOFError: nothing comes any more.
        """
        while True:
            line = self._line(timeout_s)
            if line.startswith(MARK):
                header: dict[str, Any] = json.loads(line[len(MARK) :])
                return header, self._exactly(int(header.pop("bytes", 0)), timeout_s)

    def _line(self, timeout_s: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._more(timeout_s)
        return self._take(end + 1)

    def _exactly(self, count: int, timeout_s: float) -> bytes:
        while len(self._buffer) < count:
            self._more(timeout_s)
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _more(self, timeout_s: float) -> None:
        if not select.select([self._source], [], [], timeout_s)[0]:
            raise TimeoutError
        chunk = os.read(self._source, CHUNK)
        if not chunk:
            raise EOFError
        self._buffer += chunk


class FrameWriter:
    """Frames that go to a file descriptor, from any thread.

    timeout_s: the other side must take something within this.
    """

    def __init__(self, target: int, timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._open = True

    def write(self, header: Mapping[str, Any], content: bytes = b"") -> None:
        """Write a frame.

        Raises:
            OSError: the other side is gone, or this is closed.
            TimeoutError: the other side takes nothing, so that the frame is broken off.
        """
        sized = {**header, "bytes": len(content)} if content else header
        self.write_raw(MARK + json.dumps(sized).encode() + b"\n" + content)

    def write_raw(self, content: bytes) -> None:
        """Write what is no frame; raises as :meth:`write`."""
        rest = memoryview(content)
        with self._lock:
            while rest:
                # The number of a closed file may be another's by now.
                if not self._open:
                    raise BrokenPipeError
                if not select.select([], [self._target], [], self._timeout_s)[1]:
                    raise TimeoutError
                # As much as a pipe that can be written to takes without blocking.
                rest = rest[os.write(self._target, rest[: select.PIPE_BUF]) :]

    def close(self) -> None:
        """Write nothing any more; the descriptor is its owner's to close."""
        self._open = False
        with self._lock:
            pass
