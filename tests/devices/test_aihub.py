"""Phones at Qualcomm AI Hub, against recorded answers: nothing here has ever run on a phone."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

qai_hub = pytest.importorskip("qai_hub", reason="needs netgraft[aihub]")

from fake_hub import PROFILE, FakeHub  # noqa: E402

from netgraft.config import DeviceConfig  # noqa: E402
from netgraft.devices import catalog  # noqa: E402
from netgraft.devices.check import check_device  # noqa: E402
from netgraft.devices.device import Unsupported  # noqa: E402
from netgraft.devices.measure import Latency, MeasureProtocol, QueueDevice, TimingDevice, measure_modules  # noqa: E402
from netgraft.devices.onnx.graph import onnx_bytes  # noqa: E402
from netgraft.devices.qualcomm import aihub_jobs  # noqa: E402
from netgraft.devices.qualcomm.aihub import AiHubDevice  # noqa: E402
from netgraft.devices.qualcomm.aihub_client import HubClient  # noqa: E402
from netgraft.devices.qualcomm.aihub_profile import read_profile  # noqa: E402
from netgraft.errors import ConfigError, DeviceError  # noqa: E402

PHONE = "Samsung Galaxy S24 Ultra"
EXPIRED = qai_hub.UserError(
    "Failed to authenticate.\n┌───┐\n| Failure to authenticate is likely caused by a bad |\n└───┘"
)
LIMITED = qai_hub.client.RateLimitedError("too many jobs")


class Time:
    """Passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def now(self) -> float:
        return self.seconds


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@cache
def conv(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv2d(4, 4, 3, padding=1)


X = noise(1, 4, 8, 8)
BLOCKS = {f"block {seed}": (conv(seed), X) for seed in range(3)}


@cache
def exported(module: nn.Module, shape: tuple[int, ...], fast_forms: bool) -> bytes:
    return onnx_bytes(module, torch.zeros(shape), fast_forms=fast_forms)


@pytest.fixture(autouse=True)
def _export_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export takes a second, and these tests ask for the same few."""
    monkeypatch.setattr(
        "netgraft.devices.qualcomm.aihub.onnx_bytes",
        lambda module, example, *, fast_forms: exported(module, tuple(example.shape), fast_forms),
    )


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


Open = Callable[..., AiHubDevice]


@pytest.fixture
def phone(hub: FakeHub, tmp_path: Path) -> Open:
    """Opens the phone anew, as another process would: all that stays is the folder and the hub."""

    def opened(precision: str = "fp16", sleep: Callable[[float], None] | None = None) -> AiHubDevice:
        time = Time()
        client = HubClient(hub, sleep=time.sleep if sleep is None else sleep)
        device = AiHubDevice("s24-ultra", precision, client=client, folder=tmp_path / "answers")
        device.jobs.now = time.now
        return device

    return opened


def timed(device: AiHubDevice, blocks: Any = None) -> dict[str, Latency | Unsupported]:
    return measure_modules(device, BLOCKS if blocks is None else blocks, MeasureProtocol(samples=3))


def reason(entry: Latency | Unsupported) -> str:
    assert isinstance(entry, Unsupported), entry
    return entry.reason


def test_latencies_are_the_median_and_quartiles_of_the_phones_own_times(phone: Open) -> None:
    """Of 900, 1000, 1100, 1300 and 4000 microseconds."""
    for latency in timed(phone()).values():
        assert isinstance(latency, Latency)
        assert (latency.q25_ms, latency.median_ms, latency.q75_ms) == (1.0, 1.1, 1.3)
        assert latency.runs == 5


def test_an_answer_with_the_hubs_estimate_alone_gives_that() -> None:
    profile = read_profile({"execution_summary": {"estimated_inference_time": 3652}, "execution_detail": []})
    assert profile.latency.q25_ms == profile.latency.median_ms == profile.latency.q75_ms == 3.652


def test_it_is_a_device_that_times_itself_and_says_what_it_is(phone: Open) -> None:
    device = phone("int8")
    assert isinstance(device, TimingDevice)
    described = device.description
    assert (described.backend, described.hardware, described.precision) == ("Qualcomm AI Hub", PHONE, "int8")
    assert described.backend_version == str(qai_hub.__version__)


def test_all_networks_are_sent_before_any_is_waited_for(phone: Open, hub: FakeHub) -> None:
    timed(phone())
    names = [name for name, _ in hub.calls]
    assert names[:6] == ["submit_compile_job", "submit_inference_job"] * 3
    assert {about for name, about in hub.calls if name.startswith("submit")} == {PHONE}


def test_what_is_announced_is_under_way_before_it_is_compiled(phone: Open, hub: FakeHub) -> None:
    device = phone()
    assert isinstance(device, QueueDevice)
    device.announce(list(BLOCKS.values()))
    assert (hub.count("submit_inference_job"), hub.count("get_status")) == (3, 0)
    assert all(isinstance(entry, Latency) for entry in timed(device).values())
    assert hub.count("submit_inference_job") == 3


def test_no_network_is_sent_twice(phone: Open, hub: FakeHub) -> None:
    """Neither two of one session that are equal, nor one whose answer another process got."""
    first = timed(phone(), {**BLOCKS, "again": (conv(0), X)})
    assert hub.count("submit_inference_job") == 3
    calls = len(hub.calls)
    assert timed(phone()) == {name: first[name] for name in BLOCKS}
    assert len(hub.calls) == calls


def test_another_input_precision_or_network_is_another_question(phone: Open, hub: FakeHub) -> None:
    timed(phone(), {"a": BLOCKS["block 0"]})
    for precision, module, x in (("fp16", conv(0), noise(1, 4, 8, 16)), ("int8", conv(0), X), ("fp16", conv(9), X)):
        before = hub.count("submit_inference_job")
        timed(phone(precision), {"a": (module, x)})
        assert hub.count("submit_inference_job") == before + 1


def test_a_process_that_was_killed_asks_for_the_same_jobs(phone: Open, hub: FakeHub) -> None:
    def kill(seconds: float) -> None:
        raise KeyboardInterrupt

    hub.polls = 3
    with pytest.raises(KeyboardInterrupt):
        timed(phone(sleep=kill))
    assert hub.count("submit_inference_job") == 3
    assert all(isinstance(entry, Latency) for entry in timed(phone()).values())
    assert hub.count("submit_compile_job") == hub.count("submit_inference_job") == 3
    assert hub.count("get_job") == 6


def test_what_is_finished_is_kept_at_once(phone: Open, hub: FakeHub, tmp_path: Path) -> None:
    """The first network is over while the hub breaks down over the second."""
    hub.errors["download_profile"] = iter([None, *repeat(qai_hub.InternalError("down"), 100)])
    with pytest.raises(DeviceError, match=r"cannot be reached: down"):
        timed(phone())
    profiles = [json.loads(path.read_text())["profile"] for path in (tmp_path / "answers").glob("*.json")]
    assert sum(profile is not None for profile in profiles) == 1


def test_a_hub_that_finishes_nothing_is_given_up_and_a_job_that_it_forgot_is_sent_anew(
    phone: Open, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.polls = 100
    monkeypatch.setattr(aihub_jobs, "PATIENCE_S", 36.0)
    with pytest.raises(DeviceError, match=r"finished nothing in 0.01 hours"):
        timed(phone())
    hub.jobs.clear()
    hub.polls = 0
    assert all(isinstance(entry, Latency) for entry in timed(phone()).values())
    assert hub.count("submit_inference_job") == 6


def test_a_damaged_record_is_asked_for_anew(phone: Open, hub: FakeHub, tmp_path: Path) -> None:
    timed(phone())
    for path in (tmp_path / "answers").iterdir():
        path.write_bytes(b"\x93NUMPY" if path.suffix == ".npy" else b"{")
    assert all(isinstance(entry, Latency) for entry in timed(phone()).values())
    assert hub.count("submit_inference_job") == 6


def test_a_network_that_does_not_compile_is_a_row_and_the_others_go_on(phone: Open, hub: FakeHub) -> None:
    hub.compile_failures = iter([None, "Unsupported ONNX op: Foo"])
    for _ in range(2):
        outcome = timed(phone())
        assert reason(outcome["block 1"]) == "Qualcomm AI Hub cannot compile it: Unsupported ONNX op: Foo"
        assert isinstance(outcome["block 0"], Latency)
        assert isinstance(outcome["block 2"], Latency)
    assert hub.count("submit_compile_job") == 3


def test_a_phone_that_fails_once_is_tried_again(phone: Open, hub: FakeHub) -> None:
    hub.run_failures = iter(["the phone went away"])
    assert isinstance(timed(phone(), {"a": BLOCKS["block 0"]})["a"], Latency)
    assert (hub.count("submit_compile_job"), hub.count("submit_inference_job")) == (1, 2)


def test_a_network_that_the_phone_does_not_run_is_a_row(phone: Open, hub: FakeHub) -> None:
    hub.run_failures = repeat("out of memory")
    outcome = timed(phone(), {"a": BLOCKS["block 0"]})
    assert reason(outcome["a"]) == f"the {PHONE} does not run it: out of memory"
    assert hub.count("submit_inference_job") == 2


def test_layers_that_fall_back_are_counted_and_named(
    phone: Open, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = {"compute_unit": "CPU", "execution_time": 23, "name": "norm1", "type": "LayerNormalization"}
    hub.profile = PROFILE | {"execution_detail": [*PROFILE["execution_detail"], cpu]}
    profile = read_profile(hub.profile)
    assert profile.layers == {"NPU": 2, "CPU": 1}
    assert profile.fallbacks == ("norm1 (LayerNormalization, CPU)",)
    timed(phone(), {"a": BLOCKS["block 0"]})
    said = "layers: 2 NPU, 1 CPU; 1 fall back from the NPU: norm1 (LayerNormalization, CPU)"
    assert f"a on the {PHONE}: {said}" in caplog.text


def test_a_phone_that_computes_something_else_is_a_row(phone: Open, hub: FakeHub) -> None:
    hub.outputs = lambda inputs: {"output_0": [inputs["x"][0] + 9]}
    assert reason(timed(phone())["block 0"]).startswith("differs from torch by ")
    hub.outputs = lambda inputs: {"output_0": [inputs["x"][0][..., :2]]}
    outcome = timed(phone(), {"a": (conv(7), X)})
    assert reason(outcome["a"]) == "gives (1, 4, 8, 2) where torch gives (1, 4, 8, 8)"


@pytest.mark.parametrize(
    ("profile", "outputs", "said"),
    [
        ({}, None, "answer has no profile (KeyError 'execution_summary')"),
        ({"execution_summary": {}}, None, "answer has no profile (KeyError 'estimated_inference_time')"),
        ({"execution_summary": {"estimated_inference_time": None}}, None, "answer has no profile (TypeError"),
        ({"execution_summary": {"estimated_inference_time": 0}}, None, "impossible times: 0 to 0 us"),
        ({"execution_summary": {"estimated_inference_time": float("nan")}}, None, "impossible times: nan"),
        ({"execution_summary": {"estimated_inference_time": 9}, "execution_detail": [{}]}, None, "no profile"),
        (PROFILE, lambda inputs: None, "its answer has no output"),
        (PROFILE, lambda inputs: {}, "its answer has no output"),
        (PROFILE, lambda inputs: {"y": []}, "its answer has no output"),
    ],
)
def test_an_empty_or_impossible_answer_is_a_row_and_asked_for_again_another_time(
    phone: Open, hub: FakeHub, profile: Any, outputs: Any, said: str
) -> None:
    hub.profile, hub.outputs = profile, outputs
    assert said in reason(timed(phone(), {"a": BLOCKS["block 0"]})["a"])
    hub.profile, hub.outputs = PROFILE, None
    assert isinstance(timed(phone(), {"a": BLOCKS["block 0"]})["a"], Latency)


def test_a_network_that_the_hub_refuses_is_a_row(phone: Open, hub: FakeHub) -> None:
    hub.errors["submit_compile_job"] = iter([qai_hub.UserError("Input model type\ncannot be compiled.")])
    outcome = timed(phone())
    assert reason(outcome["block 0"]) == "Qualcomm AI Hub refuses it: Input model type cannot be compiled."
    assert isinstance(outcome["block 1"], Latency)


def test_a_module_that_the_exporter_rejects_is_a_row_and_not_sent(phone: Open, hub: FakeHub) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    assert "DataDependent" in reason(timed(phone(), {"a": (DataDependent(), X)})["a"])
    assert hub.calls == []


@pytest.mark.parametrize("method", ["submit_compile_job", "submit_inference_job", "get_status", "download_profile"])
def test_a_network_error_is_tried_again_and_then_told_in_one_line(phone: Open, hub: FakeHub, method: str) -> None:
    lost = qai_hub.InternalError("Internal API failure.\n┌───┐\n| Could not connect to Qualcomm AI Hub. |\n└───┘")
    hub.errors[method] = iter([lost, ConnectionResetError("reset"), lost])
    assert all(isinstance(entry, Latency) for entry in timed(phone()).values())
    hub.errors[method] = repeat(lost)
    with pytest.raises(DeviceError) as told:
        timed(phone(), {"a": (conv(5), X)})
    assert str(told.value) == (
        "Qualcomm AI Hub cannot be reached: Internal API failure. Could not connect to Qualcomm AI Hub.; "
        "what is finished is kept, the same command continues"
    )


@pytest.mark.parametrize("method", ["submit_compile_job", "get_status", "download_profile"])
def test_an_expired_token_is_told_in_one_line_that_says_where_to_get_one(
    phone: Open, hub: FakeHub, method: str
) -> None:
    hub.errors[method] = repeat(EXPIRED)
    with pytest.raises(DeviceError) as told:
        timed(phone())
    assert str(told.value) == (
        "Qualcomm AI Hub does not accept the token, which may have expired: get one at "
        "https://workbench.aihub.qualcomm.com/account/, then: qai-hub configure --api_token TOKEN"
    )


def test_a_hub_that_takes_few_jobs_gets_them_as_it_takes_them(phone: Open, hub: FakeHub) -> None:
    hub.errors["submit_compile_job"] = iter([None, LIMITED, LIMITED, LIMITED])
    hub.errors["submit_inference_job"] = iter([None, LIMITED])
    hub.errors["get_status"] = iter([LIMITED])
    assert all(isinstance(entry, Latency) for entry in timed(phone()).values())
    assert len(hub.jobs) == 6


def test_no_more_are_on_their_way_than_may_be(phone: Open, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aihub_jobs, "MOST_AT_ONCE", 2)
    assert all(isinstance(entry, Latency) for entry in timed(phone()).values())
    names = [name for name, _ in hub.calls]
    assert names[:4] == ["submit_compile_job", "submit_inference_job"] * 2
    assert names[4] == "get_status"


def test_a_network_gives_what_the_phone_computed_and_for_its_input_alone(phone: Open) -> None:
    device, (module, x) = phone(), BLOCKS["block 0"]
    runnable = device.compile(module, x)
    assert not isinstance(runnable, Unsupported)
    before = device.clock.wall()
    with torch.no_grad():
        np.testing.assert_allclose(runnable.run(x.numpy()), module(x).numpy(), atol=1e-5)
    assert device.clock.wall() - before == pytest.approx(1.1e-3)
    with pytest.raises(DeviceError, match=r"on the input that it was compiled for"):
        runnable.run(x.numpy() + 1)
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_calibration_inputs_of_another_network_are_refused(phone: Open) -> None:
    with pytest.raises(DeviceError, match=r"calibration inputs \(1, 3, 8, 8\) do not fit"):
        phone("int8").compile(conv(0), X, noise(1, 3, 8, 8))


def test_what_leaves_the_machine_is_said(phone: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    timed(phone())
    assert caplog.text.count(f"sending networks to Qualcomm AI Hub, for a {PHONE}") == 1


def test_phones_go_by_our_names_and_by_the_hubs() -> None:
    assert DeviceConfig(name="aihub:s24-ultra").name == "aihub:s24-ultra"
    assert DeviceConfig(name="aihub:Google Pixel 5a 5G:int8").name == "aihub:Google Pixel 5a 5G:int8"
    (row,) = catalog.describe_devices(["aihub:Google Pixel 5a 5G:int8"])
    assert row.note.startswith("a real Google Pixel 5a 5G at Qualcomm AI Hub, int8")
    with pytest.raises(ConfigError, match=r"did you mean 'aihub:s24-ultra'"):
        catalog.find_device("aihub:s24-ulta")


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the user's configuration for the real client, with a token and the address of a hub."""
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "client.ini"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(url: str) -> None:
        settings = f"[api]\napi_token = t0ken\napi_url = {url}\nweb_url = {url}\nverbose = False\n"
        (tmp_path / "client.ini").write_text(settings)

    return write


def test_without_a_token_the_real_client_is_not_even_asked(configured: Callable[[str], None]) -> None:
    said = r"no token for Qualcomm AI Hub: get one at https://.*/account/, then: qai-hub configure --api_token TOKEN$"
    (row,) = catalog.describe_devices(["aihub:s24-ultra"])
    assert not row.available
    with pytest.raises(DeviceError, match=said):
        catalog.open_device("aihub:s24-ultra")
    assert check_device("aihub:s24-ultra").reason == row.lacking


@pytest.fixture
def unauthorized() -> Iterator[str]:
    """The address of a server on this machine that accepts no token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_real_client_with_a_token_that_is_not_accepted(
    configured: Callable[[str], None], unauthorized: str
) -> None:
    configured(unauthorized)
    (row,) = catalog.describe_devices(["aihub:s24-ultra"])
    assert row.available
    assert check_device("aihub:s24-ultra").reason.startswith("Qualcomm AI Hub does not accept the token")


def test_the_real_client_where_no_hub_is(
    configured: Callable[[str], None], unauthorized: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens on a port whose server is gone."""
    configured("http://127.0.0.1:9")
    monkeypatch.setattr("qai_hub.util.session.MAX_RETRIES", 0)
    monkeypatch.setattr("netgraft.devices.qualcomm.aihub_client.WAITS_S", (0.0,))
    told = check_device("aihub:s24-ultra").reason
    assert told.startswith("Qualcomm AI Hub cannot be reached: Internal API failure. Could not connect to")
    assert told.endswith("the same command continues")
