"""Android phones, through LiteRT's ``benchmark_model``: the phone tells how long a network takes, not what it computes.

Each sample is one call of the benchmark, the mean of a few runs after its own warm-up; the calls for all networks
take turns. A round during which the phone was slowing itself down does not count: it rests, and the round is
repeated. What a file computes is checked here, by LiteRT on this machine's processor. The benchmark tells no
processor time, so that wall time stands in its place.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from netgraft.devices.device import Array, Clock, DeviceDescription, Runnable, Unsupported
from netgraft.devices.fake import FakeClock
from netgraft.devices.far.adb import THERMAL, Hung, Phone, local_file
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.measure import Latency, MeasureProtocol, Samples
from netgraft.devices.onnx.device import checked
from netgraft.devices.tflite.convert import quantize_tflite, tflite_bytes
from netgraft.devices.tflite.litert import TfliteRunnable
from netgraft.errors import DeviceError, DeviceLost

K = TypeVar("K", bound=Hashable)

BENCHMARK = "/data/local/tmp/benchmark_model"
"""Where LiteRT's instructions put it on a phone."""
BENCHMARK_VARIABLE = "NETGRAFT_BENCHMARK_MODEL"
"""Names a file here that is sent to the phone instead."""
TRIES = 2
"""What went wrong so often is not tried again."""
MOST_LOSSES = 5
"""A phone that comes back and goes again more often than this in one call has gone."""
SAMPLE_MS = 50.0
"""A call runs a network until that lasts about this long: starting the benchmark takes longer still."""
MOST_RUNS = 500
"""Of a network in one call."""
INFERENCE = re.compile(r"Inference timings in us:.*Inference \(avg\): ([-+.\deE]+|nan|inf)")
PARTLY = re.compile(r"graph will be partially executed by the delegate(.*)")
NOT_AT_ALL = "will not be executed by the delegate"
ABOUT = "getprop ro.product.model; getprop ro.soc.model; getprop ro.build.version.release; nproc; uname -m"

log = logging.getLogger(__name__)


class AndroidRunnable:
    """A network on a phone; what it computes is computed here."""

    def __init__(self, device: AndroidDevice, content: bytes) -> None:
        self.path = device.phone.push(content)
        """Of its file on the phone."""
        self._device = device
        self._runnable = TfliteRunnable(content, threads=1)

    def run(self, x: Array) -> Array:
        y = self._runnable.run(x)
        self._device.advance(self._device.sample_ms(self.path, runs=1))
        return y

    def close(self) -> None:
        self._runnable.close()


@dataclass(slots=True, kw_only=True)
class _Row:
    """A network in the session."""

    path: str
    samples: Samples = field(default_factory=Samples)
    refused: Unsupported | None = None


class AndroidDevice:
    """LiteRT on an Android phone, one network at a time.

    serial: adb's for the phone; empty for the only one. threads: threads that one network may use. precision:
    ``fp32`` or ``int8``. gpu: whether LiteRT's GPU delegate runs what it can, in ``fp32``. rest_s, rest_step_s: how
    long the phone may rest when it is hot, and how often it is looked at meanwhile.

    Raises:
        DeviceError: no such phone is attached, or it has no benchmark; LiteRT is not installed here.
    """

    def __init__(
        self,
        serial: str = "",
        threads: int = 1,
        precision: str = "fp32",
        *,
        gpu: bool = False,
        phone: Phone | None = None,
        rest_s: float = 300.0,
        rest_step_s: float = 5.0,
    ) -> None:
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        self.phone = phone or Phone(serial)
        self.threads = threads
        self.precision = precision
        self.gpu = gpu
        self.rest_s, self.rest_step_s = rest_s, rest_step_s
        self._clock = FakeClock()
        self._benchmark = self._find_benchmark()
        self._version = self.phone.shell(f"sha256sum {self._benchmark}").split()[0][:12]
        self._about = (self.phone.shell(ABOUT).splitlines() + 5 * [""])[:5]

    @property
    def description(self) -> DeviceDescription:
        model, processor, release, cores, machine = self._about
        hardware = ", ".join(part for part in (model, processor) if part) or "unknown"
        return DeviceDescription(
            backend=f"litert benchmark_model {'GPU' if self.gpu else 'XNNPACK'}",
            # It does not tell its version.
            backend_version=f"sha256 {self._version}",
            hardware=hardware,
            cores=int(cores) if cores.isdecimal() else 1,
            precision=self.precision,
            threads=self.threads,
            system=f"Android {release} {machine}",
        )

    @property
    def place(self) -> str:
        """See :class:`PlacedDevice`."""
        return f"adb {self.phone.serial}"

    @property
    def clock(self) -> Clock:
        return self._clock

    def advance(self, ms: float) -> None:
        """Move the clock by what a run took on the phone."""
        self._clock.advance(ms)

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. A network that computes something else than in torch is refused as well, judged here.

        Raises:
            DeviceError: the calibration inputs are none of this network's.
            DeviceLost: the phone went away.
        """
        inputs = calibration_inputs(example, calibration)

        def opened() -> Runnable:
            content = tflite_bytes(module, example)
            if self.precision == "int8":
                content = quantize_tflite(content, inputs.numpy())
            return AndroidRunnable(self, content)

        return checked(opened, module, example, self.precision)

    def sample_ms(self, path: str, runs: int) -> float:
        """Mean time of so many runs of a network's file on the phone, after warm-up.

        Raises:
            DeviceError: the benchmark fails, hangs or tells no time.
            DeviceLost: the phone went away and did not come back.
        """
        faults, losses = 0, 0
        while True:
            try:
                return self._parsed(self.phone.shell(self._command(path, runs)))
            except DeviceError as error:
                log.warning("%s", error)
                if isinstance(error, DeviceLost) and not isinstance(error, Hung):
                    losses += 1
                    if losses > MOST_LOSSES:
                        raise
                else:
                    faults += 1
                    if faults >= TRIES:
                        raise DeviceError(f"{error}, {TRIES} times") from error
            self.phone.wait()
            # One that hung may still be running.
            with contextlib.suppress(DeviceError):
                self.phone.shell(f"pkill -f graph={path}; true")

    def time(
        self, runnables: Mapping[K, Runnable], inputs: Mapping[K, Array], protocol: MeasureProtocol
    ) -> dict[K, Latency | Unsupported]:
        """See :class:`~netgraft.devices.measure.TimingDevice`."""
        rows = {key: _Row(path=_path(runnable)) for key, runnable in runnables.items()}
        self._rest()
        for row in rows.values():
            first_ms = self._sample(row, runs=1)
            row.samples.repeats = min(MOST_RUNS, max(1, math.ceil(max(SAMPLE_MS, protocol.min_sample_ms) / first_ms)))
        rng, hot_rounds = np.random.default_rng(protocol.seed), 0
        while left := [row for row in rows.values() if not (row.refused or row.samples.done(protocol))]:
            times = [(left[i], self._sample(left[i], left[i].samples.repeats)) for i in rng.permutation(len(left))]
            if self._rest():
                hot_rounds += 1
                if hot_rounds > protocol.most_samples * protocol.samples:
                    raise DeviceLost(f"the phone {self.phone.serial} throttles in every round: cool it, and run again")
                continue
            for row, ms in times:
                if row.refused is None:
                    row.samples.add(ms, ms)
        if hot_rounds:
            log.warning("the phone %s throttled: rounds repeated: %d", self.phone.serial, hot_rounds)
        return {key: row.refused or row.samples.latency(protocol) for key, row in rows.items()}

    def _sample(self, row: _Row, runs: int) -> float:
        """Another sample of a network, in ms; infinite from one that is refused now."""
        try:
            return self.sample_ms(row.path, runs)
        except DeviceLost:
            raise
        except DeviceError as error:
            row.refused = Unsupported(str(error))
            return math.inf

    def _rest(self) -> bool:
        """Let the phone rest until it does not slow itself down; whether it had to.

        Raises:
            DeviceLost: it does not cool down.
        """
        status, until = self.phone.thermal_status(), time.monotonic() + self.rest_s
        hot = status > 0
        while status > 0:
            name = f"{status} ({THERMAL[status]})"
            if time.monotonic() > until:
                raise DeviceLost(
                    f"the phone {self.phone.serial} throttles, thermal status {name}, and did not cool in "
                    f"{self.rest_s:.0f} seconds: let it cool, and run the same command again"
                )
            log.warning("the phone %s throttles, thermal status %s: it rests", self.phone.serial, name)
            time.sleep(self.rest_step_s)
            status = self.phone.thermal_status()
        return hot

    def _command(self, path: str, runs: int) -> str:
        how = "--use_gpu=true --gpu_precision_loss_allowed=false" if self.gpu else "--use_xnnpack=true"
        return (
            f"{self._benchmark} --graph={path} --num_threads={self.threads} {how} --num_runs={runs} --min_secs=0 "
            f"--warmup_runs=1 --warmup_min_secs=0.05"
        )

    def _parsed(self, printed: str) -> float:
        """The mean time in ms that the benchmark printed."""
        found = INFERENCE.search(printed)
        ms = float(found[1]) / 1e3 if found else 0.0
        if not 0 < ms < math.inf:
            lines = printed.strip().splitlines()
            said = f"time {found[1]} us" if found else f"{lines[-1]!r} in the end" if lines else "nothing"
            raise DeviceError(f"the phone {self.phone.serial}: the benchmark tells no time, but {said}")
        if self.gpu and NOT_AT_ALL in printed:
            raise DeviceError(f"the phone {self.phone.serial}: its GPU runs nothing of this network")
        partly = PARTLY.search(printed)
        if self.gpu and partly:
            log.warning("the phone %s: a part falls back to its processor%s", self.phone.serial, partly[1])
        return ms

    def _find_benchmark(self) -> str:
        named = os.environ.get(BENCHMARK_VARIABLE, "")
        if named:
            return self.phone.push(local_file(named))
        if "here" not in self.phone.shell(f"[ -x {BENCHMARK} ] && echo here || echo absent"):
            raise DeviceError(
                f"the phone {self.phone.serial} has no {BENCHMARK}: push LiteRT's benchmark_model for its processor "
                f"there and make it executable, or name your copy in {BENCHMARK_VARIABLE}"
            )
        return BENCHMARK


def _path(runnable: Runnable) -> str:
    if not isinstance(runnable, AndroidRunnable):
        raise DeviceError("this network is another device's: compile it again")
    return runnable.path
