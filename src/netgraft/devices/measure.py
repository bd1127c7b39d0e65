"""The timing loop, the same for every backend.

What is compared is run in turns, in an order that changes from round to round, so that a slow minute of the
machine meets all of it alike. A short network is run several times inside one sample, so that the clock's
resolution does not matter. The statistics are the median and the quartiles; processor time stands beside wall
time, and tells which samples had to wait for a processor that was busy with something else. Those are repeated as
far as the protocol allows, and left out where the others suffice: what another process takes is not the network's.
A network on several threads uses more processor time than wall time, so that nothing can be told of it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from netgraft.devices.device import Array, Clock, Device, Estimated, Runnable, Unsupported
from netgraft.errors import DeviceError

if TYPE_CHECKING:
    # The loop runs on machines without torch too, see :mod:`netgraft.devices.far.worker`.
    from torch import Tensor, nn

K = TypeVar("K", bound=Hashable)
BoolArray = NDArray[np.bool_]

CONTENDED_RATIO = 1.25
"""A sample counts as contended when its wall time is more than this times its processor time."""
DRIFT_PERCENT = 10.0
"""Sessions between which the machine's speed changed by more than this do not compare."""
STABLE_RUNS = 3
"""Warm-up is over when this many runs in a row bring no new best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureProtocol:
    """How a latency is measured."""

    warmup_tolerance: float = 0.05
    """A run must beat the best before it by more than this share to count as still warming up."""
    warmup_max_seconds: float = 0.5
    """Warm-up of one network ends after this, stable or not."""
    samples: int = 30
    """Timing samples of each network that did not have to wait for a processor."""
    most_samples: float = 3.0
    """Sampling ends at this many times ``samples``, however many had to wait."""
    min_sample_ms: float = 2.0
    """A network is repeated inside one sample until the sample lasts about this long."""
    min_seconds: float = 0.0
    """Sampling of each network goes on until its samples add up to this."""
    seed: int = 0
    """Seed of the order in each round."""

    def __post_init__(self) -> None:
        if self.most_samples < 1:
            raise DeviceError(f"most_samples must be at least 1, got {self.most_samples:g}")
        if self.samples < 1:
            raise DeviceError(f"cannot measure with {self.samples} samples: ask for at least 1, better 20 or more")

    def as_dict(self) -> dict[str, float | int]:
        """Plain data, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long one run of a network takes."""

    median_ms: float
    """Median wall time."""
    q25_ms: float
    """Lower quartile of wall time."""
    q75_ms: float
    """Upper quartile of wall time."""
    cpu_median_ms: float
    """Median processor time, over all threads of the process."""
    runs: int
    """Timed runs behind these numbers; 0 where they are predicted, not measured."""
    contended: float
    """Share of samples that waited for a busy processor, 0 to 1: above two thirds, distrust the wall times."""

    @property
    def predicted(self) -> bool:
        """Whether nothing was run: the median is foreseen from other devices, the quartiles are its uncertainty."""
        return self.runs == 0


@runtime_checkable
class TimingDevice(Device, Protocol):
    """A device that is not here, and times its networks where they run."""

    def time(
        self, runnables: Mapping[K, Runnable], inputs: Mapping[K, Array], protocol: MeasureProtocol
    ) -> dict[K, Latency | Unsupported]:
        """Time networks that it compiled in one session, in turns, as :func:`measure` does.

        A network that takes the device down is unsupported, with the reason.

        Raises:
            DeviceLost: the device went away and did not come back.
        """
        ...


@runtime_checkable
class QueueDevice(TimingDevice, Protocol):
    """One that takes long over a network, but works on many at a time."""

    def announce(self, modules: Sequence[tuple[nn.Module, Tensor]]) -> None:
        """Begin with (module, example input) pairs that it will be asked to compile.

        Raises:
            DeviceError: the device is out of order.
        """
        ...


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        return time.perf_counter()

    def cpu(self) -> float:
        return time.process_time()


@dataclass(slots=True, kw_only=True)
class Samples:
    """What was seen of a network in a session."""

    repeats: int = 1
    """Runs inside one sample."""
    wall_ms: list[float] = field(default_factory=list)
    """Wall time of one run in each sample."""
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time of one run in each sample, over all threads."""

    def as_dict(self) -> dict[str, int | list[float]]:
        """Plain data, for JSON."""
        return dataclasses.asdict(self)

    def add(self, wall_ms: float, cpu_ms: float) -> None:
        """Note another sample."""
        self.wall_ms.append(wall_ms)
        self.cpu_ms.append(cpu_ms)

    def waited(self) -> BoolArray:
        """(samples,) which of them had to wait for a processor."""
        return np.asarray(self.wall_ms) > CONTENDED_RATIO * np.asarray(self.cpu_ms)

    def done(self, protocol: MeasureProtocol) -> bool:
        """Whether they are what the protocol asks for."""
        most = len(self.wall_ms) >= protocol.most_samples * protocol.samples
        enough = most or int((~self.waited()).sum()) >= protocol.samples
        return enough and self.repeats * sum(self.wall_ms) >= 1e3 * protocol.min_seconds

    def latency(self, protocol: MeasureProtocol) -> Latency:
        """Of the samples that did not wait, if they are as many as were asked for; otherwise of all."""
        waited = self.waited()
        used = ~waited if int((~waited).sum()) >= protocol.samples else np.ones_like(waited)
        wall, cpu = np.asarray(self.wall_ms)[used], np.asarray(self.cpu_ms)[used]
        q25, median, q75 = (float(value) for value in np.quantile(wall, [0.25, 0.5, 0.75]))
        return Latency(
            median_ms=median,
            q25_ms=q25,
            q75_ms=q75,
            cpu_median_ms=float(np.median(cpu)),
            runs=self.repeats * len(wall),
            contended=float(np.mean(waited)),
        )


@dataclass(slots=True, kw_only=True)
class Meter:
    """Takes samples of a network."""

    name: object
    runnable: Runnable
    x: Array
    clock: Clock
    samples: Samples = field(default_factory=Samples)

    def run(self, repeats: int) -> tuple[float, float]:
        """Wall and processor time of one run, in ms, as the average over ``repeats`` of them."""
        wall, cpu = self.clock.wall(), self.clock.cpu()
        try:
            for _ in range(repeats):
                self.runnable.run(self.x)
        except DeviceError as error:
            raise DeviceError(f"while timing {self.name}: {error}") from error
        cpu_s, wall_s = self.clock.cpu() - cpu, self.clock.wall() - wall
        return 1e3 * wall_s / repeats, 1e3 * cpu_s / repeats

    def warm_up(self, protocol: MeasureProtocol) -> None:
        """Run until the time does not fall any more, then decide how many runs make up a sample."""
        until = self.clock.wall() + protocol.warmup_max_seconds
        best, since_best = math.inf, 0
        while since_best < STABLE_RUNS:
            ms, _ = self.run(1)
            # Only falling times are warm-up: a run that was slowed down by another process proves nothing.
            since_best = 0 if ms < (1 - protocol.warmup_tolerance) * best else since_best + 1
            best = min(best, ms)
            if self.clock.wall() >= until:
                break
        if not self.samples.wall_ms:
            # The samples of one network are averages over as many runs each.
            self.samples.repeats = max(1, math.ceil(protocol.min_sample_ms / best)) if best > 0 else 1

    def sample(self) -> None:
        """Take one sample."""
        self.samples.add(*self.run(self.samples.repeats))


def measure(
    runnables: Mapping[K, Runnable],
    inputs: Mapping[K, Array],
    protocol: MeasureProtocol,
    clock: Clock,
    on_round: Callable[[int], None] | None = None,
) -> dict[K, Latency]:
    """Time all the networks in one session, in turns.

    inputs: for each runnable its (1, c, h, w) float32 input. ``on_round`` is told the rounds done so far. A network
    whose latency is an estimate (:class:`Estimated`) is not run: its estimate is its one sample.

    Raises:
        DeviceError: a network fails while it runs, or takes no time at all although it must reach
        ``min_seconds``.
    """
    estimated = {name: _exact(one.latency_ms) for name, one in runnables.items() if isinstance(one, Estimated)}
    meters = {
        name: Meter(name=name, runnable=runnable, x=inputs[name], clock=clock)
        for name, runnable in runnables.items()
        if name not in estimated
    }
    for meter in meters.values():
        meter.warm_up(protocol)
    sample_in_turns(list(meters.values()), protocol, on_round)
    return {name: estimated.get(name) or meters[name].samples.latency(protocol) for name in runnables}


def _exact(latency_ms: float) -> Latency:
    """A latency that is known without timing."""
    return Latency(
        median_ms=latency_ms, q25_ms=latency_ms, q75_ms=latency_ms, cpu_median_ms=latency_ms, runs=1, contended=0.0
    )


def sample_in_turns(
    meters: Sequence[Meter], protocol: MeasureProtocol, on_round: Callable[[int], None] | None = None
) -> None:
    """Sample networks that are warm until each has what the protocol asks for; samples that they have count.

    Raises:
        DeviceError: as :func:`measure`.
    """
    rng = np.random.default_rng(protocol.seed)
    rounds, waiting = 0, [meter for meter in meters if not meter.samples.done(protocol)]
    while waiting:
        _sample_all(waiting, rng.permutation(len(waiting)).tolist())
        rounds += 1
        if on_round is not None:
            on_round(rounds)
        waiting = [meter for meter in waiting if not meter.samples.done(protocol)]
        _refuse_timeless(waiting, protocol)


def time_networks(
    device: Device, runnables: Mapping[K, Runnable], inputs: Mapping[K, Array], protocol: MeasureProtocol
) -> dict[K, Latency | Unsupported]:
    """Time networks of this device in one session: by the loop here, or the device's own where it has one.

    Raises:
        DeviceError: as :func:`measure`.
    """
    if isinstance(device, TimingDevice):
        return device.time(runnables, inputs, protocol)
    return dict(measure(runnables, inputs, protocol, device.clock))


def measure_modules(
    device: Device,
    modules: Mapping[K, tuple[nn.Module, Tensor]],
    protocol: MeasureProtocol,
    on_compiled: Callable[[K], None] | None = None,
    compile_one: Callable[[K, nn.Module, Tensor], Runnable | Unsupported] | None = None,
) -> dict[K, Latency | Unsupported]:
    """Compile every (module, example input) and time all that the device supports in one session.

    ``on_compiled`` is told each key when its module is ready, or refused. ``compile_one`` compiles in place of
    the device's own method, for who knows a shorter way.

    Raises:
        DeviceError: the device is out of order, or fails in the middle.
    """
    compiled: dict[K, Runnable | Unsupported] = {}
    runnables: dict[K, Runnable] = {}
    try:
        for key, (module, example) in modules.items():
            outcome = device.compile(module, example) if compile_one is None else compile_one(key, module, example)
            compiled[key] = outcome
            if not isinstance(outcome, Unsupported):
                runnables[key] = outcome
            if on_compiled is not None:
                on_compiled(key)
        inputs = {key: modules[key][1].numpy() for key in runnables}
        latencies = time_networks(device, runnables, inputs, protocol)
    finally:
        for runnable in runnables.values():
            runnable.close()
    return {key: outcome if isinstance(outcome, Unsupported) else latencies[key] for key, outcome in compiled.items()}


def drift_percent(reference_ms: Mapping[K, float]) -> dict[K, float]:
    """How much slower the machine was in each session than in the middle one, from one block that all of them timed."""
    middle_ms = float(np.median(list(reference_ms.values()))) if reference_ms else 1.0
    return {session: 100 * (ms / middle_ms - 1) for session, ms in reference_ms.items()}


def _sample_all(meters: Sequence[Meter], order: Sequence[int]) -> None:
    for i in order:
        meters[i].sample()


def _refuse_timeless(waiting: Sequence[Meter], protocol: MeasureProtocol) -> None:
    for meter in waiting:
        if len(meter.samples.wall_ms) >= protocol.samples and sum(meter.samples.wall_ms) <= 0:
            raise DeviceError(f"{meter.name} takes no time on this clock: set min_seconds to 0 to measure it")
