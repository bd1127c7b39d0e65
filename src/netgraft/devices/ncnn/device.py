"""ncnn on this machine's processor: a runtime for phones without dependencies."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from netgraft.devices.device import (
    Array,
    Clock,
    DeviceDescription,
    Runnable,
    Unsupported,
    host_cores,
    host_hardware,
    host_system,
    read_network,
)
from netgraft.devices.measure import SystemClock
from netgraft.devices.ncnn.convert import INSTALL, NcnnFiles, ncnn_files
from netgraft.devices.onnx.device import checked
from netgraft.devices.quiet import silent
from netgraft.errors import DeviceError

REDUCED = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed")
"""Options under which single precision is none."""


class NcnnRunnable:
    """A network in ncnn.

    Raises:
        DeviceError: ncnn is not installed or refuses the network.
    """

    def __init__(self, files: NcnnFiles, threads: int) -> None:
        ncnn = _import_ncnn()
        self._mat = ncnn.Mat
        network = ncnn.Net()
        network.opt.num_threads = threads
        network.opt.use_vulkan_compute = False
        for option in REDUCED:
            setattr(network.opt, option, False)
        with tempfile.TemporaryDirectory() as folder, silent():
            param, weights = Path(folder) / "network.param", Path(folder) / "network.bin"
            param.write_bytes(files.param)
            weights.write_bytes(files.weights)
            refused = network.load_param(str(param)) or network.load_model(str(weights))
        if refused:
            raise DeviceError(f"ncnn refuses the network: {_unknown(files.param) or f'error {refused}'}")
        ends = [network.input_names(), network.output_names()]
        if [len(names) for names in ends] != [1, 1]:
            raise DeviceError(f"ncnn refuses the network: it has {len(ends[0])} inputs and {len(ends[1])} outputs")
        (self._input,), (self._output,) = ends
        self._network: Any = network

    def run(self, x: Array) -> Array:
        if self._network is None:
            raise DeviceError("this network was closed: compile it again")
        extractor = self._network.create_extractor()
        x = np.ascontiguousarray(x[0])
        failed = extractor.input(self._input, self._mat(x))
        # Asking a network for its output that has no input takes the process down.
        failed, y = (failed, None) if failed else extractor.extract(self._output)
        if failed:
            raise DeviceError(f"ncnn failed with error {failed}")
        return np.array(y, np.float32)[None]

    def close(self) -> None:
        self._network = None


class NcnnDevice:
    """ncnn on the processor, in single precision, one network at a time. threads: threads that one may use.

    Raises:
        DeviceError: ncnn is not installed, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1) -> None:
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        _import_ncnn()
        self.threads = threads

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend="ncnn",
            backend_version=metadata.version("ncnn"),
            hardware=host_hardware(),
            cores=host_cores(),
            precision="fp32",
            threads=self.threads,
            system=host_system(),
        )

    @property
    def clock(self) -> Clock:
        return SystemClock()

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. A network that computes something else than in torch is refused as well."""
        return checked(lambda: NcnnRunnable(ncnn_files(module, example), self.threads), module, example, "fp32")

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        """See :class:`FormDevice`."""
        files = ncnn_files(module, example)
        return {"param": files.param, "bin": files.weights}

    def load_form(self, path: Path) -> Runnable:
        """See :class:`FormDevice`."""
        return NcnnRunnable(NcnnFiles(read_network(path), read_network(path.with_suffix(".bin"))), self.threads)


def _unknown(param: bytes) -> str:
    """The layers that the converter passed on as PyTorch names them, since ncnn has none for them."""
    kinds = {line.split()[0] for line in param.decode(errors="replace").splitlines() if line.strip()}
    unknown = sorted(kind for kind in kinds if "::" in kind or "." in kind)
    return f"it has no {', '.join(unknown)}" if unknown else ""


def _import_ncnn() -> Any:
    try:
        import ncnn
    except ImportError as error:
        raise DeviceError(f"ncnn is missing ({error}): {INSTALL}") from error
    return ncnn
