"""Work on several devices: who waits for whom, and what becomes of errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from netgraft.devices import HERE
from netgraft.errors import DeviceError, DeviceLost
from netgraft.stages.turns import Job, do_all


class Recorder:
    """Jobs that note what else was going on when they began."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.seen: dict[str, set[str]] = {}
        self.order: list[str] = []

    def job(self, name: str, place: str, during: Callable[[], object] = lambda: None) -> Job:
        def do() -> None:
            self.running.add(name)
            during()
            self.seen[name] = self.running - {name}
            self.order.append(name)
            self.running.remove(name)

        return Job(device=name, place=place, do=do)


def test_separate_machines_work_at_the_same_time_and_one_machine_in_turn() -> None:
    """Two of three meet at a barrier, which they could not in turn; the third is on the machine of the first."""
    recorder, meet = Recorder(), threading.Barrier(2, timeout=30)
    jobs = [
        recorder.job("a", "one", meet.wait),
        recorder.job("b", "two", meet.wait),
        recorder.job("c", "one", lambda: time.sleep(0.01)),
    ]
    do_all(jobs)
    assert recorder.seen["a"] <= {"b"}
    assert "a" in recorder.seen["b"] or "b" in recorder.seen["a"] or recorder.order
    assert "a" not in recorder.seen["c"]
    assert recorder.order.index("a") < recorder.order.index("c")


def test_this_machine_works_alone_and_first() -> None:
    recorder = Recorder()
    threads = set()
    jobs = [
        recorder.job("far", "one", lambda: time.sleep(0.01)),
        recorder.job("here", HERE, lambda: threads.add(threading.current_thread())),
        recorder.job("farther", "two", lambda: time.sleep(0.01)),
        recorder.job("here too", HERE, lambda: threads.add(threading.current_thread())),
    ]
    do_all(jobs)
    assert recorder.order[:2] == ["here", "here too"]
    assert recorder.seen["here"] == recorder.seen["here too"] == set()
    assert threads == {threading.main_thread()}


def fail(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


def test_an_error_is_raised_when_the_other_places_are_done(caplog: pytest.LogCaptureFixture) -> None:
    """The first in the order of the jobs, with the device's name; the rest of its own place is not begun."""
    recorder = Recorder()
    jobs = [
        recorder.job("a", "one", lambda: time.sleep(0.05)),
        Job(device="b", place="two", do=fail(DeviceLost("gone"))),
        recorder.job("c", "two"),
        Job(device="d", place="three", do=fail(DeviceError("broken"))),
    ]
    with pytest.raises(DeviceLost, match=r"^b: gone$"):
        do_all(jobs)
    assert recorder.order == ["a"]
    assert "d: broken" in caplog.text


def test_a_bug_in_a_thread_surfaces_as_it_is() -> None:
    error = KeyError("ours")
    jobs = [Job(device="a", place="one", do=fail(error)), Job(device="b", place="two", do=lambda: None)]
    with pytest.raises(KeyError) as caught:
        do_all(jobs)
    assert caught.value is error


def test_an_only_device_is_not_named() -> None:
    with pytest.raises(DeviceError, match=r"^broken$"):
        do_all([Job(device="", place=HERE, do=fail(DeviceError("broken")))])
