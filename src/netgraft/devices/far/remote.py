"""Another machine that runs ONNX Runtime, reached over SSH: a Raspberry Pi, a Jetson, a PC in the laboratory.

Networks are exported and checked here, and sent there once; there a worker opens them and runs the same timing loop
as here (:mod:`netgraft.devices.far.worker`). A worker that hangs, dies or is cut off is started anew and goes on with
the samples that there are. What takes it down twice is a network that the device does not run; a machine that does not
come back is no network's fault, and ends the session with :class:`~netgraft.errors.DeviceLost`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from netgraft.devices.device import Array, Clock, DeviceDescription, Runnable, Unsupported
from netgraft.devices.fake import FakeClock
from netgraft.devices.far.frames import Frame
from netgraft.devices.far.remote_session import MOST_LOSSES, TRIES, Session, digest
from netgraft.devices.far.ssh import Connection, Lost
from netgraft.devices.int8_device import Int8Device, Quantize
from netgraft.devices.measure import Latency, MeasureProtocol
from netgraft.devices.onnx.device import OnnxDevice, check_ends
from netgraft.devices.onnx.session import CPU
from netgraft.errors import DeviceError, DeviceLost

K = TypeVar("K", bound=Hashable)
Request = dict[str, Any]

INSTALL = "python3 -m venv ~/.netgraft && ~/.netgraft/bin/pip install numpy onnxruntime"
"""What to do on the other machine."""

START_S = 60.0
"""A small machine takes a while to start Python and ONNX Runtime."""

log = logging.getLogger(__name__)


class RemoteRunnable:
    """A network that is open on the other machine."""

    def __init__(self, device: RemoteDevice, content: bytes) -> None:
        self.content: bytes | None = content
        """Of its file; None once it is closed."""
        self._device = device

    def run(self, x: Array) -> Array:
        return self._device.run(self, x)

    def close(self) -> None:
        if self.content is not None:
            self._device.forget(self)
        self.content = None


class RemoteDevice(OnnxDevice):
    """ONNX Runtime on ``host``, an address or alias that ``ssh`` knows.

    threads: threads that one operator may use there. provider: who runs the network there, by ONNX Runtime's name.
    timeout_s: a worker that is silent for this long counts as hung, so that one run must not take longer.
    connect_s: for one try to connect. waits_s: before each further try, until the host counts as gone.

    Raises:
        DeviceLost: the host cannot be reached, or does not let us in.
        DeviceError: it lacks what is needed, or ``threads`` is not positive.
    """

    def __init__(
        self,
        host: str,
        threads: int = 1,
        provider: str = CPU,
        *,
        fast_forms: bool = True,
        timeout_s: float = 300.0,
        connect_s: float = 10.0,
        waits_s: Sequence[float] = (2.0, 10.0, 30.0),
    ) -> None:
        super().__init__(threads, fast_forms=fast_forms)
        self.host = host
        self.provider = provider
        self.timeout_s = timeout_s
        self.connect_s = connect_s
        self.waits_s = tuple(waits_s)
        # Moves by what the other side says that a run took.
        self._clock = FakeClock()
        # What is wrong now will not mend itself in a minute.
        self._connection, self._about = self._connect()

    @property
    def description(self) -> DeviceDescription:
        short = self.provider.removesuffix("ExecutionProvider")
        hardware = str(self._about["hardware"])
        return DeviceDescription(
            backend=f"onnxruntime {short}",
            backend_version=str(self._about["version"]),
            hardware=hardware if self.provider == CPU else f"{short} on {hardware}",
            cores=int(self._about["cores"]),
            precision=self.precision,
            threads=self.threads,
            system=str(self._about["system"]),
        )

    @property
    def place(self) -> str:
        """See :class:`PlacedDevice`."""
        return f"ssh {self.host}"

    @property
    def clock(self) -> Clock:
        return self._clock

    def open(self, content: bytes) -> Runnable:
        reply, _ = self._ask({"do": "open", **self.network(content)}, files=(content,))
        check_ends(reply["ends"])
        return RemoteRunnable(self, content)

    def profile(self, content: bytes, x: Array) -> dict[str, float]:
        request = {"do": "profile", **self.network(content), "shape": x.shape}
        reply, _ = self._ask(request, np.ascontiguousarray(x).tobytes(), files=(content,))
        ms: dict[str, float] = reply["ms"]
        return ms

    def run(self, runnable: RemoteRunnable, x: Array) -> Array:
        """Run a network of this device once; the clock moves by what that took there."""
        content = _content(runnable)
        request = {"do": "run", **self.network(content), "shape": x.shape}
        reply, y = self._ask(request, np.ascontiguousarray(x, np.float32).tobytes(), files=(content,))
        self._clock.advance(1e3 * reply["wall_s"], 1e3 * reply["cpu_s"])
        return np.frombuffer(y, np.float32).reshape(reply["shape"])

    def forget(self, runnable: RemoteRunnable) -> None:
        """Give the memory of a network there back."""
        # A worker that is gone has given it back.
        with contextlib.suppress(DeviceError):
            self._exchange({"do": "close", **self.network(_content(runnable))}, b"", {})

    def time(
        self, runnables: Mapping[K, Runnable], inputs: Mapping[K, Array], protocol: MeasureProtocol
    ) -> dict[K, Latency | Unsupported]:
        """See :class:`~netgraft.devices.measure.TimingDevice`."""
        contents = [_content(runnable) for runnable in runnables.values()]
        session = Session(self, contents, [inputs[key] for key in runnables], protocol)
        return dict(zip(runnables, session.latencies(), strict=True))

    def close(self) -> None:
        """End the worker there; the next network starts one anew."""
        self._connection.close()

    def reconnect(self) -> str:
        """Start a worker anew, and give what the one before it was running.

        Raises:
            DeviceLost: the host does not come back.
        """
        self._connection.close()
        for wait_s in (0.0, *self.waits_s):
            time.sleep(wait_s)
            try:
                self._connection, self._about = self._connect()
            except DeviceLost as lost:
                reason = str(lost)
                log.warning("%s", reason)
            else:
                return str(self._about["running"])
        raise DeviceLost(
            f"{reason}; it did not come back: what was measured before is kept, run the same command again"
        )

    def _connect(self) -> tuple[Connection, Request]:
        connection = Connection(self.host, self.connect_s, self.timeout_s)
        try:
            connection.send({"do": "hello", "provider": self.provider})
            about, _ = connection.receive(START_S)
        except Lost as lost:
            # Logged in, but the worker did not start.
            raise Lost(f"{lost}; on {self.host}: {INSTALL}", blames=True) if lost.blames else lost from None
        if "refused" in about:
            connection.close()
            raise DeviceLost(f"{self.host}: {about['refused']}")
        return connection, about

    def network(self, content: bytes) -> Request:
        """What a request says of a network."""
        return {"network": digest(content), "provider": self.provider, "threads": self.threads}

    def _ask(self, request: Request, content: bytes = b"", files: Sequence[bytes] = ()) -> Frame:
        """An answer, from a new worker where the first goes down over it.

        Raises:
            DeviceError: it is refused, or takes every worker down.
        """
        by_name = {digest(file): file for file in files}
        blamed = Counter[bool]()
        while True:
            try:
                return self._exchange(request, content, by_name)
            except Lost as lost:
                log.warning("%s", lost)
                self.reconnect()
                blamed[lost.blames] += 1
                if blamed[True] >= TRIES:
                    raise DeviceError(f"{lost}, {TRIES} times over the same network") from None
                if blamed[False] > MOST_LOSSES:
                    raise DeviceLost(f"{lost}, again and again") from None

    def _exchange(self, request: Request, content: bytes, files: Mapping[str, bytes]) -> Frame:
        self.send(request, content)
        reply, payload = self.receive()
        while "missing" in reply:
            self.put(reply["missing"], files)
            self.send(request, content)
            reply, payload = self.receive()
        return reply, payload

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """Send a file, one of these by their names.

        Raises:
            Lost: the worker is gone.
            DeviceLost: the machine takes no files, for want of room maybe.
        """
        self.send({"do": "put", "file": name}, files[name])
        try:
            self.receive()
        except DeviceLost:
            raise
        except DeviceError as error:
            raise DeviceLost(f"a file cannot be sent: {error}") from error

    def send(self, request: Mapping[str, Any], content: bytes = b"") -> None:
        """Send a request to the worker.

        Raises:
            Lost: the worker is gone.
        """
        self._connection.send(request, content)

    def receive(self) -> Frame:
        """The worker's next answer.

        Raises:
            Lost: the worker is gone, or hangs.
            DeviceError: it refuses.
        """
        reply, payload = self._connection.receive()
        if "refused" in reply:
            raise DeviceError(f"{self.host}: {reply['refused']}")
        return reply, payload


class RemoteInt8Device(Int8Device):
    """ONNX Runtime on another machine in 8 bits; networks are quantized here."""

    def __init__(self, device: RemoteDevice, quantize: Quantize) -> None:
        super().__init__(device, quantize)
        self.remote = device

    @property
    def place(self) -> str:
        """See :class:`PlacedDevice`."""
        return self.remote.place

    def time(
        self, runnables: Mapping[K, Runnable], inputs: Mapping[K, Array], protocol: MeasureProtocol
    ) -> dict[K, Latency | Unsupported]:
        """See :class:`~netgraft.devices.measure.TimingDevice`."""
        return self.remote.time(runnables, inputs, protocol)


def _content(runnable: Runnable) -> bytes:
    if not isinstance(runnable, RemoteRunnable) or runnable.content is None:
        raise DeviceError("this network was closed, or is another device's: load or compile it again")
    return runnable.content
