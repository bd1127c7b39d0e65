"""A phone on the other end of ``adb``: commands, files, its temperature."""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from netgraft.errors import DeviceError, DeviceLost

INSTALL = "apt-get install adb, or Android's platform tools; then allow USB debugging on the phone"
FOLDER = "/data/local/tmp/netgraft"
"""What is pushed lies here, by its hash."""
READY = "device"
"""What adb calls a phone that answers."""
GONE = re.compile(
    r"no devices|device .*not found|device offline|device unauthorized|closed$|protocol fault|cannot connect|"
    r"connection reset|failed to (get feature set|read)",
    re.IGNORECASE,
)
"""What adb says when it has no phone to talk to."""
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal status: from light on, the phone is slowing itself down."""

log = logging.getLogger(__name__)


class Hung(DeviceLost):
    """A command on the phone that does not end."""


class Phone:
    """An attached phone, by its serial; without one the only phone that is attached.

    timeout_s: a command that takes longer hangs. waits_s: before each try to find it again, until it counts as gone.

    Raises:
        DeviceLost: adb is not installed, or there is no such phone, or not just one.
    """

    def __init__(self, serial: str, *, timeout_s: float = 300.0, waits_s: Sequence[float] = (2.0, 10.0, 30.0)) -> None:
        lack = lacking_phone(serial)
        if lack:
            raise DeviceLost(f"{lack}: {INSTALL}")
        self.serial = serial or next(iter(attached_phones()))
        self.timeout_s = timeout_s
        self.waits_s = tuple(waits_s)

    def shell(self, command: str) -> str:
        """What a command on the phone prints, errors included.

        Raises:
            DeviceLost: the phone does not answer.
            Hung: the command does not end.
            DeviceError: it fails.
        """
        return self._adb("shell", f"{command} 2>&1")

    def push(self, content: bytes) -> str:
        """The path on the phone of a file with this content; it is sent unless it is there.

        Raises:
            DeviceLost: the phone does not answer, or takes no file, for want of room maybe.
        """
        path = f"{FOLDER}/{hashlib.sha256(content).hexdigest()[:32]}"
        try:
            self._send(content, path)
        except DeviceLost:
            raise
        except DeviceError as error:
            raise DeviceLost(f"a file cannot be sent: {error}") from error
        return path

    def _send(self, content: bytes, path: str) -> None:
        if self.shell(f"mkdir -p {FOLDER}; [ -f {path} ] && echo here || echo absent").split()[-1:] != ["here"]:
            with tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                # Under its name only once it is whole.
                self._adb("push", file.name, f"{path}.part")
            self.shell(f"chmod 755 {path}.part && mv {path}.part {path}")

    def thermal_status(self) -> int:
        """Android's thermal status, see :data:`THERMAL`; 0 from a phone that does not tell, before Android 10.

        Raises:
            DeviceLost: the phone does not answer.
        """
        try:
            found = re.search(r"^Thermal Status: (\d+)", self.shell("dumpsys thermalservice"), re.MULTILINE)
        except DeviceLost:
            raise
        except DeviceError:
            return 0
        return min(int(found[1]), len(THERMAL) - 1) if found else 0

    def wait(self) -> None:
        """Until the phone answers again.

        Raises:
            DeviceLost: it does not.
        """
        for wait_s in (0.0, *self.waits_s):
            time.sleep(wait_s)
            if attached_phones().get(self.serial) == READY:
                return
        state = attached_phones().get(self.serial, "not attached any more")
        raise DeviceLost(
            f"the phone {self.serial} is {state}: what was measured before is kept, run the same command again"
        )

    def _adb(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["adb", "-s", self.serial, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Hung(f"the phone {self.serial}: no answer for {self.timeout_s:g} seconds") from None
        except OSError as error:
            raise DeviceLost(f"adb cannot be started ({error.strerror}): {INSTALL}") from error
        if done.returncode == 0:
            return done.stdout
        said = _last_line(done.stderr) or _last_line(done.stdout) or f"adb ended with status {done.returncode}"
        # What the command itself says comes on the other stream.
        kind = DeviceLost if GONE.search(done.stderr) else DeviceError
        raise kind(f"the phone {self.serial}: {said}")


def attached_phones() -> dict[str, str]:
    """The phones that adb sees by serial, with what it calls their state: ``device`` is the good one."""
    try:
        done = subprocess.run(["adb", "devices"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    # Other lines greet and head.
    rows = (line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    return {serial: " ".join(state) for serial, *state in rows}


def lacking_phone(serial: str = "") -> str:
    """Why there is no phone of this serial, or not just one; empty if there is."""
    if shutil.which("adb") is None:
        return "adb is not installed"
    phones = attached_phones()
    if serial and serial not in phones:
        return f"no phone {shlex.quote(serial)} is attached: adb sees {', '.join(phones) or 'none'}"
    if not serial and len(phones) != 1:
        return f"{len(phones)} phones are attached" + ("" if not phones else f", name one: {', '.join(phones)}")
    name = serial or next(iter(phones))
    return "" if phones[name] == READY else f"the phone {name} is {phones[name]}"


def local_file(path: str) -> bytes:
    """The content of a file of the user's.

    Raises:
        DeviceError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read {path}: {error.strerror or error}") from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
