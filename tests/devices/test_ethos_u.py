"""Arm NPUs, estimated for real by Arm's compiler."""

import copy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.arm import ethos_u, vela
from netgraft.devices.arm.ethos_u import EstimatedRunnable, EthosUDevice
from netgraft.devices.arm.host_core import EFFICIENCY, HANDOVER_CYCLES, Fallback, find_fallbacks
from netgraft.devices.arm.vela import NPUS
from netgraft.devices.device import ReducedDevice, Unsupported
from netgraft.devices.measure import MeasureProtocol, measure_modules
from netgraft.devices.tflite.convert import quantize_tflite, tflite_bytes
from netgraft.devices.tflite.litert import open_interpreter
from netgraft.errors import ConfigError, DeviceError, ExportError
from netgraft.nets.blocks import deploy
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.operators import OPERATORS
from netgraft.sites import find_sites

pytestmark = pytest.mark.skipif(
    find_spec("ethosu") is None or find_spec("litert_torch") is None, reason="needs netgraft[ethos-u]"
)

CONV = nn.Conv2d(16, 16, 3, padding=1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Root(nn.Module):
    """A convolution and a square root, which no Ethos-U computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(torch.relu(self.conv(x)) + 1)


def compiled(device: EthosUDevice, module: nn.Module, x: Tensor) -> EstimatedRunnable:
    outcome = device.compile(module, x)
    assert isinstance(outcome, EstimatedRunnable), outcome
    return outcome


@pytest.mark.parametrize("name", list(NPUS))
def test_every_npu_estimates_a_convolution_within_its_peak(name: str) -> None:
    """The last number of a name is its multiply-accumulates a cycle: faster than that is impossible."""
    macs = 16 * 16 * 9 * 32 * 32
    estimate = compiled(EthosUDevice(name), CONV, noise(1, 16, 32, 32)).estimate
    clock_hz = {"u55": 500e6, "u65": 1e9, "u85": 1e9}[name.partition("-")[0]]
    assert estimate.latency_ms >= 1e3 * macs / int(name.partition("-")[2]) / clock_hz
    assert estimate.fallbacks == ()
    assert estimate.fallback_ms == 0
    assert estimate.latency_ms == estimate.npu_ms
    assert sum(estimate.cycles.values()) == pytest.approx(estimate.npu_ms * clock_hz / 1e3, rel=0.01)


def test_the_measured_latency_is_the_estimate_with_equal_quartiles() -> None:
    device, x = EthosUDevice("u55-128"), noise(1, 16, 32, 32)
    expected = compiled(device, CONV, x).estimate.latency_ms
    latency = measure_modules(device, {"conv": (CONV, x)}, MeasureProtocol(samples=3))["conv"]
    assert not isinstance(latency, Unsupported)
    for found in (latency.q25_ms, latency.median_ms, latency.q75_ms, latency.cpu_median_ms):
        assert found == pytest.approx(expected, rel=1e-9)
    assert latency.contended == 0


def test_what_was_compiled_before_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An equal module is known by its content; other weights or another size are another network."""
    calls = []
    compile_for = vela.compile_for
    monkeypatch.setattr(ethos_u, "compile_for", lambda *given: calls.append(given) or compile_for(*given))
    device, x = EthosUDevice("u55-128"), noise(1, 16, 8, 8)
    first, again = compiled(device, CONV, x), compiled(device, copy.deepcopy(CONV), x)
    assert len(calls) == 1
    assert again.latency_ms == first.latency_ms
    np.testing.assert_array_equal(again.run(x.numpy()), first.run(x.numpy()))
    other = copy.deepcopy(CONV)
    with torch.no_grad():
        other.weight.mul_(2)
    compiled(device, other, x)
    compiled(device, CONV, noise(1, 16, 16, 16))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("block", name) for name in ("naf_relu", "naf_no_norm", "conv3_res", "conv3", "conv3_relu")),
        *(("down", "strided3"), ("up", "transposed"), ("up", "resize")),
    ],
)
def test_operators_for_npus_fall_back_nowhere(kind: str, name: str) -> None:
    """Among them attention's mean over the whole map, and the leaky ReLU, which the quantizer must know."""
    torch.manual_seed(0)
    teacher = NafNet(NafNetShape(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    start_residuals(teacher, 0.3)
    site = next(site for site in find_sites(teacher, (32, 32)) if site.kind == kind)
    started = deploy(OPERATORS[name].start(teacher.get_submodule(site.path), site))
    # Between convolutions, as in a network: its ends are given as 8 bits.
    network = nn.Sequential(
        nn.Conv2d(site.in_channels, site.in_channels, 1), started, nn.Conv2d(site.out_channels, site.out_channels, 1)
    )
    x = site.example((32, 32))
    content = quantize_tflite(tflite_bytes(network, x), x.numpy())
    for npu in ("u55-128", "u85-256"):
        assert EthosUDevice(npu).estimate(content).fallback_counts == {}


def test_a_network_computes_what_torch_does_up_to_8_bits(block: nn.Module) -> None:
    x = noise(1, 8, 16, 24)
    runnable = compiled(EthosUDevice("u85-256"), block, x)
    with torch.no_grad():
        reference = block.eval()(x).numpy()
    error = np.square(runnable.run(x.numpy()) - reference).mean() / np.square(reference).mean()
    assert 1e-6 < error < 1e-2
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_an_operator_that_falls_back_is_named_counted_and_charged(caplog: pytest.LogCaptureFixture) -> None:
    """A square root of 8 x 32 x 32 values: one read and one written byte each, a quarter of 8 bytes a cycle."""
    estimate = compiled(EthosUDevice("u85-256"), Root(), noise(1, 8, 32, 32)).estimate
    assert estimate.fallback_counts == {"SQRT": 1}
    (root,) = estimate.fallbacks
    assert root == Fallback(operator="SQRT", work=8192, size_bytes=2 * 8192)
    assert root.cycles == 2 * 8192 / 8 / 0.25 + 10_000
    assert estimate.fallback_ms == pytest.approx(1e3 * root.cycles / 1e9)
    assert estimate.latency_ms == estimate.npu_ms + estimate.fallback_ms
    assert "1 operators fall back from the NPU to the host" in caplog.text
    assert "1 SQRT" in caplog.text


@pytest.mark.parametrize(
    ("conv", "operator", "macs"),
    [
        (nn.Conv2d(8, 4, 3, padding=1), "CONV_2D", 4 * 16 * 16 * 8 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), "DEPTHWISE_CONV_2D", 8 * 16 * 16 * 9),
    ],
)
def test_a_convolution_on_the_host_would_be_charged_by_its_macs(conv: nn.Module, operator: str, macs: int) -> None:
    x = noise(1, 8, 16, 16)
    interpreter = open_interpreter(quantize_tflite(tflite_bytes(conv, x), x.numpy()))
    names = [tensor["name"] for tensor in interpreter.get_tensor_details()]
    (fallback,) = [found for found in find_fallbacks(interpreter, names) if found.operator == operator]
    assert fallback.work == macs
    assert fallback.cycles == macs / 8 / EFFICIENCY + HANDOVER_CYCLES


def test_the_description_says_that_nothing_was_measured() -> None:
    description = EthosUDevice("u65-512").description
    assert "estimate" in description.backend
    assert "ethos-u65-512, Ethos_U65_High_End, Dedicated_Sram" in description.hardware
    assert "Cortex-M55" in description.hardware
    assert description.precision == "int8"


def test_an_unknown_npu_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"unknown Ethos-U 'u85-2028': did you mean 'u85-2048'"):
        EthosUDevice("u85-2028")


def test_a_module_that_the_converter_rejects_is_a_row() -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = EthosUDevice("u55-128").compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert "DataDependent" in outcome.reason


def test_bytes_that_are_no_network_are_rejected() -> None:
    with pytest.raises(ExportError, match=r"vela rejects the network: ."):
        vela.compile_for(NPUS["u55-128"], b"no network")


def vela_is(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another program take the compiler's place; %s in it is the folder for the results."""
    run = subprocess.run

    def other(command: list[str], **options: Any) -> Any:
        folder = command[command.index("--output-dir") + 1]
        return run([sys.executable, "-c", code.replace("%s", folder)], **options)

    monkeypatch.setattr(vela.subprocess, "run", other)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "vela rejects the network: it died with exit code -6"),
        ("raise SystemExit('Error: Invalid tflite file')", "vela rejects the network: Error: Invalid tflite file"),
        ("pass", "vela left no estimate that can be read: StopIteration"),
        ("open('%s/a_summary_b.csv', 'w').close()", "vela left no estimate that can be read: ValueError"),
    ],
)
def test_a_compiler_that_dies_or_leaves_nothing_is_a_row(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vela_is(code, monkeypatch)
    outcome = EthosUDevice("u55-128").compile(CONV, noise(1, 16, 8, 8))
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith(reason)


def test_a_compiler_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    vela_is("import time; time.sleep(60)", monkeypatch)
    monkeypatch.setattr(vela, "TIMEOUT_S", 0.5)
    outcome = EthosUDevice("u55-128").compile(CONV, noise(1, 16, 8, 8))
    assert outcome == Unsupported("vela did not finish within 0.5 seconds")


@pytest.mark.parametrize("module", ["ethosu", "litert_torch"])
def test_a_missing_package_says_how_to_get_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeviceError, match=r"pip install 'netgraft\[ethos-u\]'"):
        EthosUDevice("u55-128")


def test_compiling_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compiled(EthosUDevice("u55-128"), CONV, noise(1, 16, 8, 8))
    assert not list(tmp_path.iterdir())


def test_a_form_is_the_file_in_8_bits_and_what_the_compiler_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first computes as a compiled network does, for the same estimate; it is compiled once."""
    device, x = EthosUDevice("u55-128"), noise(1, 16, 8, 8)
    expected = compiled(device, CONV, x)
    device = EthosUDevice("u55-128")
    files = device.form(CONV, x, x)
    assert list(files) == ["int8.tflite", "ethos-u55-128.tflite"]
    assert files["int8.tflite"][4:8] == files["ethos-u55-128.tflite"][4:8] == b"TFL3"
    assert b"ethos-u" in files["ethos-u55-128.tflite"]
    assert not isinstance(device, ReducedDevice)
    vela_is("raise SystemExit('not again')", monkeypatch)
    path = tmp_path / "network.int8.tflite"
    path.write_bytes(files["int8.tflite"])
    runnable = device.load_form(path)
    assert isinstance(runnable, EstimatedRunnable)
    assert runnable.estimate.latency_ms == expected.estimate.latency_ms
    np.testing.assert_array_equal(runnable.run(x.numpy()), expected.run(x.numpy()))
    path = tmp_path / "other.int8.tflite"
    path.write_bytes(quantize_tflite(tflite_bytes(CONV, 2 * x), 2 * x.numpy()))
    with pytest.raises(DeviceError, match=r"other\.int8\.tflite: vela rejects the network: not again"):
        device.load_form(path)
