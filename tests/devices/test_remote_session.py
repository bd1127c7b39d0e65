"""A session over SSH by what the other side answers, without another side."""

import numpy as np
import pytest

from netgraft.devices.device import Unsupported
from netgraft.devices.far.frames import Frame
from netgraft.devices.far.remote_session import MOST_LOSSES, Session
from netgraft.devices.far.ssh import Lost
from netgraft.devices.measure import Latency, MeasureProtocol
from netgraft.errors import DeviceError, DeviceLost

X = np.zeros((1, 1, 2, 2), np.float32)
FINE = {"hottest_c": 50.0, "rested_s": 0.0, "throttled": False, "slowest_mhz": 1500.0, "fastest_mhz": 1500.0}
DONE = {"done": FINE}
CUT, DIED = Lost("board: cut", blames=False), Lost("board: died", blames=True)


def samples(number: int, *wall_ms: float, repeats: int = 2) -> dict:
    return {"number": number, "repeats": repeats, "wall_ms": list(wall_ms), "cpu_ms": list(wall_ms)}


class Script:
    """Answers in the order of a script; a loss in it is raised."""

    host = "board"

    def __init__(self, *answers: dict | Exception, running: int | None = None) -> None:
        self.answers = list(answers)
        self.running = running
        self.requests: list[dict] = []
        self.files: list[str] = []

    def network(self, content: bytes) -> dict:
        return {"network": content.decode()}

    def send(self, request: dict, content: bytes = b"") -> None:
        self.requests.append(request)

    def receive(self) -> Frame:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, b""

    def put(self, name: str, files: dict[str, bytes]) -> None:
        assert name in files
        self.files.append(name)

    def reconnect(self) -> str:
        return f"{self.requests[-1]['session']} {self.running}" if self.running is not None else "another 0"


def session(script: Script, networks: int = 1, samples: int = 4) -> list[Latency | Unsupported]:
    contents = [str(i).encode() for i in range(networks)]
    protocol = MeasureProtocol(samples=samples, min_sample_ms=0)
    return Session(script, contents, [X] * networks, protocol).latencies()


def test_samples_of_several_workers_make_one_latency() -> None:
    """The median of 1, 2, 3, 4 and the runs of all of them, at 2 a sample."""
    script = Script({"warm": 0}, samples(0, 1, 2), {"alive": True}, CUT, samples(0, 3, 4), DONE)
    (latency,) = session(script)
    assert isinstance(latency, Latency)
    assert (latency.median_ms, latency.runs) == (2.5, 8)
    first, second = (request["networks"][0] for request in script.requests)
    assert (first["wall_ms"], second["wall_ms"], second["repeats"]) == ([], [1, 2], 2)


def test_only_what_is_not_done_is_asked_of_the_next_worker() -> None:
    script = Script(samples(0, 1, 1, 1, 1), samples(1, 1), CUT, samples(1, 1, 1, 1), DONE)
    session(script, networks=2)
    assert [one["number"] for one in script.requests[1]["networks"]] == [1]


def test_a_file_that_is_missing_is_sent_and_the_request_repeated() -> None:
    name = Session(Script(), [b"0"], [X], MeasureProtocol())._networks[0]["input"]
    script = Script({"missing": name}, samples(0, 1, 1, 1, 1), DONE)
    session(script)
    assert script.files == [name]
    assert script.requests[0] == script.requests[1]


def test_a_network_that_fails_is_a_row() -> None:
    script = Script(samples(1, 1), {"failed": 0, "reason": "out of memory"}, samples(1, 1, 1, 1), DONE)
    refused, latency = session(script, networks=2)
    assert refused == Unsupported("board: out of memory")
    assert isinstance(latency, Latency)


def test_a_network_that_takes_the_worker_down_twice_is_a_row() -> None:
    script = Script(DIED, samples(0, 1), DIED, samples(0, 1, 1, 1), DONE, running=1)
    latency, refused = session(script, networks=2)
    assert isinstance(latency, Latency)
    assert refused == Unsupported("board: died, 2 times while this network ran")


@pytest.mark.parametrize(("lost", "running"), [(CUT, 0), (DIED, None)])
def test_no_network_is_blamed_for_a_cut_or_without_a_note(lost: Lost, running: int | None) -> None:
    script = Script(lost, lost, lost, samples(0, 1, 1, 1, 1), DONE, running=running)
    assert isinstance(session(script)[0], Latency)


def test_losses_without_end_end_the_session() -> None:
    with pytest.raises(DeviceLost, match=r"board: cut, again and again"):
        session(Script(*(MOST_LOSSES + 1) * [CUT]))


def test_a_failure_of_no_network_is_the_devices() -> None:
    with pytest.raises(DeviceError, match=r"board: the runtime is broken"):
        session(Script({"failed": -1, "reason": "the runtime is broken"}))


@pytest.mark.parametrize(
    ("answers", "warning"),
    [
        ([{"resting_c": 84.0}, {"resting_c": 81.0}], "board: it is 84 degrees hot, and rests"),
        ([{"waiting": True}], "board: somebody else measures there: waiting"),
    ],
)
def test_what_keeps_it_waiting_is_told_once(
    answers: list[dict], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    session(Script(*answers, samples(0, 1, 1, 1, 1), DONE))
    assert caplog.messages == [warning]


@pytest.mark.parametrize(
    ("seen", "warning"),
    [
        ({"throttled": True, "hottest_c": 83.0}, "the machine slowed itself down at up to 83 degrees"),
        ({"slowest_mhz": 1300.0}, "its clock went from 1500 down to 1300 MHz"),
    ],
)
def test_what_speaks_against_the_figures_is_told(seen: dict, warning: str, caplog: pytest.LogCaptureFixture) -> None:
    session(Script(samples(0, 1, 1, 1, 1), {"done": {**FINE, **seen}}))
    assert warning in caplog.text


@pytest.mark.parametrize(("late_ms", "told"), [(1.05, False), (1.2, True), (0.85, True)])
def test_a_machine_that_changes_its_speed_is_told_of(
    late_ms: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(samples(0, *10 * [1.0], *10 * [late_ms]), DONE)
    session(script, samples=20)
    assert ("the machine's speed changed by" in caplog.text) == told
