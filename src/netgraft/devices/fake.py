"""A device without hardware: costs follow from the network, and its clock moves only when a network runs.

It serves tests, and dry runs of the whole pipeline that must not depend on the machine.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from netgraft.devices.device import Array, DeviceDescription, Runnable, Unsupported
from netgraft.errors import DeviceError
from netgraft.nets.macs import count_macs


class FakeClock:
    """A clock that somebody has to move."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def wall(self) -> float:
        return self.wall_s

    def cpu(self) -> float:
        return self.cpu_s

    def advance(self, wall_ms: float, cpu_ms: float | None = None) -> None:
        """Move on; processor time moves as far as wall time unless told otherwise."""
        self.wall_s += wall_ms / 1e3
        self.cpu_s += (wall_ms if cpu_ms is None else cpu_ms) / 1e3


class FakeRunnable:
    """Computes what the module computes, and moves the clock by a fixed cost."""

    def __init__(self, module: nn.Module, cost_ms: float, clock: FakeClock) -> None:
        self.cost_ms = cost_ms
        self._module: nn.Module | None = module
        self._clock = clock

    def run(self, x: Array) -> Array:
        if self._module is None:
            raise DeviceError("this network was closed: compile it again")
        with torch.no_grad():
            y: Array = self._module(torch.from_numpy(x)).numpy()
        self._clock.advance(self.cost_ms)
        return y

    def close(self) -> None:
        self._module = None


class FakeDevice:
    """A run costs ``overhead_ms`` plus ``ms_per_gmac`` for each 10^9 multiply-accumulates.

    refuses: class names of modules; a network that contains one is unsupported.
    """

    def __init__(self, *, ms_per_gmac: float = 20.0, overhead_ms: float = 0.0, refuses: tuple[str, ...] = ()) -> None:
        self.ms_per_gmac = ms_per_gmac
        self.overhead_ms = overhead_ms
        self.refuses = refuses
        self.clock = FakeClock()

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend="fake",
            backend_version="1",
            hardware=f"{self.ms_per_gmac:g} ms/GMAC + {self.overhead_ms:g} ms",
            cores=1,
            precision="fp32",
            threads=1,
            system="none",
        )

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        for part in module.modules():
            if type(part).__name__ in self.refuses:
                return Unsupported(f"the fake device refuses {type(part).__name__}")
        _, channels, height, width = example.shape
        gmacs = count_macs(module, (height, width), channels) / 1e9
        cost_ms = self.overhead_ms + self.ms_per_gmac * gmacs
        return FakeRunnable(copy.deepcopy(module).eval(), cost_ms, self.clock)
