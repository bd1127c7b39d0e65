"""What is OpenVINO's own; what it has in common with other runtimes is tested in test_onnx_device."""

import subprocess
import sys

from netgraft.devices.openvino import OpenVinoDevice, _reason


def test_the_description_tells_devices_apart() -> None:
    one, two = OpenVinoDevice(1).description, OpenVinoDevice(2).description
    assert one.backend.startswith("openvino")
    assert one.as_dict() | {"threads": 2} == two.as_dict()


def test_opening_the_device_reports_nothing_to_the_vendor() -> None:
    """In a process of its own: its telemetry would send from the first import on, so it must not be loaded at all."""
    code = (
        "import sys; from netgraft.devices.openvino import OpenVinoDevice; OpenVinoDevice(); "
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reason_is_what_went_wrong_and_not_where() -> None:
    error = RuntimeError(
        "Exception from src/inference/src/cpp/core.cpp:105:\n"
        "Check 'shape' failed at src/plugins/intel_cpu/src/infer_request.cpp:669:\n"
        "The input tensor size is not equal to the model input type\n\n"
    )
    assert _reason(error) == "The input tensor size is not equal to the model input type"
    assert _reason(RuntimeError("")) == "RuntimeError"
