"""The far side of a remote device: opens ONNX files there, runs them, and times them in turns.

It runs with Python 3.10, NumPy and ONNX Runtime; :mod:`netgraft.devices.far.remote` brings it along, with the few
modules that it imports, so that sessions are opened and timed there by the same code as here. It reads requests from
its standard input and answers on its standard output (:mod:`netgraft.devices.far.frames`). Requests stand alone: who
lost the connection repeats the last one to a new worker. It ends when its input does, or has been silent for a minute.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from netgraft.devices.device import host_cores, host_hardware, host_system
from netgraft.devices.far.frames import Frame, FrameReader, FrameWriter
from netgraft.devices.far.thermal import Watch
from netgraft.devices.measure import MeasureProtocol, Meter, Samples, SystemClock, sample_in_turns
from netgraft.devices.onnx.session import OnnxRuntimeRunnable, import_runtime, lacking_provider, profile
from netgraft.errors import DeviceError

SILENCE_S = 60.0
"""The other side says something at least six times as often."""
ALIVE_S = 10.0
"""While it measures, it says something at least this often, as far as its networks let it."""
BUSY_S, BUSY_STEP_S = 900.0, 2.0
"""It waits so long for another one that measures on this machine, and looks so often."""
KEPT_BYTES = 1 << 30
"""Files beyond this go, those that were not used for longest first."""

Request = dict[str, Any]


class _MissingFile(Exception):
    """A file that has to be sent first."""


class Worker:
    """Answers requests.

    folder: of netgraft on this machine, for the files of networks and inputs by their hash.
    """

    def __init__(self, folder: Path, answer: Callable[..., None]) -> None:
        self._folder = folder
        self._files = folder / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self._journal = os.open(folder / "running", os.O_RDWR | os.O_CREAT, 0o600)
        self._answer = answer
        self._networks: dict[tuple[str, str, int], OnnxRuntimeRunnable] = {}
        self._heard = 0.0
        _prune(self._files)

    def handle(self, request: Request, content: bytes) -> None:
        """Answer one request."""
        tasks = {
            name: getattr(self, f"_{name}") for name in ("hello", "put", "open", "run", "profile", "time", "close")
        }
        try:
            tasks[request["do"]](request, content)
        except _MissingFile as missing:
            self._answer({"missing": str(missing)})
        except (DeviceError, OSError, MemoryError) as error:
            self._answer({"refused": str(error) or type(error).__name__})

    def _hello(self, request: Request, content: bytes) -> None:
        lack = lacking_provider(request["provider"])
        if lack:
            raise DeviceError(lack)
        self._answer(
            {
                "version": import_runtime().__version__,
                "hardware": f"{host_hardware()} ({platform.node()})",
                "cores": host_cores(),
                "system": host_system(),
                "running": os.pread(self._journal, 200, 0).decode(errors="replace").strip(),
            }
        )

    def _put(self, request: Request, content: bytes) -> None:
        part = self._files / f"{request['file']}.{os.getpid()}"
        part.write_bytes(content)
        part.replace(self._files / request["file"])
        self._answer({})

    def _open(self, request: Request, content: bytes) -> None:
        self._answer({"ends": self._network(request).ends})

    def _run(self, request: Request, content: bytes) -> None:
        network, x = self._network(request), np.frombuffer(content, np.float32).reshape(request["shape"])
        clock = SystemClock()
        wall, cpu = clock.wall(), clock.cpu()
        y = network.run(x)
        cpu_s, wall_s = clock.cpu() - cpu, clock.wall() - wall
        self._answer(
            {"shape": y.shape, "wall_s": wall_s, "cpu_s": cpu_s}, np.ascontiguousarray(y, np.float32).tobytes()
        )

    def _profile(self, request: Request, content: bytes) -> None:
        x = np.frombuffer(content, np.float32).reshape(request["shape"])
        file = self._file(request["network"]).read_bytes()
        self._answer({"ms": profile(file, x, request["provider"], request["threads"])})

    def _close(self, request: Request, content: bytes) -> None:
        self._networks.pop(_key(request), None)
        self._answer({})

    def _time(self, request: Request, content: bytes) -> None:
        """Samples arrive as they are taken: the other side keeps them, and brings them along if this one dies."""
        with self._alone():
            self._session(request)

    def _session(self, request: Request) -> None:
        protocol, watch = (
            MeasureProtocol(**request["protocol"]),
            Watch(on_rest=lambda c: self._answer({"resting_c": c})),
        )
        meters = [self._meter(request["session"], one) for one in request["networks"]]

        def tell(_round: int) -> None:
            for meter in meters:
                meter.tell(self._answer)
            self._heard = time.monotonic()
            watch.look()

        try:
            watch.look()
            for meter in meters:
                meter.warm_up(protocol)
                self._answer({"warm": meter.number})
            sample_in_turns(meters, protocol, tell)
        except DeviceError as error:
            last = self._noted()
            self._answer({"failed": int(last[-1]) if last else -1, "reason": str(error.__cause__ or error)})
        else:
            self._answer({"done": watch.summary()})
        finally:
            self._note("")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While open, no other worker measures on this machine."""
        until = time.monotonic() + BUSY_S
        while True:
            try:
                fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DeviceError(f"somebody else has been measuring there for {BUSY_S / 60:.0f} minutes") from None
                self._answer({"waiting": True})
                time.sleep(BUSY_STEP_S)
        try:
            yield
        finally:
            fcntl.flock(self._journal, fcntl.LOCK_UN)

    def _meter(self, session: str, one: Request) -> _NotedMeter:
        x = np.frombuffer(self._file(one["input"]).read_bytes(), np.float32).reshape(one["shape"])
        return _NotedMeter(
            name=one["number"],
            number=one["number"],
            note=lambda: self._begin(f"{session} {one['number']}"),
            runnable=self._network(one),
            x=x,
            clock=SystemClock(),
            samples=Samples(repeats=one["repeats"], wall_ms=one["wall_ms"], cpu_ms=one["cpu_ms"]),
            told=len(one["wall_ms"]),
        )

    def _begin(self, what: str) -> None:
        """Note what runs next where the worker after this one finds it; outside of what is timed."""
        self._note(what)
        if time.monotonic() - self._heard > ALIVE_S:
            self._heard = time.monotonic()
            self._answer({"alive": True})

    def _note(self, what: str) -> None:
        os.pwrite(self._journal, what.ljust(200).encode(), 0)

    def _noted(self) -> list[str]:
        return os.pread(self._journal, 200, 0).decode().split()

    def _network(self, request: Request) -> OnnxRuntimeRunnable:
        key = _key(request)
        if key not in self._networks:
            content = self._file(request["network"]).read_bytes()
            self._networks[key] = OnnxRuntimeRunnable(content, request["provider"], request["threads"])
        return self._networks[key]

    def _file(self, name: str) -> Path:
        file = self._files / name
        if not file.is_file():
            raise _MissingFile(name)
        os.utime(file)
        return file


@dataclass(slots=True, kw_only=True)
class _NotedMeter(Meter):
    """A meter that notes what it is about to run, and tells what it saw."""

    number: int
    note: Callable[[], None]
    told: int

    def run(self, repeats: int) -> tuple[float, float]:
        self.note()
        return Meter.run(self, repeats)

    def tell(self, answer: Callable[..., None]) -> None:
        """Pass on the samples that are new."""
        wall_ms, cpu_ms = self.samples.wall_ms[self.told :], self.samples.cpu_ms[self.told :]
        if wall_ms:
            fresh = Samples(repeats=self.samples.repeats, wall_ms=wall_ms, cpu_ms=cpu_ms)
            answer({"number": self.number, **fresh.as_dict()})
        self.told = len(self.samples.wall_ms)


def _key(request: Request) -> tuple[str, str, int]:
    return request["network"], request["provider"], request["threads"]


def _prune(files: Path) -> None:
    """Remove the files that were not used for longest, as far as all are too many."""
    total = 0
    with contextlib.suppress(OSError):
        for file in sorted(files.iterdir(), key=lambda file: -file.stat().st_mtime):
            total += file.stat().st_size
            if total > KEPT_BYTES:
                file.unlink()


def _listen(requests: queue.Queue[Frame]) -> NoReturn:
    """Pass requests on; end the process when no more can come, whatever a network is doing then."""
    reader = FrameReader(0)
    with contextlib.suppress(EOFError, TimeoutError, OSError):
        while True:
            header, content = reader.next(SILENCE_S)
            if header["do"] != "ping":
                requests.put((header, content))
    os._exit(0)


def main() -> None:
    """Serve whoever started this process, until they go."""
    import_runtime()
    # What libraries print must not get between the answers.
    writer = FrameWriter(os.dup(1), SILENCE_S)
    os.dup2(2, 1)

    def answer(header: Request, content: bytes = b"") -> None:
        try:
            writer.write(header, content)
        except OSError:
            os._exit(1)

    requests: queue.Queue[Frame] = queue.Queue()
    worker = Worker(Path.home() / ".netgraft", answer)
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        worker.handle(*requests.get())


if __name__ == "__main__":
    try:
        main()
    except DeviceError as error:
        sys.exit(str(error))
