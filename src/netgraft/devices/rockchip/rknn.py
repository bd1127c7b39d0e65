"""Rockchip's NPUs without a board: its compiler makes their files, and its simulator tells what they compute.

rknn-toolkit2 pins an old PyTorch and NumPy, so that it runs in a Python of its own, which the environment variable
``NETGRAFT_RKNN_PYTHON`` names. There is no latency without a board: this is an export with a check, and no device that
a search could use. Networks in single precision compute in half precision there.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from netgraft.devices.compiler import Compiled
from netgraft.devices.device import Array, Unsupported
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.devices.parity import disagreement
from netgraft.errors import DeviceError, ExportError

PYTHON = "NETGRAFT_RKNN_PYTHON"
INSTALL = f"pip install rknn-toolkit2 in a Python 3.11 of its own, and name that python in {PYTHON}"
CHIPS = ("rk3562", "rk3566", "rk3568", "rk3576", "rk3588")
TIMEOUT_S = 900
"""A compiler that has not finished by then hangs."""
ASKING_S = 60


class RknnCompiler:
    """Compiles for the NPU of a chip, one of :data:`CHIPS`. precision: fp16 or int8.

    Raises:
        DeviceError: the compiler is not installed.
    """

    def __init__(self, chip: str, precision: str = "fp16") -> None:
        assert chip in CHIPS, chip
        lack = lacking_toolkit()
        if lack:
            raise DeviceError(f"{lack}: {INSTALL}")
        self.chip = chip
        self.precision = precision

    @property
    def target(self) -> str:
        """See :class:`~netgraft.devices.compiler.Compiler`."""
        return f"Rockchip {self.chip.upper()}"

    def compile(
        self, module: nn.Module, example: Tensor, calibration: Tensor | None = None, stem: str = "network"
    ) -> Compiled | Unsupported:
        """See :class:`~netgraft.devices.compiler.Compiler`."""
        inputs = calibration_inputs(example, calibration)
        try:
            return self._compiled(onnx_bytes(module, example, fast_forms=False), example.numpy(), inputs.numpy(), stem)
        except ExportError as error:
            return Unsupported(str(error))

    def compile_graph(self, content: bytes, calibration: Array | None = None, stem: str = "network") -> Compiled:
        """See :class:`~netgraft.devices.compiler.GraphCompiler`."""
        if calibration is not None:
            return self._compiled(content, calibration[:1], calibration, stem)
        if self.precision == "int8":
            raise ExportError("8 bits need inputs to calibrate on")
        shape = onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim
        noise = np.random.default_rng(0).random([side.dim_value for side in shape], np.float32)
        return self._compiled(content, noise, noise, stem)

    def _compiled(self, content: bytes, x: Array, calibration: Array, stem: str) -> Compiled:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "source.onnx").write_bytes(content)
            np.save(folder / "x.npy", x)
            np.save(folder / "calibration.npy", calibration)
            self._run(folder)
            made, restored = (folder / "network.rknn").read_bytes(), np.load(folder / "y.npy")
        reference = _reference(content, x)
        wrong = disagreement(restored, reference, self.precision)
        if wrong is not None:
            raise ExportError(f"as its simulator computes it, the network {wrong}")
        off = float(np.abs(restored - reference).max())
        return Compiled(files={f"{stem}.rknn": made}, note=f"in its simulator it differs from fp32 by up to {off:.2g}")

    def _run(self, folder: Path) -> None:
        worker = Path(__file__).with_name("rknn_worker.py")
        command = [os.environ[PYTHON], "-P", str(worker), str(folder), self.chip, self.precision]
        try:
            # It leaves files of its own where it is started.
            outcome = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"Rockchip's compiler did not finish within {TIMEOUT_S} seconds") from error
        except OSError as error:
            raise DeviceError(f"{PYTHON}: {command[0]} does not run: {error.strerror or error}") from error
        if outcome.returncode != 0 or not (folder / "y.npy").is_file():
            said = [line.strip() for line in outcome.stderr.splitlines() if line.strip()]
            complaint = said[-1] if said else f"it died with exit code {outcome.returncode}"
            raise ExportError(f"Rockchip's compiler rejects the network: {complaint}")


def lacking_toolkit() -> str:
    """What this machine lacks to compile; empty if nothing."""
    python = os.environ.get(PYTHON, "")
    return _lacking(python) if python else "rknn-toolkit2 not installed"


@cache
def _lacking(python: str) -> str:
    asked = [python, "-c", "import importlib.util as found; raise SystemExit(found.find_spec('rknn') is None)"]
    try:
        outcome = subprocess.run(asked, capture_output=True, timeout=ASKING_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PYTHON}: {python} does not run ({type(error).__name__})"
    return f"{PYTHON}: {python} has no rknn-toolkit2" if outcome.returncode else ""


def _reference(content: bytes, x: Array) -> Array:
    """What the network computes in single precision."""
    runnable = OnnxRuntimeDevice().open(content)
    try:
        return runnable.run(x)
    finally:
        runnable.close()
