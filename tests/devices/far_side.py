"""Another machine for the tests: a real sshd on this one, with a home folder and faults of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
HOST = "board"
"""Its alias in the client's config."""

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
SetEnv HOME={home}
"""
CLIENT = """
Host board
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking no
    LogLevel ERROR
Host nowhere
    HostName no-such-machine.invalid
Host stranger
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/other_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking no
    LogLevel ERROR
"""
# Read by the Python there before anything else: the runtime is the real one, until a fault is due.
FAULTS = """
import json, os, signal, time
import numpy
import onnxruntime
FILE = {faults!r}
run = onnxruntime.InferenceSession.run
def faulty(self, outputs, inputs, options=None):
    due = json.load(open(FILE)) if os.path.exists(FILE) else {{}}
    if due and list(inputs.values())[0].shape[1] == due["channels"]:
        if due["after"] > 0:
            due["after"] -= 1
            json.dump(due, open(FILE, "w"))
        else:
            due["times"] -= 1
            json.dump(due, open(FILE, "w")) if due["times"] > 0 else os.unlink(FILE)
            if due["what"] == "hang":
                time.sleep(600)
            if due["what"] == "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            if due["what"] == "cut":
                # The processes of this connection on the server's side, as if a cable was pulled.
                os.kill(os.getppid(), signal.SIGSTOP)
                os.kill(int(open("/proc/%d/stat" % os.getppid()).read().rpartition(")")[2].split()[1]), signal.SIGKILL)
                time.sleep(600)
            y = run(self, outputs, inputs, options)[0]
            return {{"wrong": [y + 9], "empty": [y[..., :0]], "fail": 1}}[due["what"]]
    return run(self, outputs, inputs, options)
onnxruntime.InferenceSession.run = faulty
"""


class FarSide:
    """The machine ``board``, while it is up.

    real: behind sshd and the system's ssh; otherwise ``ssh`` is a script that runs the command here.
    """

    def __init__(self, folder: Path, *, real: bool = True) -> None:
        self.folder, self.home, self.real = folder, folder / "home", real
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        self.path = f"{bin_folder}:{os.environ['PATH']}"
        self._server: subprocess.Popen[bytes] | None = None
        self.faults = folder / "fault.json"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(FAULTS.format(faults=str(self.faults)))
        self.use_python()
        if real:
            self._configure(bin_folder)
        else:
            # ssh -T -o ... -- HOST COMMAND
            script = 'while [ "$1" != -- ]; do shift; done; [ "$2" = board ] || exit 255'
            write_script(bin_folder / "ssh", f'{script}; HOME={self.home} exec sh -c "$3"')

    def _configure(self, bin_folder: Path) -> None:
        folder = self.folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for key in ("host_key", "user_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        (folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=folder, home=self.home))
        (folder / "ssh_config").write_text(CLIENT.format(port=self.port, folder=folder))
        # The user's own config is read from the account's home, wherever HOME points: this stands for it.
        write_script(bin_folder / "ssh", f'exec {shutil.which("ssh")} -F {folder}/ssh_config "$@"')

    def use_python(self, command: str = "") -> None:
        """What the machine runs as its Python; without a command the one that these tests run on, and its faults."""
        command = command or f'PYTHONPATH={self.folder}/site exec {sys.executable} "$@"'
        write_script(self.home / ".netgraft" / "bin" / "python3", command)

    def fault(self, what: str, channels: int, *, after: int = 0, times: int = 1) -> None:
        """Let runs of networks with so many input channels go wrong, after some that do not."""
        self.faults.write_text(json.dumps({"what": what, "channels": channels, "after": after, "times": times}))

    def up(self) -> None:
        if not self.real:
            return
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = self.folder / "sshd.log"
        self._server = subprocess.Popen([SSHD, "-D", "-E", log, "-f", self.folder / "sshd_config"])
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError(log.read_text())

    def down(self) -> None:
        """The server and every connection end."""
        if self._server is not None:
            for child in self._children(self._server.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._server.kill()
            self._server.wait()
        self._server = None

    def _children(self, pid: int) -> list[int]:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [*found, *(grandchild for child in found for grandchild in self._children(child))]


def far_side(folder: Path, *, real: bool = True) -> Iterator[FarSide]:
    side = FarSide(folder, real=real)
    side.up()
    try:
        yield side
    finally:
        side.down()


def write_script(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
