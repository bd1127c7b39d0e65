"""A worker of netgraft on another machine, at the other end of one SSH connection.

It is the system's own ``ssh`` that connects, so that whatever ``~/.ssh/config`` says of a host holds: its name, port,
user, keys and jumps. It must be able to log in without asking. One process of it carries everything: the worker
itself comes through its input first, and is run by the Python there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shlex
import subprocess
import tempfile
import threading
import weakref
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePosixPath
from typing import IO, Any

from netgraft.devices.far.frames import Frame, FrameReader, FrameWriter
from netgraft.errors import DeviceLost

MODULES = (
    "errors.py",
    "devices/device.py",
    "devices/far/frames.py",
    "devices/measure.py",
    "devices/onnx/session.py",
    "devices/far/thermal.py",
    "devices/far/worker.py",
)
"""What the worker consists of."""
OPTIONS = ("BatchMode=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""Nobody is there to answer questions, and a connection that broke silently is noticed after 15 seconds."""
SSH_FAILED, NO_PYTHON = 255, 127
"""Exit codes of ssh: of its own failures, and of a shell there that found no command."""
PING_S = 10.0
CLOSE_S = 5.0
# The account's shell may be any; these need only single quotes of it.
# The worker is no replacement of this shell, which tells by its status if a signal ended the worker.
FIND_PYTHON = (
    'for p in "$HOME/.netgraft/bin/python3" python3; do '
    'if command -v "$p" >/dev/null 2>&1; then "$p" -c "$1"; exit $?; fi; done; '
    'echo "it has no python3" >&2; exit 127'
)
# For whatever Python is there, down to 2: that is what it has to tell.
LOADER = """
import os, sys
if sys.version_info < (3, 10):
    sys.exit("its Python is %s, 3.10 or newer is needed" % sys.version.split()[0])
content = b""
while len(content) < {size}:
    chunk = os.read(0, {size} - len(content))
    if not chunk:
        sys.exit(1)
    content += chunk
folder = os.path.join(os.path.expanduser("~"), ".netgraft")
os.makedirs(folder, exist_ok=True)
path = os.path.join(folder, "worker-{name}.zip")
with open(path + str(os.getpid()), "wb") as file:
    file.write(content)
os.replace(path + str(os.getpid()), path)
sys.path.insert(0, path)
try:
    import numpy, onnxruntime
except ImportError as error:
    sys.exit("it lacks what netgraft needs there (%s)" % error)
import runpy
runpy.run_module("netgraft.devices.far.worker", run_name="__main__")
"""


class Lost(DeviceLost):
    """A worker that does not answer any more."""

    def __init__(self, reason: str, *, blames: bool) -> None:
        super().__init__(reason)
        self.blames = blames
        """Whether it ended or hung where the connection holds, so that what it was doing may be at fault."""


class Connection:
    """A worker that runs on ``host``, an address or alias that ``ssh`` knows.

    connect_s: for the connection itself; timeout_s: silence of the worker after which it counts as hung.

    Raises:
        Lost: the host cannot be reached, does not let us in, or lacks what the worker needs.
    """

    def __init__(self, host: str, connect_s: float, timeout_s: float) -> None:
        self.host = host
        self._timeout_s = timeout_s
        content = worker_zip()
        loader = LOADER.format(size=len(content), name=hashlib.sha256(content).hexdigest()[:16])
        options = [word for option in (*OPTIONS, f"ConnectTimeout={connect_s:.0f}") for word in ("-o", option)]
        there = f"sh -c {shlex.quote(FIND_PYTHON)} sh {shlex.quote(loader)}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the connection
        try:
            self._process = subprocess.Popen(
                ["ssh", "-T", *options, "--", host, there],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
            )
        except OSError as error:
            self._errors.close()
            raise Lost(f"ssh cannot be started ({error.strerror}): install OpenSSH's client", blames=False) from error
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None, "it is a pipe"
        assert answers is not None, "it is a pipe"
        self._reader, self._writer = FrameReader(answers.fileno()), FrameWriter(given.fileno(), timeout_s)
        ended = threading.Event()
        self.close = weakref.finalize(self, _end, self._process, self._errors, self._writer, ended)
        """Ends the worker; may be called twice."""
        with contextlib.suppress(OSError):
            # A connection that failed says why at the first request.
            self._writer.write_raw(content)
        threading.Thread(target=_ping, args=(self._writer, ended), daemon=True).start()

    def send(self, header: Mapping[str, Any], content: bytes = b"") -> None:
        """Send a request.

        Raises:
            Lost: the other side is gone.
        """
        try:
            self._writer.write(header, content)
        except TimeoutError:
            raise self._hung(self._timeout_s) from None
        except OSError:
            raise self._gone() from None

    def receive(self, timeout_s: float | None = None) -> Frame:
        """The next answer; within ``timeout_s``, if it may take longer or shorter than others.

        Raises:
            Lost: it does not come in time, or the other side is gone.
        """
        if not self.close.alive:
            raise self._gone()
        try:
            return self._reader.next(timeout_s or self._timeout_s)
        except TimeoutError:
            raise self._hung(timeout_s or self._timeout_s) from None
        except EOFError:
            raise self._gone() from None

    def _hung(self, silent_s: float) -> Lost:
        self.close()
        return Lost(f"{self.host}: no answer for {silent_s:g} seconds", blames=True)

    def _gone(self) -> Lost:
        """Why the process has ended."""
        if not self.close.alive:
            return Lost(f"{self.host}: the connection is closed", blames=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        status = self._process.poll()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        reason = said[-1] if said else f"the worker there ended with status {status}"
        return Lost(f"{self.host}: {reason}", blames=status not in {None, SSH_FAILED, NO_PYTHON})


def worker_zip() -> bytes:
    """The worker as a zip that Python imports from; its packages' own ``__init__`` would import everything."""
    package, packed = files("netgraft"), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        contents = {name: package.joinpath(name).read_text(encoding="utf-8") for name in MODULES}
        packages = {str(folder / "__init__.py") for name in MODULES for folder in PurePosixPath(name).parents}
        for name, text in {**dict.fromkeys(sorted(packages), ""), **contents}.items():
            # With a fixed date, equal sources make equal files.
            archive.writestr(zipfile.ZipInfo(f"netgraft/{name}"), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _ping(writer: FrameWriter, ended: threading.Event) -> None:
    """Tell the worker that somebody is there, until nobody is."""
    while not ended.wait(PING_S):
        try:
            writer.write({"do": "ping"})
        except OSError:
            return


def _end(process: subprocess.Popen[bytes], errors: IO[bytes], writer: FrameWriter, ended: threading.Event) -> None:
    ended.set()
    process.terminate()
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    writer.close()
    for pipe in (process.stdin, process.stdout, errors):
        if pipe is not None:
            pipe.close()
