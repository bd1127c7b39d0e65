"""The timing loop on a clock that only moves when a network runs."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from netgraft.devices.device import Array, Unsupported
from netgraft.devices.fake import FakeClock, FakeDevice
from netgraft.devices.measure import MeasureProtocol, drift_percent, measure, measure_modules
from netgraft.errors import DeviceError

X = np.zeros((1, 1, 1, 1), np.float32)
WARM_UP_RUNS = 4  # One that sets the best, and three that do not beat it.


class Scripted:
    """Costs what the script says, run by run, and writes its name into a log."""

    def __init__(
        self,
        clock: FakeClock,
        wall_ms: Iterable[float],
        *,
        cpu_share: Iterable[float] = (),
        name: str = "",
        log: list[str] | None = None,
    ) -> None:
        self.clock = clock
        self.wall_ms: Iterator[float] = iter(wall_ms)
        self.cpu_share = iter(cpu_share)
        self.name = name
        self.log = [] if log is None else log

    def run(self, x: Array) -> Array:
        wall_ms = next(self.wall_ms)
        self.clock.advance(wall_ms, wall_ms * next(self.cpu_share, 1.0))
        self.log.append(self.name)
        return x

    def close(self) -> None:
        self.log.append(f"closed {self.name}")


def always(ms: float) -> Iterator[float]:
    while True:
        yield ms


def single(runs: Iterable[float], protocol: MeasureProtocol, cpu_share: Iterable[float] = ()):  # type: ignore[no-untyped-def]
    clock = FakeClock()
    return measure({"net": Scripted(clock, runs, cpu_share=cpu_share)}, {"net": X}, protocol, clock)["net"]


def test_median_and_quartiles_are_those_of_the_samples() -> None:
    """Of 40, 10, 30, 20 ms: median 25, quartiles 17.5 and 32.5 by linear interpolation."""
    latency = single([10.0] * WARM_UP_RUNS + [40, 10, 30, 20], MeasureProtocol(samples=4, min_sample_ms=0))
    assert latency.median_ms == pytest.approx(25)
    assert (latency.q25_ms, latency.q75_ms) == (pytest.approx(17.5), pytest.approx(32.5))
    assert latency.runs == 4


def test_a_short_network_is_repeated_inside_a_sample() -> None:
    """At 0.5 ms a run, 2 ms need 4 runs; a sample is their mean: (1+2+3+4)/4 and (2+2+2+4)/4."""
    latency = single([0.5] * WARM_UP_RUNS + [1, 2, 3, 4, 2, 2, 2, 4], MeasureProtocol(samples=2, min_sample_ms=2))
    assert latency.median_ms == pytest.approx(2.5)
    assert (latency.q25_ms, latency.q75_ms) == (pytest.approx(2.5), pytest.approx(2.5))
    assert latency.runs == 8


def test_warm_up_lasts_while_times_fall_and_does_not_count() -> None:
    """80, 40, 20, 10 fall; three more without a new best end the warm-up, whatever slows them down."""
    latency = single([80, 40, 20, 10, 10, 35, 9.9, 7, 7], MeasureProtocol(samples=2, min_sample_ms=0))
    assert latency.median_ms == pytest.approx(7)


def test_warm_up_that_never_settles_is_cut_short() -> None:
    """Each run halves the time: 256 + 128 + 64 ms are over the limit of 400 ms, so the next is a sample."""
    protocol = MeasureProtocol(samples=1, warmup_max_seconds=0.4, min_sample_ms=0)
    assert single([256, 128, 64, 32, 16], protocol).median_ms == pytest.approx(32)


def test_sampling_goes_on_until_it_has_lasted_long_enough() -> None:
    protocol = MeasureProtocol(samples=2, min_sample_ms=0, min_seconds=0.095)
    assert single(always(10), protocol).runs == 10


def test_a_sample_that_waited_for_a_processor_is_repeated_and_left_out() -> None:
    """Of 20, 20, 80, 60 ms the last two spent 20 and 24 ms on a processor: two more of 30 ms make four."""
    latency = single(
        [10.0] * WARM_UP_RUNS + [20, 20, 80, 60, 30, 30],
        MeasureProtocol(samples=4, min_sample_ms=0),
        cpu_share=[1] * WARM_UP_RUNS + [1, 1, 0.25, 0.4, 1, 1],
    )
    assert latency.median_ms == pytest.approx(25)
    assert latency.cpu_median_ms == pytest.approx(25)
    assert latency.runs == 4
    assert latency.contended == pytest.approx(1 / 3)


def test_where_too_many_samples_waited_all_of_them_count() -> None:
    """Three times two samples, five of which waited: walls of 10 to 60 ms, median 35."""
    latency = single(
        [10.0] * WARM_UP_RUNS + [10, 20, 30, 40, 50, 60],
        MeasureProtocol(samples=2, min_sample_ms=0),
        cpu_share=[1] * WARM_UP_RUNS + [1, 0.5, 0.5, 0.5, 0.5, 0.5],
    )
    assert latency.median_ms == pytest.approx(35)
    assert latency.runs == 6
    assert latency.contended == pytest.approx(5 / 6)


def test_sampling_cannot_end_before_it_is_done() -> None:
    with pytest.raises(DeviceError, match="most_samples"):
        MeasureProtocol(samples=4, most_samples=0.5)


def order_of(seed: int, rounds: int) -> list[tuple[str, ...]]:
    clock, log = FakeClock(), []
    nets = {name: Scripted(clock, always(1), name=name, log=log) for name in "abc"}
    protocol = MeasureProtocol(samples=rounds, min_sample_ms=0, seed=seed)
    measure(nets, dict.fromkeys(nets, X), protocol, clock)
    timed = log[3 * WARM_UP_RUNS :]
    return [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]


def test_every_round_runs_each_network_once_in_an_order_that_changes() -> None:
    rounds = order_of(seed=0, rounds=20)
    assert len(rounds) == 20
    assert {tuple(sorted(turn)) for turn in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) > 3


def test_the_order_follows_from_the_seed() -> None:
    assert order_of(seed=1, rounds=8) == order_of(seed=1, rounds=8)
    assert order_of(seed=1, rounds=8) != order_of(seed=2, rounds=8)


def test_a_machine_that_slows_down_slows_what_is_compared_alike() -> None:
    """From 0.12 s on everything takes three times as long: the ratio of the medians stays 1 to 2."""
    clock = FakeClock()

    def slowing(ms: float) -> Iterator[float]:
        while True:
            yield ms if clock.wall() < 0.12 else 3 * ms

    nets = {"fast": Scripted(clock, slowing(1)), "slow": Scripted(clock, slowing(2))}
    latency = measure(nets, dict.fromkeys(nets, X), MeasureProtocol(samples=100, min_sample_ms=0), clock)
    assert latency["fast"].q25_ms == pytest.approx(1)
    assert latency["fast"].median_ms == pytest.approx(3)
    assert latency["slow"].median_ms == pytest.approx(6)


def test_a_network_that_fails_is_named() -> None:
    class Failing(Scripted):
        def run(self, x: Array) -> Array:
            raise DeviceError("out of memory")

    clock = FakeClock()
    with pytest.raises(DeviceError, match=r"while timing net: out of memory"):
        measure({"net": Failing(clock, [])}, {"net": X}, MeasureProtocol(), clock)


def test_a_clock_that_stands_still_ends_the_session() -> None:
    with pytest.raises(DeviceError, match=r"takes no time"):
        single(always(0), MeasureProtocol(samples=2, min_seconds=1))


def test_no_samples_cannot_be_asked_for() -> None:
    with pytest.raises(DeviceError, match=r"0 samples"):
        MeasureProtocol(samples=0)


def test_a_refused_module_becomes_a_row_and_the_others_are_timed() -> None:
    """1x1 convolutions 2 to 4 channels at 10x10 pixels: 800 multiply-accumulates, at 10^7 ms/GMAC 8 ms."""
    x = torch.zeros(1, 2, 10, 10)
    modules = {("a", 1): (nn.Conv2d(2, 4, 1), x), ("b", 2): (nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU()), x)}
    device, compiled = FakeDevice(ms_per_gmac=1e7, refuses=("ReLU",)), []
    rows = measure_modules(device, modules, MeasureProtocol(samples=3), compiled.append)
    assert list(rows) == compiled == [("a", 1), ("b", 2)]
    assert rows["a", 1].median_ms == pytest.approx(8)  # type: ignore[union-attr]
    assert rows["b", 2] == Unsupported("the fake device refuses ReLU")


def test_an_estimate_is_taken_as_it_is_and_nothing_runs() -> None:
    """Beside a network that is timed: 7 ms to the last digit, and not one line of a run in the log."""

    class Estimate(Scripted):
        latency_ms = 7.0

    clock, log = FakeClock(), list[str]()
    session = {
        "estimated": Estimate(clock, always(1.0), name="estimated", log=log),
        "timed": Scripted(clock, always(3.0), name="timed", log=log),
    }
    found = measure(session, dict.fromkeys(session, X), MeasureProtocol(samples=4, min_sample_ms=0), clock)
    assert list(found) == ["estimated", "timed"]
    for value in ("median_ms", "q25_ms", "q75_ms", "cpu_median_ms"):
        assert getattr(found["estimated"], value) == 7.0
    assert (found["estimated"].runs, found["estimated"].contended) == (1, 0.0)
    assert found["timed"].median_ms == pytest.approx(3.0)
    assert set(log) == {"timed"}


def test_drift_is_told_against_the_middle_session() -> None:
    """4, 5 and 6 ms: a fifth faster and a fifth slower than the middle one."""
    assert drift_percent({"a": 5.0, "b": 4.0, "c": 6.0}) == pytest.approx({"a": 0.0, "b": -20.0, "c": 20.0})
    assert drift_percent({}) == {}
