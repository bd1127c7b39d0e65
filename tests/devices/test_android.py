"""A phone over adb: a stand-in for ``adb`` on PATH, and everything that can go wrong with a phone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from phone import SERIAL, FakePhone
from torch import nn

from netgraft.config import DeviceConfig
from netgraft.devices import catalog
from netgraft.devices.check import check_device
from netgraft.devices.device import Unsupported
from netgraft.devices.far.adb import Phone
from netgraft.devices.far.android import BENCHMARK_VARIABLE, AndroidDevice
from netgraft.devices.measure import Latency, MeasureProtocol, measure
from netgraft.errors import ConfigError, DeviceError, DeviceLost

PROTOCOL = MeasureProtocol(samples=3)


class Net:
    """A file on the phone; the stand-in takes a tenth of a microsecond a byte for it."""

    def __init__(self, device: AndroidDevice, size: int) -> None:
        self.path = device.phone.push(bytes(size))


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    phone = FakePhone(tmp_path)
    monkeypatch.setenv("PATH", phone.path)
    monkeypatch.delenv(BENCHMARK_VARIABLE, raising=False)
    return phone


def opened(timeout_s: float = 20.0, **how: object) -> AndroidDevice:
    return AndroidDevice(phone=Phone("", timeout_s=timeout_s, waits_s=(0.1, 0.1)), rest_step_s=0.01, **how)


def timed(
    device: AndroidDevice, monkeypatch: pytest.MonkeyPatch, *sizes: int, protocol: MeasureProtocol = PROTOCOL
) -> dict[int, Latency | Unsupported]:
    """Files of these sizes, in one session: 0.1 ms a kilobyte."""
    monkeypatch.setattr("netgraft.devices.far.android.AndroidRunnable", Net)
    nets = {size: Net(device, size) for size in sizes}
    return device.time(nets, dict.fromkeys(sizes, np.zeros((1, 1, 1, 1), np.float32)), protocol)


def latency_ms(entry: Latency | Unsupported) -> float:
    assert isinstance(entry, Latency), entry
    return entry.median_ms


def test_a_network_is_sent_run_and_timed(phone: FakePhone) -> None:
    device, module, x = opened(threads=2), nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 16, 16)
    runnable = device.compile(module, x)
    assert not isinstance(runnable, Unsupported), runnable.reason
    with torch.no_grad():
        np.testing.assert_allclose(runnable.run(x.numpy()), module(x).numpy(), atol=1e-5)
    size = next((phone.folder / "tmp" / "netgraft").iterdir()).stat().st_size
    latency = device.time({"net": runnable}, {"net": x.numpy()}, PROTOCOL)["net"]
    assert latency_ms(latency) == pytest.approx(size / 1e4, rel=1e-4)
    # For whoever times a network by the clock.
    by_clock = measure({"net": runnable}, {"net": x.numpy()}, MeasureProtocol(samples=1, min_sample_ms=0), device.clock)
    assert by_clock["net"].median_ms == pytest.approx(size / 1e4, rel=1e-4)
    calls = [json.loads(call) for call in phone.lines("calls")]
    assert {call["num_threads"] for call in calls} == {"2"}
    assert {call["use_xnnpack"] for call in calls} == {"true"}
    assert len(phone.lines("pushed")) == 1
    assert not isinstance(device.compile(module, x), Unsupported)
    assert len(phone.lines("pushed")) == 1, "it was there already"
    runnable.close()


def test_it_is_described_as_the_phone_that_it_is(phone: FakePhone) -> None:
    about = opened().description
    assert about.hardware == "SM-S928B, SM8650"
    assert about.system.startswith("Android 14 ")
    assert about.backend_version.startswith("sha256 ")


def test_networks_take_turns(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(opened(), monkeypatch, 10_000, 600_000)
    assert latency_ms(found[10_000]) == pytest.approx(1)
    assert latency_ms(found[600_000]) == pytest.approx(60)
    calls = [json.loads(call) for call in phone.lines("calls")]
    # After one call each a sample is about 50 ms, and each round has both.
    rounds = [{(call["graph"][-8:], call["num_runs"]) for call in calls[i : i + 2]} for i in range(2, len(calls), 2)]
    assert len(rounds) == 3
    assert all(sorted(runs for _, runs in each) == ["1", "50"] for each in rounds)


def test_the_tiny_network_runs_in_8_bits(phone: FakePhone) -> None:
    name = f"adb:{SERIAL}/litert:int8"
    assert DeviceConfig(name=name).name == name
    check = check_device(name)
    assert check.reason == ""
    assert check.max_abs_error is not None
    assert 1e-4 < check.max_abs_error < 0.3


def test_a_gpu_that_runs_a_part_only_is_told_of(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert latency_ms(timed(opened(gpu=True), monkeypatch, 10_000)[10_000]) == pytest.approx(1)
    assert {json.loads(call)["use_gpu"] for call in phone.lines("calls")} == {"true"}
    assert "a part falls back to its processor w/ 2 delegate kernels" in caplog.text


def test_a_gpu_that_runs_nothing_is_refused(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = (
        "Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.\n"
        "Inference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, Inference (avg): 4"
    )
    phone.put("fault", {"what": "", "print": printed, "times": 99})
    refused = timed(opened(gpu=True), monkeypatch, 10_000)[10_000]
    assert refused == Unsupported("the phone R5CX1: its GPU runs nothing of this network, 2 times")


def test_a_phone_that_throttles_rests_and_repeats_the_round(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = opened()
    phone.put("thermal", [3, 1, 0])
    phone.put("fault", {"what": "throttle", "times": 1})
    assert latency_ms(timed(device, monkeypatch, 10_000)[10_000]) == pytest.approx(1)
    assert "throttles, thermal status 3 (severe): it rests" in caplog.text
    assert "throttles, thermal status 2 (moderate): it rests" in caplog.text
    assert "rounds repeated: 1" in caplog.text
    # The first call, three rounds, and the one that did not count.
    assert len(phone.lines("calls")) == 5


def test_a_phone_that_stays_hot_ends_the_session(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened(rest_s=0.1)
    phone.put("thermal", [4])
    with pytest.raises(DeviceLost, match=r"thermal status 4 \(critical\), and did not cool in 0 seconds: let it cool"):
        timed(device, monkeypatch, 10_000)


def test_a_phone_that_tells_no_status_is_measured(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    (phone.folder / "dumpsys.py").write_text('raise SystemExit("Can\'t find service: thermalservice")')
    assert latency_ms(timed(opened(), monkeypatch, 10_000)[10_000]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"what": "fail"}, "the phone R5CX1: ERROR: failed to load the model"),
        ({"what": "hang"}, "the phone R5CX1: no answer for 3 seconds, 2 times"),
        ({"what": "", "print": ""}, "the phone R5CX1: the benchmark tells no time, but nothing"),
        (
            {"what": "", "print": "Segmentation fault"},
            "the phone R5CX1: the benchmark tells no time, but 'Segmentation",
        ),
        (
            {"what": "", "print": "Inference timings in us: Init: 1, Warmup (avg): 2, Inference (avg): nan"},
            "the phone R5CX1: the benchmark tells no time, but time nan us",
        ),
    ],
)
def test_a_network_that_goes_wrong_is_a_row_and_the_others_are_measured(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch, fault: dict, reason: str
) -> None:
    # Whatever answers must have the time to, on a busy machine as well.
    device = opened(timeout_s=3 if fault["what"] == "hang" else 30)
    bad = device.phone.push(bytes(20_000)).replace("/data/local/tmp", str(phone.folder / "tmp"))
    phone.put("fault", {"graph": bad, "times": 99, **fault})
    found = timed(device, monkeypatch, 10_000, 20_000)
    assert latency_ms(found[10_000]) == pytest.approx(1)
    refused = found[20_000]
    assert isinstance(refused, Unsupported)
    assert refused.reason.startswith(reason)


def test_a_phone_that_takes_no_files_blames_no_network(phone: FakePhone) -> None:
    device = opened()
    (phone.folder / "tmp" / "netgraft").write_text("a file where the folder should be")
    with pytest.raises(DeviceLost, match=r"a file cannot be sent: the phone R5CX1: "):
        device.compile(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8))


def test_one_fault_is_forgiven(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened()
    phone.put("fault", {"what": "fail", "times": 1})
    assert latency_ms(timed(device, monkeypatch, 10_000)[10_000]) == pytest.approx(1)


def test_a_phone_that_is_unplugged_ends_the_session(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened()
    phone.put("fault", {"what": "unplug", "times": 1})
    with pytest.raises(DeviceLost, match=r"R5CX1 is not attached any more: what was measured before is kept"):
        timed(device, monkeypatch, 10_000)
    # Not a refusal of the network, which the run folder would remember.
    with pytest.raises(DeviceLost):
        device.compile(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8))


def test_a_phone_that_comes_back_is_measured_on(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened()
    phone.put("fault", {"what": "unplug", "times": 1})
    wait = device.phone.wait
    monkeypatch.setattr(device.phone, "wait", lambda: (phone.attach({SERIAL: "device"}), wait()))
    assert latency_ms(timed(device, monkeypatch, 10_000)[10_000]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "phones", "complaint"),
    [
        ("adb", {}, r"0 phones are attached"),
        ("adb", {SERIAL: "device", "B2": "device"}, r"2 phones are attached, name one: R5CX1, B2"),
        ("adb", {SERIAL: "unauthorized"}, r"the phone R5CX1 is unauthorized"),
        ("adb:B3", {SERIAL: "device"}, r"no phone B3 is attached: adb sees R5CX1"),
        (f"adb:{SERIAL}", {SERIAL: "offline", "B2": "device"}, r"the phone R5CX1 is offline"),
    ],
)
def test_a_phone_that_is_not_there_is_said(phone: FakePhone, name: str, phones: dict[str, str], complaint: str) -> None:
    phone.attach(phones)
    with pytest.raises(DeviceLost, match=complaint):
        catalog.open_device(name)
    assert not catalog.describe_devices([name])[0].available


def test_a_phone_without_the_benchmark_is_said(phone: FakePhone) -> None:
    (phone.folder / "tmp" / "benchmark_model").unlink()
    with pytest.raises(DeviceError, match=r"has no /data/local/tmp/benchmark_model: push LiteRT's benchmark_model"):
        opened()


def test_a_benchmark_of_the_users_is_sent(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = phone.folder / "mine"
    (phone.folder / "tmp" / "benchmark_model").rename(mine)
    monkeypatch.setenv(BENCHMARK_VARIABLE, str(mine))
    assert latency_ms(timed(opened(), monkeypatch, 10_000)[10_000]) == pytest.approx(1)
    monkeypatch.setenv(BENCHMARK_VARIABLE, str(phone.folder / "absent"))
    with pytest.raises(DeviceError, match=r"cannot read .*absent: No such file"):
        opened()


def test_without_adb_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"adb is not installed: apt-get install adb"):
        catalog.open_device("adb")
    row = next(row for row in catalog.describe_devices() if row.name == "adb")
    assert row.lacking == "adb is not installed"


def test_a_misspelled_device_of_a_phone_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"unknown device on a phone 'litert:int4': did you mean 'litert:int8'"):
        DeviceConfig(name="adb/litert:int4")
