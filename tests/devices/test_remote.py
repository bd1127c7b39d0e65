"""Another machine over SSH: a real sshd on this one where there is one, and everything that can go wrong with it."""

import fcntl
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import far_side
import numpy as np
import pytest
import torch
from far_side import SSHD, FarSide
from torch import nn
from typer.testing import CliRunner

from netgraft.cli import app
from netgraft.config import DeviceConfig
from netgraft.devices import catalog
from netgraft.devices.check import check_device
from netgraft.devices.device import Unsupported
from netgraft.devices.far.remote import RemoteDevice
from netgraft.devices.far.ssh import worker_zip
from netgraft.devices.measure import Latency, MeasureProtocol, measure, measure_modules
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.errors import ConfigError, DeviceError, DeviceLost

PROTOCOL = MeasureProtocol(samples=4, min_sample_ms=0.2, warmup_max_seconds=0.05)
Modules = dict[str, tuple[nn.Module, torch.Tensor]]
Networks = dict[int, tuple[bytes, np.ndarray]]

real_only = pytest.mark.skipif(SSHD is None, reason="there is no sshd: apt-get install openssh-server")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarSide]:
    yield from far_side.far_side(tmp_path_factory.mktemp("board"), real=SSHD is not None)


@pytest.fixture
def board(machine: FarSide, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarSide]:
    monkeypatch.setenv("PATH", machine.path)
    yield machine
    machine.faults.unlink(missing_ok=True)
    machine.use_python()


def opened(timeout_s: float = 20.0) -> RemoteDevice:
    return RemoteDevice("board", timeout_s=timeout_s, waits_s=(0.1, 0.1))


@pytest.fixture(scope="module")
def device(machine: FarSide) -> Iterator[RemoteDevice]:
    """One for the tests that do it no harm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", machine.path)
        device = opened()
    yield device
    device.close()


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Files with their inputs, by the channels of these."""
    modules = convolutions(4, 5)
    return {x.shape[1]: (onnx_bytes(module, x), x.numpy()) for module, x in modules.values()}


def timed(
    device: RemoteDevice, networks: Networks, protocol: MeasureProtocol = PROTOCOL
) -> dict[int, Latency | Unsupported]:
    runnables = {channels: device.open(content) for channels, (content, _) in networks.items()}
    return device.time(runnables, {channels: x for channels, (_, x) in networks.items()}, protocol)


def convolutions(*channels: int) -> Modules:
    """Networks that faults tell apart by the channels of their inputs."""
    torch.manual_seed(0)
    return {f"conv{c}": (nn.Conv2d(c, 3, 3, padding=1), torch.randn(1, c, 16, 16)) for c in channels}


def files(board: FarSide) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in (board.home / ".netgraft" / "files").iterdir()}


def test_a_network_there_computes_what_torch_does(board: FarSide, device: RemoteDevice, block: nn.Module) -> None:
    x = torch.randn(1, 8, 32, 32)
    runnable = device.compile(block, x)
    assert not isinstance(runnable, Unsupported)
    here = OnnxRuntimeDevice().compile(block, x)
    assert not isinstance(here, Unsupported)
    np.testing.assert_array_equal(runnable.run(x.numpy()), here.run(x.numpy()))
    # The clock of the other machine, for whoever times a network by it.
    assert measure({"block": runnable}, {"block": x.numpy()}, PROTOCOL, device.clock)["block"].median_ms > 0
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_it_is_described_as_the_machine_that_it_is(device: RemoteDevice) -> None:
    there, here = device.description, OnnxRuntimeDevice().description
    assert there.hardware.startswith(here.hardware)
    assert (there.backend, there.backend_version, there.cores) == (here.backend, here.backend_version, here.cores)
    assert (there.precision, there.threads, there.system) == ("fp32", 1, here.system)


def test_networks_are_timed_there_in_turns(board: FarSide, device: RemoteDevice) -> None:
    modules = {
        "small": (nn.Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 16, 16)),
        "large": (nn.Conv2d(8, 32, 3, padding=1), torch.randn(1, 8, 64, 64)),
    }
    # The same file under another name, as the reference block of a session often is.
    modules["again"] = modules["large"]
    found = measure_modules(device, modules, PROTOCOL)
    latencies = {name: entry for name, entry in found.items() if isinstance(entry, Latency)}
    assert set(latencies) == set(modules)
    assert latencies["small"].median_ms < latencies["large"].median_ms / 4
    assert 0.5 < latencies["again"].median_ms / latencies["large"].median_ms < 2
    for latency in latencies.values():
        assert latency.q25_ms <= latency.median_ms <= latency.q75_ms
        assert latency.cpu_median_ms > 0
        assert latency.runs >= PROTOCOL.samples


def test_files_are_sent_once(board: FarSide, device: RemoteDevice, networks: Networks) -> None:
    timed(device, networks)
    sent = files(board)
    device.reconnect()
    timed(device, networks)
    assert files(board) == sent
    assert not any("." in name for name in sent), "parts of files are left"


def test_a_file_that_went_missing_there_is_sent_again(board: FarSide, device: RemoteDevice, networks: Networks) -> None:
    content, x = networks[4]
    runnable = device.open(content)
    for file in (board.home / ".netgraft" / "files").iterdir():
        file.unlink()
    device.reconnect()
    assert runnable.run(x).shape == (1, 3, 16, 16)


def test_a_machine_that_takes_no_files_blames_no_network(board: FarSide) -> None:
    device, folder = opened(), board.home / ".netgraft" / "files"
    folder.rename(folder.with_name("moved"))
    try:
        with pytest.raises(DeviceLost, match=r"a file cannot be sent: board: .*No such file"):
            device.compile(*convolutions(2)["conv2"])
    finally:
        folder.with_name("moved").rename(folder)


def test_where_the_time_goes_is_told(board: FarSide, device: RemoteDevice, networks: Networks) -> None:
    assert "Conv" in device.profile(*networks[4])


@pytest.mark.parametrize("name", ["remote:board", "remote:board/onnxruntime:int8"])
def test_the_tiny_network_runs(board: FarSide, name: str) -> None:
    assert DeviceConfig(name=name).name == name
    check = check_device(name)
    assert check.reason == ""
    assert check.latency_ms is not None
    assert check.max_abs_error is not None
    assert (1e-4 if name.endswith("int8") else 0) <= check.max_abs_error < (0.3 if name.endswith("int8") else 1e-4)


def test_the_command_line_asks_a_named_machine(board: FarSide) -> None:
    result = CliRunner().invoke(app, ["devices", "remote:board", "remote:nowhere", "--check", "--json"])
    assert result.exit_code == 0, result.output
    there, nowhere = json.loads(result.stdout.splitlines()[-1])["devices"]
    assert there["available"]
    assert there["check"]["reason"] == ""
    assert not nowhere["available"]
    assert nowhere["lacking"].startswith("nowhere: ")


def test_a_greeting_does_not_matter(board: FarSide) -> None:
    board.use_python(f'echo "Welcome to board"; exec {sys.executable} "$@"')
    assert opened().description.precision == "fp32"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("wrong", "differs from torch by up to"),
        ("empty", "gives (1, 3, 16, 0) where torch gives (1, 3, 16, 16)"),
        ("fail", "board: TypeError: 'int' object is not subscriptable, 2 times over the same network"),
        ("die", "board: Segmentation fault, 2 times over the same network"),
        ("hang", "board: no answer for 1.5 seconds, 2 times over the same network"),
    ],
)
def test_a_network_that_goes_wrong_there_is_refused(
    board: FarSide, device: RemoteDevice, networks: Networks, what: str, reason: str
) -> None:
    module, x = convolutions(5)["conv5"]
    if what == "hang":
        device = opened(timeout_s=1.5)
    board.fault(what, 5, times=9)
    outcome = device.compile(module, x)
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith(reason)
    # The device itself is as good as before.
    content, image = networks[4]
    assert device.open(content).run(image).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("what", ["die", "hang", pytest.param("cut", marks=real_only)])
def test_a_session_goes_on_after_a_loss(
    board: FarSide, networks: Networks, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The samples that there were are kept: the next worker is told of them."""
    device, brought = opened(timeout_s=1.5), []
    send = device.send

    def note(request: Mapping[str, Any], content: bytes = b"") -> None:
        if request["do"] == "time":
            brought.append([len(one["wall_ms"]) for one in request["networks"]])
        send(request, content)

    monkeypatch.setattr(device, "send", note)
    # Warm-up takes about 4 runs of each, and there are 20 samples.
    board.fault(what, 5, after=15)
    protocol = MeasureProtocol(samples=20, min_sample_ms=0, warmup_max_seconds=0.05)
    found = timed(device, networks, protocol)
    assert all(isinstance(entry, Latency) for entry in found.values())
    assert not board.faults.exists(), "the fault did not happen"
    assert brought[-1][0] > 0
    assert "going on with the samples that there are" in caplog.text


def test_who_kills_its_worker_twice_is_a_row_and_the_others_are_measured(
    board: FarSide, device: RemoteDevice, networks: Networks
) -> None:
    board.fault("die", 5, after=2, times=2)
    found = timed(device, networks)
    assert found[5] == Unsupported("board: Segmentation fault, 2 times while this network ran")
    assert isinstance(found[4], Latency)


@real_only
def test_a_machine_that_does_not_come_back_ends_the_run_and_blames_no_network(
    tmp_path: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in far_side.far_side(tmp_path):
        monkeypatch.setenv("PATH", side.path)
        device = opened()
        cut = threading.Timer(0.5, side.down)
        cut.start()
        with pytest.raises(DeviceLost, match=r"did not come back: what was measured before is kept"):
            timed(device, networks, MeasureProtocol(samples=4, min_seconds=30))
        cut.join()
        # Not a refusal of the network, which the run folder would remember.
        with pytest.raises(DeviceLost):
            device.compile(*convolutions(4)["conv4"])


def test_two_sessions_do_not_disturb_each_other(
    board: FarSide, device: RemoteDevice, networks: Networks, caplog: pytest.LogCaptureFixture
) -> None:
    with (board.home / ".netgraft" / "running").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        free = threading.Timer(1.0, fcntl.flock, (other, fcntl.LOCK_UN))
        free.start()
        start = time.monotonic()
        timed(device, networks)
        free.join()
    assert time.monotonic() - start > 1
    assert "somebody else measures there: waiting" in caplog.text


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        # What it is given is -c and the program.
        (
            f"exec {sys.executable} -c 'import sys; sys.version_info = (3, 8); exec(sys.argv[1])' \"$2\"",
            r"board: its Python is 3\.\S+, 3\.10 or newer is needed; on board: python3 -m venv ~/\.netgraft",
        ),
        (
            f'exec {sys.executable} -c \'import sys; sys.modules["onnxruntime"] = None; exec(sys.argv[1])\' "$2"',
            r"board: it lacks what netgraft needs there \(.*onnxruntime.*\); on board: .*pip install numpy onnxruntime",
        ),
        ('echo "it has no python3" >&2; exit 127', r"board: it has no python3"),
        ("exit 3", r"board: the worker there ended with status 3"),
    ],
)
def test_what_the_other_side_lacks_is_said(board: FarSide, command: str, complaint: str) -> None:
    board.use_python(command)
    with pytest.raises(DeviceError, match=complaint):
        opened()
    assert check_device("remote:board").latency_ms is None


def test_a_provider_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"unknown device on board 'onnxruntime:cida': did you mean"):
        DeviceConfig(name="remote:board/onnxruntime:cida")


def test_a_provider_that_the_other_build_lacks_is_said(board: FarSide) -> None:
    with pytest.raises(DeviceError, match=r"board: this build of ONNX Runtime has no CUDAExecutionProvider"):
        catalog.open_device("remote:board/onnxruntime:cuda")


@real_only
@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("nowhere", r"nowhere: ssh: Could not resolve hostname no-such-machine\.invalid"),
        ("stranger", r"stranger: .*Permission denied"),
    ],
)
def test_a_machine_that_cannot_be_reached_is_said(board: FarSide, host: str, complaint: str) -> None:
    with pytest.raises(DeviceLost, match=complaint):
        RemoteDevice(host)


def test_without_ssh_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"ssh cannot be started"):
        RemoteDevice("board")
    row = next(row for row in catalog.describe_devices() if row.name == "remote:HOST")
    assert row.lacking == "ssh is missing: install OpenSSH's client"


@pytest.mark.parametrize("name", ["remote:", "remote", "remote:-oProxyCommand=x", "remote:/onnxruntime"])
def test_a_name_must_say_where(name: str) -> None:
    with pytest.raises(ConfigError, match=r"names no machine: write remote:ADDRESS"):
        DeviceConfig(name=name)


def test_the_placeholder_is_no_machine() -> None:
    with pytest.raises(DeviceError, match=r"HOST stands for any machine"):
        catalog.open_device("remote:HOST")


def test_a_stand_in_for_ssh_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the protocol is tested where there is no sshd."""
    for side in far_side.far_side(tmp_path, real=False):
        monkeypatch.setenv("PATH", side.path)
        assert check_device("remote:board").reason == ""


AARCH64 = Path(__file__).parents[2] / ".aarch64" / "python3"
"""What ``make aarch64`` leaves."""


@pytest.mark.skipif(not AARCH64.exists(), reason="there is no aarch64 Python: make aarch64")
def test_an_aarch64_machine_computes_the_same(board: FarSide, block: nn.Module) -> None:
    """Its instructions are emulated, so that only what it computes counts."""
    board.use_python(f'exec {AARCH64} "$@"')
    x = torch.randn(1, 8, 32, 32)
    device = opened(timeout_s=60)
    assert device.description.system == "Linux aarch64"
    runnable = device.compile(block, x)
    assert not isinstance(runnable, Unsupported), runnable.reason
    here = OnnxRuntimeDevice().compile(block, x)
    assert not isinstance(here, Unsupported)
    np.testing.assert_allclose(runnable.run(x.numpy()), here.run(x.numpy()), atol=1e-5)
    protocol = MeasureProtocol(samples=1, min_sample_ms=0, warmup_max_seconds=0)
    assert isinstance(device.time({"block": runnable}, {"block": x.numpy()}, protocol)["block"], Latency)


def test_the_worker_needs_no_torch(tmp_path: Path) -> None:
    """Whatever the modules that it consists of import must be there on a small machine."""
    (tmp_path / "worker.zip").write_bytes(worker_zip())
    code = (
        "import sys; sys.modules.update(torch=None, onnx=None); sys.path.insert(0, sys.argv[1])\n"
        "import netgraft.devices.far.worker as worker; print(worker.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "worker.zip"], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr
