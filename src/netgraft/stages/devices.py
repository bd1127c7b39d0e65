"""The devices of a run, and what they take for every operator and a few whole networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from itertools import combinations

from netgraft.devices import HERE, place_of
from netgraft.errors import ConfigError
from netgraft.stages.surrogates import SurrogateStages
from netgraft.stages.turns import Job, do_all
from netgraft.stages.whole import Bench

FLOATS = ("fp32", "bf16", "fp16")
"""Precisions without rounding to integers."""


class DeviceStages(SurrogateStages):
    """Measures on every device that the config names."""

    @cached_property
    def benches(self) -> tuple[Bench, ...]:
        """The devices; the first is the one whose figures stand for the run where there is room for one."""
        names = self.config.device.names
        return tuple(Bench(self, name, label=name if len(names) > 1 else "") for name in names)

    @property
    def bench(self) -> Bench:
        """The first device."""
        return self.benches[0]

    @property
    def several(self) -> bool:
        """Whether there are several devices."""
        return len(self.benches) > 1

    def open_devices(self) -> None:
        """Open all devices, so that what one lacks is not noticed after hours on another.

        Raises:
            ConfigError: two names stand for one device, or the student is to learn to be rounded and none rounds.
            DeviceError: what a device needs is missing.
        """
        do_all([Job(device=bench.label, place=HERE, do=partial(_open, bench)) for bench in self.benches])
        if self.config.finetune.quantized and all(b.device.description.precision in FLOATS for b in self.benches):
            names = " and ".join(bench.name for bench in self.benches)
            raise ConfigError(f"finetune.quantized trains for 8 bits, and {names} has none: leave it out")
        for one, other in combinations(self.benches, 2):
            if one.device.description == other.device.description:
                raise ConfigError(
                    f"{one.name} and {other.name} are the same device by all that tells: name one of them"
                )

    @cached_property
    def profiled(self) -> tuple[Bench, ...]:
        """The devices, measured: what every operator and a few whole networks cost there."""
        with self._timed("profile"):
            self.open_devices()
            self.on_devices(lambda bench: bench.block_sessions)
            # What threads would otherwise make at the same time.
            self.surrogates, self.calibration  # noqa: B018
            self.on_devices(lambda bench: bench.latency_table)
        return self.benches

    def on_devices(self, work: Callable[[Bench], object]) -> None:
        """Do something on every device: at the same time where they are separate machines, see :func:`do_all`."""
        do_all(
            [Job(device=bench.label, place=place_of(bench.device), do=partial(work, bench)) for bench in self.benches]
        )


def _open(bench: Bench) -> None:
    bench.device  # noqa: B018
