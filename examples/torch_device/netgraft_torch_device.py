"""PyTorch itself as a device, without any export: the smallest backend that measures something real."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netgraft.devices import Clock, DeviceDescription, OnnxRuntimeDevice, Runnable, SystemClock, Unsupported
from netgraft.errors import DeviceError

Array = NDArray[np.float32]


class TorchRunnable:
    """A module in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module: nn.Module | None = module

    def run(self, x: Array) -> Array:
        if self._module is None:
            raise DeviceError("this network was closed: compile it again")
        with torch.inference_mode():
            y: Array = self._module(torch.from_numpy(x)).numpy()
        return y

    def close(self) -> None:
        self._module = None


class TorchDevice:
    """PyTorch on this machine's processor, fp32."""

    def __init__(self, threads: int) -> None:
        if threads != torch.get_num_threads():
            raise DeviceError(f"PyTorch's threads belong to the whole process: start it with OMP_NUM_THREADS={threads}")
        self.threads = threads

    @property
    def description(self) -> DeviceDescription:
        # The same machine as another device's; only the software differs.
        machine = OnnxRuntimeDevice(self.threads).description
        return dataclasses.replace(machine, backend="torch", backend_version=torch.__version__)

    @property
    def clock(self) -> Clock:
        return SystemClock()

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        runnable = TorchRunnable(copy.deepcopy(module).eval())
        try:
            runnable.run(example.numpy())
        except RuntimeError as error:
            # A network that this device does not run is a row in the report, not the end of the search.
            return Unsupported(f"PyTorch does not run it: {error}")
        return runnable
