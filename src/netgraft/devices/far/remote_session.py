"""One session on another machine: all networks in turns there, their samples kept here."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from netgraft.devices.device import Array, Unsupported
from netgraft.devices.far.frames import Frame
from netgraft.devices.far.ssh import Lost
from netgraft.devices.measure import DRIFT_PERCENT, Latency, MeasureProtocol, Samples
from netgraft.errors import DeviceError, DeviceLost

TRIES = 2
"""What took the worker down so often is not tried again."""
MOST_LOSSES = 5
"""What lost its worker more often than this, for no network's fault, is given up."""
DRIFT_SAMPLES = 8
"""Of fewer samples before and after nothing is said about drift."""

Request = dict[str, Any]

log = logging.getLogger(__name__)


class Link(Protocol):
    """What a session needs of a remote device."""

    host: str

    def network(self, content: bytes) -> Request: ...
    def send(self, request: Mapping[str, Any], content: bytes = b"") -> None: ...
    def receive(self) -> Frame: ...
    def put(self, name: str, files: Mapping[str, bytes]) -> None: ...
    def reconnect(self) -> str: ...


class Session:
    """Times networks on the other machine, through as many workers as that takes.

    contents: of the ONNX files; inputs: for each (1, c, h, w).
    """

    def __init__(
        self, device: Link, contents: Sequence[bytes], inputs: Sequence[Array], protocol: MeasureProtocol
    ) -> None:
        self._device = device
        self._protocol = protocol
        self._name = secrets.token_hex(8)
        self._samples = [Samples() for _ in contents]
        self._refused: dict[int, Unsupported] = {}
        raw = [np.ascontiguousarray(x, np.float32).tobytes() for x in inputs]
        self._files = {digest(file): file for file in (*contents, *raw)}
        self._networks: list[Request] = [
            {"number": i, **device.network(content), "input": digest(x), "shape": list(inputs[i].shape)}
            for i, (content, x) in enumerate(zip(contents, raw, strict=True))
        ]
        self._told: set[str] = set()

    def latencies(self) -> list[Latency | Unsupported]:
        """What was measured, in the networks' order.

        Raises:
            DeviceLost: the device does not come back, or is lost again and again for no network's fault.
            DeviceError: it refuses the session.
        """
        blamed, losses = Counter[int](), 0
        while left := [i for i, one in enumerate(self._samples) if not self._finished(i, one)]:
            try:
                self._attempt(left)
            except Lost as lost:
                log.warning("%s: going on with the samples that there are", lost)
                running = self._running(self._device.reconnect())
                guilty = running if lost.blames else None
                if guilty is None:
                    losses += 1
                else:
                    blamed[guilty] += 1
                    if blamed[guilty] >= TRIES:
                        self._refused[guilty] = Unsupported(f"{lost}, {TRIES} times while this network ran")
                if losses > MOST_LOSSES:
                    raise DeviceLost(f"{lost}, again and again") from None
        self._warn_of_drift()
        return [self._refused.get(i) or one.latency(self._protocol) for i, one in enumerate(self._samples)]

    def _finished(self, number: int, samples: Samples) -> bool:
        return number in self._refused or samples.done(self._protocol)

    def _running(self, noted: str) -> int | None:
        """The network of this session that the lost worker noted last."""
        name, _, number = noted.partition(" ")
        return int(number) if name == self._name and number else None

    def _attempt(self, left: Sequence[int]) -> None:
        """Let one worker measure what is left; its samples are kept as they come."""
        request = {
            "do": "time",
            "session": self._name,
            "protocol": self._protocol.as_dict(),
            "networks": [{**self._networks[i], **self._samples[i].as_dict()} for i in left],
        }
        self._device.send(request)
        while True:
            reply, _ = self._device.receive()
            if "missing" in reply:
                self._device.put(reply["missing"], self._files)
                self._device.send(request)
            elif "number" in reply:
                kept = self._samples[reply["number"]]
                kept.repeats = reply["repeats"]
                kept.wall_ms += reply["wall_ms"]
                kept.cpu_ms += reply["cpu_ms"]
            elif "failed" in reply:
                self._fail(reply["failed"], reply["reason"])
                return
            elif "done" in reply:
                self._warn(reply["done"])
                return
            elif "resting_c" in reply:
                self._tell("heat", f"it is {reply['resting_c']:.0f} degrees hot, and rests")
            elif "waiting" in reply:
                self._tell("busy", "somebody else measures there: waiting")

    def _fail(self, number: int, reason: str) -> None:
        if number not in range(len(self._samples)):
            raise DeviceError(f"{self._device.host}: {reason}")
        self._refused[number] = Unsupported(f"{self._device.host}: {reason}")

    def _tell(self, kind: str, news: str) -> None:
        """Once a session for each kind of news."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s: %s", self._device.host, news)

    def _warn(self, seen: Mapping[str, float]) -> None:
        """Of what was seen of the machine and speaks against the figures."""
        if seen["throttled"]:
            self._tell(
                "throttling", f"the machine slowed itself down at up to {seen['hottest_c']:.0f} degrees: cool it better"
            )
        slow, fast = seen["slowest_mhz"], seen["fastest_mhz"]
        if slow < (1 - DRIFT_PERCENT / 100) * fast:
            self._tell("clock", f"its clock went from {fast:.0f} down to {slow:.0f} MHz: pin its frequency")

    def _warn_of_drift(self) -> None:
        """Of a machine that was slower, or faster, in the second half of the samples."""
        changes = []
        for one in self._samples:
            ms = np.asarray(one.wall_ms)[~one.waited()]
            half = len(ms) // 2
            if half >= DRIFT_SAMPLES:
                changes.append(float(np.median(ms[half:]) / np.median(ms[:half])))
        drift = 100 * (float(np.median(changes)) - 1) if changes else 0.0
        if abs(drift) > DRIFT_PERCENT:
            self._tell("drift", f"the machine's speed changed by {drift:+.0f} %: the figures are not of one state")


def digest(content: bytes) -> str:
    """The name of a file on the other machine."""
    return hashlib.sha256(content).hexdigest()
